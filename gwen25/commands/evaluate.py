"""`gwen25 evaluate [MODEL]`: this config's merged model, or any other form of a model, on a benchmark."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from gwen25 import given, preflight, stage
from gwen25.artifacts import Artifact, Store
from gwen25.commands import node
from gwen25.commands.common import configuration, say, show_artifact, warn
from gwen25.config import Config
from gwen25.errors import BadInput
from gwen25.given import Given

OPTIONS = ("problems", "backend", "base_url", "served_model", "prompt", "n", "temperature", "max_tokens", "max_problems")


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, print the report, copy it to `--out`."""
    if arguments.base_url is not None and arguments.backend is None:
        arguments.backend = "openai"
    chosen = {f"evaluate.{name}": value for name in OPTIONS if (value := getattr(arguments, name)) is not None}
    config = configuration(arguments, {**chosen, "evaluate.baseline": False})
    store = Store.default()
    model = _model(arguments.model, config, store)
    preflight.check(model.checked, {"evaluate"})
    if arguments.out is not None:
        _make_folder(arguments.out)
    inputs = {"model": model.artifact} if model.artifact is not None else {}
    plan = stage.plan_stage("evaluate", config, inputs, warn, model.outside)
    artifact, cached = stage.obtain(plan, store, say, refresh=arguments.refresh)
    show_artifact(artifact, cached)
    print((artifact.payload / "report.md").read_text(encoding="utf-8"))
    if arguments.out is not None:
        _copy_out(artifact, arguments.out)
    return 0


def _model(reference: str | None, config: Config, store: Store) -> Given:
    """MODEL as an input artifact (a merge in the store) or as something from outside (directory, hub id, served model)."""
    if reference is None and config.evaluate.backend == "openai":
        return given.served(config)
    if reference is None:
        return Given(config, config, _merged(config, store))
    artifact = given.stored(reference, store)
    if artifact is not None and artifact.stage != "merge":
        raise BadInput(f"{reference} is of the stage {artifact.stage}; evaluate takes a merge, a directory or a hub id")
    return given.take(reference, artifact, config, warn)


def _merged(config: Config, store: Store) -> Artifact:
    try:
        return node.inputs("evaluate", config, store)["model"]
    except BadInput as error:
        raise BadInput(
            f"no merged model for this config: name a MODEL (a merge such as merge:3f2a, a directory, a hub id), or make one ({error})"
        ) from error


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"cannot write to {out}: {error.strerror}") from error


def _copy_out(artifact: Artifact, out: Path) -> None:
    """Copy a payload to a folder of the user's, file by file, each whole or not at all."""
    try:
        for file in sorted(path for path in artifact.payload.rglob("*") if path.is_file()):
            target = out / file.relative_to(artifact.payload)
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_name(f".{target.name}.part")
            shutil.copyfile(file, part)
            part.replace(target)
    except OSError as error:
        raise BadInput(f"cannot write to {out}: {error.strerror}; the report is in {artifact.payload}") from error
    print(f"written to {out}")
