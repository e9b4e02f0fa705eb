"""Properties of the format rewards: what improves an answer never costs, and the two rewards never disagree."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest

from gwen25.chat import FORMATS
from gwen25.rewards.format import format_approximate, format_exact

FORMAT = FORMATS["chatml-think"]
WELL_FORMED = FORMAT.answer("Add them.", "a, b = map(int, input().split())\nprint(a + b)")
PIECES = [
    "<think>",
    "</think>",
    "```",
    "```python",
    "```python\n",
    "\n```",
    "\n",
    " ",
    "text",
    "print(1)",
    "~~~",
    "<|im_end|>",
    "# ```",
    "\n\n",
    "```js\n",
]


def texts(count: int) -> list[str]:
    """Random texts of the pieces that matter, and damaged well-formed answers."""
    draw = random.Random(7)
    soup = ["".join(draw.choices(PIECES, k=draw.randint(0, 12))) for _ in range(count)]
    damaged = []
    for _ in range(count):
        at, length = draw.randrange(len(WELL_FORMED)), draw.randint(0, 9)
        damaged.append(WELL_FORMED[:at] + draw.choice(["", *PIECES]) + WELL_FORMED[at + length :])
    return soup + damaged


def test_the_two_agree_and_stay_in_range() -> None:
    seen = set()
    for text in texts(4000):
        exact, approximate = format_exact(text, FORMAT), format_approximate(text, FORMAT)
        assert exact in (0.0, 1.0) and exact == FORMAT.parse(text).well_formed
        assert (approximate == 1.0) == (exact == 1.0), text
        assert approximate in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0), text
        seen.add(approximate)
    assert seen == {0.0, 0.2, 0.4, 0.6, 0.8, 1.0}, "every grade is reached, or the sample proves little"


def test_what_answer_writes_earns_all() -> None:
    for text in (WELL_FORMED, "<think>\n" + WELL_FORMED, WELL_FORMED + "<|im_end|>", WELL_FORMED + "\n", FORMAT.answer("", "pass")):
        assert format_exact(text, FORMAT) == format_approximate(text, FORMAT) == 1.0


def test_each_line_written_earns_no_less() -> None:
    draw = random.Random(3)
    for _ in range(200):
        code = "\n".join(draw.choices(["x = 1", "", "print(x)", "    # ``` quoted", "if x:"], k=draw.randint(0, 8))) + "\nprint(1)"
        reasoning = "\n".join(draw.choices(["so", "", "```python", "```", "a draft"], k=draw.randint(0, 6)))
        lines = FORMAT.answer(reasoning, code).splitlines(keepends=True)
        grades = [format_approximate("".join(lines[:upto]), FORMAT) for upto in range(len(lines) + 1)]
        assert grades == sorted(grades) and grades[0] == 0.0 and grades[-1] == 1.0


REPAIRS: list[Callable[[str], str]] = [
    # drop what follows the last fence, unless the answer would lose its one `</think>`
    lambda text: text.rpartition("```")[0] + "```" if text.count("```") >= 2 and "</think>" in text.rpartition("```")[0] else text,
    lambda text: text + "\n```" if text.count("```") % 2 else text,  # close an open fence
    lambda text: text.replace("```py\n", "```python\n"),  # label the block
    lambda text: (
        "".join(text.rsplit("</think>", 1)) if text.count("</think>") > 1 and "```" not in text.rpartition("</think>")[0] else text
    ),
    lambda text: text.replace("<think>", "") if text.count("<think>") > 1 else text,
]


def test_a_repair_never_costs() -> None:
    draw = random.Random(11)
    changed = 0
    for _ in range(4000):
        block = draw.choice(
            ["", "```python\nprint(1)\n```", "```py\nprint(1)\n```", "```python\nprint(1)", "```\nprint(1)\n```", "~~~\nprint(1)\n~~~"]
        )
        thought = draw.choice(["", "a thought\n", "<think>again\n", "<think>"])
        close = draw.choice(["", "</think>\n\n", "</think></think>\n", "</think>\nmore\n</think>\n"])
        text = thought + close + draw.choice(["", "Here:\n"]) + block + draw.choice(["", "\nDone.", "\n\n", "\n</think>", "\n<think>"])
        repair = draw.choice(REPAIRS)
        better = repair(text)
        changed += better != text
        assert format_approximate(better, FORMAT) >= format_approximate(text, FORMAT), (text, better)
        assert format_exact(better, FORMAT) >= format_exact(text, FORMAT), (text, better)
    assert changed > 500


@pytest.mark.parametrize(
    ("text", "grade"),
    [
        ("", 0.0),
        ("still thinking ```python\nprint(1)\n```", 0.0),
        ("thought</think>", 0.4),
        ("thought</think>\n```python\n\n```", 0.4),
        ("thought</think>\n```python\nprint(1)", 0.6),
        ("thought</think>\n```py\nprint(1)\n```", 0.6),
        ("thought</think>\n```python\nprint(1)\n```\nThis prints one.", 0.8),
        ("thought</think>\n```python\nprint(1)\n```\n```python\nprint(2)\n```", 0.8),
        ("thought</think>draft</think>\n```python\nprint(1)\n```", 0.6),
        ('thought</think>\n```python\nx = """\n  ```\n"""\n```', 0.8),
        ("<think><think>thought</think>\n```python\nprint(1)\n```", 0.8),
        ("thought</think>\n```python\nprint(1)\n```", 1.0),
    ],
)
def test_the_grades(text: str, grade: float) -> None:
    assert format_approximate(text, FORMAT) == grade


def test_long_hostile_text_is_graded_in_linear_time() -> None:
    for text in (
        "</think>" * 50_000,
        "</think>" + "```python\n" * 50_000,
        "</think>" + "```python\nx\n" * 50_000,
        "<think>" * 50_000,
        "</think>" + "\n" * 300_000,
    ):
        began = time.process_time()
        format_approximate(text, FORMAT)
        assert time.process_time() - began < 2, "takes 0.02 s; quadratic work would take minutes"
