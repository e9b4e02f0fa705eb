"""Verdicts counted: a problem's row, pass@k under both rules, with and without the problems that are known to be flawed.

    tally(problems, {"q1": [Judged, ...]}, {"q1": "9f2c..."})      {"rows": [...], "scores": {...}, "errata": {...}, ...}

A part of every report. What was not asked for (rules) or cannot be known (pass@5 of three samples) is None. Not here: the arithmetic
(`passk`), the page (`report`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from gwen25.benchmarks import errata, passk
from gwen25.benchmarks.judging import Judged
from gwen25.data import Problem

KS: Final = (1, 5)
Row = dict[str, Any]
Scores = dict[str, dict[str, dict[str, float] | None]]


def score(rows: Sequence[passk.Row], ks: Iterable[int] = KS) -> Scores:
    """pass@k with its 95 % interval, by slice and k; None where a problem of the slice has fewer than k samples."""
    return {name: {str(k): _scored(part, k) for k in ks} for name, part in passk.slices(rows).items()}


def _scored(rows: Sequence[passk.Row], k: int) -> dict[str, float] | None:
    value, bounds = passk.mean(rows, k), passk.interval(rows, k)
    return None if value is None or bounds is None else {"value": value, "low": bounds.low, "high": bounds.high}


def tally(problems: Sequence[Problem], found: Mapping[str, Sequence[Judged]], digests: Mapping[str, str]) -> dict[str, Any]:
    """Rows and scores of the problems, whose verdicts stand in `found` by id, and what those rest on in `digests` (`problems.digest`)."""
    rows = [_row(problem, found[problem.id], digests[problem.id]) for problem in problems]
    judged = [one for problem in problems for one in found[problem.id]]
    counts = {name: len(part) for name, part in passk.slices([{**row, "c": 0} for row in rows]).items()}
    return {
        "problems": counts,
        "samples": len(judged),
        "scores": _strict(rows),
        "scores_official": _official(rows),
        "verdicts": _counted(one.strict for one in judged),
        "verdicts_official": _counted(one.official for one in judged),
        "with_prelude": sum(one.prelude and one.official == "passed" for one in judged),
        "errata": _errata(problems, rows),
        "rows": rows,
    }


def _row(problem: Problem, found: Sequence[Judged], digest: str) -> Row:
    strict, official = ([one.strict for one in found], [one.official for one in found])
    return {
        "question_id": problem.id,
        "difficulty": problem.difficulty,
        "n": len(found),
        "c": None if None in strict else strict.count("passed"),
        "c_official": None if None in official else official.count("passed"),
        "digest": digest,
    }


def _strict(rows: Sequence[Row]) -> Scores | None:
    return None if any(row["c"] is None for row in rows) else score(rows)


def _official(rows: Sequence[Row]) -> Scores | None:
    return _strict([{**row, "c": row["c_official"]} for row in rows])


def _counted(statuses: Iterable[str | None]) -> dict[str, int]:
    return dict(sorted(Counter(status for status in statuses if status is not None).items()))


def _errata(problems: Sequence[Problem], rows: Sequence[Row]) -> dict[str, Any]:
    """The flawed ones among the problems; the scores without those that accept several answers, None where that is all or nothing."""
    several = errata.several_answers(problems)
    kept = [row for row in rows if row["question_id"] not in several]
    without = {"problems": len(kept), "scores": _strict(kept), "scores_official": _official(kept)} if several and kept else None
    return {"source": errata.SOURCE, "several_answers": several, "unsolvable": errata.unsolvable(problems), "without": without}
