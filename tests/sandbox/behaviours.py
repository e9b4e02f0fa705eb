"""What programs do with a Python, as a table: each must do the same in the sandbox as under `python solution.py < in > out`.

    == NAME
    : OPTION VALUE
    program, up to the next head

Options: `stdin TEXT` (escapes are resolved), `stdin_times N` (GIVEN so often); `differs WHY`, for a known difference, which must then be
one: in the output, the last line on stderr, or the exit status. Sources that no text file can hold are in SOURCES and BROKEN.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

GIVEN = "first line\nsecond é\n".encode()
SOURCES = {
    "a byte order mark": b"\xef\xbb\xbfprint('x')",
    "a byte order mark and a form feed": b"\xef\xbb\xbf\x0cprint('x')",
    "a coding line": b"# -*- coding: latin-1 -*-\nprint(ascii('\xe9'))",
    "a coding line of another name": b"#!/usr/bin/python3\n# vim: set fileencoding=cp1252 :\nprint(ascii('\x80'))",
    "a coding line against the mark": b"\xef\xbb\xbf# coding: latin-1\nprint('x')",
    "carriage returns": b"if True:\r\n    print('''a\r\nb''')\r\n    print(2)\r\n",
    "carriage returns alone": b"print(1)\rprint(2)\r",
    "no end of line": b"print(1)",
    "nothing": b"",
    "a comment only": b"# nothing",
    "an exclamation": b"#!/usr/bin/env python3\nprint(1)",
    "tabs of eight": b"if True:\n\tprint(1)\n\tif True:\n\t\tprint(2)\n",
    "tabs against blanks": b"if True:\n\tprint(1)\n        print(2)\n",
    "a form feed": b"print(1)\n\x0c\nprint(2)\n",
    "identifiers that are not normal": "ﬁ = 1; print(fi, globals().get('ﬁ'))".encode(),
    "trailing blanks and a backslash": b"x = 1 + \\\n    2   \nprint(x)   ",
    "an end of file in a block": b"def f():",
    "control z": b"print(1)\n\x1a",
    "a long line": b"x = [" + b"1, " * 100_000 + b"]\nprint(len(x))",
    "a long program": b"x = 0\n" + b"x += 1\n" * 30_000 + b"print(x)",
    "a deep nest": b"print(" + b"(" * 150 + b"1" + b")" * 150 + b")",
}

BROKEN = {  # bytes are compiled, not a file, and CPython words these errors in two ways
    "a coding line that is wrong": b"# coding: nothing-like-that\nprint('x')",
    "bytes that are no text": b"x = '\xff'\nprint(1)",
    "a null byte": b"print(1)\nx = '\0'\n",
}


class Behaviour(NamedTuple):
    source: bytes
    stdin: bytes = GIVEN
    differs: str = ""  # why, for a known difference


def table() -> dict[str, Behaviour]:
    text = Path(__file__).with_suffix(".txt").read_text()
    found = dict(map(_read, re.split(r"^== ", text, flags=re.MULTILINE)[1:]))
    broken = {name: Behaviour(source, differs="in the words of the error") for name, source in BROKEN.items()}
    return found | {name: Behaviour(source) for name, source in SOURCES.items()} | broken


def _read(block: str) -> tuple[str, Behaviour]:
    name, _, rest = block.partition("\n")
    options = {}
    while rest.startswith(": "):
        line, _, rest = rest.partition("\n")
        key, _, value = line[2:].partition(" ")
        options[key] = value
    stdin = options["stdin"].encode().decode("unicode_escape").encode("latin-1") if "stdin" in options else GIVEN
    return name, Behaviour(rest.strip("\n").encode() + b"\n", stdin * int(options.get("stdin_times", 1)), options.get("differs", ""))
