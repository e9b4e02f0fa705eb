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
from typing import Final, Literal

from gwen25.sandbox.isolate import Limits
from gwen25.sandbox.judge import Job, Status, Verdict, grade_many

STALLED: Final = "stalled"
LIMITS: Final = Limits(cpu_seconds=6, wall_seconds=20)  # of one test; 6 s is LiveCodeBench's own limit, which counts wall time
PATIENT: Final = replace(LIMITS, wall_seconds=60)  # for the second try
MAX_LOAD: Final = 8  # runnable processes a CPU: below it a program that wants its 6 s of CPU has them within 60 s


@dataclass(frozen=True, slots=True)
class Settled:
    """A status; `doubt` says why where that is still "unknown", in words that fit after "question 7: "."""

    status: Status | Literal["stalled"]
    doubt: str | None = None


def grade_surely(jobs: Sequence[Job], *, workers: int) -> list[Settled]:
    """`grade_many` within LIMITS, and within PATIENT for what stayed unknown. Raises as `grade_many`."""
    settled = [Settled(verdict.status) for verdict in grade_many(jobs, LIMITS, workers=workers)] if jobs else []
    again = [at for at, found in enumerate(settled) if found.status == "unknown"]
    if again:
        patient = grade_many([jobs[at] for at in again], PATIENT, workers=min(workers, os.cpu_count() or 1))
        for at, verdict in zip(again, patient, strict=True):
            settled[at] = _settled(verdict)
    return settled


def _settled(verdict: Verdict) -> Settled:
    """What a verdict of the second try means."""
    if verdict.status != "unknown":
        return Settled(verdict.status)
    if verdict.wall_seconds < PATIENT.wall_seconds:
        return Settled("unknown", "a program was twice killed from outside, by want of memory perhaps")
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    if load > MAX_LOAD:
        return Settled("unknown", f"this machine is too busy to judge (load {load:.0f} a CPU)")
    return Settled(STALLED)
