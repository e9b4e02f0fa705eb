"""The rows on kernels, run on a CPU: the same functions, with the same comparisons, that a GPU is held to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gwen25.gpu_check import ROWS, Row, Setting, kernels

KERNELS = [row for row in ROWS if ".kernels:" in row.does]


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting("cpu", "tiny", str(tmp_path))


def run(row: Row, setting: Setting) -> Any:
    return getattr(kernels, row.does.partition(":")[2])(row, setting)


@pytest.mark.parametrize("row", KERNELS, ids=lambda row: row.name)
def test_it_runs_on_a_cpu(row: Row, setting: Setting) -> None:
    outcome = run(row, setting)
    assert outcome.status == "ok" and outcome.said


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_product_that_is_off_by_more_than_rounding_fails(monkeypatch: pytest.MonkeyPatch, setting: Setting, dtype: str) -> None:
    found = kernels._matmul(dtype, setting).numbers["error"]
    monkeypatch.setitem(kernels.ROUNDING, dtype, found / 2)
    with pytest.raises(ValueError, match="is rounding"):
        kernels._matmul(dtype, setting)


def test_the_limits_are_near_what_was_found(setting: Setting) -> None:
    """A limit ten times the error would let a kernel pass that loses three bits."""
    for dtype, limit in kernels.ROUNDING.items():
        assert limit / 10 < kernels._matmul(dtype, setting).numbers["error"] < limit


def test_another_step_than_adams_fails(monkeypatch: pytest.MonkeyPatch, setting: Setting) -> None:
    import torch

    monkeypatch.setattr(torch.optim, "AdamW", lambda weights, lr, weight_decay: torch.optim.SGD(weights, lr=lr))
    with pytest.raises(ValueError, match="is off by"):
        kernels.adamw_8bit(KERNELS[3], setting)


def test_moments_in_32_bits_fail(monkeypatch: pytest.MonkeyPatch, setting: Setting) -> None:
    import torch
    from transformers import Trainer

    monkeypatch.setattr(Trainer, "get_optimizer_cls_and_kwargs", lambda _: (torch.optim.AdamW, {"lr": 1e-3, "weight_decay": 0.0}))
    with pytest.raises(ValueError, match="not in 8 bits"):
        kernels.adamw_8bit(KERNELS[3], setting)


def test_attention_names_the_kernels_that_run(setting: Setting) -> None:
    outcome = kernels.attention(KERNELS[4], setting)
    assert outcome.numbers["kernels"]["math"] and "flash-attn" in outcome.said
    good, _, bad = outcome.said.partition("; flash-attn")[0].partition("; not ")
    for name, runs in outcome.numbers["kernels"].items():
        assert (name in good) == runs and (name in bad) == (not runs)
