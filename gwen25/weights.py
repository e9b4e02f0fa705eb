"""Safetensors files in pieces: read rows where they lie, plan and write new files, never a whole tensor in memory.

    tensors = stored(Path("Qwen2.5-3B"))         name -> where its numbers lie; BadInput for files or an index that do not fit
    with Reader() as reader: reader.rows(tensors["model.norm.weight"], 0, 64)
    plan_shards(tensors, "bfloat16", 5 * 10**9)  the hub's files for a model of that dtype
    pieces(rows, columns)                        [(0, 1152), (1152, 2304), ...]

Files are read by `pread` and not mapped: pages of a mapped file count as memory of the process, up to the model's size. Torch is
imported where numbers are read. Not here: what is done to the numbers (`merging`), GGUF (`gguf_writer`).
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, NamedTuple, Self

from gwen25 import models
from gwen25.errors import BadInput

if TYPE_CHECKING:
    import torch

# torch's name -> safetensors' name and bytes of a number
DTYPES: Final = {"float32": ("F32", 4), "float16": ("F16", 2), "bfloat16": ("BF16", 2)}
_NAMES: Final = {stored: name for name, (stored, _) in DTYPES.items()}
# Of float32. Qwen2.5-0.5B's shape merged in 5.2 s with pieces of 1 MB and 9.5 s with 4 MB: the core's cache holds the smaller ones.
PIECE: Final = 2**20
# A product of 1 to 3 rows goes through other kernels of the matrix library than a tall one, and rounds otherwise. Slices of a multiple
# of 64 rows, no rest below 64 left alone, gave the bits of the whole product for every rank from 1 to 256 and every shape tried.
ROWS: Final = 64


class Stored(NamedTuple):
    """A tensor of a file: torch's name of its dtype, and the bytes where its numbers begin."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def rows(self) -> int:
        return self.shape[0] if self.shape else 1

    @property
    def columns(self) -> int:
        return prod(self.shape[1:])


def stored(directory: Path) -> dict[str, Stored]:
    """Every tensor of a model directory. Raises BadInput for a cut-off file, and for an index that tells of other tensors."""
    try:
        files, index = models.weight_files(directory), directory / "model.safetensors.index.json"
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"] if index.is_file() else None
        told = None if places is None else {str(name): Path(file).name for name, file in places.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{directory}: model.safetensors.index.json cannot be read ({type(error).__name__}: {error})") from error
    tensors: dict[str, Stored] = {}
    for file in files:
        held = of_file(file)
        if twice := sorted(tensors.keys() & held.keys()):
            raise BadInput(f"{directory}: {twice[0]} is in {tensors[twice[0]].file.name} and in {file.name}; keep one model in a directory")
        tensors |= held
    if told is not None and (odd := sorted(told.items() ^ {(name, tensor.file.name) for name, tensor in tensors.items()})):
        raise BadInput(f"{directory}: index and files disagree on where {odd[0][0]} is; fetch or write the model again")
    return tensors


def of_file(file: Path) -> dict[str, Stored]:
    """The tensors of one file. Raises BadInput where it is cut off or holds numbers that are not of a plain float type."""
    header = models.read_header(file)
    with file.open("rb") as data:
        start = 8 + int(struct.unpack("<Q", data.read(8))[0])
    tensors = {}
    for name, entry in header.items():
        shape, (begin, end) = tuple(entry["shape"]), entry["data_offsets"]
        if entry["dtype"] not in _NAMES:
            raise BadInput(
                f"{file}: {name} is stored as {entry['dtype']}; weights of {', '.join(DTYPES)} are read: fetch those of the model"
            )
        dtype = _NAMES[entry["dtype"]]
        if end - begin != prod(shape) * DTYPES[dtype][1]:
            raise BadInput(f"{file}: {name} has {end - begin} bytes for shape {shape} of {dtype}; fetch or write the file again")
        tensors[name] = Stored(file, dtype, shape, start + begin)
    return tensors


class Reader:
    """Opens each file once and keeps it open."""

    def __init__(self) -> None:
        self._open: dict[Path, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()

    def rows(self, tensor: Stored, start: int, stop: int) -> torch.Tensor:
        """Rows `start` to `stop` as (rows, columns), in the dtype of the file."""
        import torch

        if tensor.file not in self._open:
            self._open[tensor.file] = os.open(tensor.file, os.O_RDONLY)
        width = tensor.columns * DTYPES[tensor.dtype][1]
        data = bytearray((stop - start) * width)
        self._fill(data, self._open[tensor.file], tensor.offset + start * width, tensor.file)
        kind: torch.dtype = getattr(torch, tensor.dtype)
        if not data:
            return torch.empty(stop - start, tensor.columns, dtype=kind)
        return torch.frombuffer(data, dtype=kind).view(stop - start, tensor.columns)

    def whole(self, tensor: Stored) -> torch.Tensor:
        """All of a small tensor, in its shape."""
        return self.rows(tensor, 0, tensor.rows).view(tensor.shape)

    @staticmethod
    def _fill(data: bytearray, descriptor: int, offset: int, file: Path) -> None:
        view, done = memoryview(data), 0
        while done < len(view):
            count = os.preadv(descriptor, [view[done:]], offset + done)  # at most 2 GB a call
            if not count:
                raise BadInput(f"{file} ends early: it was cut off while it was read; fetch or write it again")
            done += count


def pieces(rows: int, columns: int) -> list[tuple[int, int]]:
    """Divide rows into pieces of about PIECE bytes of float32, of a multiple of ROWS; a rest below ROWS belongs to the last piece."""
    step = max(ROWS, PIECE // (4 * max(columns, 1)) // ROWS * ROWS)
    starts = list(range(0, rows, step))
    if len(starts) > 1 and rows - starts[-1] < ROWS:
        starts.pop()
    return list(zip(starts, [*starts[1:], rows], strict=True)) if starts else []


def size_of(shape: Iterable[int], dtype: str) -> int:
    return prod(shape) * DTYPES[dtype][1]


def plan_shards(shapes: Mapping[str, tuple[int, ...]], dtype: str, max_shard: int) -> list[dict[str, tuple[int, ...]]]:
    """Divide tensors, in the order of their names, over files of at most `max_shard` bytes; a larger one has a file of its own."""
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    filled = 0
    for name in sorted(shapes):
        size = size_of(shapes[name], dtype)
        if filled and filled + size > max_shard:
            shards.append({})
            filled = 0
        shards[-1][name] = shapes[name]
        filled += size
    return shards


def shard_names(count: int) -> list[str]:
    """As the hub's readers expect them."""
    return ["model.safetensors"] if count == 1 else [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]


def write_header(out: BinaryIO, shapes: Mapping[str, tuple[int, ...]], dtype: str) -> None:
    """The header of a safetensors file whose data follows in the order of `shapes`; padded so that the data is aligned to 8 bytes."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, shape in shapes.items():
        end = at + size_of(shape, dtype)
        header[name] = {"dtype": DTYPES[dtype][0], "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    out.write(struct.pack("<Q", len(text)) + text)
