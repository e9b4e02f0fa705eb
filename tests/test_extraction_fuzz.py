"""Thousands of damaged answers through everything that takes answers apart: none raises, none takes long, and what they say agrees."""

from __future__ import annotations

import gzip
import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from gwen25.benchmarks import official
from gwen25.chat import FORMATS, extract_code

FORMAT = FORMATS["chatml-think"]
SPLICED = (
    *("```", "```python", "```python\n", "\n```\n", "~~~", "````", "```text\n", "`", "<think>", "</think>", "<|im_end|>", "<|endoftext|>"),
    *("'''", '"""', "'", '"', "\\", "#", "\n", "\r\n", "\r", "\t", "    ", " ", "\0", "\ud800", "\u2028", "é", "print(1)", "def f():\n"),
)
OWN = (
    FORMAT.answer("Add them.", "a, b = map(int, input().split())\nprint(a + b)"),
    "<think>\n```python\nprint(0)\n```\n</think>\nSo:\n```python\nclass Solution:\n    def f(self, n): ...\n```\n\nOutput:\n```\n7\n```\n",
    'Here: ```python\ndef f():\n    """\n```python\n    f()\n```\n    """\nprint(f())\n```\n```bash\npython x.py\n```',
    "</think>~~~py\nprint('```')\n~~~<|im_end|>",
    "print(int(input()) * 2)\n",
)


def mutated(draw: random.Random, texts: list[str]) -> str:
    """One of the texts with one to six places cut out, doubled, moved, or spliced."""
    text = draw.choice(texts)
    for _ in range(draw.randint(1, 6)):
        at = draw.choice([draw.randrange(len(text) + 1), max(text.rfind("```"), 0), max(text.rfind("</think>"), 0)])
        length = draw.choice([0, 1, 3, 8, 40, 400])
        piece = draw.choice([draw.choice(SPLICED), text[at : at + length], draw.choice(texts)[:length], ""])
        text = text[:at] + piece + text[at + draw.choice([0, length]) :]
    return text


def every_reading(text: str) -> tuple[bool, bool, bool]:
    """Whether the text is well formed, hands in a program, gives the official extraction one: and that all readings agree."""
    answer, program, code = FORMAT.parse(text), FORMAT.program(text), extract_code(text)
    theirs = official.extract(text)
    assert program is None or (program == answer.code and program.strip() and answer.reasoning is not None)
    assert program is not None or not answer.well_formed
    assert answer.well_formed <= answer.finished <= (answer.reasoning is not None)
    assert code is None or isinstance(code, str)
    assert theirs in text and official.extract_base(text) == text.strip()
    if answer.well_formed:
        assert answer.reasoning is not None and answer.code is not None
        again = FORMAT.parse(FORMAT.answer(answer.reasoning, answer.code))
        assert again.well_formed and again.code == answer.code.strip("\n").rstrip()
    return answer.well_formed, program is not None, bool(theirs)


def fuzz(texts: list[str], count: int) -> Counter[tuple[bool, bool, bool]]:
    draw = random.Random(4)
    return Counter(every_reading(mutated(draw, texts)) for _ in range(count))


def test_damaged_answers_of_our_own() -> None:
    began = time.process_time()
    seen = fuzz(list(OWN), 3000)
    assert time.process_time() - began < 10, "takes 1 s"
    assert len(seen) >= 5 and sum(count for (well_formed, _, _), count in seen.items() if well_formed) > 100, "or the sample proves little"


def real(folder: Path) -> Iterator[str]:
    for name in ("r1_codeforces_rows", "r1_codeforces_traces_without_statement"):
        with gzip.open(folder / "ocr_rows" / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
            yield from (json.loads(line)["output"] for line in lines)
    with gzip.open(folder / "problems" / "train_ocr_schema.jsonl.gz", "rt", encoding="utf-8") as lines:
        yield from (row["model_response"] for row in map(json.loads, lines) if row.get("model_response"))


@pytest.fixture(scope="module")
def real_answers(shared_data: Path) -> list[str]:
    """1,671 real ones, the long reasoning shortened to its last 500 characters: what follows it is what matters here."""
    return [text[max(text.find("</think>") - 500, 0) :] for text in real(shared_data)]


def test_damaged_real_answers(real_answers: list[str]) -> None:
    began = time.process_time()
    seen = fuzz(real_answers, 10_000)
    assert time.process_time() - began < 40, "takes 4 s"
    assert len(seen) >= 5 and sum(count for (well_formed, _, _), count in seen.items() if well_formed) > 100, "or the sample proves little"
