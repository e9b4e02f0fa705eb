"""Problems of LiveCodeBench that its own authors list as flawed, so that a score can be given with and without them.

    several_answers(problems)     {"abc311_c": "accepts several answers, of which the tests hold one", ...}
    unsolvable(problems)          {"abc337_e": "is interactive, ...", ...}

From ERRATA.md of github.com/LiveCodeBench/LiveCodeBench (MIT), as of July 2025: AtCoder's problems by question_id, LeetCode's by
title, as there. The unsolvable ones have tests that a right program may fail, and hold all models down much alike; of the others it
passes by luck.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from gwen25.data import Problem

SOURCE: Final = "ERRATA.md of github.com/LiveCodeBench/LiveCodeBench, July 2025"
_SEVERAL: Final = "accepts several answers, of which the tests hold one"
_INTERACTIVE: Final = "is interactive, which no test of one input and one output can be"

SEVERAL_ANSWERS: Final[Mapping[str, str]] = dict.fromkeys(
    (
        "abc311_c",
        "abc326_d",
        "abc327_b",
        "abc333_e",
        "abc343_a",
        "abc343_e",
        "abc362_c",
        "arc185_c",
        "find-the-peaks",
        "find-words-containing-character",
        "generate-binary-strings-without-adjacent-zeros",
    ),
    _SEVERAL,
)
UNSOLVABLE: Final[Mapping[str, str]] = {
    "abc337_e": _INTERACTIVE,
    "abc355_e": _INTERACTIVE,
    "abc350_c": "has wrong tests",
    "arc189_a": "has a test with a wrong output",
    "apply-operations-to-make-string-empty": "has a wrong test, of an empty string",
    "most-frequent-ids": "has a test that breaks the statement's bounds",
}


def several_answers(problems: Iterable[Problem]) -> dict[str, str]:
    """Those of the problems that accept several answers, by id, with the reason."""
    return _listed(problems, SEVERAL_ANSWERS)


def unsolvable(problems: Iterable[Problem]) -> dict[str, str]:
    """Those of the problems whose tests a right program may fail, by id, with the reason."""
    return _listed(problems, UNSOLVABLE)


def _listed(problems: Iterable[Problem], table: Mapping[str, str]) -> dict[str, str]:
    found = {problem.id: table.get(problem.id) or table.get(problem.title) for problem in problems}
    return {name: reason for name, reason in found.items() if reason is not None}
