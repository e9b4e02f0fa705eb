"""Answers taken apart and put together: what counts as reasoning, as code, as well formed.

How a program is found among prose is in test_extraction, rendering in test_chat_parity.
"""

from __future__ import annotations

import dataclasses
import random
import re
from collections import Counter

import pytest

from gwen25.chat import FORMATS, ChatFormat, problem_messages, prompt_text
from gwen25.data import Problem
from gwen25.errors import BadInput

FORMAT = FORMATS["chatml-think"]
WELL = "Hm.\n</think>\n\n```python\nprint(7)\n```"

# text, reasoning, code, well formed
ANSWERS = {
    "as written": (WELL, "Hm.", "print(7)", True),
    "with the opening tag": (f"<think>\n{WELL}", "Hm.", "print(7)", True),
    "end token": (f"{WELL}<|im_end|>", "Hm.", "print(7)", True),
    "end token, padding, more": (f"{WELL}<|im_end|>\n<|endoftext|><|endoftext|>", "Hm.", "print(7)", True),
    "blanks around": (f"\n {WELL} \n\n", "Hm.", "print(7)", True),
    "no reasoning": ("</think>\n\n```python\nprint(7)\n```", "", "print(7)", True),
    "fence glued to the tag": ("Hm.</think>```python\nprint(7)\n```", "Hm.", "print(7)", True),
    "prose before": ("Hm.</think>\nSo:\n```python\nprint(7)\n```", "Hm.", "print(7)", False),
    "prose after": (f"{WELL}\nThis prints 7.", "Hm.", "print(7)", False),
    "no closing tag": ("Hm. ```python\nprint(7)\n", None, "print(7)", False),
    "cut off in the reasoning": ("Hm. Let me", None, None, False),
    "cut off in the code": ("Hm.</think>\n\n```python\nprint(7)\nprint(", "Hm.", "print(7)\nprint(", False),
    "no tags, one block": ("```python\nprint(7)\n```", None, "print(7)", False),
    "draft in the reasoning": (
        "```python\nprint(6)\n```\n</think>\n\n```python\nprint(7)\n```",
        "```python\nprint(6)\n```",
        "print(7)",
        True,
    ),
    "draft, then none": ("```python\nprint(6)\n```\n</think>\n\nNo idea.", "```python\nprint(6)\n```", None, False),
    "two blocks": ("</think>\n```python\nprint(6)\n```\nBetter:\n```python\nprint(7)\n```", "", "print(7)", False),
    "second opening tag": ("<think>a<think>b</think>\n```python\nprint(7)\n```", "a<think>b", "print(7)", False),
    "block without a label": ("Hm.</think>\n```\nprint(7)\n```", "Hm.", "print(7)", False),
    "tildes": ("Hm.</think>\n~~~python\nprint(7)\n~~~", "Hm.", "print(7)", False),
    "empty block": ("Hm.</think>\n\n```python\n```", "Hm.", "", False),
    "blank block": ("Hm.</think>\n\n```python\n \n\n```", "Hm.", " \n", False),
    "tag inside the code": ("Hm.</think>\n\n```python\nprint('</think>')\n```", "Hm.", "print('</think>')", True),
    "unusual line ends inside the code": ("</think>\n\n```python\nx = 'a\u2028b\x0cc'\n```", "", "x = 'a\u2028b\x0cc'", True),
    "fence line inside the code": ("Hm.</think>\n\n```python\ns = '''\n```\n'''\n```", "Hm.", "s = '''\n```\n'''", False),
    "indented fence inside the code": (
        "</think>\n\n```python\ndef f():\n    '''\n    ```\n    '''\n```",
        "",
        "def f():\n    '''\n    ```\n    '''",
        True,
    ),
    "nothing": ("", None, None, False),
    "only an end token": ("<|im_end|>", None, None, False),
}


@pytest.mark.parametrize(("text", "reasoning", "code", "well_formed"), ANSWERS.values(), ids=ANSWERS)
def test_parse(text: str, reasoning: str | None, code: str | None, well_formed: bool) -> None:
    answer = FORMAT.parse(text)
    assert (answer.reasoning, answer.code, answer.well_formed) == (reasoning, code, well_formed)


def test_what_answer_writes_is_well_formed() -> None:
    draw = random.Random(3)
    bits = [
        "x = 1",
        "",
        "  ",
        "\tpass",
        "'```'",
        "# </think>",
        "漢字",
        "é",
        "    ```",
        "print('<|im')",
        "\r",
        "\x0b",
        "\u2028",
        "~~~",
        "# ````",
    ]
    for _ in range(2000):
        reasoning = "\n".join(draw.choices([*bits, "```python", "```"], k=draw.randrange(6))).replace("</think>", "")
        code = "\n".join(["pass", *draw.choices(bits, k=draw.randrange(6)), "end"])
        answer = FORMAT.parse(FORMAT.answer(reasoning, code) + FORMAT.eos)
        assert answer.well_formed, (reasoning, code)
        assert answer.code == re.sub("\r+\n", "\n", code)
        assert answer.reasoning == reasoning.strip()


def test_hostile_text_only_ever_yields_an_answer() -> None:
    """Whatever a model writes, parse returns; and it is well formed only where answer() could have written it."""
    draw = random.Random(5)
    bits = ["```", "```python\n", "````", "~~~", "\n", " ", "</think>", "<think>", "x", "<|im_end|>", "`", "   ", "\r", "\0", "\ud800"]
    seen: Counter[bool] = Counter()
    for at in range(20_000):
        text = "</think>\n```python\nx\n" * (at % 2) + "".join(draw.choices(bits, k=draw.randrange(1, 10)))
        answer = FORMAT.parse(text)
        seen[answer.well_formed] += 1
        if answer.well_formed:
            assert answer.reasoning is not None and answer.code is not None
            again = FORMAT.parse(FORMAT.answer(answer.reasoning, answer.code))
            assert again.well_formed and again.code is not None and again.code.strip() == answer.code.strip(), text
    assert seen[True] > 100


def test_the_target_never_begins_with_a_newline() -> None:
    for reasoning in ("", "\n\nHm.", " \t\r\nHm.\n", "\u3000Hm"):
        assert FORMAT.answer(reasoning, "\n\nx\n\n")[0] not in "\r\n \t"
    assert FORMAT.answer("Hm.\n\n", "\n\nx = 1\n\n") == "Hm.\n</think>\n\n```python\nx = 1\n```"


def test_the_digest_covers_all_that_decides_bytes() -> None:
    for field in dataclasses.fields(ChatFormat):
        value = getattr(FORMAT, field.name)
        changed = dataclasses.replace(FORMAT, **{field.name: (*value, "x") if isinstance(value, tuple) else value + "x"})
        assert changed.digest != FORMAT.digest, field.name


def test_a_blank_in_the_statement_is_not_filled_in() -> None:
    problem = Problem("p", "Print {starter_code} and {statement}.", (), starter_code="def f():\n    ...", func_name="f")
    system, user = problem_messages(problem)
    assert system == {"role": "system", "content": prompt_text("system")}
    assert user["content"].startswith("Print {starter_code} and {statement}.\n")
    assert user["content"].count("def f():") == 1


def test_an_empty_statement_is_refused() -> None:
    with pytest.raises(BadInput, match="problem p9: an empty statement"):
        problem_messages(Problem("p9", " \n", ()))
