"""What commands share: the config that the options mean, and lines for a terminal."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import Any

from gwen25 import config
from gwen25.artifacts import Artifact
from gwen25.config import Config, load_config


def overrides(arguments: argparse.Namespace) -> dict[str, Any]:
    """`--config FILE` and `--set` as one mapping of dotted names: what the flow takes as its `overrides`."""
    flat: dict[str, Any] = {}
    if arguments.config is not None:
        flat |= config.flatten(config.read_yaml(arguments.config)) | config.auto_hparams()
    return flat | dict(config.parse_override(text) for text in arguments.set)


def configuration(arguments: argparse.Namespace, more: Mapping[str, Any] | None = None) -> Config:
    """The config of a command; `more` are its own options, by dotted name."""
    return load_config(arguments.profile, arguments.recipe, overrides={**overrides(arguments), **(more or {})})


def show_artifact(artifact: Artifact, cached: bool) -> None:
    print(f"{'Cached' if cached else 'made'}  {artifact.stage}:{artifact.key[:8]}  {artifact.path}")


def say(line: str) -> None:
    print(line, flush=True)


def warn(line: str) -> None:
    print(f"warning: {line}", file=sys.stderr, flush=True)
