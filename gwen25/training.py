"""What SFT and GRPO share: arguments, one callback, checkpoints and resuming.

    batch = split(job, effective)                      rows of a micro-batch, and how many make an optimizer step
    args = SFTConfig(**arguments(job, batch, device))
    trainer = SFTTrainer(..., callbacks=[callback(job)])
    train(trainer, job)                                from the newest whole checkpoint, if there is one

A stage that is killed, cancelled or out of memory is started again with the same work folder and goes on from its newest
checkpoint as if nothing had happened: weights, optimizer, schedule, random states and the order of the rows are restored as
they were. On a CPU the result is the undisturbed run's bit for bit; on CUDA torch is held to deterministic kernels where it has
them (`modeling.prepare`), fused attention's backward pass included, and whether that makes every bit equal was not measured.
With a smaller micro-batch the same rows meet in the same step, equal up to the rounding of sums; but dropout and NEFTune's noise are
drawn in a micro-batch's shape, and are others then, and bnpo averages over each micro-batch.

SIGTERM is looked at between micro-batches and at each token that Transformers samples. A step under way is given up, the end of
the last one is saved with the random state it had, and the next run begins that step again: a cancel costs less than one step
where the micro-batch ends within runtime.grace_seconds, and otherwise what a death costs, at most save_steps steps. Several
processes finish their step first, since all must save together; several steps on one sampling (GRPO's num_iterations) are
finished too, since the sampled completions are not saved.

    aside/metrics.jsonl     one object a log, by `step`; no step twice, whatever was repeated
    aside/checkpoints/      the last two, and how many processes made them; gone once the artifact is published

With logging_steps > 1 a log is the mean since the one before; one more is written at each checkpoint, so that a resumed run
averages over the same steps. A step that is given up after one without a log saves nothing, and the checkpoint before it stands: the
mean under way would be lost. `gwen25.faults` is a hook for tests: a memory error or SIGKILL as a step begins.
"""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gwen25 import batches, faults, models, token_rows
from gwen25.errors import BadInput
from gwen25.job import Cancelled, Job, terminating, write_json
from gwen25.modeling import ADAPTER_CONFIG, ADAPTER_WEIGHTS, restore_adapter
from gwen25.out_of_memory import phase
from gwen25.slices import in_slices

KEPT_CHECKPOINTS: Final = 2  # one may be half-written when the machine dies
RECENT: Final = 10  # logs that make a "recent" mean
MADE_BY: Final = "made-by.json"  # beside the checkpoints: how many processes there were


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
    batches.check(job.stage, effective, world)
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
        "save_steps": math.ceil(config.save_steps / cycle(config)) * cycle(config),
        "save_total_limit": KEPT_CHECKPOINTS,
        "eval_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_num_workers": job.runtime.dataloader_num_workers,
        "dataloader_pin_memory": device != "cpu",
        "ddp_find_unused_parameters": False,  # every LoRA matrix takes part in every step
        "remove_unused_columns": False,
    }


def cycle(config: Any) -> int:
    """Optimizer steps on one sampling of GRPO's: only between two of them can a resumed run go on as if nothing had happened."""
    return int(getattr(config, "num_iterations", 1))


def checkpointing_name() -> str:
    """What TrainingArguments calls it: transformers 5.23 by a new name, the older one of the vLLM environment by the old."""
    from transformers import TrainingArguments

    name = "activation_checkpointing"
    return name if name in TrainingArguments.__dataclass_fields__ else "gradient_checkpointing"


def checkpoints(job: Job) -> Path:
    return job.aside / "checkpoints"


def train(trainer: Any, job: Job) -> int:
    """Train to the last step, from the newest whole checkpoint; returns the number of steps, those of earlier attempts included.

    Raises Cancelled after SIGTERM, when the last step is saved; BadInput under FSDP or DeepSpeed, which leave an adapter in
    pieces, and for checkpoints of another number of processes.

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
    if checkpoint is not None:
        _go_on_counting(trainer, state)
    if not terminating.is_set():
        _train(trainer, job, checkpoint)
    if terminating.is_set():
        raise Cancelled(f"{job.stage} was asked to stop; it goes on from its newest checkpoint")
    return int(trainer.state.global_step)


def _train(trainer: Any, job: Job, checkpoint: Path | None) -> None:
    """TRL's own loop, its sampling in slices where the job says so. Given up in mid-step, the step before is saved if it was logged."""
    watch = next(callback for callback in trainer.callback_handler.callbacks if isinstance(callback, Watch))
    watch.gives_up = alone = trainer.args.world_size == 1 and cycle(job.config) == 1
    trainer.model.generate = in_slices(trainer.model.generate, job.at_once, watch=_give_up_if_asked if alone else None)
    _mark_vllm(trainer)
    try:
        with phase("training", trainer.args.per_device_train_batch_size):
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    except _GivenUp:
        watch.ended.restore(trainer.state)
        if _logged(trainer.state) and not (checkpoints(job) / f"checkpoint-{trainer.state.global_step}").exists():
            trainer._save_checkpoint(trainer.model, trial=None)
    finally:
        del trainer.model.generate  # the class's own again


def _mark_vllm(trainer: Any) -> None:
    """What runs out of memory in a colocated vLLM is helped by a smaller share of the GPU, not by a smaller micro-batch."""
    if (sampler := getattr(trainer, "vllm_generation", None)) is not None:
        for name in ("generate", "sync_weights"):
            setattr(sampler, name, phase("share")(getattr(sampler, name)))


def _logged(state: Any) -> bool:
    """Whether the last step ended with a log. A resumed run could not take up the mean that was under way in any other."""
    return any("loss" in row and row["step"] == state.global_step for row in reversed(state.log_history))


class _GivenUp(Exception):
    """SIGTERM in mid-step: the work since the last step is dropped."""


def _give_up_if_asked() -> None:
    if terminating.is_set():
        raise _GivenUp


def _go_on_counting(trainer: Any, state: Mapping[str, Any]) -> None:
    """TRL's SFTTrainer begins its count of tokens at 0 in each process."""
    counted = [row["num_tokens"] for row in state.get("log_history", ()) if "num_tokens" in row and row["step"] == state["global_step"]]
    if counted and hasattr(trainer, "_total_train_tokens"):
        trainer._total_train_tokens = int(counted[-1])


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
    world = int(os.environ.get("WORLD_SIZE", "1"))
    made_by = _made_by(job, world)
    for _, folder in sorted(found, reverse=True):
        if (flaw := _flaw(folder, made_by)) is None:
            _refuse_another_world(job, folder, made_by, world)
            return folder
        job.warn(f"{folder.name} is not whole ({flaw}); the one before it is taken")
        if os.environ.get("RANK", "0") == "0":
            shutil.rmtree(folder)
    if os.environ.get("RANK", "0") == "0":
        checkpoints(job).mkdir(parents=True, exist_ok=True)
        write_json(checkpoints(job) / MADE_BY, {"processes": world})
    return None


def _made_by(job: Job, world: int) -> int:
    """How many processes made the checkpoints. Older work folders do not say: their random states are one file, or one a process."""
    try:
        return int(json.loads((checkpoints(job) / MADE_BY).read_text(encoding="utf-8"))["processes"])
    except (OSError, ValueError, KeyError, TypeError):
        many = {file.name for file in checkpoints(job).glob("checkpoint-*/rng_state_*.pth")}
        return len(many) or (1 if any(checkpoints(job).glob("checkpoint-*/rng_state.pth")) else world)


def _refuse_another_world(job: Job, checkpoint: Path, made_by: int, world: int) -> None:
    """Batches are dealt out, and random numbers drawn, by each process: another number of them would be another run."""
    if made_by != world:
        raise BadInput(
            f"{job.stage}: {checkpoint.name} was made by {made_by} processes and would go on with {world}, on other batches and other "
            f"random numbers: set runtime.launcher.{job.stage} to {made_by} again, or delete {checkpoints(job)} to begin anew"
        )


def _flaw(checkpoint: Path, processes: int) -> str | None:
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
        return None if len(rng) == processes else f"random states of {len(rng)} of {processes} processes"
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
        self.gives_up = False  # in mid-step; else a step is finished first
        self.ended = _Ended.none()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.ended = _Ended.now(state)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        faults.meet(self.job.stage, str(state.global_step + 1))

    def on_substep_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.gives_up:
            _give_up_if_asked()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.ended = _Ended.now(state)
        if state.global_step % cycle(self.job.config) == 0 and _anywhere(terminating.is_set(), args.world_size, args.device):
            terminating.set()
            control.should_save = control.should_training_stop = True
        if control.should_save or state.global_step % args.save_steps == 0:
            control.should_log = True

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


@dataclass(frozen=True, slots=True)
class _Ended:
    """What the step under way has changed already, as it was when the last one ended: the numbers drawn and the tokens counted.

    The weights, the optimizer and the schedule change at a step's end only.
    """

    python: Any
    numpy: Any
    torch: Any
    cuda: Any
    tokens: int

    @classmethod
    def none(cls) -> _Ended:
        return cls(None, None, None, None, 0)

    @classmethod
    def now(cls, state: Any) -> _Ended:
        import numpy
        import torch

        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
        return cls(random.getstate(), numpy.random.get_state(), torch.get_rng_state(), cuda, state.num_input_tokens_seen)

    def restore(self, state: Any) -> None:
        import numpy
        import torch

        random.setstate(self.python)
        numpy.random.set_state(self.numpy)
        torch.set_rng_state(self.torch)
        if self.cuda is not None:
            torch.cuda.set_rng_state_all(self.cuda)
        state.num_input_tokens_seen = self.tokens


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
