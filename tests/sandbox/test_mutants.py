"""A program that is slightly wrong is caught: 500 mutants of right ones, each known to say something else when it is run plainly."""

from __future__ import annotations

import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gwen25.sandbox import Job, Limits, grade_many
from tests.sandbox.mutants import Asked, Change, changes, mutated, outputs
from tests.sandbox.plain import readable_interpreter
from tests.sandbox.test_real_solutions import jobs

WANTED = 500
NOBODY = 65534
SOLUTION = "for n in range(int(input())):\n    if not n < 3:\n        continue\n    print(max(n, 1) + 1)\n"


def test_a_mutant_differs_in_one_place() -> None:
    made = {mutated(SOLUTION, change) for change in changes(SOLUTION)}
    assert len(made) > 12 and SOLUTION.strip() not in made
    assert mutated(SOLUTION, Change(0, "nothing")).splitlines() == SOLUTION.splitlines()


def test_the_oracle_tells_them_apart() -> None:
    user, interpreter = _oracle()
    right = outputs([Asked(SOLUTION, ["3", "9"], None)], interpreter, user)[0]
    assert right == ["2\n2\n3", "2\n2\n3"]
    found = outputs([Asked(mutated(SOLUTION, change), ["3", "9"], None, right) for change in changes(SOLUTION)], interpreter, user)
    assert sum(said != right for said in found) > 8
    assert outputs([Asked("def f(x): print(x); return (x, {1})", ["[1]"], "f")], interpreter, user) == [["[[1], {1}]"]]
    assert outputs([Asked("while True: pass", ["1"], None)], interpreter, user) == [[None]]


@pytest.mark.long  # 500 programs to find, some 1,100 plain runs, and to judge: a minute or two
def test_mutants_are_caught(shared_data: Path) -> None:
    mutants = _mutants(jobs(shared_data, "train_ocr_schema.jsonl.gz"))
    assert len(mutants) == WANTED
    verdicts = grade_many(list(mutants.values()), Limits(cpu_seconds=2), workers=2)
    missed = [name for name, verdict in zip(mutants, verdicts, strict=True) if verdict.passed]
    assert len(missed) <= WANTED // 100, "\n\n".join(f"# {name}\n{mutants[name].program}" for name in missed)
    assert not [name for name, verdict in zip(mutants, verdicts, strict=True) if verdict.status == "unknown"]


def _mutants(right: dict[str, Job]) -> dict[str, Job]:
    """The first WANTED that are found to differ, at most one a program in each round."""
    dice, found = random.Random(4), dict[str, Job]()
    known = dict(zip(right, _say([Asked(job.program, _inputs(job), job.func_name) for job in right.values()]), strict=True))
    usable = {name: changes(job.program) for name, job in right.items() if None not in known[name]}  # numpy may be missing, say
    assert len(usable) > 0.95 * len(right)
    while len(found) < WANTED:
        tried = {name: dice.choice(places) for name, places in usable.items()}
        sources = {name: mutated(right[name].program, change) for name, change in tried.items()}
        said = _say([Asked(sources[name], _inputs(right[name]), right[name].func_name, known[name]) for name in sources])
        for (name, source), texts in zip(sources.items(), said, strict=True):
            if texts[-1] not in (None, known[name][len(texts) - 1]):
                found.setdefault(f"{name} {tried[name].at} {tried[name].kind}", right[name]._replace(program=source))
    return dict(list(found.items())[:WANTED])


def _inputs(job: Job) -> list[str]:
    """Of the first six tests: enough to tell most mutants apart, and a third of all."""
    return [test.input for test in job.tests[:6]]


def _say(asked: list[Asked]) -> list[list[str | None]]:
    """By two oracles at once."""
    user, interpreter = _oracle()
    with ThreadPoolExecutor(2) as pool:
        halves = list(pool.map(lambda part: outputs(part, interpreter, user), (asked[::2], asked[1::2])))
    return [halves[number % 2][number // 2] for number in range(len(asked))]


def _oracle() -> tuple[int | None, str]:
    """Its user and interpreter: not the tester where that is root, since wrong programs are run unprotected."""
    user = NOBODY if os.geteuid() == 0 else None
    return user, readable_interpreter(NOBODY if user else os.geteuid())
