"""The program in a model's answer, found as a careful human would find it.

    extract("So:\\n```python\\nprint(7)\\n```")     Extract(code="print(7)", finished=True, plain=False)

`chat` calls it with the text after `</think>`, for the reward, the data set and the benchmark alike. Every rule has its row in
tests/test_extraction.py. These say what is a block; which of them is the program says `selection.choose`.

* A fence is a line of three or more backticks or tildes, at any indentation, with a language or none. After prose on the same line
  ("Code: ```python", "- ```python") it opens a block only where nothing follows the language, and without one only after a colon.
  Of several on such a line the last one counts, with its language right behind it ("Use ``` to fence. ```python").
* A block ends at the next fence of its kind and at least its length. One with a language opens the next block too, for models that
  forget to close.
* A fence in a triple-quoted string of the program ends nothing where the program, read on to the string's end, parses; else it ends it.
* A fence need not stand alone to close: outside strings and comments backticks are no Python, so a block ends in "print(7)```". Where
  nothing closes a block, a fence at the end of its last line does, even in a comment.
* "```python print(7)```" on one line is a block. Code after the language, on the opening line, belongs to the block.
* Code loses the indentation of its first line, a list item's: a program begins at the margin.
* From a line that begins with `<think>` to `</think>`, or to the end, all is draft.
* Where no block is the program, those inside the blocks are looked at (a whole answer in "````markdown"), one level deep; then what
  stands between [PYTHON] and [/PYTHON], or a text that is nothing but a program.

Hostile text costs no more than a few passes over it, about a second a megabyte. Standard library only; nothing is run here.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from gwen25.fences import Opening, blanks, closing, has_fence, labelled, near, one_line, opening, read_code
from gwen25.selection import Block, choose, gives_answer, parsed

THINK_OPEN: Final = "<think>"
THINK_CLOSE: Final = "</think>"
_PATIENCE: Final = 4  # how often a text may be read on from a doubtful fence and gone back: each time costs a pass over the rest

# the shape `ChatFormat.answer` writes: one closed python block, nothing else, no fence line inside it
_ONE_BLOCK: Final = re.compile(r"(?:[^\S\n]*+\n)*+([ \t]*+)```python\n((?:(?!```)[^\n]*+\n)*+)```\s*+")


class Extract(NamedTuple):
    """`code`: the program, None where there is none. `finished`: the last block was closed, so the text was not cut off in it.

    `plain`: the text is one closed python block and nothing else, which every reader of Markdown reads alike; it is taken to the letter.
    """

    code: str | None
    finished: bool
    plain: bool


def extract(text: str) -> Extract:
    """The program of a text that holds no more reasoning before it."""
    plain = _one_block(text)
    if plain is not None:
        return Extract(plain, finished=True, plain=True)
    text = _unix(text)
    blocks = _Reader(text).blocks() if has_fence(text) else []
    code = choose(blocks)
    if code is None:
        code = choose([inner for block in blocks if block.closed and has_fence(block.code) for inner in _Reader(block.code).blocks()])
    if code is None:
        code = _bare_program(_tagged(text))
    return Extract(code, finished=not blocks or blocks[-1].closed, plain=False)


def _one_block(text: str) -> str | None:
    match = _ONE_BLOCK.fullmatch(text)
    if match is None:
        return None
    indent, lines = len(match[1]), _unix(match[2].removesuffix("\n")).split("\n")
    if lines[-1].endswith("\r") or any(near(indent, closing("```", line)) or (indent and blanks(line)) for line in lines):
        return None
    return "\n".join(lines)


def _unix(text: str) -> str:
    return re.sub(r"(?<!\r)\r++\n", "\n", text) if "\r" in text else text


def _tagged(text: str) -> str:
    """What stands between the last two tags; all of it where there are none."""
    before, close, _ = text.rpartition("[/PYTHON]")
    _, open_, inside = before.rpartition("[PYTHON]")
    return inside if close and open_ else text


def _bare_program(text: str) -> str | None:
    tree = parsed(text)
    return text.strip("\n").rstrip() if tree and gives_answer(tree, text) else None


class _Cut(NamedTuple):
    """Where a block ends: before line `at`. `head`: the code before the fence on that line, None for a fence that stands alone."""

    at: int
    head: str | None = None
    closed: bool = True


class _Reader:
    """Reads blocks off a text, from top to bottom."""

    def __init__(self, text: str) -> None:
        self.lines: Final = text.split("\n")  # not splitlines: it would also break at U+2028 inside a string
        self.at = 0
        self.patience = _PATIENCE

    def blocks(self) -> list[Block]:
        """Every block of the text, those of other languages too, in the order of their opening lines."""
        found = []
        while self.at < len(self.lines):
            line = self.lines[self.at]
            self.at += 1
            if line.lstrip().startswith(THINK_OPEN):
                self._skip_draft()
            elif not has_fence(line):
                continue
            elif (code := one_line(line)) is not None:
                found.append(Block(code, "python", closed=True))
            elif opened := opening(line):
                found.append(self._block(opened))
        return found

    def _skip_draft(self) -> None:
        """On to what follows the tag, on its line. The next tag on the same line counts, so that no line is read twice."""
        for at in range(self.at - 1, len(self.lines)):
            _, close, after = self.lines[at].rpartition(THINK_CLOSE)
            if close:
                self.at, self.lines[at] = at, after
                return
        self.at = len(self.lines)

    def _block(self, opened: Opening) -> Block:
        cut = self._next_fence(opened) if opened.language == "other" else self._end_of_program(opened)
        code = self._code(opened, cut)
        if cut.closed:
            self.at = cut.at + (cut.head is not None or not labelled(self.lines[cut.at]))  # a fence with a language opens the next block
        elif opened.language != "python" and self.patience:
            self.patience -= 1  # perhaps no fence but an underline: what stands below is read again
        else:
            self.at = cut.at
        return Block(code, opened.language, cut.closed)

    def _code(self, opened: Opening, cut: _Cut) -> str:
        lines = self.lines[self.at : cut.at] + ([cut.head] if cut.head else [])
        margin = blanks(next((line for line in lines if line.strip()), ""))
        if margin:
            lines = [line[min(margin, blanks(line)) :] for line in lines]
        return "\n".join([opened.first, *lines] if opened.first else lines)

    def _next_fence(self, opened: Opening) -> _Cut:
        for at in range(self.at, len(self.lines)):
            if near(opened.indent, closing(opened.fence, self.lines[at])):
                return _Cut(at)
        return _Cut(len(self.lines), closed=False)

    def _end_of_program(self, opened: Opening) -> _Cut:
        """The first fence outside the program's strings; the first one at all where the string that it stands in leads to no program."""
        inside: int | None = None  # the first fence inside a string
        quote = ""
        for at in range(self.at, len(self.lines)):
            line = self.lines[at]
            fence = closing(opened.fence, line)
            if fence and not quote:
                return self._believed(opened, _Cut(at), inside)
            if inside is None and near(opened.indent, fence):
                if not self.patience:
                    return _Cut(at)
                inside = at
            quote, bare = read_code(line, quote, opened.fence)
            if bare is not None:
                return self._believed(opened, _Cut(at, line[:bare].rstrip()), inside)
        return self._believed(opened, self._last_line(opened), inside)

    def _believed(self, opened: Opening, cut: _Cut, inside: int | None) -> _Cut:
        if inside is None or parsed(self._code(opened, cut)):
            return cut
        self.patience -= 1
        return _Cut(inside)

    def _last_line(self, opened: Opening) -> _Cut:
        """The end of a block that nothing closes: a fence at the end of its last line closes it, where there is one."""
        last = next((at for at in range(len(self.lines) - 1, self.at - 1, -1) if self.lines[at].strip()), self.at)
        line = self.lines[last].rstrip() if last < len(self.lines) else ""
        if not line.endswith(opened.fence):
            return _Cut(len(self.lines), closed=False)
        return _Cut(last, line.rstrip(opened.fence[0]).rstrip())
