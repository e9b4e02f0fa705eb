"""What training needs of a machine, beyond what the commands' own tests refuse."""

from __future__ import annotations

import shutil
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from gwen25 import preflight
from gwen25.config import VLLM_PYTHON, load_config
from gwen25.errors import BadInput, SandboxUnavailable


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


def test_programs_that_choose_a_checkpoint_need_a_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> None:
        raise SandboxUnavailable("no namespaces")

    monkeypatch.setattr(preflight.sandbox, "probe", away)
    programs = load_config("smoke", overrides={"sft.checkpoint_choice": "heldout_execution"})
    with pytest.raises(SandboxUnavailable):
        preflight._sandbox(programs, {"sft"})
    preflight._sandbox(programs, {"merge"})
    preflight._sandbox(load_config("smoke", overrides={"sft.checkpoint_choice": "heldout_loss"}), {"sft"})


# ------------------------------------------------------------------------------------------------ launchers and interpreters


def test_a_launcher_is_looked_for_beside_its_stages_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    preflight._interpreters(load_config("multi-gpu"), {"sft", "grpo"})
    lost = load_config("smoke", overrides={"runtime.launcher": {"sft": ["acelerate", "launch"]}})
    with pytest.raises(BadInput, match=r"^runtime\.launcher\.sft: no such command: acelerate; install it in the stage's environment"):
        preflight._interpreters(lost, {"sft"})
    preflight._interpreters(lost, {"grpo"})  # not wanted


def test_vllm_is_looked_for_in_the_interpreter_that_would_sample(tmp_path: Path) -> None:
    ask = {"grpo.vllm": "colocate"}
    with pytest.raises(
        BadInput, match=r"^grpo\.vllm=colocate, but .*python.* lacks vllm; `make vllm-env` makes .*; or set grpo\.vllm=off$"
    ):  # Prefect's environment cannot hold it
        preflight._vllm(load_config("a100", overrides={**ask, "runtime.python": {"grpo": sys.executable}}), {"grpo"})
    away = {**ask, "runtime.python": {"grpo": str(tmp_path / "away")}}
    with pytest.raises(
        BadInput, match=r"^grpo\.vllm=colocate: no such interpreter: .*/away; `make vllm-env` makes it, or set grpo\.vllm=off$"
    ):
        preflight._vllm(load_config("a100", overrides=away), {"grpo"})
    preflight._interpreters(load_config("a100", overrides=away), {"grpo"})  # the above says more
    preflight._vllm(load_config("a100", overrides=ask), {"sft"})
    preflight._vllm(load_config("a100", overrides={"grpo.vllm": "off"}), {"grpo"})
    assert load_config("a100").runtime.python == {"grpo": str(VLLM_PYTHON)}
    assert load_config("a100", overrides={"grpo.vllm": "off"}).runtime.python == {}
    broken = {**ask, "runtime.python": {"grpo": "/bin/false"}}
    with pytest.raises(BadInput, match=r"^grpo\.vllm=colocate: /bin/false does not run as an interpreter"):
        preflight._vllm(load_config("a100", overrides=broken), {"grpo"})
    whole = tmp_path / "python"  # an interpreter that has all of them
    whole.write_text("#!/bin/sh\necho\n")
    whole.chmod(0o755)
    preflight._vllm(load_config("a100", overrides={**ask, "runtime.python": {"grpo": str(whole)}}), {"grpo"})


def test_vllms_share_must_hold_its_weights_and_one_answer() -> None:
    ask = {"grpo.vllm": "colocate", "grpo.vllm_gpu_memory_utilization": 0.15}
    with pytest.raises(
        BadInput, match=r"^grpo\.vllm_gpu_memory_utilization=0\.15 of 40 GiB is 6\.4 GB.* 6\.2 .* 0\.4 GB; set it to 0\.16 or more$"
    ):
        preflight._vllm_share(load_config("a100", overrides=ask), {"grpo"})
    preflight._vllm_share(load_config("a100", overrides={**ask, "grpo.vllm_gpu_memory_utilization": 0.16}), {"grpo"})
    preflight._vllm_share(load_config("a100", overrides={**ask, "runtime.gpu_memory_gib": None}), {"grpo"})  # not known


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        ({"grpo.vllm": "server"}, "grpo.vllm=server needs grpo.vllm_server_base_url"),
        ({"grpo.vllm": "colocate", "grpo.load_in_4bit": True}, "needs grpo.load_in_4bit=false"),
        ({"grpo.vllm": "colocate", "sft.trainable_chat_tokens": True}, "needs sft.trainable_chat_tokens=false"),
    ],
)
def test_what_vllm_cannot_sample_is_refused_with_the_config(overrides: dict[str, Any], text: str) -> None:
    with pytest.raises(BadInput, match=text):
        load_config("a100", overrides=overrides)
    assert load_config("a100", overrides={"grpo.vllm": False}).grpo.vllm == "off"  # what YAML makes of the word
