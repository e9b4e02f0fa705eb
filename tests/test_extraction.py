"""The program in an answer: each rule of `extraction` and `selection` in a row, and every real answer as its author meant it."""

from __future__ import annotations

import ast
import gzip
import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gwen25.chat import FORMATS, extract_code
from gwen25.data import TestCase
from gwen25.extraction import extract

FORMAT = FORMATS["chatml-think"]
SOLUTION = "n = int(input())\nprint(n * 2)"
CLASS = "class Solution:\n    def twice(self, n):\n        return n * 2"
QUOTING = 'def f():\n    """\n```python\n    f()\n```\n    """\nprint(f())'

BLOCKS = {
    "one block": ("```python\na\n```", "a"),
    "last of several": ("```python\na\n```\n```py\nb\n```", "b"),
    "python3": ("```Python3\na\n```", "a"),
    "pypy3": ("```pypy3\na\n```", "a"),
    "label apart": ("``` python\na\n```", "a"),
    "label with attributes": ('```python title="x.py"\na\n```', "a"),
    "only other languages": ("```cpp\nint main() {}\n```", None),
    "inline code": ("use `print` and ```print``` here", None),
    "carriage returns": ("```python\r\na\r\nb\r\n```\r\n", "a\nb"),
    "blank lines kept": ("```python\n\n\na\n\n```", "\n\na\n"),
    "separators that are no line ends": ("```python\nx = 'a\u2028b\x0cc'\n```", "x = 'a\u2028b\x0cc'"),
    # tildes, long fences
    "tildes": ("~~~python\na\n~~~", "a"),
    "tildes around backticks": ("~~~python\n```\n~~~", "```"),
    "backticks around tildes": ("```python\na = 1\n~~~\n```", "a = 1\n~~~"),
    "long fence": ("````python\n```\na\n````", "```\na"),
    "closed by a longer fence": ("```python\na\n`````\nb", "a"),
    "an underline of tildes": (f"Title\n~~~~~~~~~~\n```python\n{SOLUTION}\n```", SOLUTION),
    # indentation
    "list item": ("1. So:\n   ```python\n   if x:\n       a\n   ```", "if x:\n    a"),
    "list item with its fence on the line": ("- ```python\n  if x:\n      a\n  ```", "if x:\n    a"),
    "deep list item": ("      ```python\n      if x:\n\n          a\n      ```\n", "if x:\n\n    a"),
    "less indented code": ("   ```python\na\n   ```", "a"),
    "closing fence indented more": ("```python\na\n      ```\nSo be it.", "a"),
    "closing fence indented less": ("    ```python\n    a\n```\nSo be it.", "a"),
    # opening fences after prose
    "prose before the fence": ("Here: ```python\na\n```", "a"),
    "prose and a bare fence": ("The code:```\na = 1\n```", "a = 1"),
    "the last fence of a line": (f"Use ``` to fence. ```python\n{SOLUTION}\n```", SOLUTION),
    "a long fence after another": (f"Use ``` to fence. ````python\n```\n{SOLUTION}\n````", f"```\n{SOLUTION}"),
    "a word after code in a line": (f"It calls ```input()``` python\nstyle.\n```python\n{SOLUTION}\n```", SOLUTION),
    "a colon in code in a line": (f"It begins with ```Answer:```\n```python\n{SOLUTION}\n```", SOLUTION),
    "a sentence about fences": ("Use ```python to open a block.\n", None),
    "a question about fences": ("What is ```\nHm?\n", None),
    # one line
    "one line": ("```python print(1)```", "print(1)"),
    "one line with an end token": ("```py print(1)```<|im_end|>", "print(1)"),
    "one line of tildes": ("~~~python print(1)~~~", "print(1)"),
    "one line with a fence in a string": ("```python print('```')```", "print('```')"),
    "one line in a sentence": ("```python print(1)``` prints 1", None),
    "code on the opening line": ("```python import sys\nprint(1)\n```", "import sys\nprint(1)"),
    "a call on the opening line": ("```python print(1)\n```", "print(1)"),
    # closing fences that do not stand alone
    "glued to code": ("```python\nprint(7)```", "print(7)"),
    "glued to code, prose after": ("```python\nprint(7)``` This prints 7.\nDone.", "print(7)"),
    "glued to code with a string": ("```python\nprint('```')```\nDone.", "print('```')"),
    "glued to a comment at the end": ("```python\nprint(7)  # seven```", "print(7)  # seven"),
    "glued to an end token": ("```python\nprint(7)\n```<|im_end|>", "print(7)"),
    "end token glued to code": ("```python\nprint(7)```<|im_end|>", "print(7)"),
    "tildes glued to code": ("~~~python\nprint(7)~~~\nDone.", "print(7)"),
    "three tildes are an operator": ("~~~python\nprint(~~~7)\n~~~", "print(~~~7)"),
    # fences that the program itself holds
    "in a string on one line": ("```python\nprint('```')\n```", "print('```')"),
    "in a comment": ("```python\na = 1  # ```\n# ```\nb = 2\n```", "a = 1  # ```\n# ```\nb = 2"),
    "in a docstring": (f"```python\n{QUOTING}\n```", QUOTING),
    "in a docstring, other quotes": ("```python\nx = '''\n```\n'''\nprint(x)\n```", "x = '''\n```\n'''\nprint(x)"),
    "in a docstring, never closed": (f"```python\n{QUOTING}", QUOTING),
    "in a docstring, escaped quotes": ('```python\nx = """\n\\"""\n```\n"""\n```', 'x = """\n\\"""\n```\n"""'),
    "a string that never ends": ('```python\nx = """\n```\nprose', 'x = """'),
    "a string that ends in prose": ('```python\nx = """\n```\nprose """ more\n```\n', 'x = """'),
    # blocks that are not closed
    "unclosed": ("```python\nprint(7)\n", "print(7)\n"),
    "cut off": ("```python\nprint(7", "print(7"),
    "never closed, next opened": ("```python\na\n```python\nb\n```", "b"),
    "never closed, then another language": ("```python\na\n```text\n7\n```", "a"),
    "closed by a label": ("```python\nprint(7)\n```python\n", "print(7)"),
    "draft, then whole but unclosed": (f"```python\nprint(0)\n```\nBetter:\n```python\n{SOLUTION}\n", f"{SOLUTION}\n"),
    "draft, then a class unclosed": (f"```python\nprint(0)\n```\n```python\n{CLASS}", CLASS),
    "whole, then cut off in a line": (f"```python\n{SOLUTION}\n```\nOr:\n```python\nn = int(inp", SOLUTION),
    "whole, then cut off before it prints": (f"```python\n{SOLUTION}\n```\nOr:\n```python\nn = int(input())\n", SOLUTION),
    "whole, then cut off in a function": (f"```python\n{SOLUTION}\n```\n```python\ndef main():\n    n = 1\n", SOLUTION),
    "only values, then unclosed": ("```python\na\n```\n```python\nb", "a"),
    # what follows the solution
    "output block": (f"```python\n{SOLUTION}\n```\nOutput:\n```text\n7\n```", SOLUTION),
    "shell block": (f"```python\n{SOLUTION}\n```\n```bash\npython solution.py < in.txt\n```", SOLUTION),
    "bare shell block": (f"```python\n{SOLUTION}\n```\n```\npython solution.py < in.txt\n```", SOLUTION),
    "shell block labelled python": (f"```python\n{SOLUTION}\n```\n```python\npython solution.py < in.txt\n```", SOLUTION),
    "bare output block": (f"```python\n{SOLUTION}\n```\nOutput:\n```\n7\n```", SOLUTION),
    "bare words": (f"```python\n{SOLUTION}\n```\nOutput:\n```\nYES\nNO\n```", SOLUTION),
    "bare numbers": (f"```python\n{SOLUTION}\n```\nOutput:\n```\n1 2 3\n```", SOLUTION),
    "bare assignment": (f"```python\n{SOLUTION}\n```\nThen:\n```\nn = 5\n```", SOLUTION),
    "output labelled python": (f"```python\n{SOLUTION}\n```\nOutput:\n```python\n[1, 2]\n```", SOLUTION),
    "nothing but a comment": (f"```python\n{SOLUTION}\n```\n```python\n# your code here\n```", SOLUTION),
    "an empty block": (f"```python\n{SOLUTION}\n```\n```python\n```", SOLUTION),
    "usage": (f"```python\n{CLASS}\n```\nUsage:\n```python\nprint(Solution().twice(3))\n```", CLASS),
    "bare usage": (f"```python\n{CLASS}\n```\nUsage:\n```\nprint(Solution().twice(3))\n```", CLASS),
    "usage with variables": (f"```python\n{CLASS}\n```\n```python\ns = Solution()\nprint(s.twice(3))\n```", CLASS),
    "a session": (f"```python\n{CLASS}\n```\n```python\n>>> Solution().twice(3)\n6\n```", CLASS),
    "a bare session": (f"```python\n{CLASS}\n```\n```\n>>> print(Solution().twice(3))\n6\n```", CLASS),
    "tests": (f"```python\n{CLASS}\n```\n```python\ndef test_it():\n    assert Solution().twice(1) == 2\n```", CLASS),
    "a patch": (f"```python\n{SOLUTION}\n```\nOr in the end:\n```python\nprint(n + n)\n```", SOLUTION),
    "a test by the end of its name": (f"```python\n{CLASS}\n```\n```python\nclass TwiceTest(Base):\n    x = Solution()\n```", CLASS),
    "a test by its base": (f"```python\n{CLASS}\n```\n```python\nclass Twice(unittest.TestCase):\n    x = Solution()\n```", CLASS),
    "a check": (f"```python\n{CLASS}\n```\n```python\ndef check():\n    assert Solution().twice(2) == 4\ncheck()\n```", CLASS),
    "asserts": (f"```python\n{CLASS}\n```\n```python\nassert Solution().twice(2) == 4\n```", CLASS),
    "asserts after an import": (
        f"```python\n{CLASS}\n```\n```python\nfrom solution import Solution\nassert Solution().twice(2) == 4\n```",
        CLASS,
    ),
    "a test after an import": (
        f"```python\n{CLASS}\n```\n```python\nfrom .solution import Solution\ndef test_it():\n    assert Solution().twice(2) == 4\n```",
        CLASS,
    ),
    "usage after an import": (f"```python\n{CLASS}\n```\n```python\nfrom a import Solution\nprint(Solution().twice(2))\n```", CLASS),
    # what could give no answer
    "a tip for faster input": (f"```python\n{SOLUTION}\n```\n```python\nimport sys\ninput = sys.stdin.readline\n```", SOLUTION),
    "an import": (f"```python\n{CLASS}\n```\n```python\nfrom typing import List\n```", CLASS),
    "a sample as a variable": (f"```python\n{CLASS}\n```\n```python\nnums = [1, 2, 3]\n```", CLASS),
    "a recurrence": (f"```python\n{SOLUTION}\n```\n```python\ndp[i] = dp[i-1] + dp[i-2]\n```", SOLUTION),
    "a `return` alone": (f"```python\n{CLASS}\n```\n```python\nreturn n * 2\n```", CLASS),
    "the head of a loop": (f"```python\n{SOLUTION}\n```\n```python\nfor i in range(n):\n```", SOLUTION),
    "a sample that reads as annotations": (f"```python\n{SOLUTION}\n```\n```python\nInput: 3\nOutput: 6\n```", SOLUTION),
    "its first line": (f"```python\n{SOLUTION}\n```\n```python\nn = int(input())\n```", SOLUTION),
    "pseudocode": (f"```python\n{SOLUTION}\n```\n```python\nfor n in the input\nprint n twice\n```", SOLUTION),
    "nothing else": ("```python\nimport solver\nsolver.main()\n```\n```\nn = 5\n```", "import solver\nsolver.main()"),
    # however many
    "30 bare outputs": (f"```python\n{SOLUTION}\n```\n" + "So:\n```\n7\n```\n" * 30, SOLUTION),
    "30 labelled outputs": (f"```python\n{SOLUTION}\n```\n" + "So:\n```python\n7\n```\n" * 30, SOLUTION),
    "a megabyte of bare outputs": (f"```python\n{SOLUTION}\n```\n" + f"```\n{'7 ' * 50_000}\n```\n" * 10, SOLUTION),
    # what is a program of its own
    "helper class, then solution": (
        "```python\nclass Node:\n    pass\n```\n```python\nclass Solution:\n    def f(self): return Node()\n```",
        "class Solution:\n    def f(self): return Node()",
    ),
    "draft with its own input": (f"```python\ninput = open(0).readline\nprint(input())\n```\n```python\n{SOLUTION}\n```", SOLUTION),
    "draft imports what the last does not": (
        "```python\nfrom math import gcd\nprint(gcd(2, 4))\n```\n```python\nprint(gcd(4, 6))\n```",
        "print(gcd(4, 6))",
    ),
    "a function named like no test": (
        "```python\ndef pair(n): return n, n\n```\n```python\ndef shortest(n): return min(pair(n))\n```",
        "def shortest(n): return min(pair(n))",
    ),
    "imports what a draft defines": (
        "```python\ndef gcd(a, b): return b\nprint(gcd(2, 4))\n```\n```python\nfrom math import gcd\nprint(gcd(4, 6))\n```",
        "from math import gcd\nprint(gcd(4, 6))",
    ),
    "writes": (
        f"```python\n{SOLUTION}\n```\n```python\nimport sys\nsys.stdout.write(input() * 2)\n```",
        "import sys\nsys.stdout.write(input() * 2)",
    ),
    "bare correction": (f"```python\nprint(0)\n```\nFixed:\n```\n{SOLUTION}\n```", SOLUTION),
    "last has a mistake": (f"```python\n{SOLUTION}\n```\n```python\nprint(1\n```", "print(1"),
    "bare blocks": (f"```\n{SOLUTION}\n```\nOutput:\n```\n7\n```", SOLUTION),
    "bare program before bare shell": ("```\nprint(7)\n```\n```\npython solution.py\n```", "print(7)"),
    "bare program after sample input": (f"Input:\n```\n3\n```\nSolution:\n```\n{SOLUTION}\n```", SOLUTION),
    "python before a bare block that is not": ("```python\na\n```\n```\n1 2\n```", "a"),
    # labels of no language, a whole answer in a block
    **{
        f"labelled {label}": (f"```{label}\n{SOLUTION}\n```", SOLUTION)
        for label in ("code", "tool_code", "ipython", "plaintext", "python2")
    },
    "labelled text, then its output": (f"```text\n{SOLUTION}\n```\nOutput:\n```\n7\n```", SOLUTION),
    "labelled text, then usage": (f"```text\n{CLASS}\n```\n```text\nprint(Solution().twice(3))\n```", CLASS),
    "labelled text beside a program": (f"```python\n{SOLUTION}\n```\n```text\nprint(7)\n```", SOLUTION),
    "labelled text beside a bare program": (f"```\n{SOLUTION}\n```\n```text\nprint(7)\n```", SOLUTION),
    "labelled text, no answer": ("```text\nn = 7\n```", None),
    "in a markdown block": (f"````markdown\nSo:\n```python\n{SOLUTION}\n```\n````", SOLUTION),
    "in a markdown block, its output outside": (f"````markdown\n```python\n{SOLUTION}\n```\n````\n```text\n7\n```", SOLUTION),
    "in a markdown block of as many backticks": (f"```markdown\nSo:\n```python\n{SOLUTION}\n```\n```", SOLUTION),
    "two blocks deep": (f"`````md\n````md\n```python\n{SOLUTION}\n```\n````\n`````", None),
    "in tags": (f"[PYTHON]\n{SOLUTION}\n[/PYTHON]", SOLUTION),
    "in tags, prose around": (f"So:\n[PYTHON]\nx\n[/PYTHON]\n[PYTHON]\n{SOLUTION}\n[/PYTHON]\n```text\n7\n```\nDone.", SOLUTION),
    "in tags, never closed": (f"So:\n[PYTHON]\n{SOLUTION}", None),
    "tags around a block": (f"[PYTHON]\n```python\n{SOLUTION}\n```\n[/PYTHON]", SOLUTION),
    # drafts
    "after the tag only": ("```python\ndraft\n```</think>nothing", None),
    "draft before the tag": ("```python\nprint(1)\n```</think>\n```python\nprint(2)\n```", "print(2)"),
    "draft reopened": ("x</think>\n```python\nprint(2)\n```\n<think>\n```python\nprint(1)\n```\n</think>\nSo.", "print(2)"),
    "draft reopened to the end": ("x</think>\n```python\nprint(2)\n```\n<think>\n```python\nprint(1)\n```", "print(2)"),
    "answer after a second draft": ("x</think>\n<think>\n```python\nprint(1)\n```\n</think>```python\nprint(2)\n```", "print(2)"),
    "tags inside the program": ("```python\nprint('''\n<think>\n''')\n```", "print('''\n<think>\n''')"),
    "all is draft": ("<think>\n```python\nprint(1)\n```", "print(1)"),  # `program` decides whether a draft counts
    # no fence
    "nothing but a program": (f"\n{SOLUTION}\n", SOLUTION),
    "nothing but a class": (f"thought</think>\n\n{CLASS}", CLASS),
    "prose": ("I do not know.", None),
    "a word": ("print", "print"),
    "a number": ("42", None),
    "nothing but a program about fences": ("print('```')", "print('```')"),
    "a program in prose": (f"The program is:\n{SOLUTION}", None),
    "nothing": ("", None),
}


@pytest.mark.parametrize(("text", "code"), BLOCKS.values(), ids=BLOCKS)
def test_the_program_is_found(text: str, code: str | None) -> None:
    assert extract_code(text) == code


@pytest.mark.parametrize("name", [name for name, (text, code) in BLOCKS.items() if code and "</think>" not in text])
def test_an_answer_hands_in_what_its_text_holds(name: str) -> None:
    """`program` (reward, benchmark) and `extract_code` share the rules."""
    text, code = BLOCKS[name]
    text = text.removeprefix("<think>").split("<|im_end|>")[0]
    assert FORMAT.program(f"thought</think>\n{text}") in (code, code and code.rstrip())  # an answer's last blanks are cut


FINISHED = {
    "closed": ("</think>\n```python\na\n```", True),
    "closed, prose after": ("</think>\n```python\na\n```\nDone.", True),
    "glued": ("</think>\n```python\nprint(1)```", True),
    "no block": ("</think>\nNo idea.", True),
    "unclosed": ("</think>\n```python\na", False),
    "whole, then cut off": (f"</think>\n```python\n{SOLUTION}\n```\n```python\nn = int(inp", False),
    "cut off in another language": ("</think>\n```python\na\n```\n```text\n7", False),
    "cut off in the reasoning": ("```python\na\n```", False),
}


@pytest.mark.parametrize(("text", "finished"), FINISHED.values(), ids=FINISHED)
def test_what_was_cut_off_is_not_finished(text: str, finished: bool) -> None:
    assert FORMAT.parse(text).finished is finished


# ---------------------------------------------------------------------------------------------------------- hostile text


HOSTILE = [
    "```",
    "`",
    "~~~\n",
    "~~~ ",
    " ",
    "\n",
    "\r",
    "```python\n",
    "```python\nx\n",
    "```python\nx\n```\n",
    "```python print(1)```\n",
    "'''",
    '"""\n',
    "```python\n'''\n",
    "```python\n\\'''\n",
    "```python\n'''\n```\n",
    "```python\n\"\"\"\n```\n```python\n'''\n```\n",
    "<think>\n",
    "<think></think>\n",
    "<think></think>",
    "<think>```python\n</think>",
    "</think>",
    "```x\n",
    "a: ```\n",
    "```py ",
    "'",
    "\\",
    "# ```\n",
    "```\n1\n",
    "~~~~\n",
    "<",
    "```python\n<think>\n",
    "```code\nprint(1)\n```\n",
    "````md\n```python\n",
    "````md\n```x\n````\n",
    "````md\n```python\n'''\n```\n````\n",
    "``` ```python",
    "```` ",
    "[PYTHON]",
    "[/PYTHON]",
    "[PYTHON][/PYTHON]\n",
    "\n```code\nimport a" + ".a" * 9000,
    "\n```\nimport a" + ".a" * 9000 + "\n```",
    "\n```python\nimport a" + ".a" * 9000,
]


def seconds(piece: str, size: int) -> float:
    began = time.process_time()
    for before in ("", "</think>\n```python\n", "</think>\n```python\n'''\n"):
        FORMAT.parse(before + piece * (size // len(piece)) + "`")
    return time.process_time() - began


@pytest.mark.parametrize("piece", HOSTILE, ids=[repr(piece[:30]) for piece in HOSTILE])
def test_hostile_text_is_read_in_linear_time(piece: str) -> None:
    assert seconds(piece, 50_000) < 3, "takes 0.2 s; quadratic work would take minutes"


@pytest.mark.long  # two minutes: forty texts of three megabytes
def test_a_megabyte_of_hostile_text_is_read_in_linear_time() -> None:
    for piece in HOSTILE:
        assert seconds(piece, 1_000_000) < 12, f"{piece[:30]!r} takes three seconds; quadratic work would take hours"


# ------------------------------------------------------------------------------------------------------------- real data


def rows(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def test_real_traces_give_their_recorded_solutions(shared_data: Path) -> None:
    """739 answers of DeepSeek-R1: each gives its solution to the byte; 24 have prose beside the block, the rest are well formed."""
    seen: Counter[tuple[bool, bool, bool]] = Counter()
    full = [json.loads(line) for line in (shared_data / "ocr_rows" / "ocr_full_row.jsonl").read_text(encoding="utf-8").splitlines()]
    for row in [*rows(shared_data / "ocr_rows" / "r1_codeforces_rows.jsonl.gz"), *full]:
        answer = FORMAT.parse(row["output"])
        seen[answer.code == row["solution"], answer.well_formed, answer.finished] += 1
    assert seen == {(True, True, True): 715, (True, False, True): 24}


def test_real_traces_that_break_the_format(shared_data: Path) -> None:
    """509 more, the bad ones among them: ten were cut off while thinking, one gives no program, five were cut off in theirs."""
    seen: Counter[str] = Counter()
    for row in rows(shared_data / "ocr_rows" / "r1_codeforces_traces_without_statement.jsonl.gz"):
        answer = FORMAT.parse(row["output"])
        if answer.reasoning is None:
            seen["still thinking"] += 1
            assert answer.code is None and not answer.well_formed and not answer.finished
        elif answer.code is None:
            seen["no program"] += 1
        elif answer.code == row["solution"]:
            seen["solution"] += 1
            assert answer.finished
        else:
            seen["cut off"] += 1
            assert row["output"].rstrip().endswith(answer.code.rstrip()) and not answer.well_formed and not answer.finished
    assert seen == {"solution": 493, "still thinking": 10, "cut off": 5, "no program": 1}


def test_real_solutions_come_back_from_an_answer(shared_data: Path) -> None:
    problems = shared_data / "problems"
    solutions = [
        row["solution"] for name in ("train_codeforces_r1_answers", "train_ocr_schema") for row in rows(problems / f"{name}.jsonl.gz")
    ]
    assert len(solutions) == 791
    for solution in solutions:
        answer = FORMAT.parse(FORMAT.answer("Hm.", solution))
        assert answer.well_formed and answer.code == solution.strip("\n").rstrip()
        assert extract(f"So:\n\n```python\n{solution}\n```\n\nOutput:\n\n```\n7\n```\n").code == solution
        assert extract(f"1. So:\n   ```py\n{solution}```<|im_end|>").code == solution.rstrip()


def test_real_short_answers_hold_a_program(shared_data: Path) -> None:
    """424 answers of another model: 350 in a fence, 74 nothing but the program. Each gives one, all but one of which parse."""
    answers = [row["model_response"] for row in rows(shared_data / "problems" / "train_ocr_schema.jsonl.gz") if row.get("model_response")]
    codes = [extract_code(answer) for answer in answers]
    assert len(codes) == 424 and None not in codes
    for answer, code in zip(answers, codes, strict=True):
        assert code and code in answer and "```" not in code
        ast.parse(code)


@pytest.mark.long  # some two minutes: 183 programs in the sandbox, with 16 tests each
def test_real_short_answers_that_were_verified_pass(shared_data: Path) -> None:
    from gwen25.sandbox import grade_many

    verified = [row for row in rows(shared_data / "problems" / "train_ocr_schema.jsonl.gz") if row.get("model_response_verified")]
    jobs = [
        (
            extract_code(row["model_response"]) or "",
            tuple(TestCase(test["input"], test["output"], test["testtype"]) for test in row["tests"]),
            row["func_name"],
        )
        for row in verified
    ]
    assert len(jobs) > 180 and all(verdict.passed for verdict in grade_many(jobs, workers=2))
