"""The page: what is known and unknown, both rules, several models side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gwen25.benchmarks.judging import Judged
from gwen25.benchmarks.report import markdown, picture, table
from gwen25.benchmarks.tally import tally
from gwen25.data import Problem

UNNAMED = ("source", "release", "backend", "served_model", "chat_format", "temperature", "top_p", "max_tokens", "seed", "isolation")
PASSED, WRONG, STRICTLY = Judged("passed", "passed", None), Judged("wrong", "wrong", None), Judged("passed", "wrong", None)


def report(passes: list[int], n: int = 5, model: str = "base", passed: Judged = PASSED, names: str = "q{}", **more: Any) -> dict[str, Any]:
    problems = [Problem(names.format(at), "statement", (), ("easy", "hard")[at % 2]) for at in range(len(passes))]
    found = {problem.id: [passed] * c + [WRONG] * (n - c) for problem, c in zip(problems, passes, strict=True)}
    return {
        **dict.fromkeys(UNNAMED),
        **tally(problems, found, dict.fromkeys(found, "digest")),
        "rules": "strict-1",
        "model": model,
        "prompt": "this project's prompt",
        "n": n,
        "truncated": 3,
        "no_code": 1,
        "from_draft": 2,
        "from_draft_passed": 1,
        "notes": ["A note."],
        "window": {"start_date": None, "end_date": None, "first": "2024-01-01", "last": "2024-02-01"},
        **more,
    }


def cells(text: str) -> dict[str, list[str]]:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")]
    return {row[0]: row[1:] for row in rows}


def test_models_side_by_side_with_the_unknown_shown_as_such() -> None:
    found = cells(table({"base": report([0, 1, 2, 0]), "merged": report([2, 1], n=2)}))
    assert found[""] == ["base", "merged"]
    assert found["**pass@1**"][0].startswith("15.0% (")
    assert found["**pass@5**"][1] == "–"
    assert found["easy, pass@1"][1].startswith("100.0% (")
    assert found["problems"] == ["4 (easy 2, hard 2)", "2 (easy 1, hard 1)"]
    assert found["samples each (n)"] == ["5", "2"]
    assert found["truncated answers"] == ["3 of 20", "3 of 4"]
    assert found["programs from unclosed reasoning"] == ["2 of 20, 1 passed", "2 of 4, 1 passed"]
    assert list(found)[1:6] == ["**pass@1**", "**pass@1, official rules**", "**pass@5**", "**pass@5, official rules**", "easy, pass@1"]


def test_both_pass_at_1_figures_are_stated() -> None:
    found = cells(table({"base": report([1, 2, 3, 4], passed=STRICTLY)}))
    assert found["**pass@1**"][0].startswith("50.0% (") and found["**pass@1, official rules**"][0].startswith("0.0% (")


def test_rules_that_no_report_was_asked_for_take_no_row() -> None:
    only = Judged("passed", None, None)
    problems = [Problem("q", "statement", ())]
    found = cells(table({"a": {**tally(problems, {"q": [only]}, {"q": "digest"}), "n": 1}}))
    assert "**pass@1**" in found and not any("official" in label for label in found)
    assert "truncated answers" not in found, "what was measured in no column is no row"


def test_pass_at_5_of_five_samples_is_called_what_it_is() -> None:
    assert "**pass@5 (any of 5)**" in table({"base": report([1, 2])})
    assert "any of 5" not in table({"base": report([1, 2], n=6)}) + table({"a": report([1]), "b": report([1], n=9)})


def test_what_no_column_can_know_is_no_line() -> None:
    page = table({"base": report([1, 2], n=4), "merged": report([1, 0], n=1)})
    assert "pass@1" in page and "pass@5" not in page and "–" not in page


def test_scores_with_and_without_problems_of_several_answers() -> None:
    flawed = report([5, 0], names="abc34{}_a")
    flawed = {**report([5, 0, 5]), "errata": {**flawed["errata"], "without": {"scores": report([0, 5])["scores"], "scores_official": None}}}
    found = cells(table({"base": flawed, "merged": report([1, 1])}))
    label = "pass@1 without problems that accept several answers"
    assert found[label][0].startswith("50.0% (") and found[label][1] == "–"
    assert found[f"{label}, official rules"] == ["–", "–"]
    assert label not in table({"merged": report([1, 1])})


def test_a_page_names_only_what_is_known() -> None:
    page = markdown([report([1, 0], model="a|b")])
    assert "- A note." in page and "a\\|b" in page and "| rules | strict-1, official |" in page
    assert "served model" not in page and "None" not in page and "Flawed" not in page


def test_a_page_names_the_flawed_problems_and_where_that_is_said() -> None:
    page = markdown([report([1], names="abc337_e")])
    assert "ERRATA.md of github.com/LiveCodeBench" in page and "- abc337_e is interactive" in page


def test_one_model_asked_in_two_ways_is_one_page() -> None:
    page = markdown([report([1, 0]), report([2, 0], prompt="another", temperature=0.5, notes=["A note.", "Another."])])
    found = cells(page)
    assert found["prompt"] == ["this project's prompt", "another"] and found["temperature"] == ["–", "0.5"]
    assert found["verdict"] == [
        f"base, {prompt}: {rules}" for prompt in ("this project's prompt", "another") for rules in ("strict", "official")
    ]
    assert found["passed"] == ["1", "1", "2", "2"] and page.count("- A note.") == 1


def test_the_picture_has_the_same_bytes_every_time(tmp_path: Path) -> None:
    reports = {"base": report([0, 1, 2, 0]), "merged": report([2, 1], n=2)}
    for name in ("one.png", "two.png"):
        picture(reports, tmp_path / name)
    first, second = ((tmp_path / name).read_bytes() for name in ("one.png", "two.png"))
    assert first == second and first.startswith(b"\x89PNG") and b"Software" not in first
    picture({"none": report([0, 0])}, tmp_path / "three.png")
