"""The execution reward on real programs in the real sandbox."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
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
from tests.sandbox_killer import killing

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


def test_programs_whose_sandbox_is_killed_are_none_and_the_next_batch_finds_a_new_one() -> None:
    slow = "import time\ntime.sleep(0.3)\n"
    right, wrong = answer(f"{slow}print(sum(map(int, input().split())))"), answer(f"{slow}print(3)")
    with killing(os.getpid()) as killed:
        given, tools = scores(right, wrong, "no program")
    assert killed and given == [None, None, 0.0], "nothing is known of programs that were killed from outside, not even of wrong ones"
    assert tools.counts["verdicts/unknown"] + tools.counts["execution/unavailable"] == 2 and tools.sandbox_failure
    assert scores(right, wrong, "no program")[0] == [1.0, 0.0, 0.0]


def test_killing_now_and_then_makes_no_zero_of_a_right_program() -> None:
    programs = [answer(f"import time\ntime.sleep(0.02)\nprint(sum(map(int, input().split())))  # {number}") for number in range(10)]
    wrong = [answer(f"print({number})") for number in range(10, 20)]
    for _ in range(2):
        with killing(os.getpid(), every_seconds=0.15) as killed:
            given, _ = scores(*programs, *wrong)
        assert killed and set(given[:10]) <= {1.0, None} and set(given[10:]) <= {0.0, None}


def test_sleeping_does_not_escape_a_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sure, "LIMITS", replace(sure.LIMITS, wall_seconds=1))
    monkeypatch.setattr(sure, "PATIENT", replace(sure.LIMITS, wall_seconds=2))
    sleeps = answer("import time\ntime.sleep(9)\nprint(3)")
    slow = answer("import time\ntime.sleep(1.2)\nprint(sum(map(int, input().split())))")
    monkeypatch.setattr(sure.os, "getloadavg", lambda: (0.5, 0.5, 0.5))
    given, tools = scores(sleeps, slow, tests=TESTS[:1])
    assert given == [0.0, 1.0] and tools.counts["verdicts/stalled"] == 1
    monkeypatch.setattr(sure.os, "getloadavg", lambda: (1000.0, 1000.0, 1000.0))
    monkeypatch.setattr(sure, "_idle_ticks", lambda: (0, 0))  # and none of it idle
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


@pytest.fixture
def lost(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A sandbox that does not start where a batch holds a program with the word `lost`; the sizes of the batches that it was given."""
    real, sizes = sandbox.grade_surely, list[int]()

    def grade_surely(jobs: Sequence[sandbox.Job], **settings: Any) -> list[sandbox.Settled]:
        sizes.append(len(jobs))
        if any("lost" in job.program for job in jobs):
            raise SandboxUnavailable("cannot start an isolated interpreter")
        return real(jobs, **settings)

    monkeypatch.setattr(sandbox, "grade_surely", grade_surely)
    return sizes


def test_a_sandbox_that_does_not_start_costs_only_the_scores_it_took_along(lost: list[int]) -> None:
    right, wrong = answer("print(sum(map(int, input().split())))"), answer("print(3)")
    given, tools = scores(right, answer("print(3)  # lost"), wrong, "no program", answer("print(3)  # lost"))
    assert given == [1.0, None, 0.0, 0.0, None]
    assert tools.counts["execution/unavailable"] == 2 and tools.counts["verdicts/passed"] == 1
    assert tools.sandbox_failure == "cannot start an isolated interpreter"


def test_a_sandbox_that_is_gone_is_not_tried_for_each_program(lost: list[int]) -> None:
    given, tools = scores(*(answer(f"print({number})  # lost") for number in range(40)))
    assert given == [None] * 40 and tools.counts["execution/unavailable"] == 40
    assert lost == [40, 1, 1, 1]


def test_a_machine_that_cannot_isolate_ends_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> sandbox.Isolation:
        raise SandboxUnavailable("no adequate isolation")

    monkeypatch.setattr(sandbox, "probe", refuse)
    with pytest.raises(SandboxUnavailable):
        scores(answer("print(3)"))


@pytest.mark.parametrize(
    ("text", "earned"),
    [
        (answer("print(sum(map(int, input().split())))"), 1.0),
        (answer("print(10)"), 0.5),  # fails the first test, passes the second
        (answer("print('nothing')"), 0.0),
        (answer("print(3)\nassert input() == '1 2'"), 0.5),
        ("no program", 0.0),
    ],
)
def test_a_fraction_counts_every_test(text: str, earned: float) -> None:
    tools = Tools(FORMAT, execution_reward="fraction")
    assert execution([Sample(text, FORMAT, TESTS)], tools) == [earned]


def test_decimals_are_compared_as_the_statement_asks() -> None:
    tests = (TestCase("", "3.14159\n"),)

    def earned(statement: str | None) -> list[float | None]:
        return execution([Sample(answer("print(3.141)"), FORMAT, tests, statement=statement)], Tools(FORMAT))

    assert earned("Print pi. Your answer is correct if its absolute error does not exceed 1e-3.") == [1.0]
    assert earned("Print pi.") == earned(None) == [0.0]


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
