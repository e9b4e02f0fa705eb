"""The judge beside execution: counted, within its budget, and without any say in the rewards."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gwen25 import sandbox, training
from gwen25.chat import FORMATS
from gwen25.config import GrpoConfig, JudgeConfig
from gwen25.errors import SandboxUnavailable
from gwen25.rewards import REWARDS, Reward, active, agreement
from gwen25.rewards.judge import Judge
from gwen25.rewards.panel import Panel
from tests.rewards.judging_service import Reply, Service

FORMAT = FORMATS["chatml-think"]
TESTS = json.dumps([{"input": "1 2\n", "output": "3\n", "kind": "stdin"}])


@pytest.fixture
def executed() -> Iterator[None]:
    """Programs are not run: one that says so in its text passes."""
    with pytest.MonkeyPatch.context() as patch:
        score = Reward(
            lambda samples, tools: [float("passes" in sample.text) for sample in samples], 1.0, "correctness", lambda one: bool(one.tests)
        )
        patch.setitem(REWARDS, "execution", score)
        yield


def answers(*words: str) -> list[str]:
    """Answers whose programs pass, and please the judge, as their words say; no two are the same."""
    return [FORMAT.answer("So.", f"print({at})  # {word}") for at, word in enumerate(words)]


def by_the_word(number: int, prompt: str) -> Reply:
    code = prompt.split("candidate program ------\n")[1].split("\n------ ")[0]
    return Reply(status=503) if "outage" in code else Reply(json.dumps({"score": 0.9 if "liked" in code else 0.1}))


def panel(service: Service, folder: Path, *, asked: int, file: Path | None = None, max_calls: int | None = None, **settings: Any) -> Panel:
    judge = JudgeConfig(
        provider="openai", model="local", base_url=f"{service.url}/v1", max_retries=0, timeout_seconds=20, max_calls=max_calls
    )
    config = GrpoConfig(judge=judge, rewards=("format_exact", "execution", "judge"), judge_agreement=asked, **settings)
    return Panel(config, FORMAT, Judge(judge, folder), 1, {1}, file)


def call(panel: Panel, completions: list[str], tests: str = TESTS, **columns: Any) -> list[list[float | None]]:
    size = len(completions)
    whole = {"statement": ["a problem"] * size, "completion_ids": [[1]] * size, "tests": [tests] * size, **columns}
    return [function(prompts=["p"] * size, completions=completions, **whole) for function in panel.functions()]


FOUR = answers("passes liked", "passes", "liked", "neither")


@pytest.mark.usefixtures("executed")
def test_the_two_are_counted_in_a_table(service: Service, tmp_path: Path) -> None:
    service.reply = by_the_word
    this = panel(service, tmp_path, asked=4)
    call(this, FOUR)
    told = this.metrics()
    assert {name: told[f"agreement/{name}"] for name in ("both", "neither", "only_execution", "only_judge")} == dict.fromkeys(
        ("both", "neither", "only_execution", "only_judge"), 1
    )
    assert (told["agreement/n"], told["agreement/share"], told["agreement/kappa"]) == (4, 0.5, 0.0)
    assert told["judge/requests"] == len(service.prompts) == 4


@pytest.mark.usefixtures("executed")
def test_no_reward_changes_and_off_costs_nothing(service: Service, tmp_path: Path) -> None:
    service.reply = by_the_word
    off, on = panel(service, tmp_path / "off", asked=0), panel(service, tmp_path / "on", asked=4)
    without = call(off, FOUR)
    assert not service.prompts and not any(name.startswith("agreement") for name in off.metrics())
    assert call(on, FOUR) == without and len(service.prompts) == 4
    assert without[1] == [1.0, 1.0, 0.0, 0.0] and without[2] == [None] * 4
    assert off.coverage() == on.coverage() == 1.0 and on.metrics()["unknown/judge"] == 0


@pytest.mark.usefixtures("executed")
def test_as_many_as_were_asked_for_drawn_by_seed_and_step(service: Service, tmp_path: Path) -> None:
    service.reply = by_the_word

    def shown(folder: str, seed: int, step: int) -> set[str]:
        before = len(service.prompts)
        made = panel(service, tmp_path / folder, asked=2, seed=seed, file=tmp_path / f"{folder}.jsonl")
        call(made, FOUR, trainer_state=SimpleNamespace(global_step=step))
        return set(service.prompts[before:])

    assert len(shown("a", 1, 0)) == 2 and shown("b", 1, 0) == shown("c", 1, 0)
    assert len({frozenset(shown(f"d{step}", 1, step)) for step in range(6)}) > 1, "not always the first"


@pytest.mark.usefixtures("executed")
def test_they_come_out_of_the_judges_budget(service: Service, tmp_path: Path) -> None:
    service.reply = by_the_word
    this = panel(service, tmp_path, asked=4, max_calls=7)
    call(this, FOUR)
    assert len(service.prompts) == 3 and this.metrics()["agreement/unknown"] == 1 and this.metrics()["agreement/n"] == 3
    call(this, FOUR)  # what was judged before is remembered, and costs nothing
    assert len(service.prompts) == 3 and this.metrics()["agreement/n"] == 6


@pytest.mark.usefixtures("executed")
@pytest.mark.parametrize("attempts", [1, 2])
def test_half_of_the_budget_is_left_for_rewards_over_all_attempts(service: Service, tmp_path: Path, attempts: int) -> None:
    service.reply = by_the_word
    for attempt in range(attempts):
        this = panel(service, tmp_path, asked=4, max_calls=8)
        for step in range(3):
            call(this, answers(*(f"passes {attempt} {step} {number}" for number in range(4))))
    assert len(service.prompts) == 4, "twelve programs an attempt could have been shown"
    assert this.tools.judge is not None and this.tools.judge.last_failure is None
    unjudged = answers("a liked", "b", "c liked", "d")
    assert call(this, unjudged, tests="")[2] == [0.9, 0.1, 0.9, 0.1], "rows without tests have their reward"
    assert call(this, answers("one too many"), tests="")[2] == [None] and this.tools.judge.last_failure is not None


@pytest.mark.usefixtures("executed")
@pytest.mark.parametrize("status", [503, 401])
def test_a_judge_that_is_away_or_refuses_is_unknown_and_ends_no_run(service: Service, tmp_path: Path, status: int) -> None:
    service.reply = lambda number, prompt: Reply(status=status)
    this = panel(service, tmp_path, asked=4)
    assert call(this, FOUR)[1] == [1.0, 1.0, 0.0, 0.0]
    told = this.metrics()
    assert (told["agreement/unknown"], told["agreement/n"], told["agreement/share"], told["agreement/kappa"]) == (4, 0, None, None)
    this.check(last=True)


@pytest.mark.usefixtures("executed")
def test_what_has_no_verdict_is_not_asked_about(service: Service, tmp_path: Path) -> None:
    service.reply = by_the_word
    this = panel(service, tmp_path, asked=9)
    call(this, [*FOUR[:1], "no program", *FOUR[:1]])  # the same program twice is one
    assert len(service.prompts) == 1 and this.metrics()["agreement/n"] == 1
    call(this, FOUR, tests="")  # rows for the judge alone
    assert this.metrics()["agreement/n"] == 1


@pytest.mark.usefixtures("executed")
def test_a_step_is_asked_about_once_and_a_resumed_run_counts_it_once(service: Service, tmp_path: Path) -> None:
    service.reply = by_the_word
    file = tmp_path / "rewards.jsonl"

    def step(made: Panel, number: int) -> None:
        call(made, FOUR, trainer_state=SimpleNamespace(global_step=number))

    first = panel(service, tmp_path, asked=2, file=file)
    for number in (0, 1, 1, 2):  # in step 2 groups were drawn again
        step(first, number)
    assert first.metrics()["agreement/n"] == 6
    training.keep_until(file, 2)
    again = panel(service, tmp_path, asked=2, file=file)
    step(again, 2)
    assert again.metrics()["agreement/n"] == 6 and again.metrics()["completions"] == 16


@pytest.mark.parametrize(
    ("table", "share", "kappa"),
    [
        ((20, 15, 5, 10), 0.7, 0.4),
        ((5, 5, 0, 0), 1.0, 1.0),
        ((0, 0, 5, 5), 0.0, -1.0),
        ((9, 0, 0, 0), 1.0, None),
        ((0, 0, 0, 0), None, None),
    ],
)
def test_kappa(table: tuple[int, ...], share: float | None, kappa: float | None) -> None:
    """20, 5, 10, 15 is the worked example of Cohen's kappa in textbooks."""
    counts = dict(zip(("agreement/both", "agreement/neither", "agreement/only_execution", "agreement/only_judge"), table, strict=True))
    told = agreement.measures(counts)
    assert told["agreement/share"] == (None if share is None else pytest.approx(share))
    assert told["agreement/kappa"] == (None if kappa is None else pytest.approx(kappa))


def test_without_a_key_the_run_is_told_that_nothing_is_measured() -> None:
    said: list[str] = []
    active(GrpoConfig(rewards=("execution", "judge"), judge_agreement=2), said.append)
    assert len(said) == 1 and "grpo.judge_agreement measures nothing" in said[0]


def test_real_programs_against_a_real_service(service: Service, tmp_path: Path) -> None:
    try:
        sandbox.probe()
    except SandboxUnavailable as error:
        pytest.skip(f"programs cannot be isolated here: {error}")
    service.reply = by_the_word
    this = panel(service, tmp_path, asked=2)
    right = FORMAT.answer("So.", "print(sum(map(int, input().split())))  # liked")
    wrong = FORMAT.answer("So.", "print(4)  # liked")
    assert call(this, [right, wrong])[1] == [1.0, 0.0]
    assert this.metrics()["agreement/both"] == this.metrics()["agreement/only_judge"] == 1
