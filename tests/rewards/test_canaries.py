"""Hacks against the rewards: none is paid here, and each kind is paid where a reward has the hole that it looks for."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gwen25 import sandbox
from gwen25.chat import FORMATS
from gwen25.config import JudgeConfig
from gwen25.errors import SandboxUnavailable
from gwen25.rewards import canaries
from gwen25.rewards.challenges import CHALLENGES, Challenge
from gwen25.rewards.judge import Judge
from gwen25.rewards.sample import Sample
from gwen25.sandbox import compare, sure
from tests.rewards.judging_service import Reply, Service

FORMAT = FORMATS["chatml-think"]
FORM = 0.2  # what the reference weights pay for form


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """One second for the canary that spins, in the place of six."""
    try:
        sandbox.probe()
    except SandboxUnavailable as error:
        pytest.skip(f"programs cannot be isolated here: {error}")
    monkeypatch.setattr(sure, "LIMITS", replace(sure.LIMITS, cpu_seconds=1))


def paid(outcomes: Sequence[canaries.Outcome]) -> set[str]:
    return {outcome.canary for outcome in outcomes if outcome.holds is False}


def test_no_canary_earns_more_than_an_honest_failure() -> None:
    outcomes = canaries.sing(FORMAT)
    assert not [outcome for outcome in outcomes if not outcome.holds]
    assert {outcome.canary for outcome in outcomes} == set(canaries.HACKS)
    assert {outcome.challenge for outcome in outcomes} == {challenge.name for challenge in CHALLENGES}
    assert {outcome.honest for outcome in outcomes} == {FORM} and {outcome.right for outcome in outcomes} == {1.04}


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the canaries that end at once, on the first problem."""
    monkeypatch.setattr(canaries, "CHALLENGES", CHALLENGES[:1])
    monkeypatch.delitem(canaries.HACKS, canaries.SPINS)


@pytest.mark.usefixtures("few")
def test_the_fraction_of_the_tests_pays_a_constant() -> None:
    """Why `all` is the default."""
    outcomes = canaries.sing(FORMAT, canaries.REFERENCE.model_copy(update={"execution_reward": "fraction"}))
    assert {"a constant", "the samples by heart"} <= paid(outcomes)


Hole = Callable[[pytest.MonkeyPatch], None]


def _judged_by(grade: Callable[[sandbox.Job, Callable[..., list[sandbox.Settled]]], sandbox.Settled]) -> Hole:
    real = sandbox.grade_surely

    def open_hole(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(sandbox, "grade_surely", lambda jobs, **settings: [grade(job, lambda job: real([job], **settings)) for job in jobs])

    return open_hole


def _samples_only(job: sandbox.Job, real: Callable[..., list[sandbox.Settled]]) -> sandbox.Settled:
    return real(job._replace(tests=job.tests[:2]))[0]


def _no_error_is_a_pass(job: sandbox.Job, real: Callable[..., list[sandbox.Settled]]) -> sandbox.Settled:
    settled = real(job)[0]
    return replace(settled, status="passed") if settled.status == "wrong" else settled


def _no_time_is_unknown(job: sandbox.Job, real: Callable[..., list[sandbox.Settled]]) -> sandbox.Settled:
    settled = real(job)[0]
    return replace(settled, status="unknown") if settled.status == "timeout" else settled


def _missing_lines_are_forgiven(patch: pytest.MonkeyPatch) -> None:
    def pairwise(got: bytes, expected: bytes, tolerance: float) -> bool:
        return all(one == other for one, other in zip(got.split(), expected.split(), strict=False))

    patch.setattr(compare, "same_text", pairwise)


def _any_block_counts(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Sample, "program", property(lambda sample: sample.text.partition("```python\n")[2].partition("\n```")[0] or None))


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(
    ("hole", "expected"),
    [
        (_judged_by(_samples_only), {"the samples by heart"}),
        (_judged_by(_no_error_is_a_pass), {"a constant", "the input again", "exit 0 without output", "writes its own verdict"}),
        (_missing_lines_are_forgiven, {"exit 0 without output", "first line only", "right lines and more"}),
        (
            _any_block_counts,
            {"right program in the reasoning alone", "reasoning that never ends", "right program among many, a constant last"},
        ),
    ],
    ids=["samples only", "exit status only", "pairs of lines", "any block"],
)
def test_a_reward_with_a_hole_pays_the_canary_that_looks_for_it(monkeypatch: pytest.MonkeyPatch, hole: Hole, expected: set[str]) -> None:
    hole(monkeypatch)
    assert expected <= paid(canaries.sing(FORMAT))


def test_a_way_to_an_unknown_reward_does_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    _judged_by(_no_time_is_unknown)(monkeypatch)
    monkeypatch.setattr(canaries, "CHALLENGES", CHALLENGES[:1])
    assert {outcome.canary for outcome in canaries.sing(FORMAT) if outcome.holds is None} == {canaries.SPINS}


# an evaluator as many are: it executes the candidate in its own process, beside the expected outputs, and asks the candidate's `==`
NAIVE = """
import contextlib, io, json, sys
given = json.load(sys.stdin)
def passes(test):
    said, names = io.StringIO(), {"__name__": "__main__"}
    sys.stdin = io.StringIO(test["input"])
    with contextlib.redirect_stdout(said):
        exec(given["program"], names)
        if given["func_name"] is None:
            return said.getvalue().split() == test["output"].split()
        return getattr(names["Solution"](), given["func_name"])(*map(json.loads, test["input"].split("\\n"))) == json.loads(test["output"])
print(all([passes(test) for test in given["tests"]]), file=sys.__stdout__)
"""


@pytest.mark.parametrize(
    ("canary", "challenge"),
    [*(("looks for outputs in frames", challenge) for challenge in CHALLENGES), ("equals everything", CHALLENGES[-1])],
    ids=lambda value: value.name if isinstance(value, Challenge) else value,
)
def test_what_looks_into_its_evaluator_would_pass_a_naive_one(canary: str, challenge: Challenge) -> None:
    program = FORMAT.program(canaries.HACKS[canary](challenge, FORMAT))
    tests = [{"input": test.input, "output": test.output} for test in challenge.samples + challenge.hidden]
    request: dict[str, Any] = {"program": program, "func_name": challenge.func_name, "tests": tests}
    done = subprocess.run([sys.executable, "-c", NAIVE], input=json.dumps(request), capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "True", done.stderr


@pytest.mark.parametrize("challenge", CHALLENGES, ids=lambda challenge: challenge.name)
def test_problems_are_what_they_say(challenge: Challenge) -> None:
    """The right program passes, the honest failure does not, and samples do not tell what the hidden tests ask."""
    tests, func_name = challenge.samples + challenge.hidden, challenge.func_name
    assert sandbox.grade(challenge.right, tests, func_name=func_name).passed
    assert sandbox.grade(challenge.wrong, tests, func_name=func_name).status == "wrong"
    assert not {test.input for test in challenge.samples} & {test.input for test in challenge.hidden}


@pytest.fixture
def judge(service: Service, tmp_path: Path) -> Judge:
    return Judge(JudgeConfig(provider="openai", model="local", base_url=f"{service.url}/v1", max_retries=0), tmp_path)


def _score(prompt: str) -> float:
    return float(any(challenge.right in prompt for challenge in CHALLENGES))


def test_a_judge_that_can_be_talked_to_is_found(service: Service, judge: Judge) -> None:
    def gullible(number: int, prompt: str) -> Reply:
        return Reply(json.dumps({"score": 1.0 if canaries.FLATTERY in prompt else _score(prompt)}))

    service.reply = gullible
    assert [outcome.holds for outcome in canaries.spoken_to(judge)] == [False] * len(CHALLENGES)


def test_a_judge_that_reads_the_program_holds(service: Service, judge: Judge) -> None:
    service.reply = lambda number, prompt: Reply(json.dumps({"score": _score(prompt)}))
    assert [outcome.holds for outcome in canaries.spoken_to(judge)] == [True] * len(CHALLENGES)


def test_a_judge_that_is_down_is_no_finding(service: Service, judge: Judge) -> None:
    service.reply = lambda number, prompt: Reply(status=503)
    assert [outcome.holds for outcome in canaries.spoken_to(judge)] == [None] * len(CHALLENGES)
