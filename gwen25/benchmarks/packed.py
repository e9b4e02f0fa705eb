"""LiveCodeBench's private tests, unpacked without running or believing anything.

    cases("private_test_cases", row["private_test_cases"])      a JSON list, or what one becomes

They come as a JSON list, or as base64 of zlib of a pickle of such a list's text. All of that is foreign and packs bombs well: 1 MB of
zlib unpacks to 1 GB, 1 GB of `[],[],` to 20 GB of lists, and a pickle's opcodes can claim memory without bound, or run code. So zlib
stops at MAX_BYTES; the pickle is read and never run, and may hold one string and nothing else; and the text inside may hold nothing
but MAX_TESTS flat objects of texts, so that what is built has the size of what was read. Not here: what a test must hold (`problems`).
"""

from __future__ import annotations

import base64
import binascii
import json
import pickletools
import re
import zlib
from io import BytesIO
from typing import Any, Final

from gwen25.errors import BadInput

FIELD: Final = "private_test_cases"
MAX_BYTES: Final = 1 << 30  # of one problem, unpacked: the benchmark's own largest stay below
MAX_TESTS: Final = 10_000  # of one problem; the benchmark has at most some hundred
MAX_OPCODES: Final = 16  # a pickled string has 5 or fewer, and 1 MB of zlib can hold a billion


def cases(value: Any) -> Any:
    """The private tests in either official encoding, decoded as far as JSON. BadInput for anything else."""
    if not isinstance(value, str) or value.lstrip().startswith("["):
        return value
    try:
        packed = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadInput(f"{FIELD} is neither a JSON list nor base64 ({error})") from error
    return _flat(_unpickled(_inflated(packed)))


def _inflated(packed: bytes) -> bytes:
    inflate = zlib.decompressobj()
    try:
        data = inflate.decompress(packed, MAX_BYTES)
    except zlib.error as error:
        raise BadInput(f"{FIELD}: not zlib data ({error})") from error
    if inflate.unconsumed_tail:
        raise BadInput(f"{FIELD} unpack to more than {MAX_BYTES >> 20} MiB")
    if not inflate.eof:
        raise BadInput(f"{FIELD}: zlib data that is cut off")
    return data


# what `pickle.dumps(text)` writes, in every protocol: a frame, one string, a note of it, the end
_STRING: Final = frozenset({"UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"})
_NOTES: Final = frozenset({"PROTO", "FRAME", "MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"})


def _unpickled(data: bytes) -> str:
    """The string that a pickle of a single string holds.

    An unpickler, even one that refuses every global, would still obey opcodes that claim memory without bound (LONG_BINPUT with
    a large index); so the opcodes are only looked at.
    """
    texts: list[str] = []
    try:
        for count, (opcode, argument, position) in enumerate(pickletools.genops(BytesIO(data))):
            if opcode.name in _STRING and not texts:
                texts.append(str(argument))
            elif opcode.name == "STOP" and texts and position == len(data) - 1:
                return texts[0]
            elif opcode.name not in _NOTES or count >= MAX_OPCODES:
                raise BadInput(f"{FIELD}: a pickle with {opcode.name}; a pickled string and nothing else is accepted")
    except (ValueError, AttributeError, OverflowError) as error:  # what genops raises for bytes that are no pickle
        raise BadInput(f"{FIELD}: not a pickle ({' '.join(str(error).split())[:200]})") from error
    raise BadInput(f"{FIELD}: a pickle without an end")


# possessive (*+): nothing is tried twice, however hostile the text
_TEXT: Final = r'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_CASE: Final = re.compile(rf"\s*+(\{{(?:\s*+{_TEXT}\s*+:\s*+{_TEXT}\s*+,?){{1,8}}+\}})\s*+([,\]])", re.DOTALL)
_EMPTY: Final = re.compile(r"\[\s*+\]")


def _flat(text: str) -> list[dict[str, str]]:
    """A JSON list of flat objects of texts, one object decoded at a time."""
    text = text.strip()
    if _EMPTY.fullmatch(text):
        return []
    found: list[dict[str, str]] = []
    at, more = 1, text[:1] == "["
    while more and len(found) < MAX_TESTS and (case := _CASE.match(text, at)):
        try:
            found.append(json.loads(case[1]))
        except ValueError as error:
            raise BadInput(f"{FIELD}, test {len(found) + 1}: not JSON ({error})") from error
        at, more = case.end(), case[2] == ","
    if not found or more or at < len(text):
        raise BadInput(f"{FIELD}, test {len(found) + 1}: a JSON list of at most {MAX_TESTS} objects of texts is expected")
    return found
