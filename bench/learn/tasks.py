"""Rows and problems of the families: answers for SFT, tests for GRPO, held-out wordings for the evaluation.

    sft_rows(seed)            OpenCodeReasoning's columns, one a wording of an `sft` family
    grpo_problems(seed)       LiveCodeBench's schema, one a wording of a `grpo` family
    heldout_problems(group)   LiveCodeBench's schema: wordings, inputs and constants that no training has

Held-out wordings use frames of their own, so a family that was trained on is met in words that were not. They do not depend on the
seed of a run: all seeds are measured on the same problems. Everything else is drawn from sha256 of its own name.

A family's tests tell programs apart: no output comes in more than half of them, and none of `SHORTCUTS` passes (a program that prints
a constant, its input, a length) unless it is the answer.
Not here: the runs (`__main__`), the statements' words (`families`).
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import pickle
import random
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Final

from bench.learn.families import FAMILIES, GROUPS, SHAPES, Family, Group

TRAINED_FRAMES: Final = (
    "Read {input}. Print {what}.",
    "You are given {input}. Output {what}.",
    "The input is {input}. Write a program that prints {what}.",
    "Given {input}, print {what}.",
    "Your program reads {input} and must print {what}.",
    "Write a Python program. It reads {input} and outputs {what}.",
    "Standard input holds {input}. Print {what}.",
)
HELDOUT_FRAMES: Final = (
    "Print {what}. Input: {input}.",
    "Input: {input}. Output: {what}.",
    "From standard input comes {input}. Your task is to print {what}.",
)
TESTS: Final = 7  # of a problem, all different

SHORTCUTS: Final = (
    "print(input())",
    "print(len(input().split()))",
    "print(len(input()))",
    "print(input().split()[0])",
    "print(input().split()[-1])",
    "print(0)",
    "print(1)",
    'print("yes")',
    'print("no")',
)


def sft_rows(seed: int) -> Iterator[dict[str, Any]]:
    """One row a trained wording: input, and an output whose reasoning is a sentence (dataset.target=solution leaves it out)."""
    for family, number, statement, constant in _trained("sft", seed):
        program = solution(family, constant)
        yield {
            "id": f"{family.name}-{number}",
            "input": statement,
            "output": f"<think>\nRead the input, then print what is asked.\n</think>\n\n```python\n{program}\n```",
            "solution": program,
            "source": "gwen25-learn",
            "license": "apache-2.0",
            "difficulty": "easy",
        }


def grpo_problems(seed: int) -> Iterator[dict[str, Any]]:
    for family, number, statement, constant in _trained("grpo", seed):
        yield _problem(family, f"{family.name}-{number}", statement, constant, f"{seed}:train")


def replay_problems(seed: int) -> Iterator[dict[str, Any]]:
    """SFT's families as problems: what GRPO is not to unlearn. Drawn anew, so that about a sixth is worded as SFT's rows are: a
    problem that was learnt by heart passes in all samples, has no spread, and is drawn again."""
    for family, number, statement, constant in _trained("sft", f"{seed}:replay"):
        yield _problem(family, f"{family.name}-r{number}", statement, constant, f"{seed}:train")


def heldout_problems(group: Group) -> Iterator[dict[str, Any]]:
    """Three wordings of each family, none of which any seed trains on."""
    for family in FAMILIES.values():
        if family.group == group:
            for number, frame in enumerate(HELDOUT_FRAMES):
                draw = _draw("heldout", family.name, str(number))
                constant = draw.choice(family.constants)
                statement = _statement(frame, family, draw, constant)
                yield _problem(family, f"{family.name}-h{number}", statement, constant, "heldout")


def digest() -> str:
    """Of what seed 0 is trained on and all are measured on. Tests are taken as they are: their packing differs between versions of zlib."""
    rows: list[dict[str, Any]] = list(sft_rows(0))
    for row in (*grpo_problems(0), *replay_problems(0), *(row for group in GROUPS for row in heldout_problems(group))):
        packed = zlib.decompress(base64.b64decode(row["private_test_cases"]))  # by `_problem`, a moment ago
        rows.append({**row, "private_test_cases": pickle.loads(packed)})
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _trained(group: Group, seed: int | str) -> Iterator[tuple[Family, int, str, str]]:
    for family in FAMILIES.values():
        if family.group == group:
            for number, frame in enumerate(TRAINED_FRAMES):
                draw = _draw(str(seed), family.name, str(number))
                constant = draw.choice(family.constants)
                yield family, number, _statement(frame, family, draw, constant), constant


def _statement(frame: str, family: Family, draw: random.Random, constant: str) -> str:
    what, given = draw.choice(family.what), draw.choice(SHAPES[family.shape].inputs)
    return frame.format(input=given, what=what.replace("{k}", constant))


def solution(family: Family, constant: str) -> str:
    return f"{SHAPES[family.shape].read}\n{family.program.replace('{k}', constant)}"


def _problem(family: Family, name: str, statement: str, constant: str, salt: str) -> dict[str, Any]:
    """A row in LiveCodeBench's schema; all its tests are hidden ones."""
    pairs = tests(family, constant, f"{salt}:{name}")
    cases = [{"input": given, "output": wanted, "testtype": "stdin"} for given, wanted in pairs]
    packed = base64.b64encode(zlib.compress(pickle.dumps(json.dumps(cases)))).decode()
    return {
        "question_title": family.name,
        "question_content": statement,
        "platform": "atcoder",
        "question_id": name,
        "contest_id": family.name,
        "contest_date": "2024-01-01T00:00:00",
        "starter_code": "",
        "difficulty": "easy",
        "public_test_cases": "[]",
        "private_test_cases": packed,
        "metadata": "{}",
    }


def tests(family: Family, constant: str, salt: str) -> list[tuple[str, str]]:
    """(input, output) of different inputs that tell the program from its `SHORTCUTS`. Raises RuntimeError where none are found."""
    program = compile(solution(family, constant), family.name, "exec")
    for attempt in range(1000):
        draw = _draw("tests", family.name, salt, str(attempt))
        inputs: dict[str, str] = {}
        while len(inputs) < TESTS:
            given = _INPUTS[family.shape](draw)
            inputs[given] = run(program, given)
        most = Counter(inputs.values()).most_common(1)[0][1]
        if most <= TESTS // 2 + 1 and not any(passes(shortcut, inputs) for shortcut in _others(family, constant)):
            return list(inputs.items())
    raise RuntimeError(f"{family.name}: no {TESTS} inputs tell its program from the shortcuts")


def _others(family: Family, constant: str) -> list[str]:
    """The shortcuts that are wrong for this family: those that differ from its program on some input."""
    program = compile(solution(family, constant), family.name, "exec")
    draw = _draw("others", family.name)
    some = {given: run(program, given) for given in (_INPUTS[family.shape](draw) for _ in range(60))}
    return [shortcut for shortcut in SHORTCUTS if not passes(shortcut, some)]


def passes(program: str, cases: dict[str, str]) -> bool:
    compiled = compile(program, "shortcut", "exec")
    return all(run(compiled, given) == wanted for given, wanted in cases.items())


def run(program: Any, given: str) -> str:
    """What a program of this file's own prints: it is not a model's, and needs no sandbox."""
    lines = iter(given.splitlines())
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(program, {"input": lambda: next(lines)})
    return out.getvalue().rstrip("\n") + "\n"


def _draw(*names: str) -> random.Random:
    return random.Random(hashlib.sha256("\0".join(names).encode()).digest())


# Inputs by shape. Equal numbers, multiples and palindromes come often enough that a yes/no has both answers.


def _two(draw: random.Random) -> str:
    b = draw.randint(1, 12)
    a = draw.choice((b, b * draw.randint(2, 6), draw.randint(1, 60), draw.randint(1, 60)))
    return f"{a} {b}\n" if draw.random() < 0.7 else f"{b} {a}\n"


def _three(draw: random.Random) -> str:
    a, b = draw.randint(1, 20), draw.randint(1, 20)
    c = draw.choice((a + b, a, draw.randint(1, 40), draw.randint(1, 40)))
    if draw.random() < 0.3:
        a, b, c = sorted((a, b, c))
    return f"{a} {b} {c}\n"


def _integer(draw: random.Random) -> str:
    return f"{draw.choice((draw.randint(1, 9), draw.randint(10, 99), draw.randint(100, 300), 60 * draw.randint(1, 20)))}\n"


def _list(draw: random.Random) -> str:
    numbers = [draw.randint(1, 20) for _ in range(draw.randint(3, 8))]
    if draw.random() < 0.5:
        numbers[draw.randrange(len(numbers))] = draw.choice(numbers)
    return " ".join(map(str, numbers)) + "\n"


def _letters(draw: random.Random) -> str:
    half = "".join(draw.choice("aeiounrstlm") for _ in range(draw.randint(2, 4)))
    if draw.random() < 0.35:
        return half + half[-2::-1]
    return half + "".join(draw.choice("aeiounrstlm") for _ in range(draw.randint(1, 4)))


def _words(draw: random.Random) -> str:
    return " ".join(_letters(draw) for _ in range(draw.randint(2, 6))) + "\n"


_INPUTS: Final[dict[str, Callable[[random.Random], str]]] = {
    "two": _two,
    "power": lambda draw: f"{draw.randint(1, 9)} {draw.randint(0, 6)}\n",
    "three": _three,
    "integer": _integer,
    "small": lambda draw: f"{draw.randint(1, 12)}\n",
    "signed": lambda draw: f"{draw.choice((-1, 1)) * draw.randint(1, 60)}\n",
    "list": _list,
    "word": lambda draw: _letters(draw) + "\n",
    "words": _words,
}
