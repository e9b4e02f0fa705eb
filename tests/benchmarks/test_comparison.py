"""Two reports against each other: the verdict, when there is none, and what the page says."""

from __future__ import annotations

import doctest
import json
import random
import time
from pathlib import Path
from typing import Any

import pytest

from gwen25 import cli
from gwen25.benchmarks.comparison import compare, text
from gwen25.errors import BadInput

REPOSITORY = Path(__file__).parents[2]
SETTINGS = {
    "benchmark": "livecodebench",
    "rules": "strict-1",
    "temperature": 0.2,
    "top_p": 0.95,
    "max_tokens": 2048,
    "truncated": 3,
    "prompt": "ours",
    "chat_format": "chatml-think",
    "backend": "transformers",
}


def report(passes: list[int], n: int = 5, first: int = 0, official: list[int] | None = None, **settings: Any) -> dict[str, Any]:
    names = [f"q{first + at}" for at in range(len(passes))]
    rows: list[dict[str, Any]] = [
        {"question_id": name, "difficulty": ("easy", "hard")[at % 2], "n": n, "c": c, "digest": f"of {name}"}
        for at, (name, c) in enumerate(zip(names, passes, strict=True))
    ]
    for row, c in zip(rows, official or [], strict=False):
        row["c_official"] = c
    return {**SETTINGS, "n": n, "rows": rows, **settings}


def cells(page: str, rules: str = "strict") -> dict[str, list[str]]:
    """The table of one set of rules, by the first cell of each line."""
    part = page.split(f"Rules: {rules}")[1].split("Rules:")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if line.startswith("| ")]
    return {row[0]: row[1:] for row in rows}


def test_better_and_worse_are_said_of_the_second_report() -> None:
    low, high = report([1, 0, 2, 0] * 20), report([2, 0, 3, 0] * 20)
    found, mirrored = compare(low, high), compare(high, low)
    assert found["verdict"] == "better" and found["words"].startswith("B is better than A: pass@1 +10.00 points (95 %: +")
    assert mirrored["verdict"] == "worse" and mirrored["words"].startswith("B is worse than A: pass@1 -10.00 points")
    assert found["problems_needed"] is found["samples_needed"] is None
    assert found["primary"] == {"slice": "all", "k": 1, "rules": "strict"}


def test_where_samples_would_do_they_are_named() -> None:
    draw = random.Random(3)
    passes = [[sum(draw.random() < rate for _ in range(5)) for _ in range(60)] for rate in (0.5, 0.55)]
    found = compare(report(passes[0]), report(passes[1]))
    assert found["verdict"] == "cannot tell" and found["problems_needed"] > 60 and found["samples_needed"] > 5
    assert "Cannot tell whether B is better or worse than A" in found["words"] and "samples of each of these 60." in found["words"]


def test_where_the_problems_differ_too_much_only_more_problems_would_do() -> None:
    found = compare(report([5, 0, 5, 0] * 10 + [0]), report([0, 5, 0, 5] * 10 + [5]))
    assert found["verdict"] == "cannot tell" and found["problems_needed"] > 41 and found["samples_needed"] is None
    assert "no number of samples of these problems would do" in found["words"]


def test_one_sample_each_does_not_show_its_noise() -> None:
    found = compare(report([0, 1] * 20, n=1), report([1, 1, 1, 0] * 10, n=1))
    assert found["verdict"] == "cannot tell" and found["samples_needed"] is None
    assert "does not show in one of each" in found["words"] and found["scores"]["all"]["1"]["test"] == "McNemar, exact"


def test_a_report_against_itself_says_nothing_is_needed_to_tell_nothing() -> None:
    found = compare(report([1, 0, 5]), report([1, 0, 5]))
    assert (found["verdict"], found["problems_needed"], found["samples_needed"]) == ("cannot tell", None, None)
    assert "p = 1" in found["words"] and "Too few problems differ" in found["words"]


@pytest.mark.parametrize(
    ("name", "value"), [("benchmark", "other"), ("rules", "strict-2"), ("temperature", 0.8), ("top_p", 1.0), ("temperature", None)]
)
def test_no_verdict_on_scores_that_differ_by_more_than_the_model(name: str, value: Any) -> None:
    found = compare(report([0] * 40), report([5] * 40, **{name: value}))
    assert found["verdict"] == "cannot tell" and found["incomparable"] == [name] and name in found["words"]
    assert found["differs"] == {name: [SETTINGS[name], value]}
    assert (found["problems_needed"], found["samples_needed"]) == (None, None)
    assert found["scores"]["all"]["1"]["difference"] == 1  # shown, without a verdict


@pytest.mark.parametrize(
    ("a", "b", "comparable"),
    [
        ({"max_tokens": 2000, "truncated": 7}, {"max_tokens": 4096, "truncated": 0}, False),
        ({"max_tokens": 2000, "truncated": 0}, {"max_tokens": 4096, "truncated": 7}, True),  # the smaller limit was never met
        ({"max_tokens": 4096, "truncated": 7}, {"max_tokens": 2000, "truncated": 0}, True),
        ({"max_tokens": None, "truncated": 0}, {"max_tokens": 2000, "truncated": 0}, False),
        ({"max_tokens": 2000, "truncated": None}, {"max_tokens": 4096, "truncated": 0}, False),
    ],
)
def test_a_limit_of_tokens_matters_where_it_was_met(a: dict[str, Any], b: dict[str, Any], comparable: bool) -> None:
    found = compare(report([0] * 40, **a), report([5] * 40, **b))
    assert found["verdict"] == ("better" if comparable else "cannot tell")
    assert found["incomparable"] == ([] if comparable else ["max_tokens"]) and "max_tokens" in found["differs"]


@pytest.mark.parametrize("name", ["prompt", "chat_format", "backend", "source"])
def test_what_is_only_worth_knowing_is_noted(name: str) -> None:
    found = compare(report([0] * 40), report([5] * 40, **{name: "another"}))
    assert found["verdict"] == "better" and list(found["differs"]) == [name]
    page = text(found)
    assert f"not measured alike: {name} (" in page
    assert ("model and prompt together" in page) == (name in ("prompt", "chat_format"))


def test_more_samples_on_one_side_keep_the_estimate_and_lose_the_name() -> None:
    found = compare(report([0] * 40), report([9] * 40, n=10))
    assert found["verdict"] == "better" and found["differs"] == {"n": [5, 10]}
    assert found["labels"] == {"1": "pass@1", "5": "pass@5"} and found["scores"]["all"]["5"]["b"] == 1
    assert compare(report([0] * 4), report([1] * 4))["labels"]["5"] == "pass@5 (any of 5)"


def test_only_what_both_answered_is_compared() -> None:
    found = compare(report([1] * 40), report([2] * 40, first=10))
    assert (found["problems"], found["only_a"], found["only_b"], found["differs"]) == (30, 10, 10, {})
    assert list(found["scores"]) == ["all", "easy", "hard"]
    assert found["scores"]["all"]["1"]["difference"] == pytest.approx(0.2)
    assert "20 problems are in one report only and are left out" in text(found)


def test_a_problem_with_other_tests_is_left_out_and_makes_no_model_better() -> None:
    a, b = report([1] * 40), report([1] * 20 + [5] * 20)
    for row in b["rows"][20:]:
        row["digest"] = "weaker tests"
    found = compare(a, b)
    assert (found["verdict"], found["problems"], found["other_tests"], found["only_a"]) == ("cannot tell", 20, 20, 0)
    assert "20 problems have another statement or other tests in each report and are left out" in text(found)
    for row in b["rows"]:
        row["digest"] = "weaker tests"
    with pytest.raises(BadInput, match="no problem in common, but for 40 with another statement or other tests"):
        compare(a, b)


def test_what_a_report_does_not_say_of_its_tests_is_noted() -> None:
    a, b = report([0] * 40), report([5] * 40)
    assert compare(a, b)["tests_unknown"] == 0 and "does not say which tests" not in text(compare(a, b))
    for row in b["rows"]:
        del row["digest"]  # an older report
    found = compare(a, b)
    assert (found["verdict"], found["tests_unknown"], found["other_tests"]) == ("better", 40, 0)
    assert "40 problems: a report does not say which tests it was judged by" in text(found)


def test_what_neither_report_states_is_noted() -> None:
    a, b = report([0] * 40), report([5] * 40)
    assert compare(a, b)["unstated"] == [] and "not stated by either" not in text(compare(a, b))
    for side in (a, b):
        del side["temperature"], side["top_p"]
    found = compare(a, b)
    assert found["verdict"] == "better" and found["unstated"] == ["temperature", "top_p"]
    assert "- not stated by either, and taken to be alike: temperature, top_p" in text(found)


def test_both_rules_are_compared_where_both_reports_have_them() -> None:
    a, b = report([0] * 40, official=[1] * 40), report([0] * 40, official=[2] * 40)
    found = compare(a, b)
    assert found["verdict"] == "cannot tell" and found["primary"]["rules"] == "strict"
    assert found["scores_official"]["all"]["1"]["difference"] == pytest.approx(0.2)
    assert found["comparisons"] == 12 and "12 comparisons are shown; the verdict rests on one" in text(found)
    page = text(found)
    assert cells(page, "official")["all, pass@1"][:3] == ["40", "20.00%", "40.00%"] and "**all, pass@1**" in cells(page)
    assert compare(a, report([0] * 40))["scores_official"] is None  # unknown is not zero
    only = compare(report([None] * 40, official=[1] * 40), report([None] * 40, official=[2] * 40))  # type: ignore[list-item]
    assert only["verdict"] == "better" and only["primary"]["rules"] == "official" and only["scores"] is None


def test_the_page_has_a_line_for_each_comparison_and_none_for_the_unknown() -> None:
    page = text(compare(report([1, 1], n=2), report([2, 1], n=2)), "base", "a|b")
    found = cells(page)
    assert list(found) == ["", "**all, pass@1**", "easy, pass@1", "hard, pass@1"]
    assert found["easy, pass@1"][:3] == ["1", "50.00%", "100.00%"] and "3 comparisons are shown" in page
    assert "- A: base" in page and "- B: a|b" in page


@pytest.mark.parametrize(
    "rows",
    [
        [{"question_id": "q"}],
        "rows",
        [{"question_id": "q0", "difficulty": "easy", "n": 5, "c": "3"}],
        [{"question_id": "q0", "difficulty": "easy", "n": 0, "c": 0}],
        [{"question_id": "q0", "difficulty": "easy", "n": 5, "c": 6}],
        [{"question_id": "q0", "difficulty": "all", "n": 5, "c": 1}],
        [{"question_id": "q0", "difficulty": "easy", "n": 5, "c": 1, "c_official": 6}],
        [{"question_id": "q0", "difficulty": "easy", "n": 5, "c": True}],
        [{"question_id": "q0", "difficulty": "easy", "n": 5, "c": 1, "digest": 7}],
        [{"question_id": "q0", "difficulty": "easy", "n": 5, "c": 1}] * 2,
        [],
    ],
)
def test_what_is_no_report_is_refused(rows: Any) -> None:
    for sides in ([{"rows": rows}, report([1])], [report([1]), {"rows": rows}]):
        with pytest.raises(BadInput, match=r"not an evaluation's report|no problem in common"):
            compare(*sides)


def test_a_report_nested_without_end_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "report.json").write_text("[" * 100_000)
    assert cli.main(["compare", str(tmp_path), str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert "not a readable report" in err and err.count("\n") == 1


def test_reports_without_common_problems_or_rules_are_refused() -> None:
    with pytest.raises(BadInput, match="no problem in common"):
        compare(report([1]), report([1], first=5))
    with pytest.raises(BadInput, match="same rules"):
        compare(report([None], official=[1]), report([1]))  # type: ignore[list-item]


def test_a_thousand_problems_take_two_seconds_at_most() -> None:
    draw = random.Random(1)
    a, b = ([draw.randint(0, 5) for _ in range(1000)] for _ in range(2))
    reports = report(a, official=a), report(b, official=b)
    started = time.process_time()
    once = compare(*reports)
    assert time.process_time() - started < 2
    assert json.dumps(once) == json.dumps(compare(*reports))  # and the same every time


def test_the_worked_example_says_what_it_computes() -> None:
    found = doctest.testfile(str(REPOSITORY / "docs" / "comparing.md"), module_relative=False)
    assert found.attempted > 10 and found.failed == 0
