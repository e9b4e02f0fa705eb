"""The execution reward on real programs in the real sandbox."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from gwen25 import sandbox
from gwen25.chat import FORMATS
from gwen25.data import TestCase
from gwen25.errors import BadInput, SandboxUnavailable
from gwen25.rewards.execution import execution, holds_output
from gwen25.rewards.sample import Sample, Tools, read_tests
from gwen25.sandbox import sure

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
    assert +tools.counts == {
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


def test_a_program_that_is_killed_from_outside_twice_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    real = sure.grade_many

    def outage(jobs: Any, limits: Any, *, workers: int) -> list[sandbox.Verdict]:
        return [
            replace(verdict, status="unknown") if "killed" in job[0] else verdict
            for job, verdict in zip(jobs, real(jobs, limits, workers=workers), strict=True)
        ]

    monkeypatch.setattr(sure, "grade_many", outage)
    given, tools = scores(answer("print(3)  # killed"), answer("print(3)"))
    assert given == [None, 0.0] and tools.counts["verdicts/unknown"] == 1


def test_sleeping_does_not_escape_a_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sure, "LIMITS", replace(sure.LIMITS, wall_seconds=1))
    monkeypatch.setattr(sure, "PATIENT", replace(sure.LIMITS, wall_seconds=2))
    sleeps = answer("import time\ntime.sleep(9)\nprint(3)")
    slow = answer("import time\ntime.sleep(1.2)\nprint(sum(map(int, input().split())))")
    monkeypatch.setattr(sure.os, "getloadavg", lambda: (0.5, 0.5, 0.5))
    given, tools = scores(sleeps, slow, tests=TESTS[:1])
    assert given == [0.0, 1.0] and tools.counts["verdicts/stalled"] == 1
    monkeypatch.setattr(sure.os, "getloadavg", lambda: (1000.0, 1000.0, 1000.0))
    assert scores(sleeps)[0] == [None], "an overloaded machine says nothing of a program"


LONG = (TestCase("1 2\n", "10 30\n"), TestCase("5 5\n", "50 50\n"))


@pytest.mark.parametrize(
    ("program", "tests", "held"),
    [
        ("print({'1 2': '10 30', '5 5': '50 50'}[input()])", LONG, True),
        ("print('10 30' if input()[0] == '1' else ''.join(['50 ', '50']))", LONG, True),
        ("a, b = map(int, input().split())\nprint(10 * a, 15 * b if a < b else 50)", LONG, False),
        ("print('3' if input()[0] == '1' else '10')", TESTS, False),  # too short to tell anything
        ("import os\nos.write(1, b'-1234\\n')", (TestCase("", "-1234"),), True),
        ("print(-1234)", (TestCase("", "-1234"),), True),
        ("def f(a):\n    return {1: (1, 2, 3)}[a]", (TestCase("1", "[1,2,3]", "functional"),), True),
        ("def f(a):\n    return [a, 2, 3]", (TestCase("1", "[1,2,3]", "functional"),), False),
        ("print('10 30'", LONG, None),
        ("x = " + "-" * 100_000 + "1", LONG, None),
        ("x = " + "1+" * 100_000 + "1", LONG, None),
        ("x = 0x" + "f" * 10_000, LONG, None),  # more digits than int allows to be printed
    ],
)
def test_programs_that_hold_what_they_are_to_print(program: str, tests: tuple[TestCase, ...], held: bool | None) -> None:
    assert holds_output(program, tests) is held


def test_only_programs_that_passed_are_looked_at() -> None:
    table, wrong = (answer(f"print({{'1 2': '10 30', '5 5': '{last}'}}[input()])") for last in ("50 50", "5"))
    honest = answer("a, b = map(int, input().split())\nprint(10 * a, 15 * b if a < b else 50)")
    given, tools = scores(table, wrong, honest, tests=LONG)
    assert given == [1.0, 0.0, 1.0]
    assert tools.counts["passed/literal"] == 1 and tools.counts["passed/unparsed"] == 0


def test_a_sandbox_that_is_away_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any, **__: Any) -> list[sandbox.Verdict]:
        raise SandboxUnavailable("no adequate isolation")

    monkeypatch.setattr(sure, "grade_many", away)
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
