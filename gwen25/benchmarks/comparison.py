"""Two evaluations held against each other, problem against problem: `gwen25 compare`.

    found = compare(report_a, report_b)      {"verdict": "better", "words": "B is better than A: ...", "scores": {...}, ...}
    text(found, "base", "merged")            the same for people: the verdict, then the tables, as Markdown

The verdict is on the primary comparison: pass@1 over all common problems, under the strict rules. Difficulties, other k and the
official rules are secondary, shown with their intervals. Scores that were not measured alike get no verdict (`UNLIKE`), and a problem
that the two judged by other tests is left out: weaker ones make any model better.
Not here: the arithmetic (`paired`, `power`), the wording of the verdict (`verdict`), the page of one report (`report`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from gwen25.benchmarks import paired, passk
from gwen25.benchmarks.report import UNKNOWN, cell
from gwen25.benchmarks.tally import KS
from gwen25.benchmarks.verdict import decide, points
from gwen25.errors import BadInput

Report = Mapping[str, Any]
Row = Mapping[str, Any]
Pair = tuple[Row, Row]

RULES: Final = {"strict": "c", "official": "c_official"}  # a row's passes, by the rules that counted them; the first has the verdict
UNLIKE: Final = ("benchmark", "rules", "temperature", "top_p")  # each moves the score of one and the same model: no verdict
CUT: Final = "max_tokens"  # likewise, where the smaller limit cut answers off
NOTED: Final = ("n", "prompt", "chat_format", "backend", "source", "isolation")  # worth knowing; the estimates remain comparable


def compare(a: Report, b: Report) -> dict[str, Any]:
    """B less A, each problem held against itself, as JSON has it.

    `only_a`, `only_b`, `other_tests`: problems left out, as one side lacks them or the two differ in statement or tests;
    `tests_unknown`: problems for which that cannot be told. `differs`: what was not measured alike, with both values;
    `incomparable`: the part of it that rules a verdict out; `unstated`: what would, and neither says. `scores`,
    `scores_official`: by slice and k a `paired.Difference` as a dict, None where it was not measured. BadInput where the two share
    no problem, or one is no report.
    """
    rows_a, rows_b = _rows(a), _rows(b)
    common = paired.common(rows_a, rows_b)
    pairs = [pair for pair in common if _same_tests(pair) is not False]
    if not pairs:
        raise BadInput(_nothing_common(len(common)))
    counted = _counted(pairs)
    scores = {rules: _scores(of_rules) for rules, of_rules in counted.items()}
    rules, unlike = next(iter(counted)), _unlike(a, b)
    primary = paired.Difference(**scores[rules]["all"]["1"])
    return {
        **decide(primary, counted[rules], unlike)._asdict(),
        "primary": {"slice": "all", "k": 1, "rules": rules},
        "problems": len(pairs),
        "only_a": len(rows_a) - len(common),
        "only_b": len(rows_b) - len(common),
        "other_tests": len(common) - len(pairs),
        "tests_unknown": sum(_same_tests(pair) is None for pair in pairs),
        "differs": {name: [a.get(name), b.get(name)] for name in (*UNLIKE, CUT, *NOTED) if a.get(name) != b.get(name)},
        "incomparable": unlike,
        "unstated": [name for name in (*UNLIKE, CUT) if a.get(name) is None and b.get(name) is None],
        "comparisons": sum(found is not None for part in scores.values() for by_k in part.values() for found in by_k.values()),
        "labels": {str(k): passk.label(k, _samples(pairs)) for k in KS},
        "scores": scores.get("strict"),
        "scores_official": scores.get("official"),
    }


def _nothing_common(others: int) -> str:
    why = f", but for {others} with another statement or other tests" if others else ""
    return f"the two reports have no problem in common{why}: evaluate both on the same problems"


def _rows(report: Report) -> list[Row]:
    """A report's problems. BadInput for what is none, or cannot be."""
    rows = report.get("rows")
    if not isinstance(rows, list) or not all(isinstance(row, dict) and _is_row(row) for row in rows):
        raise BadInput("not an evaluation's report: a report.json as `gwen25 evaluate` writes it is expected")
    try:
        for passes in RULES.values():
            passk.check([{**row, "c": row.get(passes) or 0} for row in rows])
    except ValueError as error:
        raise BadInput(f"not an evaluation's report: {error}") from error
    return rows


def _is_row(row: Row) -> bool:
    names, counts = (row.get("question_id"), row.get("difficulty")), (row.get("c"), row.get("c_official"))
    known = all(count is None or type(count) is int for count in counts) and isinstance(row.get("digest"), str | None)
    return all(isinstance(name, str) for name in names) and type(row.get("n")) is int and row["n"] > 0 and known


def _same_tests(pair: Pair) -> bool | None:
    """Whether both sides were judged on the same statement and tests; None where a report, as older ones, does not say."""
    a, b = (row.get("digest") for row in pair)
    return None if a is None or b is None else bool(a == b)


def _counted(pairs: Sequence[Pair]) -> dict[str, list[Pair]]:
    """The pairs by the rules that both sides were judged by, `c` being the passes under those."""
    found: dict[str, list[Pair]] = {
        rules: [({**a, "c": a[passes]}, {**b, "c": b[passes]}) for a, b in pairs]
        for rules, passes in RULES.items()
        if all(row.get(passes) is not None for pair in pairs for row in pair)
    }
    if not found:
        raise BadInput("the two reports were not judged by the same rules: evaluate both with the same version")
    return found


def _samples(pairs: Sequence[Pair]) -> int | None:
    counts = {row["n"] for pair in pairs for row in pair}
    return counts.pop() if len(counts) == 1 else None


def _scores(pairs: Sequence[Pair]) -> dict[str, dict[str, Any]]:
    """By the difficulty that A's report gives."""
    other = {a["question_id"]: b for a, b in pairs}
    parts = {name: [(a, other[a["question_id"]]) for a in part] for name, part in passk.slices([a for a, _ in pairs]).items()}
    return {name: {str(k): _difference(part, k) for k in KS} for name, part in parts.items()}


def _difference(pairs: Sequence[Pair], k: int) -> dict[str, Any] | None:
    found = paired.of(pairs, k)
    return None if found is None else found._asdict()


def _unlike(a: Report, b: Report) -> list[str]:
    """What rules a verdict out. A limit of tokens does where it was met: an answer that was cut off might have passed."""
    found = [name for name in UNLIKE if a.get(name) != b.get(name)]
    limits = a.get(CUT), b.get(CUT)
    if limits[0] == limits[1]:
        return found
    known = all(isinstance(limit, int) for limit in limits)
    shorter = min((a, b), key=lambda report: report[CUT]) if known else {}
    return found if shorter.get("truncated") == 0 else [*found, CUT]


# --------------------------------------------------------------------------------------------------------------- for people


def text(comparison: Mapping[str, Any], name_a: str = "A", name_b: str = "B") -> str:
    """`compare`'s result as Markdown, in percentage points: the verdict, what to know of it, a table for each set of rules."""
    parts = [comparison["words"], "".join(f"- {note}\n" for note in _notes(comparison, name_a, name_b))]
    for rules, scores in (("strict", comparison["scores"]), ("official", comparison["scores_official"])):
        if scores is not None:
            parts.append(f"Rules: {rules}\n\n{table(comparison, scores, rules)}")
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _notes(comparison: Mapping[str, Any], name_a: str, name_b: str) -> list[str]:
    notes = [f"A: {name_a}", f"B: {name_b}"]
    notes += [f"not measured alike: {name} ({_value(a)}; {_value(b)})" for name, (a, b) in comparison["differs"].items()]
    if {"prompt", "chat_format"} & comparison["differs"].keys():
        notes.append("each was asked in its own way: the verdict is on model and prompt together")
    if unstated := comparison["unstated"]:
        notes.append(f"not stated by either, and taken to be alike: {', '.join(unstated)}")
    if left_out := comparison["only_a"] + comparison["only_b"]:
        notes.append(f"{left_out} problems are in one report only and are left out")
    if other := comparison["other_tests"]:
        notes.append(f"{other} problems have another statement or other tests in each report and are left out")
    if unknown := comparison["tests_unknown"]:
        notes.append(f"{unknown} problems: a report does not say which tests it was judged by, and they are taken to be the same")
    rules, shown = comparison["primary"]["rules"], comparison["comparisons"]
    notes.append(
        f"{shown} comparisons are shown; the verdict rests on one (bold): pass@1 over all problems, {rules} rules. The others are "
        "secondary: of twenty without a difference, one has p < 0.05"
    )
    return notes


def _value(value: Any) -> str:
    return "unknown" if value is None else str(value)


def table(comparison: Mapping[str, Any], scores: Mapping[str, Any], rules: str) -> str:
    """One line for each slice and k; `detectable` is the least true difference found in four cases of five."""
    lines = ["| | problems | A | B | B - A, points (95 %) | p | detectable, points |", "|---|---:|---:|---:|---:|---:|---:|"]
    for part, by_k in scores.items():
        for k, found in by_k.items():
            name = f"{cell(part)}, {comparison['labels'][k]}"
            name = f"**{name}**" if comparison["primary"] == {"slice": part, "k": int(k), "rules": rules} else name
            if found is not None:
                lines.append(f"| {name} | " + " | ".join(_cells(found)) + " |")
    return "\n".join(lines) + "\n"


def _cells(found: Mapping[str, Any]) -> list[str]:
    interval = f"{points(found['difference'])} ({points(found['low'])} to {points(found['high'])})"
    least = UNKNOWN if found["detectable"] is None else f"{100 * found['detectable']:.2f}"
    p = "<0.0001" if found["p"] < 0.0001 else f"{found['p']:.2g}"
    return [str(found["problems"]), f"{found['a']:.2%}", f"{found['b']:.2%}", interval, p, least]
