"""A tensor's numbers in another type, piece by piece: f32, f16, bf16 or q8_0, byte for byte as llama.cpp makes them.

    for piece in pieces(tensor, descriptor):
        file.write(converted(read(tensor, descriptor, piece), tensor, "q8_0"))

Not here: which type a tensor gets (`file`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from math import prod
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from gwen25.errors import BadInput
from gwen25.gguf_writer.source import BYTES, Stored

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Numbers of a piece: a megabyte of bf16, so that what is made of it on the way stays in the processor's cache (q8_0 of eight times as
# much takes half again as long a number), and so that two threads seldom wait for each other between numpy's calls (a fourth: as long).
PIECE: Final = 1 << 19
BLOCK: Final = 32  # weights that share a scale in q8_0


class Piece(NamedTuple):
    """Whole rows of a tensor. `bits`: given where they had to be put in another order first, read when they are needed otherwise."""

    first: int
    rows: int
    bits: NDArray[Any] | None = None


def pieces(tensor: Stored, descriptor: int, heads: int | None = None) -> Iterator[Piece]:
    """The tensor in order. `heads`: of a Llama's q or k, whose rows change places, see `paired`."""
    width = tensor.shape[-1]
    rows, step = prod(tensor.shape) // width, max(1, PIECE // width)
    turned = paired(read(tensor, descriptor, Piece(0, rows)), heads) if heads is not None else None
    for row in range(0, rows, step):
        count = min(step, rows - row)
        yield Piece(row, count, None if turned is None else turned[row : row + count])


def read(tensor: Stored, descriptor: int, piece: Piece) -> NDArray[Any]:
    """The piece as the bits that are stored (uint16 or uint32)."""
    import numpy as np

    if piece.bits is not None:
        return piece.bits
    width, size = tensor.shape[-1], BYTES[tensor.dtype]
    data = os.pread(descriptor, piece.rows * width * size, tensor.offset + piece.first * width * size)
    if len(data) != piece.rows * width * size:
        raise BadInput(f"{tensor.file} ended while {tensor.name} was read; it was changed meanwhile, start again")
    return np.frombuffer(data, np.dtype(f"<u{size}")).reshape(piece.rows, width)


def paired(bits: NDArray[Any], heads: int) -> NDArray[Any]:
    """A Llama's q or k with the rows of each head in llama.cpp's order: first of one half, first of the other, second, ..."""
    return bits.reshape(heads, 2, bits.shape[0] // heads // 2, bits.shape[1]).swapaxes(1, 2).reshape(bits.shape)


def converted(bits: NDArray[Any], tensor: Stored, target: str) -> memoryview:
    """The piece in its target type. Rounding is to the nearest, ties to even; in q8_0 ties away from zero.

    Raises BadInput for a number that is not finite, or beyond the target's range.
    """
    import gguf
    import numpy as np

    # what is not finite is not finite as f16 either, nor is the scale of its block: one look, at what was made, is enough
    if target == "f16" and tensor.dtype != "F16":
        return to_f16(bits, tensor).data
    if target == "q8_0":
        return to_q8_0(bits, tensor).data
    _refuse_not_finite(bits, tensor.dtype, tensor)
    made: NDArray[Any] = bits
    if target == "f32":
        made = to_f32(bits, tensor.dtype)
    elif tensor.dtype.lower() != target:
        made = gguf.quants.quantize(to_f32(bits, tensor.dtype), gguf.GGMLQuantizationType[target.upper()])
    return np.ascontiguousarray(made).data


def to_f32(bits: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    import numpy as np

    if dtype == "BF16":
        wide = bits.astype(np.uint32)
        wide <<= np.uint32(16)
        return wide.view(np.float32)
    return bits.view(np.float16).astype(np.float32) if dtype == "F16" else bits.view(np.float32)


def to_f16(bits: NDArray[Any], tensor: Stored) -> NDArray[np.float16]:
    import numpy as np

    if tensor.dtype == "BF16":
        halves: NDArray[np.float16] = np.take(_every_bf16_as_f16(), bits)
    else:
        with np.errstate(over="ignore", invalid="ignore"):
            halves = to_f32(bits, tensor.dtype).astype(np.float16)
    if not _finite(halves.view(np.uint16), "F16"):
        _refuse_not_finite(bits, tensor.dtype, tensor)
        raise BadInput(f"{tensor.name} holds a value beyond float16's 65504; choose bf16, f32 or q8_0")
    return halves


@cache
def _every_bf16_as_f16() -> NDArray[np.float16]:
    """A table of bf16's 65,536 values: looking them up is three times faster than converting them."""
    import numpy as np

    with np.errstate(over="ignore", invalid="ignore"):
        return to_f32(np.arange(1 << 16, dtype=np.uint16), "BF16").astype(np.float16)


def to_q8_0(bits: NDArray[Any], tensor: Stored) -> NDArray[np.uint8]:
    """Blocks of 32 weights: the largest over 127 as float16, then each weight over it as a signed byte.

    The gguf package's bytes in a quarter of its time: the largest is found among the bits, a block's 32 bytes are moved as one item, no
    array is made that another could have held.
    """
    import numpy as np

    floats = to_f32(bits, tensor.dtype)
    scale = to_f32(_largest(bits), tensor.dtype) / np.float32(127)
    made = np.empty(len(scale), np.dtype([("scale", "<f2"), ("weights", np.void(BLOCK).dtype)]))
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        made["scale"] = scale
        quotients = floats.reshape(-1, BLOCK) * np.where(scale == 0, np.float32(0), np.float32(1) / scale)[:, None]
        _add_half(quotients)
        made["weights"] = quotients.astype(np.int8).view(made["weights"].dtype)[:, 0]
    if not _finite(np.ascontiguousarray(made["scale"]).view(np.uint16), "F16"):
        _refuse_not_finite(bits, tensor.dtype, tensor)
        raise BadInput(f"{tensor.name} holds a value beyond q8_0's {127 * 65504}; choose bf16 or f32")
    return made.view(np.uint8)


def _largest(bits: NDArray[Any]) -> NDArray[Any]:
    """The largest magnitude of each block, as its bits: without the sign they have the order of their numbers, and NaN comes last."""
    import numpy as np

    most = bits.reshape(-1) & ((1 << (8 * bits.itemsize - 1)) - 1)
    while len(most) * BLOCK > bits.size:  # five halvings; a reduction along rows of 32 takes five times as long
        most = np.maximum(most[::2], most[1::2])
    return most


def _add_half(numbers: NDArray[np.float32]) -> None:
    """Add the number before a half, with each number's sign: cut off, that is C's roundf, ties away from zero.

    A half itself would lift 0.49999997 to 1.
    """
    import numpy as np

    halves = numbers.view(np.uint32) & np.uint32(0x8000_0000)
    halves |= np.nextafter(np.float32(0.5), np.float32(0)).view(np.uint32)
    numbers += halves.view(np.float32)


_EXPONENT: Final = {"F32": 0x7F80_0000, "F16": 0x7C00, "BF16": 0x7F80}  # all ones: infinity or not a number


def _finite(bits: NDArray[Any], dtype: str) -> bool:
    """As integers, positive numbers lie below the positive infinity and negative ones below the negative: two maxima tell all."""
    positive = _EXPONENT[dtype]
    negative = positive | 1 << (8 * bits.itemsize - 1)
    return bool(bits.view(f"i{bits.itemsize}").max() < positive and bits.max() < negative)


def _refuse_not_finite(bits: NDArray[Any], dtype: str, tensor: Stored) -> None:
    if not _finite(bits, dtype):
        raise BadInput(f"{tensor.file}: {tensor.name} holds values that are not finite; the training diverged or the file is damaged")
