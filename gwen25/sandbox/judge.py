"""From a program and its tests to a verdict. The only judge of programs, for the reward, the data set and the benchmark.

    grade(program, tests, limits, func_name=None) -> Verdict
    grade_many([(program, tests, func_name), ...], limits, workers=2) -> [Verdict, ...]

Expected outputs stay in this process; the program sees one input at a time and what it says is compared here.
Not here: partial credit, checkers that accept several answers.
"""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal

from gwen25.data import TestCase
from gwen25.errors import BadInput
from gwen25.sandbox.compare import same_text, same_value
from gwen25.sandbox.isolate import Child, Isolation, Limits
from gwen25.sandbox.layers import probe

Status = Literal["passed", "wrong", "error", "timeout", "memory", "output_limit", "unknown"]
_MEMORY_ERROR = re.compile(r"^(?:\w+\.)*\w*MemoryError\b[^\n]*\s*\Z", re.MULTILINE)  # the last line, numpy's own kind too
Job = tuple[str, Sequence[TestCase], str | None]  # program, tests, func_name


@dataclass(frozen=True)
class Verdict:
    """What is known of a program after its tests, up to the first that failed.

    wrong: another output than expected. error: an exception, or an exit status other than 0. timeout: more CPU time than one test may use.
    memory: ended by a MemoryError. output_limit: more output than allowed.
    unknown: no judgement, because wall time ran out before CPU time (a program that sleeps or waits for ever, or an overloaded machine), or
    something outside killed it. Not a failure of the program, and never a zero.

    `test`: index from 0 of the test that failed, None where all passed.
    `cpu_seconds`, `wall_seconds`: the program's own without the interpreter's start, all tests together.
    `peak_memory_bytes`: highest resident memory; None where it cannot be told apart from the grader's own.
    `stderr`: its last 2000 characters. `isolation`: names the layers that were in force.
    """

    status: Status
    test: int | None
    passed_tests: int
    total_tests: int
    cpu_seconds: float
    wall_seconds: float
    peak_memory_bytes: int | None
    stderr: str
    isolation: str

    @property
    def passed(self) -> bool:
        return self.status == "passed"


def grade(program: str, tests: Sequence[TestCase], limits: Limits = Limits(), *, func_name: str | None = None) -> Verdict:  # noqa: B008 (frozen)
    """Run the program on each test, in order, until one fails. A stdin program is started anew for each test, a function called again.

    `func_name`: the function to call, a method of `class Solution` or a plain one; None for a program that reads stdin.
    Raises BadInput for tests that cannot be run (none, of the wrong kind, not JSON where a function is called), SandboxUnavailable where
    programs cannot be isolated here.
    """
    _check(tests, func_name)
    isolation = probe()
    source = _bytes(program)
    if func_name is None:
        return _grade_stdin(source, tests, limits, isolation)
    return _grade_function(source, tests, limits, isolation, func_name)


def grade_many(jobs: Sequence[Job], limits: Limits = Limits(), *, workers: int) -> list[Verdict]:  # noqa: B008 (frozen)
    """`grade` for each (program, tests, func_name), `workers` at a time, in order. The first exception is raised and the rest dropped."""
    if workers < 1:
        raise BadInput(f"workers must be at least 1, not {workers}")
    probe()
    with ThreadPoolExecutor(workers, thread_name_prefix="grade") as pool:
        futures = [pool.submit(grade, program, tests, limits, func_name=func_name) for program, tests, func_name in jobs]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _check(tests: Sequence[TestCase], func_name: str | None) -> None:
    if not tests:
        raise BadInput("a program cannot be judged without tests: none were given")
    kind = "stdin" if func_name is None else "functional"
    for number, test in enumerate(tests):
        if test.kind != kind:
            raise BadInput(
                f"test {number} is {test.kind}, but func_name={func_name!r} asks for {kind} tests: a func_name goes with functional ones"
            )
        if func_name is not None:
            _check_json(test, number)


def _check_json(test: TestCase, number: int) -> None:
    try:
        for text in [*filter(str.strip, test.input.split("\n")), test.output]:
            json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInput(
            f"test {number} of a function is not JSON ({error}): one value a line and parameter is expected, and one value as output"
        ) from error


def _grade_stdin(program: bytes, tests: Sequence[TestCase], limits: Limits, isolation: Isolation) -> Verdict:
    verdict = _nothing_yet(tests, isolation)
    for number, test in enumerate(tests):
        with Child(program, limits, isolation) as child:
            status = _run(child, test) or ("passed" if same_text(child.answer(), _bytes(test.output)) else "wrong")
            verdict = _with(verdict, child, number, status)
        if status != "passed":
            break
    return verdict


def _grade_function(program: bytes, tests: Sequence[TestCase], limits: Limits, isolation: Isolation, func_name: str) -> Verdict:
    with Child(program, limits, isolation, func_name=func_name, tests=len(tests)) as child:
        for number, test in enumerate(tests):  # noqa: B007 (the last number tells how far it came)
            status = _run(child, test) or ("passed" if child.running and same_value(child.answer(), test.output) else "wrong")
            if status != "passed":
                break
        return _with(_nothing_yet(tests, isolation), child, number, status)


def _run(child: Child, test: TestCase) -> Status | None:
    """One test up to its output; a status where that did not come about."""
    child.put(_bytes(test.input))
    child.go()
    ended = child.wait()
    if ended in ("cpu", "wall"):
        return "timeout" if ended == "cpu" else "unknown"
    if ended == "output" or child.overflowed:
        return "output_limit"
    if ended == "answer" or child.exit_code == 0:
        return None
    if child.exit_code in (-signal.SIGKILL, -signal.SIGXCPU):  # neither can come from the program itself, see `confine`
        return "unknown" if child.exit_code == -signal.SIGKILL else "timeout"
    return "memory" if _MEMORY_ERROR.search(child.stderr()) else "error"


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _nothing_yet(tests: Sequence[TestCase], isolation: Isolation) -> Verdict:
    return Verdict("passed", None, 0, len(tests), 0.0, 0.0, None, "", str(isolation))


def _with(verdict: Verdict, child: Child, number: int, status: Status) -> Verdict:
    """The verdict after test `number`, the child's use added."""
    child.kill()
    return replace(
        verdict,
        status=status,
        test=None if status == "passed" else number,
        passed_tests=number + (status == "passed"),
        cpu_seconds=verdict.cpu_seconds + child.cpu_seconds,
        wall_seconds=verdict.wall_seconds + child.wall_seconds,
        peak_memory_bytes=max(filter(None, (verdict.peak_memory_bytes, child.peak_memory_bytes)), default=None),
        stderr=child.stderr(),
    )
