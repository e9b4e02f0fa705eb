"""`gwen25 score [MODEL FORM...]`: this config's GGUF beside its merged model, or any forms of any model, a row each.

    gwen25 score merged/ model-q4_k_m.gguf model-q8_0.gguf ollama:coder --set score.max_problems=20

Without MODEL it is the node of this config's flow. With it nothing goes to the store and no floor is looked at; how many problems, tokens
and positions is what the `score` section of the config says. Ollama tells no distributions: KL and top-1 are absent there.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gwen25 import llamacpp, preflight, references, resolve, sandbox
from gwen25.benchmarks import livecodebench
from gwen25.commands import node
from gwen25.commands.common import configuration, warn
from gwen25.config import Config
from gwen25.errors import BadInput
from gwen25.job import write_json
from gwen25.references import Model
from gwen25.scoring import table
from gwen25.scoring.forms import Local, Settings, opened
from gwen25.scoring.measure import Exam, Measured, Score, Window, measure, merged_score, refer


def run(arguments: argparse.Namespace) -> int:
    """The node, or a table on standard output; what it is about goes to standard error."""
    if arguments.model is None:
        for option in ("json", "out", "base"):
            if getattr(arguments, option):
                raise BadInput(f"--{option} belongs to `gwen25 score MODEL FORM...`")
        return node.run(arguments)
    if not arguments.forms or arguments.refresh:
        raise BadInput("gwen25 score MODEL FORM...: at least one form, such as a .gguf file; --refresh belongs to the node")
    config = configuration(arguments)
    merged, forms = _found(arguments)
    _check(config, forms)
    if arguments.out is not None:
        _folder(arguments.out)
    exam = _exam(config, merged)
    settings = Settings(config.score.dtype, config.runtime.device, config.score.batch_size, config.runtime.num_threads, exam.context)
    with opened(merged, settings) as form:
        assert isinstance(form, Local)
        reference = refer(form, exam, positions=config.score.positions, top=config.score.top_k, tell=_tell)
        found = [Measured(merged_score(form, reference), reference.answers, reference.rows)]
    for one in forms:
        with opened(one, settings) as form:
            found.append(measure(form, exam, reference, _tell))
    _told(arguments, [one.score for one in found])
    if arguments.out is not None:
        _write(arguments.out, exam, found)
    return 0


def _found(arguments: argparse.Namespace) -> tuple[Model, list[Model]]:
    """All that is named, before any of it is loaded."""
    merged = references.find(arguments.model, warn=warn)
    if merged.kind != "model":
        raise BadInput(f"{arguments.model} is of the kind {merged.kind}; MODEL is a merged model, which the forms are held against")
    return merged, [references.find(name, arguments.base, warn) for name in arguments.forms]


def _check(config: Config, forms: Sequence[Model]) -> None:
    if any(form.kind == "gguf" for form in forms) and not llamacpp.can_load():
        raise BadInput("a GGUF is scored in llama.cpp: pip install 'gwen25[llamacpp]'")
    if config.runtime.device == "cuda" and not preflight.gpu_present():
        raise BadInput("this profile is for a GPU and this machine shows none: take --profile smoke or cpu, or set runtime.device=cpu")
    sandbox.probe()


def _exam(config: Config, merged: Model) -> Exam:
    from tokenizers import Tokenizer

    pinned, file = resolve.problems(config, warn)
    files = [Path(file)] if file is not None else livecodebench.fetch(pinned["id"], pinned["revision"], config.evaluate.release)
    tokenizer = Tokenizer.from_file(str(Path(merged.path) / "tokenizer.json"))
    return Exam.of(
        files,
        Window(config.evaluate.start_date, config.evaluate.end_date),
        merged.format,
        lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids),
        max_problems=config.score.max_problems,
        max_tokens=config.score.max_tokens,
        workers=config.runtime.sandbox_workers,
    )


def _tell(what: str, done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{what}: {done} of {total}", end="\n" if done == total else "", file=sys.stderr, flush=True)


def _told(arguments: argparse.Namespace, scores: Sequence[Score]) -> None:
    if arguments.json:
        print(json.dumps({"scores": [asdict(score) for score in scores]}, indent=1))
        return
    print(table.text(scores))
    print("\n" + "\n".join(table.notes(scores)))


def _folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"cannot write to {out}: {error.strerror}") from error


def _write(out: Path, exam: Exam, found: Sequence[Measured]) -> None:
    scores = [one.score for one in found]
    lines = [
        {"form": one.score.name, "question_id": row["question_id"], "output": answer.text, "status": row["status"]}
        for one in found
        for answer, row in zip(one.answers, one.rows, strict=True)
    ]
    about: dict[str, Any] = {"problems": [problem.id for problem in exam.problems], "max_tokens": exam.max_tokens}
    try:
        write_json(out / "score.json", {**about, "scores": [asdict(score) for score in scores]})
        (out / "report.md").write_text(table.markdown(scores), encoding="utf-8")
        (out / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    except OSError as error:
        raise BadInput(f"cannot write to {out}: {error.strerror}") from error
