"""Two models' next-token distributions at the same positions of the same text: KL divergence and agreement of the first choice.

    compare(reference, candidate, vocabulary=151936)      Divergence(positions=2000, mean_kl=0.0021, top1_agreement=0.97, ...)

Each distribution is known by its K likeliest tokens. Where K is the whole vocabulary the KL is exact. Otherwise the tokens that both
know are kept apart and all others are one: merging outcomes never makes a KL larger (data processing inequality), so what comes out is
a lower bound, and `covered` says how much of the reference's mass was told apart. In nats, from the reference to the candidate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEAST: Final = -103.0  # log of the smallest float32: llama.cpp's softmax is 0 below it, and says -3.4e38
NOISE: Final = 1e-7  # of a sum of float32 probabilities: a rest below it is none


class Next(NamedTuple):
    """The likeliest next tokens at one position, the likeliest first, with the logarithms of their probabilities."""

    ids: NDArray[Any]
    logprobs: NDArray[Any]


class Divergence(NamedTuple):
    """Over all positions. `exact` False: `mean_kl` and `max_kl` are lower bounds. `covered`: mean mass of the tokens told apart."""

    positions: int
    mean_kl: float
    max_kl: float
    top1_agreement: float
    covered: float
    exact: bool


def compare(reference: Sequence[Next], candidate: Sequence[Next], vocabulary: int) -> Divergence | None:
    """None where there is no position."""
    if not reference:
        return None
    found = [kl(p, q, vocabulary) for p, q in zip(reference, candidate, strict=True)]
    agreed = sum(int(p.ids[0]) == int(q.ids[0]) for p, q in zip(reference, candidate, strict=True))
    return Divergence(
        positions=len(found),
        mean_kl=math.fsum(one for one, _ in found) / len(found),
        max_kl=max(one for one, _ in found),
        top1_agreement=agreed / len(found),
        covered=math.fsum(mass for _, mass in found) / len(found),
        exact=all(len(side.ids) >= vocabulary for pair in zip(reference, candidate, strict=True) for side in pair),
    )


def kl(p: Next, q: Next, vocabulary: int) -> tuple[float, float]:
    """(KL from p to q, mass of p on the tokens that both know)."""
    import numpy as np

    common, of_p, of_q = np.intersect1d(p.ids, q.ids, assume_unique=True, return_indices=True)
    log_p = np.maximum(p.logprobs[of_p].astype(np.float64), LEAST)
    log_q = np.maximum(q.logprobs[of_q].astype(np.float64), LEAST)
    mass_p, mass_q = float(np.exp(log_p).sum()), float(np.exp(log_q).sum())
    total = float((np.exp(log_p) * (log_p - log_q)).sum())
    if len(common) >= vocabulary:  # float32 sums to 1 up to 1e-7, which would be as much as f16 is away
        total = total / mass_p - math.log(mass_p) + math.log(mass_q)
    elif (rest := 1 - mass_p) > NOISE:
        total += rest * math.log(rest / max(1 - mass_q, NOISE))
    return max(total, 0.0), min(mass_p, 1.0)  # rounding takes a KL of nothing just below it
