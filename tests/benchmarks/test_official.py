"""The published benchmark's extraction and comparison, held against tables of what they do, and against the original where it is at hand.

Set GWEN25_LCB_ROOT to a checkout of LiveCodeBench to compare with its own code.
"""

from __future__ import annotations

import contextlib
import gzip
import importlib.util
import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from gwen25.benchmarks.official import extract, extract_base
from gwen25.sandbox.compare import official_text, official_value

EXTRACTED = {
    "one block": ("So:\n```python\na\nb\n```\nDone.", "a\nb"),
    "the last two lines with a fence": ("```python\na\n```\nOutput:\n```\n7\n```", "7"),
    "an odd one out": ("```python\na\n```\nand ```b``` more", ""),
    "prose between": ("```python\na\n``` and\nprose\n``` more", "prose"),
    "unclosed": ("```python\na", ""),
    "none": ("a", ""),
    "nothing": ("", ""),
    "adjacent": ("```\n```", ""),
    "fences within lines": ("x ``` y\na\nz ``` w", "a"),
    "a draft counts": ("```python\na\n```\n</think>\nNo idea.", "a"),
    "carriage returns stay": ("```python\r\na\r\n```", "a\r"),
    "indentation stays": ("  ```python\n  a\n  ```", "  a"),
    "glued to the code": ("```python\na\nprint(1)```", "a"),
}


@pytest.mark.parametrize(("text", "code"), EXTRACTED.values(), ids=EXTRACTED)
def test_extraction(text: str, code: str) -> None:
    assert extract(text) == code


def test_a_base_model_hands_in_all_that_it_wrote() -> None:
    assert extract_base("\n\n  n = 1\nprint(n)\n```\n ") == "n = 1\nprint(n)\n```"


TEXTS = [
    ("1 2\n3\n", "1 2\n3", True),
    (" 1 2 \r\n 3", "1 2\n3\n\n", True),
    ("\n\n1", "1", True),
    ("1\n\n2", "1\n2", False),
    ("1  2", "1 2", True),  # as decimals
    ("a  b", "a b", False),  # as text
    ("5.0", "5", True),
    ("1e1 010", "10 10", True),
    ("0.5000001", "0.5", False),
    ("1_000", "1000", True),
    ("٣", "3", True),
    ("NaN", "NaN", True),  # the same text
    ("nan", "NaN", False),
    ("sNaN 1", "snan 1", False),
    ("inf", "Infinity", True),
    ("1 2 3", "1 2", False),
    ("1 2", "1 2 3", False),
    ("Yes", "YES", False),
    ("", "", True),
    ("", "0", False),
    ("1e999999999", "1", False),
    ("1e99999999999999999999", "1", False),
    ("1\u00a02", "1 2", True),
]


@pytest.mark.parametrize(("got", "expected", "same"), TEXTS)
def test_printed_text(got: str, expected: str, same: bool) -> None:
    assert official_text(got.encode(), expected.encode()) is same


VALUES = [
    ("[1, 2]", "[1,2]", True),
    ("true", "1", True),
    ("1.0", "1", True),
    ("0.30000000000000004", "0.3", False),
    ('"1"', "1", False),
    ("null", "0", False),
    ("NaN", "NaN", False),
    ('{"b": 1, "a": 2}', '{"a": 2, "b": 1}', True),
    ("", "1", False),
    ("no", "1", False),
]


@pytest.mark.parametrize(("got", "expected", "same"), VALUES)
def test_values(got: str, expected: str, same: bool) -> None:
    assert official_value(got.encode(), expected) is same


def test_hostile_output_is_refused_at_little_cost() -> None:
    began = time.process_time()
    size = 10_000_000
    assert not official_text(b"1 " * size, b"1")
    assert not official_text(b"1\n" * size, b"1\n1")
    assert not official_text(b"9" * size, b"1")
    assert not official_text(b"\xff\xfe\xed\xa0\x80 1", b"1")
    assert not official_value(b"[" * size, "[]")
    assert not official_value(b"[" * 900 + b"]" * 900, "[[]]")
    assert not official_value(b"9" * 4500, "9")
    assert not official_value("1".encode("utf-16"), "1")
    assert time.process_time() - began < 5, "takes half a second"


# ----------------------------------------------------------------------------------------------------------- the original


@pytest.fixture(scope="module")
def theirs() -> Iterator[tuple[Callable[[str], str], Callable[[str, str], bool], Callable[[Any, str], bool]]]:
    """Their extraction, and their judgement of what a program prints and a function returns."""
    root = os.environ.get("GWEN25_LCB_ROOT")
    if not root:
        pytest.skip("GWEN25_LCB_ROOT names no checkout of LiveCodeBench")
    sys.path.insert(0, root)
    try:
        utils = load(Path(root, "lcb_runner", "utils", "extraction_utils.py"))
        testing = load(Path(root, "lcb_runner", "evaluation", "testing_util.py"))
    finally:
        sys.path.remove(root)

    def printed(got: str, expected: str) -> bool:
        """Their judgement of a program that prints `got`."""
        program = f"import sys\nsys.stdout.write({got!r})"
        with contextlib.suppress(ArithmeticError):  # a signalling NaN, which `run_test` counts as an error
            return testing.grade_stdio(program, [""], [expected], 6)[0] == [True]
        return False

    def returned(got: Any, expected: str) -> bool:
        program = f"inf, nan = float('inf'), float('nan')\ndef f(_):\n    return {got!r}"
        return testing.grade_call_based(program, ["0"], [expected], "f", 6)[0] == [True]

    yield lambda text: utils.extract_code(text, utils.LMStyle.OpenAIChat), printed, returned


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"official_{path.stem}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


LINES = (
    "1",
    "2",
    "10",
    "0.5",
    "5.0",
    "5",
    "-0",
    "0",
    "1_0",
    "٣",
    "nan",
    "sNaN",
    "inf",
    "Yes",
    "1e2",
    "100",
    "é",
    "",
    "\u00a0",
    "\x1c",
    "+1",
    "0x1",
    "1e99",
    ".5",
)
BETWEEN = (" ", "  ", "\n", "\n\n", "\t", "\r\n", " \n", "\x0b", "\x0c", "\u2028", "\x85")


def outputs(draw: random.Random) -> tuple[str, str]:
    """An expected output, and one that differs from it in a place or two, or not at all."""
    pieces = [draw.choice(pick) for _ in range(draw.randint(1, 5)) for pick in (LINES, BETWEEN)]
    changed = list(pieces)
    for _ in range(draw.randint(0, 2)):
        changed[draw.randrange(len(changed))] = draw.choice([*LINES, *BETWEEN])
    return "".join(changed), "".join(pieces)


def test_printed_text_is_judged_as_theirs(theirs: Any) -> None:
    draw, seen = random.Random(6), {True: 0, False: 0}
    for _ in range(5000):
        got, expected = outputs(draw)
        same = theirs[1](got, expected)
        seen[same] += 1
        assert official_text(got.encode(), expected.encode()) is same, (got, expected)
    assert min(seen.values()) > 1000


def values(draw: random.Random, depth: int = 2) -> Any:
    scalars = [0, 1, -1, 2**70, 0.5, 1.0, 1e300, True, False, None, "", "1", "é", float("inf"), float("nan")]
    if depth == 0 or draw.random() < 0.5:
        return draw.choice(scalars)
    if draw.random() < 0.3:
        return {draw.choice("abc"): values(draw, depth - 1) for _ in range(draw.randrange(3))}
    return [values(draw, depth - 1) for _ in range(draw.randrange(3))]


def test_values_are_judged_as_theirs(theirs: Any) -> None:
    draw, seen = random.Random(8), {True: 0, False: 0}
    for _ in range(3000):
        expected = values(draw)
        got = draw.choice([expected, values(draw)])
        got = tuple(got) if isinstance(got, list) and draw.random() < 0.3 else got
        same = theirs[2](got, json.dumps(expected))
        seen[same] += 1
        assert official_value(json.dumps(got).encode(), json.dumps(expected)) is same, (got, expected)
    assert min(seen.values()) > 500


def test_programs_are_extracted_as_theirs(theirs: Any, shared_data: Path) -> None:
    """On every real answer, and on ten thousand texts of damaged ones."""
    with gzip.open(shared_data / "ocr_rows" / "r1_codeforces_rows.jsonl.gz", "rt", encoding="utf-8") as lines:
        answers = [json.loads(line)["output"] for line in lines]
    with gzip.open(shared_data / "problems" / "train_ocr_schema.jsonl.gz", "rt", encoding="utf-8") as lines:
        answers += [row["model_response"] for row in map(json.loads, lines) if row.get("model_response")]
    assert len(answers) > 1100
    draw = random.Random(9)
    for text in answers + [soup(draw, answers) for _ in range(10_000)]:
        assert extract(text) == theirs[0](text)


def soup(draw: random.Random, answers: list[str]) -> str:
    bits = ["```", "```python\n", "\n```\n", "\n", "`", "````", " x", "~~~", "\r\n", draw.choice(answers)[-300:], "\u2028"]
    return "".join(draw.choices(bits, k=draw.randint(0, 12)))
