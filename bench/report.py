"""What was measured, as tables in Markdown and as JSON.

CPU is that of the whole tree of processes; wall time is a batch's over its tests, at the stated number of workers. Each figure is the
median of the rounds, with the lowest and the highest in brackets. A ratio is taken within each round first, so that a busy minute weighs
on both.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from bench.methods import OURS, PLAIN, WHOLE
from bench.programs import REAL, REPEATED, TRIVIAL

COLUMNS = ("judge", "programs/s", "tests/s", "CPU ms a test", "wall ms a test", "wall over ours", "CPU over ours")
Row = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """One group of programs, judged once by one method. `cpu`: None where not measured. `failed`: right programs that were not passed."""

    round: int
    material: str
    kind: str
    size: str
    method: str
    programs: int
    tests: int
    wall: float
    cpu: float | None
    failed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Overhead:
    """One test at a time by one worker, in ms a test: the program's own CPU, and what was used beyond it. `cpu`: None if not measured."""

    material: str
    own: list[float]
    wall: list[float]
    cpu: list[float] | None


@dataclass(frozen=True, slots=True)
class Totals:
    """A method's groups added up, by round."""

    programs: int
    tests: int
    wall: list[float]
    cpu: list[float] | None


def markdown(facts: dict[str, Any], runs: list[Run], overheads: list[Overhead]) -> str:
    """`facts`: what goes above the tables, by name."""
    parts = [", ".join(f"{name}: {value}" for name, value in facts.items())]
    for title, chosen in _views(runs):
        parts += [f"### {title}", table(_by_method(chosen))]
    parts += [
        "### By tests a program",
        table(_by_size(runs)),
        "### Beyond the program's own CPU, one test at a time",
        table(_beyond(overheads)),
    ]
    return "\n\n".join([*parts, "### Right programs that were not passed", _differences(runs)])


def as_json(facts: dict[str, Any], runs: list[Run], overheads: list[Overhead]) -> dict[str, Any]:
    return {"facts": facts, "runs": [asdict(run) for run in runs], "overheads": [asdict(overhead) for overhead in overheads]}


def _views(runs: list[Run]) -> Iterator[tuple[str, list[Run]]]:
    for size in dict.fromkeys(run.size for run in runs if run.material == TRIVIAL):
        chosen = [run for run in runs if run.material == TRIVIAL and run.size == size]
        yield f"Trivial programs, tests a program: {size}", chosen
    real = [run for run in runs if run.material == REAL]
    kinds = dict.fromkeys(run.kind for run in real)
    for kind in kinds:
        yield f"Real programs, {kind}", [run for run in real if run.kind == kind]
    if len(kinds) > 1:  # a process a program where that can be: for stdin programs it cannot
        yield "Real programs, all", real + [replace(run, method=WHOLE) for run in real if (run.method, run.kind) == (PLAIN, "stdin")]
    if repeated := [run for run in runs if run.material == REPEATED]:
        yield f"Real programs, stdin, tests repeated to {repeated[0].size} a program", repeated


def _by_method(runs: list[Run]) -> Iterator[Row]:
    yield COLUMNS
    methods = dict.fromkeys(run.method for run in sorted(runs, key=lambda run: run.method != OURS))
    totals = {method: _totals([run for run in runs if run.method == method]) for method in methods}
    for method, total in totals.items():
        yield _row(method, total, totals.get(OURS))


def _totals(runs: list[Run]) -> Totals:
    rounds = [[run for run in runs if run.round == number] for number in dict.fromkeys(run.round for run in runs)]
    cpu = [sum(run.cpu for run in one if run.cpu is not None) for one in rounds]
    measured = all(run.cpu is not None for run in runs)
    wall = [sum(run.wall for run in one) for one in rounds]
    return Totals(sum(run.programs for run in rounds[0]), sum(run.tests for run in rounds[0]), wall, cpu if measured else None)


def _row(method: str, total: Totals, ours: Totals | None) -> Row:
    return (
        method,
        spread([total.programs / seconds for seconds in total.wall]),
        spread([total.tests / seconds for seconds in total.wall]),
        spread(_per_test(total.cpu, total.tests)),
        spread(_per_test(total.wall, total.tests)),
        spread(ratios(total.wall, ours.wall if ours else None)),
        spread(ratios(total.cpu, ours.cpu if ours else None)),
    )


def _by_size(runs: list[Run]) -> Iterator[Row]:
    """CPU and wall a test, of each method, by the number of tests that a program has."""
    methods = list(dict.fromkeys(run.method for run in sorted(runs, key=lambda run: run.method != OURS)))
    yield ("material", "kind", "tests a program", "programs", *(f"{method}: CPU / wall ms a test" for method in methods))
    for material, kind, size in dict.fromkeys((run.material, run.kind, run.size) for run in runs):
        group = [run for run in runs if (run.material, run.kind, run.size) == (material, kind, size)]
        cells = [_cell([run for run in group if run.method == method]) for method in methods]
        yield (material, kind, size, str(_totals([run for run in group if run.method == group[0].method]).programs), *cells)


def _cell(runs: list[Run]) -> str:
    if not runs:
        return "-"
    total = _totals(runs)
    cpu, wall = _per_test(total.cpu, total.tests), _per_test(total.wall, total.tests) or []
    return f"{number(statistics.median(cpu)) if cpu else '-'} / {number(statistics.median(wall))}"


def _beyond(overheads: list[Overhead]) -> Iterator[Row]:
    yield ("programs", "tests", "own CPU ms p50", "p95", "CPU beyond it ms p50", "p95", "wall beyond it ms p50", "p95")
    for one in overheads:
        yield (one.material, str(len(one.wall)), *_percentiles(one.own), *_percentiles(one.cpu), *_percentiles(one.wall))


def _percentiles(values: list[float] | None) -> tuple[str, str]:
    if not values:
        return "-", "-"
    ranked = sorted(values)
    return number(statistics.median(ranked)), number(ranked[int(0.95 * (len(ranked) - 1))])


def _differences(runs: list[Run]) -> str:
    """Each method's, with the rounds in which it was so: a verdict that depends on the round is a matter of time."""
    found: dict[tuple[str, str, str], int] = {}
    for run in runs:
        for name in run.failed:
            found[run.method, run.material, name] = found.get((run.method, run.material, name), 0) + 1
    rounds = len({run.round for run in runs})
    return "\n".join(f"- {method}: {name} ({material}), {n} of {rounds} rounds" for (method, material, name), n in found.items()) or "None."


def _per_test(seconds: list[float] | None, tests: int) -> list[float] | None:
    return None if seconds is None else [value / tests * 1e3 for value in seconds]


def ratios(theirs: list[float] | None, ours: list[float] | None) -> list[float] | None:
    return [a / b for a, b in zip(theirs, ours, strict=True)] if theirs and ours else None


def spread(values: list[float] | None) -> str:
    return f"{number(statistics.median(values))} ({number(min(values))}-{number(max(values))})" if values else "-"


def number(value: float) -> str:
    """Three digits that count."""
    return f"{value:.{0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2}f}"


def table(rows: Iterator[Row]) -> str:
    head, *rest = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rest))
