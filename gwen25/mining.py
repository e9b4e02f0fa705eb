"""The tests that a problem's own statement holds: its worked examples, as TestCases.

    mine_examples(statement)              (TestCase(input="2\\n3 0\\n", output="2\\n"), ...)
    accepts_several_outputs(statement)    True where equality with an example is too strict a judge

Read are the layouts of Codeforces ("Examples / Input / Output"), AtCoder ("Sample Input 1"), CodeChef and HackerEarth ("Input:",
"SAMPLE INPUT"), with or without dashes round the headings. A doubtful example is left out: a wrong test would throw away a
right program. Not read: interactive problems, and LeetCode's `Input: a = 1, b = 2`, which needs a signature to be called.

Standard library only; nothing is run here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, Literal

from gwen25.data import TestCase

Heading = Literal["examples", "example", "input", "sample_input", "output", "sample_output", "end"]

# a heading stands alone on its line, perhaps in dashes, stars or hashes, perhaps with a number and a colon
_EDGES: Final = " \t\r\xa0-=*#_:"
_NUMBER: Final = r"(?: ?(?:#|no\.?)? ?\d+)?"
_WORDS: Final[tuple[tuple[Heading, str], ...]] = (
    ("examples", r"(?:examples?|samples?)(?: tests?| cases?| test cases?)?(?:\(s\))?|sample input (?:and|/) (?:sample )?output"),
    ("example", r"(?:example|sample)(?: test| case| test case)? ?(?:#|no\.?)? ?\d+"),
    ("sample_input", rf"(?:sample|example)s? inputs?{_NUMBER}"),
    ("input", rf"inputs?{_NUMBER}"),
    ("sample_output", rf"(?:sample|example)s? outputs?{_NUMBER}"),
    ("output", rf"outputs?{_NUMBER}"),
    ("end", r"notes?|explanations?|hints?|constraints?|scoring|subtasks?|limits?|interaction|remarks?|source|tutorial"),
    ("end", r"(?:(?:sample |example )?explanation\b|note ?:).*"),  # with the explanation on the same line
)
_HEADINGS: Final = tuple((kind, re.compile(words, re.IGNORECASE)) for kind, words in _WORDS)
_INTERACTIVE: Final = re.compile(
    r"\binteractive (?:problem|task)|\b(?:problem|task) is interactive|^[-*# ]{0,9}interaction[-*#: ]{0,9}$"
    r"|\bf?flush(?:\(|ing)|\bflush (?:the )?(?:standard )?(?:output|stdout|buffer|stream)",
    re.IGNORECASE | re.MULTILINE,
)
_SEVERAL: Final = re.compile(
    r"\b(?:print|output|find|give|return|report|display) any\b(?! (?:number|more|number of)\b)"
    r"|\b(?:print|output|write|display|listed|printed)\b[^.\n]{0,80}\bin (?:any|arbitrary|an arbitrary) order"
    r"|\b(?:several|multiple|many|more than one)\b[^.\n]{0,80}"
    r"[,;:.] ?(?:you|print|output|then|find|choose|report|display|any)\b[^.\n]{0,50}\bany\b"
    r"|\bany (?:\w+ ){0,2}(?:is|are|will be|can be|would be) (?:\w+ )?(?:accepted|allowed|printed|correct|fine)\b"
    r"|\b(?:absolute|relative)\b[^.\n]{0,40}\berror|\berror\b[^.\n]{0,60}\b10\b|\b(?:precision|accuracy)\b[^.\n]{0,40}\b10\b",
    re.IGNORECASE,
)
_WORD: Final = re.compile(r"[^\W\d_]{2,}")


def mine_examples(statement: str) -> tuple[TestCase, ...]:
    """The statement's examples as stdin tests, in order, each once; () where there are none that can be told with certainty.

    Texts end in one newline; blank lines around them are layout and dropped.
    """
    if _INTERACTIVE.search(statement):
        return ()
    pairs = [TestCase(input=given, output=wanted) for given, wanted in _pairs(statement)]
    return tuple(dict.fromkeys(pairs))


def accepts_several_outputs(statement: str) -> bool:
    """True where the statement says that more than one output is right, or asks for a number within a tolerance.

    Such a problem has a checker of its own, which the statement does not hold. A program that differs from the example may
    then be right: its failure is unknown, not wrong.
    """
    return _SEVERAL.search(statement) is not None


def _pairs(statement: str) -> list[tuple[str, str]]:
    """(input, output) of each example. A block without its counterpart, or empty, or doubtful, is left out."""
    found: list[tuple[str, str]] = []
    given: str | None = None
    for heading, block in _blocks(statement):
        if heading == "examples":  # a later section is the real one: an earlier "Example" belongs to the story
            found.clear()
        elif heading in ("input", "sample_input"):
            given = _trimmed(block)
        elif heading in ("output", "sample_output"):
            wanted = _answer(block) if heading == "sample_output" else _trimmed(block)
            if given and wanted:
                found.append((given, wanted))
            given = None
    return found


def _blocks(statement: str) -> Iterator[tuple[Heading, list[str]]]:
    """Headings of the examples, each with the lines below it. A bare "Input" counts only once examples have begun."""
    inside, current, lines = False, None, list[str]()
    for line in statement.splitlines():
        heading = _heading(line)
        if heading in ("examples", "example", "sample_input"):
            inside = True
        if heading is None or not inside:
            lines.append(line)
            continue
        if current is not None:
            yield current, lines
        current, lines = heading, []
        inside = heading != "end"
    if current is not None:
        yield current, lines


def _heading(line: str) -> Heading | None:
    words = line.strip(_EDGES)
    return next((kind for kind, pattern in _HEADINGS if pattern.fullmatch(words)), None)


def _trimmed(lines: list[str]) -> str:
    """The lines as text that ends in one newline, without blank lines at either end and trailing blanks; "" where all are blank."""
    text = "\n".join(line.rstrip() for line in lines).strip("\n")
    return text + "\n" if text else ""


def _answer(lines: list[str]) -> str:
    """The output below "Sample Output": its first paragraph, for AtCoder puts remarks in prose after it, without a heading.

    "" where the first paragraph is itself a remark (an empty output), or the rest may still be output.
    """
    first, *rest = re.split(r"\n{2,}", _trimmed(lines).strip("\n"))
    if len(_WORD.findall(first)) >= 4 and first.endswith("."):
        return ""
    if rest and not any(_is_remark(paragraph) for paragraph in rest):
        return ""
    return first + "\n" if first else ""


def _is_remark(paragraph: str) -> bool:
    """Prose of two words or more, or a formula with its full stop: nothing that a program prints after a blank line."""
    return len(_WORD.findall(paragraph)) >= 2 or paragraph.endswith(".")
