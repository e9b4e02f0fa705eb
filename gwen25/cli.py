"""gwen25: the command line.

    gwen25 run --profile smoke             the whole flow
    gwen25 sft --profile smoke             one node, from what the store holds, without Prefect
    gwen25 evaluate MODEL --problems FILE --out DIR

Exit status: 0 done, 1 the work failed, 2 bad input (one line, no traceback). `--help` imports nothing but argparse; each
command imports what it needs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gwen25.artifacts import Artifact, Manifest, Store
    from gwen25.config import Config
    from gwen25.resolve import Resolved

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
        status: int = arguments.run(arguments)
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


# --- the commands ----------------------------------------------------------------------------------------------------


def _run(arguments: argparse.Namespace) -> int:
    """The flow. Prefect's own settings are filled in only where the user has set none."""
    from gwen25 import preflight
    from gwen25.stage import STAGES

    overrides = _overrides(arguments)
    config = _config(arguments)
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

    store, made = Store.default(), dict[str, Artifact]()
    for name in names:
        inputs = {role: made.get(upstream) for role, upstream in stage.STAGES[name].inputs.items()}
        known = {role: artifact for role, artifact in inputs.items() if artifact is not None}
        if len(known) < len(inputs):
            print(f"{name:10} would run, after {', '.join(u for u in stage.STAGES[name].inputs.values() if u not in made)}")
            continue
        plan = stage.plan_stage(name, config, known, _warn)
        if (hit := stage.find(plan, store, _warn)) is not None:
            made[name] = hit
        print(f"{name:10} {'Cached' if hit else 'would run'}  {name}:{plan.key[:8]}")
    return 0


def _node(arguments: argparse.Namespace) -> int:
    """One node, its inputs from the store; without Prefect."""
    from gwen25 import preflight, stage
    from gwen25.artifacts import Artifact, Store
    from gwen25.errors import BadInput

    config = _config(arguments)
    preflight.check(config, {arguments.command})
    store, made = Store.default(), dict[str, Artifact]()
    for name in [name for name in stage.STAGES if name in preflight.upto(arguments.command)]:
        inputs = {role: made[upstream] for role, upstream in stage.STAGES[name].inputs.items()}
        plan = stage.plan_stage(name, config, inputs, _warn)
        if name == arguments.command:
            made[name], cached = stage.obtain(plan, store, _say, refresh=arguments.refresh)
        elif (hit := stage.find(plan, store, _warn)) is not None:
            made[name] = hit
        else:
            raise BadInput(
                f"{arguments.command} needs {name}, which the store does not hold for this config; "
                f"`gwen25 {name}` with the same options makes it"
            )
    _show_artifact(made[arguments.command], cached)
    return 0


def _dataset(arguments: argparse.Namespace) -> int:
    """The node; or a look at a file of the user's, line by line; or at rows as tokens."""
    if arguments.check is not None:
        return _check_rows(arguments)
    status = _node(arguments)
    if arguments.show is not None:
        from gwen25 import chat, show_rows, stage
        from gwen25.artifacts import Store
        from gwen25.pipelines.dataset import load_tokenizer

        config = _config(arguments)
        plan = stage.plan_stage("dataset", config, {}, _warn)
        train = Store.default().folder("dataset", plan.key) / "payload" / "train.jsonl"
        tokenizer = load_tokenizer(_tokenizer_file(plan.resolved.locations))
        for line in show_rows.lines(train, tokenizer, chat.FORMATS[config.chat_format], arguments.show):
            print(line)
    return status


def _check_rows(arguments: argparse.Namespace) -> int:
    """Each row that would be dropped, and why; status 0 where any is kept."""
    from collections import Counter

    from gwen25 import resolve
    from gwen25.pipelines.dataset import check_file

    config = _config(arguments)
    tokenizer = _tokenizer_file(resolve.resolve("dataset", config, _warn).locations)
    reasons: Counter[str] = Counter()
    for where, reason in check_file(arguments.check, config.dataset, tokenizer, config.runtime.sandbox_workers):
        reasons[reason or "kept"] += 1
        if reason is not None:
            print(f"{where}: {reason}")
    print(", ".join(f"{count} {reason}" for reason, count in reasons.most_common()))
    return 0 if reasons["kept"] else 2


def _tokenizer_file(locations: dict[str, str]) -> Path:
    from gwen25.errors import BadInput

    if "tokenizer" not in locations:
        raise BadInput("--check and --show need the base model's tokenizer on this machine: --set base_model=DIRECTORY")
    return Path(locations["tokenizer"]) / "tokenizer.json"


def _compare(arguments: argparse.Namespace) -> int:
    """Two reports on the problems they share: paired differences with intervals."""
    from gwen25.benchmarks import report

    comparison = report.compare(_report(arguments.report_a), _report(arguments.report_b))
    if arguments.json:
        print(json.dumps(comparison, indent=1))
        return 0
    print(report.comparison_table(comparison, arguments.report_a, arguments.report_b))
    for name in comparison["differs"]:
        print(f"not measured alike: {name}")
    if left_out := comparison["only_a"] + comparison["only_b"]:
        print(f"{left_out} problems are in one report only and are left out")
    return 0


def _report(reference: str) -> dict[str, Any]:
    """A report.json by file, by folder or by store reference."""
    from gwen25.artifacts import Store
    from gwen25.errors import BadInput

    path = Path(reference)
    if not path.exists():
        path = Store.default().resolve(reference).payload
    path = path / "report.json" if path.is_dir() else path
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: not a readable report ({error}); a report.json as `gwen25 evaluate` writes it is expected") from error
    if not isinstance(value, dict):
        raise BadInput(f"{path}: a JSON object is expected, as `gwen25 evaluate` writes it")
    return value


def _evaluate(arguments: argparse.Namespace) -> int:
    """Evaluate the model of this config, or any MODEL: a directory, a hub id, a store reference."""
    from gwen25 import preflight, stage
    from gwen25.artifacts import Store

    if arguments.base_url is not None and arguments.backend is None:
        arguments.backend = "openai"
    overrides = {
        f"evaluate.{name}": value
        for name in ("problems", "backend", "base_url", "served_model", "n", "temperature", "max_tokens", "max_problems")
        if (value := getattr(arguments, name)) is not None
    }
    store = Store.default()
    config = _config(arguments, {**overrides, "evaluate.baseline": False})
    if arguments.model is None and config.evaluate.backend != "openai":
        arguments.set += [f"{name}={json.dumps(value)}" for name, value in overrides.items()]
        return _node(arguments)
    inputs, extra, checked = _model(arguments.model, config, store)
    preflight.check(checked, {"evaluate"})
    if arguments.out is not None:
        _make_folder(arguments.out)
    plan = stage.plan_stage("evaluate", config, inputs, _warn, extra)
    artifact, cached = stage.obtain(plan, store, _say, refresh=arguments.refresh)
    _show_artifact(artifact, cached)
    print((artifact.payload / "report.md").read_text(encoding="utf-8"))
    if arguments.out is not None:
        _copy_out(artifact, arguments.out)
    return 0


def _model(reference: str | None, config: Config, store: Store) -> tuple[dict[str, Artifact], Resolved, Config]:
    """MODEL as an input artifact (a merge in the store) or as something from outside (directory, hub id, served model).

    The third is the config that preflight should look at: the model itself stands in it as the base model.
    """
    from gwen25 import resolve
    from gwen25.errors import BadInput
    from gwen25.resolve import Resolved

    if reference is None:
        return {}, Resolved({"model": {"served": config.evaluate.base_url, "name": config.evaluate.served_model}}), config
    if (":" in reference and not reference.startswith(resolve.SAMPLE_PREFIX)) or reference in store.aliases():
        artifact = store.resolve(reference)
        if artifact.stage != "merge":
            raise BadInput(f"{reference} is of the stage {artifact.stage}; evaluate takes a merge, a directory or a hub id")
        return {"model": artifact}, Resolved(), config.model_copy(update={"base_model": str(artifact.payload)})
    other = config.model_copy(update={"base_model": reference})
    return {}, resolve.base_as_model(other, _warn), other


def _make_folder(out: Path) -> None:
    from gwen25.errors import BadInput

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"cannot write to {out}: {error.strerror}") from error


def _copy_out(artifact: Artifact, out: Path) -> None:
    """Copy a payload to a folder of the user's, file by file, each whole or not at all."""
    from gwen25.errors import BadInput

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


def _grade(arguments: argparse.Namespace) -> int:
    """Judge completions that exist already: no model."""
    from gwen25.benchmarks import livecodebench
    from gwen25.data import read_jsonl
    from gwen25.errors import BadInput

    if not arguments.out.parent.is_dir() or arguments.out.is_dir():
        raise BadInput(f"--out {arguments.out}: the name of a file in a folder that is there is expected")
    problems = {str(row.get("question_id")): row for _, row in read_jsonl(arguments.problems)}
    pairs, ids = [], []
    for number, row in read_jsonl(arguments.completions):
        question, output = str(row.get("question_id")), row.get("output")
        if question not in problems or not isinstance(output, str):
            raise BadInput(
                f"{arguments.completions}, line {number}: question_id (one of {arguments.problems}) and output (text) are expected"
            )
        ids.append(question)
        pairs.append((problems[question], [output]))
    if not pairs:
        raise BadInput(f"{arguments.completions} holds no completions; JSON lines with question_id and output are expected")
    verdicts = livecodebench.judge_many(pairs)
    lines = [json.dumps({"question_id": question, "passed": verdict[0]}) for question, verdict in zip(ids, verdicts, strict=True)]
    part = arguments.out.with_name(f".{arguments.out.name}.part")
    part.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    part.replace(arguments.out)
    print(f"{sum(verdict[0] for verdict in verdicts)} of {len(verdicts)} passed; written to {arguments.out}")
    return 0


def _list(arguments: argparse.Namespace) -> int:
    from gwen25.artifacts import Store

    store = Store.default()
    rows = [_row(store, manifest) for manifest in store.manifests()]
    if arguments.json:
        print(json.dumps(rows, indent=1))
    for row in [] if arguments.json else rows:
        print(f"{row['stage']}:{row['key'][:8]}  {row['made']}  {row['seconds']:8.1f} s  {row['size'] / 1e6:10.2f} MB  {row['path']}")
    return 0


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


def _show(arguments: argparse.Namespace) -> int:
    from gwen25.artifacts import Manifest, Store

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


def _lineage(arguments: argparse.Namespace) -> int:
    """The artifact and all it was made from, nearest first."""
    from gwen25.artifacts import Manifest, Store

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


def _verify(arguments: argparse.Namespace) -> int:
    """Read every byte of one artifact or of all."""
    from gwen25.artifacts import Store
    from gwen25.errors import DamagedArtifact

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


def _gc(arguments: argparse.Namespace) -> int:
    from gwen25.artifacts import Store

    folders, size = Store.default().gc()
    print(f"removed {folders} folders, {size / 1e6:.1f} MB: set-aside artifacts and abandoned work")
    return 0


# --- shared by the commands ------------------------------------------------------------------------------------------


def _overrides(arguments: argparse.Namespace) -> dict[str, Any]:
    """`--config FILE` and `--set` as one mapping of dotted names: what the flow takes as its `overrides`."""
    from gwen25 import config

    flat: dict[str, Any] = {}
    if arguments.config is not None:
        flat |= config.flatten(config.read_yaml(arguments.config))
    return flat | dict(config.parse_override(text) for text in arguments.set)


def _config(arguments: argparse.Namespace, more: dict[str, Any] | None = None) -> Config:
    from gwen25.config import load_config

    return load_config(arguments.profile, arguments.recipe, overrides={**_overrides(arguments), **(more or {})})


def _show_artifact(artifact: Artifact, cached: bool) -> None:
    print(f"{'Cached' if cached else 'made'}  {artifact.stage}:{artifact.key[:8]}  {artifact.path}")


def _say(line: str) -> None:
    print(line, flush=True)


def _warn(line: str) -> None:
    print(f"warning: {line}", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gwen25", description="Qwen2.5 into a reasoning code model, from data set to laptop.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        return command

    flow = add("run", _run, "the whole flow, under Prefect")
    _config_options(flow)
    flow.add_argument("--refresh", action="append", default=[], metavar="STAGE", help="make a node again though the store holds it")
    flow.add_argument("--until", metavar="STAGE", help="stop after this node")
    flow.add_argument("--dry-run", action="store_true", help="say what the store holds and what would run")
    for name, text in NODES.items():
        node = add(name, {"evaluate": _evaluate, "dataset": _dataset}.get(name, _node), text)
        _config_options(node)
        node.add_argument("--refresh", action="store_true", help="make it again though the store holds it")
        if name == "evaluate":
            _evaluate_options(node)
        if name == "dataset":
            node.add_argument("--check", type=Path, metavar="FILE", help="which rows of a file would be dropped, and why")
            node.add_argument("--show", type=int, metavar="N", help="print the first N rows as tokens: * is trained, . is only read")
    grade = add("grade", _grade, "judge completions that exist already")
    grade.add_argument("problems", type=Path, metavar="PROBLEMS", help="problems in LiveCodeBench's schema, .jsonl or .jsonl.gz")
    grade.add_argument("completions", type=Path, metavar="COMPLETIONS", help="JSON lines: question_id, output")
    grade.add_argument("--out", type=Path, required=True, metavar="VERDICTS")
    compare = add("compare", _compare, "two reports, paired, with intervals")
    compare.add_argument("report_a", metavar="REPORT_A", help="a report.json, its folder, or a store reference")
    compare.add_argument("report_b", metavar="REPORT_B")
    compare.add_argument("--json", action="store_true", help="JSON on stdout")
    _store_command(add("list", _list, "what the store holds"))
    _store_command(add("show", _show, "one artifact: config, facts, metrics"), ref="REF")
    _store_command(add("lineage", _lineage, "what an artifact was made from"), ref="REF")
    _store_command(add("verify", _verify, "read every byte of one artifact, or of all"), ref="[REF]")
    add("gc", _gc, "remove set-aside artifacts and abandoned work")
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
