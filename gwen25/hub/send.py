"""Sending to the Hugging Face Hub: a repository, the large files, and then one commit of everything, by huggingface_hub's public API.

    parcel = pack(story, "me/my-model")         what would be sent: the payload's files, the card, a GGUF's Modelfile
    send(parcel, token, private=True)            the commit's address

The files go up before the commit, and the commit is one request: a reader of the repository sees all of it or none. Who breaks off
before it has changed nothing but for an empty repository where there was none, and the same push goes on (what is there already is
not sent again). Not here: words (`card`), and what must not be told (`clean`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gwen25 import models
from gwen25.errors import BadInput, Unavailable
from gwen25.hub.card import card
from gwen25.hub.clean import cleaned
from gwen25.hub.story import Story
from gwen25.job import Redactor

if TYPE_CHECKING:
    from huggingface_hub import HfApi

CARD: Final = "README.md"
_OWN: Final = (".gitattributes", "LICENSE")  # files of a repository that no push minds


@dataclass(frozen=True, slots=True)
class Parcel:
    """What is sent where: name in the repository -> a file here, or the text itself. `taken_out`: file -> keys that named a path."""

    hub_id: str
    message: str
    files: dict[str, Path | str]
    taken_out: dict[str, list[str]]

    @property
    def bytes(self) -> int:
        return sum(len(one.encode()) if isinstance(one, str) else one.stat().st_size for one in self.files.values())


def pack(story: Story, payload: Path, hub_id: str) -> Parcel:
    """The artifact's files, with the card in the place of the one that it brings, and the Modelfile where there is a package."""
    files: dict[str, Path | str] = {str(file.relative_to(payload)): file for file in sorted(payload.rglob("*")) if file.is_file()}
    taken_out = {}
    for name in list(files):
        text, keys = cleaned(payload / name, models.name_of(story.facts["base_model"]))
        if text is not None:
            files[name], taken_out[name] = text, keys
    if story.package is not None:
        files["Modelfile"] = story.package.payload / "Modelfile"
    files[CARD] = card(story, hub_id)
    return Parcel(hub_id, f"{story.manifest.stage}:{story.manifest.key[:8]} by gwen25", files, taken_out)


def send(parcel: Parcel, token: str, *, private: bool) -> str:
    """Returns the commit's address. Raises BadInput for what the hub refuses, Unavailable where it is away or breaks off."""
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token)
    told = _open(api, parcel.hub_id, private)
    with _clear_errors(parcel.hub_id, told):
        head = _require_room(api, parcel, private)
        operations = [
            CommitOperationAdd(name, file.encode() if isinstance(file, str) else str(file)) for name, file in sorted(parcel.files.items())
        ]
        api.preupload_lfs_files(parcel.hub_id, operations, free_memory=False)  # else the card, too, would be emptied where it is large
    with _clear_errors(
        parcel.hub_id, f"whether the commit was made is not known: look at {api.endpoint}/{parcel.hub_id}, and push again", told
    ):
        return str(api.create_commit(parcel.hub_id, operations, commit_message=parcel.message, parent_commit=head).commit_url)


def _open(api: HfApi, hub_id: str, private: bool) -> str:
    """Make the repository where there is none. Returns how things stand until the commit."""
    as_it_was = f"{hub_id} is as it was"
    with _clear_errors(hub_id, as_it_was):
        api.whoami()
        there = api.repo_exists(hub_id)
    unknown = as_it_was if there else f"whether {hub_id} was made is not known; no file was sent, and the same push goes on"
    with _clear_errors(hub_id, unknown, as_it_was if there else f"{hub_id} was not made"):
        api.create_repo(hub_id, private=private or None, exist_ok=True)
    return as_it_was if there else f"{hub_id} was made by this push and holds no files of it yet; the same push goes on"


def _require_room(api: HfApi, parcel: Parcel, private: bool) -> str | None:
    """The repository's head. Raises BadInput where strangers would see what shall be private (what exists keeps its visibility when it
    is made again), and where files of another model would lie beside ours: loaders would take either."""
    info = api.model_info(parcel.hub_id)
    if private and info.private is not True:
        raise BadInput(
            f"{parcel.hub_id} is public, and --private does not change what exists: nothing was sent; make it private in its settings on "
            "the hub, or push to another repository"
        )
    there = {one.rfilename for one in info.siblings or []}
    packs = any(name.endswith(".gguf") for name in parcel.files)  # several GGUFs share a repository
    strange = sorted(name for name in there - parcel.files.keys() if not name.startswith(_OWN) and not (packs and name.endswith(".gguf")))
    if strange:
        raise BadInput(
            f"{parcel.hub_id} holds {len(strange)} files that would lie beside this model's, such as {strange[0]}: push to another "
            "repository, or delete them there"
        )
    return info.sha


@contextmanager
def _clear_errors(hub_id: str, broken: str, refused: str | None = None) -> Iterator[None]:
    """One line for whatever the hub's client raises: it has roots of its own, httpx's, and wraps a failed upload in others.

    `broken` says how things stand where no answer came, `refused` where the hub answered with an error.
    """
    try:
        yield
    except (BadInput, Unavailable):
        raise
    except Exception as error:
        response = next((one.response for one in _causes(error) if getattr(one, "response", None) is not None), None)
        words = Redactor()(" ".join(str(next(_causes(error))).split())[:300])
        if response is None:
            kind = BadInput if _is_bad_name(error) else Unavailable
            raise kind(f"the hub did not take {hub_id} ({type(error).__name__}: {words}); {broken}") from error
        status = int(response.status_code)
        why = _WHY.get(status, "")
        kind = BadInput if 400 <= status < 500 and status not in (408, 409, 412, 429) else Unavailable
        raise kind(f"the hub refused {hub_id} with {status}{why}: {words}; {refused or broken}") from error


_WHY: Final[Mapping[int, str]] = {
    401: " (HF_TOKEN is not one that it knows; make one that may write at its settings/tokens)",
    403: " (HF_TOKEN may not write there: it needs write access to that owner's repositories)",
    409: " (somebody else is changing it; push again)",
    412: " (somebody else has changed it meanwhile; push again)",
}


def _causes(error: BaseException) -> Iterator[Any]:
    """The innermost first: what really happened."""
    if error.__cause__ is not None:
        yield from _causes(error.__cause__)
    yield error


def _is_bad_name(error: BaseException) -> bool:
    from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled

    broken = isinstance(error, json.JSONDecodeError)  # a ValueError too, of an answer that is none
    return isinstance(error, (HFValidationError, OfflineModeIsEnabled, ValueError)) and not broken
