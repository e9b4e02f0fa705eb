"""Solutions that are known to be right are passed: nothing in the isolation or the comparison stands in an honest program's way."""

from __future__ import annotations

from pathlib import Path

import pytest

from gwen25.data import TestCase, read_jsonl
from gwen25.sandbox import Job, Limits, grade_many, probe
from gwen25.sandbox.pool import Runner

FILES = ["train_codeforces_r1_answers.jsonl.gz", "train_ocr_schema.jsonl.gz"]


def jobs(folder: Path, name: str) -> dict[str, Job]:
    path = folder / "problems" / name
    if not path.is_file():
        pytest.skip(f"no {path}")
    found = {}
    for _, row in read_jsonl(path):
        tests = [TestCase(test["input"], test["output"], test["testtype"]) for test in row["tests"]]
        found[row["id"]] = Job(row["solution"], tests, row.get("func_name") or None)
    return found


def failures(known: dict[str, Job]) -> dict[str, object]:
    verdicts = grade_many(list(known.values()), workers=2)
    return {name: verdict for name, verdict in zip(known, verdicts, strict=True) if not verdict.passed}


@pytest.mark.parametrize("name", FILES)
def test_a_sample(shared_data: Path, name: str) -> None:
    known = jobs(shared_data, name)
    assert failures(dict(list(known.items())[:: len(known) // 30])) == {}


@pytest.mark.slow  # some 800 programs: seconds on an idle machine, a minute on a busy one
@pytest.mark.parametrize("name", FILES)
def test_all_of_them(shared_data: Path, name: str) -> None:
    assert failures(jobs(shared_data, name)) == {}


def test_many_tests_in_one_process_say_what_each_says_in_its_own(shared_data: Path) -> None:
    """Of all that read stdin. 156 of 166 may run so, and two of these are too slow to be run so to their end."""
    known = {name: job for name, job in jobs(shared_data, "train_ocr_schema.jsonl.gz").items() if job.func_name is None}
    compared: dict[str, int] = {}
    for name, job in known.items():
        inputs = [test.input.encode() for test in job.tests]
        with Runner(job.program.encode(), Limits(), probe(), None) as run:
            many = run.many(inputs)
            for data, outcome in zip(inputs, many, strict=False):
                alone = run(data)
                assert (outcome.answer, outcome.stderr, outcome.exit_code) == (alone.answer, alone.stderr, alone.exit_code), name
        compared[name] = len(many)
    assert sum(map(bool, compared.values())) > 0.9 * len(known)


@pytest.mark.parametrize("name", FILES)
def test_another_problems_solution_is_not_passed(shared_data: Path, name: str) -> None:
    """Each program against another problem's tests of the same kind."""
    known = list(jobs(shared_data, name).values())[:47]
    others = list(zip(known, known[7:], strict=False))  # next to it may be the same problem with smaller numbers
    swapped = [b._replace(program=a.program) for a, b in others if not a.func_name and not b.func_name]
    swapped += [b._replace(program=a.program.replace(a.func_name, b.func_name)) for a, b in others if a.func_name and b.func_name]
    assert swapped and not any(verdict.passed for verdict in grade_many(swapped, workers=2))
