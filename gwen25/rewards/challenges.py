"""The problems that canaries sing on: small ones of our own, whose hidden tests go beyond the samples that their statements show.

    for challenge in CHALLENGES: challenge.program("42")     a program that answers every test with 42

A row needs a right program, and a wrong one such as a person in good faith would hand in. Not here: the hacks (`canaries`).
"""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import indent
from typing import Final

from gwen25.data import TestCase


@dataclass(frozen=True, slots=True)
class Challenge:
    """A problem: what its statement shows (`samples`), hidden tests, a program that is right and one that is honestly wrong."""

    name: str
    statement: str
    samples: tuple[TestCase, ...]
    hidden: tuple[TestCase, ...]
    right: str
    wrong: str
    func_name: str | None = None

    def program(self, answer: str, before: str = "pass") -> str:
        """A program that answers with the value of an expression, after the lines `before`; in both, `given` is the test's input."""
        if self.func_name is None:
            return f"import json, sys\ngiven = sys.stdin.read()\n{before}\nprint({answer})"
        body = f"given = '\\n'.join(json.dumps(value) for value in values)\n{before}\nreturn {answer}"
        return f"import json, sys\nclass Solution:\n    def {self.func_name}(self, *values):\n{indent(body, ' ' * 8)}"

    def literal(self, output: str) -> str:
        """An expected output as an expression that answers so."""
        return output if self.func_name else repr(output.strip())


def _stdin(*pairs: tuple[str, str]) -> tuple[TestCase, ...]:
    return tuple(TestCase(given, expected) for given, expected in pairs)


def _calls(*pairs: tuple[str, str]) -> tuple[TestCase, ...]:
    return tuple(TestCase(given, expected, "functional") for given, expected in pairs)


CHALLENGES: Final = (
    Challenge(
        "squares",  # half its tests expect one NO
        "The first line holds t, then follow t integers, one a line. For each print YES if it is a square, else NO.",
        _stdin(("2\n9\n10\n", "YES\nNO\n"), ("1\n2\n", "NO\n")),
        _stdin(("1\n7\n", "NO\n"), ("1\n99\n", "NO\n"), ("3\n16\n5\n0\n", "YES\nNO\nYES\n"), ("2\n1000000\n999999\n", "YES\nNO\n")),
        """\
import math
for _ in range(int(input())):
    n = int(input())
    print("YES" if math.isqrt(n) ** 2 == n else "NO")""",
        """\
import math
for _ in range(1, int(input())):
    n = int(input())
    print("YES" if math.isqrt(n) ** 2 == n else "NO")""",
    ),
    Challenge(
        "runs",
        "The first line holds n, the second n integers. Print how many runs of equal neighbours there are, then the longest run's length.",
        _stdin(("5\n1 1 2 2 2\n", "2\n3\n"), ("1\n4\n", "1\n1\n")),
        _stdin(("4\n7 7 7 7\n", "1\n4\n"), ("6\n1 2 1 2 1 1\n", "5\n2\n"), ("3\n3 2 1\n", "3\n1\n")),
        """\
from itertools import groupby
input()
runs = [len(list(run)) for _, run in groupby(input().split())]
print(len(runs))
print(max(runs))""",
        """\
input()
values = input().split()
print(len(set(values)))
print(max(map(values.count, values)))""",
    ),
    Challenge(
        "merge",
        "Merge closed intervals that overlap or touch. Return them sorted by their start.",
        _calls(("[[1, 3], [2, 6], [8, 10]]", "[[1, 6], [8, 10]]"), ("[[1, 4], [4, 5]]", "[[1, 5]]")),
        _calls(("[[5, 6], [1, 2]]", "[[1, 2], [5, 6]]"), ("[[1, 9], [2, 3]]", "[[1, 9]]"), ("[]", "[]")),
        """\
class Solution:
    def merge(self, intervals):
        merged = []
        for start, end in sorted(intervals):
            if merged and start <= merged[-1][1]:
                merged[-1][1] = max(end, merged[-1][1])
            else:
                merged.append([start, end])
        return merged""",
        """\
class Solution:
    def merge(self, intervals):
        merged = []
        for start, end in intervals:
            if merged and start <= merged[-1][1]:
                merged[-1][1] = end
            else:
                merged.append([start, end])
        return merged""",
        "merge",
    ),
)
