"""How problems are put, and which text of an answer is the program."""

from __future__ import annotations

import pytest

from gwen25.benchmarks import prompts
from gwen25.benchmarks.judging import Programs, judged
from gwen25.benchmarks.problems import problem_of
from gwen25.benchmarks.prompts import BASE_STOP, PLAIN, base, base_programs, base_text, chat, chat_programs
from gwen25.chat import FORMATS, problem_messages
from gwen25.data import Problem, TestCase
from gwen25.generate import Sample
from tests.benchmarks.lcb_rows import FUNCTION, row

CHAT = FORMATS["chatml-think"]


def test_our_prompt_is_the_one_of_the_training() -> None:
    problem = problem_of(row())
    assert chat(CHAT).messages(problem) == problem_messages(problem)
    assert chat(CHAT).chat_format is CHAT


@pytest.mark.parametrize(("values", "starter"), [(row(), False), (FUNCTION, True)], ids=["stdin", "function"])
def test_the_base_prompt_is_one_worked_example_and_the_problem_to_go_on_with(values: dict[str, object], starter: bool) -> None:
    problem = problem_of(values)
    text = PLAIN.render(base().messages(problem))
    assert text == base_text(problem)
    sections = [line for line in text.split("\n") if line.startswith("###")]
    assert sections == (["### Question"] + ["### Starter Code"] * starter + ["### Answer"]) * 2
    assert text.endswith(
        f"### Question\n{problem.statement}\n\n" + f"### Starter Code\n{problem.starter_code}\n\n" * starter + "### Answer\n\n"
    )
    assert "```" not in text and "<|im_" not in text and "<think>" not in text


EXAMPLES = {
    "stdin": (prompts._STDIN_EXAMPLE, None, TestCase("4\n3 1 3 5\n", "2\n")),
    "function": (prompts._FUNCTION_EXAMPLE, "pairsWithGap", TestCase("[1,4,1,7]\n3", "3", "functional")),
    "function, least": (prompts._FUNCTION_EXAMPLE, "pairsWithGap", TestCase("[5]\n0", "0", "functional")),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_worked_examples_solve_what_they_show(name: str) -> None:
    text, func_name, test = EXAMPLES[name]
    code = text.split("### Answer\n\n")[1]
    [[found]] = judged([(Problem("example", "", (test,), func_name=func_name), [base_programs(code)])], workers=1)
    assert (found.strict, found.official) == ("passed", "passed")


@pytest.mark.parametrize(
    ("text", "truncated", "programs"),
    [
        ("</think>\n```python\na\n```", False, Programs("a", "a")),
        ("```python\na\n```", False, Programs("a", "a")),
        ("```python\na\n```", True, Programs(None, "a")),
        ("```python\na\n```\n</think>\n", False, Programs(None, "a")),
        ("</think>\n```python\na\n```\n```text\nb\n```", False, Programs("a", "b")),
        ("</think>\n```python\na\n```\nand\n```cpp\n", False, Programs("a", "and")),
        ("</think>\n```python\na", False, Programs("a", None)),
        ("a", False, Programs(None, None)),
        ("```python\n\n```", False, Programs(None, None)),
        ("", False, Programs(None, None)),
    ],
)
def test_programs_of_an_answer_by_both_rules(text: str, truncated: bool, programs: Programs) -> None:
    assert chat_programs(text, CHAT, truncated) == programs


@pytest.mark.parametrize(
    ("text", "programs"),
    [
        ("a\nb\n\n", Programs("a\nb\n\n", "a\nb")),
        ("```python\na\n```\n", Programs("a", "```python\na\n```")),
        (" \n", Programs(None, None)),
    ],
)
def test_programs_of_a_continuation_by_both_rules(text: str, programs: Programs) -> None:
    assert base().programs(text, False) == programs


def test_a_continuation_ends_at_its_mark() -> None:
    assert base().ended(Sample(f"a\n{BASE_STOP} Question\nb", 9, True)) == Sample("a\n", 9, False)
    assert base().ended(Sample("a", 9, True)) == Sample("a", 9, True)
    assert chat(CHAT).ended(Sample("### a", 9, True)) == Sample("### a", 9, True)
