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
import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from gwen25.data import TestCase
from gwen25.errors import BadInput
from gwen25.sandbox import compare, pool
from gwen25.sandbox.bootstrap import PRELUDE
from gwen25.sandbox.isolate import Limits
from gwen25.sandbox.layers import probe
from gwen25.sandbox.pool import Runner
from gwen25.sandbox.slots import Outcome

Status = Literal["passed", "wrong", "error", "timeout", "memory", "output_limit", "unknown"]
MANY_TESTS = 5  # of a program that reads stdin; with fewer it gains nothing, and most wrong ones fail at the first
_MEMORY_ERROR = re.compile(r"^(?:\w+\.)*\w*MemoryError\b[^\n]*\s*\Z", re.MULTILINE)  # the last line, numpy's own kind too


class Job(NamedTuple):
    """A program and how to judge it. A plain tuple of the first three does too.

    `tolerance`: of decimals, absolute or relative. `official`: judge by the published benchmark's comparison as well.
    `prelude`: put that benchmark's star imports before a program that reads stdin (functions always have them).
    """

    program: str
    tests: Sequence[TestCase]
    func_name: str | None = None
    tolerance: float = compare.TOLERANCE
    official: bool = False
    prelude: bool = False


AnyJob = Job | tuple[str, Sequence[TestCase], str | None]


@dataclass(frozen=True)
class Verdict:
    """What is known of a program after its tests, up to the first that failed (or all of them, see `grade`).

    wrong: another output than expected. error: an exception, or an exit status other than 0. timeout: more CPU time than one test may use.
    memory: ended by a MemoryError. output_limit: more output than allowed.
    unknown: no judgement, because wall time ran out before CPU time (a program that sleeps or waits for ever, or an overloaded machine), or
    something outside killed it. Not a failure of the program, and never a zero.

    `test`: index from 0 of the first test that failed, None where all passed. `passed_tests`: how many of those that were run passed.
    `cpu_seconds`, `wall_seconds`: the program's own without the interpreter's start, all tests together.
    `peak_memory_bytes`: highest resident memory, the interpreter's own included; None where no run came to an end.
    `stderr`: the last 2000 characters of the failed test's, or the last test's. `isolation`: names the layers that were in force.
    `hung`: an unknown whose wall time ran out. `official`: the status under the published benchmark's comparison, None where not asked for.
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
    hung: bool = False
    official: Status | None = None

    @property
    def passed(self) -> bool:
        return self.status == "passed"


def grade(
    program: str,
    tests: Sequence[TestCase],
    limits: Limits = Limits(),  # noqa: B008 (frozen)
    *,
    func_name: str | None = None,
    tolerance: float = compare.TOLERANCE,
    official: bool = False,
    prelude: bool = False,
    all_tests: bool = False,
) -> Verdict:
    """Run the program on each test, in order, each time from a fresh state, until one fails; with `all_tests` on every one.

    `func_name`: the function to call, a method of `class Solution` or a plain one; None for a program that reads stdin. The rest: `Job`.
    Where `official` is asked for too, until both comparisons have failed.
    Raises BadInput for tests that cannot be run (none, of the wrong kind, not JSON where a function is called), SandboxUnavailable where
    programs cannot be isolated here.
    """
    return _grade(Job(program, tests, func_name, tolerance, official, prelude), limits, all_tests)


def grade_many(
    jobs: Sequence[AnyJob],
    limits: Limits = Limits(),  # noqa: B008 (frozen)
    *,
    workers: int,
    all_tests: bool = False,
) -> list[Verdict]:
    """`grade` for each job, `workers` at a time, in order. The first exception is raised and the rest dropped."""
    if workers < 1:
        raise BadInput(f"workers must be at least 1, not {workers}")
    probe()
    with ThreadPoolExecutor(workers, thread_name_prefix="grade") as threads:
        stop = threading.Event()
        futures = [threads.submit(_grade, Job(*job), limits, all_tests, stop) for job in jobs]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()  # raises what it raised
            return [future.result() for future in futures]
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            pool.interrupt(stop)  # or leaving would wait for the slowest program
            raise


def _grade(job: Job, limits: Limits, all_tests: bool, stop: threading.Event | None = None) -> Verdict:
    _check(job.tests, job.func_name)
    isolation = probe()
    found = _Findings(job, str(isolation))
    source = _bytes(PRELUDE + job.program if job.prelude and job.func_name is None else job.program)
    inputs = [_bytes(test.input) for test in job.tests]
    with Runner(source, limits, isolation, job.func_name, stop) as run:
        together = dict(enumerate(run.many(inputs))) if job.func_name is not None and len(inputs) > 1 else {}
        for number, test in enumerate(job.tests):
            if number == 1 and job.func_name is None and _worth_many(found.verdict):
                together = dict(enumerate(run.many(inputs[1:]), 1))
            outcome = together.get(number)
            if outcome is None or not found.passes(test, outcome):  # a failure counts only from a process of its own
                outcome = run(inputs[number])
            found.add(number, test, outcome)
            if found.decided and not all_tests:
                break
    return found.verdict


def _worth_many(first: Verdict) -> bool:
    """Whether the tests after the first are to run in one process, where a program that reads stdin may: to find out costs some time."""
    return first.passed and first.total_tests >= MANY_TESTS and first.cpu_seconds < pool.STDIN_SECONDS / 10


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


class _Findings:
    """The verdict so far, test by test."""

    def __init__(self, job: Job, isolation: str):
        self._job = job
        self.verdict = Verdict(
            "passed", None, 0, len(job.tests), 0.0, 0.0, None, "", isolation, official="passed" if job.official else None
        )

    def add(self, number: int, test: TestCase, outcome: Outcome) -> None:
        """One more test's outcome."""
        ended, verdict = _ended(outcome), self.verdict
        status = ended or ("passed" if self._same(outcome.answer, test.output) else "wrong")
        first = verdict.passed and status != "passed"
        official = verdict.official
        if official == "passed":
            official = ended or ("passed" if self._same_officially(outcome.answer, test.output) else "wrong")
        self.verdict = replace(
            verdict,
            status=status if first else verdict.status,
            test=number if first else verdict.test,
            hung=verdict.hung or (outcome.ended == "wall" and (first or official != verdict.official)),
            official=official,
            passed_tests=verdict.passed_tests + (status == "passed"),
            cpu_seconds=verdict.cpu_seconds + outcome.cpu_seconds,
            wall_seconds=verdict.wall_seconds + outcome.wall_seconds,
            peak_memory_bytes=max(filter(None, (verdict.peak_memory_bytes, outcome.peak_memory_bytes)), default=None),
            stderr=outcome.stderr if first or verdict.passed else verdict.stderr,
        )

    def passes(self, test: TestCase, outcome: Outcome) -> bool:
        """Whether this outcome fails nothing that was asked for."""
        official = self.verdict.official != "passed" or self._same_officially(outcome.answer, test.output)
        return official and self._same(outcome.answer, test.output)

    @property
    def decided(self) -> bool:
        """Whether no further test can change a status."""
        return not self.verdict.passed and self.verdict.official != "passed"

    def _same(self, got: bytes, expected: str) -> bool:
        if self._job.func_name is None:
            return compare.same_text(got, _bytes(expected), self._job.tolerance)
        return compare.same_value(got, expected, self._job.tolerance)

    def _same_officially(self, got: bytes, expected: str) -> bool:
        if self._job.func_name is None:
            return compare.official_text(got, _bytes(expected))
        return compare.official_value(got, expected)


def _ended(outcome: Outcome) -> Status | None:
    """The status of a test by how the program ended; None where it ended well and its answer decides."""
    if outcome.ended == "killed":
        return "unknown"
    if outcome.ended in ("cpu", "wall"):
        return "timeout" if outcome.ended == "cpu" else "unknown"
    if outcome.ended == "output":
        return "output_limit"
    if outcome.exit_code == 0:
        return None
    if outcome.exit_code in (-signal.SIGKILL, -signal.SIGXCPU):  # neither can come from the program itself, see `confine`
        return "unknown" if outcome.exit_code == -signal.SIGKILL else "timeout"
    return "memory" if _MEMORY_ERROR.search(outcome.stderr) else "error"


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
