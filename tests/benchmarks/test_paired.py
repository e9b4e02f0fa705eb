"""The paired test against its definition, and what it promises under simulation."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import pytest

from gwen25.benchmarks import paired, power
from gwen25.benchmarks.paired import Difference, sign_flip
from gwen25.benchmarks.passk import interval

Row = dict[str, object]
Rates = Callable[[random.Random], tuple[float, float]]


def rows(*counts: tuple[int, int]) -> list[Row]:
    return [{"question_id": f"q{at}", "difficulty": "easy", "n": n, "c": c} for at, (n, c) in enumerate(counts)]


def compared(a: list[Row], b: list[Row], k: int = 1) -> Difference:
    found = paired.of(paired.common(a, b), k)
    assert found is not None
    return found


def by_definition(steps: list[Fraction]) -> float:
    """The share of all choices of signs whose sum is as far from zero as the one seen."""
    sums = [
        abs(sum(sign * step for sign, step in zip(signs, steps, strict=True))) for signs in itertools.product((1, -1), repeat=len(steps))
    ]
    return sum(value >= abs(sum(steps)) for value in sums) / len(sums)


@pytest.mark.parametrize("seed", range(8))
def test_the_p_value_is_the_share_of_sign_choices(seed: int) -> None:
    draw = random.Random(seed)
    steps = [Fraction(draw.randint(-5, 5), draw.choice([5, 7])) for _ in range(draw.randint(1, 10))]
    assert sign_flip(steps).p == pytest.approx(by_definition(steps), rel=1e-12)


def test_a_few_differences_of_any_size_are_listed_and_many_are_drawn() -> None:
    uneven = [Fraction(at % 7 - 2, prime) for at, prime in enumerate((10007, 10009, 10037, 10039, 10061, 10067, 10069, 10079))]
    few = sign_flip(uneven)
    assert few.name == "sign flips, exact" and few.p == pytest.approx(by_definition(uneven), rel=1e-12)
    draw = random.Random(5)
    many = [Fraction(draw.randint(-9, 11), prime) for prime in (10007, 10009, 10037) for _ in range(40)]
    drawn = sign_flip(many)
    size, spread = float(sum(many)), math.sqrt(sum(float(step) ** 2 for step in many))
    assert "drawn" in drawn.name and drawn.p == pytest.approx(math.erfc(size / spread / math.sqrt(2)), abs=0.02)
    assert sign_flip(many) == drawn  # the same every time
    assert sign_flip([abs(step) + 1 for step in many]).p == pytest.approx(1 / 10_001)  # never 0


@pytest.mark.parametrize(("gained", "lost"), [(6, 0), (5, 0), (9, 2), (30, 18), (112, 87), (1, 1)])
def test_one_sample_each_is_mcnemar(gained: int, lost: int) -> None:
    """Binomial on the discordant pairs, doubled, as the textbook has it; problems that agree say nothing."""
    total = gained + lost
    tail = sum(math.comb(total, at) for at in range(max(gained, lost), total + 1)) / 2**total
    before = rows(*[(1, 0)] * gained, *[(1, 1)] * lost, *[(1, 0)] * 50)
    after = rows(*[(1, 1)] * gained, *[(1, 0)] * lost, *[(1, 0)] * 50)
    found = compared(before, after)
    assert found.p == pytest.approx(min(2 * tail, 1.0), rel=1e-9) and found.test == "McNemar, exact"


def test_any_of_n_is_mcnemar_too_and_a_mean_of_samples_is_not() -> None:
    a, b = rows((5, 0), (5, 3), (5, 1)), rows((5, 2), (5, 4), (5, 0))
    assert compared(a, b, 5).test == "McNemar, exact" and compared(a, b, 1).test == "sign flips, exact"


def test_pairing_sees_a_difference_that_the_two_intervals_hide() -> None:
    draw = random.Random(2)
    before = rows(*((5, draw.choice([0, 0, 1, 4, 5])) for _ in range(200)))
    after = [{**row, "c": min(int(str(row["c"])) + (at % 5 == 0), 5)} for at, row in enumerate(before)]
    found, alone_a, alone_b = compared(before, after), interval(before, 1), interval(after, 1)
    assert alone_a is not None and alone_b is not None
    assert found.problems == 200 and found.p < 0.001
    assert 0 < found.low < found.difference < found.high
    assert found.difference == pytest.approx(found.b - found.a)
    assert alone_a.high > alone_b.low  # side by side, nothing could be said


def test_pairing_is_over_common_problems_in_any_order() -> None:
    a = [{"question_id": name, "difficulty": "easy", "n": 1, "c": c} for name, c in (("x", 0), ("y", 1), ("z", 1))]
    b = [{"question_id": name, "difficulty": "easy", "n": 1, "c": c} for name, c in (("z", 1), ("w", 1), ("x", 1))]
    found = compared(a, b)
    assert (found.problems, found.a, found.b, found.difference) == (2, 0.5, 1.0, 0.5)
    assert paired.of(paired.common(a, b), 2) is None and paired.common(a, b[1:2]) == []


def test_no_difference_anywhere_is_not_a_proof_of_none() -> None:
    same = rows(*[(5, 3)] * 30)
    found = compared(same, same)
    assert (found.difference, found.p, found.detectable) == (0, 1, None)
    assert found.low == -found.high < -0.05


@pytest.mark.parametrize(("before", "after"), [((10, 1), (10, 2)), ((5, 5), (5, 0)), ((5, 0), (5, 5))])
@pytest.mark.parametrize("problems", [5, 6, 20])
def test_where_all_problems_differ_alike_the_interval_and_the_test_agree(problems: int, before: Any, after: Any) -> None:
    """Ten points on each of 20 problems: p below 0.0001, and the interval once held 0 all the same."""
    found = compared(rows(*[before] * problems), rows(*[after] * problems))
    assert (found.p < 0.05) == (not found.low <= 0 <= found.high) == (problems > 5)
    assert -1 <= found.low <= found.difference <= found.high <= 1 and found.low < found.high


def test_what_cancels_is_no_difference_at_all() -> None:
    """In floats 0.2 + 0.4 - 0.6 is 1e-17, and a difference of 1e-17 needs 10^32 problems."""
    found = compared(rows((5, 0), (5, 0), (5, 3)), rows((5, 1), (5, 2), (5, 0)))
    assert found.difference == 0 and found.p == 1


@pytest.mark.parametrize("differing", range(1, 6))
def test_five_problems_or_fewer_decide_nothing(differing: int) -> None:
    found = compared(rows(*[(5, 0)] * 90), rows(*[(5, 5)] * differing, *[(5, 0)] * (90 - differing)))
    assert found.p > 0.05 and found.low <= 0 and found.detectable is None
    assert found.low <= -0.03  # not surer than if none differed


@pytest.mark.parametrize("seed", range(40))
def test_the_interval_leaves_zero_out_where_the_test_says_so(seed: int) -> None:
    draw = random.Random(seed)
    size = draw.choice([8, 20, 60])
    lift = draw.random()
    a = rows(*((5, draw.randint(0, 3)) for _ in range(size)))
    b = rows(*((5, min(5, draw.randint(0, 3) + (draw.random() < lift))) for _ in range(size)))
    found = compared(a, b)
    if not 0.046 < found.p < 0.054:  # the interval's ends are drawn
        assert (found.p < 0.05) == (not found.low <= 0 <= found.high)


# ------------------------------------------------------------------------------------------------------------- simulation


def alike(draw: random.Random) -> tuple[float, float]:
    rate = draw.betavariate(0.12, 0.64)  # of a base model's shape: most problems never or always
    return rate, rate


def independent(draw: random.Random) -> tuple[float, float]:
    return draw.betavariate(0.12, 0.64), draw.betavariate(0.12, 0.64)


def skewed(draw: random.Random) -> tuple[float, float]:
    """No difference in the mean, and not symmetric: a tenth gains 45 points, the others lose 5."""
    rate = draw.uniform(0.1, 0.5)
    return rate, rate + (0.45 if draw.random() < 0.1 else -0.05)


def worst(share: float, gain: float) -> Rates:
    """The worst skew that was found: a share gains what all others lose to the last, so that the mean does not change."""
    before = share * gain / (1 - share)
    return lambda draw: (before, min(before + gain, 1.0) if draw.random() < share else 0.0)


def drawn(draw: random.Random, rates: Rates, problems: int, n: int) -> list[Fraction]:
    def passes(rate: float) -> int:
        return sum(draw.random() < rate for _ in range(n))

    pairs = (rates(draw) for _ in range(problems))
    return [Fraction(passes(b) - passes(a), n) for a, b in pairs]


def rejected(rates: Rates, problems: int, n: int, runs: int) -> Iterator[bool]:
    draw = random.Random(11)
    return (sign_flip(drawn(draw, rates, problems, n)).p < 0.05 for _ in range(runs))


def test_models_alike_are_told_apart_as_seldom_as_promised() -> None:
    assert 0.025 <= sum(rejected(independent, 90, 5, 600)) / 600 <= 0.075  # 5 %, three standard errors around


@pytest.mark.long  # 30 s: 1,000 or 2,000 evaluations each
@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize("problems", [30, 90, 400])
@pytest.mark.parametrize("rates", [alike, independent, skewed])
def test_the_verdict_is_wrong_at_most_one_time_in_twenty(rates: Rates, problems: int, n: int) -> None:
    """Few differing problems make the exact test milder than 5 %, never bolder."""
    runs = 2000 if problems < 400 else 1000
    assert sum(rejected(rates, problems, n, runs)) / runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


@pytest.mark.long  # 20 s: 1,000 evaluations each
@pytest.mark.parametrize(("share", "problems"), [(0.05, 30), (0.02, 90)])
def test_much_gained_on_few_and_a_little_lost_on_all_others_is_the_worst_case(share: float, problems: int) -> None:
    """docs/comparing.md says so: up to 16 wrong verdicts of 100, where 5 are promised for models alike."""
    assert 0.11 <= sum(rejected(worst(share, 0.95), problems, 5, 1000)) / 1000 <= 0.2


def lifted(share: float) -> Rates:
    """A fine-tuned model: a third of the problems have a rate of their own, and of all a share is learned."""

    def rates(draw: random.Random) -> tuple[float, float]:
        before = draw.betavariate(0.12, 0.64)
        after = draw.betavariate(0.12, 0.64) if draw.random() < 1 / 3 else before
        return before, max(after, draw.random()) if draw.random() < share else after

    return rates


def share_at_the_least_difference(problems: int, n: int) -> float:
    """The share learned at which the true difference is the one that `power.detectable` names, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(10):
        share = (low + high) / 2
        steps = [float(step) for step in drawn(random.Random(5), lifted(share), 20_000, n)]
        least = power.detectable(paired.mean_square(steps), problems)
        low, high = (low, share) if least is not None and sum(steps) / len(steps) > least else (share, high)
    return share


@pytest.mark.long  # 15 s: 1,000 evaluations each
@pytest.mark.parametrize(("problems", "n"), [(90, 5), (400, 5), (400, 1)])
def test_the_least_difference_is_found_four_times_in_five(problems: int, n: int) -> None:
    rates = lifted(share_at_the_least_difference(problems, n))
    assert 0.74 <= sum(rejected(rates, problems, n, 1000)) / 1000 <= 0.86


@pytest.mark.long  # 25 s: 600 intervals each
@pytest.mark.parametrize(("rates", "problems"), [(independent, 30), (independent, 90), (skewed, 90), (lifted(0.1), 90)])
def test_the_interval_of_a_difference_holds_the_truth(rates: Rates, problems: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paired, "HALVES", 4000)  # enough here, and five times faster
    truth = sum(map(float, drawn(random.Random(6), rates, 200_000, 5))) / 200_000
    draw, hits = random.Random(7), 0
    for _ in range(600):
        low, high = paired._interval([float(step) for step in drawn(draw, rates, problems, 5)])
        hits += low <= truth <= high
    assert hits / 600 >= 0.92
