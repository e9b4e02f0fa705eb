"""The weights that a 4-bit base computes with: NF4 with double quantization, as `modeling.load_base(load_in_4bit=True)` makes it.

    rows = dequantized(reader, tensor, "bfloat16")        rows(start, stop): W as bitsandbytes quantizes and dequantizes it

QLoRA (arXiv:2305.14314) keeps a 4-bit code for each number and one largest magnitude for each block of 64. Those magnitudes are
themselves kept in 8 bits, as differences from their mean over the whole tensor: so a tensor's codes and magnitudes are made first
(half a byte and a sixteenth of four a number), and rows are read out of them. `dtype` is the one that the base had as it was
quantized: its numbers come out in it. Runs on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from gwen25 import weights

if TYPE_CHECKING:
    import torch

    from gwen25.weights import Reader, Stored

BLOCK: Final = 64  # numbers that share a magnitude; pieces begin at multiples of 64 rows, so at a block's start


def dequantized(reader: Reader, tensor: Stored, dtype: str) -> Callable[[int, int], torch.Tensor]:
    """Quantize a tensor of the file piece by piece; what is returned gives back the rows of one of `weights.pieces`."""
    import torch
    from bitsandbytes import functional

    kind: torch.dtype = getattr(torch, dtype)
    if tensor.columns % BLOCK:
        # bitsandbytes' kernel for AVX-512 (0.50.2) takes wrong magnitudes where rows begin inside a block, by the number of the row:
        # the base computes with these, and only the whole tensor has them. No layer of a Qwen2.5 has such a width.
        numbers = reader.rows(tensor, 0, tensor.rows).to(kind)
        codes = functional.quantize_4bit(numbers, blocksize=BLOCK, quant_type="nf4", compress_statistics=True)
        whole: torch.Tensor = functional.dequantize_4bit(*codes).view(tensor.rows, tensor.columns)
        return lambda start, stop: whole[start:stop]
    packed: dict[int, tuple[torch.Tensor, Any]] = {}  # row at which a piece starts -> codes, bitsandbytes' state of them
    for start, stop in weights.pieces(tensor.rows, tensor.columns):
        packed[start] = functional.quantize_4bit(reader.rows(tensor, start, stop).to(kind), blocksize=BLOCK, quant_type="nf4")
    absmax = _through_8_bits(torch.cat([state.absmax for _, state in packed.values()]))

    def rows(start: int, stop: int) -> torch.Tensor:
        codes, state = packed[start]
        state.absmax = absmax[start * tensor.columns // BLOCK :][: state.absmax.numel()]
        made: torch.Tensor = functional.dequantize_4bit(codes, state)
        return made.view(stop - start, tensor.columns)

    return rows


def _through_8_bits(absmax: Any) -> Any:
    """The magnitudes as double quantization keeps them."""
    from bitsandbytes import functional

    mean = absmax.mean()
    packed, state = functional.quantize_blockwise(absmax - mean, blocksize=256)
    return functional.dequantize_blockwise(packed, state) + mean
