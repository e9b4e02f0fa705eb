"""Two models on the same problems: the difference of their pass@k, problem by problem, and whether chance would do as much.

    of(common(rows_a, rows_b), 1) Difference(problems=400, a=0.31, b=0.36, difference=0.05, low=0.02, high=0.08, p=0.001, ...)
    sign_flip(differences)        Test(p=0.031, name="sign flips, exact")

Pairing removes the spread between easy and hard problems, which is most of it. The test: if the two models were alike, each
problem's difference could as well have had the other sign; p is the share of all 2^m ways to choose the signs whose sum is as
far from zero as the sum seen. Where a problem's value is 0 or 1 on both sides (one sample each, or any of n) this is McNemar's
exact test. The interval is the same test turned round (Hartigan's typical values): the means of random halves of the
problems. So 0 lies outside of it where p is below 0.05, but for the draws' own noise at the very edge, and p decides.

What is assumed: problems are drawn independently, and without a difference between the models a problem's difference is
symmetric about zero: true where the models are alike. Where few problems gain what many lose a little of, it is not, and p below
0.05 then comes up to three times as often as one time in twenty (tests, docs/comparing.md).
Not here: the words (`verdict`), the page (`comparison`), how many problems would do (`power`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Final, NamedTuple

from gwen25.benchmarks import passk, power
from gwen25.benchmarks.passk import ALPHA, SEED, Row, agreeing, share_unseen
from gwen25.benchmarks.power import FEWEST

EXACT_WORK: Final = 50_000_000  # additions for an exact p-value, some 50 ms; 1,000 problems of 5 samples need 2 million
FEW: Final = 16  # differing problems whose 65,536 choices of signs are listed where counting would cost more
FLIPS: Final = 10_000  # random choices of signs where both would cost too much: p = 0.05 is then known to 0.004 (95 %)
HALVES: Final = 20_000  # for the interval, whose ends lie at 2.5 %: known to 0.2 % (95 %)


class Test(NamedTuple):
    """A two-sided p-value and how it was found."""

    p: float
    name: str


class Difference(NamedTuple):
    """Mean pass@k of `b` less that of `a` over the problems both have, with a 95 % interval and a two-sided p-value.

    `detectable`: the least true difference that a comparison like this one finds in four cases of five (`power`), None where too
    few problems differ for any to be.
    """

    problems: int
    a: float
    b: float
    difference: float
    low: float
    high: float
    p: float
    test: str
    detectable: float | None


def common(rows_a: Sequence[Row], rows_b: Sequence[Row]) -> list[tuple[Row, Row]]:
    """The problems both have, by id, in the order of a."""
    by_id = {row["question_id"]: row for row in rows_b}
    return [(row, by_id[row["question_id"]]) for row in rows_a if row["question_id"] in by_id]


def of(pairs: Sequence[tuple[Row, Row]], k: int) -> Difference | None:
    """How much better b is than a on these problems, each held against itself; None where one has fewer than k samples on a side."""
    if any(row["n"] < k for pair in pairs for row in pair):
        return None
    a, b = ([passk.exactly(row["n"], row["c"], k) for row in side] for side in zip(*pairs, strict=True))
    steps, size = [after - before for before, after in zip(a, b, strict=True)], len(pairs)
    low, high = _interval([float(step) for step in steps])
    p, name = sign_flip(steps)
    if {*a, *b} <= {0, 1}:
        name = name.replace("sign flips", "McNemar")
    mean_a, mean_b, mean = (float(sum(side) / size) for side in (a, b, steps))  # of fractions: no difference is 0, not 1e-17
    least = power.detectable(mean_square(steps), size) if sum(map(bool, steps)) >= FEWEST else None
    return Difference(size, mean_a, mean_b, mean, low, high, p, name, least)


def mean_square(steps: Sequence[Fraction | float]) -> float:
    """The differences' variance about zero, as the test sees it."""
    return math.fsum(float(step) ** 2 for step in steps) / len(steps)


def sign_flip(steps: Sequence[Fraction]) -> Test:
    """The test on the problems' differences: exact where that is cheap, else by drawn signs, the same every time."""
    scale = math.lcm(*(step.denominator for step in steps))
    whole = [int(step * scale) for step in steps if step]
    if not whole:
        return Test(1.0, "sign flips, exact")
    unit = math.gcd(*whole)
    sizes, seen = [abs(step) // unit for step in whole], abs(sum(whole)) // unit
    if sum(sizes) * len(sizes) <= EXACT_WORK:
        return Test(_exact(sizes, seen), "sign flips, exact")
    if len(sizes) <= FEW:
        return Test(_listed(sizes, seen), "sign flips, exact")
    return Test(_drawn(sizes, seen), f"sign flips, {FLIPS:,} drawn")


def _exact(sizes: Sequence[int], seen: int) -> float:
    """The chance that sizes, each with a random sign, sum to `seen` or more in absolute value: by their distribution itself.

    `chances[s]` is the chance that the sizes with a plus sum to s; the whole sum is then 2 s - reach.
    """
    import numpy as np

    reach = sum(sizes)
    chances = np.zeros(reach + 1)
    chances[0] = 1.0
    for size in sizes:
        without = chances / 2
        chances = without.copy()
        chances[size:] += without[:-size]
    return min(float(chances[np.abs(2 * np.arange(reach + 1) - reach) >= seen].sum()), 1.0)


def _listed(sizes: Sequence[int], seen: int) -> float:
    """The same by every choice of signs, for sizes too uneven to be counted up to their sum (mixed numbers of samples)."""
    import numpy as np

    sums = np.zeros(1)
    for size in sizes:
        sums = np.concatenate([sums - size, sums + size])
    return float(np.mean(np.abs(sums) >= seen * (1 - 1e-9)))


def _drawn(sizes: Sequence[int], seen: int) -> float:
    """The same by random signs. The signs seen are one more draw (hence + 1): p is never 0, and the test never too bold."""
    import numpy as np

    random, sums = np.random.default_rng(SEED), np.zeros(FLIPS)
    distinct, counts = np.unique(np.asarray(sizes, dtype=np.float64), return_counts=True)
    for size, count in zip(distinct, counts, strict=True):
        sums += size * (2 * random.binomial(count, 0.5, FLIPS) - count)
    return float((np.count_nonzero(np.abs(sums) >= seen * (1 - 1e-9)) + 1) / (FLIPS + 1))


def _interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the mean difference; where fewer than FEWEST differ, never surer than if none had.

    Where all differ alike, halves have no spread: problems not seen may show none of the difference, or twice as much.
    """
    if not any(values):
        return agreeing(0.0, len(values), -1.0, 1.0)
    (low, high), unseen = _halves(values), share_unseen(len(values))
    if min(values) == max(values):
        low, high = max(low - unseen * abs(low), -1.0), min(high + unseen * abs(high), 1.0)
    if sum(map(bool, values)) < FEWEST:
        low, high = min(low, -unseen), max(high, unseen)
    return low, high


def _halves(values: Sequence[float]) -> tuple[float, float]:
    """2.5 % and 97.5 % points of the mean of a random half, each problem being in it or not; of an empty one anything is possible."""
    import numpy as np

    random, sums, sizes = np.random.default_rng(SEED), np.zeros(HALVES), np.zeros(HALVES)
    for value, count in zip(*np.unique(np.asarray(values), return_counts=True), strict=True):
        drawn = random.binomial(count, 0.5, HALVES)
        sums += value * drawn
        sizes += drawn
    means = np.round(sums, 12) / np.maximum(sizes, 1)  # what cancels is 0, not 1e-17
    low = np.quantile(np.where(sizes > 0, means, -1.0), ALPHA / 2, method="lower")
    high = np.quantile(np.where(sizes > 0, means, 1.0), 1 - ALPHA / 2, method="higher")
    return float(low), float(high)
