"""What a run will need: memory by node and term, hours, judge, disk; and which setting would make it fit.

    found = estimate(config)              from the config and the model's shape alone; nothing is loaded
    found.nodes["sft"].peak               Phase(name="backward pass", terms=...)
    misfits(config, {"sft"}, shape)       for preflight: what surely does not fit this machine, and what is close

Arithmetic throughout, except where a term says measured or assumed. `terms` and `memory` have the peaks, `work` the rest, `fit`
the remedies.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Final

from gwen25 import models, resolve
from gwen25.config import Config
from gwen25.errors import BadInput, Gwen25Error
from gwen25.estimate import fit, memory, terms, work
from gwen25.estimate.fit import Setting, Verdict
from gwen25.estimate.terms import Phase, Term, on_gpu
from gwen25.estimate.work import Hours, Judging
from gwen25.models import Shape

SHAPES: Final = {"sample:smollm2-135m": models.SMOLLM2}  # known before they are made
_PHASES: Final[dict[str, Callable[[Config, Shape], tuple[Phase, ...]]]] = {
    "dataset": memory.dataset,
    "sft": memory.sft,
    "grpo": memory.grpo,
    "adapters": memory.adapters,
    "merge": memory.merge,
    "gguf": memory.gguf,
    "score": memory.score,
    "ollama": memory.ollama,
    "evaluate": memory.evaluate,
}
DEVICE_STAGES: Final = ("sft", "grpo", "merge", "score", "evaluate")


@dataclass(frozen=True, slots=True)
class Node:
    """One node's memory. `verdict` None where the device's memory is not known; `remedy` where it does not fit and something helps."""

    name: str
    device: str
    phases: tuple[Phase, ...]
    verdict: Verdict | None = None
    remedy: Setting | None = None

    @property
    def peak(self) -> Phase:
        return max(self.phases, key=lambda phase: phase.bytes)


@dataclass(frozen=True, slots=True)
class Estimate:
    shape: Shape
    device_bytes: float | None
    nodes: dict[str, Node]
    hours: dict[str, Hours]
    judging: Judging | None
    disk: list[Term]


def estimate(config: Config, today: date | None = None) -> Estimate:
    """For the device that the config states, else the one found here. Raises BadInput for a base model whose shape is not known."""
    shape = shape_of(config)
    there = fit.stated(config) if on_gpu(config) and fit.stated(config) else fit.found(config)
    nodes = {name: _node(config, shape, name, there) for name in _PHASES}
    judging = work.judge(config, today or date.today())
    return Estimate(shape, there, nodes, work.hours(config, shape), judging, work.disk(config, shape))


def vllm_needs(config: Config) -> tuple[float, float]:
    """Bytes without which a colocated vLLM does not start: its copy of the weights, and the cache of one answer."""
    shape, section = shape_of(config), config.grpo
    length = section.vllm_max_model_length or config.dataset.max_prompt_length + section.max_completion_length
    return terms.weights(shape, section.dtype).bytes, float(length * memory.cache_bytes(shape, section.dtype))


def shape_of(config: Config) -> Shape:
    """The base model's shape: from the tables, its directory, or its config.json on the hub or in the hub's cache."""
    name = config.base_model
    if name in models.BASE_MODELS:
        return models.BASE_MODELS[name].shape
    if name in SHAPES:
        return SHAPES[name]
    try:
        external, folder = resolve.base_model(config, lambda _: None)
        file = Path(folder) / "config.json" if folder is not None else resolve.hub_file(name, "config.json", external["revision"])
    except BadInput:
        raise
    except Gwen25Error as error:
        raise BadInput(
            f"the shape of {name} is not known here: {error}; give a directory, or one of {', '.join(models.BASE_MODELS)}"
        ) from error
    return models.shape_of(models.read_config(file.parent), name)


def _node(config: Config, shape: Shape, name: str, there: float | None) -> Node:
    phases = _PHASES[name](config, shape)
    gpu = on_gpu(config) and name in DEVICE_STAGES
    if name not in DEVICE_STAGES:
        return Node(name, "CPU", phases)
    if there is None:
        return Node(name, "GPU" if gpu else "CPU", phases)
    largest = max(phase.bytes for phase in phases)
    if name == "merge" and gpu and largest > there:
        return Node(name, "CPU", memory.merge(fit.changed(config, {"runtime.device": "cpu"}), shape))  # as the stage itself falls back
    found = fit.verdict(largest, there)
    return Node(name, "GPU" if gpu else "CPU", phases, found, None if found == "fits" else fit.remedy(config, shape, name, there))


def misfits(config: Config, wanted: Collection[str], shape: Shape) -> tuple[list[str], list[str]]:
    """For a run on this very machine: what surely does not fit it, and what is close. Nothing where its memory is not told."""
    there = fit.found(config)
    refused, close = list[str](), list[str]()
    for name in DEVICE_STAGES if there is not None else ():
        if name not in wanted or name == "merge":
            continue
        node = _node(config, shape, name, there)
        assert there is not None
        told = f"{name} needs about {node.peak.bytes / 1e9:.1f} GB ({node.peak.name}), and the {node.device} has {there / 1e9:.1f}"
        helped = f"; it would fit with {fit.told(node.remedy)}" if node.remedy else "; no setting that gwen25 knows would make it fit"
        if node.verdict == "too large" and fit.verdict(fit.peak(memory.surely(config), shape, name).bytes, there) == "too large":
            refused.append(told + helped)
        elif node.verdict in ("too large", "close"):
            close.append(told + helped)
    return refused, close
