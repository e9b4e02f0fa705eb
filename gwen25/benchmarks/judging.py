"""Which programs solve a problem, under two sets of rules. The runs are `gwen25.sandbox`'s.

    judged([(problem, [Programs(strict, official), ...]), ...], workers=2)     [[Judged, ...], ...]

`strict`: ours. The program that a careful reader takes from the answer, run as a file, its output held against the expected one as a
contest would, decimals within what the statement asks. `official`: the published benchmark's extraction and comparison, for scores that are
set beside published ones. Where both take the same program, one run serves both. The official evaluator puts star imports before
every program, and raises Python's limits on recursion and on digits, so under `official` one that reads stdin and dies for want of a name
or at such a limit is run once more with all that. docs/livecodebench.md says where `official` here and the official evaluator still
differ, and why. Not here: which text of an answer is the program (`prompts`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Literal, NamedTuple

from gwen25.data import Problem
from gwen25.errors import SandboxUnavailable
from gwen25.sandbox import STALLED, Job, Settled, Verdict, grade_surely
from gwen25.sandbox.compare import tolerance_of

VERSION: Final = "strict-1"  # of the rules below, in every report; raise it where one and the same program may get another verdict
Rules = Literal["strict", "official", "both"]
NO_CODE: Final = "no_code"  # the status that the sandbox does not know: a completion without a program
PROBLEMS_AT_ONCE: Final = 16  # whose tests are in memory together: some 100 MB of a large release
PROGRAMS_AT_ONCE: Final = 512
_LACKS: Final = re.compile(r"\b(?:NameError|RecursionError)\b|Exceeds the limit \(\d+ digits\)")
_SETTINGS: Final = "sys.setrecursionlimit(50_000); sys.set_int_max_str_digits(50_000)\n"  # of the evaluator, after its imports


class Programs(NamedTuple):
    """The program that a completion hands in, by our rules and by the benchmark's own; None where it hands in none."""

    strict: str | None
    official: str | None = None


class Judged(NamedTuple):
    """`strict`, `official`: `passed`, NO_CODE, or `sandbox.grade_surely`'s word; None where those rules were not asked for.

    `verdict`: of the run behind `strict`, or behind `official` where that alone was asked for; None without a program.
    `prelude`: `official` comes from a run with the star imports.
    """

    strict: str | None
    official: str | None
    verdict: Verdict | None
    prelude: bool = False


Key = tuple[int, str]  # (place of the problem, program)


def judged(pairs: Sequence[tuple[Problem, Sequence[Programs]]], *, workers: int, rules: Rules = "both") -> list[list[Judged]]:
    """The verdict on each completion of each problem. Equal programs for one problem are run once.

    Raises SandboxUnavailable where a program cannot be run here, or where a verdict stays unknown even for `grade_surely`.
    """
    wanted: dict[Key, bool] = {}  # whether the official status is asked for
    for at, (_, handed_in) in enumerate(pairs):
        for programs in handed_in:
            strict, official = _of(programs, rules)
            if strict is not None:
                wanted.setdefault((at, strict), False)
            if official is not None:
                wanted[at, official] = True
    problems = [problem for problem, _ in pairs]
    ran = _run(problems, wanted, workers)
    lacking = {key: True for key, official in wanted.items() if official and problems[key[0]].func_name is None and _lacks(ran[key])}
    found = _Found(ran, _run(problems, lacking, workers, prelude=True))
    return [[found.judged(at, programs, rules) for programs in handed_in] for at, (_, handed_in) in enumerate(pairs)]


def _of(programs: Programs, rules: Rules) -> Programs:
    """Only what the rules ask for, and one text where both are the same program."""
    strict = programs.strict if rules != "official" else None
    official = programs.official if rules != "strict" else None
    return Programs(strict, strict if strict and official and _same(strict, official) else official)


def _same(a: str, b: str) -> bool:
    """Whether two texts are the same program: blank lines around it do nothing."""
    return a.strip("\n").rstrip() == b.strip("\n").rstrip()


def _run(problems: Sequence[Problem], wanted: dict[Key, bool], workers: int, *, prelude: bool = False) -> dict[Key, Settled]:
    jobs = []
    for (at, code), official in wanted.items():
        problem = problems[at]
        program = _SETTINGS + code if prelude else code
        jobs.append(Job(program, problem.tests, problem.func_name, tolerance_of(problem.statement), official, prelude))
    settled = dict(zip(wanted, grade_surely(jobs, workers=workers), strict=True))
    for (at, _), found in settled.items():
        if found.status == "unknown":
            raise SandboxUnavailable(f"question {problems[at].id}: {found.doubt}; start it again to go on")
    return settled


def _lacks(found: Settled) -> bool:
    """Whether the star imports could make a difference; where the strict failure came first, stderr is not of the official one."""
    return found.official == "error" and (found.status != "error" or _LACKS.search(found.verdict.stderr) is not None)


class _Found(NamedTuple):
    ran: dict[Key, Settled]
    with_prelude: dict[Key, Settled]

    def judged(self, at: int, programs: Programs, rules: Rules) -> Judged:
        strict, official = _of(programs, rules)
        shown = official if rules == "official" else strict
        return Judged(
            None if rules == "official" else NO_CODE if strict is None else self.ran[at, strict].status,
            None if rules == "strict" else NO_CODE if official is None else self._official((at, official)),
            None if shown is None else self.ran[at, shown].verdict,
            prelude=(at, official) in self.with_prelude,
        )

    def _official(self, key: Key) -> str:
        found = self.with_prelude.get(key, self.ran[key]).official
        assert found is not None, "it was asked for"
        return STALLED if found == "unknown" else found  # it failed strictly, and waited twice for nothing after that


def in_chunks(pairs: Iterable[tuple[Problem, Sequence[Programs]]]) -> Iterator[list[tuple[Problem, Sequence[Programs]]]]:
    """The pairs, as many at a time as memory and workers like: PROBLEMS_AT_ONCE problems, or PROGRAMS_AT_ONCE programs of them."""
    chunk: list[tuple[Problem, Sequence[Programs]]] = []
    for pair in pairs:
        chunk.append(pair)
        if len(chunk) == PROBLEMS_AT_ONCE or sum(len(programs) for _, programs in chunk) >= PROGRAMS_AT_ONCE:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
