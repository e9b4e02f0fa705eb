"""docs/livecodebench.md says what becomes of small programs here and in the official evaluator; so they are run.

The evaluator's side is checked where GWEN25_LCB_ROOT names a checkout of LiveCodeBench.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from gwen25.benchmarks import errata
from gwen25.benchmarks.judging import Programs, judged
from gwen25.data import Problem, TestCase
from tests.conftest import REPOSITORY

PAGE = (REPOSITORY / "docs" / "livecodebench.md").read_text(encoding="utf-8")


class Claim(NamedTuple):
    code: str
    func_name: str | None
    tests: tuple[TestCase, ...]
    there: str
    strict: str
    official: str


_TESTS = r'((?:input ".*?", expected ".*?"(?:; )?)+)'
_CLAIM = re.compile(rf"```python\n((?:.*\n)+?)```\n(?:call (\w+): )?{_TESTS}: there (\w+); here strict (\w+), official (\w+)")


def claims() -> list[Claim]:
    return [Claim(code, name or None, _tests(tests, bool(name)), *words) for code, name, tests, *words in _CLAIM.findall(PAGE)]


def _tests(text: str, functional: bool) -> tuple[TestCase, ...]:
    pairs = re.findall(r'input (".*?"), expected (".*?")(?:;|$)', text)
    return tuple(TestCase(json.loads(given), json.loads(expected), "functional" if functional else "stdin") for given, expected in pairs)


CLAIMS = claims()


def test_every_program_of_the_page_is_a_claim() -> None:
    assert len(CLAIMS) == PAGE.count("```python\n") >= 20
    assert all(claim.tests for claim in CLAIMS)


def test_what_the_page_says_of_our_side() -> None:
    pairs = [
        (Problem(str(at), "", claim.tests, func_name=claim.func_name), [Programs(claim.code, claim.code)])
        for at, claim in enumerate(CLAIMS)
    ]
    for claim, [found] in zip(CLAIMS, judged(pairs, workers=2), strict=True):
        assert (found.strict, found.official) == (claim.strict, claim.official), claim.code


EVALUATOR = """
import importlib.util, json, multiprocessing, sys
spec = importlib.util.spec_from_file_location("testing_util", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
sample = json.loads(sys.argv[2])
made = multiprocessing.Manager().list()
child = multiprocessing.Process(target=lambda: made.append(module.run_test(sample, test=sys.argv[3], timeout=6)[0]))
child.start()
child.join(30)
print("\\npassed" if made and all(one is True for one in made[0]) else "\\nfailed")
"""


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.code.splitlines()[-1])
def test_what_the_page_says_of_the_official_evaluator(claim: Claim) -> None:
    root = os.environ.get("GWEN25_LCB_ROOT")
    if not root:
        pytest.skip("no checkout of LiveCodeBench: set GWEN25_LCB_ROOT to one")
    module = Path(root) / "lcb_runner" / "evaluation" / "testing_util.py"
    given = {"inputs": [test.input for test in claim.tests], "outputs": [test.output for test in claim.tests], "fn_name": claim.func_name}
    sample = json.dumps({"input_output": json.dumps(given)})
    done = subprocess.run([sys.executable, "-c", EVALUATOR, str(module), sample, claim.code], capture_output=True, text=True, timeout=120)
    assert done.stdout.split()[-1:] == [claim.there], done.stderr


def test_the_counts_of_flawed_problems() -> None:
    assert (len(errata.SEVERAL_ANSWERS), len(errata.UNSOLVABLE)) == (11, 6)
    assert "lists eleven that accept several answers" in PAGE and "six that a\n  right program may fail" in PAGE
