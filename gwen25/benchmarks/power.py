"""How much a paired comparison can tell: the least difference it would find, and what would find a smaller one.

    detectable(0.09, 400)                     0.042: of true differences of 4.2 points, four in five would be found
    problems_needed(0.09, 0.03, 400)          785 problems, to find 3 points
    samples_needed(pairs, 0.03)               12 samples of each problem, or None where no number would do

"Found" is p < 0.05, two-sided, and four in five the chance of it (80 % power). With S the mean square of the problems'
differences, m problems, and z = 1.96 + 0.84:

    least difference   D = z sqrt(S / m)
    problems           m = z^2 S / D^2
    samples            S(n) = between + noise / n,   noise: mean over problems of r(1-r), both models' summed, r a model's rate

r(1-r) is estimated without bias by c(n-c) / (n(n-1)), known where n is at least 2, so the part of S that sampling makes is
c(n-c) / (n^2 (n-1)), both models' summed, and `between` is the rest: how much the models really differ from problem to
problem, which no sampling removes.

What is assumed: the spread S stays what was seen, the mean is normal (fair from some 30 differing problems on), further
problems are like these. S is taken about zero, as the test sees it; it is larger than about the mean by D^2, on the safe side.
Not here: p-values and intervals (`paired`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Final

from gwen25.benchmarks.passk import ALPHA, Row

POWER: Final = 0.8
Z: Final = NormalDist().inv_cdf(1 - ALPHA / 2) + NormalDist().inv_cdf(POWER)  # 2.80
FEWEST: Final = 6  # problems that must differ: five of one sign have p = 2/32, six 2/64


def detectable(spread: float, problems: int) -> float | None:
    """The least difference that would be found in four cases of five; None where none would, or where nothing differs."""
    least = Z * math.sqrt(spread / problems)
    return least if spread > 0 and problems >= FEWEST and least <= 1 else None


def problems_needed(spread: float, difference: float, problems: int) -> int | None:
    """How many problems would find this difference, at these samples: more than there were. None for a difference of 0."""
    return max(math.ceil(Z**2 * spread / difference**2), problems + 1, FEWEST) if difference else None


def samples_needed(pairs: Sequence[tuple[Row, Row]], difference: float) -> int | None:
    """How many samples of each of these problems, by each model, would find this difference of pass@1.

    None where no number would (the problems themselves differ too much), or where that is not known (`noise`).
    """
    one, size = noise(pairs), len(pairs)
    if one is None or not difference or size < FEWEST:
        return None
    room = size * difference**2 / Z**2 - between(pairs)
    return max(math.ceil(one / room), 1 + max(row["n"] for pair in pairs for row in pair)) if room > 0 else None


def noise(pairs: Sequence[tuple[Row, Row]]) -> float | None:
    """What one sample of each would add to the spread; None where a problem has a single one, which does not show it."""
    if any(row["n"] < 2 for pair in pairs for row in pair):
        return None
    return math.fsum(_noise(row) for pair in pairs for row in pair) / len(pairs)


def between(pairs: Sequence[tuple[Row, Row]]) -> float:
    """The spread that would be left with samples without end; every problem has two or more."""
    sampling = math.fsum(_noise(row) / row["n"] for pair in pairs for row in pair)
    return max(math.fsum((_rate(b) - _rate(a)) ** 2 for a, b in pairs) - sampling, 0.0) / len(pairs)


def _rate(row: Row) -> float:
    return float(row["c"] / row["n"])


def _noise(row: Row) -> float:
    """A sample's variance, r(1-r), without bias."""
    return float(row["c"] * (row["n"] - row["c"]) / (row["n"] * (row["n"] - 1)))
