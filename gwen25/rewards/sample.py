"""What a reward sees: one completion with its problem, and the tools of the run.

A reward is `(samples, tools) -> list[float | None]`, one score for each sample, None where it could not be had.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from gwen25.chat import ChatFormat
from gwen25.data import TestCase
from gwen25.errors import BadInput

if TYPE_CHECKING:
    from gwen25.rewards.judge import Judge


@dataclass
class Tools:
    """What rewards share in a run. `counts` collects what they saw, such as `verdicts/passed`.

    `sandbox_failure`: why a program last had no verdict.
    """

    format: ChatFormat
    judge: Judge | None = None
    sandbox_workers: int = 2
    execution_reward: Literal["all", "fraction"] = "all"
    max_completion_length: int = 8192
    soft_punish_cache: int | None = None
    sandbox_failure: str | None = None
    counts: Counter[str] = field(default_factory=Counter)


@dataclass
class Sample:
    """One completion of one row of the data set. `tokens`: its length with its end token, None where that is not known."""

    text: str
    format: ChatFormat
    tests: tuple[TestCase, ...] = ()
    func_name: str | None = None
    statement: str | None = None
    tokens: int | None = None

    @cached_property
    def program(self) -> str | None:
        """The program that the answer hands in, None where there is none: see `ChatFormat.program`."""
        return self.format.program(self.text)


def read_tests(value: object) -> tuple[TestCase, ...]:
    """The tests of a row: a JSON string, or a list of mappings (input, output, kind) or TestCases; None and "" hold none.

    Raises BadInput for anything else.
    """
    if value is None or value == "":
        return ()
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise BadInput(f"GRPO rows: a column of tests is not JSON ({error}); make the data set again") from error
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise BadInput(f"GRPO rows: tests must be a list, not {type(value).__name__}; make the data set again")
    return tuple(_test(test) for test in value)


def _test(value: Any) -> TestCase:
    if isinstance(value, TestCase):
        return value
    fields = value if isinstance(value, Mapping) else {}
    given, expected, kind = fields.get("input"), fields.get("output"), fields.get("kind", "stdin")
    if not isinstance(given, str) or not isinstance(expected, str) or kind not in ("stdin", "functional"):
        raise BadInput("GRPO rows: a test needs the texts input and output, and kind stdin or functional; make the data set again")
    return TestCase(given, expected, kind)
