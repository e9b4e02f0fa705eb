"""What counts as the expected output, and what does not: each rule in a row, then properties over arbitrary text and values."""

from __future__ import annotations

import json
import math
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gwen25.sandbox.compare import official_text, official_value, same_text, same_value, tolerance_of

TEXTS = [
    ("3\n", "3", True),
    ("3", "3\n", True),
    ("1 2  \n3\n", "1 2\n3\n", True),
    ("1 2\r\n3\r\n", "1 2\n3\n", True),
    ("1  2\t3", "1 2 3", True),
    ("  1 2", "1 2", True),
    ("1\n\n\n", "1\n", True),
    ("1\n", "1\n\n\n", True),
    ("1\n \t\n", "1", True),
    ("", "\n", True),
    (" \n\n", "", True),
    ("1\n\n2", "1\n\n2\n", True),
    ("1\n \n2", "1\n\n2\n", True),
    ("é", "é", True),
    ("\n1", "\n1", True),
    ("YES", "yes", False),
    ("12", "1 2", False),
    ("1\u00a02", "1 2", False),  # another blank than ASCII's
    ("é", "e\u0301", False),
    ("\ufeff1", "1", False),
    # lines
    ("1\n2", "1 2", False),
    ("1 2", "1\n2", False),
    ("1\n\n2", "1\n2", False),
    ("1\n2", "1\n\n2", False),
    ("\n1", "1", False),
    ("1", "\n1", False),
    ("1", "1\n2", False),  # every line is needed
    ("1\n2\n3", "1\n2", False),  # and no more
    ("1 2 3", "1 2", False),
    ("1 2", "1 2 3", False),
    ("", "0", False),
    ("0", "", False),
    # integers are text
    ("1000000007", "1000000008", False),
    ("007", "7", False),
    ("+7", "7", False),
    ("-0", "0", False),
    ("5.0", "5", False),
    ("5", "5.0", False),
    ("1e3", "1000", False),
    # decimals
    ("0.3333333", "0.333333333", True),
    ("1000000.1", "1000000.9", True),  # within 1e-6 of the value
    ("1e3", "1000.0", True),
    ("1E+3", "1000.", True),
    ("-.5", "-0.50", True),
    ("-0.0", "0.0", True),
    ("yes 0.5000001", "yes 0.5", True),
    ("0.500001", "0.5", True),  # at the edge, where a double has its own mind
    ("1e-400", "0.0", True),
    ("0.500002", "0.5", False),
    ("0.5001", "0.5", False),
    ("0.5", "0.5 0.5", False),
    ("1_0.0", "10.0", False),
    ("٣.0", "3.0", False),  # other scripts' digits
    ("３.0", "3.0", False),
    ("nan", "0.0", False),
    ("nan", "nan", True),  # as text
    ("NaN", "nan", False),
    ("inf", "1e308", False),
    ("inf", "Infinity", False),
    ("1e999", "1e998", False),  # both infinite as floats
    ("1e999", "1e999", True),
    ("0x1.0", "1.0", False),
    ("1.0f", "1.0", False),
    ("1,0", "1.0", False),
    ("1.0e", "1.0", False),
    (".", "0.0", False),
    ("1.0\0", "1.0", False),
]


@pytest.mark.parametrize(("got", "expected", "same"), TEXTS)
def test_text(got: str, expected: str, same: bool) -> None:
    assert same_text(got.encode(), expected.encode()) is same


VALUES = [
    ([1, [2, (3, 4)]], "[1, [2, [3, 4]]]", True),
    ((), "[]", True),
    (((1,),), "[[1]]", True),
    (0.1 + 0.2, "0.3", True),
    ([1.0, 2.00000001], "[1.0, 2.0]", True),
    (2.0, "2", True),
    (2, "2.0", True),
    (2**53, "9007199254740992.0", True),
    (2**53 + 1, "9007199254740992.0", False),
    ({"a": [1]}, '{"a": [1]}', True),
    ({"b": 1, "a": 2}, '{"a": 2, "b": 1}', True),
    ({1: "x"}, '{"1": "x"}', True),  # JSON knows no other keys
    ("é", '"\\u00e9"', True),
    ("😀" * 200, json.dumps("😀" * 200, ensure_ascii=False), True),
    ("\ud800", '"\\ud800"', True),
    (None, "null", True),
    (True, "true", True),
    (10**4000, str(10**4000), True),
    (-0.0, "0", True),
    (float("inf"), "Infinity", True),
    ([0.1 + 0.2] * 5000, str([0.3] * 5000), True),
    (2.0000001, "2", False),
    (2, "2.0000001", False),
    (1000000007.5, "1000000007", False),
    (0.300002, "0.3", False),
    ([1, 2], "[2, 1]", False),
    ([1], "[1, 2]", False),
    ([1, 2, 3], "[1, 2]", False),
    ([[]], "[]", False),
    # types
    (True, "1", False),
    (1, "true", False),
    (False, "0", False),
    (0.0, "false", False),
    ([True], "[1]", False),
    ([1.0], "[true]", False),
    ("1", "1", False),
    (1, '"1"', False),
    (None, "0", False),
    (None, "false", False),
    (None, '""', False),
    (None, '"None"', False),
    ("null", "null", False),
    ("", "[]", False),
    ([], "{}", False),
    (0, "[]", False),
    ({"a": 1}, '{"b": 1}', False),
    ({"a": 1}, '{"a": 1, "b": 1}', False),
    ({"a": 1}, '{"a": true}', False),
    (float("nan"), "NaN", False),
    ([float("nan")], "[NaN]", False),
    (float("inf"), "1e308", False),
    (float("inf"), "-Infinity", False),
    ([1] * 5000, "[1]", False),
]


@pytest.mark.parametrize(("got", "expected", "same"), VALUES)
def test_value(got: object, expected: str, same: bool) -> None:
    assert same_value(json.dumps(got).encode(), expected) is same


@pytest.mark.parametrize(
    "got", [b"", b"not json", b"[" * 500, b"\xff", b"[1] [1]", b"[1", b"\xef\xbb\xbf[1]", "[1]".encode("utf-16"), b"[1_0]"]
)
def test_what_is_not_json_equals_nothing(got: bytes) -> None:
    assert not same_value(got, "[1]")


def test_a_value_may_be_nested_as_deeply_as_json_allows() -> None:
    deep = "[" * 800 + "1" + "]" * 800
    assert same_value(deep.encode(), deep)
    assert not same_value(deep.replace("1", "2").encode(), deep)


def test_a_hostile_answer_costs_no_more_than_the_expected_one() -> None:
    size = 10_000_000
    began = time.process_time()
    for text in (b"1 ", b"\n1", b"1\n", b"9", b"\0", b"\xff", b"0.", b" ", b"-", b"1e"):
        got = text * (size // len(text))
        assert not same_text(got, b"1\n0.5 1") and not same_text(b"0." + got, b"0.5")
        assert not same_text(b"0.0" + b"0" * size + b"1", b"0.5") and same_text(b"0.5" + b"0" * 1000, b"0.5")
        assert not same_value(got, "0.5")
    assert not same_value(b"[" + b"[]," * (5 << 20) + b"[]]", "[[]]")  # 16 MB that would become 400 MB of lists
    for value in (b"[" * 990 + b"]" * 990, b"[" * 10_000, b"9" * 4400, b'{"a":' * 400, b'"' + b"\\u0000" * 100 + b'"'):
        assert not same_value(value, "[[[[" + "0," * 5000 + "0]]]]")
    assert time.process_time() - began < 20, "takes two seconds"


# --------------------------------------------------------------------------------------------------------------- tolerance


STATEMENTS = {
    # as AtCoder, Codeforces and LeetCode put it
    "Your output will be considered correct if the absolute or relative error from the true answer is at most 10^{-6}.": 1e-6,
    "Answers with an absolute or relative error of at most 10^{-9} from the true answer will be considered correct.": 1e-9,
    "Your answers will be considered correct if their absolute or relative error does not exceed 10^{-4}.": 1e-4,
    "Your answer is considered correct if its absolute or relative error does not exceed $10^{-9}$.": 1e-9,
    "Your answer will be considered correct, if its absolute or relative error does not exceed 10^{−7}.": 1e-7,
    "The answer will be considered correct if its absolute or relative error does not exceed 10 - 9.": 1e-9,
    "its absolute or relative error does not exceed 10 − 4 .": 1e-4,
    "The absolute or relative error must not exceed 10<sup>-8</sup>.": 1e-8,
    "The absolute or relative error must not exceed 10<sup>&minus;8</sup>.": 1e-8,
    "with an absolute or relative error of at most 10^(-9)": 1e-9,
    "with an absolute or relative error of at most 10**-9": 1e-9,
    "with an absolute or\nrelative error of at most 1e-9": 1e-9,
    "with a relative error of at most 1E-5.": 1e-5,
    "the relative error should be less than 0.00000001.": 1e-8,
    "the relative error should be less than 0.001": 1e-3,
    "The error must not exceed 2 \\times 10^{-8}.": 2e-8,
    "The error must not exceed 5·10^{-8}.": 5e-8,
    "Answers within 10-5 of the actual answer will be accepted.": 1e-5,
    "Answers within 10^-5 of the actual answer will be accepted.": 1e-5,
    "Answers within 10⁻⁵ of the actual answer will be accepted.": 1e-5,
    "Answers within 10``-5`` of the actual answer will be accepted.": 1e-5,
    "Your answer is accepted if and only if $\\frac{|a - b|}{\\max{(1, |b|)}} \\le 10^{-9}$.": 1e-9,
    "The absolute or relative error must be at most 10^{-4}. Formally, |a-b|/max(1,|b|) ≤ 10^{-9}.": 1e-9,  # the stricter
    # what asks for nothing
    "Print the sum.": 1e-6,
    "": 1e-6,
    "Print the answer with exactly two digits after the decimal point.": 1e-6,
    "The value has two errors relative to the code 123456.": 1e-6,
    "The absolute difference is |10 - 1| = 9.": 1e-6,
    "For each address the value of the error function is less than 10. Print 10 -5 3.": 1e-6,
    "A pair is close if it lies within 0.05 metres.": 1e-6,
    "The interval lies within the bounds.\n\nInput\n10 -4\nThe value of 3": 1e-6,
    "Each real is accurate; the error is less than 10 and -5 is its bound.": 1e-6,
    "The relative error is at most 10^{-40}.": 1e-6,
    "The relative error is at most 0.5.": 1e-6,
}


@pytest.mark.parametrize(("statement", "tolerance"), STATEMENTS.items())
def test_the_tolerance_of_a_statement(statement: str, tolerance: float) -> None:
    assert math.isclose(tolerance_of(statement), tolerance)


def test_the_tolerance_decides() -> None:
    assert same_text(b"0.50001", b"0.5", 1e-4) and not same_text(b"0.50001", b"0.5", 1e-6)
    assert same_text(b"0.5000001", b"0.5") and not same_text(b"0.5000001", b"0.5", 1e-9)
    assert same_value(b"0.50001", "0.5", 1e-4) and not same_value(b"0.5000001", "0.5", 1e-9)
    assert same_text(b"0.5", b"0.50", 0.0)


def test_a_hostile_statement_is_read_in_linear_time() -> None:
    began = time.process_time()
    for piece in ("error ", "absolute error at most 10^{-", "within ", "max < ", "10", "0.", "<", "10 - ", "within of answer "):
        tolerance_of(piece * (300_000 // len(piece)))
    assert time.process_time() - began < 10, "takes a second"


# -------------------------------------------------------------------------------------------------------------- properties

# no deadline: other work on the machine must not fail a test
settings.register_profile("steady", deadline=None, database=None)
settings.load_profile("steady")

words = st.text(st.characters(codec="utf-8", exclude_categories=["Zs", "Cc", "Zl", "Zp"]), min_size=1, max_size=6)
numbers = st.one_of(st.integers().map(str), st.floats(allow_nan=False, allow_infinity=False).map(repr))
lines = st.lists(st.one_of(words, numbers), min_size=1, max_size=4).map(" ".join)
outputs = st.lists(lines, min_size=1, max_size=6)
json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(), inner, max_size=4)),
    max_leaves=12,
)
tolerances = st.floats(min_value=1e-12, max_value=1e-2)


def joined(texts: list[str], end: str = "\n") -> bytes:
    return "".join(text + end for text in texts).encode()


@given(st.binary(max_size=200))
def test_any_text_is_the_same_as_itself(text: bytes) -> None:
    assert same_text(text, text) and official_text(text, text)


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_no_bytes_raise_and_neither_side_is_favoured(left: bytes, right: bytes) -> None:
    assert same_text(left, right) is same_text(right, left)
    assert official_text(left, right) is official_text(right, left)
    assert same_value(left, '[1, "x"]') is False or json.loads(left) == [1, "x"]
    official_value(left, "[1]")


@given(
    outputs,
    st.lists(st.sampled_from([" ", "\t", "\r", "  ", "\x0c"]), min_size=6, max_size=6),
    st.sampled_from(["", "\n", "\r\n", "\n\n \n"]),
)
def test_trailing_blanks_are_forgiven(texts: list[str], blanks: list[str], end: str) -> None:
    loose = [text + blank for text, blank in zip(texts, blanks, strict=False)]
    assert same_text("\n".join(loose).encode() + end.encode(), joined(texts))
    assert same_text(joined(texts), joined(loose, "\r\n"))


@given(outputs, st.data())
def test_a_line_dropped_or_added_is_refused(texts: list[str], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(texts) - 1))
    assert not same_text(joined(texts[:at] + texts[at + 1 :]), joined(texts))
    assert not same_text(joined([*texts[:at], data.draw(lines), *texts[at:]]), joined(texts))
    assert not same_text(joined([*texts[:at], "", *texts[at:]]), joined(texts)), "a blank line before a line that is not"


@given(outputs, st.data())
def test_a_token_dropped_or_added_is_refused(texts: list[str], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(texts) - 1))
    more = [*texts[:at], f"{texts[at]} {data.draw(st.one_of(words, numbers))}", *texts[at + 1 :]]
    assert not same_text(joined(more), joined(texts)) and not same_text(joined(texts), joined(more))


@given(st.integers(), st.integers())
def test_integers_are_the_same_only_where_they_are_equal(left: int, right: int) -> None:
    assert same_text(b"%d" % left, b"%d" % right) is (left == right)
    assert same_value(b"%d" % left, str(right)) is (left == right)


@given(st.floats(-1e6, 1e6), st.floats(-1e-2, 1e-2), tolerances, tolerances)
def test_a_looser_tolerance_accepts_no_less(value: float, error: float, left: float, right: float) -> None:
    strict, loose = sorted((left, right))
    got, expected = f"{value + error:.17f}".encode(), f"{value:.17f}"
    assert same_text(got, expected.encode(), strict) <= same_text(got, expected.encode(), loose)
    assert same_value(got, expected, strict) <= same_value(got, expected, loose)
    assert same_text(got, expected.encode(), loose) is same_value(got, expected, loose), "text and values draw one line"


@given(json_values)
def test_a_value_is_the_same_as_its_copy_sent_as_json(value: Any) -> None:
    assert same_value(json.dumps(value).encode(), json.dumps(value))
    assert same_value(json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass"), json.dumps(value))
    assert official_value(json.dumps(value).encode(), json.dumps(value))


@given(json_values, json_values)
def test_values_favour_neither_side(left: Any, right: Any) -> None:
    assert same_value(json.dumps(left).encode(), json.dumps(right)) is same_value(json.dumps(right).encode(), json.dumps(left))


def swapped(value: Any) -> Any:
    """The value with each truth value as a number, and each 0 and 1 as a truth value."""
    if isinstance(value, list):
        return [swapped(one) for one in value]
    if isinstance(value, dict):
        return {key: swapped(one) for key, one in value.items()}
    return int(value) if isinstance(value, bool) else bool(value) if isinstance(value, int) and value in (0, 1) else value


@given(st.recursive(st.one_of(st.booleans(), st.integers(0, 1)), lambda inner: st.lists(inner, min_size=1, max_size=3), max_leaves=6))
@settings(max_examples=50)
def test_a_truth_value_is_no_number_at_any_depth(value: Any) -> None:
    assert not same_value(json.dumps(swapped(value)).encode(), json.dumps(value))
    assert official_value(json.dumps(swapped(value)).encode(), json.dumps(value)), "the published evaluator takes one for the other"
