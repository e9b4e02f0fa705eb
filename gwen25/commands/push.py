"""`gwen25 push REF HUB_ID`: an adapter, a merged model or a GGUF of the store to the Hugging Face Hub, with a model card.

Opt-in, and nothing else of gwen25 sends anything. The token is HF_TOKEN of the environment; it stands in no line. `--dry-run` prints
the card, or writes all that would be sent into a folder, and asks no hub.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
from pathlib import Path

from gwen25.artifacts import Store
from gwen25.commands import outputs
from gwen25.commands.common import say, warn
from gwen25.errors import BadInput
from gwen25.hub.clean import require_clean
from gwen25.hub.send import CARD, Parcel, pack, send
from gwen25.hub.story import tell


def run(arguments: argparse.Namespace) -> int:
    if not re.fullmatch(r"[\w.-]+/[\w.-]{1,96}", arguments.hub_id):
        raise BadInput(f"{arguments.hub_id!r} is no place on the hub; owner/name is expected")
    store = Store.default()
    artifact = store.resolve(arguments.ref)
    story = tell(store, artifact)
    parcel = pack(story, artifact.payload, arguments.hub_id)
    require_clean(parcel.files)
    for name, keys in parcel.taken_out.items():
        warn(f"{name}: {', '.join(sorted(set(keys)))} named a path of this machine, which is not sent")
    if not story.reports:
        warn("nobody has evaluated this model, and the card says so; `gwen25 evaluate` on its merge measures it")
    if arguments.dry_run is not None:
        return _dry(parcel, arguments.dry_run, arguments.force)
    token = os.environ.get("HF_TOKEN", "").strip()
    if not token:
        raise BadInput("HF_TOKEN is not set: a token of the hub that may write; --dry-run shows what would be sent without one")
    store.verify(artifact.path)  # every byte: what is published is what was made
    say(f"sending {len(parcel.files)} files, {parcel.bytes / 1e6:.1f} MB, to {parcel.hub_id}")
    print(f"pushed  {send(parcel, token, private=arguments.private)}")
    return 0


def _dry(parcel: Parcel, where: str, force: bool) -> int:
    """The card on stdout, or the folder as it would be on the hub."""
    if where == "-":
        print(parcel.files[CARD], end="")
        return 0
    outputs.room(Path(where), parcel.bytes)
    with outputs.folder(Path(where), force=force, mark=CARD) as part:
        for name, file in parcel.files.items():
            if isinstance(file, str):
                (part / name).write_text(file, encoding="utf-8")
            else:
                shutil.copyfile(file, part / name)
    print(f"written to {where}: {len(parcel.files)} files, {parcel.bytes / 1e6:.1f} MB; nothing was sent")
    return 0
