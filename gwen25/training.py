"""What SFT and GRPO share: arguments, one callback, checkpoints and resuming.

    batch = split(job, effective)                      rows of a micro-batch, and how many make an optimizer step
    args = SFTConfig(**arguments(job, batch, device))
    trainer = SFTTrainer(..., callbacks=[callback(job)])
    train(trainer, job)                                from the newest whole checkpoint, if there is one

A stage that is killed, cancelled or out of memory is started again with the same work folder and goes on from its newest
checkpoint as if nothing had happened: weights, optimizer, schedule, random states and the order of the rows are restored as
they were. On a CPU the result is the undisturbed run's bit for bit; on CUDA torch is held to deterministic kernels where it has
them (`modeling.prepare`), fused attention's backward pass included, and whether that makes every bit equal was not measured.
With a smaller micro-batch the same rows meet in the same step, equal up to the rounding of sums.

SIGTERM is looked at as a step ends. A step of minutes, as on a GPU, outlasts runtime.grace_seconds and is killed in its
middle: a cancel then costs what a death costs, at most save_steps steps.

    aside/metrics.jsonl     one object a log, by `step`; no step twice, whatever was repeated
    aside/checkpoints/      the last two; gone once the artifact is published

A hook for tests: GWEN25_FAULTS names a folder; an empty file `<stage>-oom-<step>` or `<stage>-kill-<step>` in it makes that
step (from 1) end in a memory error or in SIGKILL as it begins, once: the file is removed first.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gwen25 import models, token_rows
from gwen25.errors import BadInput
from gwen25.job import Cancelled, Job, terminating
from gwen25.modeling import ADAPTER_CONFIG, ADAPTER_WEIGHTS, restore_adapter

KEPT_CHECKPOINTS: Final = 2  # one may be half-written when the machine dies
RECENT: Final = 10  # logs that make a "recent" mean


@dataclass(frozen=True, slots=True)
class Batch:
    """`micro` rows on each of `world` devices, `accumulation` times, make one optimizer step of `effective` rows."""

    micro: int
    accumulation: int
    world: int

    @property
    def effective(self) -> int:
        return self.micro * self.accumulation * self.world


def split(job: Job, effective: int) -> Batch:
    """Divide an effective batch over the processes of the launcher, and their share into the largest equal micro-batches allowed.

    Over several processes an epoch's last, smaller batch is filled up with rows of its beginning (accelerate's even_batches):
    only there do SFT's numbers depend on how many processes there are.
    Raises BadInput where the shares are not equal: the batch would be another one than the config, and the key, say.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if effective % world:
        raise BadInput(
            f"{job.stage}: per_device_train_batch_size x gradient_accumulation_steps = {effective} rows cannot be divided over "
            f"{world} processes; choose a multiple of {world}"
        )
    share = effective // world
    largest = min(share, job.micro_batch or job.config.per_device_train_batch_size)
    micro = next(rows for rows in range(largest, 0, -1) if share % rows == 0)
    return Batch(micro, share // micro, world)


def arguments(job: Job, batch: Batch, device: str) -> dict[str, Any]:
    """Keyword arguments that SFTConfig and GRPOConfig share; every one that TRL would set otherwise is set here."""
    config = job.config
    return {
        "output_dir": str(checkpoints(job)),
        "per_device_train_batch_size": batch.micro,
        "gradient_accumulation_steps": batch.accumulation,
        "learning_rate": config.learning_rate,
        "optim": config.optim,
        "weight_decay": config.weight_decay,
        "warmup_steps": config.warmup_steps,
        "lr_scheduler_type": config.lr_scheduler_type,
        "max_grad_norm": config.max_grad_norm,
        "bf16": config.dtype == "bfloat16",  # TRL's default is True, on a CPU too
        "fp16": config.dtype == "float16",
        "use_cpu": device == "cpu",
        checkpointing_name(): config.gradient_checkpointing,
        "seed": config.seed,
        "data_seed": config.seed,
        "logging_strategy": "steps",
        "logging_steps": config.logging_steps,
        "logging_nan_inf_filter": False,  # it would log an average in the place of a NaN
        "save_strategy": "steps",
        "save_steps": config.save_steps,
        "save_total_limit": KEPT_CHECKPOINTS,
        "eval_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_num_workers": job.runtime.dataloader_num_workers,
        "dataloader_pin_memory": device != "cpu",
        "ddp_find_unused_parameters": False,  # every LoRA matrix takes part in every step
        "remove_unused_columns": False,
    }


def checkpointing_name() -> str:
    """What TrainingArguments calls it: transformers 5.23 by a new name, the older one of the vLLM environment by the old."""
    from transformers import TrainingArguments

    name = "activation_checkpointing"
    return name if name in TrainingArguments.__dataclass_fields__ else "gradient_checkpointing"


def checkpoints(job: Job) -> Path:
    return job.aside / "checkpoints"


def train(trainer: Any, job: Job) -> int:
    """Train to the last step, from the newest whole checkpoint; returns the number of steps, those of earlier attempts included.

    Raises Cancelled after SIGTERM, when that step is saved; BadInput under FSDP or DeepSpeed, which leave an adapter in pieces.

    A run that died after its last step is not trained again: its weights are taken from the checkpoint.
    """
    from transformers import PrinterCallback

    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        raise BadInput(
            f"{job.stage}: the launcher shards the model (FSDP or DeepSpeed), and an adapter in pieces would be saved; "
            f"data parallel is what runtime.launcher.{job.stage} can ask for: accelerate launch --multi_gpu"
        )
    trainer.remove_callback(PrinterCallback)  # it prints each log as a Python dict; progress lines say it
    widen(trainer.model)
    token_rows.open_head(trainer.model)
    _deterministic_backward(trainer, job)
    checkpoint = newest_checkpoint(job)
    state = {} if checkpoint is None else _state(checkpoint)
    if trainer.is_world_process_zero():
        for name in ("metrics.jsonl", "completions.jsonl", "rewards.jsonl"):
            keep_until(job.aside / name, int(state.get("global_step", 0)))
    if checkpoint is not None:
        job.say(f"resuming after step {state['global_step']} of {state['max_steps']}")
    if checkpoint is not None and state["global_step"] >= state["max_steps"]:
        restore_adapter(trainer.model, checkpoint)
        return int(state["global_step"])
    if not terminating.is_set():
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    if terminating.is_set():
        raise Cancelled(f"{job.stage} was asked to stop; it goes on from its newest checkpoint")
    return int(trainer.state.global_step)


def widen(model: Any) -> None:
    """LoRA matrices in float32. On a 4-bit base TRL makes them bfloat16, whose gradients no float16 scaler can take (T4).

    The numbers that TRL has rounded stay rounded: who needs them exact puts them back (`modeling.restore_adapter`).
    """
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def _deterministic_backward(trainer: Any, job: Job) -> None:
    """Strict determinism in the backward pass, where `modeling.prepare` has asked for any.

    Under its warn_only, flash and memory-efficient attention keep adding up gradients in no fixed order; only strict mode
    switches their kernels (torch, aten/src/ATen/native/transformers/cuda/attention_backward.cu). It is strict in the backward pass
    alone, because sampling with top_p < 1 has an operation (cumsum of floats) that strict mode refuses. Where the backward pass
    has one too, on a GPU or in a kernel not tried here, that attempt ends and the next goes on without strictness, and says so.
    """
    import torch

    if not torch.are_deterministic_algorithms_enabled():
        return
    backward, refused = trainer.accelerator.backward, job.aside / "not-deterministic"
    if refused.exists():
        job.warn(f"the backward pass is not deterministic here ({refused.read_text(encoding='utf-8')}): a resumed run may differ in bits")
        return

    def strict(loss: Any, **options: Any) -> None:
        torch.use_deterministic_algorithms(True)
        try:
            backward(loss, **options)
        except RuntimeError as error:
            if "deterministic" in str(error):
                refused.write_text(str(error).split(".")[0], encoding="utf-8")
            raise
        finally:
            torch.use_deterministic_algorithms(True, warn_only=True)

    trainer.accelerator.backward = strict


def newest_checkpoint(job: Job) -> Path | None:
    """The newest whole checkpoint of the work folder, or None. Half-written ones, left by a death, are deleted with a warning."""
    found = [(int(folder.name.rpartition("-")[2]), folder) for folder in checkpoints(job).glob("checkpoint-*") if folder.is_dir()]
    for _, folder in sorted(found, reverse=True):
        if (flaw := _flaw(folder)) is None:
            return folder
        job.warn(f"{folder.name} is not whole ({flaw}); the one before it is taken")
        if os.environ.get("RANK", "0") == "0":
            shutil.rmtree(folder)
    return None


def _flaw(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint's files; None where all are there and whole.

    trainer_state.json is written last, but a machine that loses power may keep its name and lose other files' ends.
    """
    try:
        if not {"global_step", "max_steps"} <= _state(checkpoint).keys():
            return "trainer_state.json tells no step"
        models.read_header(checkpoint / ADAPTER_WEIGHTS)
        json.loads((checkpoint / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        rng = sorted(checkpoint.glob("rng_state*.pth"))
        scaler = checkpoint.glob("scaler.pt")  # float16 alone has one
        for file in (checkpoint / "optimizer.pt", checkpoint / "scheduler.pt", *scaler, *rng):
            with zipfile.ZipFile(file) as archive:
                if (bad := archive.testzip()) is not None:
                    return f"{file.name}: {bad} does not match its checksum"
        return None if rng else "no random states"
    except (OSError, ValueError, BadInput, zipfile.BadZipFile) as error:
        return f"{type(error).__name__}: {error}"


def _state(checkpoint: Path) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    return state


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a metrics.jsonl; a last one that a death cut off is left out."""
    rows: list[dict[str, Any]] = []
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                break
    return rows


def keep_until(path: Path, step: int) -> None:
    """Drop what was logged after `step` (and a half-written last line): the resumed run logs those steps again."""
    if path.exists():
        kept = [json.dumps(row, allow_nan=False) + "\n" for row in read_metrics(path) if row["step"] <= step]
        temporary = path.with_suffix(".part")
        temporary.write_text("".join(kept), encoding="utf-8")
        temporary.replace(path)


def append(path: Path, row: Mapping[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as out:
        out.write(json.dumps(row, allow_nan=False) + "\n")


def recent(rows: list[dict[str, Any]], name: str) -> float | None:
    """Mean over the last RECENT logs that hold a value of `name`; None where none does."""
    values = [row[name] for row in rows if row.get(name) is not None][-RECENT:]
    return sum(values) / len(values) if values else None


def callback(job: Job) -> Any:
    """The TrainerCallback of a stage: metrics and progress, SIGTERM, and the tests' faults."""
    from transformers import TrainerCallback

    class StageCallback(Watch, TrainerCallback):  # made here, since importing its base takes seconds
        pass

    return StageCallback(job)


class Watch:
    """The events that a stage listens to; see transformers.TrainerCallback."""

    def __init__(self, job: Job):
        self.job = job

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        _fault(self.job.stage, state.global_step + 1)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if _anywhere(terminating.is_set(), args.world_size, args.device):
            terminating.set()
            control.should_save = control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if not logs or "loss" not in logs:  # the closing summary counts the resumed leg only
            return
        if not math.isfinite(logs["loss"]):
            raise BadInput(
                f"{self.job.stage}: the loss is {logs['loss']} at step {state.global_step}: lower {self.job.stage}.learning_rate "
                "or max_grad_norm, or take another dtype"
            )
        if state.is_world_process_zero:
            row = {"step": state.global_step, **{name: _finite(value) for name, value in logs.items()}}
            append(self.job.aside / "metrics.jsonl", row)
            shown = {name: row[name] for name in ("loss", "learning_rate", "reward", "kl") if name in row}
            self.job.progress(state.global_step, state.max_steps, **shown)


def _finite(value: Any) -> Any:
    """None for NaN and infinity: TRL uses NaN for what was not measured."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _anywhere(flag: bool, world: int, device: Any) -> bool:
    """Whether any process has the flag: all must stop at the same step, or the saving ones wait for the others for ever."""
    if world == 1:
        return flag
    import torch

    told = torch.tensor(int(flag), device=device)
    torch.distributed.all_reduce(told, op=torch.distributed.ReduceOp.MAX)
    return bool(told.item())


def _fault(stage: str, step: int) -> None:
    folder = os.environ.get("GWEN25_FAULTS")
    if not folder:
        return
    for kind in ("oom", "kill"):
        file = Path(folder) / f"{stage}-{kind}-{step}"
        if not file.exists():
            continue
        file.unlink()
        if kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        import torch

        raise torch.OutOfMemoryError(f"out of memory at step {step}, as GWEN25_FAULTS asked")
