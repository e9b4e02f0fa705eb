"""Tests mined from statements: every layout, nothing doubtful, and the real statements' own tests."""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path
from typing import Any

import pytest

from gwen25.data import TestCase
from gwen25.mining import accepts_several_outputs, mine_examples

CODEFORCES = """Add two numbers.

Input

The first line holds a and b.

Output

Print the sum.

Examples

Input

1 2


Output

3


Input

4
5

Output

9


Note

In the first example 1 + 2 = 3.

Input

This is no test.

Output

Nor is this.
"""


def pairs(statement: str) -> list[tuple[str, str]]:
    assert all(test.kind == "stdin" for test in mine_examples(statement))
    return [(test.input, test.output) for test in mine_examples(statement)]


def test_codeforces_examples_end_at_the_note() -> None:
    assert pairs(CODEFORCES) == [("1 2\n", "3\n"), ("4\n5\n", "9\n")]


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("Example\nInput:\n3\n((()))\n\nOutput:\nNO\n\n \n\nExplanation\nSelf-explanatory.", [("3\n((()))\n", "NO\n")]),
        ("-----Input-----\nn\n\n-----Output-----\nn\n\n-----Examples-----\nInput\n7\n\nOutput\n8\n\n-----Note-----\nx", [("7\n", "8\n")]),
        ("Story.\n\nSAMPLE INPUT\n5 6\n\nSAMPLE OUTPUT\n11\n\nExplanation\n\n5 and 6.", [("5 6\n", "11\n")]),
        ("Sample Input:\n6 2\n\nSample Output:\n8\n4\n12\n\nEXPLANATION:\nSee above.", [("6 2\n", "8\n4\n12\n")]),
        ("# Sample Input 1\n1\n\n# Sample Output 1\n2\n\n# Sample Input 2\n3\n\n# Sample Output 2\n4", [("1\n", "2\n"), ("3\n", "4\n")]),
        ("Examples\r\n\r\nInput\r\n\r\n1\r\n2\r\n\r\nOutput\r\n\r\n3\r\n", [("1\n2\n", "3\n")]),
        ("Example 1\n\nInput\n\n1\n\nOutput\n\n2\n\nExample 2\n\nInput\n\n3\n\nOutput\n\n4", [("1\n", "2\n"), ("3\n", "4\n")]),
    ],
    ids=["codechef", "dashes", "hackerearth", "colon", "hashes", "crlf", "numbered"],
)  # fmt: skip
def test_layouts(statement: str, expected: list[tuple[str, str]]) -> None:
    assert pairs(statement) == expected


def test_atcoder_remarks_are_not_output() -> None:
    statement = (
        "Sample Input 1\n\n3 1\n\nSample Output 1\n\n4\n5\n\nThe sum is 3 + 1 = 4.\n\n0 0\n0 1\n\n"
        "Sample Input 2\n\n0\n\nSample Output 2\n\n0\n\nA=(0).\n\nSample Input 3\n\n2\n\nSample Output 3\n\n1"
    )
    assert pairs(statement) == [("3 1\n", "4\n5\n"), ("0\n", "0\n"), ("2\n", "1\n")]


@pytest.mark.parametrize(
    "block",
    ["There may be nothing to print at all.", "1 2\n\n3 4", ""],
    ids=["a remark instead of output", "perhaps more output", "empty"],
)
def test_a_doubtful_example_is_left_out_alone(block: str) -> None:
    statement = f"Sample Input 1\n\n1\n\nSample Output 1\n\n{block}\n\nSample Input 2\n\n8\n\nSample Output 2\n\n9"
    assert pairs(statement) == [("8\n", "9\n")]


@pytest.mark.parametrize(
    "statement",
    [
        "",
        "no headings at all",
        "Input\n\nOne n.\n\nOutput\n\nThe sum.",
        "Examples\n\nInput\n\n1 2",
        "Examples\n\nOutput\n\n3",
        "Example 1:\n\nInput: nums = [3,2,2], k = 2\nOutput: 3\nExplanation: see.\n\nExample 2:\n\nInput: nums = [2], k = 1\nOutput: 5",
        "This is an interactive problem.\n\n" + CODEFORCES,
        CODEFORCES + "\nInteraction\n\nPrint a line and flush the output.",
        "Print each guess, then call sys.stdout.flush().\n\n" + CODEFORCES,
    ],
)
def test_nothing_is_mined(statement: str) -> None:
    assert mine_examples(statement) == ()


def test_an_example_in_the_story_is_not_a_test() -> None:
    story = "Example\n\nTake n = 3.\n\nInput\n\nOne line holds n.\n\nOutput\n\nPrint it.\n\nExamples\n\nInput\n\n5\n\nOutput\n\n5"
    assert pairs(story) == [("5\n", "5\n")]


def test_repetitions_are_one_test_and_indentation_stays() -> None:
    statement = "Examples\n\nInput\n\n  .#\n #.  \n\nOutput\n\n  1\n\nInput\n\n  .#\n #.\n\nOutput\n\n  1"
    assert mine_examples(statement) == (TestCase("  .#\n #.\n", "  1\n"),)


@pytest.mark.parametrize(
    "sentence",
    [
        "If there are multiple answers, print any of them.",
        "If there are several solutions, you can output any.",
        "If there is more than one such array, print any.",
        "You may print them in any order.",
        "Print the edges in arbitrary order.",
        "Any of them will be accepted.",
        "Your answer is correct if its absolute or relative error does not exceed 10^-6.",
        "Print the probability with a precision of at least 10^{-9}.",
    ],
)
def test_statements_that_accept_several_outputs(sentence: str) -> None:
    assert accepts_several_outputs(f"A story.\n\nOutput\n\nPrint the numbers. {sentence}\n\n{CODEFORCES}")


@pytest.mark.parametrize(
    "sentence",
    [
        "If there are several answers, print the smallest.",
        "You can use any of the coins any number of times.",
        "He can drink the cups in any order.",
        "In how many ways can it be done? Count each order.",
        "The answer is unique for any input.",
        "",
    ],
)
def test_statements_with_one_output(sentence: str) -> None:
    assert not accepts_several_outputs(f"{sentence}\n\n{CODEFORCES}")


@pytest.mark.parametrize(
    "evil", ["-" * 300_000, "sample input " * 20_000, ("-" * 50 + "\n") * 5_000, "many " * 40_000, "print " * 40_000, "error " * 40_000]
)
def test_hostile_statements_take_no_time(evil: str) -> None:
    start = time.process_time()
    mine_examples(evil)
    accepts_several_outputs(evil)
    assert time.process_time() - start < 5


def _words(tests: list[dict[str, str]]) -> list[tuple[list[list[str]], list[list[str]]]]:
    """Tests less their layout: blanks at line ends, blank lines and \\r are not kept by the sources."""
    return [tuple([line.split() for line in test[side].splitlines() if line.strip()] for side in ("input", "output")) for test in tests]  # type: ignore[misc]


@pytest.mark.parametrize(
    ("file", "statement", "tests", "count"),
    [
        ("ocr_rows/r1_codeforces_rows.jsonl.gz", "input", "tests", 738),
        ("problems/train_codeforces_r1_answers.jsonl.gz", "input", "tests", 305),
        ("problems/lcb_after_v1.jsonl.gz", "question_content", "public_test_cases", 279),
        ("problems/train_ocr_schema.jsonl.gz", "input", "tests", 166),
    ],
)
def test_real_statements_give_the_tests_of_their_source(shared_data: Path, file: str, statement: str, tests: str, count: int) -> None:
    """Codeforces and AtCoder; functional problems give none, and so do interactive ones."""
    equal = 0
    for line in gzip.decompress((shared_data / file).read_bytes()).splitlines():
        row: dict[str, Any] = json.loads(line)
        mined = [{"input": test.input, "output": test.output} for test in mine_examples(row[statement])]
        known = json.loads(row[tests]) if isinstance(row[tests], str) else row[tests]
        if not mined:
            assert row.get("starter_code") or "interactive" in row[statement]
            continue
        assert _words(mined) == _words(known), row[statement]
        equal += 1
    assert equal == count
