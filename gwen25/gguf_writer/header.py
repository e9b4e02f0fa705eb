"""A GGUF's start as bytes: counts, keys, where each tensor lies. The format: github.com/ggml-org/ggml, docs/gguf.md.

    packed(writer.kv_data[0], [Placed("token_embd.weight", (151936, 2048), 30, 622329856), ...])

The gguf package packs every string of a list by itself, two seconds for Qwen's vocabulary and merges; here a list is one pass.
Not here: what the keys say (`architecture`, `vocabulary`).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

VERSION: Final = 3
ALIGNMENT: Final = 32  # of the data's start and of each tensor in it
# GGUF's number of a type, by the package's name of it
_SCALARS: Final = {"UINT32": (4, "<I"), "INT32": (5, "<i"), "FLOAT32": (6, "<f"), "BOOL": (7, "<?")}
_STRING, _ARRAY = 8, 9


class Placed(NamedTuple):
    """A tensor of the file: `shape` as torch has it, `kind` ggml's number of its type, `size` in bytes."""

    name: str
    shape: tuple[int, ...]
    kind: int
    size: int


def padding(size: int) -> bytes:
    """What follows so many bytes, up to the next place where something may begin."""
    return bytes(-size % ALIGNMENT)


def packed(keys: Mapping[str, Any], tensors: Sequence[Placed]) -> bytes:
    """Everything before the first tensor's data. `keys`: name -> the gguf package's GGUFValue."""
    start = b"GGUF" + struct.pack("<IQQ", VERSION, len(tensors), len(keys))
    whole = b"".join([start, *(_string(key) + _value(value) for key, value in keys.items()), *_infos(tensors)])
    return whole + padding(len(whole))


def _infos(tensors: Sequence[Placed]) -> Iterator[bytes]:
    at = 0
    for name, shape, kind, size in tensors:
        lengths = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        yield _string(name) + lengths + struct.pack("<IQ", kind, at)
        at += size + len(padding(size))


def _string(text: str) -> bytes:
    data = text.encode()
    return len(data).to_bytes(8, "little") + data


def _value(value: Any) -> bytes:
    kind = value.type.name
    if kind == "ARRAY":
        return struct.pack("<I", _ARRAY) + _array(value.value)
    if kind == "STRING":
        return struct.pack("<I", _STRING) + _string(value.value)
    number, layout = _SCALARS[kind]
    return struct.pack("<I", number) + struct.pack(layout, value.value)


def _array(items: Sequence[Any]) -> bytes:
    """A list of strings or of whole numbers; a Qwen2's keys have no other."""
    if isinstance(items[0], str):
        return struct.pack("<IQ", _STRING, len(items)) + b"".join(map(_string, items))
    return struct.pack(f"<IQ{len(items)}i", _SCALARS["INT32"][0], len(items), *items)
