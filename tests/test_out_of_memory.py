"""Which errors are a shortage of memory, and what the stage was doing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gwen25 import job, out_of_memory
from gwen25.errors import BadInput
from gwen25.out_of_memory import Shortage, left_by, phase, recognise

VLLM = {
    "Free memory on device cuda:0 (5.1/14.7 GiB) on startup is less than desired GPU memory utilization (0.9, 13.2 GiB). Decrease": "share",
    "No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when initializing the engine.": "cache",
    "To serve at least one request with the models's max seq len (9000), (0.33 GiB KV cache is needed, which is larger than the available "
    "KV cache memory (0.1 GiB)": "cache",
    "The model's max seq len (9000) is larger than the maximum number of tokens that can be stored in KV cache (512).": "cache",
}


@pytest.fixture(autouse=True)
def _unwatched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(out_of_memory, "_mark", None)
    monkeypatch.setattr(out_of_memory, "_now", Shortage())


@pytest.mark.parametrize(("words", "where"), VLLM.items())
def test_vllms_words_are_known_and_say_which_of_its_needs(words: str, where: str) -> None:
    error = ValueError(words)
    assert recognise(error) == Shortage(where) and job.cause_of(error) == "out_of_memory"
    wrapped = RuntimeError("Engine core initialization failed. See root cause above.")
    wrapped.__cause__ = error
    assert recognise(wrapped) == Shortage(where)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."
        ),
        RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        OSError(12, "Cannot allocate memory"),
    ],
)
def test_every_librarys_words_are_known_and_the_innermost_phase_is_told(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, phase("training", 4), phase("sampling", 8):
        raise error
    assert recognise(caught.value) == Shortage("sampling", 8)
    assert job.cause_of(error) == "out_of_memory"


def test_a_real_allocation_that_fails_is_known() -> None:
    import torch

    with pytest.raises(RuntimeError) as caught, phase("training", 2):
        torch.empty(1 << 50)
    assert recognise(caught.value) == Shortage("training", 2)


@pytest.mark.parametrize("error", [ValueError("out of memory"), KeyError("x"), RuntimeError("no"), BadInput("the disk is out of memory")])
def test_other_errors_are_none_whatever_they_say(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, phase("training", 2):
        raise error
    assert recognise(caught.value) is None and job.cause_of(error) != "out_of_memory"


def test_a_cause_that_was_dealt_with_is_not_told() -> None:
    try:
        try:
            raise MemoryError
        except MemoryError:
            raise KeyError("x") from None
    except KeyError as error:
        assert recognise(error) is None


def test_the_phase_of_a_process_that_is_killed_is_on_disk(tmp_path: Path) -> None:
    assert left_by(tmp_path) == Shortage()
    out_of_memory.watch("grpo", tmp_path)
    with phase("training", 4):
        assert left_by(tmp_path) == Shortage("training", 4)
        with phase("sampling", 8):
            assert left_by(tmp_path) == Shortage("sampling", 8)
        assert left_by(tmp_path) == Shortage("training", 4)
    assert left_by(tmp_path) == Shortage()
    for damage in ('{"phase": "sampl', "[]", '{"phase": "dancing", "rows": -1}'):
        (tmp_path / out_of_memory.FILE).write_text(damage)
        assert left_by(tmp_path) == Shortage()


def test_a_fault_can_be_asked_of_a_phase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "faults").mkdir()
    (tmp_path / "faults" / "grpo-oom-sampling-2").write_text("")
    monkeypatch.setenv("GWEN25_FAULTS", str(tmp_path / "faults"))
    out_of_memory.watch("grpo", tmp_path)
    with phase("sampling", 8):
        pass
    with pytest.raises(RuntimeError) as caught, phase("sampling", 8):
        pytest.fail("the second one never begins")
    assert recognise(caught.value) == Shortage("sampling", 8)
    assert json.loads((tmp_path / out_of_memory.FILE).read_text()) == {"phase": "sampling", "rows": 8}
