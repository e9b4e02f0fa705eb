"""What to say when memory ran out and nothing is left to make smaller: what did not fit, and which setting would.

The context that would fit is the estimate's (`gwen25 estimate`), told as one: it knows the model's shape and the device, not what
else holds memory there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gwen25 import estimate
from gwen25.config import Config
from gwen25.errors import Gwen25Error
from gwen25.estimate import fit
from gwen25.models import Shape

GRAIN: Final = 128  # tokens that a context is told to
_LENGTHS: Final[dict[str, tuple[str, ...]]] = {
    "sft": ("dataset.max_length", "sft.max_length"),
    "grpo": ("grpo.max_completion_length",),
    "evaluate": ("evaluate.max_tokens",),
    "score": ("score.max_tokens",),
}


def stuck(stage: str, phase: str | None, section: Mapping[str, Any], config: Config | None) -> str:
    """The end of the error's line, by what the stage was doing."""
    if phase == "loading":
        return "; the model itself does not fit: " + _lighter(stage, section)
    if phase == "cache":
        return (
            "; vLLM's share of the GPU holds no cache for one answer: raise grpo.vllm_gpu_memory_utilization, or lower "
            "grpo.vllm_max_model_length or grpo.max_completion_length"
        )
    if phase == "share":
        return "; too little of the GPU is free for vLLM: end what else runs on it (nvidia-smi), or set grpo.vllm=off"
    told = _context(stage, config)
    if phase == "sampling":
        return f"; one sequence at a time does not fit either: {told or _shorter(stage)}"
    if "per_device_train_batch_size" in section:
        return f"; the micro-batch is 1 already: {told or _shorter(stage)}; or {_lighter(stage, section)}"
    return ""


def _shorter(stage: str) -> str:
    names = _LENGTHS.get(stage)
    return f"lower {' and '.join(names)}" if names else "take a machine with more memory"


def _lighter(stage: str, section: Mapping[str, Any]) -> str:
    """Settings that need less memory whatever the context."""
    asked = [f"{stage}.load_in_4bit=true"] if section.get("load_in_4bit") is False else []
    asked += [f"{stage}.gradient_checkpointing=true"] if section.get("gradient_checkpointing") is False else []
    asked += [f"{stage}.dtype=bfloat16"] if section.get("dtype") == "float32" and "load_in_4bit" not in section else []
    return ", ".join([*(f"set {setting}" for setting in asked), "take a machine with more memory"])


def _context(stage: str, config: Config | None) -> str | None:
    """By the estimate, which context would fit; None where the estimate cannot tell."""
    if config is None or stage not in _LENGTHS or stage not in fit.PHASES:
        return None
    try:
        shape = estimate.shape_of(config)
    except Gwen25Error:
        return None
    there = fit.stated(config) or fit.found(config)
    if there is None:
        return None
    config = _as_small_as_tried(config, stage)
    needed, now = fit.peak(config, shape, stage).bytes, _length(config, stage)
    told = f"by the estimate it needs {needed / 1e9:.2g} GB of {there / 1e9:.2g} at {now} tokens"
    if fit.verdict(needed, there) == "fits":
        return f"{told}, so look for what else holds memory; otherwise {_set(stage, now // 2)}" if now >= 2 * GRAIN else None
    longest = _longest(config, shape, stage, there)
    return f"{told}, and no context would fit" if longest is None else f"{told}, and {longest} would fit: {_set(stage, longest)}"


def _as_small_as_tried(config: Config, stage: str) -> Config:
    """One row at a time, as the last attempt had it."""
    section = getattr(config, stage)
    if stage in ("score", "evaluate"):
        return fit.changed(config, {f"{stage}.batch_size": 1})
    batch = section.per_device_train_batch_size * section.gradient_accumulation_steps
    return fit.changed(config, {f"{stage}.per_device_train_batch_size": 1, f"{stage}.gradient_accumulation_steps": batch})


def _length(config: Config, stage: str) -> int:
    values = [getattr(getattr(config, section), key) for section, _, key in (name.partition(".") for name in _LENGTHS[stage])]
    return int(min(values))


def _longest(config: Config, shape: Shape, stage: str, there: float) -> int | None:
    """The longest context, to GRAIN tokens, that the estimate says fits."""

    def fits(length: int) -> bool:
        changed = fit.changed(config, dict.fromkeys(_LENGTHS[stage], length))
        return fit.verdict(fit.peak(changed, shape, stage).bytes, there) == "fits"

    low, high = 0, _length(config, stage) // GRAIN
    while low < high:  # the largest number of grains that fits; memory grows with the length
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle * GRAIN) else (low, middle - 1)
    return low * GRAIN or None


def _set(stage: str, length: int) -> str:
    return " ".join(f"--set {name}={length}" for name in _LENGTHS[stage])
