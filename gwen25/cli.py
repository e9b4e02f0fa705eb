"""gwen25: the command line.

    gwen25 run --profile smoke             the whole flow
    gwen25 sft --profile smoke             one node, from what the store holds, without Prefect
    gwen25 evaluate MODEL --problems FILE --out DIR

Exit status: 0 done, 1 the work failed, 2 bad input (one line, no traceback). `--help` imports nothing but argparse; each
command imports what it needs.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gwen25.config import Config

NODES = {
    "dataset": "OpenCodeReasoning, a file of yours or the samples -> rows for training",
    "sft": "rows -> LoRA adapter, by supervised fine-tuning",
    "grpo": "adapter -> better adapter, by reward",
    "adapters": "the adapter, checked and made portable",
    "merge": "base + adapter -> one model",
    "gguf": "merged model -> one file for llama.cpp and Ollama",
    "ollama": "the file -> an Ollama package, and a model where a server answers",
    "evaluate": "any form of the model -> LiveCodeBench report",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, run, and turn errors into one line and a status."""
    arguments = _parser().parse_args(argv)
    from gwen25.errors import BadInput, Gwen25Error, StageFailed

    try:
        if arguments.command == "run":
            return _run(arguments)
        module, _, function = arguments.does.partition(":")
        status: int = getattr(import_module(f"gwen25.commands.{module}"), function)(arguments)
        return status
    except BadInput as error:
        return _fail(str(error), 2)
    except StageFailed as failure:
        return _fail(failure.reason if failure.cause == "bad_input" else str(failure), 2 if failure.cause == "bad_input" else 1)
    except Gwen25Error as error:
        return _fail(str(error), 1)
    except BrokenPipeError:  # the reader of a pipe has left: `gwen25 list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a full disk, a folder taken away: nothing that a traceback would help with
        return _fail(f"{type(error).__name__}: {error}", 1)
    except KeyboardInterrupt:
        return _fail("interrupted; what was made is kept, and the same command goes on from there", 130)


def _fail(message: str, status: int) -> int:
    print(f"gwen25: {message}", file=sys.stderr)
    return status


def _run(arguments: argparse.Namespace) -> int:
    """The flow. Prefect's own settings are filled in only where the user has set none."""
    from gwen25 import preflight
    from gwen25.commands import common
    from gwen25.stage import STAGES

    overrides = common.overrides(arguments)
    config = common.configuration(arguments)
    wanted = preflight.upto(arguments.until)
    preflight.refreshed(arguments.refresh, wanted)
    preflight.check(config, wanted)
    if arguments.dry_run:
        return _dry_run(config, [name for name in STAGES if name in wanted])
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    from flows import server
    from flows.finetune import finetune
    from flows.outcome import Outcome, summarise

    with server.running():
        state = finetune(
            profile=arguments.profile,
            recipe=arguments.recipe,
            overrides=overrides,
            refresh=arguments.refresh,
            until=arguments.until,
            return_state=True,
        )
    outcome = state.result(raise_on_failure=False)
    if isinstance(outcome, BaseException):
        raise outcome
    assert isinstance(outcome, Outcome)
    print("\n" + summarise(outcome))
    return 0


def _dry_run(config: Config, names: Sequence[str]) -> int:
    """What the store holds of this run already. A node below a missing one has no key yet."""
    from gwen25 import stage
    from gwen25.artifacts import Artifact, Store
    from gwen25.commands.common import warn

    store, made = Store.default(), dict[str, Artifact]()
    for name in names:
        inputs = {role: made.get(upstream) for role, upstream in stage.STAGES[name].inputs.items()}
        known = {role: artifact for role, artifact in inputs.items() if artifact is not None}
        if len(known) < len(inputs):
            print(f"{name:10} would run, after {', '.join(u for u in stage.STAGES[name].inputs.values() if u not in made)}")
            continue
        plan = stage.plan_stage(name, config, known, warn)
        if (hit := stage.find(plan, store, warn)) is not None:
            made[name] = hit
        print(f"{name:10} {'Cached' if hit else 'would run'}  {name}:{plan.key[:8]}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gwen25", description="Qwen2.5 into a reasoning code model, from data set to laptop.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, does: str, text: str) -> argparse.ArgumentParser:
        """A command; `does` is module:function in gwen25.commands, imported when it is asked for."""
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(does=does)
        return command

    flow = add("run", "", "the whole flow, under Prefect")
    _config_options(flow)
    flow.add_argument("--refresh", action="append", default=[], metavar="STAGE", help="make a node again though the store holds it")
    flow.add_argument("--until", metavar="STAGE", help="stop after this node")
    flow.add_argument("--dry-run", action="store_true", help="say what the store holds and what would run")
    for name, text in NODES.items():
        node = add(name, {"evaluate": "evaluate:run", "dataset": "node:dataset"}.get(name, "node:run"), text)
        _config_options(node)
        node.add_argument("--refresh", action="store_true", help="make it again though the store holds it")
        if name == "evaluate":
            _evaluate_options(node)
        if name == "dataset":
            node.add_argument("--check", type=Path, metavar="FILE", help="which rows of a file would be dropped, and why")
            node.add_argument("--show", type=int, metavar="N", help="print the first N rows as tokens: * is trained, . is only read")
    grade = add("grade", "reports:grade", "judge completions that exist already")
    grade.add_argument("problems", type=Path, metavar="PROBLEMS", help="problems in LiveCodeBench's schema, .jsonl or .jsonl.gz")
    grade.add_argument("completions", type=Path, metavar="COMPLETIONS", help="JSON lines: question_id, output")
    grade.add_argument("--out", type=Path, required=True, metavar="VERDICTS")
    compare = add("compare", "reports:compare", "two reports, paired, with intervals")
    compare.add_argument("report_a", metavar="REPORT_A", help="a report.json, its folder, or a store reference")
    compare.add_argument("report_b", metavar="REPORT_B")
    compare.add_argument("--json", action="store_true", help="JSON on stdout")
    _store_command(add("list", "store:list_", "what the store holds"))
    _store_command(add("show", "store:show", "one artifact: config, facts, metrics"), ref="REF")
    _store_command(add("lineage", "store:lineage", "what an artifact was made from"), ref="REF")
    _store_command(add("verify", "store:verify", "read every byte of one artifact, or of all"), ref="[REF]")
    add("gc", "store:gc", "remove set-aside artifacts and abandoned work")
    return parser


def _config_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--profile", default="smoke", help="the machine: smoke, a100 (default: smoke)")
    command.add_argument("--recipe", default="reference", help="the training recipe (default: reference)")
    command.add_argument("--config", type=Path, metavar="FILE", help="a YAML file of differences")
    command.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="one value, such as grpo.max_steps=20; may be repeated"
    )


def _evaluate_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "model", nargs="?", metavar="MODEL", help="a directory, a hub id or a store reference; this config's merged model if absent"
    )
    command.add_argument("--problems", metavar="FILE", help="problems in LiveCodeBench's schema")
    command.add_argument("--backend", choices=["transformers", "openai"])
    command.add_argument("--base-url", metavar="URL", help="of an OpenAI-compatible server, such as http://127.0.0.1:8000/v1")
    command.add_argument("--served-model", metavar="NAME", help="the model's name at the server")
    command.add_argument("--n", type=int, help="samples of each problem")
    command.add_argument("--temperature", type=float)
    command.add_argument("--max-tokens", type=int, dest="max_tokens")
    command.add_argument("--max-problems", type=int, dest="max_problems")
    command.add_argument("--out", type=Path, metavar="DIR", help="copy the report there")


def _store_command(command: argparse.ArgumentParser, ref: str = "") -> None:
    if ref:
        command.add_argument("ref", metavar="REF", nargs="?" if ref.startswith("[") else None, help="stage:key-prefix, or an alias")
    command.add_argument("--json", action="store_true", help="JSON on stdout")


if __name__ == "__main__":
    sys.exit(main())
