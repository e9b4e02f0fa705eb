"""`gwen25 dataset | sft | grpo | adapters | merge | gguf | score | ollama`: one node, its inputs from the store; without Prefect."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from gwen25 import chat, preflight, resolve, show_rows, stage
from gwen25.artifacts import Artifact, Store
from gwen25.commands.common import configuration, say, show_artifact, warn
from gwen25.config import Config
from gwen25.errors import BadInput


def run(arguments: argparse.Namespace) -> int:
    """Make the node, or find it."""
    make(arguments.command, configuration(arguments), refresh=arguments.refresh)
    return 0


def make(name: str, config: Config, *, refresh: bool) -> Artifact:
    """One stage of this config's flow. Raises BadInput where the store lacks what it stands on."""
    preflight.check(config, {name})
    store = Store.default()
    plan = stage.plan_stage(name, config, inputs(name, config, store), warn)
    artifact, cached = stage.obtain(plan, store, say, refresh=refresh)
    show_artifact(artifact, cached)
    return artifact


def inputs(name: str, config: Config, store: Store) -> dict[str, Artifact]:
    """What a stage of this config's flow takes, by role, from the store."""
    found: dict[str, Artifact] = {}
    for role, upstream in stage.STAGES[name].inputs.items():
        plan = stage.plan_stage(upstream, config, inputs(upstream, config, store), warn)
        if (hit := stage.find(plan, store, warn)) is None:
            raise BadInput(
                f"{name} needs {upstream}, which the store does not hold for this config; "
                f"`gwen25 {upstream}` with the same options makes it"
            )
        found[role] = hit
    return found


def dataset(arguments: argparse.Namespace) -> int:
    """The node; or a look at a file of the user's, line by line; or at rows as tokens."""
    config = configuration(arguments)
    if arguments.check is not None:
        return _check(arguments.check, config)
    if arguments.show is not None and arguments.show < 1:
        raise BadInput(f"--show {arguments.show}: a number of rows is expected, 1 or more")
    made = make("dataset", config, refresh=arguments.refresh)
    if arguments.show is not None:
        from gwen25.pipelines.dataset import load_tokenizer

        train, format = made.payload / "train.jsonl", chat.FORMATS[config.chat_format]
        print(f"target {config.dataset.target} (dataset.target)")
        for line in show_rows.lines(train, load_tokenizer(_tokenizer_file(config)), format, arguments.show):
            print(line)
    return 0


def _check(file: Path, config: Config) -> int:
    """Each row that would be dropped, and why; status 2 where none would be kept, or a line is no row and would stop the node."""
    from gwen25.pipelines.dataset import MALFORMED, REASONS, check_file

    reasons: Counter[str] = Counter()
    for where, reason, detail in check_file(file, config.dataset, _tokenizer_file(config), config.runtime.sandbox_workers):
        reasons[reason or "kept"] += 1
        if reason is not None:
            print(f"{where}: {reason}{f': {detail}' if detail else ''}")
    if MALFORMED in reasons:
        print(f"{MALFORMED}: the node stops at the first such line; mend or remove them")
    for reason, help in REASONS.items():
        if reason in reasons:
            print(f"{reason}: {help}")
    section = config.dataset
    print(
        f"checked with the tokenizer of {config.base_model}, rows of at most {section.max_length} tokens (dataset.max_length), "
        f"target {section.target} (dataset.target), "
        f"programs {'run' if section.verify_solutions else 'not run'} on their statements' examples; another --profile may keep others"
    )
    print(", ".join(f"{count} {reason}" for reason, count in reasons.most_common()))
    return 0 if reasons["kept"] and MALFORMED not in reasons else 2


def _tokenizer_file(config: Config) -> Path:
    external, folder = resolve.base_model(config, warn)
    if folder is None:
        return resolve.hub_file(config.base_model, "tokenizer.json", external["revision"])
    return Path(folder) / "tokenizer.json"
