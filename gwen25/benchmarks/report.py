"""An evaluation as a page: the report's dict, its Markdown table, its picture, and two of them compared.

    score(rows, (1, 5))                    {"all": {"1": {"value": 0.31, "low": 0.27, "high": 0.35}, "5": None}, "easy": ...}
    table({"base": a, "merged": b})        Markdown: pass@1, pass@5, then by difficulty; a column for each model
    compare(report_a, report_b)            problem against problem, with intervals

A value that was not measured is None in the dict and "–" on the page. Not here: the arithmetic (`passk`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from gwen25.benchmarks import passk
from gwen25.errors import BadInput

Report = Mapping[str, Any]
KS: Final = (1, 5)
UNKNOWN: Final = "–"


def score(rows: Sequence[passk.Row], ks: Iterable[int] = KS) -> dict[str, dict[str, dict[str, float] | None]]:
    """pass@k with its 95 % interval, by slice and k; None where a problem of the slice has fewer than k samples."""
    return {name: {str(k): _scored(part, k) for k in ks} for name, part in passk.slices(rows).items()}


def _scored(rows: Sequence[passk.Row], k: int) -> dict[str, float] | None:
    value, bounds = passk.mean(rows, k), passk.interval(rows, k)
    return None if value is None or bounds is None else {"value": value, "low": bounds.low, "high": bounds.high}


def table(reports: Mapping[str, Report]) -> str:
    """One or several reports side by side, as a Markdown table: value, 95 % interval, and how many problems stand behind it."""
    lines = ["| | " + " | ".join(_cell(name) for name in reports) + " |", "|---|" + "---:|" * len(reports)]
    for row in _slices(reports.values()):
        for k in map(str, KS):
            label = f"**pass@{k}**" if row == "all" else f"{_cell(row)}, pass@{k}"
            lines.append(f"| {label} | " + " | ".join(_value(report, row, k) for report in reports.values()) + " |")
    lines.append("| problems | " + " | ".join(_counts(report) for report in reports.values()) + " |")
    lines.append("| samples each (n) | " + " | ".join(str(report["n"]) for report in reports.values()) + " |")
    lines.append("| truncated answers | " + " | ".join(_share(report, "truncated") for report in reports.values()) + " |")
    lines.append("| answers without code | " + " | ".join(_share(report, "no_code") for report in reports.values()) + " |")
    lines.append("| programs from unclosed reasoning | " + " | ".join(map(_drafts, reports.values())) + " |")
    return "\n".join(lines) + "\n"


def _slices(reports: Iterable[Report]) -> list[str]:
    names = {name for report in reports for name in report["scores"]}
    return [name for name in passk.ORDER if name in names] + sorted(names - set(passk.ORDER))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _value(report: Report, row: str, k: str) -> str:
    found = report["scores"].get(row, {}).get(k)
    return UNKNOWN if found is None else f"{found['value']:.1%} ({found['low']:.1%} to {found['high']:.1%})"


def _counts(report: Report) -> str:
    counts = dict(report["problems"])
    total = counts.pop("all")
    return f"{total} ({', '.join(f'{_cell(name)} {count}' for name, count in counts.items())})"


def _drafts(report: Report) -> str:
    return f"{_share(report, 'from_draft')}, {report['from_draft_passed']} passed"


def _share(report: Report, name: str) -> str:
    return f"{report[name]} of {report['samples']}"


def markdown(report: Report) -> str:
    """The page of one report: the table, how it was measured, the verdicts, and what a reader should know."""
    rows = "\n".join(f"| {label} | {_cell(str(value))} |" for label, value in _measured(report) if value is not None)
    verdicts = "\n".join(f"| {_cell(status)} | {count} |" for status, count in report["verdicts"].items())
    notes = "".join(f"- {note}\n" for note in report["notes"])
    return (
        f"# LiveCodeBench: {_cell(report['model'])}\n\n{table({report['model']: report})}\n"
        "In brackets: 95 % interval over problems (bootstrap; the exact bound where all problems agree).\n\n"
        f"## How it was measured\n\n| | |\n|---|---|\n{rows}\n\n"
        f"## Verdicts\n\n| verdict | answers |\n|---|---:|\n{verdicts}\n" + (f"\n## Notes\n\n{notes}" if notes else "")
    )


def _measured(report: Report) -> list[tuple[str, Any]]:
    window = report["window"]
    asked = f"{window['start_date'] or 'the first'} to {window['end_date'] or 'the last'}"
    dates = f"{window['first']} to {window['last']}" if window["first"] else "unknown"
    return [
        ("problems from", report["source"]),
        ("release", report["release"]),
        ("window asked for", asked),
        ("contests of these problems", dates),
        ("backend", report["backend"]),
        ("served model", report["served_model"]),
        ("chat format", report["chat_format"]),
        ("temperature", report["temperature"]),
        ("top_p", report["top_p"]),
        ("max_tokens", report["max_tokens"]),
        ("seed", report["seed"]),
        ("rules", report["rules"]),
    ]


def picture(reports: Mapping[str, Report], path: Path) -> None:
    """Write the table's values as bars with their intervals, a PNG of the same bytes for the same reports."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    bars = [
        (row, k)
        for k in map(str, KS)
        for row in _slices(reports.values())
        if any(r["scores"].get(row, {}).get(k) for r in reports.values())
    ]
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, "backend": "Agg"}):  # not the user's own style
        figure, axes = pyplot.subplots(figsize=(1.6 + 0.8 * max(len(bars), 3), 4), dpi=120, layout="constrained")
        width = 0.8 / len(reports)
        for place, (name, report) in enumerate(reports.items()):
            _bars(axes, report, name, bars, width, (place - (len(reports) - 1) / 2) * width)
        axes.set_xticks(range(len(bars)), [f"pass@{k}\n{row}" for row, k in bars])
        axes.set_ylabel("% of problems")
        axes.set_ylim(0, 100)
        axes.legend(loc="upper right")
        figure.savefig(path, format="png", metadata={"Software": None})
        pyplot.close(figure)


def _bars(axes: Any, report: Report, name: str, bars: Sequence[tuple[str, str]], width: float, shift: float) -> None:
    found = [(at, report["scores"].get(row, {}).get(k)) for at, (row, k) in enumerate(bars)]
    known = [(at, value) for at, value in found if value is not None]
    places, heights = [at + shift for at, _ in known], [100 * value["value"] for _, value in known]
    below = [100 * max(value["value"] - value["low"], 0) for _, value in known]
    above = [100 * max(value["high"] - value["value"], 0) for _, value in known]
    axes.bar(places, heights, width, yerr=[below, above], capsize=3, label=name)


def compare(a: Report, b: Report) -> dict[str, Any]:
    """b less a, each problem held against itself, by slice and k: {"problems": 400, "scores": {"all": {"1": {...}, "5": None}}, ...}.

    `only_a`, `only_b`: problems that one side lacks, left out. `differs`: what was not measured alike, such as max_tokens.
    BadInput where the two share no problem, or one is no report.
    """
    rows = [_rows(report) for report in (a, b)]
    ids = [{row["question_id"] for row in side} for side in rows]
    common = ids[0] & ids[1]
    if not common:
        raise BadInput("the two reports have no problem in common: evaluate both on the same problems")
    parts = passk.slices([row for row in rows[0] if row["question_id"] in common])
    return {
        "problems": len(common),
        "only_a": len(ids[0] - common),
        "only_b": len(ids[1] - common),
        "differs": [
            name for name in ("n", "temperature", "top_p", "max_tokens", "chat_format", "backend", "rules") if a.get(name) != b.get(name)
        ],
        "scores": {name: {str(k): _compared(part, rows[1], k) for k in KS} for name, part in parts.items()},
    }


def _rows(report: Report) -> list[dict[str, Any]]:
    rows = report.get("rows")
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and {"question_id", "difficulty", "n", "c"} <= row.keys() for row in rows
    ):
        raise BadInput("not an evaluation's report: a report.json as `gwen25 evaluate` writes it is expected")
    return rows


def _compared(rows_a: Sequence[passk.Row], rows_b: Sequence[passk.Row], k: int) -> dict[str, float] | None:
    found = passk.paired(rows_a, rows_b, k)
    return None if found is None else dict(found._asdict())


def comparison_table(comparison: Mapping[str, Any], name_a: str = "a", name_b: str = "b") -> str:
    """`compare`'s result as Markdown, in percentage points."""
    lines = [f"| | problems | {_cell(name_a)} | {_cell(name_b)} | difference, points (95 %) |", "|---|---:|---:|---:|---:|"]
    for row, by_k in comparison["scores"].items():
        for k, found in by_k.items():
            cells = [UNKNOWN] * 4 if found is None else _difference(found)
            lines.append(f"| {_cell(row)}, pass@{k} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _difference(found: Mapping[str, float]) -> list[str]:
    points = f"{100 * found['difference']:+.1f} ({100 * found['low']:+.1f} to {100 * found['high']:+.1f})"
    return [str(found["problems"]), f"{found['a']:.1%}", f"{found['b']:.1%}", points]
