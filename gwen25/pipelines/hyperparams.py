"""The planning rule behind AUTO_HPARAMS: learning rate, accumulation and warm-up from the size of the data set.

    recommend_hyperparams(1000)     learning_rate=2e-05, gradient_accumulation_steps=8, warmup_steps=25, and why

The given values are right for about a hundred rows. More rows mean more optimizer steps, so each may be smaller and less
noisy: the rate falls as 100 / rows, the batch grows fourfold, and a long run warms up for a tenth of it. A cautious rule of
thumb, no search (docs/recipes.md has each number's source): measure on held-out rows before trusting it.

The rule speaks of micro-batches of one row, as the reference recipe has; `sft` hands it the effective batch and divides its
answer by the micro-batch, and holds the warm-up to a tenth of the steps that the run will really make.

Standard library only; no GPU is asked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

SMALL: Final = 100  # rows up to which the given values stand
LARGE: Final = 1000  # rows from which warm-up grows
FLOOR: Final = 1e-5  # below it LoRA of rank 32 hardly moves in two epochs
ACCUMULATION: Final = 8  # micro-batches of one step above SMALL rows
ROWS_PER_WARMUP_STEP: Final = 40  # a tenth of the steps of two epochs at 8 rows a step: 0.1 x 2 / 8 = 1 / 40


@dataclass(frozen=True, slots=True)
class Recommendation:
    """Values for `sft`, and one reason for each. `warmup_steps` are optimizer steps."""

    learning_rate: float
    gradient_accumulation_steps: int
    warmup_steps: int
    reasons: tuple[str, ...]


def recommend_hyperparams(
    dataset_size: int,
    *,
    learning_rate: float = 2e-4,
    gradient_accumulation_steps: int = 2,
    warmup_steps: int = 5,
    gpu_memory_gb: float | None = None,
) -> Recommendation:
    """Values for a data set of `dataset_size` training rows; the keyword values are what a hundred rows would be given.

    The learning rate never rises above the given one nor falls below 1e-5 (or the given one, where that is lower), and never
    rises with the size; accumulation and warm-up never fall with it. Raises ValueError for a size that is no whole number
    from 1 on, or a given value that no trainer takes.
    """
    _require_whole("dataset_size", dataset_size, 1)
    _require_whole("gradient_accumulation_steps", gradient_accumulation_steps, 1)
    _require_whole("warmup_steps", warmup_steps, 0)
    _require_positive("learning_rate", learning_rate)
    if gpu_memory_gb is not None:
        _require_positive("gpu_memory_gb", gpu_memory_gb)
    rate, why_rate = _rate(dataset_size, learning_rate)
    accumulation, why_accumulation = _accumulation(dataset_size, gradient_accumulation_steps)
    warmup, why_warmup = _warmup(dataset_size, warmup_steps)
    reasons = [why_rate, why_accumulation, why_warmup]
    if gpu_memory_gb is not None:
        reasons.append(
            f"{gpu_memory_gb:g} GB of GPU memory: changes nothing here, since accumulation enlarges the batch at the same memory"
        )
    return Recommendation(rate, accumulation, warmup, tuple(reasons))


def _require_whole(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} is {value!r}: a whole number of at least {least} is needed")


def _require_positive(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"{name} is {value!r}: a positive number is needed")


def _rate(size: int, given: float) -> tuple[float, str]:
    if size <= SMALL:
        return given, f"learning_rate {given:g}: {size} rows are few, the given rate stands (up to {SMALL} rows)"
    scaled = float(f"{given * SMALL / size:.3g}")  # three digits are all that the rule knows
    rate = min(given, max(FLOOR, scaled))
    if rate > scaled:
        return rate, f"learning_rate {rate:g}: {given:g} x {SMALL} / {size} would be below the floor of {min(FLOOR, given):g}"
    return rate, f"learning_rate {rate:g}: {given:g} x {SMALL} / {size}, since more rows mean more steps"


def _accumulation(size: int, given: int) -> tuple[int, str]:
    if size <= SMALL:
        return given, f"gradient_accumulation_steps {given}: with {size} rows a larger batch would leave too few steps"
    if given >= ACCUMULATION:
        return given, f"gradient_accumulation_steps {given}: given, and at least {ACCUMULATION} already"
    return ACCUMULATION, f"gradient_accumulation_steps {ACCUMULATION}: above {SMALL} rows there are steps enough for a less noisy gradient"


def _warmup(size: int, given: int) -> tuple[int, str]:
    if size < LARGE:
        return given, f"warmup_steps {given}: below {LARGE} rows the run is short, the given warm-up stands"
    tenth = size // ROWS_PER_WARMUP_STEP
    if tenth <= given:
        return given, f"warmup_steps {given}: given, and at least a tenth of the run ({tenth}) already"
    return (
        tenth,
        f"warmup_steps {tenth}: a tenth of the steps of two epochs at {ACCUMULATION} rows a step ({size} / {ROWS_PER_WARMUP_STEP})",
    )
