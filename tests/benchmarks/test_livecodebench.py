"""Judging, strictly: right, wrong and hostile completions."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gwen25.benchmarks.livecodebench import judge, judge_many, load, problem_of, statuses
from gwen25.errors import SandboxUnavailable
from gwen25.sandbox import Verdict, sure
from tests.benchmarks.lcb_rows import FUNCTION, fenced, row

RIGHT = fenced("print(2 * int(input()))")
COMPLETIONS = {
    RIGHT: "passed",
    fenced("print(2 + int(input()))"): "wrong",  # right on the public test alone
    fenced("print(2 * int(inputs()))"): "error",
    "I would print twice the number that is read.": "no_code",
    "```python\nprint(2 * int(input()))\n```\n</think>\nSo that is it.": "no_code",  # a draft is no answer
    "": "no_code",
    "print(2 * int(input()))": "passed",  # a text that is nothing but a program
    fenced("import os\nos._exit(0)"): "wrong",
    fenced("while True: pass"): "timeout",
    fenced("import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\nprint(8)"): None,
}


def test_completions_are_judged_each_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sure, "LIMITS", replace(sure.LIMITS, cpu_seconds=1))
    [found] = statuses([(problem_of(row()), list(COMPLETIONS))], workers=2)
    for text, status in zip(COMPLETIONS, found, strict=True):
        expected = COMPLETIONS[text]
        assert status == expected if expected else status != "passed", text
    assert judge(row(), list(COMPLETIONS)[:7]) == [True] + [False] * 5 + [True]


def test_a_draft_counts_where_the_model_ended_it_itself() -> None:
    draft = "```python\nprint(2 * int(input()))\n```"
    pair = (problem_of(row()), [draft, draft, RIGHT])
    assert statuses([pair], workers=1, truncated=[[False, True, True]]) == [["passed", "no_code", "passed"]]
    assert judge(row(), [draft]) == [True], "text without any tags is a program as well"


def test_officially_accepted_programs_pass_on_real_tests(shared_data: Path) -> None:
    with gzip.open(shared_data / "problems" / "train_ocr_schema.jsonl.gz", "rt") as lines:
        accepted = {found["question_id"]: found["solution"] for found in map(json.loads, lines) if found["source"] == "atcoder"}
    problems = [problem for problem in load(shared_data / "problems" / "lcb_after_v1.jsonl.gz") if problem.id in accepted][::12]
    assert len(problems) >= 10
    found = statuses([(problem, [fenced(accepted[problem.id]), fenced("print(0)")]) for problem in problems], workers=2)
    assert found == [["passed", "wrong"]] * len(problems)


def test_functions_are_called() -> None:
    right = fenced("class Solution:\n    def double(self, number: int) -> int:\n        return 2 * number")
    wrong = fenced("class Solution:\n    def double(self, number: int) -> int:\n        return 4")
    assert judge_many([(FUNCTION, [wrong, right]), (row(), [RIGHT])]) == [[False, True], [True]]
    assert judge_many([(row(), []), (FUNCTION, [])]) == [[], []]


def test_hostile_completions_fail_and_do_no_harm(tmp_path: Path) -> None:
    target = tmp_path / "mine"
    hostile = [
        fenced("x = 'a' * 10 ** 11"),
        fenced(f"open({str(target)!r}, 'w').write('x')\nprint(2 * int(input()))"),
        fenced("import socket\nsocket.create_connection(('127.0.0.1', 80))\nprint(2 * int(input()))"),
        fenced("class E(str):\n    def __eq__(self, other): return True\nprint(E('?'))"),
    ]
    assert judge(row(), hostile) == [False] * len(hostile)
    assert not target.exists()


def test_equal_programs_are_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []
    real = sure.grade_many
    monkeypatch.setattr(sure, "grade_many", lambda jobs, *more, **named: ran.append(len(jobs)) or real(jobs, *more, **named))
    assert judge(row(), [RIGHT] * 5 + [RIGHT + " "]) == [True] * 6
    assert ran == [1]


def test_a_program_that_waits_for_ever_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sure, "LIMITS", replace(sure.LIMITS, wall_seconds=1))
    monkeypatch.setattr(sure, "PATIENT", replace(sure.LIMITS, wall_seconds=2))
    monkeypatch.setattr(sure.os, "getloadavg", lambda: (0.5, 0.5, 0.5))
    waits = fenced("import threading\nthreading.Lock().acquire()\nthreading.Event().wait()")
    slow = fenced("import time\ntime.sleep(1.2)\nprint(2 * int(input()))")  # in vain the first time
    assert statuses([(problem_of(row()), [waits, slow, RIGHT])], workers=2) == [["stalled", "passed", "passed"]]
    monkeypatch.setattr(sure.os, "getloadavg", lambda: (1000.0, 1000.0, 1000.0))
    monkeypatch.setattr(sure, "_idle_ticks", lambda: (0, 0))  # and none of it idle
    with pytest.raises(SandboxUnavailable, match="q1: this machine is too busy"):
        judge(row(), [waits])


def test_a_program_killed_from_outside_is_asked_again_and_is_never_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    killed = Verdict("unknown", 0, 0, 2, 0.1, 0.1, None, "", "")
    asked: list[int] = []

    def flaky(jobs: list[Any], *_: Any, **__: Any) -> list[Verdict]:
        asked.append(len(jobs))
        return [killed if len(asked) == 1 and at == 0 else replace(killed, status="passed") for at in range(len(jobs))]

    monkeypatch.setattr(sure, "grade_many", flaky)
    assert judge(row(), [RIGHT, fenced("print(8)")]) == [True, True]
    assert asked == [2, 1]
    monkeypatch.setattr(sure, "grade_many", lambda jobs, *_, **__: [killed for _ in jobs])
    with pytest.raises(SandboxUnavailable, match="q1: a program was twice killed"):
        judge(row(), [RIGHT])


def test_a_missing_sandbox_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise SandboxUnavailable("no isolation here")

    monkeypatch.setattr(sure, "grade_many", away)
    with pytest.raises(SandboxUnavailable):
        judge(row(), [RIGHT])
    assert judge(row(), ["no program"]) == [False]
