"""Whole flows at small scale: `make gpu-test` on a machine with one NVIDIA GPU. Not run on one yet.

What runs here and nowhere else: bf16 and fp16 on CUDA, deterministic kernels, NF4 base weights, gradient checkpointing, the GPU
slot round a real child, generation on the device, the merge check on the device.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gwen25 import preflight
from gwen25.artifacts import Manifest

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not preflight.gpu_present(), reason="no NVIDIA GPU on this machine"),
    pytest.mark.usefixtures("prefect_server"),
]
CUDA = {"runtime.device": "cuda", "sft.gradient_checkpointing": True, "grpo.gradient_checkpointing": True}
BF16 = {**CUDA, **dict.fromkeys(("sft.dtype", "grpo.dtype", "merge.dtype", "evaluate.dtype"), "bfloat16")}
T4 = {
    **CUDA,
    **dict.fromkeys(("sft.dtype", "grpo.dtype", "merge.dtype", "evaluate.dtype"), "float16"),
    "sft.load_in_4bit": True,
    "grpo.load_in_4bit": True,
}


def run(home: Path, monkeypatch: pytest.MonkeyPatch, **parameters: Any) -> Any:
    from flows.finetune import finetune

    monkeypatch.setenv("GWEN25_HOME", str(home))
    outcome = finetune(profile="smoke", return_state=True, **parameters).result(raise_on_failure=False)
    assert not isinstance(outcome, BaseException), outcome
    return outcome


@pytest.mark.parametrize("overrides", [BF16, T4], ids=["bf16", "t4: fp16, 4-bit"])
def test_the_whole_flow_on_cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: dict[str, Any]) -> None:
    outcome = run(tmp_path, monkeypatch, overrides=overrides)
    made = {name: Manifest.read(artifact.path) for name, artifact in outcome.artifacts.items()}
    assert all("gpu" in made[name].provenance["hardware"] for name in ("sft", "grpo", "evaluate"))
    assert made["sft"].metrics["heldout_loss"] < made["sft"].metrics["heldout_loss_base"]
    assert json.loads((outcome.artifacts["evaluate"].payload / "report.json").read_text())["n"] == 5


def test_a_kill_changes_no_bit_on_cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "faults").mkdir()
    (tmp_path / "faults" / "sft-kill-7").touch()
    monkeypatch.setenv("GWEN25_FAULTS", str(tmp_path / "faults"))
    killed = run(tmp_path / "killed", monkeypatch, overrides=BF16, until="sft").artifacts["sft"]
    straight = run(tmp_path / "straight", monkeypatch, overrides=BF16, until="sft").artifacts["sft"]
    assert [Manifest.read(artifact.path).provenance["attempts"] for artifact in (killed, straight)] == [2, 1]
    assert killed.digest == straight.digest


def test_an_out_of_memory_of_cuda_halves_the_micro_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "faults").mkdir()
    (tmp_path / "faults" / "sft-oom-3").touch()
    monkeypatch.setenv("GWEN25_FAULTS", str(tmp_path / "faults"))
    outcome = run(tmp_path / "home", monkeypatch, overrides=BF16, until="sft")
    assert Manifest.read(outcome.artifacts["sft"].path).provenance["micro_batch"] == 4
