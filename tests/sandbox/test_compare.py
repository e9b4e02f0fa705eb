"""What counts as the expected output, and what does not."""

from __future__ import annotations

import json

import pytest

from gwen25.sandbox.compare import same_text, same_value


@pytest.mark.parametrize(
    ("got", "expected", "same"),
    [
        ("3\n", "3", True),
        ("3", "3\n", True),
        ("1 2  \n3\n", "1 2\n3\n", True),
        ("1 2\r\n3\r\n", "1 2\n3\n", True),
        ("1  2\t3", "1 2 3", True),
        ("1\n\n\n", "1\n", True),
        ("", "\n", True),
        ("1\n\n2", "1\n\n2\n", True),
        ("0.3333333", "0.333333333", True),
        ("1000000.1", "1000000.9", True),  # within 1e-6 of the value
        ("1e3", "1000.0", True),
        ("-.5", "-0.50", True),
        ("yes 0.5000001", "yes 0.5", True),
        ("1\n2", "1 2", False),
        ("1 2", "1\n2", False),
        ("1\n\n2", "1\n2", False),
        ("1", "1\n2", False),  # every line is needed
        ("1\n2\n3", "1\n2", False),  # and no more
        ("1 2 3", "1 2", False),
        ("12", "1 2", False),
        ("", "0", False),
        ("0", "", False),
        ("YES", "yes", False),
        ("007", "7", False),
        ("1000000007", "1000000008", False),  # integers are text
        ("5.0", "5", False),  # both must be decimals
        ("1_0.0", "10.0", False),
        ("٣.0", "3.0", False),  # other scripts' digits
        ("nan", "0.0", False),
        ("inf", "1e308", False),
        ("1e999", "1e998", False),  # both infinite as floats
        ("0x1.0", "1.0", False),
        ("0.5001", "0.5", False),
        ("é", "é", True),
    ],
)
def test_text(got: str, expected: str, same: bool) -> None:
    assert same_text(got.encode(), expected.encode()) is same


@pytest.mark.parametrize(
    ("got", "expected", "same"),
    [
        ([1, [2, (3, 4)]], "[1, [2, [3, 4]]]", True),
        ((), "[]", True),
        (0.1 + 0.2, "0.3", True),
        ([1.0, 2.00000001], "[1.0, 2.0]", True),
        (2.0, "2", True),
        ({"a": [1]}, '{"a": [1]}', True),
        ("é", '"\\u00e9"', True),
        (None, "null", True),
        (2.0000001, "2", False),
        (1000000007.5, "1000000007", False),
        ([1, 2], "[2, 1]", False),
        ([1], "[1, 2]", False),
        ("1", "1", False),
        (None, "0", False),
        (float("nan"), "NaN", False),
        (float("inf"), "Infinity", True),
        ({"a": 1}, '{"b": 1}', False),
        ([1] * 5000, "[1]", False),
    ],
)
def test_value(got: object, expected: str, same: bool) -> None:
    assert same_value(json.dumps(got).encode(), expected) is same


@pytest.mark.parametrize("got", [b"", b"not json", b"[" * 500, b"\xff", b"[1] [1]", b"[1"])
def test_what_is_not_json_equals_nothing(got: bytes) -> None:
    assert not same_value(got, "[1]")


def test_hostile_json_is_not_even_decoded() -> None:
    assert not same_value(b"[" + b"[]," * (5 << 20) + b"[]]", "[[]]")  # 16 MB that would become 400 MB of lists
