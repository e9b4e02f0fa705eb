"""Verdicts that are sure: an unknown one is asked for again, and a program that only waits has failed. For reward and benchmark alike.

    grade_surely([(program, tests, func_name), ...], workers=2) -> [Settled, ...]
    settled.status        the sandbox's word, or STALLED; "unknown" only where nobody can know, and `settled.doubt` says why

`unknown` is what the sandbox says where wall time ran out before CPU time, or something outside killed the program. That is no
wrong answer, but left at that a program that sleeps would escape its verdict. So it is tried once more, with more patience and
no more programs at once than CPUs. One that again waits to the end, on a machine that had CPU time to give, is STALLED: a failure.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from gwen25.sandbox.isolate import Limits
from gwen25.sandbox.judge import AnyJob, Status, Verdict, grade_many

STALLED: Final = "stalled"
LIMITS: Final = Limits(cpu_seconds=6, wall_seconds=20)  # of one test; 6 s is LiveCodeBench's own limit, which counts wall time
PATIENT: Final = replace(LIMITS, wall_seconds=60)  # for the second try
LEAST_IDLE: Final = 0.05  # share of all processors' time
MAX_LOAD: Final = 8  # runnable processes a CPU: below it a program that wants its 6 s of CPU has them within 60 s


@dataclass(frozen=True, slots=True)
class Settled:
    """A status, and the `verdict` behind it. `doubt` says why where that is still "unknown", in words that fit after "question 7: "."""

    status: Status | Literal["stalled"]
    verdict: Verdict
    doubt: str | None = None

    @property
    def official(self) -> Status | Literal["stalled"] | None:
        """The same under the published benchmark's comparison, None where it was not asked for."""
        return STALLED if self.verdict.official == "unknown" and self.doubt is None else self.verdict.official


def grade_surely(jobs: Sequence[AnyJob], *, workers: int, all_tests: bool = False) -> list[Settled]:
    """`grade_many` within LIMITS, and within PATIENT for what stayed unknown. Raises as `grade_many`."""
    settled = [Settled(found.status, found) for found in grade_many(jobs, LIMITS, workers=workers, all_tests=all_tests)] if jobs else []
    again = [at for at, found in enumerate(settled) if "unknown" in (found.status, found.verdict.official)]
    if again:
        idle = _idle_ticks()
        patient = grade_many([jobs[at] for at in again], PATIENT, workers=min(workers, os.cpu_count() or 1), all_tests=all_tests)
        for at, verdict in zip(again, patient, strict=True):
            settled[at] = _settled(verdict, idle)
    return settled


def _settled(verdict: Verdict, idle: tuple[int, int] | None) -> Settled:
    """What a verdict of the second try means. `idle`: of the machine, before that try."""
    if "unknown" in (verdict.status, verdict.official) and (doubt := _doubt(verdict, idle)):
        return Settled(verdict.status, verdict, doubt)
    return Settled(STALLED if verdict.status == "unknown" else verdict.status, verdict)


def _doubt(verdict: Verdict, idle: tuple[int, int] | None) -> str | None:
    """Why nobody can know what the program would have done; None where it had its time and waited.

    A busy machine has many runnable processes and next to no idle time. A program can make itself many threads, but with its few
    seconds of CPU time it cannot take away the idle time of a minute.
    """
    if not verdict.hung:
        return "a program was twice killed from outside, by want of memory perhaps"
    load, now = os.getloadavg()[0] / (os.cpu_count() or 1), _idle_ticks()
    if idle and now and now[0] - idle[0] > LEAST_IDLE * (now[1] - idle[1]):
        return None
    return f"this machine is too busy to judge (load {load:.0f} a CPU)" if load > MAX_LOAD else None


def _idle_ticks() -> tuple[int, int] | None:
    """(idle, all), of all processors since the machine's start; None where the kernel does not tell."""
    try:
        ticks = [int(word) for word in Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]]
        return ticks[3] + ticks[4], sum(ticks)
    except (OSError, ValueError, IndexError):
        return None
