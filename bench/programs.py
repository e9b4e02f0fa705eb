"""What the judges are given: groups of programs that are known to be right, and a few that are known not to be.

    trivial(100)                            our own: three imports and one line of input, with 1 test and with 20
    problems(path, repeated=20, every=1)    solutions of a file, grouped by kind and number of tests
    EMPTY                                   does nothing
    KNOWN                                   right, wrong and failing programs: a judge that cannot tell them apart is not timed

A problems file is JSON lines, gzipped or not: id, solution, tests (input, output, testtype), and func_name for functions.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

from gwen25.data import TestCase, read_jsonl
from gwen25.errors import BadInput

TRIVIAL, REAL, REPEATED = "trivial", "real", "real, tests repeated"
MANY = 20  # tests a program, where tests are repeated; LiveCodeBench's problems have about as many


class Program(NamedTuple):
    id: str
    source: str
    tests: tuple[TestCase, ...]
    func_name: str | None = None

    @property
    def kind(self) -> str:
        return "stdin" if self.func_name is None else "function"


class Group(NamedTuple):
    """Programs that are timed together. `repeated`: their tests are the same few, over and over."""

    material: str
    kind: str
    size: str  # tests a program
    programs: tuple[Program, ...]

    @property
    def tests(self) -> int:
        return sum(len(program.tests) for program in self.programs)


def trivial(count: int) -> Iterator[Group]:
    """`count` programs of 1 test each, and a fifth of them with MANY tests: enough for the workers to end about together."""
    for tests, programs in ((1, count), (MANY, -(-count // 5))):
        cases = tuple(TestCase(f"{number} 2 3\n", f"{number * 6}\n") for number in range(1, tests + 1))
        yield Group(TRIVIAL, "stdin", str(tests), tuple(Program(f"{tests} tests, {n}", _trivial(n), cases) for n in range(programs)))


def _trivial(number: int) -> str:
    """Each text is another one, so that nothing is gained by remembering a program."""
    return (
        f"import sys\nimport math\nfrom collections import Counter\nNUMBER = {number}\n"
        "values = list(map(int, sys.stdin.readline().split()))\nprint(math.prod(Counter(values).elements()))\n"
    )


def problems(path: Path, *, repeated: int | None, every: int = 1) -> Iterator[Group]:
    """The file's programs by kind and number of tests; and its stdin programs once more with `repeated` tests each."""
    found = [_program(path, number, row) for number, row in read_jsonl(path)][::every]
    if not found:
        raise BadInput(f"{path}: no programs in it")
    for kind, sizes in {"stdin": ((1, 2), (3, 3), (4, 99)), "function": ((1, 5), (6, 24), (25, 999))}.items():
        for low, high in sizes:
            chosen = tuple(program for program in found if program.kind == kind and low <= len(program.tests) <= high)
            if chosen:
                sizes_here = sorted({len(program.tests) for program in chosen})
                yield Group(REAL, kind, "-".join(map(str, dict.fromkeys((sizes_here[0], sizes_here[-1])))), chosen)
    stdin = [program for program in found if program.kind == "stdin"]
    if repeated and stdin:
        many = tuple(program._replace(tests=tuple(islice(cycle(program.tests), repeated))) for program in stdin)
        yield Group(REPEATED, "stdin", str(repeated), many)


def _program(path: Path, number: int, row: dict[str, Any]) -> Program:
    try:
        tests = tuple(TestCase(test["input"], test["output"], test["testtype"]) for test in row["tests"])
        return Program(str(row["id"]), row["solution"], tests, row.get("func_name") or None)
    except (KeyError, TypeError) as error:
        raise BadInput(f"{path}, line {number}: columns id, solution and tests (input, output, testtype) are needed ({error!r})") from error


EMPTY = Program("empty", "", (TestCase("", ""),))
_DOUBLE = (TestCase("2\n", "4\n"), TestCase("3\n", "6\n"))
_ADD = (TestCase("1\n2", "3", "functional"), TestCase("[1]\n[2]", "[1, 2]", "functional"))
KNOWN: dict[Program, bool] = {
    Program("right", "print(int(input()) * 2)", _DOUBLE): True,
    Program("wrong at the second test", "input()\nprint(4)", _DOUBLE): False,
    Program("raises", "raise ValueError", _DOUBLE): False,
    Program("right function", "class Solution:\n    def add(self, a, b):\n        print('noise')\n        return a + b", _ADD, "add"): True,
    Program("wrong function", "class Solution:\n    def add(self, a, b):\n        return 3", _ADD, "add"): False,
    Program("raising function", "class Solution:\n    def add(self, a, b):\n        return a - b", _ADD, "add"): False,
}
