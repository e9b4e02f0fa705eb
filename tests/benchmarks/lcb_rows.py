"""Rows of LiveCodeBench's schema, for tests."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import Any

DOUBLE = {"input": "4\n", "output": "8\n", "testtype": "stdin"}


def packed(value: bytes) -> str:
    return base64.b64encode(zlib.compress(value)).decode()


def row(**changes: Any) -> dict[str, Any]:
    values = {
        "question_id": "q1",
        "question_title": "Double",
        "question_content": "Read a number and print twice that number.",
        "starter_code": "",
        "difficulty": "easy",
        "contest_date": "2024-05-04T00:00:00",
        "public_test_cases": json.dumps([{"input": "2\n", "output": "4\n", "testtype": "stdin"}]),
        "private_test_cases": json.dumps([DOUBLE]),
        "metadata": "{}",
    }
    return {**values, **changes}


FUNCTION = row(
    question_id="f1",
    starter_code="class Solution:\n    def double(self, number: int) -> int:\n        ",
    metadata=json.dumps({"func_name": "double"}),
    public_test_cases=json.dumps([{"input": "2", "output": "4", "testtype": "functional"}]),
    private_test_cases=json.dumps([{"input": "-3", "output": "-6", "testtype": "functional"}]),
)


def written(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "problems.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def fenced(code: str) -> str:
    return f"Let me see.\n</think>\n\n```python\n{code}\n```"
