"""What an attempt is given so that it fits the memory, and what fitted before.

    fit = first(plan)                                what the config says
    fit = after(fit, section, attempts)              made smaller, once for each attempt that ran out of memory
    remember(store, plan, fit); recall(store, plan)  by machine, model, stage and the settings that decide how much is needed

What is made smaller depends on what the stage was doing: see `smaller`. Every choice computes the same numbers up to rounding, so
none of them is part of a key; except that a smaller micro-batch draws other dropout and other noise (NEFTune), and weighs rows
otherwise under bnpo: of those runs nothing is remembered. What fitted stands in STORE/fitted.json, so that the next run does not run
out of memory again; runtime.start_as_fitted=false, or deleting the file, forgets it.

A shortage may pass, since others use the machine too. So what fitted is kept for DAYS; vLLM's share, which depends on what else is on
the GPU, is not kept, and neither is what follows from a kill by the kernel, whose count of kills is the whole machine's.

Not here: how a shortage is told from other errors (`out_of_memory`), what to say when nothing is left to make smaller (`advice`).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gwen25.artifacts import Store, Warn
from gwen25.estimate.memory import processes
from gwen25.job import write_json

if TYPE_CHECKING:
    from gwen25.config import RuntimeConfig
    from gwen25.stage import Plan

FILE: Final = "fitted.json"
KEPT: Final = 200  # entries: the oldest go
DAYS: Final = 7  # that an entry holds
SMALLEST_SHARE: Final = 0.05  # of a GPU for vLLM: its CUDA context alone takes as much of a 16 GB card
_LESS: Final = 0.75  # of vLLM's share, after it found less free than that
# fields of a section that decide how much memory it needs
_NEEDS: Final = frozenset(
    {
        *("per_device_train_batch_size", "gradient_accumulation_steps", "dtype", "load_in_4bit", "attn_implementation", "optim"),
        *("gradient_checkpointing", "use_kernels", "max_length", "packing", "lora_r", "use_dora", "trainable_chat_tokens"),
        *("num_generations", "max_completion_length", "top_p", "beta", "vllm", "vllm_gpu_memory_utilization"),
        *("vllm_enable_sleep_mode", "vllm_max_model_length", "batch_size", "max_tokens"),
    }
)


@dataclass(frozen=True, slots=True)
class Fit:
    """What memory is given to; None: not asked of this stage, or as the config says.

    Rows of a micro-batch, sequences sampled at once, vLLM's share of the GPU, packed sequences of a micro-batch at most.
    """

    micro_batch: int | None = None
    at_once: int | None = None
    vllm_share: float | None = None
    packed: int | None = None

    @classmethod
    def of(cls, attempt: Mapping[str, Any]) -> Fit:
        """As an attempt was given it. Attempts of earlier versions tell the micro-batch alone."""
        return cls(attempt.get("micro_batch"), attempt.get("at_once"), attempt.get("vllm_share"), attempt.get("packed"))

    def told(self) -> str:
        names = {"micro_batch": "micro-batch", "at_once": "sequences at once", "vllm_share": "vLLM's share", "packed": "packed sequences"}
        return ", ".join(f"{names[name]} {value:g}" for name, value in asdict(self).items() if value is not None)


def first(plan: Plan) -> Fit:
    """What the config says."""
    return Fit(int(plan.section["per_device_train_batch_size"]) if plan.stage.trains else None)


def smaller(section: Mapping[str, Any], attempts: Sequence[Mapping[str, Any]]) -> Fit | None:
    """What comes after these attempts, the last of which ran out of memory; None where nothing is left to try.

    Sampling takes fewer sequences at once, vLLM that found too little free a smaller share, and the config's again where the smaller
    one holds no cache; everything else of a trainer half the micro-batch that it really had, and then less for a vLLM that stays
    awake beside it. The model itself is not helped by anything here. What the kernel killed may have been killed for another's
    memory: where nothing is left to make smaller, it is tried once more as it was.
    """
    last, given = attempts[-1], Fit.of(attempts[-1])
    less = _less(given, section, attempts)
    if less is None and _guessed(last) and not any(_guessed(one) and Fit.of(one) == given for one in attempts[:-1]):
        return given
    return less


def _less(given: Fit, section: Mapping[str, Any], attempts: Sequence[Mapping[str, Any]]) -> Fit | None:
    phase, rows = attempts[-1].get("phase"), attempts[-1].get("rows")
    colocated = section.get("vllm") == "colocate"
    if phase == "loading":
        return None
    if phase == "cache":
        return None if given.vllm_share is None else replace(given, vllm_share=None)
    if phase == "sampling":
        return replace(given, at_once=rows // 2) if rows and rows > 1 else None
    if phase != "share" and given.micro_batch is not None:
        if phase == "training" and rows and section.get("packing"):  # sequences: how many rows they hold, the stage alone knows
            return replace(given, packed=rows // 2) if rows > 1 else None
        real = min(rows or given.micro_batch, given.micro_batch) if phase == "training" else given.micro_batch
        if real > 1:
            return replace(given, micro_batch=real // 2)
    if phase == "share" or (colocated and not section.get("vllm_enable_sleep_mode")):
        share = round(_share(given, section) * _LESS, 3) if colocated else 0.0
        return replace(given, vllm_share=share) if share >= SMALLEST_SHARE and share > _without_cache(section, attempts) else None
    return None


def _guessed(attempt: Mapping[str, Any]) -> bool:
    """Whether its shortage was the kernel's kill, and not an error of its own. Attempts of earlier versions do not tell."""
    return attempt["cause"] == "out_of_memory" and not attempt.get("certain", True)


def _share(fit: Fit, section: Mapping[str, Any]) -> float:
    return fit.vllm_share or float(section["vllm_gpu_memory_utilization"])


def _without_cache(section: Mapping[str, Any], attempts: Sequence[Mapping[str, Any]]) -> float:
    """The largest share that held no cache: no smaller one will."""
    return max((_share(Fit.of(one), section) for one in attempts if one.get("phase") == "cache"), default=0.0)


def after(fit: Fit, section: Mapping[str, Any], attempts: Sequence[Mapping[str, Any]]) -> Fit:
    """What the next attempt is given: the smallest of all that earlier ones ask for, and the last share that one did.

    The micro-batch divides the effective batch; vLLM's share is never more than the config's.
    """
    for number, attempt in enumerate(attempts, 1):
        if attempt["cause"] == "out_of_memory" and (less := smaller(section, attempts[:number])) is not None:
            micro, at_once = _least(fit.micro_batch, less.micro_batch), _least(fit.at_once, less.at_once)
            fit = Fit(micro, at_once, less.vllm_share, _least(fit.packed, less.packed))
    if fit.vllm_share is not None and fit.vllm_share >= float(section["vllm_gpu_memory_utilization"]):
        fit = replace(fit, vllm_share=None)
    if fit.micro_batch is None:
        return fit
    effective, micro = int(section["per_device_train_batch_size"]) * int(section["gradient_accumulation_steps"]), fit.micro_batch
    return replace(fit, micro_batch=next(rows for rows in range(micro, 0, -1) if effective % rows == 0))


def _least(one: int | None, other: int | None) -> int | None:
    return min((value for value in (one, other) if value is not None), default=None)


# ------------------------------------------------------------------------------------------------------------------- memory


def recall(store: Store, plan: Plan, warn: Warn) -> tuple[Fit, float] | None:
    """What fitted here the last time that memory ran out, and when that was (seconds since 1970).

    None where it never did, or more than DAYS ago, or the config says not to ask.
    """
    if not plan.runtime.start_as_fitted or (name := _name(plan)) is None:
        return None
    found = _read(store.root / FILE, warn).get(name)
    if found is None or not abs(time.time() - _at(found)) < DAYS * 86400:
        return None
    try:
        return _checked(found["fit"]), _at(found)
    except (KeyError, TypeError, ValueError):
        warn(f"{store.root / FILE} holds what cannot be a setting ({found}): ignored; delete the file")
        return None


def remember(store: Store, plan: Plan, fit: Fit, warn: Warn) -> None:
    """Keep what fitted after memory ran out, but for vLLM's share. Never fails the work: what cannot be kept is a warning.

    Another run that writes at the same moment may win: its own shortage is told again.
    """
    fit, file = replace(fit, vllm_share=None), store.root / FILE
    if (name := _name(plan)) is None or fit == first(plan):
        return
    entry = {"fit": asdict(fit), "machine": machine(plan.runtime), "stage": plan.stage.name, "model": _model(plan), "at": time.time()}
    try:
        kept = {**_read(file, warn), name: entry}
        newest = sorted(kept, key=lambda name: _at(kept[name]))[-KEPT:]
        write_json(file, {name: kept[name] for name in newest})
    except (OSError, ValueError, TypeError) as error:
        warn(f"what fitted cannot be kept in {file} ({error}): the next run may run out of memory first, as this one did")


def _at(entry: Mapping[str, Any]) -> float:
    """When an entry was made; 0, the oldest, where it does not tell a time."""
    at: Any = entry.get("at")
    return float(at) if type(at) in (int, float) and math.isfinite(at) else 0.0


def _read(file: Path, warn: Warn) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(value, dict) and all(isinstance(entry, dict) for entry in value.values()):
            return value
        problem = "no object of objects"
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        problem = str(error)
    warn(f"{file} cannot be read ({problem}): what fitted before is not known; delete the file")
    return {}


def _checked(fit: Mapping[str, Any]) -> Fit:
    """Raises ValueError, KeyError or TypeError for anything but sizes."""
    micro, at_once, packed = sizes = fit["micro_batch"], fit["at_once"], fit["packed"]
    for size in sizes:
        if size is not None and (type(size) is not int or size < 1):
            raise ValueError(size)
    return Fit(micro, at_once, packed=packed)


def _name(plan: Plan) -> str | None:
    """What an entry is found by; None where the model is not known, or where the split decides the numbers (bnpo, noise, dropout)."""
    noise = plan.section.get("neftune_noise_alpha") or plan.section.get("lora_dropout")  # drawn in the micro-batch's shape
    if (model := _model(plan)) is None or plan.section.get("loss_type") == "bnpo" or noise:
        return None
    needs = {name: value for name, value in plan.section.items() if name in _NEEDS}
    world = 1 if plan.config is None else processes(plan.config, plan.stage.name)
    parts = [machine(plan.runtime), model, plan.stage.name, needs, world]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _model(plan: Plan) -> Any:
    """The identity of the weights that are loaded: the base's, a pinned model's, or the merged artifact's."""
    merged = plan.inputs.get("model")
    return plan.resolved.externals.get("base_model") or plan.resolved.externals.get("model") or (merged.digest if merged else None)


def machine(runtime: RuntimeConfig) -> str:
    """The device that is computed on: the GPUs' names and memory by their driver, or cores and main memory."""
    if runtime.device == "cpu":
        return f"{os.cpu_count()} cores, {_main_memory_gib()} GiB"
    tool = shutil.which("nvidia-smi")
    try:
        told = subprocess.run(
            [tool or "nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"], capture_output=True, text=True, timeout=20
        )
        return "; ".join(line.strip() for line in told.stdout.splitlines()) or "unknown GPU"
    except (OSError, subprocess.SubprocessError):
        return "unknown GPU"


def _main_memory_gib() -> int:
    return math.floor(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)
