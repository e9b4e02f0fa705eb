"""`gwen25 compare | grade`: reports and answers that exist already; no model."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from gwen25.artifacts import Store
from gwen25.benchmarks import livecodebench, report
from gwen25.data import read_jsonl
from gwen25.errors import BadInput


def compare(arguments: argparse.Namespace) -> int:
    """Two reports on the problems they share: paired differences with intervals."""
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


def grade(arguments: argparse.Namespace) -> int:
    """Judge completions that exist already: no model."""
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
