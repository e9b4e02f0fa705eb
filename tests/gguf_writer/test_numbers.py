"""The writer's arithmetic, held against the gguf package and numpy: every bit pattern where there are few, corners where there are many."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gwen25.errors import BadInput
from gwen25.gguf_writer import header, numbers
from gwen25.gguf_writer.source import Stored


def tensor(dtype: str = "F32") -> Stored:
    return Stored("w", dtype, (1,), Path("f"), 0)


def reference(floats: np.ndarray[Any, Any]) -> bytes:
    from gguf import GGMLQuantizationType, quants

    with np.errstate(all="ignore"):
        return bytes(quants.quantize(floats.reshape(-1, 32), GGMLQuantizationType.Q8_0).tobytes())


@pytest.mark.parametrize("exponent", [-44, -38, -30, -8, -2, 0, 3, 6])
def test_q8_0_is_the_gguf_packages(exponent: int) -> None:
    """From subnormal weights, whose scale has no reciprocal, to a scale near float16's largest."""
    rng = np.random.default_rng(exponent + 100)
    floats = (rng.standard_normal(1 << 15) * 10.0**exponent).astype(np.float32)
    coarse = np.round(floats * np.float32(64)) / np.float32(64)  # many ties, and blocks of zeros
    for weights in (floats, coarse, np.zeros(64, np.float32)):
        kinds = {"F32": weights.view(np.uint32), "BF16": (weights.view(np.uint32) >> 16).astype(np.uint16)}
        kinds |= {"F16": weights.astype(np.float16).view(np.uint16)} if abs(weights).max() < 65504 else {}
        for dtype, bits in kinds.items():
            assert numbers.to_q8_0(bits, tensor(dtype)).tobytes() == reference(numbers.to_f32(bits, dtype))


def test_q8_0_rounds_as_roundf_does_beside_every_half() -> None:
    halves = np.arange(-127, 127, dtype=np.float32) + np.float32(0.5)
    beside = np.concatenate([halves, np.nextafter(halves, np.float32(-np.inf)), np.nextafter(halves, np.float32(np.inf))])
    magnitude = np.floor(np.abs(beside))
    expected = np.sign(beside) * (magnitude + (np.abs(beside) - magnitude >= 0.5))
    rounded = beside.copy()
    numbers._add_half(rounded)
    assert (rounded.astype(np.int8) == expected).all()


def test_a_scale_beyond_float16_is_refused() -> None:
    weights = np.ones(64, np.float32)
    weights[40] = 1e7
    with pytest.raises(BadInput, match="w holds a value beyond q8_0's"):
        numbers.to_q8_0(weights.view(np.uint32), tensor())


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_every_pattern_that_is_not_finite_is_seen(dtype: str) -> None:
    patterns = np.arange(1 << 16, dtype=np.uint16)
    finite = np.isfinite(numbers.to_f32(patterns, dtype))
    assert 0 < (~finite).sum() < 1 << 12
    assert [numbers._finite(patterns[at : at + 1], dtype) for at in range(1 << 16)] == finite.tolist()
    assert numbers._finite(patterns[finite], dtype)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, -np.nan])
@pytest.mark.parametrize("target", ["f32", "f16", "bf16", "q8_0"])
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_no_target_takes_a_number_that_is_not_finite(dtype: str, target: str, value: float) -> None:
    floats = np.zeros(64, np.float32)
    floats[37] = value
    bits = {"F32": floats.view(np.uint32), "F16": floats.astype(np.float16).view(np.uint16), "BF16": (floats.view(np.uint32) >> 16)}[dtype]
    stored = bits.astype(np.uint16) if dtype == "BF16" else bits
    with pytest.raises(BadInput, match="w holds values that are not finite"):
        numbers.converted(stored.reshape(1, 64), tensor(dtype), target)


def test_a_header_is_the_gguf_packages(tmp_path: Path) -> None:
    import gguf

    theirs = gguf.GGUFWriter(tmp_path / "theirs.gguf", "qwen2")
    theirs.add_context_length(4096)
    theirs.add_sampling_top_k(-1)
    theirs.add_rope_freq_base(1e6)
    theirs.add_add_bos_token(False)
    theirs.add_chat_template("{{ 'é한' }}")
    theirs.add_token_list(["a", "Ġé", "<|x|>", ""])
    theirs.add_token_types([1, 3, 4, 5])
    theirs.add_tensor_info("a.weight", (3, 40), np.dtype(np.float32), 480, gguf.GGMLQuantizationType.F32)
    theirs.add_tensor_info("b.weight", (7,), np.dtype(np.float32), 28, gguf.GGMLQuantizationType.F32)
    ours = header.packed(theirs.kv_data[0], [header.Placed("a.weight", (3, 40), 0, 480), header.Placed("b.weight", (7,), 0, 28)])
    theirs.write_header_to_file()
    theirs.write_kv_data_to_file()
    theirs.write_ti_data_to_file()
    theirs.close()
    written = (tmp_path / "theirs.gguf").read_bytes()
    assert ours == written + bytes(-len(written) % 32)
