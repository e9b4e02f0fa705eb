"""A penalty for answers near the limit of their length: 0.0 where there is room left, down to -1.0 at the limit.

    overlong(samples, tools)

DAPO's soft overlong punishment (arXiv:2503.14476, equation 13), as TRL's `get_soft_overlong_punishment` computes it: over the last
`soft_punish_cache` tokens below `max_completion_length` the penalty grows in a straight line. It never pays for being short.

The limit itself cuts completions off, so none is longer. While `mask_truncated_completions` is on, what was cut off has no reward
at all, this one included: set it to false where the limit is to be punished in full, as DAPO does.
"""

from __future__ import annotations

from collections.abc import Sequence

from gwen25.rewards.sample import Sample, Tools


def overlong(samples: Sequence[Sample], tools: Tools) -> list[float | None]:
    """Scores in [-1, 0]; None where a completion's length is not known."""
    limit = tools.max_completion_length
    cache = tools.soft_punish_cache or max(1, limit // 5)  # DAPO's share: 4,096 of 20,480 tokens
    return [None if sample.tokens is None else _score(sample.tokens, limit, cache) for sample in samples]


def _score(tokens: int, limit: int, cache: int) -> float:
    return max(-1.0, min(0.0, (limit - cache - tokens) / cache))
