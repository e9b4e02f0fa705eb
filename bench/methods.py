"""The judges that are compared. Each takes programs and says of each whether it passed, stopping at a program's first failure.

    ours              gwen25.sandbox.grade_many, isolated, a fresh program for each test
    plain             a process per test, `python -I file`, no isolation, the same comparison
    plain -S          the same with -S: an interpreter that finds no packages starts in a third of the time
    plain-whole       functions only: a process per program, which sees all tests' inputs one after the other
    official          LiveCodeBench's evaluator: a process per program, no isolation, its own comparison

All use the same number of workers: threads that wait (ours, plain), or processes (official).
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from bench.programs import Program
from gwen25.errors import BadInput
from gwen25.sandbox import Limits, grade_many
from gwen25.sandbox.bootstrap import PRELUDE, RECURSION_LIMIT
from gwen25.sandbox.compare import same_text, same_value

OURS, PLAIN, WHOLE = "ours", "plain", "plain-whole"
SECONDS = 6  # a test: CPU time for ours, wall time for the others
LIMITS = Limits(cpu_seconds=SECONDS)

# After a program with a function to call: a line of JSON in (its arguments), a line of JSON out. What the program prints goes to stderr.
CALLER = """
import json as _json, os as _os, sys as _sys
_answers = _os.fdopen(_os.dup(1), "w")
_os.dup2(2, 1)
for _line in _sys.stdin:
    _owner = Solution() if "Solution" in globals() else _sys.modules["__main__"]
    print(_json.dumps(getattr(_owner, {name!r})(*_json.loads(_line))), file=_answers)
_answers.flush()
"""


class Method(Protocol):
    name: str

    def takes(self, kind: str) -> bool: ...

    def run(self, programs: Sequence[Program]) -> list[bool]: ...


class Ours:
    name = OURS

    def __init__(self, workers: int):
        self._workers = workers

    def takes(self, kind: str) -> bool:
        return True

    def run(self, programs: Sequence[Program]) -> list[bool]:
        jobs = [(program.source, program.tests, program.func_name) for program in programs]
        return [verdict.passed for verdict in grade_many(jobs, LIMITS, workers=self._workers)]


class Plain:
    """`flags`: the interpreter's. `whole`: one process for all tests of a program."""

    def __init__(self, name: str, workers: int, python: str, *flags: str, whole: bool = False):
        self.name, self._workers, self._command, self._whole = name, workers, (python, *flags), whole

    def takes(self, kind: str) -> bool:
        return kind == "function" or not self._whole

    def run(self, programs: Sequence[Program]) -> list[bool]:
        with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(self._workers) as pool:
            return list(pool.map(lambda job: self._passes(job[1], Path(folder) / f"{job[0]}.py"), enumerate(programs)))

    def _passes(self, program: Program, file: Path) -> bool:
        if program.func_name is None:
            file.write_text(program.source)
            return all(same_text(self._output(file, test.input), test.output.encode()) for test in program.tests)
        head = f"{PRELUDE}import sys\nsys.setrecursionlimit({RECURSION_LIMIT})\n"
        file.write_text(f"{head}{program.source}\n{CALLER.format(name=program.func_name)}")
        lines = [f"[{', '.join(filter(str.strip, test.input.split(chr(10))))}]\n" for test in program.tests]
        if not self._whole:
            return all(same_value(self._output(file, line), test.output) for line, test in zip(lines, program.tests, strict=True))
        answers = self._output(file, "".join(lines), len(lines)).splitlines()
        return len(answers) == len(lines) and all(same_value(got, test.output) for got, test in zip(answers, program.tests, strict=True))

    def _output(self, file: Path, text: str, tests: int = 1) -> bytes:
        """What the program printed; nothing, which equals no expected output here, where it failed."""
        try:
            ran = subprocess.run([*self._command, str(file)], input=text.encode(), capture_output=True, timeout=SECONDS * tests)
        except subprocess.TimeoutExpired:
            return b"timeout"
        return ran.stdout if ran.returncode == 0 else b"failed"


class Official:
    name = "official"

    def __init__(self, process: subprocess.Popen[str]):
        self._process = process

    def takes(self, kind: str) -> bool:
        return True

    def run(self, programs: Sequence[Program]) -> list[bool]:
        assert self._process.stdin and self._process.stdout
        jobs = [[p.source, [test.input for test in p.tests], [test.output for test in p.tests], p.func_name] for p in programs]
        self._process.stdin.write(json.dumps(jobs) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("the official evaluator's process has ended")
        return [bool(passed) for passed in json.loads(answer)]


@contextlib.contextmanager
def official(checkout: Path, workers: int) -> Iterator[Official]:
    """Its process, imports done. Raises BadInput where the checkout holds no evaluator, or one that cannot be imported here."""
    if not (checkout / "lcb_runner" / "evaluation").is_dir():
        raise BadInput(f"{checkout} is no checkout of LiveCodeBench: it has no lcb_runner/evaluation")
    command = [sys.executable, str(Path(__file__).with_name("official.py")), str(checkout.resolve()), str(workers), str(SECONDS)]
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            if process.stdout and process.stdout.readline() != "ready\n":
                errors.seek(0)
                raise BadInput(f"{checkout}: its evaluator cannot be imported here: {errors.read().strip().splitlines()[-1:]}")
            yield Official(process)
        finally:
            process.kill()
            process.wait()
