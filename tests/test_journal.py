"""A journal: what was added is there after a death, and nothing after the first line that is not good."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gwen25.journal import Journal


def good(row: dict[str, Any]) -> bool:
    return str(row.get("question_id", "")).startswith("q")


def test_what_was_added_is_there_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.jsonl", good)
    journal.add([{"question_id": "q1", "value": 1}])
    journal.add([{"question_id": "q2", "value": "\n\u2028é"}, {"question_id": "q3", "value": None}])
    again = Journal(tmp_path / "j.jsonl", good)
    assert again.rows == journal.rows and list(again.rows) == ["q1", "q2", "q3"]


@pytest.mark.parametrize("tail", [b'{"question_id": "q2"', b'{"question_id": "x2"}\n', b"[1]\n", b"\x00\n", b"\n"])
def test_from_the_first_line_that_is_not_good_all_is_cut_off(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "j.jsonl"
    Journal(path, good).add([{"question_id": "q1"}])
    whole = path.read_bytes()
    path.write_bytes(whole + tail + whole)
    again = Journal(path, good)
    assert list(again.rows) == ["q1"] and path.read_bytes() == whole
    again.add([{"question_id": "q2"}])
    assert list(Journal(path, good).rows) == ["q1", "q2"]
