"""What training needs of a machine, beyond what the commands' own tests refuse."""

from __future__ import annotations

import shutil
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from gwen25 import preflight
from gwen25.config import load_config
from gwen25.errors import BadInput


def training(*stages: str, **overrides: Any) -> None:
    config = load_config("smoke", overrides={name.replace("__", "."): value for name, value in overrides.items()})
    preflight._training(config, stages)


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_flash_attention_is_looked_for_before_it_is_needed(monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    installed = {"flash_attn": None}
    monkeypatch.setattr(preflight, "find_spec", lambda name: installed[name])
    flash = {f"{stage}__attn_implementation": "flash_attention_2"}
    with pytest.raises(BadInput, match=rf"{stage}.attn_implementation=flash_attention_2, but flash-attn is not installed"):
        training(stage, **flash)
    training("sft" if stage == "grpo" else "grpo", **flash)  # not wanted
    training(stage, **flash, runtime__python={stage: "/another/python"})  # which may have it
    installed["flash_attn"] = object()  # type: ignore[assignment]
    training(stage, **flash)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """A machine with a compiler and headers; the programs of the set are on its PATH."""
    (tmp_path / "Python.h").touch()
    found = {"gcc"}
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}" if name in found else None)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    return found


def test_cuda_training_needs_a_compiler(machine: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    training("sft", "grpo", runtime__device="cuda")
    machine.clear()
    with pytest.raises(BadInput, match=r"^sft on CUDA needs a C compiler and Python\.h .*apt-get install gcc python3-dev$"):
        training("sft", "grpo", runtime__device="cuda")
    training("sft", "grpo")  # on a CPU nothing is compiled
    training(runtime__device="cuda")
    machine.add("clang")
    training("sft", runtime__device="cuda")
    machine.clear()
    monkeypatch.setenv("CC", "/opt/cc")
    training("sft", runtime__device="cuda")


def test_cuda_training_needs_the_interpreters_headers(machine: set[str], tmp_path: Path) -> None:
    (tmp_path / "Python.h").unlink()
    with pytest.raises(BadInput, match=r"grpo on CUDA needs a C compiler and Python\.h"):
        training("grpo", runtime__device="cuda")
