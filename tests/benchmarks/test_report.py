"""The page: what is known and unknown, several models side by side, two of them compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gwen25.benchmarks.report import compare, comparison_table, markdown, picture, score, table
from gwen25.errors import BadInput


def report(passes: list[int], n: int = 5, model: str = "base", first: int = 0) -> dict[str, Any]:
    rows = [{"question_id": f"q{first + at}", "difficulty": ("easy", "hard")[at % 2], "n": n, "c": c} for at, c in enumerate(passes)]
    scores = score(rows)
    return {
        "model": model,
        "n": n,
        "rows": rows,
        "scores": scores,
        "problems": {name: sum(name in ("all", row["difficulty"]) for row in rows) for name in scores},
        "samples": n * len(rows),
        "truncated": 3,
        "no_code": 1,
        "from_draft": 2,
        "from_draft_passed": 1,
        "verdicts": {"passed": sum(passes), "wrong": n * len(rows) - sum(passes)},
        "notes": ["A note."],
        "window": {"start_date": None, "end_date": None, "first": "2024-01-01", "last": "2024-02-01"},
        **dict.fromkeys(
            ("source", "release", "backend", "served_model", "chat_format", "temperature", "top_p", "max_tokens", "seed", "rules")
        ),
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
    assert list(found)[:6] == ["", "**pass@1**", "**pass@5**", "easy, pass@1", "easy, pass@5", "hard, pass@1"]


def test_a_page_names_only_what_is_known() -> None:
    page = markdown(report([1, 0], model="a|b"))
    assert "- A note." in page and "a\\|b" in page
    assert "served model" not in page and "None" not in page


def test_the_picture_has_the_same_bytes_every_time(tmp_path: Path) -> None:
    reports = {"base": report([0, 1, 2, 0]), "merged": report([2, 1], n=2)}
    for name in ("one.png", "two.png"):
        picture(reports, tmp_path / name)
    first, second = ((tmp_path / name).read_bytes() for name in ("one.png", "two.png"))
    assert first == second and first.startswith(b"\x89PNG") and b"Software" not in first
    picture({"none": report([0, 0])}, tmp_path / "three.png")


def test_two_reports_compared_on_what_both_answered() -> None:
    found = compare(report([1] * 40), report([2] * 40, first=10))
    assert (found["problems"], found["only_a"], found["only_b"], found["differs"]) == (30, 10, 10, [])
    overall = found["scores"]["all"]["1"]
    assert overall["difference"] == pytest.approx(0.2) and overall["low"] < 0.2 < overall["high"]
    assert list(found["scores"]) == ["all", "easy", "hard"]
    mixed = compare(report([1, 1]), report([1, 1], n=2))
    assert mixed["differs"] == ["n"] and mixed["scores"]["all"]["5"] is None
    text = comparison_table(mixed, "base", "merged")
    assert cells(text)["all, pass@5"] == ["–"] * 4
    assert cells(comparison_table(found))["all, pass@1"][0] == "30"


def test_reports_that_cannot_be_compared() -> None:
    with pytest.raises(BadInput, match="no problem in common"):
        compare(report([1]), report([1], first=5))
    with pytest.raises(BadInput, match="not an evaluation's report"):
        compare({"rows": [{"question_id": "q"}]}, report([1]))
