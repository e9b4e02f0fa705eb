"""Does the program pass its tests? 1.0 where it passes all of them, 0.0 where it does not, None where nobody knows.

    execution(samples, tools)

For rows with tests. An answer that hands in no program scores 0.0 and starts nothing: one that ended without a block after
`</think>`, or never closed its reasoning. (An answer cut off by the limit is not asked about while
`mask_truncated_completions` is on; with it off, it hands in nothing and scores 0.0 too.) A program that sleeps through its
time on a machine that had some to give has failed: `sandbox.grade_surely`. Programs run in `gwen25.sandbox` and nowhere else.

Two ways to be without a sandbox. A machine that cannot isolate programs raises SandboxUnavailable and ends the stage: no later
batch could be judged either. A sandbox that dies under a batch costs the scores that it took with it: those are None, counted as
`execution/unavailable`, and the next batch finds a new one. The panel ends a run in which that goes on.

`grpo.execution_reward=fraction` pays the share of the tests that pass. It is no milder form of the same: half the tests of a wrong
algorithm are often the trivial ones, and in a trial it taught answers that print a constant. A run that asks for it is warned.

What this does not stop: a program that knows the tests. Tests that were mined from a statement are the very examples that the
model reads in its prompt, and a table from their inputs to their outputs passes all of them and earns 1.0, as much as an
algorithm does. Hidden tests are the only cure. `passed/literal` counts passing programs that hold a whole expected output as a
literal: honest programs that print "Impossible" are among them, and a table spread over several literals is not, so watch
how it moves, not what it is. What cheats earn here is tried by `canaries`.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from gwen25.data import TestCase
from gwen25.errors import SandboxUnavailable
from gwen25.rewards.sample import Sample, Tools

if TYPE_CHECKING:
    from gwen25.sandbox import Job, Settled

_SHORT: Final = 3  # characters: an output of 0, 10 or Yes stands in programs of every kind
_GONE: Final = 3  # programs in a row that the sandbox dies under, each with its retries: it will not come back for this batch


def execution(samples: Sequence[Sample], tools: Tools) -> list[float | None]:
    """Scores of `samples`, each of which has tests.

    Counts `verdicts/<status>`, `no_program` among them, `execution/unavailable`, and of those that passed `passed/literal` and
    `passed/unparsed` (see `holds_output`). Raises SandboxUnavailable where this machine cannot isolate programs.
    """
    from gwen25 import sandbox

    sandbox.probe()
    handed_in = [_job(sample) for sample in samples]
    jobs = list(dict.fromkeys(job for job in handed_in if job is not None))  # equal programs of a group run once and score alike
    settled = dict(zip(jobs, _settled(jobs, tools), strict=True))
    return [_score(job, None if job is None else settled[job], tools) for job in handed_in]


def _job(sample: Sample) -> Job | None:
    """What the answer hands in, to be compared as its statement asks; None where it hands in nothing."""
    from gwen25.sandbox import Job
    from gwen25.sandbox.compare import tolerance_of

    if sample.program is None:
        return None
    return Job(sample.program, sample.tests, sample.func_name, tolerance_of(sample.statement or ""))


def _settled(jobs: Sequence[Job], tools: Tools) -> list[Settled | None]:
    """What each program came to; None where the sandbox died under it."""
    from gwen25.sandbox import grade_surely

    def settle(some: Sequence[Job]) -> list[Settled | None]:
        return list(grade_surely(some, workers=tools.sandbox_workers, all_tests=tools.execution_reward == "fraction"))

    try:
        return settle(jobs)
    except SandboxUnavailable as error:
        tools.sandbox_failure = str(error)
    # whose fault it was is not known, and the others are not to be lost with it: each by itself, until the sandbox is seen to be gone
    settled: list[Settled | None] = []
    for job in jobs:
        if settled[-_GONE:] == [None] * _GONE:
            return settled + [None] * (len(jobs) - len(settled))
        try:
            settled += settle([job])
        except SandboxUnavailable as error:
            tools.sandbox_failure = str(error)
            settled.append(None)
    return settled


def _score(job: Job | None, settled: Settled | None, tools: Tools) -> float | None:
    """One answer's score, counted."""
    if job is None:
        tools.counts["verdicts/no_program"] += 1
        return 0.0
    if settled is None:
        tools.counts["execution/unavailable"] += 1
        return None
    tools.counts[f"verdicts/{settled.status}"] += 1
    if settled.status == "passed":
        held = holds_output(job.program, job.tests)
        tools.counts.update({"passed/literal": int(bool(held)), "passed/unparsed": int(held is None)})
    if settled.status == "unknown":
        tools.sandbox_failure = settled.doubt
        return None
    if tools.execution_reward == "fraction":
        return settled.verdict.passed_tests / settled.verdict.total_tests
    return float(settled.status == "passed")


def holds_output(program: str, tests: Sequence[TestCase]) -> bool | None:
    """Whether the whole expected output of a test, if longer than 3 characters, is a literal of the program; None: it was not parsed.

    For programs that the sandbox has run: what crashes a compiler was met there.
    """
    wanted = {text for text in map(_expected, tests) if len(text) > _SHORT}
    if not wanted:
        return False
    try:
        as_json = tests[0].kind == "functional"
        return any(text in wanted for node in ast.walk(ast.parse(program)) for text in _written(node, as_json))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _expected(test: TestCase) -> str:
    return json.dumps(json.loads(test.output)) if test.kind == "functional" else test.output.strip()


def _written(node: ast.AST, as_json: bool) -> Iterator[str]:
    """What a literal would print; with `as_json` what it would return, as JSON."""
    if not isinstance(node, ast.Constant | ast.UnaryOp | ast.List | ast.Tuple | ast.Dict):
        return
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError):  # names or calls in it: no literal; a key that cannot be one
        return
    if as_json:
        try:
            yield json.dumps(value)
        except TypeError:  # bytes, complex numbers
            return
    elif isinstance(value, str | int | float):
        yield str(value).strip()
    elif isinstance(value, bytes):
        yield value.decode("latin-1").strip()
