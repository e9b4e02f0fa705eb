"""The nouns every room shares: a problem, its tests, a chat message. Standard library only.

    Problem   a statement in prose, how it is asked (stdin or a function), and the tests that judge an answer
    TestCase  one input and the output it must give

Here too: reading JSON lines with errors that name file and line. Not here: prompts (`chat`), verdicts (`sandbox`).
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict

from gwen25.errors import BadInput

TestKind = Literal["stdin", "functional"]


class Message(TypedDict):
    """One chat turn. Reasoning never travels in the history: see `chat.ChatFormat`."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class TestCase:
    """One test. `stdin`: text in, text out. `functional`: one JSON value per line and parameter in, one JSON value out."""

    __test__ = False  # pytest must not collect it

    input: str
    output: str
    kind: TestKind = "stdin"


@dataclass(frozen=True, slots=True)
class Problem:
    """A programming problem. `func_name` is None for a stdin program, else the function (or `Solution` method) to call."""

    id: str
    statement: str
    tests: tuple[TestCase, ...]
    difficulty: str = "unknown"
    starter_code: str = ""
    func_name: str | None = None
    title: str = ""
    date: str = ""  # ISO date of the contest, "" where unknown


def storable(text: str) -> bool:
    """False for a text with half a character (a lone surrogate, such as JSON's "\\ud800"): no UTF-8 file and no tokenizer takes it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, object) of a `.jsonl` or `.jsonl.gz` file, one line at a time.

    Raises BadInput for a file that is missing, unreadable, cut off, or holds a line that is not a JSON object.
    """
    for number, line in read_lines(path):
        yield number, json_object(f"{path}, line {number}", line)


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (line number from 1, line) for what stands in such a file, blank lines left out. Raises BadInput as `read_jsonl` does."""
    if not path.is_file():
        raise BadInput(f"{path} is a folder; a file is expected" if path.is_dir() else f"no such file: {path}")
    number = 0
    try:
        with gzip.open(path, "rb") if path.name.endswith(".gz") else path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield number, line
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise BadInput(f"{path}, after line {number}: not a complete gzip file ({error}); fetch or write it again") from error
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror or error}") from error


def json_object(where: str, line: bytes) -> dict[str, Any]:
    """A line's object. Raises BadInput, beginning with `where`."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{where}: not JSON ({error}); one JSON object a line is expected") from error
    if not isinstance(value, dict):
        raise BadInput(f"{where}: a JSON object is expected, not {type(value).__name__}")
    return value
