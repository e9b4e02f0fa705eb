"""Which rewards run, with which weights, and what is refused before anything starts."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from gwen25.config import GrpoConfig, JudgeConfig, load_config
from gwen25.errors import BadInput
from gwen25.rewards import REWARDS, active, identities, weights

KEY = "a-key-that-must-not-be-recorded"


def test_without_a_key_the_judge_is_left_out_aloud() -> None:
    said: list[str] = []
    assert active(GrpoConfig(), said.append) == ("format_exact", "format_approximate", "execution")
    assert len(said) == 1 and "GEMINI_API_KEY" in said[0]
    assert weights(GrpoConfig()) == (0.1, 0.1, 1.0)
    assert identities(GrpoConfig())["judge"] is None


def test_a_fraction_of_the_tests_is_warned_of() -> None:
    said: list[str] = []
    active(GrpoConfig(rewards=("execution",), execution_reward="fraction"), said.append)
    assert len(said) == 1 and "execution_reward=fraction" in said[0]
    active(GrpoConfig(rewards=("judge", "format_exact"), execution_reward="fraction", allow_format_only=True), said.append)
    assert "judge" in said[1] and len(said) == 2, "where execution does not run there is nothing to warn of"


def test_with_a_key_the_judge_is_part_of_the_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    without = identities(GrpoConfig())
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    said: list[str] = []
    assert "judge" in active(GrpoConfig(), said.append) and not said
    assert identities(GrpoConfig()) != without, "a missing key is a different run, never a hit"
    assert KEY not in json.dumps(identities(GrpoConfig()))


def test_unknown_and_doubled_names() -> None:
    with pytest.raises(BadInput, match="unknown reward 'executoin'; did you mean 'execution'"):
        active(GrpoConfig(rewards=("executoin",)))
    with pytest.raises(BadInput, match="unknown reward 'jugde'"):
        active(GrpoConfig(reward_weights={"jugde": 1.0}))
    with pytest.raises(BadInput, match="twice"):
        active(GrpoConfig(rewards=("execution", "execution")))


def test_a_run_on_form_alone_must_be_asked_for() -> None:
    form = ("format_exact", "format_approximate")
    for rewards in (form, (*form, "judge")):
        with pytest.raises(BadInput, match="allow_format_only"):
            active(GrpoConfig(rewards=rewards))
        assert active(GrpoConfig(rewards=rewards, allow_format_only=True)) == form
    for rewards in ((), ("judge",)):
        with pytest.raises(BadInput, match="no reward is left"):
            active(GrpoConfig(rewards=rewards, allow_format_only=True))


@pytest.mark.parametrize(
    "chosen",
    [
        {"format_exact": 0.9},
        {"execution": 0.2},
        {"execution": 0.0},
        {"format_exact": 0.5, "format_approximate": 0.5},
        {"format_exact": -0.1},
    ],
)
def test_form_may_not_outrank_a_program(chosen: dict[str, float]) -> None:
    with pytest.raises(BadInput, match=r"grpo\.reward_weights"):
        active(GrpoConfig(reward_weights=chosen))


@pytest.mark.parametrize("number", ["nan", "inf"])
def test_a_weight_is_a_number(number: str) -> None:
    with pytest.raises(BadInput, match=r"grpo\.reward_weights\.execution: .* finite"):
        load_config("smoke", overrides={"grpo.reward_weights.execution": float(number)})


def test_the_best_form_is_below_the_worst_right_program_by_default() -> None:
    form = sum(reward.weight for reward in REWARDS.values() if reward.kind == "format")
    assert all(form < reward.weight for reward in REWARDS.values() if reward.kind == "correctness")


def test_the_judges_weight_counts_only_where_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    light = GrpoConfig(reward_weights={"judge": 0.1})
    assert "judge" not in active(light)
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    with pytest.raises(BadInput, match="make judge the heavier"):
        active(light)


def test_a_local_judge_needs_no_key() -> None:
    local = JudgeConfig(provider="openai", model="local", base_url="http://127.0.0.1:8000/v1")
    assert active(GrpoConfig(judge=local)) == GrpoConfig().rewards


def test_the_room_imports_no_trainer_and_no_sdk() -> None:
    heavy = "torch transformers trl peft datasets google.genai google.generativeai gwen25.sandbox"
    code = f"import sys, gwen25.rewards, gwen25.rewards.panel; print([name for name in '{heavy}'.split() if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
