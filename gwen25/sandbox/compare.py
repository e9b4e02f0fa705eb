"""Is this the expected output? Runs in the grader, on hostile text, so nothing here grows with the answer beyond the expected output.

    same_text(got, expected)     what a program printed
    same_value(got, expected)    what a function returned, as JSON text

Text: tokens line by line. Blanks at the ends of lines, CRLF, and blank lines at either end are forgiven, as LiveCodeBench does; the lines
in between must match one to one. Tokens are equal as text, or where both are decimals, written in ASCII digits with a point or an exponent,
and within 1e-6 (absolute or relative).
Values: Python's equality of decoded JSON (a tuple is a list there), floats within 1e-6, NaN equal to nothing.
Not here: checkers that accept several answers.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

TOLERANCE = 1e-6
_DECIMAL = re.compile(rb"[+-]?(?:(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|[0-9]+[eE][+-]?[0-9]+)")


def same_text(got: bytes, expected: bytes) -> bool:
    """Whether the printed text says the same."""
    want_lines = expected.strip().split(b"\n")
    got_lines = got.strip().split(b"\n", len(want_lines))
    return len(got_lines) == len(want_lines) and all(map(_same_line, got_lines, want_lines))


def _same_line(got: bytes, expected: bytes) -> bool:
    want = expected.split()
    have = got.split(None, len(want))
    return have == want or (len(have) == len(want) and all(map(_same_token, have, want)))


def _same_token(got: bytes, expected: bytes) -> bool:
    if got == expected:
        return True
    return bool(_DECIMAL.fullmatch(got) and _DECIMAL.fullmatch(expected)) and _close(float(got), float(expected))


def _close(got: float, expected: float) -> bool:
    return math.isfinite(got) and math.isfinite(expected) and math.isclose(got, expected, rel_tol=TOLERANCE, abs_tol=TOLERANCE)


def same_value(got: bytes, expected: str) -> bool:
    """Whether the returned value equals the expected one. `got` need not be JSON at all; `expected` must be."""
    want = json.loads(expected)
    if len(got) > 1024 + 32 * len(json.dumps(want)):  # "1.0" may come as 25 digits, "é" as \\u00e9: longer than this it cannot be equal
        return False
    try:
        return _same(json.loads(got), want)
    except (ValueError, RecursionError):
        return False


def _same(got: Any, want: Any) -> bool:
    if isinstance(got, list) and isinstance(want, list):
        return len(got) == len(want) and all(map(_same, got, want))
    if isinstance(got, dict) and isinstance(want, dict):
        return got.keys() == want.keys() and all(_same(got[key], want[key]) for key in want)
    if isinstance(got, float) and isinstance(want, float):
        return got == want or _close(got, want)
    return bool(got == want)
