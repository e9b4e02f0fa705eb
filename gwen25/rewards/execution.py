"""Does the program pass its tests? 1.0 where it passes all of them, 0.0 where it does not, None where nobody knows.

    execution(samples, tools)

For rows with tests. A finished answer without a program scores 0.0 and starts nothing. Programs run in `gwen25.sandbox`
and nowhere else; a sandbox that cannot isolate raises SandboxUnavailable, which ends the stage: it is no verdict.
Partial credit is left out: half the tests of a wrong algorithm are often the trivial ones.
"""

from __future__ import annotations

from collections.abc import Sequence

from gwen25.rewards.sample import Sample, Tools


def execution(samples: Sequence[Sample], tools: Tools) -> list[float | None]:
    """Scores of `samples`, each of which has tests. Counts `verdicts/<status>`, `no_program` among them.

    Raises SandboxUnavailable.
    """
    from gwen25.sandbox import Limits, grade_many

    handed_in = [None if sample.program is None else (sample.program, sample.tests, sample.func_name) for sample in samples]
    jobs = list(dict.fromkeys(job for job in handed_in if job is not None))  # equal programs of a group run once and score alike
    verdicts = dict(zip(jobs, grade_many(jobs, Limits(), workers=tools.sandbox_workers), strict=True)) if jobs else {}
    statuses = ["no_program" if job is None else verdicts[job].status for job in handed_in]
    tools.counts.update(f"verdicts/{status}" for status in statuses)
    return [None if status == "unknown" else float(status == "passed") for status in statuses]
