"""A group teaches where two of its rewards differ: their sums, or where each is scaled by itself those of any one function."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gwen25.chat import FORMATS
from gwen25.config import GrpoConfig
from gwen25.grpo_trainer import Groups
from gwen25.rewards import REWARDS, Reward
from gwen25.rewards.panel import Panel
from gwen25.rewards.spread import teaches

WEIGHTS = [0.1, 0.1]
CASES = [
    ([[1.0, 0.0], [0.0, 1.0]], False, True),  # the sums agree, and the advantages under normalize_then_sum need not
    ([[1.0, 0.0], [1.0, 0.0]], False, False),
    ([[1.0, 1.0], [0.0, 0.0]], True, True),
    ([[1.0, None], [1.0, 0.5]], True, False),  # one known score of a function is compared with nobody
    ([[None, None], [0.0, 1.0]], False, False),
    ([[math.nan, math.nan], [math.nan, math.nan]], False, False),
]


@pytest.mark.parametrize(("group", "summed", "apart"), CASES)
def test_spread(group: list[list[float | None]], summed: bool, apart: bool) -> None:
    assert teaches(group, WEIGHTS, apart=False) is summed
    assert teaches(group, WEIGHTS, apart=True) is apart


def test_a_function_that_weighs_nothing_does_not_count() -> None:
    assert not teaches([[1.0, 1.0], [0.0, 1.0]], [0.0, 0.1], apart=True)


@pytest.mark.parametrize(("group", "summed", "apart"), CASES)
@pytest.mark.parametrize("aggregation", ["sum_then_normalize", "normalize_then_sum"])
def test_the_panel_and_the_trainer_tell_it_alike(
    group: list[list[float | None]], summed: bool, apart: bool, aggregation: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import torch

    expected = apart if aggregation == "normalize_then_sum" else summed
    trainer: Any = SimpleNamespace(num_generations=2, multi_objective_aggregation=aggregation, reward_weights=torch.tensor(WEIGHTS))
    rewards = torch.tensor([[math.nan if score is None else score for score in row] for row in group])
    assert Groups._spread(trainer, rewards) == [expected]

    names = ("format_exact", "format_approximate")
    for at, name in enumerate(names):
        column = [None if row[at] is None or math.isnan(row[at] or 0.0) else row[at] for row in group]
        monkeypatch.setitem(REWARDS, name, Reward(lambda samples, tools, column=column: column, 0.1, "format"))  # type: ignore[misc]
    config = GrpoConfig(rewards=names, num_generations=2, multi_objective_aggregation=aggregation, allow_format_only=True)
    panel = Panel(config, FORMATS["chatml-think"], None, 1, {1})
    told: dict[str, float] = {}
    for function in panel.functions():
        function(prompts=["p"] * 2, completions=["a", "b"], completion_ids=[[1]] * 2, log_metric=told.__setitem__)
    assert panel.metrics()["groups/compared"] == told["frac_groups_compared"] == int(expected)
