"""Checks of the GPU: what nvidia-smi says is read, and what torch was built for is held against it. The tool here is a script."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gwen25.checks import Asked, gpu
from gwen25.config import load_config

A100 = "NVIDIA A100-SXM4-40GB, 40960, 8.0, 580.65.06"
T4 = "Tesla T4, 15360, 7.5, 550.54.15"
H100 = "NVIDIA H100 80GB HBM3, 81559, 9.0, 580.65.06"


@pytest.fixture
def smi(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """An nvidia-smi that prints what it is given: rows for a query, its banner otherwise."""

    def put(rows: list[str], cuda: str | None = "13.0", status: int = 0, sleep: int = 0) -> None:
        banner = f"| NVIDIA-SMI 580   Driver Version: 580   CUDA Version: {cuda} |" if cuda else "no banner"
        lines = "\\n".join(rows)
        asked = f'case "$1" in --query*) printf "{lines}\\n";; *) echo "{banner}";; esac'
        tool = tmp_path / "nvidia-smi"
        tool.write_text(f"#!/bin/sh\n[ {sleep} = 0 ] || exec sleep {sleep}\n{asked}\nexit {status}\n")
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    return put


def asked(profile: str | None = None, **overrides: object) -> Asked:
    return Asked(load_config(profile, overrides=overrides), profile)


@pytest.mark.parametrize(
    ("rows", "fitting", "dtype"),
    [
        ([A100], "a100", "bfloat16"),
        ([A100, A100], "a100, multi-gpu", "bfloat16"),
        ([T4], "t4", "float16"),
        ([H100], "a100, t4", "bfloat16"),
        (["NVIDIA GeForce RTX 3050, 4096, 8.6, 580.1"], "none", "bfloat16"),
    ],
)
def test_which_profiles_fit_a_gpu(smi: Callable[..., None], rows: list[str], fitting: str, dtype: str) -> None:
    smi(rows)
    *cards, told = gpu.cards(asked())
    assert len(cards) == len(rows) and all(dtype in card.what and rows[0].split(",")[0] in card.what for card in cards)
    names = fitting.split(", ")
    said = told.what.partition("estimates: ")[2].split(", ")
    assert set(names) <= set(said) and (told.status == "warn") == (fitting == "none")
    if rows == [T4]:
        assert said == ["t4"], "no bfloat16, and not 40 GB"


def test_a_chosen_profile_that_does_not_fit_is_a_failure(smi: Callable[..., None]) -> None:
    smi([T4])
    assert [finding.status for finding in gpu.cards(asked("t4"))] == ["ok", "ok"]
    failed = list(gpu.cards(asked("a100")))[-1]
    assert failed.status == "fail" and "a100 trains in bfloat16, which Tesla T4 has not" in failed.what and "--profile t4" in failed.todo
    smi([A100])
    failed = list(gpu.cards(asked("multi-gpu")))[-1]
    assert failed.status == "fail" and "starts 2 processes" in failed.what and "the GPUs here are 1" in failed.what
    smi(["NVIDIA RTX A4000, 8192, 8.6, 580.1"])
    failed = list(gpu.cards(asked("a100")))[-1]
    assert failed.status == "fail" and "sft needs about" in failed.what and "and the GPU has 8.6" in failed.what and failed.todo


def test_the_config_that_was_asked_for_is_what_is_held_against_the_gpu(smi: Callable[..., None]) -> None:
    smi([A100])
    changed = {"sft.per_device_train_batch_size": 64, "sft.gradient_accumulation_steps": 1, "sft.gradient_checkpointing": False}
    failed = list(gpu.cards(asked("a100", **changed)))[-1]
    assert failed.status == "fail" and "a100 does not fit: sft needs about" in failed.what
    assert "it would fit with --set sft." in failed.todo
    smi([T4])
    assert list(gpu.cards(asked("t4", **{"grpo.dtype": "bfloat16"})))[-1].todo.endswith("--set grpo.dtype=float16")
    [_, unknown] = gpu.cards(asked("t4", base_model="someone/unknown-model"))
    assert unknown.status == "warn" and "cannot be held against the GPU" in unknown.what


@pytest.mark.parametrize(("profile", "status"), [(None, "warn"), ("smoke", "ok"), ("a100", "fail")])
def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch, profile: str | None, status: str) -> None:
    monkeypatch.setattr(gpu.shutil, "which", lambda _: None)
    monkeypatch.setattr(gpu.preflight, "gpu_present", lambda: False)
    [finding] = gpu.cards(asked(profile))
    assert finding.status == status and "no NVIDIA GPU" in finding.what and bool(finding.todo) == (status != "ok")


@pytest.mark.parametrize("rows", [["No devices were found"], ["[N/A], [N/A], [N/A], [N/A]"], ["Tesla, 1, 2"], []])
def test_what_an_unwell_driver_says_is_no_gpu(smi: Callable[..., None], monkeypatch: pytest.MonkeyPatch, rows: list[str]) -> None:
    smi(rows)
    monkeypatch.setattr(gpu.preflight, "gpu_present", lambda: True)
    [finding] = gpu.cards(asked())
    assert finding.status == "warn" and "nvidia-smi tells nothing" in finding.what
    smi([A100], status=9)
    assert gpu.found() == []


def test_a_driver_that_hangs_ends(smi: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    smi([A100], sleep=30)
    monkeypatch.setattr(gpu, "SMI_SECONDS", 0.3)
    assert gpu.found() == []


@pytest.mark.parametrize(
    ("serves", "built", "status", "todo"),
    [
        ("13.0", "13.0", "ok", ""),
        ("13.1", "12.8", "ok", ""),
        ("12.4", "12.8", "warn", "driver 525.60 or later"),
        ("12.8", "13.0", "fail", "driver 580 or later, or a torch for CUDA 12.8"),
        (None, "13.0", "warn", "driver 580 or later"),
        ("13.0", None, "fail", "without an index of CPU wheels"),
    ],
)
def test_driver_against_torch(
    smi: Callable[..., None], monkeypatch: pytest.MonkeyPatch, serves: str | None, built: str | None, status: str, todo: str
) -> None:
    smi([A100], cuda=serves)
    monkeypatch.setattr(gpu, "torch_cuda", lambda: built)
    [finding] = gpu.driver(asked("a100"))
    assert finding.status == status and todo in finding.todo and bool(finding.todo) == (status != "ok")


@pytest.mark.parametrize(
    ("text", "built"),
    [
        ("cuda: Optional[str] = '13.0'\n", "13.0"),
        ("cuda = '12.8'\n", "12.8"),
        ("cuda: Optional[str] = None\n", None),
        ("hip = '6'\n", None),
    ],
)
def test_what_torch_was_built_for_is_read_from_its_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, built: str | None
) -> None:
    (tmp_path / "version.py").write_text(text)
    monkeypatch.setattr(gpu, "find_spec", lambda _: type("Spec", (), {"submodule_search_locations": [str(tmp_path)]}))
    assert gpu.torch_cuda() == built


def test_the_installed_torch_agrees_with_its_file() -> None:
    import torch

    assert gpu.torch_cuda() == torch.version.cuda
