"""Does the program pass its tests? 1.0 where it passes all of them, 0.0 where it does not, None where nobody knows.

    execution(samples, tools)

For rows with tests. An answer that hands in no program scores 0.0 and starts nothing: one that ended without a block after
`</think>`, or never closed its reasoning. (An answer cut off by the limit is not asked about while
`mask_truncated_completions` is on; with it off, it hands in nothing and scores 0.0 too.) A program that sleeps through its
time on a machine that had some to give has failed: `sandbox.grade_surely`. Programs run in `gwen25.sandbox` and nowhere else;
a sandbox that cannot isolate raises SandboxUnavailable, which ends the stage: it is no verdict.
Partial credit is left out: half the tests of a wrong algorithm are often the trivial ones.

What this does not stop: a program that knows the tests. Tests that were mined from a statement are the very examples that the
model reads in its prompt, and a table from their inputs to their outputs passes all of them and earns 1.0, as much as an
algorithm does. Hidden tests are the only cure. `passed/literal` counts passing programs that hold a whole expected output as a
literal: honest programs that print "Impossible" are among them, and a table spread over several literals is not, so watch
how it moves, not what it is.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Sequence
from typing import Final

from gwen25.data import TestCase
from gwen25.rewards.sample import Sample, Tools

_SHORT: Final = 3  # characters: an output of 0, 10 or Yes stands in programs of every kind


def execution(samples: Sequence[Sample], tools: Tools) -> list[float | None]:
    """Scores of `samples`, each of which has tests.

    Counts `verdicts/<status>`, `no_program` among them, and of those that passed `passed/literal` and `passed/unparsed`
    (see `holds_output`). Raises SandboxUnavailable.
    """
    from gwen25.sandbox import grade_surely

    handed_in = [None if sample.program is None else (sample.program, sample.tests, sample.func_name) for sample in samples]
    jobs = list(dict.fromkeys(job for job in handed_in if job is not None))  # equal programs of a group run once and score alike
    settled = dict(zip(jobs, grade_surely(jobs, workers=tools.sandbox_workers), strict=True))
    statuses = ["no_program" if job is None else settled[job].status for job in handed_in]
    tools.counts.update(f"verdicts/{status}" for status in statuses)
    for job, status in zip(handed_in, statuses, strict=True):
        if job is not None and status == "passed":
            held = holds_output(job[0], job[1])
            tools.counts.update({"passed/literal": int(bool(held)), "passed/unparsed": int(held is None)})
    return [None if status == "unknown" else float(status == "passed") for status in statuses]


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
