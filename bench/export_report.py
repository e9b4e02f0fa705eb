"""What `bench.export` measured, as tables in Markdown and as JSON, and which goals it meets.

Each figure is the median of the rounds, with the lowest and the highest in brackets; a ratio is taken within each round first.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any, NamedTuple

from bench.report import ratios, spread, table

OURS, CONVERTER, PEFT, COPY, NOTHING, TORCH = "ours", "converter", "peft", "copy", "nothing", "torch"
TITLES = {CONVERTER: "llama.cpp's converter", PEFT: "PEFT", COPY: "cp and fsync", NOTHING: "the interpreter", TORCH: "import torch"}
MB = 1e6
# of the median: (work, against, most that ours may take of its wall time)
GOALS = (("f16", CONVERTER, 1 / 3), ("f16", COPY, 2.5), ("q8_0", CONVERTER, 1 / 3), ("q8_0", COPY, 2.5), ("merge", PEFT, 0.75))
MEMORY = 200.0  # MB above the interpreter (a GGUF) or above import torch (a merge)
GROWTH = 1.1  # of the peak, from the smallest size to the largest
Row = tuple[str, ...]


class Run(NamedTuple):
    """One contestant's work, once. `peak`: bytes, None where not measured. `same`: our output is the other's; None where not compared."""

    round: int
    size: str
    what: str
    work: str
    wall: float
    cpu: float
    peak: int | None
    same: bool | None


def markdown(facts: dict[str, Any], runs: list[Run]) -> str:
    parts = [", ".join(f"{name}: {value}" for name, value in facts.items())]
    for size in dict.fromkeys(run.size for run in runs):
        parts += [f"### Export, Qwen2.5-{size}'s shape", table(_rows([run for run in runs if run.size == size]))]
    return "\n\n".join([*parts, "### Goals", table(_goals(runs))])


def as_json(facts: dict[str, Any], runs: list[Run]) -> dict[str, Any]:
    return {"facts": facts, "runs": [run._asdict() for run in runs]}


def _rows(runs: list[Run]) -> Iterator[Row]:
    yield ("work", "by", "wall s", "CPU s", "peak MB", "above its start MB", "wall over ours", "bytes as ours")
    for work, what in dict.fromkeys((run.work, run.what) for run in runs):
        chosen, ours = _of(runs, work, what), _of(runs, work, OURS)
        against = ratios([run.wall for run in chosen], [run.wall for run in ours] or None) if what != OURS else None
        equal = {run.same for run in ours if run.same is not None} if what in (CONVERTER, PEFT) else set()
        yield (
            work or "-",
            TITLES.get(what, what),
            spread([run.wall for run in chosen]),
            spread([run.cpu for run in chosen]),
            spread(_megabytes(chosen)),
            spread(_above(runs, chosen)),
            spread(against),
            "-" if not equal else "yes" if equal == {True} else "NO",
        )


def _of(runs: list[Run], work: str, what: str) -> list[Run]:
    return [run for run in runs if (run.work, run.what) == (work, what)]


def _megabytes(runs: list[Run]) -> list[float] | None:
    return [run.peak / MB for run in runs if run.peak is not None] or None


def _above(runs: list[Run], chosen: list[Run]) -> list[float] | None:
    """Above import torch for the two that merge, above the interpreter for the others."""
    start = _megabytes(_of(runs, "", TORCH if chosen[0].work == "merge" else NOTHING))
    peaks = _megabytes(chosen)
    return [peak - statistics.median(start) for peak in peaks] if start and peaks and chosen[0].work else None


def _goals(runs: list[Run]) -> Iterator[Row]:
    yield ("size", "goal", "measured", "met")
    sizes = list(dict.fromkeys(run.size for run in runs))
    for size in sizes:
        held = [run for run in runs if run.size == size]
        for work, against, most in GOALS:
            ours, theirs = _of(held, work, OURS), _of(held, work if against != COPY else "", against)
            if found := ratios([run.wall for run in ours], [run.wall for run in theirs]):
                goal = f"{work}: at most {most:.2f} of the wall time of {TITLES[against]}"
                yield (size, goal, spread(found), _met(statistics.median(found), most))
        for work in dict.fromkeys(run.work for run in held if run.what == OURS):
            above = _above(held, _of(held, work, OURS))
            if above:
                yield (size, f"{work}: at most {MEMORY:.0f} MB above its start", spread(above), _met(max(above), MEMORY))
    if len(sizes) > 1:
        yield from _growth(runs, sizes[0], sizes[-1])


def _growth(runs: list[Run], small: str, large: str) -> Iterator[Row]:
    """Whether memory is the same for a small and a large model."""
    for work in dict.fromkeys(run.work for run in runs if run.what == OURS):
        peaks = [_megabytes(_of([run for run in runs if run.size == size], work, OURS)) for size in (small, large)]
        if grown := ratios(peaks[1], peaks[0]):
            yield (large, f"{work}: at most {GROWTH} times the peak of {small}", spread(grown), _met(statistics.median(grown), GROWTH))


def _met(value: float, most: float) -> str:
    return "yes" if value <= most else "NO"
