"""Which tensors a checkpoint holds, and at which bytes of which safetensors file.

    read_tensors(Path("merged"))     [Stored("lm_head.weight", "BF16", (151936, 2048), file, 152), ...]

Only headers are read. Not here: what the tensors mean (`architecture`), their numbers (`numbers`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Final

from gwen25.errors import BadInput

BYTES: Final = {"F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True, slots=True)
class Stored:
    """Where a tensor lies: `dtype` as safetensors names it (F32, F16, BF16), `shape` torch's, bytes from `offset` of `file`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int


def read_tensors(model_dir: Path) -> list[Stored]:
    """Every tensor of a checkpoint, shards in name order and tensors by name in each, as llama.cpp's converter walks them.

    Raises BadInput for a file that is missing, cut off or no safetensors, and for a shard index that disagrees with its files.
    """
    index = model_dir / "model.safetensors.index.json"
    if not index.is_file():
        return _header(model_dir / "model.safetensors")
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = sorted(set(weight_map.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{index} is not a shard index: {error!r}") from error
    if strange := [file for file in files if Path(file).name != file]:
        raise BadInput(f"{index} names {strange[0]!r}: a shard must lie beside its index")
    tensors = [tensor for file in files for tensor in _header(model_dir / file)]
    misplaced = {tensor.name for tensor in tensors if weight_map.get(tensor.name) != tensor.file.name}
    if differing := misplaced | (weight_map.keys() - {tensor.name for tensor in tensors}):
        raise BadInput(f"{index} and its shards disagree on {len(differing)} tensors, such as {min(differing)}; fetch the checkpoint again")
    return tensors


def stamps(tensors: Iterable[Stored]) -> dict[Path, tuple[int, ...]]:
    """What tells that a file is still the one that was read: its inode, size and time of change."""
    found = {file: file.stat() for file in {tensor.file for tensor in tensors}}
    return {file: (status.st_ino, status.st_size, status.st_mtime_ns) for file, status in found.items()}


def _header(file: Path) -> list[Stored]:
    """The header of one safetensors file: 8 bytes of length, JSON, then the data."""
    try:
        size = file.stat().st_size
        with file.open("rb") as data:
            length = int.from_bytes(data.read(8), "little")
            if not 2 <= length <= min(size - 8, 100 << 20):
                raise ValueError(f"a header of {length} bytes in a file of {size}")
            header = json.loads(data.read(length))
        header.pop("__metadata__", None)
        return [_stored(file, size, 8 + length, name, entry) for name, entry in sorted(header.items())]
    except FileNotFoundError as error:
        raise BadInput(f"no such file: {file}; weights are read from safetensors files") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{file} is not a whole safetensors file: {error}; write or fetch it again") from error


def _stored(file: Path, size: int, start: int, name: str, entry: Mapping[str, Any]) -> Stored:
    dtype, shape = str(entry["dtype"]), tuple(int(n) for n in entry["shape"])
    if dtype not in BYTES:
        raise BadInput(f"{file}: {name} is stored as {dtype}; only {', '.join(BYTES)} can be exported (merge a quantized model first)")
    first, end = (int(n) for n in entry["data_offsets"])
    if end - first != prod(shape) * BYTES[dtype] or first < 0 or start + end > size:
        raise ValueError(f"{name} does not fit in its place")
    return Stored(name, dtype, shape, file, start + first)
