"""The 4-bit base's weights, made piece by piece, against bitsandbytes' own of a whole tensor."""

from __future__ import annotations

from pathlib import Path

import pytest

from gwen25 import modeling, nf4, weights
from tests.pipelines import training_jobs as jobs


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(("rows", "columns"), [(200, 96), (64, 64), pytest.param(150, 31, marks=pytest.mark.slow)])  # it compiles
def test_pieces_are_the_whole_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int, columns: int, dtype: str) -> None:
    import torch
    from bitsandbytes import functional

    monkeypatch.setattr(weights, "PIECE", 1)
    kind = getattr(torch, dtype)
    whole = torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows)) * 0.02
    modeling.write_tensors({"w": whole}, tmp_path / "w.safetensors")
    packed, state = functional.quantize_4bit(whole.to(kind), blocksize=64, quant_type="nf4", compress_statistics=True)
    wanted = functional.dequantize_4bit(packed, state)
    tensor = weights.of_file(tmp_path / "w.safetensors")["w"]
    with weights.Reader() as reader:
        read = nf4.dequantized(reader, tensor, dtype)
        made = torch.cat([read(start, stop) for start, stop in weights.pieces(rows, columns)])
    assert made.dtype == wanted.dtype == kind and made.equal(wanted)
    error = (made.float() - whole).abs().max()
    assert error > 0  # it is not the base as it was
    assert error < 0.02 or columns % 64  # bitsandbytes' kernel for AVX-512 takes other magnitudes there, and so do we


def test_it_is_the_weight_that_a_4bit_base_computes_with(tiny_model: Path) -> None:
    import torch
    from bitsandbytes import functional

    tokenizer = modeling.load_tokenizer(tiny_model, jobs.FORMAT)
    model = modeling.load_base(tiny_model, tokenizer, jobs.FORMAT, dtype="float32", load_in_4bit=True)
    tensors, checked = weights.stored(tiny_model), 0
    with weights.Reader() as reader:
        for name, parameter in model.named_parameters():
            if parameter.dtype == torch.uint8:
                read = nf4.dequantized(reader, tensors[name], "float32")
                made = torch.cat([read(start, stop) for start, stop in weights.pieces(tensors[name].rows, tensors[name].columns)])
                assert made.equal(functional.dequantize_4bit(parameter.data, parameter.quant_state)), name
                checked += 1
    assert checked == 14  # seven linear layers of two blocks, and neither embedding nor head
