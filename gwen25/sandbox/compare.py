"""Is this the expected output? Runs in the grader, on hostile text, so nothing here grows with the answer beyond the expected output.

    same_text(got, expected, tolerance)      what a program printed
    same_value(got, expected, tolerance)     what a function returned, as JSON text
    official_text(got, expected)             LiveCodeBench's own comparison of the former (state of 2025-07-15)
    official_value(got, expected)            and of the latter
    tolerance_of(statement)                  the error that a statement allows in decimals

Printed text, as a fair contest judge: line by line, and in a line token by token. Blanks round tokens, CRLF, and what blank lines end
the text are forgiven; every other line must be there, and none more, a blank one at the top or in the middle too. Tokens are equal as
text, or where both are decimals, written in ASCII digits with a point or an exponent, and within the tolerance, absolute or relative:
5 is not 5.0, nor 05.
Values, by type: a truth value is no number, a string nothing but a string, None only None; an int equals a float of its very value, two
floats may differ by the tolerance, NaN equals nothing. A tuple arrives as a list, at any depth, and a dict's keys as strings.
Not here: checkers that accept several answers.
"""

from __future__ import annotations

import json
import math
import re
from decimal import Decimal
from typing import Any, Final

TOLERANCE: Final = 1e-6
_ROUNDING: Final = 1e-15  # an answer at the very edge of the tolerance is not refused for the last bit of a double
_DECIMAL: Final = re.compile(rb"[+-]?(?:(?:[0-9]++\.[0-9]*+|\.[0-9]++)(?:[eE][+-]?[0-9]++)?|[0-9]++[eE][+-]?[0-9]++)")


# ------------------------------------------------------------------------------------------------------------ printed text


def same_text(got: bytes, expected: bytes, tolerance: float = TOLERANCE) -> bool:
    """Whether the printed text says the same."""
    want_lines = expected.rstrip().split(b"\n")
    got_lines = got.rstrip().split(b"\n", len(want_lines))
    if len(got_lines) != len(want_lines):
        return False
    return all(_same_line(have, want, tolerance) for have, want in zip(got_lines, want_lines, strict=True))


def _same_line(got: bytes, expected: bytes, tolerance: float) -> bool:
    want = expected.split()
    have = got.split(None, len(want))
    if have == want:
        return True
    return len(have) == len(want) and all(_same_token(*pair, tolerance) for pair in zip(have, want, strict=True))


def _same_token(got: bytes, expected: bytes, tolerance: float) -> bool:
    if got == expected:
        return True
    return bool(_DECIMAL.fullmatch(expected) and _DECIMAL.fullmatch(got)) and _close(float(got), float(expected), tolerance)


def _close(got: float, expected: float, tolerance: float) -> bool:
    allowed = tolerance + _ROUNDING
    return math.isfinite(got) and math.isfinite(expected) and math.isclose(got, expected, rel_tol=allowed, abs_tol=allowed)


# ------------------------------------------------------------------------------------------------------------------ values


def same_value(got: bytes, expected: str, tolerance: float = TOLERANCE) -> bool:
    """Whether the returned value equals the expected one. `got` need not be JSON at all; `expected` must be: the judge has looked."""
    want = json.loads(expected)
    if _too_long(got, expected):
        return False
    try:
        return _same(_decoded(got), want, tolerance)
    except (ValueError, RecursionError):
        return False


def _too_long(got: bytes, expected: str) -> bool:
    """Longer than any spelling of an equal value: "0.1" may come as 25 characters, one character of text as 12 (\\ud83d\\ude00)."""
    return len(got) > 1024 + 16 * len(expected)


def _decoded(got: bytes) -> Any:
    text = got.decode("utf-8", "surrogatepass")  # else json guesses the encoding
    return json.loads(text, parse_constant=float)  # else every NaN is one object, which a list finds equal to itself


def _same(got: Any, want: Any, tolerance: float) -> bool:
    pairs = [(got, want)]  # a stack of our own: an expected value may be nested as deeply as JSON allows
    while pairs:
        got, want = pairs.pop()
        if isinstance(want, list):
            if not isinstance(got, list) or len(got) != len(want):
                return False
            pairs.extend(zip(got, want, strict=True))
        elif isinstance(want, dict):
            if not isinstance(got, dict) or got.keys() != want.keys():
                return False
            pairs.extend((got[key], want[key]) for key in want)
        elif not _same_scalar(got, want, tolerance):
            return False
    return True


def _same_scalar(got: Any, want: Any, tolerance: float) -> bool:
    if isinstance(got, float) and isinstance(want, float):
        return got == want or _close(got, want, tolerance)
    kinds = {type(got), type(want)}
    return bool(got == want) and (len(kinds) == 1 or kinds == {int, float})


# ---------------------------------------------------------------------------------------------------------------- official


def official_text(got: bytes, expected: bytes) -> bool:
    """LiveCodeBench's own: stripped lines, equal as text, or else as lists of decimals, exactly and in whatever Decimal can read."""
    want = [line.strip() for line in _text(expected).strip().split("\n")]
    have = [line.strip() for line in _text(got).strip().split("\n", len(want))]
    return len(have) == len(want) and all(map(_official_line, have, want))


def _text(output: bytes) -> str:
    return output.decode("utf-8", "surrogateescape")


def _official_line(got: str, expected: str) -> bool:
    if got == expected:
        return True
    tokens = expected.split()
    try:
        want = [Decimal(token) for token in tokens]
        return [Decimal(token) for token in got.split(None, len(tokens))] == want
    except ArithmeticError:  # no number, or a signalling NaN, which ends their run
        return False


def official_value(got: bytes, expected: str) -> bool:
    """LiveCodeBench's own, as far as JSON carries it: Python's `==`, to which True is 1 and 1 is 1.0, and no float is forgiven anything.

    Theirs sees the value itself, where a tuple inside a list is no list and a number as a key no string; here both are equal.
    """
    want = json.loads(expected)
    try:
        return not _too_long(got, expected) and bool(_decoded(got) == want)
    except (ValueError, RecursionError):
        return False


# --------------------------------------------------------------------------------------------------------------- tolerance

_SUPERSCRIPTS: Final = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻−–‐‑", "0123456789-----")
_MARKUP: Final = re.compile(r"</?[a-z][^<>]{0,20}>|&(?:nbsp|thinsp);")
_SENTENCE_END: Final = re.compile(r"[.!?](?!\d)|\n[ \t\r]*+\n")
_NUMBER: Final = re.compile(
    r"(?<![\w.])(?:(?P<times>\d{1,3}(?:\.\d{1,3})?)\s?(?:\\times|\\cdot|[×·x*])\s?)?10[\s^{}()`$*\\]{0,6}-[\s{}]{0,3}(?P<power>\d{1,2})(?!\d)"
    r"|(?<![\w.])(?P<plain>\d(?:\.\d{1,3})?[eE]-\d{1,2}|0\.0{0,18}[1-9]\d{0,2})(?!\d)"
)
_LIMITS: Final = ("absolute", "relative", "exceed", "at most", "less than", "more than", "smaller", "within", "up to", "≤", "<", "\\le")
# a cue, and what else its sentence must say: "absolute or relative error of at most 10^{-9}", "answers within 10^-5 of the actual answer",
# "|a - b| / max(1, |b|) <= 10^{-6}"
_CUES: Final = (
    (re.compile(r"\berrors?\b"), re.compile("|".join(map(re.escape, _LIMITS)))),
    (re.compile(r"\bwithin\b(?=.{0,25}\b(?:of|from)\b)"), re.compile(r"answer|value|result|solution|output")),
    (re.compile(r"\bmax\b"), re.compile(r"≤|<|\\le")),
)
_NEAR: Final = 100  # characters between the cue and its number


def tolerance_of(statement: str) -> float:
    """The error that a statement allows in its decimals, absolute or relative: the strictest that it names, TOLERANCE where it names none.

    What it says counts, stricter or looser than TOLERANCE. A wish for a number of digits is none for an error: it says how to print.
    """
    plain = _MARKUP.sub("", statement.replace("&minus;", "-").translate(_SUPERSCRIPTS))
    asked = [error for sentence in _SENTENCE_END.split(plain.lower()) for error in _errors(sentence)]
    return min(asked, default=TOLERANCE)


def _errors(sentence: str) -> list[float]:
    """What one sentence allows: the first number after each of its cues."""
    found = []
    for cue, limit in _CUES:
        for said in cue.finditer(sentence) if limit.search(sentence) else ():
            if number := _NUMBER.search(sentence, said.end(), said.end() + _NEAR):
                found.append(float(number["plain"]) if number["plain"] else float(number["times"] or 1) * 10.0 ** -int(number["power"]))
    return [error for error in found if 1e-18 <= error <= 0.1]
