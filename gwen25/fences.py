"""What one line of an answer says about blocks of code: that it opens one, closes one, is one, or is code.

    opening("Code: ```python")            the block that the line opens, None where it opens none
    closing("```", line)                  the line as a fence that could close what ``` opened
    one_line("```python print(7)```")     "print(7)"
    read_code(line, "", "```")            the triple quote that is open after a line of Python, and where a bare fence ends it

`extraction` puts the lines together, and states the rules. Standard library only.
"""

from __future__ import annotations

import re
from typing import Final, Literal, NamedTuple

Language = Literal["python", "other", ""]  # "": none was named

_PYTHON: Final = frozenset({"python", "python3", "py", "py3", "pypy", "pypy3"})

# possessive (*+) throughout: a hostile line must not make the match try its splits one by one
_FENCE: Final = re.compile(r"(?P<indent>[ \t]*+)(?P<fence>`{3,}+|~{3,}+)[ \t]*+(?P<language>[\w+-]*+)(?P<rest>[^`\n]*+)")
_ANY: Final = re.compile(r"`{3}|~{3}")
_CODE: Final = re.compile(r"(?:import|from|def|class) |[A-Za-z_][\w.]*+\(|[\w, ]*\w = ")  # what may stand behind the language, no attribute
_END_TOKENS: Final = re.compile(r"[ \t]*+(?:<[^<>]*+>[ \t]*+)*+")

# what decides whether a backtick is code: comments, triple quotes, strings (open ones end with their line), escapes
_TOKEN: Final = re.compile(r"#|`{3,}+|(?<!~)~{3,}+(?=[ \t]*+$)|\"\"\"|'''|\"(?:\\.|[^\"\\])*+\"?|'(?:\\.|[^'\\])*+'?|\\.")
_TO_END: Final = {quote: re.compile(rf"(?:\\.?|[^{quote[0]}\\]|{quote[0]}(?!{quote[:2]}))*+{quote}") for quote in ('"""', "'''")}


class Opening(NamedTuple):
    """The line that opens a block. `first`: code that stands on it."""

    indent: int
    fence: str
    language: Language
    first: str = ""


def has_fence(text: str) -> bool:
    """Whether there is anything that could be one."""
    return _ANY.search(text) is not None


def opening(line: str) -> Opening | None:
    """The block that a line opens, if it opens one."""
    fence = _FENCE.fullmatch(line)
    if fence is None:
        return _after_prose(line)
    language, rest = _language(fence["language"]), fence["rest"].strip()
    first = rest if language == "python" and _CODE.match(rest) else ""
    return Opening(len(fence["indent"]), fence["fence"], language, first)


def _after_prose(line: str) -> Opening | None:
    """The last fence of the line. Where it is not the only one, its language must touch it: "```x``` python" opens nothing."""
    before, mark, after = line.rpartition("```")
    prose = before.rstrip("`")
    fence = _FENCE.fullmatch(before[len(prose) :] + mark + after) if mark else None
    if fence is None or fence["rest"].strip():
        return None
    language, only = _language(fence["language"]), "```" not in prose
    named = language == "python" and (only or after.startswith(fence["language"]))
    opens = named or (language == "" and only and prose.rstrip().endswith(":"))
    return Opening(blanks(line), fence["fence"], language) if opens else None


def one_line(line: str) -> str | None:
    """The code of a block that opens and closes on one line."""
    text = line.strip()
    run = len(text) - len(text.lstrip(text[:1]))
    if run < 3 or text[0] not in "`~":
        return None
    fence = text[:run]
    label, _, code = text[run:].lstrip().partition(" ")
    end = read_code(code, "", fence)[1] if label.lower() in _PYTHON else None
    if end is None or not _END_TOKENS.fullmatch(code[end + run :]):
        return None
    return code[:end].strip() or None


def _language(label: str) -> Language:
    return "python" if label.lower() in _PYTHON else "other" if label else ""


def closing(fence: str, line: str) -> re.Match[str] | None:
    """The line as a fence of this kind, and of at least this length."""
    found = _FENCE.fullmatch(line) if fence in line else None
    return found if found and found["fence"].startswith(fence) else None


def near(indent: int, fence: re.Match[str] | None) -> bool:
    """Whether Markdown lets this fence close a block of that indentation: indented by less than 4 more."""
    return fence is not None and len(fence["indent"]) - indent < 4


def labelled(line: str) -> bool:
    """Whether it is a fence that names a language."""
    fence = _FENCE.fullmatch(line)
    return fence is not None and fence["language"] != ""


def read_code(line: str, quote: str, fence: str) -> tuple[str, int | None]:
    """One line of Python, begun inside `quote` ("" for none): the triple quote open after it, and where a bare fence ends the code."""
    at = 0
    while True:
        if quote:
            closed = _TO_END[quote].match(line, at)
            if closed is None:
                return quote, None
            at, quote = closed.end(), ""
        token = _TOKEN.search(line, at)
        if token is None or token[0] == "#":
            return "", None
        at = token.end()
        if token[0] in _TO_END:
            quote = token[0]
        elif token[0].startswith(fence):
            return "", token.start()


def blanks(line: str) -> int:
    """How far it is indented."""
    return len(line) - len(line.lstrip())
