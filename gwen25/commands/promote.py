"""`gwen25 promote REF | rollback`: the champion by hand. Without REF, `promote` lists who was champion since when, and why."""

from __future__ import annotations

import argparse

from gwen25 import champion
from gwen25.artifacts import Store


def promote(arguments: argparse.Namespace) -> int:
    """Name a merged model the champion, or show who was."""
    store = Store.default()
    if arguments.ref is None:
        return _history(store)
    artifact = store.resolve(arguments.ref)
    moved = champion.promote(store, artifact, arguments.why)
    print(f"{champion.label(artifact)} is the champion" + ("" if moved else " already"))
    return 0


def rollback(arguments: argparse.Namespace) -> int:
    """Back to the champion before this one."""
    artifact, left = champion.rollback(Store.default(), arguments.why)
    print(f"{champion.label(artifact)} is the champion again; {left} was rolled back, and no retraining promotes it by itself")
    return 0


def _history(store: Store) -> int:
    entries = champion.history(store)
    if not entries:
        print("no champion yet; `gwen25 promote REF` names one")
    for entry in entries:
        print(f"{entry['stage']}:{entry['key'][:8]}  {entry.get('since', '?'):20}  {entry.get('why', '?')}")
    return 0
