"""Rewards: what a completion earns. A table of names, which of them will run, and their weights.

    REWARDS["execution"]              its score function, default weight and kind
    active(config.grpo)               the names that will really run: ("format_exact", "format_approximate", "execution")
    weights(config.grpo)              their weights in that order
    identities(config.grpo)           what the key of a GRPO run must hold of them

A new reward is a function `(samples, tools) -> list[float | None]`, a line in the table, and a test. Scores lie in [0, 1], those of
`overlong` in [-1, 0]; None is unknown. Of the correctness rewards one decides for a row: the first in the table that is active and
applies to it, so tests outrank a judge's opinion. The weights of form and length together stay below each correctness weight: nothing
outranks a program that works. Not here: scoring a batch for TRL and what None does (`panel.Panel`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from gwen25.chat import ChatFormat
from gwen25.config import GrpoConfig
from gwen25.errors import BadInput, unknown
from gwen25.rewards import judge
from gwen25.rewards.execution import execution
from gwen25.rewards.format import format_approximate, format_exact
from gwen25.rewards.length import overlong
from gwen25.rewards.sample import Sample, Tools

Score = Callable[[Sequence[Sample], Tools], list[float | None]]


@dataclass(frozen=True)
class Reward:
    """A reward: its scores of samples, its default weight, what it measures, and the samples it can judge."""

    score: Score
    weight: float
    kind: Literal["format", "length", "correctness"]
    applies: Callable[[Sample], bool] = lambda sample: True


def _of_text(score: Callable[[str, ChatFormat], float]) -> Score:
    return lambda samples, tools: [score(sample.text, tools.format) for sample in samples]


REWARDS: Final[dict[str, Reward]] = {
    "execution": Reward(execution, 1.0, "correctness", applies=lambda sample: bool(sample.tests)),
    "judge": Reward(judge.judge, 1.0, "correctness"),
    "format_exact": Reward(_of_text(format_exact), 0.1, "format"),
    "format_approximate": Reward(_of_text(format_approximate), 0.1, "format"),
    "overlong": Reward(overlong, 0.5, "length"),
}


def active(config: GrpoConfig, warn: Callable[[str], None] = lambda text: None) -> tuple[str, ...]:
    """The rewards that will run, in the config's order; `judge` is left out, with a word to `warn`, where it has no key.

    A fraction of the tests as the execution reward gets a word too.

    Raises BadInput for an unknown or doubled name, for weights that let form outrank a working program, and where neither
    execution nor a judge is left (unless `allow_format_only`).
    """
    for name in (*config.rewards, *config.reward_weights):
        if name not in REWARDS:
            raise unknown("reward", name, REWARDS)
    if len(set(config.rewards)) < len(config.rewards):
        raise BadInput(f"grpo.rewards names a reward twice: {', '.join(config.rewards)}")
    names = tuple(name for name in config.rewards if name != "judge" or judge.available(config.judge))
    dropped = (
        "" if names == config.rewards else f"the judge {config.judge.provider} has no key ({judge.key_names(config.judge)} is not set)"
    )
    if not names:
        raise BadInput(f"grpo.rewards: no reward is left to train on{'; ' + dropped if dropped else ''}")
    if not config.allow_format_only and not _of_kind(names, "correctness"):
        why = dropped or "grpo.rewards holds neither execution nor judge"
        raise BadInput(f"no reward tells a right program from a wrong one: {why}; add one, or set grpo.allow_format_only=true")
    _check_weights(config, names)
    if dropped:
        agreement = ", and grpo.judge_agreement measures nothing" if config.judge_agreement else ""
        warn(f"the reward `judge` is left out: {dropped}; rows without tests have no correctness reward{agreement}")
    if "execution" in names and config.execution_reward == "fraction":
        warn(
            "grpo.execution_reward=fraction pays wrong programs: half the tests of a wrong algorithm are often trivial, and in a trial "
            "answers that print a constant were learned; `all` pays for right ones alone"
        )
    return names


def weight(config: GrpoConfig, name: str) -> float:
    """The weight of a reward: the config's, else its own default."""
    return config.reward_weights.get(name, REWARDS[name].weight)


def weights(config: GrpoConfig) -> tuple[float, ...]:
    """Weights of the active rewards, in their order. Raises BadInput as `active`."""
    return tuple(weight(config, name) for name in active(config))


def identities(config: GrpoConfig, warn: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """What decides the rewards of a run beyond its config: the names that will run, and the judge. Never a key.

    Raises BadInput as `active`.
    """
    names = active(config, warn)
    return {"active": list(names), "judge": judge.identity(config.judge) if "judge" in names else None}


def _of_kind(names: Sequence[str], *kinds: str) -> list[str]:
    return [name for name in names if REWARDS[name].kind in kinds]


def _check_weights(config: GrpoConfig, names: Sequence[str]) -> None:
    for name in names:
        if weight(config, name) < 0:
            raise BadInput(f"grpo.reward_weights.{name} = {weight(config, name)}: a weight is at least 0")
    form = sum(weight(config, name) for name in _of_kind(names, "format", "length"))
    stretch = _stretch(config)
    for name in _of_kind(names, "correctness"):
        if form * stretch >= weight(config, name):
            scaled = f", up to {form * stretch:g} once each is scaled by itself (normalize_then_sum)" if stretch > 1 else ""
            raise BadInput(
                f"grpo.reward_weights: the rewards of form and length weigh {form:g} together{scaled}, {name} {weight(config, name):g}: "
                f"a well-formed wrong program could outrank a right one; make {name} the heavier"
            )


def _stretch(config: GrpoConfig) -> float:
    """By how much scaling each reward by itself can favour form over correctness: sqrt(G / 2) in a group of G, else 1.

    Two scores of a group, one apart, are at most sqrt(2 (G - 1)) standard deviations apart, with all others in their middle. Those
    of a right and a wrong program (1 and 0, no other) are at least 2 sqrt((G - 1) / G), in a group that is half right.
    """
    return math.sqrt(config.num_generations / 2) if config.multi_objective_aggregation == "normalize_then_sum" else 1.0
