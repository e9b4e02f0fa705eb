"""The execution reward on real programs in the real sandbox."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gwen25 import sandbox
from gwen25.chat import FORMATS
from gwen25.data import TestCase
from gwen25.errors import BadInput, SandboxUnavailable
from gwen25.rewards.execution import execution
from gwen25.rewards.sample import Sample, Tools, read_tests

FORMAT = FORMATS["chatml-think"]
TESTS = (TestCase("1 2\n", "3\n"), TestCase("5 5\n", "10\n"))


@pytest.fixture(scope="module", autouse=True)
def _isolation() -> None:
    try:
        sandbox.probe()
    except SandboxUnavailable as error:
        pytest.skip(f"programs cannot be isolated here: {error}")


def scores(*texts: str, tests: tuple[TestCase, ...] = TESTS, func_name: str | None = None) -> tuple[list[float | None], Tools]:
    tools = Tools(FORMAT)
    return execution([Sample(text, FORMAT, tests, func_name) for text in texts], tools), tools


def answer(code: str) -> str:
    return FORMAT.answer("A thought.", code)


def test_programs_earn_what_their_tests_say() -> None:
    right, wrong = answer("print(sum(map(int, input().split())))"), answer("print(3)")
    given, tools = scores(right, wrong, answer("print(1 / 0)"), answer("x = 'a' * 10**11"), answer("while True: print('a' * 10**6)"), right)
    assert given == [1.0, 0.0, 0.0, 0.0, 0.0, 1.0]
    assert tools.counts == {
        "verdicts/passed": 2, "verdicts/wrong": 1, "verdicts/error": 1, "verdicts/memory": 1, "verdicts/output_limit": 1
    }  # fmt: skip


def test_answers_without_a_program_are_wrong_not_unknown() -> None:
    program = "print(sum(map(int, input().split())))"
    draft = f"Let me try\n```python\n{program}\n```\nand then"
    given, tools = scores("", draft, "thought</think>", "thought</think> It is 3.", answer("  \n"))
    assert given == [0.0] * 5, "a draft within reasoning that never closed is not an answer"
    assert tools.counts == {"verdicts/no_program": 5}


def test_a_blank_block_does_not_pass_a_test_that_expects_nothing() -> None:
    assert scores(answer(""), tests=(TestCase("", ""),))[0] == [0.0]


def test_functions() -> None:
    tests = (TestCase("1\n2", "3", "functional"), TestCase("[1]\n[2]", "[1, 2]", "functional"))
    code = "class Solution:\n    def join(self, a, b):\n        return a + b"
    assert scores(answer(code), answer(code.replace("a + b", "a")), tests=tests, func_name="join")[0] == [1.0, 0.0]


def test_what_the_sandbox_does_not_know_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    real = sandbox.grade_many

    def outage(jobs: Any, limits: Any, *, workers: int) -> list[sandbox.Verdict]:
        from dataclasses import replace

        return [
            replace(verdict, status="unknown") if "killed" in job[0] else verdict
            for job, verdict in zip(jobs, real(jobs, limits, workers=workers), strict=True)
        ]

    monkeypatch.setattr(sandbox, "grade_many", outage)
    given, tools = scores(answer("print(3)  # killed"), answer("print(3)"))
    assert given == [None, 0.0] and tools.counts["verdicts/unknown"] == 1


def test_a_sandbox_that_is_away_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any, **__: Any) -> list[sandbox.Verdict]:
        raise SandboxUnavailable("no adequate isolation")

    monkeypatch.setattr(sandbox, "grade_many", away)
    with pytest.raises(SandboxUnavailable):
        scores(answer("print(3)"))


def test_tests_arrive_as_json_or_as_rows() -> None:
    rows = [{"input": "1 2\n", "output": "3\n", "kind": "stdin"}, {"input": "5 5\n", "output": "10\n"}]
    assert read_tests(json.dumps(rows)) == read_tests(rows) == read_tests(list(TESTS)) == TESTS
    assert read_tests(None) == read_tests("") == read_tests([]) == read_tests("[]") == ()


@pytest.mark.parametrize(
    "bad", ["{", "3", 7, [{"input": "x"}], [{"input": 1, "output": "1"}], [{"input": "", "output": "", "kind": "magic"}], ["x"]]
)
def test_tests_that_are_none_are_bad_input(bad: object) -> None:
    with pytest.raises(BadInput, match="make the data set again"):
        read_tests(bad)
