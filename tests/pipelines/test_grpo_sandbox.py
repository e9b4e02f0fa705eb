"""GRPO whose sandbox is killed under it: rewards that are unknown for a while, never a zero; then a new sandbox."""

from __future__ import annotations

import math
import os
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from gwen25 import sandbox, training
from gwen25.errors import SandboxUnavailable, Unavailable
from gwen25.job import Job, Result
from gwen25.pipelines import grpo
from tests.pipelines import training_jobs as jobs
from tests.sandbox_killer import killing

NAMES = ["format_exact", "format_approximate", "execution"]
STEPS = 5
ALL_THE_TIME, NOW_AND_THEN = 0.005, 0.15  # seconds between two kills; an interpreter starts in 0.1
KILLS = {1: ALL_THE_TIME, 2: NOW_AND_THEN, 3: ALL_THE_TIME}  # by step from 0: the first and the last are left alone

Rewards = list[list[list[float]]]  # by step, completion and name; NaN is None


@pytest.fixture(autouse=True)
def _isolation() -> None:
    try:
        sandbox.probe()
    except SandboxUnavailable as error:
        pytest.skip(f"programs cannot be isolated here: {error}")


def _completions(step: int, prompts: list[str]) -> list[str]:
    """Right and wrong programs in turn, no two alike: the tiny model is far too small to write any."""
    texts = []
    for at, prompt in enumerate(prompts):
        sign = next(sign for word, sign in (("sum", "+"), ("product", "*"), ("difference", "-")) if f"print their {word}" in prompt)
        code = f"import time\na, b = map(int, input().split())\ntime.sleep(0.05)\nprint(a {sign} b + {at % 2})  # {step}, {at}"
        texts.append(jobs.FORMAT.answer("A thought.", code))
    return texts


def _train(
    folder: Path, base: Path, monkeypatch: pytest.MonkeyPatch, kills: dict[int, float], **settings: Any
) -> tuple[Job, Result, Rewards]:
    """The stage with these completions in the place of the policy's, its sandbox killed in some steps."""
    from trl import GRPOTrainer

    rewards: Rewards = []
    real = GRPOTrainer._calculate_rewards

    def scripted(trainer: Any, inputs: Any, prompts: Any, completions: Any, ids: Any) -> Any:
        step = trainer.state.global_step
        with killing(os.getpid(), kills[step]) if step in kills else nullcontext():
            given = real(trainer, inputs, prompts, _completions(step, prompts), ids)
        rewards.append(given.tolist())
        return given

    monkeypatch.setattr(GRPOTrainer, "_calculate_rewards", scripted)
    section = jobs.config(
        grpo__max_steps=STEPS, grpo__max_completion_length=8, grpo__rewards=NAMES, grpo__min_reward_coverage=0, **settings
    ).grpo
    inputs = {"dataset": jobs.dataset(folder / "data", rows=4, heldout=0), "sft": jobs.trained_adapter(folder / "adapter", base)}
    job = jobs.job("grpo", folder / "work", section, base, inputs, {"rewards": {"active": NAMES, "judge": None}}, micro_batch=8)
    return job, grpo.run(job), rewards


@pytest.mark.slow  # two training runs, and restarts of the sandbox that are killed again
def test_killing_the_sandbox_gives_unknown_rewards_and_never_a_zero(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        _, _, straight = _train(tmp_path / "straight", tiny_model, patch, {})
    job, result, killed = _train(tmp_path / "killed", tiny_model, monkeypatch, KILLS)

    assert [[row[2] for row in step] for step in straight] == [[1.0, 0.0] * 4] * STEPS
    unknown = Counter[int]()
    for step, (before, after) in enumerate(zip(straight, killed, strict=True)):
        for undisturbed, row in zip(before, after, strict=True):
            # known rewards are the same ones; an unknown correctness takes the completion's form along, so that it is compared with nobody
            assert row == undisturbed or all(map(math.isnan, row))
            unknown[step] += math.isnan(row[2])
    assert unknown[1] == unknown[3] == 8, "while it is killed all the time nothing is known"
    assert unknown[0] == unknown[4] == 0, "and as soon as it is not, everything"

    batches = training.read_metrics(job.aside / "rewards.jsonl")
    assert [batch["applicable"] - batch["known"] for batch in batches] == [unknown[step] for step in range(STEPS)]
    told = Counter({name: value for name, value in result.metrics.items() if isinstance(value, int)})
    assert told["unknown/execution"] == told["verdicts/unknown"] + told["execution/unavailable"] == unknown.total()
    assert told["verdicts/passed"] + told["verdicts/wrong"] + unknown.total() == told["completions"] == 8 * STEPS
    assert result.metrics["adapter_moved"] > 0


@pytest.mark.slow  # a training run
def test_a_sandbox_that_is_killed_for_ever_ends_the_run(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    always = dict.fromkeys(range(STEPS), ALL_THE_TIME)
    with pytest.raises(Unavailable, match=r"known for 0 of the last 16 .*sandbox's last failure"):
        _train(tmp_path, tiny_model, monkeypatch, always, grpo__coverage_window=2)
