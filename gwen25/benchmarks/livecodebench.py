"""LiveCodeBench (Jain et al. 2024): its problems, and a judge of answers to them. The door to this benchmark's rooms.

    for problem in read([Path("test.jsonl")]): ...        one at a time; a release holds gigabytes of tests
    load([path], start_date="2024-03-01", max_problems=50)
    judge(row, completions)                               [True, False, ...]: is it a program, and does it pass every test

`judge` and `judge_many` are strict: our rules, which are a contest's. docs/livecodebench.md says where they differ from the official
evaluator's. The rooms: `problems` the schema, `packed` its private tests, `releases` the hub's files, `prompts` how a problem is put and
which text is the program, `judging` both sets of rules, `errata` the known flaws, `tally` and `report` the scores.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from gwen25.benchmarks.judging import NO_CODE, Programs, judged
from gwen25.benchmarks.problems import load, problem_of, read
from gwen25.benchmarks.prompts import chat_programs
from gwen25.benchmarks.releases import REPO, fetch
from gwen25.chat import FORMATS, ChatFormat
from gwen25.data import Problem

__all__ = ["NO_CODE", "REPO", "fetch", "judge", "judge_many", "load", "problem_of", "read", "statuses"]


def judge(problem: dict[str, Any], completions: list[str]) -> list[bool]:
    """Which completions solve the problem (a row of LiveCodeBench's schema): they hold a program, and it passes every test.

    Raises BadInput for a row that is none, SandboxUnavailable where a program could not be run, or not be judged.
    """
    return judge_many([(problem, completions)])[0]


def judge_many(pairs: list[tuple[dict[str, Any], list[str]]]) -> list[list[bool]]:
    """`judge` for many problems at once, one worker for each processor."""
    problems = {id(row): problem_of(row) for row in {id(row): row for row, _ in pairs}.values()}  # a row given often is decoded once
    graded = statuses([(problems[id(row)], completions) for row, completions in pairs], workers=os.cpu_count() or 1)
    return [[status == "passed" for status in of_problem] for of_problem in graded]


def statuses(
    pairs: Sequence[tuple[Problem, Sequence[str]]],
    *,
    workers: int,
    chat_format: ChatFormat = FORMATS["chatml-think"],
    truncated: Sequence[Sequence[bool]] | None = None,
) -> list[list[str]]:
    """The strict verdict on each completion of each problem: `passed`, or why it failed (`judging.Judged.strict`).

    `truncated` (shaped as the completions; None: none of them) says which were cut off: see `prompts.chat_programs`.
    """
    cut = truncated if truncated is not None else [[False] * len(completions) for _, completions in pairs]
    handed_in = [
        (
            problem,
            [Programs(chat_programs(text, chat_format, was_cut).strict) for text, was_cut in zip(completions, of_problem, strict=True)],
        )
        for (problem, completions), of_problem in zip(pairs, cut, strict=True)
    ]
    return [[str(one.strict) for one in found] for found in judged(handed_in, workers=workers, rules="strict")]
