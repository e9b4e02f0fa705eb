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

NODES = {
    "dataset": "OpenCodeReasoning, a file of yours or the samples -> rows for training",
    "sft": "rows -> LoRA adapter, by supervised fine-tuning",
    "grpo": "adapter -> better adapter, by reward",
    "adapters": "the adapter, checked and made portable",
    "merge": "base + adapter -> one model",
    "gguf": "merged model -> one file for llama.cpp and Ollama",
    "score": "the file beside the merged model, before it is packaged; with MODEL FORM...: any forms of a model",
    "ollama": "the file -> an Ollama package, and a model where a server answers",
    "evaluate": "any form of the model -> LiveCodeBench report",
}
# nodes that take more than the config's options: files of the user's, or a look at rows; the others are node:run
DOES = {
    "dataset": "node:dataset",
    "merge": "export:merge",
    "gguf": "export:gguf",
    "score": "score:run",
    "ollama": "export_ollama:run",
    "evaluate": "evaluate:run",
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
    from gwen25.commands import common, dry_run

    overrides = common.overrides(arguments)
    config = common.configuration(arguments)
    wanted = preflight.upto(arguments.until)
    preflight.refreshed(arguments.refresh, wanted)
    if arguments.dry_run:
        return dry_run.run(config, wanted)
    preflight.check(config, wanted)
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
        node = add(name, DOES.get(name, "node:run"), text)
        _config_options(node)
        node.add_argument("--refresh", action="store_true", help="make it again though the store holds it")
        if name in ("merge", "gguf", "ollama"):
            _export_options(node, name)
        if name == "evaluate":
            _evaluate_options(node)
        if name == "score":
            _score_options(node)
        if name == "dataset":
            look = node.add_mutually_exclusive_group()
            look.add_argument("--check", type=Path, metavar="FILE", help="which rows of a file would be dropped, and why; nothing is made")
            look.add_argument("--show", type=int, metavar="N", help="print the first N rows as tokens: * is trained, . is only read")
    grade = add("grade", "grade:run", "judge completions that exist already")
    grade.add_argument("problems", type=Path, metavar="PROBLEMS", help="problems in LiveCodeBench's schema, .jsonl or .jsonl.gz")
    grade.add_argument("completions", type=Path, metavar="COMPLETIONS", help="JSON lines: question_id, output; .jsonl or .jsonl.gz")
    grade.add_argument("--out", type=Path, required=True, metavar="VERDICTS", help="one JSON line for each completion")
    grade.add_argument("--workers", type=int, metavar="N", help="programs judged at once (default: one for each processor)")
    grade.add_argument(
        "--rules", choices=["strict", "official", "both"], default="both", help="ours, LiveCodeBench's own, or both (default)"
    )
    grade.add_argument("--json", action="store_true", help="JSON on stdout")
    compare = add("compare", "reports:compare", "two reports, paired, with intervals")
    compare.add_argument("report_a", metavar="REPORT_A", help="a report.json, its folder, or a store reference")
    compare.add_argument("report_b", metavar="REPORT_B")
    compare.add_argument("--json", action="store_true", help="JSON on stdout")
    chat = add("chat", "chat:run", "talk to an adapter, a merged model, a GGUF or an Ollama name; a pipe is one question")
    chat.add_argument("ref", metavar="REF", help="merge:3f2a, an alias, a directory, a .gguf file, ollama:NAME, a hub id")
    chat.add_argument("--base", metavar="MODEL", help="the base model of an adapter directory that does not say where it is")
    chat.add_argument("--system", metavar="TEXT", help="in the place of the system turn that it was trained with")
    chat.add_argument("--max-tokens", type=int, default=4096, metavar="N", help="of one answer, reasoning included (default: 4096)")
    chat.add_argument("--temperature", type=float, default=0.6, metavar="T", help="0 is greedy (default: 0.6)")
    chat.add_argument("--fold", action="store_true", help="leave the reasoning out, as a pipe does")
    _store_command(add("list", "store:list_", "what the store holds"))
    _store_command(add("show", "store:show", "one artifact: config, facts, metrics"), ref="REF")
    _store_command(add("lineage", "store:lineage", "what an artifact was made from"), ref="REF")
    _store_command(add("verify", "store:verify", "read every byte of one artifact, or of all"), ref="[REF]")
    budget = add("estimate", "estimate:run", "memory by node and term, hours, judge and disk of a run")
    _config_options(budget)
    budget.add_argument("--json", action="store_true", help="JSON on stdout")
    doctor = add("doctor", "doctor:run", "what this machine lacks for a run, and what to do about it")
    _config_options(doctor, profile=None)
    doctor.add_argument("--json", action="store_true", help="JSON on stdout")
    promote = add("promote", "promote:promote", "make a merged model the champion; without REF: who was champion since when, and why")
    promote.add_argument("ref", metavar="REF", nargs="?", help="stage:key-prefix, or an alias")
    rollback = add("rollback", "promote:rollback", "back to the champion before this one")
    for command in (promote, rollback):
        command.add_argument("--why", default="by hand", metavar="TEXT", help="kept with the champion's history")
    push = add("push", "push:run", "an adapter, a merged model or a GGUF of the store to the Hugging Face Hub, with a model card")
    push.add_argument("ref", metavar="REF", help="adapters:3f2a, merge:3f2a, gguf:3f2a, or an alias")
    push.add_argument("hub_id", metavar="HUB_ID", help="where it goes: owner/name")
    push.add_argument("--private", action="store_true", help="make the repository private, where it is made now")
    push.add_argument("--dry-run", nargs="?", const="-", metavar="DIR", help="send nothing: print the card, or write all of it into DIR")
    push.add_argument("--force", action="store_true", help="replace the DIR of an earlier dry run")
    add("gc", "store:gc", "remove set-aside artifacts and abandoned work")
    return parser


def _config_options(command: argparse.ArgumentParser, profile: str | None = "smoke") -> None:
    command.add_argument("--profile", default=profile, help=f"the machine: smoke, cpu, t4, a100, multi-gpu (default: {profile or 'none'})")
    command.add_argument("--recipe", default="reference", help="the training recipe: reference, recommended (default: reference)")
    command.add_argument("--config", type=Path, metavar="FILE", help="a YAML file of differences")
    command.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="one value, such as grpo.max_steps=20; may be repeated"
    )


def _export_options(command: argparse.ArgumentParser, name: str) -> None:
    """What the node takes when it is given files: without them it is the node of this config's flow."""
    if name == "merge":
        command.add_argument(
            "adapter", nargs="?", metavar="ADAPTER", help="a PEFT directory, hub id or store reference; else the flow's node"
        )
        command.add_argument("out_dir", nargs="?", metavar="OUT_DIR", help="the model's new folder")
        command.add_argument("--base", metavar="MODEL", help="the base model, where the adapter does not say it or it lies elsewhere")
        command.add_argument("--dtype", choices=["bfloat16", "float16", "float32"], help="of the merged weights (default: the base's)")
    elif name == "gguf":
        command.add_argument("model", nargs="?", metavar="MODEL", help="a directory, hub id or store reference; else the flow's node")
        command.add_argument("out_file", nargs="?", metavar="OUT.gguf", help="the new file")
        types = ["f32", "f16", "bf16", "q8_0", "q2_k", "q3_k_m", "q4_k_s", "q4_k_m", "q5_k_s", "q5_k_m", "q6_k"]
        command.add_argument("--type", choices=types, help="of the file's matrices (default: f16)")
    else:
        command.add_argument("gguf", nargs="?", metavar="FILE.gguf", help="a file or store reference; else the flow's node")
        command.add_argument("name", nargs="?", metavar="NAME", help="name[:tag] of the model in Ollama")
        command.add_argument("--out", type=Path, metavar="DIR", help="write a package there in the place of asking a server")
        command.add_argument("--num-ctx", type=int, metavar="N", help="context in tokens (default: the model's own, at most 32768)")
        command.add_argument("--temperature", type=float, metavar="T", help="default: 0.6 in a format of gwen25, else Ollama's own")
        command.add_argument("--top-p", type=float, metavar="P", help="default: 0.95 in a format of gwen25, else Ollama's own")
        command.add_argument("--system", metavar="TEXT", help="the system turn of a chat that brings none")
        command.add_argument("--own-template", action="store_true", help="let Ollama render with the file's own chat template")
        command.add_argument(
            "--smoke", choices=["require", "report"], help="three problems: all must end, parse and run (default), or are told only"
        )
        command.add_argument("--smoke-tokens", type=int, metavar="N", help="that each of their answers may take (default: 8192)")
    command.add_argument("--force", action="store_true", help="replace what is there already")


def _evaluate_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "model", nargs="?", metavar="MODEL", help="a directory, a hub id or a store reference; this config's merged model if absent"
    )
    command.add_argument("--problems", metavar="FILE", help="problems in LiveCodeBench's schema")
    command.add_argument("--backend", choices=["transformers", "openai"])
    command.add_argument("--base-url", metavar="URL", help="of an OpenAI-compatible server, such as http://127.0.0.1:8000/v1")
    command.add_argument("--served-model", metavar="NAME", help="the model's name at the server")
    command.add_argument("--prompt", choices=["chat", "base", "both"], help="ours, the benchmark's own for base models, or both")
    command.add_argument("--n", type=int, help="samples of each problem")
    command.add_argument("--temperature", type=float)
    command.add_argument("--max-tokens", type=int, dest="max_tokens")
    command.add_argument("--max-problems", type=int, dest="max_problems")
    command.add_argument("--out", type=Path, metavar="DIR", help="copy the report there")


def _score_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", nargs="?", metavar="MODEL", help="a merged model: a directory, a hub id or a store reference")
    command.add_argument("forms", nargs="*", metavar="FORM", help="a .gguf file, an adapter, a model or ollama:NAME; a row each")
    command.add_argument("--base", metavar="MODEL", help="the base model of an adapter directory that does not say where it is")
    command.add_argument("--json", action="store_true", help="JSON on stdout")
    command.add_argument("--out", type=Path, metavar="DIR", help="write score.json, report.md and answers.jsonl there")


def _store_command(command: argparse.ArgumentParser, ref: str = "") -> None:
    if ref:
        command.add_argument("ref", metavar="REF", nargs="?" if ref.startswith("[") else None, help="stage:key-prefix, or an alias")
    command.add_argument("--json", action="store_true", help="JSON on stdout")


if __name__ == "__main__":
    sys.exit(main())
