"""pass@k: the unbiased estimator, by difficulty, with intervals, and paired between two models.

    pass_at_k(5, 2, 1)                  0.4
    aggregate(rows, (1, 5))             {"all": {"1": 0.4, "5": None}, "easy": {...}}
    interval(rows, 1)                   Interval(low=0.31, high=0.49)
    paired(rows_a, rows_b, 1)           Difference(problems=400, a=0.31, b=0.36, difference=0.05, low=0.02, high=0.08)

A row is one problem: {"question_id": str, "difficulty": str, "n": samples drawn, "c": samples that passed}. What cannot be
estimated is None, never a number: pass@5 of a problem with three samples is not known.

Intervals are over *problems*, the unit that was drawn; the samples of one problem are no independent evidence about others.
Not here: verdicts (`livecodebench`), tables and pictures (`report`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Row = Mapping[str, Any]

RESAMPLES: Final = 10_000  # bootstrap draws: the 2.5 % points then wander by about 1 % of the interval's width
ALPHA: Final = 0.05
SEED: Final = 20210707  # of the resampling only; the day of the estimator's paper
ORDER: Final = ("all", "easy", "medium", "hard")


class Interval(NamedTuple):
    """A 95 % interval; both ends lie between 0 and 1."""

    low: float
    high: float


class Difference(NamedTuple):
    """Mean pass@k of `b` less that of `a` over the problems both have, with a 95 % interval."""

    problems: int
    a: float
    b: float
    difference: float
    low: float
    high: float


def pass_at_k(n: int, c: int, k: int) -> float:
    """The chance that at least one of k samples passes, from c passes among n: 1 - C(n-c, k) / C(n, k).

    Unbiased (Chen et al. 2021, "Evaluating Large Language Models Trained on Code", eq. 1), computed in whole numbers and
    rounded once. ValueError where it is not defined: k below 1, k above n, c outside 0..n.
    """
    if k < 1:
        raise ValueError(f"pass@{k}: k must be at least 1")
    if not 0 <= c <= n:
        raise ValueError(f"pass@{k}: {c} passes among {n} samples")
    if k > n:
        raise ValueError(f"pass@{k} cannot be estimated from {n} sample{'s' if n != 1 else ''}: draw at least {k}")
    draws = math.comb(n, k)
    return (draws - math.comb(n - c, k)) / draws


def slices(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by difficulty: `all` (always there), then easy, medium, hard, then other names by alphabet; only those that occur."""
    _check(rows)
    names = {str(row["difficulty"]) for row in rows}
    ordered = [name for name in ORDER[1:] if name in names] + sorted(names - set(ORDER))
    return {"all": list(rows), **{name: [row for row in rows if row["difficulty"] == name] for name in ordered}}


def aggregate(rows: Sequence[Row], ks: Iterable[int]) -> dict[str, dict[str, float | None]]:
    """Mean pass@k over the problems of each slice, as {"all": {"1": 0.5, "5": None}, "easy": ...}.

    None where a problem of that slice has fewer than k samples, or where there is no problem. ValueError for rows that cannot
    be (see `pass_at_k`), a question twice, a difficulty named "all".
    """
    wanted = list(ks)
    return {name: {str(k): mean(part, k) for k in wanted} for name, part in slices(rows).items()}


def mean(rows: Sequence[Row], k: int) -> float | None:
    """Mean pass@k over problems, each problem counting once; None where it cannot be estimated."""
    values = _values(rows, k)
    return None if values is None else math.fsum(values) / len(values)


def interval(rows: Sequence[Row], k: int) -> Interval | None:
    """95 % interval of mean pass@k: percentile bootstrap over problems, the same draws every time.

    Where all problems agree (nothing passes, or everything) a bootstrap would claim certainty. There the exact bound of
    Clopper and Pearson is taken: nothing among 90 problems means at most 3.3 %. None where pass@k cannot be estimated.
    """
    values = _values(rows, k)
    return None if values is None else Interval(*_bounds(values, 0.0, 1.0))


def paired(rows_a: Sequence[Row], rows_b: Sequence[Row], k: int) -> Difference | None:
    """How much better b is than a on the problems both have, each problem held against itself.

    Pairing removes the spread between easy and hard problems, which is most of it. None where a common problem has fewer than
    k samples on either side. ValueError where no problem is common.
    """
    _check(rows_a)
    _check(rows_b)
    by_id = {row["question_id"]: row for row in rows_b}
    common = [(row, by_id[row["question_id"]]) for row in rows_a if row["question_id"] in by_id]
    if not common:
        raise ValueError("the two have no problem in common")
    a, b = _values([first for first, _ in common], k), _values([second for _, second in common], k)
    if a is None or b is None:
        return None
    differences = [after - before for before, after in zip(a, b, strict=True)]
    low, high = _bounds(differences, -1.0, 1.0)
    size = len(common)
    return Difference(size, math.fsum(a) / size, math.fsum(b) / size, math.fsum(differences) / size, low, high)


def _check(rows: Sequence[Row]) -> None:
    seen: set[str] = set()
    for row in rows:
        if row["question_id"] in seen:
            raise ValueError(f"question {row['question_id']} occurs twice")
        if row["difficulty"] == "all":
            raise ValueError(f"question {row['question_id']}: the difficulty 'all' is taken by the sum of all")
        if not 0 <= row["c"] <= row["n"]:
            raise ValueError(f"question {row['question_id']}: {row['c']} passes among {row['n']} samples")
        seen.add(row["question_id"])


def _values(rows: Sequence[Row], k: int) -> list[float] | None:
    if k < 1:
        raise ValueError(f"pass@{k}: k must be at least 1")
    if not rows or any(row["n"] < k for row in rows):
        return None
    return [pass_at_k(row["n"], row["c"], k) for row in rows]


def _bounds(values: Sequence[float], least: float, most: float) -> tuple[float, float]:
    if min(values) == max(values):
        return _agreeing(values[0], len(values), least, most)
    import numpy as np

    means = _bootstrap(np.asarray(values, dtype=np.float64))
    low, high = np.quantile(means, [ALPHA / 2, 1 - ALPHA / 2])
    return float(low), float(high)


def _bootstrap(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """RESAMPLES means of as many problems drawn with replacement; a thousand at a time, 8 MB for a thousand problems."""
    import numpy as np

    random, size, chunk = np.random.default_rng(SEED), len(values), 1000
    means = [values[random.integers(0, size, (chunk, size))].mean(axis=1) for _ in range(RESAMPLES // chunk)]
    return np.concatenate(means)


def _agreeing(value: float, problems: int, least: float, most: float) -> tuple[float, float]:
    """Bounds where every problem gave the same value.

    With 95 % confidence at most `share` of all problems would give another (Clopper-Pearson for none among `problems`, in
    closed form), and those lie at worst at an end of the scale.
    """
    share = 1 - ALPHA ** (1 / problems)
    return value - share * (value - least), value + share * (most - value)
