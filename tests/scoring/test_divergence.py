"""KL and agreement of two next-token distributions, whole or by their likeliest tokens."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gwen25.scoring.divergence import Next, compare, kl


def drawn(seed: int, vocabulary: int = 200) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(0, 3, vocabulary)
    return logits - np.log(np.exp(logits).sum())


def top(logprobs: np.ndarray, k: int) -> Next:
    order = np.argsort(-logprobs)[:k]
    return Next(order, logprobs[order].astype(np.float32))


def test_the_whole_vocabulary_gives_the_kl_itself() -> None:
    p, q = drawn(1), drawn(2)
    found, covered = kl(top(p, 200), top(q, 200), 200)
    assert found == pytest.approx(float((np.exp(p) * (p - q)).sum()), rel=1e-5) and covered == pytest.approx(1)


@pytest.mark.parametrize("seed", range(20))
def test_fewer_tokens_never_give_more_and_more_tokens_come_closer(seed: int) -> None:
    p, q = drawn(seed), drawn(seed + 100)
    bounds = [kl(top(p, k), top(q, k), 200)[0] for k in (1, 5, 20, 80, 200)]
    assert all(bound <= bounds[-1] + 1e-6 for bound in bounds)
    near = drawn(seed) + np.random.default_rng(seed).normal(0, 0.1, 200)
    near -= np.log(np.exp(near).sum())
    whole = kl(top(p, 200), top(near, 200), 200)[0]
    assert kl(top(p, 100), top(near, 100), 200)[0] == pytest.approx(whole, rel=0.05), "a likely head is nearly all of it"


def test_a_model_beside_itself_is_nothing() -> None:
    p = drawn(3)
    assert kl(top(p, 200), top(p, 200), 200)[0] == pytest.approx(0, abs=1e-7)
    assert kl(top(p, 10), top(p, 10), 200)[0] == pytest.approx(0, abs=1e-7)


def test_a_probability_that_underflowed_is_small_not_infinite() -> None:
    p = Next(np.array([0, 1]), np.log(np.array([0.5, 0.5])))
    q = Next(np.array([0, 1]), np.array([0.0, -3.4e38]))  # llama.cpp's word for a softmax of 0
    found, _ = kl(p, q, 2)
    assert math.isfinite(found) and found > 50


def test_agreement_is_of_the_first_choice_and_nothing_is_none() -> None:
    a, b = top(np.log(np.array([0.7, 0.2, 0.1])), 3), top(np.log(np.array([0.2, 0.7, 0.1])), 3)
    found = compare([a, a, a, a], [a, a, a, b], 3)
    assert found is not None and (found.positions, found.top1_agreement, found.exact) == (4, 0.75, True)
    assert found.mean_kl == pytest.approx(found.max_kl / 4, rel=1e-6)
    less = compare([top(np.log(np.array([0.7, 0.2, 0.1])), 2)], [a], 3)
    assert less is not None and not less.exact and less.covered == pytest.approx(0.9)
    assert compare([], [], 3) is None
