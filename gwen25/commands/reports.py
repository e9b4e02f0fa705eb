"""`gwen25 compare`: two reports that exist already; no model."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from gwen25.artifacts import Store
from gwen25.benchmarks import comparison
from gwen25.errors import BadInput


def compare(arguments: argparse.Namespace) -> int:
    """Two reports on the problems they share: paired differences with intervals."""
    sides = [_report(reference) for reference in (arguments.report_a, arguments.report_b)]
    found = comparison.compare(*sides)
    names = [_named(reference, side) for reference, side in zip((arguments.report_a, arguments.report_b), sides, strict=True)]
    print(json.dumps(found, indent=1) if arguments.json else comparison.text(found, *names))
    return 0


def _named(reference: str, report: dict[str, Any]) -> str:
    model = report.get("model")
    return f"{model} ({reference})" if model else reference


def _report(reference: str) -> dict[str, Any]:
    """A report.json by file, by folder or by store reference."""
    path = Path(reference)
    if not path.exists():
        path = Store.default().resolve(reference).payload
    path = path / "report.json" if path.is_dir() else path
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{path}: not a readable report ({error}); a report.json as `gwen25 evaluate` writes it is expected") from error
    if not isinstance(value, dict):
        raise BadInput(f"{path}: a JSON object is expected, as `gwen25 evaluate` writes it")
    return value
