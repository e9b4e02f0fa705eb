"""What a GGUF says of itself: its keys and its tensors' types, in a tenth of a second where gguf.GGUFReader takes fifteen.

    header = read_header(Path("model.gguf"))
    header.fields["tokenizer.ggml.eos_token_id"]     151645
    header.tensors[0]                                TensorInfo(name="token_embd.weight", type="Q6_K", shape=(2048, 151936))

Only the header is read, one pass from its start; lists are kept as lists. Not here: tensor data, big-endian files, versions
below 2.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, Final

from gwen25.errors import BadInput

_SCALARS: Final = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_LONGEST: Final = 1 << 26  # bytes or items; the longest list of a real header has 151,936


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """`type` as ggml names it (F32, Q8_0, Q4_K), `shape` in ggml's order: the row's length first."""

    name: str
    type: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        block, size = GGML_QUANT_SIZES[GGMLQuantizationType[self.type]]
        return self.elements // int(block) * int(size)


@dataclass(frozen=True, slots=True)
class Header:
    fields: dict[str, Any]
    tensors: list[TensorInfo]


def read_header(file: Path) -> Header:
    """Raises BadInput for a file that is missing or is no GGUF."""
    from gguf import GGMLQuantizationType

    try:
        with file.open("rb") as data:
            if data.read(4) != b"GGUF":
                raise ValueError("it does not begin with GGUF")
            version, tensors, keys = struct.unpack("<IQQ", data.read(20))
            if version not in (2, 3):
                raise ValueError(f"version {version}")
            fields: dict[str, Any] = {}
            for _ in range(keys):
                name = _string(data)
                fields[name] = _value(data, _number(data, "<I"))
            infos = []
            for _ in range(tensors):
                name = _string(data)
                shape = tuple(_number(data, "<Q") for _ in range(_number(data, "<I")))
                infos.append(TensorInfo(name, GGMLQuantizationType(_number(data, "<I")).name, shape))
                _number(data, "<Q")
    except (OSError, struct.error, ValueError, KeyError, MemoryError, OverflowError, RecursionError) as error:
        raise BadInput(f"{file} is not a whole GGUF file: {error}") from error
    return Header(fields, infos)


def _value(data: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _string(data)
    if kind != _ARRAY:
        return _number(data, _SCALARS[kind])
    inner, length = _number(data, "<I"), _length(data)
    if inner in _SCALARS:
        item = _SCALARS[inner][1]
        return list(struct.unpack(f"<{length}{item}", data.read(length * struct.calcsize(item))))
    return [_value(data, inner) for _ in range(length)]


def _number(data: BinaryIO, kind: str) -> Any:
    return struct.unpack(kind, data.read(struct.calcsize(kind)))[0]


def _length(data: BinaryIO) -> int:
    length: int = _number(data, "<Q")
    if length > _LONGEST:
        raise ValueError(f"a string or list of {length} in its header")
    return length


def _string(data: BinaryIO) -> str:
    length = _length(data)
    text = data.read(length)
    if len(text) != length:
        raise ValueError("it ends within its header")
    return text.decode()
