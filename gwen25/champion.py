"""The champion: the merged model that stands behind the name, and those that stood there before.

    promote(store, artifact, "better than merge:3f2a ...")     the name moves
    rollback(store)                                            back to the one before
    current(store)                                             the Artifact, or None

In the store's aliases.json "champion" is the newest entry, "champion@1" the one before it, and so on, so that each is a reference
(`gwen25 show champion@1`). An entry is pinned by digest and says since when and why. A rollback is an entry too: nothing is
forgotten, and a model that was rolled back is known as such (`rejected`), which keeps a retraining from promoting it again.
Written whole or not at all, by one process at a time. Not here: which model is better (`benchmarks.comparison`).
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from gwen25.artifacts import Artifact, Manifest, Store, check
from gwen25.errors import BadInput
from gwen25.job import write_json

NAME: Final = "champion"
STAGE: Final = "merge"  # every other form of the model is made from this one

Entry = dict[str, str]  # stage, key, digest, since, why, by ("promote" or "rollback")


def current(store: Store) -> Artifact | None:
    """The champion, or None where none was named yet. Raises BadInput where it is gone, or was made again with other bytes."""
    entry = store.aliases().get(NAME)
    return None if entry is None else _artifact(store, entry)


def history(store: Store) -> list[Entry]:
    """Every entry, newest first."""
    aliases, found = store.aliases(), list[Entry]()
    while (entry := aliases.get(_name(len(found)))) is not None:
        found.append(entry)
    return found


def rejected(store: Store) -> set[str]:
    """Digests of the models that were rolled back and not promoted since."""
    return _replayed(history(store))[1]


def promote(store: Store, artifact: Artifact, why: str) -> bool:
    """Name a merged model the champion; False where it is already. Raises BadInput for any other stage, DamagedArtifact."""
    if artifact.stage != STAGE:
        raise BadInput(f"{label(artifact)} is of the stage {artifact.stage}; a champion is a merged model, such as {STAGE}:3f2a")
    check(artifact.path, Manifest.read(artifact.path), thorough=False)
    with _writing(store) as entries:
        if entries and (entries[0]["key"], entries[0]["digest"]) == (artifact.key, artifact.digest):
            return False
        entries.insert(0, _entry({"stage": artifact.stage, "key": artifact.key, "digest": artifact.digest}, why, "promote"))
    return True


def rollback(store: Store, why: str = "by hand") -> tuple[Artifact, str]:
    """Back to the champion before; it, and which was rolled back. Raises BadInput where there was none, or it is gone."""
    with _writing(store) as entries:
        standing, _ = _replayed(entries)
        if len(standing) < 2:
            stands = f"none before {_label(standing[-1])}" if standing else "no champion at all"
            raise BadInput(f"nothing to go back to: there was {stands}; `gwen25 promote REF` names one")
        before, last = standing[-2], standing[-1]
        artifact = _artifact(store, before)
        entries.insert(0, _entry(before, f"{_label(last)} was rolled back: {why}", "rollback"))
    return artifact, _label(last)


def label(artifact: Artifact) -> str:
    """The reference of an artifact as people read it."""
    return f"{artifact.stage}:{artifact.key[:8]}"


def _label(entry: Entry) -> str:
    return f"{entry['stage']}:{entry['key'][:8]}"


def _name(number: int) -> str:
    return f"{NAME}@{number}" if number else NAME


def _entry(of: Entry, why: str, by: str) -> Entry:
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {"stage": of["stage"], "key": of["key"], "digest": of["digest"], "since": since, "why": why, "by": by}


def _replayed(entries: Sequence[Entry]) -> tuple[list[Entry], set[str]]:
    """The champions that still stand, the present one last, and the digests of those rolled back."""
    standing, rolled_back = list[Entry](), set[str]()
    for entry in reversed(entries):
        if entry.get("by") == "rollback" and standing:
            rolled_back.add(standing.pop()["digest"])
        else:
            standing.append(entry)
            rolled_back.discard(entry["digest"])
    return standing, rolled_back


def _artifact(store: Store, entry: Entry) -> Artifact:
    """What an entry stands for, if it is what it was."""
    what_next = "`gwen25 promote REF` names another champion, `gwen25 rollback` the one before"
    try:
        found = store.resolve(f"{entry['stage']}:{entry['key']}")
    except BadInput as error:
        raise BadInput(f"{_label(entry)} was named champion and is no longer in the store; {what_next}") from error
    if found.digest != entry["digest"]:
        raise BadInput(f"{_label(entry)} was made again since it became champion, with other bytes; {what_next}")
    return found


@contextmanager
def _writing(store: Store) -> Iterator[list[Entry]]:
    """The entries, newest first, to be changed in place; written where they were."""
    with (store.root / "aliases.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = history(store)
        entries = list(before)
        yield entries
        if entries != before:
            others = {name: entry for name, entry in store.aliases().items() if name not in {_name(at) for at in range(len(before))}}
            write_json(store.root / "aliases.json", others | {_name(at): entry for at, entry in enumerate(entries)})
