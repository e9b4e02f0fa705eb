"""Verdicts counted: rows, scores by both rules, flawed problems apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from gwen25.benchmarks import errata
from gwen25.benchmarks import tally as tallied
from gwen25.benchmarks.judging import Judged
from gwen25.data import Problem


def problem(name: str, difficulty: str = "easy", title: str = "") -> Problem:
    return Problem(name, "statement", (), difficulty, title=title)


def tally(problems: list[Problem], found: Mapping[str, Sequence[Judged]]) -> dict[str, Any]:
    return tallied.tally(problems, found, {name: f"digest of {name}" for name in found})


def judged(*statuses: str, official: bool | None = True) -> list[Judged]:
    """p: passed by both; s, o: strictly, officially alone; w: wrong by both."""
    words = {"p": ("passed", "passed"), "s": ("passed", "wrong"), "o": ("no_code", "passed"), "w": ("wrong", "wrong")}
    return [Judged(words[one][0], words[one][1] if official else None, None) for one in statuses[0]]


def test_each_problem_is_counted_by_both_rules() -> None:
    found = tally([problem("a"), problem("b", "hard")], {"a": judged("ppsw"), "b": judged("ow")})
    assert [(row["question_id"], row["n"], row["c"], row["c_official"]) for row in found["rows"]] == [("a", 4, 3, 2), ("b", 2, 0, 1)]
    assert [row["digest"] for row in found["rows"]] == ["digest of a", "digest of b"]
    assert found["problems"] == {"all": 2, "easy": 1, "hard": 1} and found["samples"] == 6
    assert (found["scores"]["all"]["1"]["value"], found["scores_official"]["all"]["1"]["value"]) == (0.375, 0.5)
    assert found["scores"]["all"]["5"] is None
    assert found["verdicts"] == {"no_code": 1, "passed": 3, "wrong": 2} and found["verdicts_official"] == {"passed": 3, "wrong": 3}


def test_rules_that_were_not_asked_for_are_unknown() -> None:
    found = tally([problem("a")], {"a": judged("ps", official=None)})
    assert (found["rows"][0]["c"], found["rows"][0]["c_official"]) == (2, None)
    assert found["scores_official"] is None and found["verdicts_official"] == {} and found["scores"]["all"]["1"]["value"] == 1


def test_flawed_problems_are_named_and_counted_apart() -> None:
    problems = [problem("abc343_a"), problem("3217", title="find-the-peaks"), problem("abc337_e"), problem("x")]
    found = tally(problems, {"abc343_a": judged("pp"), "3217": judged("ww"), "abc337_e": judged("ww"), "x": judged("ps")})
    flawed = found["errata"]
    assert list(flawed["several_answers"]) == ["abc343_a", "3217"] and list(flawed["unsolvable"]) == ["abc337_e"]
    assert found["scores"]["all"]["1"]["value"] == 0.5
    without = flawed["without"]
    assert (without["problems"], without["scores"]["all"]["1"]["value"], without["scores_official"]["all"]["1"]["value"]) == (2, 0.5, 0.25)


def test_there_is_nothing_without_the_flawed_ones_where_none_or_all_are() -> None:
    assert tally([problem("x")], {"x": judged("p")})["errata"]["without"] is None
    assert tally([problem("abc343_a")], {"abc343_a": judged("p")})["errata"]["without"] is None


@pytest.mark.parametrize("name", [*errata.SEVERAL_ANSWERS, *errata.UNSOLVABLE])
def test_a_flawed_problem_is_found_by_id_or_by_title(name: str) -> None:
    problems = [problem(name), problem("7", title=name), problem("8", title="another")]
    assert list({**errata.several_answers(problems), **errata.unsolvable(problems)}) == [name, "7"]
