"""Batches, checkpoints and logs: what SFT and GRPO share, without a model."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from gwen25 import faults, training
from gwen25.errors import BadInput
from gwen25.job import Job
from gwen25.out_of_memory import Shortage, recognise
from tests.pipelines import training_jobs as jobs


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return jobs.job("sft", tmp_path / "work", jobs.config().sft, tmp_path, {}, micro_batch=8)


@pytest.mark.parametrize(
    ("micro", "effective", "world", "expected"),
    [
        (8, 8, 1, (8, 1)),
        (4, 8, 1, (4, 2)),
        (3, 8, 1, (2, 4)),  # not a divisor: the largest one below
        (8, 4, 1, (4, 1)),
        (1, 7, 1, (1, 7)),
        (8, 16, 2, (8, 1)),
        (8, 16, 4, (4, 1)),
    ],
)
def test_every_split_is_the_same_batch(job: Job, monkeypatch, micro: int, effective: int, world: int, expected: tuple[int, int]) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(world))
    batch = training.split(replace(job, micro_batch=micro), effective)
    assert (batch.micro, batch.accumulation) == expected and batch.effective == effective


def test_a_batch_that_cannot_be_shared_is_refused(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(BadInput, match="8 rows cannot be divided over 3 processes"):
        training.split(job, 8)


def _checkpoint(job: Job, step: int) -> Path:
    import torch

    from gwen25 import modeling

    folder = training.checkpoints(job) / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    modeling.write_tensors({"a": torch.ones(3)}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text("{}")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({"a": torch.arange(1000)}, folder / name)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step, "max_steps": 9}))
    return folder


def test_the_newest_whole_checkpoint_is_taken_by_number(job: Job) -> None:
    assert training.newest_checkpoint(job) is None
    for step in (9, 10, 2):
        _checkpoint(job, step)
    newest = training.newest_checkpoint(job)
    assert newest is not None and newest.name == "checkpoint-10"


@pytest.mark.parametrize(
    "name", ["trainer_state.json", "adapter_model.safetensors", "adapter_config.json", "optimizer.pt", "scheduler.pt", "rng_state.pth"]
)
@pytest.mark.parametrize("harm", ["gone", "empty", "cut"])
def test_a_half_written_checkpoint_is_deleted_and_the_one_before_taken(job: Job, capsys, name: str, harm: str) -> None:
    _checkpoint(job, 1)
    bad = _checkpoint(job, 2)
    content = (bad / name).read_bytes()
    if harm == "gone":
        (bad / name).unlink()
    else:
        (bad / name).write_bytes(b"" if harm == "empty" else content[: len(content) // 2])
    newest = training.newest_checkpoint(job)
    assert newest is not None and newest.name == "checkpoint-1" and not bad.exists()
    assert "warning: checkpoint-2 is not whole" in capsys.readouterr().out


@pytest.mark.parametrize("harm", ["empty", "cut"])
def test_a_half_written_scaler_is_found_where_there_is_one(job: Job, harm: str) -> None:
    import torch

    scaler = _checkpoint(job, 1) / "scaler.pt"
    torch.save({"scale": torch.ones(1000)}, scaler)
    assert training.newest_checkpoint(job) is not None
    scaler.write_bytes(b"" if harm == "empty" else scaler.read_bytes()[:1000])
    assert training.newest_checkpoint(job) is None


def test_a_flipped_bit_in_the_optimizer_is_found(job: Job) -> None:
    bad = _checkpoint(job, 1) / "optimizer.pt"
    content = bytearray(bad.read_bytes())
    with zipfile.ZipFile(bad) as archive:
        entry = max(archive.infolist(), key=lambda info: info.file_size)
    content[entry.header_offset + 4000] ^= 1
    bad.write_bytes(bytes(content))
    assert training.newest_checkpoint(job) is None


def test_the_backward_pass_is_strict_where_determinism_was_asked_for(deterministic: None, tmp_path: Path) -> None:
    """Only strict mode makes the gradients of fused attention deterministic; sampling must not be strict."""
    import torch

    class Accelerator:
        def backward(self, loss: str, scale: int = 1) -> None:
            seen.append((loss, scale, torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()))
            if loss == "bad":
                raise torch.OutOfMemoryError
            if loss == "refused":
                raise RuntimeError("cumsum_cuda_kernel does not have a deterministic implementation, but you set")

    class Trainer:
        accelerator = Accelerator()

    seen: list[tuple[str, int, bool, bool]] = []
    warnings: list[str] = []
    torch.use_deterministic_algorithms(False)
    job = SimpleNamespace(aside=tmp_path, warn=warnings.append)
    training._deterministic_backward(Trainer, job)
    Trainer.accelerator.backward("free")
    torch.use_deterministic_algorithms(True, warn_only=True)
    training._deterministic_backward(Trainer, job)
    Trainer.accelerator.backward("good", scale=2)
    with pytest.raises(torch.OutOfMemoryError):
        Trainer.accelerator.backward("bad")
    assert seen == [("free", 1, False, False), ("good", 2, True, False), ("bad", 1, True, False)]
    assert torch.is_deterministic_algorithms_warn_only_enabled()
    with pytest.raises(RuntimeError):  # this attempt ends; the next is not strict, and says so
        Trainer.accelerator.backward("refused")
    Trainer.accelerator = Accelerator()
    training._deterministic_backward(Trainer, job)
    Trainer.accelerator.backward("good")
    assert seen[-1] == ("good", 1, True, True) and "cumsum" in warnings[0]


def test_logs_after_the_resumed_step_are_dropped(tmp_path: Path) -> None:
    log = tmp_path / "metrics.jsonl"
    for step in (1, 2, 3):
        training.append(log, {"step": step, "loss": float(step), "reward": None})
    with log.open("a") as out:
        out.write('{"step": 4, "lo')
    assert [row["step"] for row in training.read_metrics(log)] == [1, 2, 3]
    training.keep_until(log, 2)
    assert log.read_text().splitlines() == [f'{{"step": {step}, "loss": {step}.0, "reward": null}}' for step in (1, 2)]
    training.keep_until(tmp_path / "absent.jsonl", 2)
    assert not (tmp_path / "absent.jsonl").exists()


def test_means_leave_out_what_was_not_measured() -> None:
    rows = [{"step": step, "reward": None if step % 2 else float(step)} for step in range(40)]
    assert training.recent(rows, "reward") == sum(range(20, 40, 2)) / 10
    assert training.recent(rows, "kl") is None


class _State:
    global_step, max_steps, is_world_process_zero = 3, 9, staticmethod(lambda: True)


def test_a_log_becomes_a_line_and_progress_and_nan_becomes_null(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    watch = training.Watch(job)
    watch.on_log(None, _State(), None, {"loss": 1.5, "reward": float("nan"), "epoch": 0.5})
    watch.on_log(None, _State(), None, {"train_runtime": 3.0})  # the closing summary
    assert training.read_metrics(job.aside / "metrics.jsonl") == [{"step": 3, "loss": 1.5, "reward": None, "epoch": 0.5}]
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line.removeprefix("@progress ")) == {"stage": "sft", "step": 3, "total": 9, "loss": 1.5, "reward": None}
    for bad in (float("nan"), float("inf")):
        with pytest.raises(BadInput, match=r"at step 3: lower sft.learning_rate"):
            watch.on_log(None, _State(), None, {"loss": bad})


def test_faults_fire_once_for_their_stage_and_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    (tmp_path / "sft-oom-2").touch()
    (tmp_path / "sft-oom-loading-1").write_text("Free memory on device 0 is little\n")
    faults.meet("sft", "2")  # no GWEN25_FAULTS: nothing
    monkeypatch.setenv("GWEN25_FAULTS", str(tmp_path))
    faults.meet("sft", "1"), faults.meet("grpo", "2")
    with pytest.raises(torch.OutOfMemoryError):
        faults.meet("sft", "2")
    with pytest.raises(ValueError, match=r"Free memory on device 0 is little$"):
        faults.meet("sft", "loading-1")
    faults.meet("sft", "2")
    assert not list(tmp_path.iterdir())


def test_checkpoints_of_another_number_of_processes_are_refused(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named in made-by.json; in work folders from before it, told by the names of the random states."""
    assert training.newest_checkpoint(job) is None  # as one process begins
    checkpoint = _checkpoint(job, 1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for told in (True, False):
        if not told:
            (training.checkpoints(job) / training.MADE_BY).unlink()
        with pytest.raises(
            BadInput, match=r"checkpoint-1 was made by 1 processes and would go on with 2, .*or delete .*checkpoints to begin"
        ):
            training.newest_checkpoint(job)
    (checkpoint / "rng_state.pth").rename(checkpoint / "rng_state_0.pth")
    (checkpoint / "rng_state_1.pth").write_bytes((checkpoint / "rng_state_0.pth").read_bytes())
    assert training.newest_checkpoint(job) == checkpoint
    monkeypatch.delenv("WORLD_SIZE")
    with pytest.raises(BadInput, match="was made by 2 processes and would go on with 1"):
        training.newest_checkpoint(job)


def test_a_checkpoint_without_one_processs_random_states_is_not_whole(job: Job, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert training.newest_checkpoint(job) is None
    checkpoint = _checkpoint(job, 1)
    (checkpoint / "rng_state.pth").rename(checkpoint / "rng_state_0.pth")
    assert training.newest_checkpoint(job) is None
    assert "random states of 1 of 2 processes" in capsys.readouterr().out


def test_a_shortage_in_vllm_is_told_from_one_in_training() -> None:
    def generate(prompts: list[str]) -> list[str]:
        raise RuntimeError("CUDA out of memory") if "long" in prompts else KeyError(prompts[0])

    trainer = SimpleNamespace(vllm_generation=SimpleNamespace(generate=generate, sync_weights=lambda: "synced"))
    training._mark_vllm(trainer)
    training._mark_vllm(SimpleNamespace())  # where Transformers samples
    assert trainer.vllm_generation.sync_weights() == "synced"
    for prompts, kind, told in ((["long"], RuntimeError, Shortage("share")), (["x"], KeyError, None)):
        with pytest.raises(kind) as caught:
            trainer.vllm_generation.generate(prompts=prompts)
        assert recognise(caught.value) == told


def test_curves_show_what_was_measured_and_nothing_for_nothing(tmp_path: Path) -> None:
    from gwen25 import plots

    rows = [{"step": 1, "reward": None}, {"step": 2, "reward": 0.5}]
    plots.curves(tmp_path / "some.png", rows, ["reward", "kl"], "GRPO")
    plots.curves(tmp_path / "none.png", rows, ["kl"], "GRPO")
    assert (tmp_path / "some.png").read_bytes().startswith(b"\x89PNG") and not (tmp_path / "none.png").exists()
