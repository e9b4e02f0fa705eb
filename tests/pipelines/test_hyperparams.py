"""The planning rule: the values it must give, and what holds for every size."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest

from gwen25.pipelines.hyperparams import Recommendation, recommend_hyperparams

SIZES = [1, 2, 50, 99, 100, 101, 250, 499, 500, 999, 1000, 1001, 1999, 2000, 2001, 10_000, 567_850]


@pytest.mark.parametrize(
    ("size", "rate", "accumulation", "warmup"),
    [
        (1, 2e-4, 2, 5),
        (100, 2e-4, 2, 5),
        (101, 1.98e-4, 8, 5),
        (500, 4e-5, 8, 5),
        (999, 2e-5, 8, 5),
        (1000, 2e-5, 8, 25),
        (2000, 1e-5, 8, 50),
        (100_000, 1e-5, 8, 2500),
    ],
)
def test_values_from_the_usual_bases(size: int, rate: float, accumulation: int, warmup: int) -> None:
    given = recommend_hyperparams(size)
    assert (given.learning_rate, given.gradient_accumulation_steps, given.warmup_steps) == (rate, accumulation, warmup)


@pytest.mark.parametrize("base", [(2e-4, 2, 5), (5e-3, 1, 0), (1.23456e-4, 16, 200), (3e-6, 4, 10)])
def test_bounded_and_monotone_whatever_the_base(base: tuple[float, int, int]) -> None:
    rate, accumulation, warmup = base
    seen: list[Recommendation] = []
    for size in SIZES:
        seen.append(recommend_hyperparams(size, learning_rate=rate, gradient_accumulation_steps=accumulation, warmup_steps=warmup))
    for now in seen:
        assert min(rate, 1e-5) <= now.learning_rate <= rate
        assert now.gradient_accumulation_steps >= accumulation
        assert now.warmup_steps >= warmup
    for before, after in pairwise(seen):
        assert after.learning_rate <= before.learning_rate
        assert after.gradient_accumulation_steps >= before.gradient_accumulation_steps
        assert after.warmup_steps >= before.warmup_steps


@pytest.mark.parametrize("size", SIZES)
def test_every_number_has_its_reason(size: int) -> None:
    given = recommend_hyperparams(size)
    for field in ("learning_rate", "gradient_accumulation_steps", "warmup_steps"):
        (reason,) = [reason for reason in given.reasons if reason.startswith(field)]
        assert f"{getattr(given, field):g}:" in reason


def test_gpu_memory_changes_no_value_and_says_so() -> None:
    with_gpu, without = recommend_hyperparams(500, gpu_memory_gb=16), recommend_hyperparams(500)
    assert with_gpu.reasons[:3] == without.reasons
    assert "16 GB" in with_gpu.reasons[3]


@pytest.mark.parametrize(
    "wrong",
    [
        {"dataset_size": 0},
        {"dataset_size": -5},
        {"dataset_size": 10, "learning_rate": 0.0},
        {"dataset_size": 10, "gradient_accumulation_steps": 0},
        {"dataset_size": 10, "warmup_steps": -1},
        {"dataset_size": 10, "gpu_memory_gb": 0},
        {"dataset_size": 1.5},
        {"dataset_size": 1e3},
        {"dataset_size": True},
        {"dataset_size": "100"},
        {"dataset_size": None},
        {"dataset_size": math.nan},
        {"dataset_size": math.inf},
        {"dataset_size": 10, "learning_rate": math.nan},
        {"dataset_size": 10, "learning_rate": math.inf},
        {"dataset_size": 10, "gradient_accumulation_steps": 1.5},
        {"dataset_size": 10, "warmup_steps": 2.5},
        {"dataset_size": 10, "gpu_memory_gb": math.nan},
    ],
)
def test_refuses_what_no_trainer_takes(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="is needed"):
        recommend_hyperparams(**wrong)
