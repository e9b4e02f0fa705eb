"""Warnings that a GRPO run earns, told from its own log: the lines of metrics.jsonl, in order.

    for caution in read(training.read_metrics(job.aside / "metrics.jsonl")): caution.name, caution.step, caution.text
    watch = Watch(); watch.see(row)          the same line by line: what this line has made true for the first time

A warning is a function of the lines up to it, so a run that is resumed says what it would have said without a break, and
each is given once, at the first line where it holds. What was not measured fires nothing: None, NaN and absent values are passed
over.

    hack         the reward rises while the share of programs that pass does not (see `_hack` for the statistic)
    entropy      the policy has stopped exploring
    cut_off      more than half of the completions end at the limit
    clipped      more than half of the tokens have a probability ratio outside its bounds
    unrewarded   most completions that were not cut off have no reward
    kl           the policy has left the SFT policy
    mismatch     what vLLM sampled is unlikely for the trainer

Levels are medians of the last five logs that measured them, or over as many as there are when the run has ended.
Not here: groups without spread (`frac_groups_compared`, and the run's last words in `pipelines.grpo`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean, median, variance
from typing import Any, Final

Row = Mapping[str, Any]

WINDOW: Final = 5  # logs
RISE: Final = 0.01  # of the reward; less is not worth a word whatever its error
SURE: Final = 3.0  # standard errors by which the reward must have risen
FLAT: Final = 1.0  # standard errors below which the pass rate has not
ENTROPY_LEFT: Final = 0.25  # share of the entropy that the run began with
ENTROPY_FLOOR: Final = 0.01  # nats a token: a group's completions are all but the same text
HALF: Final = 0.5
FAR: Final = 0.5  # nats a token from the SFT policy; the trial that forgot least stayed below 0.03
UNLIKE: Final = 0.1  # mean difference of a token's log-probability; 0.02 was measured in bfloat16


@dataclass(frozen=True, slots=True)
class Caution:
    """A warning, and the step of the log line at which it first held."""

    name: str
    step: int
    text: str


class Watch:
    """The lines seen so far, and what they gave cause for."""

    def __init__(self, *, masked: bool = True) -> None:
        """`masked`: completions that the limit cut off teach nothing (`mask_truncated_completions`)."""
        self.cautions: list[Caution] = []
        self._rows: list[Row] = []
        self._checks = CHECKS | {"cut_off": partial(_cut_off, masked=masked)}

    def see(self, row: Row) -> list[Caution]:
        """What holds for the first time with this line."""
        self._rows.append(row)
        return self._new(ended=False)

    def end(self) -> list[Caution]:
        """What is only said of a run that is over: levels of one too short for a whole window."""
        return self._new(ended=True) if self._rows else []

    def _new(self, *, ended: bool) -> list[Caution]:
        known = {caution.name for caution in self.cautions}
        found = [(name, check(self._rows, 1 if ended else WINDOW)) for name, check in self._checks.items() if name not in known]
        new = [Caution(name, self._rows[-1]["step"], text) for name, text in found if text is not None]
        self.cautions += new
        return new


def read(rows: Sequence[Row], *, ended: bool = True, masked: bool = True) -> list[Caution]:
    """Every warning of a whole run, in the order in which they came."""
    watch = Watch(masked=masked)
    for row in rows:
        watch.see(row)
    if ended:
        watch.end()
    return watch.cautions


def _measured(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _values(rows: Sequence[Row], name: str) -> list[float]:
    return [row[name] for row in rows if _measured(row.get(name))]


def _level(values: Sequence[float], least: int) -> float | None:
    """Median over the last window, which one odd step does not make; None where fewer than `least` values are there."""
    return median(values[-WINDOW:]) if len(values) >= least else None


def _hack(rows: Sequence[Row], least: int) -> str | None:
    """Reward and pass rate, each as the difference of the run's last third of logs and its first, in standard errors of that
    difference (Welch's t). It holds where the reward has risen by 3 of them and the pass rate by less than one, from 15 logs on.

    The pass rate is the share of the programs run that passed all their tests, whatever `execution_reward` pays. The reward is that
    of the prompts as they came, before groups were drawn again.
    """
    both = [
        (reward, row["frac_programs_passed"])
        for row in rows
        if _measured(reward := row.get("redraw/reward_before", row.get("reward"))) and _measured(row.get("frac_programs_passed"))
    ]
    third = len(both) // 3
    if third < WINDOW:
        return None
    (first, last), (failed, passed) = (([pair[at] for pair in both[:third]], [pair[at] for pair in both[-third:]]) for at in (0, 1))
    rise = fmean(last) - fmean(first)
    if rise < RISE or _errors(first, last) < SURE or _errors(failed, passed) >= FLAT:
        return None
    return (
        f"the reward rises ({fmean(first):.3f} to {fmean(last):.3f}, first and last third of {len(both)} logs) while the share of programs "
        f"that pass does not ({fmean(failed):.3f} to {fmean(passed):.3f}): form is being learnt, or a hole in a reward; read "
        "completions.jsonl, and judge the run by its evaluation alone"
    )


def _errors(before: Sequence[float], after: Sequence[float]) -> float:
    """By how many standard errors the mean has risen."""
    error = math.sqrt(variance(before) / len(before) + variance(after) / len(after))
    return (fmean(after) - fmean(before)) / max(error, 1e-9)


def _entropy(rows: Sequence[Row], least: int) -> str | None:
    values = _values(rows, "entropy")
    if len(values) < 2 * WINDOW:
        return None
    start, now = fmean(values[:WINDOW]), fmean(values[-WINDOW:])
    if now >= max(ENTROPY_LEFT * start, ENTROPY_FLOOR):
        return None
    return (
        f"entropy has collapsed: {now:.4f} nats a token over the last {WINDOW} logs, {start:.4f} over the first; groups will agree and "
        "teach nothing. Raise grpo.temperature or grpo.epsilon_high, or lower grpo.learning_rate"
    )


def _cut_off(rows: Sequence[Row], least: int, *, masked: bool = True) -> str | None:
    level = _level(_values(rows, "completions/clipped_ratio"), least)
    if level is None or level <= HALF:
        return None
    taught = "what is learnt comes from the short ones alone" if masked else "most of what is learnt from was never finished"
    return (
        f"{level:.0%} of the completions are cut off by grpo.max_completion_length: {taught}. Raise it, or take problems that need shorter "
        "reasoning"
    )


def _clipped(rows: Sequence[Row], least: int) -> str | None:
    """TRL's clip_ratio/region_mean, and cispo's own; it is 0 where each batch of completions makes one step."""
    level = _level([*_values(rows, "clip_ratio/region_mean"), *_values(rows, "cispo_clip_ratio")], least)
    if level is None or level <= HALF:
        return None
    return (
        f"{level:.0%} of the tokens have a ratio outside its bounds and teach nothing: the policy has left the one that sampled "
        "them. Lower grpo.num_iterations or grpo.learning_rate"
    )


def _unrewarded(rows: Sequence[Row], least: int) -> str | None:
    level = _level(_values(rows, "frac_reward_none"), least)
    if level is None or level <= HALF:
        return None
    return (
        f"{level:.0%} of the completions that ended have no reward, since their correctness is unknown: the judge or the sandbox does not "
        "answer, or rows have no tests; rewards.jsonl counts why"
    )


def _kl(rows: Sequence[Row], least: int) -> str | None:
    level = _level(_values(rows, "kl"), least)
    if level is None or level <= FAR:
        return None
    return (
        f"the policy is {level:.2f} nats a token from the SFT policy, and forgets what SFT taught: lower grpo.learning_rate, or raise "
        "grpo.beta"
    )


def _mismatch(rows: Sequence[Row], least: int) -> str | None:
    apart = _level(_values(rows, "sampling/sampling_logp_difference/mean"), least)
    ratio = _level(_values(rows, "sampling/importance_sampling_ratio/mean"), least)
    if (apart is None or apart <= UNLIKE) and (ratio is None or ratio >= HALF):
        return None
    told = ", ".join(
        f"{name} {value:.3f}" for name, value in (("log-probabilities differ by", apart), ("mean weight", ratio)) if value is not None
    )
    return (
        f"vLLM samples from another policy than the trained one ({told}): gradients are wrong or left out. Take one dtype for both, "
        "a shorter grpo.max_completion_length, or grpo.vllm_importance_sampling_mode=token_truncate"
    )


CHECKS: Final[dict[str, Callable[[Sequence[Row], int], str | None]]] = {
    "hack": _hack,
    "entropy": _entropy,
    "cut_off": _cut_off,
    "clipped": _clipped,
    "unrewarded": _unrewarded,
    "kl": _kl,
    "mismatch": _mismatch,
}
