"""A better-formed answer never earns less, and nothing outranks a program that works: for all weights that are allowed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from statistics import fmean, stdev

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from gwen25.chat import FORMATS
from gwen25.config import GrpoConfig
from gwen25.errors import BadInput
from gwen25.rewards import REWARDS, Reward, active
from gwen25.rewards.panel import Panel

FORMAT = FORMATS["chatml-think"]
CODE = "print(sum(map(int, input().split())))"
FORM = [name for name, reward in REWARDS.items() if reward.kind == "format"]


@dataclass(frozen=True)
class Answer:
    """An answer by what is well formed in it; each False is one fault."""

    closes: bool  # </think> is there
    tags_once: bool
    labelled: bool  # ```python and not ```py
    closed: bool  # the block ends
    alone: bool  # nothing beside it
    thought: str = "Add them."
    chatter: str = "Done."

    def text(self) -> str:
        block = f"```{'python' if self.labelled else 'py'}\n{CODE}{chr(10) + '```' if self.closed else ''}"
        thought = self.thought + ("" if self.tags_once else "<think>")
        before, after = ("", "") if self.alone else (f"{self.chatter}\n", f"\n{self.chatter}")
        return f"{thought}\n{'</think>' if self.closes else ''}\n\n{before}{block}{after}"


FAULTS = ("closes", "tags_once", "labelled", "closed", "alone")
words = st.text("abc xyz.,\n", max_size=20)
answers = st.builds(Answer, *(st.booleans() for _ in FAULTS), thought=words, chatter=words.filter(str.strip))


@pytest.fixture(autouse=True, scope="module")
def executed() -> object:
    """Execution decided by the text of the program handed in: what an answer hands in is form's business here, not what it does."""
    with pytest.MonkeyPatch.context() as patch:
        right = Reward(
            lambda samples, tools: [float(sample.program == CODE) for sample in samples], 1.0, "correctness", lambda sample: True
        )
        patch.setitem(REWARDS, "execution", right)
        yield


@st.composite
def allowed(draw: st.DrawFn) -> dict[str, float]:
    """Weights of the format rewards that stay below the program's."""
    drawn = {name: draw(st.floats(0, 1, exclude_max=True)) for name in FORM}
    total = sum(drawn.values())
    return drawn if total < 1 else {name: weight / total * 0.99 for name, weight in drawn.items()}


def _earned(texts: list[str], chosen: dict[str, float], rewards: tuple[str, ...]) -> list[float]:
    config = GrpoConfig(rewards=rewards, reward_weights=chosen, num_generations=2, mask_truncated_completions=False, allow_format_only=True)
    panel = Panel(config, FORMAT, None, 1, ends=())
    ids = [[1] * 5 for _ in texts]
    table = [function(prompts=["p"] * len(texts), completions=texts, completion_ids=ids) for function in panel.functions()]
    return [
        sum(weight * float(score) for weight, score in zip(panel.weights(), column, strict=True)) for column in zip(*table, strict=True)
    ]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(answer=answers, fault=st.sampled_from(FAULTS), chosen=allowed(), subset=st.sets(st.sampled_from(FORM), min_size=1))
def test_mending_one_fault_never_costs(answer: Answer, fault: str, chosen: dict[str, float], subset: set[str]) -> None:
    assume(not getattr(answer, fault))
    better = replace(answer, **{fault: True})
    for rewards in (tuple(sorted(subset)), (*FORM, "execution"), (*FORM, "execution", "overlong")):
        mine = {name: weight for name, weight in chosen.items() if name in rewards} | {name: 0.0 for name in rewards if name == "overlong"}
        before, after = _earned([answer.text(), better.text()], mine, rewards)
        assert after >= before - 1e-9, (answer.text(), better.text())


def test_every_reward_of_form_is_in_the_property() -> None:
    assert FORM == ["format_exact", "format_approximate"]
    whole = Answer(True, True, True, True, True)
    assert _earned([whole.text(), replace(whole, closes=False).text()], {}, (*FORM, "execution")) == pytest.approx([1.2, 0.0])
    assert {
        fault: _earned([whole.text(), replace(whole, **{fault: False}).text()], {}, tuple(FORM))[1] < 0.2 for fault in FAULTS
    } == dict.fromkeys(FAULTS, True), "each fault is one"


@settings(max_examples=150, deadline=None)
@given(
    chosen=allowed(),
    group=st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])), min_size=2, max_size=16),
)
def test_scaling_each_reward_by_itself_keeps_programs_first(chosen: dict[str, float], group: list[tuple[bool, float]]) -> None:
    """normalize_then_sum makes every reward's spread one before the weights: a rare fault of form then weighs as much as half a group."""
    config = GrpoConfig(
        rewards=(*FORM, "execution"), reward_weights=chosen, num_generations=len(group), multi_objective_aggregation="normalize_then_sum"
    )
    try:
        active(config)
    except BadInput:
        return  # refused: that is the rule tested here
    right, form = [float(passes) for passes, _ in group], [grade for _, grade in group]
    exact = [float(grade == 1.0) for grade in form]
    assume(0 < sum(right) < len(group))
    parts = [(1.0, right), (chosen["format_exact"], exact), (chosen["format_approximate"], form)]
    totals = [
        sum(weight * scaled for (weight, _), scaled in zip(parts, column, strict=True))
        for column in zip(*(_scaled(p) for _, p in parts), strict=True)
    ]
    worst_right = min(total for total, passes in zip(totals, right, strict=True) if passes)
    best_wrong = max(total for total, passes in zip(totals, right, strict=True) if not passes)
    assert worst_right > best_wrong - 1e-6


def _scaled(rewards: list[float]) -> list[float]:
    """As TRL's normalize_then_sum scales one reward within a group (grpo_trainer.py)."""
    mean, spread = fmean(rewards), stdev(rewards)
    return [(reward - mean) / (spread + 1e-4) for reward in rewards]


def test_weights_that_scaling_would_turn_round_are_refused() -> None:
    """A lone well-formed wrong answer among 64: sqrt(64 / 2) = 5.7 times its weight of 0.2 is more than a program's 1."""
    rewards = (*FORM, "execution")
    active(GrpoConfig(rewards=rewards, num_generations=64))
    active(GrpoConfig(rewards=rewards, num_generations=8, multi_objective_aggregation="normalize_then_sum"))
    with pytest.raises(BadInput, match=r"weigh 0\.2 together, up to 1\.13137 once each is scaled by itself \(normalize_then_sum\)"):
        active(GrpoConfig(rewards=rewards, num_generations=64, multi_objective_aggregation="normalize_then_sum"))
    # half right, half wrong; the faults of form lie so that two of 64 differ most: the rule is not looser than it must be
    right, form = [1.0] * 32 + [0.0] * 32, [0.0] + [0.5] * 62 + [1.0]
    total = [one + 0.2 * other for one, other in zip(_scaled(right), _scaled(form), strict=True)]
    assert total[0] < total[-1] and math.isclose(fmean(right), 0.5)
