"""What does not fit the device, and the nearest setting that would.

    capacity(config)                     bytes of the device, or None
    verdict(peak, bytes)                 "fits", "close" or "too large"
    remedy(config, shape, "sft", bytes)  {"sft.gradient_checkpointing": True}

An estimate may be off by TOLERANCE: only what is larger by more than that is called too large.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any, Final, Literal

from gwen25.config import Config
from gwen25.estimate import memory
from gwen25.estimate.terms import Phase, on_gpu
from gwen25.models import Shape

TOLERANCE: Final = 0.15  # of measured peaks, on a CPU
NEAR: Final = 0.9  # of the device: beyond it fragmentation alone may be too much
SMALLEST: Final = 1024  # tokens: a context below it holds one row of R1's in 300
Verdict = Literal["fits", "close", "too large"]
Setting = Mapping[str, Any]

PHASES: Final[dict[str, Callable[[Config, Shape], tuple[Phase, ...]]]] = {
    "sft": memory.sft,
    "grpo": memory.grpo,
    "merge": memory.merge,
    "score": memory.score,
    "evaluate": memory.evaluate,
}


def peak(config: Config, shape: Shape, stage: str) -> Phase:
    """The largest phase of one of the stages that use the device."""
    return max(PHASES[stage](config, shape), key=lambda phase: phase.bytes)


def verdict(needed: float, there: float) -> Verdict:
    if needed <= NEAR * there:
        return "fits"
    return "close" if needed * (1 - TOLERANCE) <= there else "too large"


def stated(config: Config) -> float | None:
    """What the config says of its device's memory."""
    return None if config.runtime.gpu_memory_gib is None else config.runtime.gpu_memory_gib * 2**30


def found(config: Config) -> float | None:
    """The memory of this machine's device: the smallest GPU's by its driver, or the machine's own. None where it is not told."""
    if not on_gpu(config):
        return _host()
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    try:
        told = subprocess.run(
            [tool, "--query-gpu=memory.total", "--format=csv,noheader,nounits"], capture_output=True, text=True, timeout=20
        )
        return min(float(line) for line in told.stdout.split()) * 2**20
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def _host() -> float | None:
    """Memory of the machine, or of the container that we are in."""
    limits = []
    try:
        limits.append(float(Path("/proc/meminfo").read_text(encoding="ascii").split()[1]) * 1024)
        limits.append(float(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    except (OSError, ValueError):  # no such file, or "max"
        pass
    return min(limits, default=None)


# ------------------------------------------------------------------------------------------------------------------ remedies

# A knob: what it can be turned to, each with a price that orders the remedies. A split at the same effective batch and
# checkpointing cost time only, 4-bit weights precision, a shorter context rows, fewer answers a step the recipe.
_Knob = list[tuple[float, Setting]]
_AS_IS: Final[tuple[float, Setting]] = (0.0, {})


def remedy(config: Config, shape: Shape, stage: str, there: float) -> Setting | None:
    """The cheapest settings with which the stage fits, by dotted name; None where none does."""
    for chosen in sorted(product(*_knobs(config, stage)), key=lambda chosen: sum(price for price, _ in chosen)):
        setting = {name: value for _, part in chosen for name, value in part.items()}
        if verdict(peak(changed(config, setting), shape, stage).bytes, there) == "fits":
            return setting
    return None


def _knobs(config: Config, stage: str) -> list[_Knob]:
    if stage in ("score", "evaluate"):
        sizes = _halves(getattr(config, stage).batch_size, 1)
        knobs: list[_Knob] = [[_AS_IS, *((1.0, {f"{stage}.batch_size": rows}) for rows in sizes)]]
        if stage == "score" and config.score.dtype == "float32" and on_gpu(config):
            knobs.append([_AS_IS, (4.0, {"score.dtype": config.merge.dtype})])
        return knobs
    if stage not in ("sft", "grpo"):
        return [[_AS_IS]]
    section = getattr(config, stage)
    knobs = [_split(stage, section.per_device_train_batch_size, section.gradient_accumulation_steps)]
    if not section.gradient_checkpointing:
        knobs.append([_AS_IS, (1.0, {f"{stage}.gradient_checkpointing": True})])
    if not section.load_in_4bit and on_gpu(config):
        knobs.append([_AS_IS, (4.0, {f"{stage}.load_in_4bit": True})])
    return [*knobs, *(_sft_knobs(config) if stage == "sft" else _grpo_knobs(config))]


def _split(stage: str, micro: int, accumulation: int) -> _Knob:
    """The same effective batch in smaller micro-batches."""
    smaller = [(rows, micro * accumulation // rows) for rows in _halves(micro, 1) if micro * accumulation % rows == 0]
    settings = [{f"{stage}.per_device_train_batch_size": rows, f"{stage}.gradient_accumulation_steps": times} for rows, times in smaller]
    return [_AS_IS, *((0.5 * level, setting) for level, setting in enumerate(settings, 1))]


def _sft_knobs(config: Config) -> list[_Knob]:
    lengths = enumerate(_halves(config.dataset.max_length, SMALLEST), 1)
    return [[_AS_IS, *((5.0 * level, {"dataset.max_length": length, "sft.max_length": length}) for level, length in lengths)]]


def _grpo_knobs(config: Config) -> list[_Knob]:
    section = config.grpo
    answers = [
        (5.0 * level, {"grpo.max_completion_length": length})
        for level, length in enumerate(_halves(section.max_completion_length, SMALLEST), 1)
    ]
    return [[_AS_IS, *answers]]


def _halves(value: int, least: int) -> Iterator[int]:
    while value // 2 >= least:
        value //= 2
        yield value


def changed(config: Config, settings: Setting) -> Config:
    """The config with other values of some keys; they are taken as valid."""
    for name, value in settings.items():
        section, _, key = name.partition(".")
        inner = getattr(config, section).model_copy(update={key: value})
        config = config.model_copy(update={section: inner})
    return config


def told(settings: Setting) -> str:
    """As options of a command line."""
    return " ".join(f"--set {name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in settings.items())
