"""An evaluation as a page: the report's Markdown table and its picture.

    table({"base": a, "merged": b})        pass@1, pass@5 under both rules, then by difficulty; a column for each model
    markdown([report])                     the page of one evaluation; of a base model's two, one for each prompt, side by side

A value that was not measured is None in the dict and "–" on the page. Not here: the arithmetic (`passk`), the counting (`tally`),
two reports held against each other (`comparison`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from gwen25.benchmarks import passk
from gwen25.benchmarks.tally import KS

Report = Mapping[str, Any]
UNKNOWN: Final = "–"
RULES: Final = {"": "scores", ", official rules": "scores_official"}  # words in a label, and where the values stand


def table(reports: Mapping[str, Report]) -> str:
    """One or several reports side by side, as a Markdown table: value, 95 % interval, and how many problems stand behind it."""
    columns = list(reports.values())
    n = columns[0]["n"] if len({report["n"] for report in columns}) == 1 else None
    rules = {words: scores for words, scores in RULES.items() if any(report.get(scores) is not None for report in columns)}
    lines = ["| | " + " | ".join(cell(name) for name in reports) + " |", "|---|" + "---:|" * len(reports)]
    for part, k, (words, scores) in itertools.product(_slices(columns), KS, rules.items()):
        cells = [_value(report.get(scores), part, str(k)) for report in columns]
        if set(cells) != {UNKNOWN}:  # nobody has so many samples
            name = f"{passk.label(k, n)}{words}"
            lines.append(_line(f"**{name}**" if part == "all" else f"{cell(part)}, {name}", cells))
    lines += _without_errata(columns, rules)
    lines.append(_line("problems", map(_counts, columns)))
    lines.append(_line("samples each (n)", (str(report["n"]) for report in columns)))
    shares = {"truncated answers": "truncated", "answers without code": "no_code", "programs from unclosed reasoning": "from_draft"}
    for label, name in shares.items():
        if any(report.get(name) is not None for report in columns):
            lines.append(_line(label, (_share(report, name) for report in columns)))
    return "\n".join(lines) + "\n"


def _line(label: str, cells: Iterable[str]) -> str:
    return f"| {label} | " + " | ".join(cells) + " |"


def _without_errata(reports: Sequence[Report], rules: Mapping[str, str]) -> list[str]:
    """pass@1 less the problems that accept several answers, where any report has one."""
    found = [(report.get("errata") or {}).get("without") or {} for report in reports]
    if not any(found):
        return []
    label = "pass@1 without problems that accept several answers"
    return [_line(label + words, (_value(part.get(scores), "all", "1") for part in found)) for words, scores in rules.items()]


def _slices(reports: Iterable[Report]) -> list[str]:
    names = {name for report in reports for name in report["problems"]}
    return [name for name in passk.ORDER if name in names] + sorted(names - set(passk.ORDER))


def cell(text: str) -> str:
    """A text within a table."""
    return text.replace("|", "\\|").replace("\n", " ")


def _value(scores: Mapping[str, Any] | None, part: str, k: str) -> str:
    found = (scores or {}).get(part, {}).get(k)
    return UNKNOWN if found is None else f"{found['value']:.1%} ({found['low']:.1%} to {found['high']:.1%})"


def _counts(report: Report) -> str:
    counts = dict(report["problems"])
    total = counts.pop("all")
    return f"{total} ({', '.join(f'{cell(name)} {count}' for name, count in counts.items())})"


def _share(report: Report, name: str) -> str:
    if report.get(name) is None:
        return UNKNOWN
    passed = report.get(f"{name}_passed")
    return f"{report[name]} of {report['samples']}" + ("" if passed is None else f", {passed} passed")


def columns(reports: Sequence[Report]) -> dict[str, Report]:
    """The reports of one model by a name for each: the model's, with the prompt where there are several."""
    return {report["model"] if len(reports) == 1 else f"{report['model']}, {report['prompt']}": report for report in reports}


def markdown(reports: Sequence[Report]) -> str:
    """The page: the table, how it was measured, the verdicts, and what a reader should know. One column for each report."""
    named = columns(reports)
    parts = [
        f"# LiveCodeBench: {cell(reports[0]['model'])}\n\n{table(named)}",
        "In brackets: 95 % interval over problems (exact where each is solved or not, else a bootstrap). Rules where none are named: "
        "strict, this project's. Official rules: LiveCodeBench's own extraction of the program and comparison of lines (state of "
        "2025-07-15), on real processes; docs/livecodebench.md says what still differs.\n",
        f"## How it was measured\n\n{_measured(reports)}",
        f"## Verdicts\n\n{_verdicts(named)}",
        *_flaws(reports[0]),
    ]
    notes = dict.fromkeys(note for report in reports for note in report["notes"])
    return "\n".join(parts) + ("\n## Notes\n\n" + "".join(f"- {note}\n" for note in notes) if notes else "")


def _measured(reports: Sequence[Report]) -> str:
    columns = [dict(_facts(report)) for report in reports]
    known = [label for label in columns[0] if any(column[label] is not None for column in columns)]
    lines = ["| |" + " |" * len(columns), "|---|" + "---|" * len(columns)]
    lines += [_line(label, (UNKNOWN if column[label] is None else cell(str(column[label])) for column in columns)) for label in known]
    return "\n".join(lines) + "\n"


def _facts(report: Report) -> list[tuple[str, Any]]:
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
        ("prompt", report["prompt"]),
        ("chat format", report["chat_format"]),
        ("temperature", report["temperature"]),
        ("top_p", report["top_p"]),
        ("max_tokens", report["max_tokens"]),
        ("seed", report["seed"]),
        ("rules", f"{report['rules']}, official"),
        ("isolation of programs", report["isolation"]),
    ]


def _verdicts(named: Mapping[str, Report]) -> str:
    columns = {
        f"{name}: {rules}" if len(named) > 1 else rules: report[key]
        for name, report in named.items()
        for rules, key in (("strict", "verdicts"), ("official", "verdicts_official"))
    }
    statuses = sorted({status for counts in columns.values() for status in counts})
    lines = [_line("verdict", map(cell, columns)), "|---|" + "---:|" * len(columns)]
    lines += [_line(cell(status), (str(counts.get(status, 0)) for counts in columns.values())) for status in statuses]
    return "\n".join(lines) + "\n"


def _flaws(report: Report) -> list[str]:
    """The problems that the benchmark's authors list as flawed."""
    errata = report["errata"]
    listed = {**errata["several_answers"], **errata["unsolvable"]}
    if not listed:
        return []
    return [f"## Flawed problems\n\nBy {errata['source']}:\n\n" + "".join(f"- {name} {why}\n" for name, why in listed.items())]


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
