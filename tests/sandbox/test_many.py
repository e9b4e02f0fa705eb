"""A pure program that reads stdin, run on many inputs in one process: each answer is that of a process of its own, and a failure counts
only from one. What plain Python says to such programs is compared in test_behaviours, who is pure in test_pure.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from gwen25.data import TestCase
from gwen25.sandbox import Limits, Verdict, grade, judge, probe
from gwen25.sandbox.pool import Runner
from gwen25.sandbox.slots import Outcome
from tests.sandbox.plain import REPOSITORY

LIMITS = Limits(cpu_seconds=0.4, memory_bytes=128 << 20, output_bytes=1 << 20)


def both(program: str, inputs: list[bytes], limits: Limits = LIMITS) -> tuple[list[Outcome], list[Outcome]]:
    """In one process, and in one each."""
    with Runner(program.encode(), limits, probe(), None) as run:
        return run.many(inputs), [run(data) for data in inputs]


SAME = {
    "streams": "import sys\nprint(input())\nfor line in sys.stdin: print(repr(line))\nprint(sys.stdin.read() == '')",
    "bytes": "import sys\nprint(sys.stdin.buffer.readline(), sys.stdin.buffer.read(3), sys.stdin.buffer.readlines())",
    "text read ahead": "import sys\nprint(repr(sys.stdin.read(2)), sys.stdin.buffer.read(2), repr(sys.stdin.readline()))",
    "no end of line": "print(input(), end='')",
    "nothing": "input()",
    "order of writers": "import sys\nprint('a', end='')\nsys.stdout.buffer.write(b'b')\nsys.stdout.write('c')\nsys.stdout.flush()",
    "a prompt": "print(input('> '))",
    "names": "class A: pass\nprint(__name__, A, A.__name__)",
    "an annotation": "x: int = 1\nprint(x)",
    "depth": "def f(n):\n    global d\n    d = n\n    f(n + 1)\ntry: f(0)\nexcept Exception: print(d)",
    "depth of a lower limit": "import sys\nsys.setrecursionlimit(300)\ndef f(n):\n    global d\n    d = n\n    f(n + 1)\n"
    "try: f(0)\nexcept Exception: print(d)",
    "depth through C": "def f(n):\n    global d\n    d = n\n    list(map(f, [n + 1]))\ntry: f(0)\nexcept Exception: print(d)",
    "order of sets": "print({'alpha', 'beta', 'gamma'}, {input(): 1})",
    "surrogates": "print(input().encode('utf-8', 'surrogateescape'))",
    "a large answer": "print('x' * 200_000)",
    "memory": "x = [0] * 2_000_000\nprint(len(x))",  # 16 MB each time
    "memory in a ring": "class A: pass\na = A()\na.a, a.x = a, [0] * 2_000_000\nprint(len(a.x))",
    "a long chain": "class A: pass\na = None\nfor _ in range(50_000):\n    b = A()\n    b.a, a = a, b\nprint(1)",
    "digits": "try: print(len(str(10 ** 5000)))\nexcept ValueError: print('none')",
}
GIVEN = [b"1 2\n3\n", b"", b"\xff\xfe a\r\nb\rc", "é\n".encode() * 5000, b"1 2\n3\n"]


@pytest.mark.parametrize("name", SAME)
def test_as_a_process_of_its_own(name: str) -> None:
    needs_input = "input()" in SAME[name] or "input('" in SAME[name]
    inputs = [data for data in GIVEN if data or not needs_input]
    many, single = both(SAME[name], inputs)
    assert len(many) == len(inputs), "it should be pure, and end well"
    assert [(o.ended, o.exit_code, o.answer, o.stderr) for o in many] == [(o.ended, o.exit_code, o.answer, o.stderr) for o in single]


FAILING = {
    "exception": "raise KeyError('here')",
    "exit": "exit(3)",
    "wrong": "n += 1",
    "endless": "while True: pass",
    "memory": "x = 'a' * (1 << 30)",
    "memory by and by": "x = []\n    while True: x.append('a' * (1 << 20))",
    "output": "print('x' * (2 << 20))",
    "output that is caught": "while True:\n        try: print('x' * 99_999)\n        except: break",
    "endless output that is caught": "while True:\n        try: print('x' * 99_999)\n        except: pass",
    "recursion": "def f(): f()\n    f()",
    "surrogate": "print('\\ud800')",
    "end of file": "input()",
    "warning": "import re\n    re.compile('[[a]b]')\n    n += 1",
}


@pytest.mark.parametrize("where", [1, 5])
@pytest.mark.parametrize("name", FAILING)
def test_a_test_that_fails(name: str, where: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same verdict, whether the tests before it shared a process or not."""
    program = f"n = int(input())\nif n == {where}:\n    {FAILING[name]}\nprint(n)"
    tests = [TestCase(f"{n}\n", f"{n}\n") for n in range(7)]

    def judged(all_tests: bool) -> Verdict:
        return grade(program, tests, LIMITS, all_tests=all_tests, official=True)

    together = [judged(False), judged(True)]
    monkeypatch.setattr(judge, "MANY_TESTS", 99)
    alone = [judged(False), judged(True)]
    for one, other in zip(together, alone, strict=True):
        assert (one.status, one.test, one.passed_tests, one.official, one.hung) == (
            (other.status, other.test, other.passed_tests, other.official, other.hung)
        )
        assert re.sub("0x[0-9a-f]+", "0x", one.stderr) == re.sub("0x[0-9a-f]+", "0x", other.stderr)  # an address is no two processes' alike
    assert together[0].test == where and together[1].passed_tests == 6


STREAMS = """
import os, sys
from gwen25.sandbox.bootstrap import _stream
def facts(stream):
    raw = stream.buffer.raw
    return [
        type(stream), stream.encoding, stream.errors, stream.newlines, stream.line_buffering, stream.write_through, stream.mode,
        stream.name, stream._CHUNK_SIZE, type(stream.buffer), stream.isatty(),
        type(raw), raw.mode, raw.name, raw.closefd, raw._blksize, raw.fileno(),
    ]
for old, mode in ((sys.stdin, "r"), (sys.stdout, "w")):
    assert facts(_stream(old, old.fileno(), mode)) == facts(old), facts(old)
assert _stream(sys.stdin, 0, "r").read() == sys.stdin.seek(0) * "" + sys.stdin.read() == "a\\r\\nb\\rc", "newlines as they are"
"""


def test_streams_are_as_python_makes_them(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"a\r\nb\rc")
    with (tmp_path / "in").open("rb") as given, (tmp_path / "out").open("wb") as out:
        environment = {"LC_ALL": "C.UTF-8", "PYTHONPATH": str(REPOSITORY)}
        subprocess.run([sys.executable, "-c", STREAMS], stdin=given, stdout=out, env=environment, check=True)


def test_a_word_on_stderr_is_not_lost() -> None:
    """A pattern that warns: once it is cached it would not."""
    many, single = both("import re\nprint(re.split('[[a]', input()))", [b"bab\n"] * 3)
    assert many == [] and all("FutureWarning" in outcome.stderr for outcome in single)


def test_a_program_that_is_not_pure_is_not_run() -> None:
    with Runner(b"import os\nprint(os.listdir('/proc/self/fd'))", LIMITS, probe(), None) as run:
        assert run.many([b"", b""]) == []


def test_limits_are_of_one_test() -> None:
    tests = [TestCase(f"{n}\n", f"{n}\n") for n in range(12)]
    limits = Limits(cpu_seconds=0.4, output_bytes=1 << 20)
    slow = "n = int(input())\nfor _ in range(n and 2_000_000): pass\nprint(n)"  # 0.05-0.2 s each
    assert grade(slow, tests, limits).passed
    large = [TestCase(f"{n}\n", "x" * 300_000) for n in range(12)]
    assert grade("input()\nprint('x' * 300_000)", large, limits).passed
    given = [TestCase("7 " * 200_000, "200000") for _ in range(12)]
    assert grade("print(len(input().split()))", given, limits).passed


def test_cpu_time_is_counted_once() -> None:
    tests = [TestCase(f"{n}\n", f"{n}\n") for n in range(20)]
    verdict = grade("n = int(input())\nfor _ in range(100_000): pass\nprint(n)", tests)  # 3-10 ms each
    assert verdict.passed and verdict.passed_tests == 20 and 0.02 < verdict.cpu_seconds < 1
