"""Packed rows on a GPU: none sees another, and each is trained as it would be alone. Not run on one yet.

SDPA in float16 is a T4's; bfloat16 and flash-attn begin with compute capability 8.0. The same body runs on a CPU in tests/test_packing.py.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from gwen25 import preflight
from tests.gpu import packed_rows

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not preflight.gpu_present(), reason="no NVIDIA GPU on this machine")]


@pytest.mark.parametrize(
    ("attention", "dtype"),
    [("sdpa", "float16"), ("sdpa", "bfloat16"), ("flash_attention_2", "float16"), ("flash_attention_2", "bfloat16"), ("eager", "float16")],
)
def test_packed_rows_do_not_see_each_other_and_lose_what_they_lose_alone(tiny_model: Path, attention: str, dtype: str) -> None:
    import torch

    if torch.cuda.get_device_capability() < (8, 0) and (dtype == "bfloat16" or attention == "flash_attention_2"):
        pytest.skip(f"{attention} in {dtype} begins with compute capability 8.0")
    if attention == "flash_attention_2" and find_spec("flash_attn") is None:
        pytest.skip("flash-attn is not installed")
    packed_rows.compare(tiny_model, attention, dtype, "cuda").require()


def test_a_leak_would_be_seen_on_cuda(tiny_model: Path) -> None:
    found = packed_rows.compare(tiny_model, "sdpa", "float16", "cuda", leaks=True)
    assert not found.unseen and min(found.loss, found.logits, found.gradients) > 8 * found.eps, found
