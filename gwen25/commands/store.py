"""`gwen25 list | show | lineage | verify | gc`: the store, for people and (`--json`) for programs."""

from __future__ import annotations

import argparse
import json
from typing import Any

from gwen25.artifacts import Manifest, Store
from gwen25.errors import DamagedArtifact


def list_(arguments: argparse.Namespace) -> int:
    store = Store.default()
    rows = [_row(store, manifest) for manifest in store.manifests()]
    if arguments.json:
        print(json.dumps(rows, indent=1))
    for row in [] if arguments.json else rows:
        print(
            f"{row['stage']}:{row['key'][:8]}  {row['made']}  {seconds(row['seconds']):>8} s  {row['size'] / 1e6:10.2f} MB  {row['path']}"
        )
    return 0


def seconds(value: float | None) -> str:
    """Wall seconds of the attempt that made an artifact; unknown where a death came between its end and its record."""
    return "?" if value is None else f"{value:.1f}"


def _row(store: Store, manifest: Manifest) -> dict[str, Any]:
    return {
        "stage": manifest.stage,
        "key": manifest.key,
        "digest": manifest.digest,
        "path": str(store.folder(manifest.stage, manifest.key)),
        "made": manifest.made,
        "seconds": manifest.provenance["seconds"],
        "size": sum(record.size for record in manifest.files.values()),
    }


def show(arguments: argparse.Namespace) -> int:
    manifest = Manifest.read(Store.default().resolve(arguments.ref).path)
    if arguments.json:
        print(manifest.model_dump_json(indent=1))
        return 0
    print(f"{manifest.stage}:{manifest.key}\ndigest {manifest.digest}\nmade   {manifest.made} in {manifest.provenance['seconds']} s")
    for title, values in (
        ("config", manifest.config),
        ("outside", manifest.externals),
        ("facts", manifest.facts),
        ("metrics", manifest.metrics),
    ):
        print(f"\n{title}")
        for name, value in values.items():
            print(f"  {name:32} {json.dumps(value, ensure_ascii=False)}")
    return 0


def lineage(arguments: argparse.Namespace) -> int:
    """The artifact and all it was made from, nearest first."""
    store = Store.default()
    queue = [Manifest.read(store.resolve(arguments.ref).path)]
    rows: list[dict[str, Any]] = []
    while queue:
        manifest = queue.pop(0)
        if manifest.key in {row["key"] for row in rows}:
            continue
        rows.append(_row(store, manifest) | {"inputs": manifest.inputs})
        queue += [
            Manifest.read(store.folder(i["stage"], i["key"]))
            for i in manifest.inputs.values()
            if store.folder(i["stage"], i["key"]).exists()
        ]
    if arguments.json:
        print(json.dumps(rows, indent=1))
    for row in [] if arguments.json else rows:
        made_from = ", ".join(f"{i['stage']}:{i['key'][:8]}" for i in row["inputs"].values())
        print(f"{row['stage']}:{row['key'][:8]}" + (f"  <- {made_from}" if made_from else ""))
    return 0


def verify(arguments: argparse.Namespace) -> int:
    """Read every byte of one artifact or of all."""
    store = Store.default()
    folders = (
        [store.resolve(arguments.ref).path]
        if arguments.ref
        else sorted(path.parent for path in store.root.glob("*/*/manifest.json") if path.parent.parent.name != "attic")
    )
    rows: list[dict[str, Any]] = []
    for folder in folders:
        try:
            store.verify(folder)
            rows.append({"path": str(folder), "intact": True})
        except DamagedArtifact as damage:
            rows.append({"path": str(folder), "intact": False, "why": str(damage)})
    if arguments.json:
        print(json.dumps(rows, indent=1))
    for row in [] if arguments.json else rows:
        print(f"{'intact ' if row['intact'] else 'DAMAGED'}  {row.get('why', row['path'])}")
    return 0 if all(row["intact"] for row in rows) else 1


def gc(arguments: argparse.Namespace) -> int:
    folders, size = Store.default().gc()
    print(f"removed {folders} folders, {size / 1e6:.1f} MB: set-aside artifacts and abandoned work")
    return 0
