"""Is B better than A? The answer in one word and in a sentence, or what would be needed for one.

    decide(difference, pairs, [])     Verdict("cannot tell", "Cannot tell ...", problems_needed=785, samples_needed=None)

Better or worse is p < 0.05, two-sided, of the primary comparison alone: pass@1 over all common problems. Where it cannot be told,
the number of problems (at these samples) and of samples (of these problems) that would find the difference seen, if that is the
true one, in four cases of five; None where no number would, and where nothing is needed.
Not here: the test (`paired`), the arithmetic of what is needed (`power`), reports (`comparison`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from gwen25.benchmarks import paired, power
from gwen25.benchmarks.passk import ALPHA, Row

BETTER: Final = "better"
WORSE: Final = "worse"
CANNOT_TELL: Final = "cannot tell"


class Verdict(NamedTuple):
    """On B, held against A."""

    verdict: str
    words: str
    problems_needed: int | None = None
    samples_needed: int | None = None


def decide(found: paired.Difference, pairs: Sequence[tuple[Row, Row]], unlike: Sequence[str]) -> Verdict:
    """`found` is the primary comparison, `pairs` its problems; `unlike` names what makes the two scores incomparable."""
    if unlike:
        what = " and ".join(unlike)
        return Verdict(
            CANNOT_TELL, f"Cannot tell: not measured alike ({what}), which moves a score whatever the model. Measure both alike."
        )
    if found.p < ALPHA:
        word = BETTER if found.difference > 0 else WORSE
        return Verdict(word, f"B is {word} than A: {seen(found)}.")
    spread = paired.mean_square([b["c"] / b["n"] - a["c"] / a["n"] for a, b in pairs])
    problems = power.problems_needed(spread, found.difference, found.problems)
    samples = power.samples_needed(pairs, found.difference) if found.detectable is not None else None
    words = (
        f"Cannot tell whether B is better or worse than A: {seen(found)}. {_found_here(found)}{_needed(found, pairs, problems, samples)}"
    )
    return Verdict(CANNOT_TELL, words, problems, samples)


def seen(found: paired.Difference) -> str:
    """The primary difference in words."""
    p = "p < 0.0001" if found.p < 0.0001 else f"p = {found.p:.2g}"
    return f"pass@1 {points(found.difference)} points (95 %: {points(found.low)} to {points(found.high)}; {p}) on {found.problems} problems"


def points(share: float) -> str:
    """A difference of shares in percentage points, with its sign; two digits behind the point, as published tables have them."""
    return f"{100 * share:+.2f}".replace("-0.00", "+0.00")


def _found_here(found: paired.Difference) -> str:
    if found.detectable is not None:
        return f"A true difference of {100 * found.detectable:.2f} points would be found here in four cases of five."
    return "Too few problems differ for any difference to be found."


def _needed(found: paired.Difference, pairs: Sequence[tuple[Row, Row]], problems: int | None, samples: int | None) -> str:
    if problems is None:
        return ""
    if found.detectable is None:
        more = ""
    elif samples is not None:
        more = f", or about {_about(samples)} samples of each of these {found.problems}"
    elif power.noise(pairs) is None:
        more = "; what more samples of these problems would do does not show in one of each"
    else:
        more = "; no number of samples of these problems would do"
    return f" To find one of the size seen: about {_about(problems)} such problems at these samples{more}."


def _about(number: int) -> str:
    """Two digits that count: no more is known."""
    return f"{round(number, min(2 - len(str(number)), 0)):,}"
