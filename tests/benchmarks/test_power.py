"""What a comparison can tell: the formulas against what they say, and against each other."""

from __future__ import annotations

import random

import pytest

from gwen25.benchmarks import power
from gwen25.benchmarks.power import detectable, problems_needed, samples_needed

Pair = tuple[dict[str, int], dict[str, int]]


def pairs(draw: random.Random, rates: list[tuple[float, float]], n: int) -> list[Pair]:
    def row(rate: float) -> dict[str, int]:
        return {"n": n, "c": sum(draw.random() < rate for _ in range(n))}

    return [(row(a), row(b)) for a, b in rates]


def test_problems_and_least_difference_are_the_same_formula() -> None:
    least = detectable(0.09, 400)
    assert least == pytest.approx(2.8016 * (0.09 / 400) ** 0.5, rel=1e-4)
    assert problems_needed(0.09, least, 100) in (400, 401)
    assert problems_needed(0.09, 0.03, 400) == 785


def test_what_no_number_would_do_is_none_and_not_a_number() -> None:
    assert problems_needed(0.09, 0.0, 400) is None
    assert detectable(0.0, 400) is None and detectable(0.09, 5) is None
    assert detectable(0.9, 6) is None  # a difference of more than 1
    single = [({"n": 1, "c": 0}, {"n": 1, "c": 1})] * 10
    assert samples_needed(single, 0.1) is None and power.noise(single) is None
    assert samples_needed([({"n": 5, "c": 0}, {"n": 5, "c": 5}), ({"n": 5, "c": 5}, {"n": 5, "c": 0})] * 10, 0.1) is None  # no noise


def test_more_are_needed_than_there_were() -> None:
    assert problems_needed(0.01, 0.9, 3) == power.FEWEST
    assert problems_needed(0.01, 0.5, 100) == 101


@pytest.mark.parametrize("n", [2, 5, 20])
def test_noise_and_what_the_models_really_differ_by_are_told_apart(n: int) -> None:
    """Rates of 0.5 everywhere but for a true difference of 0.4 either way: spread 0.16, and noise 0.25 + 0.09 of r(1-r)."""
    rates = [(0.5, 0.9), (0.5, 0.1)] * 4000
    found = pairs(random.Random(n), rates, n)
    assert power.noise(found) == pytest.approx(0.25 + 0.09, abs=0.01)
    assert power.between(found) == pytest.approx(0.16, abs=0.02)


def test_samples_help_where_noise_is_what_hides_the_difference() -> None:
    """All problems gain the same: with as many samples as named, the least difference is the one that is there."""
    found = pairs(random.Random(1), [(0.5, 0.54)] * 4000, 5)[:200]
    needed = samples_needed(found, 0.04)
    assert needed is not None and needed > 5
    noise = power.noise(found)
    assert noise is not None
    assert detectable(power.between(found) + noise / needed, 200) == pytest.approx(0.04, rel=0.02)
    assert samples_needed(pairs(random.Random(1), [(0.1, 0.9), (0.9, 0.12)] * 100, 5), 0.01) is None  # the problems differ too much
