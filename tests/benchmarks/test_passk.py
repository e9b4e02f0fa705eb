"""pass@k against the definition itself, and intervals against what they promise."""

from __future__ import annotations

import itertools
import random

import pytest

from gwen25.benchmarks.passk import Interval, aggregate, interval, mean, paired, pass_at_k


def rows(*counts: tuple[int, int], difficulty: str = "easy") -> list[dict[str, object]]:
    return [{"question_id": f"{difficulty}{at}", "difficulty": difficulty, "n": n, "c": c} for at, (n, c) in enumerate(counts)]


@pytest.mark.parametrize("n", range(1, 8))
def test_the_estimator_is_the_share_of_draws_that_hold_a_pass(n: int) -> None:
    for c, k in itertools.product(range(n + 1), range(1, n + 1)):
        draws = list(itertools.combinations([True] * c + [False] * (n - c), k))
        assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, draws)) / len(draws), abs=1e-15)


def test_the_estimator_is_exact_where_floats_of_the_binomials_are_not() -> None:
    assert pass_at_k(5000, 0, 2500) == 0.0
    assert pass_at_k(5000, 1, 2500) == 0.5
    assert pass_at_k(5, 5, 5) == pass_at_k(5, 1, 5) == 1.0


@pytest.mark.parametrize(("n", "c", "k"), [(3, 1, 5), (0, 0, 1), (3, 4, 1), (3, -1, 1), (-1, 0, 1), (3, 1, 0), (3, 1, -1)])
def test_what_is_not_defined_is_refused(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match="pass@"):
        pass_at_k(n, c, k)


def test_aggregate_by_difficulty_in_order_with_none_for_the_unknown() -> None:
    mixed = [*rows((5, 5), difficulty="hard"), *rows((5, 0), (5, 1), difficulty="easy"), *rows((2, 1), difficulty="odd")]
    found = aggregate(mixed, (1, 5))
    assert list(found) == ["all", "easy", "hard", "odd"]
    assert found["easy"] == {"1": pytest.approx(0.1), "5": 0.5}
    assert found["hard"] == {"1": 1.0, "5": 1.0}
    assert found["odd"] == {"1": 0.5, "5": None}
    assert found["all"] == {"1": pytest.approx((1 + 0 + 0.2 + 0.5) / 4), "5": None}  # one problem with two samples is enough
    assert aggregate([], (1,)) == {"all": {"1": None}}


@pytest.mark.parametrize(
    "broken",
    [rows((5, 1)) * 2, rows((5, 6)), rows((5, -1)), rows((5, 1), difficulty="all")],
    ids=["twice", "more passes than samples", "negative", "named all"],
)
def test_rows_that_cannot_be_are_refused(broken: list[dict[str, object]]) -> None:
    with pytest.raises(ValueError, match="question"):
        aggregate(broken, (1,))


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    draw = random.Random(1)
    hits = 0
    for _ in range(200):  # 60 problems of 5 samples; each problem's own rate is uniform, so the mean's truth is 0.5
        sample = rows(*((5, sum(draw.random() < rate for _ in range(5))) for rate in (draw.random() for _ in range(60))))
        found = interval(sample, 1)
        assert found is not None
        hits += found.low <= 0.5 <= found.high
    assert 180 <= hits <= 199


def test_the_interval_is_the_same_every_time() -> None:
    sample = rows((5, 1), (5, 2), (5, 0), (5, 5))
    assert interval(sample, 1) == interval(sample, 1)
    assert interval(sample, 6) is None
    assert interval([], 1) is None


def test_nothing_passing_is_bounded_and_not_certain() -> None:
    nothing, everything = interval(rows(*[(5, 0)] * 90), 1), interval(rows(*[(5, 5)] * 90), 1)
    assert nothing is not None and nothing.low == 0 and nothing.high == pytest.approx(0.0327, abs=1e-4)
    assert everything == Interval(pytest.approx(1 - nothing.high), 1.0)
    # Clopper-Pearson: at the bound, seeing none among 90 has a chance of 5 %
    assert (1 - nothing.high) ** 90 == pytest.approx(0.05)


def test_a_single_problem_says_little() -> None:
    found = interval(rows((5, 2)), 1)
    assert found is not None and found.low < 0.05 and found.high > 0.95


def test_pairing_sees_a_difference_that_the_two_intervals_hide() -> None:
    draw = random.Random(2)
    before = rows(*((5, draw.choice([0, 0, 1, 4, 5])) for _ in range(200)))
    after = [{**row, "c": min(row["c"] + (at % 5 == 0), 5)} for at, row in enumerate(before)]
    found, alone_a, alone_b = paired(before, after, 1), interval(before, 1), interval(after, 1)
    assert found is not None and alone_a is not None and alone_b is not None
    assert found.problems == 200
    assert 0 < found.low < found.difference < found.high
    assert found.difference == pytest.approx(found.b - found.a)
    assert alone_a.high > alone_b.low  # side by side, nothing could be said


def test_pairing_is_over_common_problems_in_any_order() -> None:
    a = [{"question_id": name, "difficulty": "easy", "n": 1, "c": c} for name, c in (("x", 0), ("y", 1), ("z", 1))]
    b = [{"question_id": name, "difficulty": "easy", "n": 1, "c": c} for name, c in (("z", 1), ("w", 1), ("x", 1))]
    found = paired(a, b, 1)
    assert found is not None and (found.problems, found.a, found.b, found.difference) == (2, 0.5, 1.0, 0.5)
    assert paired(a, b, 2) is None
    with pytest.raises(ValueError, match="in common"):
        paired(a, b[1:2], 1)


def test_no_difference_anywhere_is_not_a_proof_of_none() -> None:
    same = rows(*[(5, 3)] * 30)
    found = paired(same, same, 1)
    assert found is not None and found.difference == 0
    assert found.low == -found.high < -0.05
    assert mean(same, 1) == pytest.approx(0.6)
