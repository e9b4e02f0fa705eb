"""Whether a group of completions teaches anything: advantages are differences within it.

    teaches([[1.0, 0.5], [0.0, 0.5]], weights=[1.0, 0.1], apart=False)      True: the sums are 1.05 and 0.05

A row is a completion, a column a reward function.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final

PLACES: Final = 6  # decimal places to which rewards are told apart: float32 holds seven digits


def teaches(group: Sequence[Sequence[float | None]], weights: Sequence[float], *, apart: bool) -> bool:
    """Whether two known rewards of the group differ.

    `group`: by completion what each function gave it, None or NaN where that is unknown. `apart`: each function's scores are scaled
    by themselves before they are summed (normalize_then_sum): a difference in one that weighs anything counts, though sums agree.
    """
    rows = [[weight * (math.nan if score is None else score) for score, weight in zip(row, weights, strict=True)] for row in group]
    if apart:
        return any(_differ(column) for column in zip(*rows, strict=True))
    known = [[score for score in row if not math.isnan(score)] for row in rows]
    return _differ(sum(row) for row in known if row)


def _differ(values: Iterable[float]) -> bool:
    return len({round(value, PLACES) for value in values if not math.isnan(value)}) > 1
