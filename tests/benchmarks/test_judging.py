"""Both sets of rules: what each takes as the program, which runs they share, and where their verdicts part."""

from __future__ import annotations

import pytest

from gwen25.benchmarks import judging
from gwen25.benchmarks.judging import NO_CODE, Programs, in_chunks, judged
from gwen25.benchmarks.problems import problem_of
from gwen25.benchmarks.prompts import chat_programs
from gwen25.chat import FORMATS
from gwen25.data import Problem
from gwen25.errors import SandboxUnavailable
from gwen25.sandbox import Job, Settled, Verdict
from tests.benchmarks.lcb_rows import FUNCTION, fenced, row

TWICE = problem_of(row())
RIGHT, WRONG = "print(2 * int(input()))", "print(2 + int(input()))"


def both(*texts: str, problem: Problem = TWICE) -> list[tuple[str | None, str | None]]:
    """(strict, official) of each completion."""
    [found] = judged([(problem, [chat_programs(text, FORMATS["chatml-think"]) for text in texts])], workers=2)
    return [(one.strict, one.official) for one in found]


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """Every job that is really run."""
    ran: list[Job] = []
    real = judging.grade_surely

    def watched(wanted: list[Job], *, workers: int) -> list[Settled]:
        ran.extend(wanted)
        return real(wanted, workers=workers)

    monkeypatch.setattr(judging, "grade_surely", watched)
    return ran


def test_one_run_serves_both_rules_where_the_program_is_the_same(jobs: list[Job]) -> None:
    assert both(fenced(RIGHT), fenced(WRONG), fenced(RIGHT)) == [("passed", "passed"), ("wrong", "wrong"), ("passed", "passed")]
    assert sorted(job.program for job in jobs) == [RIGHT, WRONG] and all(job.official and not job.prelude for job in jobs)


def test_another_extraction_is_another_run(jobs: list[Job]) -> None:
    usage = f"{fenced(RIGHT)}\nIt prints, for 2:\n```\n4\n```"
    draft = f"```python\n{RIGHT}\n```\n</think>\nI have it."
    assert both(usage, draft, fenced(RIGHT), "no program") == [
        ("passed", "wrong"),  # the last two fences hold the example's output, a program that prints nothing
        (NO_CODE, "passed"),  # what stands before `</think>` counts officially
        ("passed", "passed"),
        (NO_CODE, NO_CODE),
    ]
    assert sorted((job.program, job.official) for job in jobs) == [("4", True), (RIGHT, True)], "two programs, two runs"


def test_only_the_rules_asked_for_are_applied(jobs: list[Job]) -> None:
    pair = (TWICE, [Programs(RIGHT, WRONG), Programs(None, RIGHT)])
    [strict], [official] = judged([pair], workers=1, rules="strict"), judged([pair], workers=1, rules="official")
    assert [(one.strict, one.official, one.verdict is None) for one in strict] == [("passed", None, False), (NO_CODE, None, True)]
    assert [(one.strict, one.official, one.verdict is None) for one in official] == [(None, "wrong", False), (None, "passed", False)]
    assert [(job.program, job.official) for job in jobs] == [(RIGHT, False), (WRONG, True), (RIGHT, True)]


@pytest.mark.parametrize(
    ("printed", "expected", "strict", "official"),
    [
        ("1_000", "1000", "wrong", "passed"),
        ("１２", "12", "wrong", "passed"),
        ("12.0", "12", "wrong", "passed"),
        ("0.3333333334", "0.3333333333", "passed", "wrong"),
        ("1  2 ", "1 2", "passed", "passed"),
        ("1\n\n2", "1\n2", "wrong", "wrong"),
        ("yes", "Yes", "wrong", "wrong"),
    ],
)
def test_outputs_that_only_one_comparison_takes(printed: str, expected: str, strict: str, official: str) -> None:
    problem = problem_of(row(public_test_cases=[{"input": "", "output": expected, "testtype": "stdin"}], private_test_cases=[]))
    assert both(fenced(f"print({printed!r})"), problem=problem) == [(strict, official)]


def test_decimals_may_differ_by_what_the_statement_allows() -> None:
    near = fenced("print(3.1414)")
    cases = [{"input": "", "output": "3.1415", "testtype": "stdin"}]
    told = "Print the value. Your answer is accepted if the absolute or relative error is at most $10^{-2}$."
    for statement, status in ((told, "passed"), ("Print the value.", "wrong")):
        problem = problem_of(row(question_content=statement, public_test_cases=cases, private_test_cases=[]))
        assert both(near, problem=problem) == [(status, "wrong")]


def test_a_program_that_lacks_a_name_is_officially_run_with_the_star_imports(jobs: list[Job]) -> None:
    lacks = "print(gcd(0, 2 * int(input())))"
    deep = "def down(n):\n    return n and 1 + down(n - 1)\nprint(2 * int(input()) + down(3000) - 3000)"
    long = "print(2 * int(input()) + 0 * len(str(10 ** 5000)))"
    unknown_name = "print(twice(int(input())))"
    other = "print(2 * int(input()) // 0)"
    [found] = judged([(TWICE, [Programs(code, code) for code in (lacks, deep, long, unknown_name, other, RIGHT)])], workers=2)
    assert [(one.strict, one.official, one.prelude) for one in found] == [
        ("error", "passed", True),
        ("error", "passed", True),  # the evaluator raises the limit of recursion
        ("error", "passed", True),  # and that of digits
        ("error", "error", True),
        ("error", "error", False),
        ("passed", "passed", False),
    ]
    assert [job.program.split("\n", 1)[1] for job in jobs if job.prelude] == [lacks, deep, long, unknown_name]


def test_functions_have_the_imports_under_both_rules(jobs: list[Job]) -> None:
    solution = "class Solution:\n    def double(self, number: int) -> int:\n        return {}"
    found = both(
        fenced(solution.format("gcd(0, 2 * abs(number)) * (1 if number > 0 else -1)")),
        fenced(solution.format("nothing")),
        problem=problem_of(FUNCTION),
    )
    assert found == [("passed", "passed"), ("error", "error")]
    assert len(jobs) == 2


def test_a_tuple_is_a_list_at_any_depth_strictly_and_at_the_top_officially() -> None:
    case = [{"input": "1", "output": "[[1, 2], [3]]", "testtype": "functional"}]
    problem = problem_of({**FUNCTION, "public_test_cases": case, "private_test_cases": []})
    code = "class Solution:\n    def double(self, number: int):\n        return {}"
    assert both(fenced(code.format("([1, 2], [3])")), problem=problem) == [("passed", "passed")]


def test_what_nobody_can_know_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    verdict = Verdict("unknown", 0, 0, 2, 0.1, 60, None, "", "", official="unknown")
    monkeypatch.setattr(judging, "grade_surely", lambda jobs, **_: [Settled("unknown", verdict, "this machine is too busy") for _ in jobs])
    with pytest.raises(SandboxUnavailable, match="question q1: this machine is too busy; start it again"):
        both(fenced(RIGHT))


def test_a_program_cannot_hold_up_an_evaluation_by_waiting_after_it_has_failed_strictly(monkeypatch: pytest.MonkeyPatch) -> None:
    verdict = Verdict("wrong", 0, 0, 2, 0.1, 60, None, "", "", official="unknown")
    monkeypatch.setattr(judging, "grade_surely", lambda jobs, **_: [Settled("wrong", verdict) for _ in jobs])
    assert both(fenced(RIGHT)) == [("wrong", "stalled")]


def test_chunks_are_bounded_in_problems_and_in_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "PROBLEMS_AT_ONCE", 3)
    monkeypatch.setattr(judging, "PROGRAMS_AT_ONCE", 10)
    sizes = [1, 1, 1, 1, 9, 1, 1, 30, 1]
    chunks = list(in_chunks((TWICE, [Programs(None)] * size) for size in sizes))
    assert [[len(programs) for _, programs in chunk] for chunk in chunks] == [[1, 1, 1], [1, 9], [1, 1, 30], [1]]


def test_nothing_to_judge_is_no_verdicts() -> None:
    assert judged([], workers=1) == [] and judged([(TWICE, [])], workers=1) == [[]]
