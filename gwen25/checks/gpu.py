"""Checks of the GPU: what it is, which profile fits it, and whether its driver serves the CUDA that torch was built for.

nvidia-smi is asked, and torch's version file is read: no CUDA context is made and torch is not imported. Whether the kernels
really run is another question (`gwen25.gpu_check`).
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Literal

from gwen25 import config, preflight
from gwen25.checks import Asked, Finding, machine
from gwen25.config import Config, load_config
from gwen25.errors import Gwen25Error
from gwen25.estimate import DEVICE_STAGES, fit, memory
from gwen25.estimate.terms import on_gpu
from gwen25.models import Shape

SMI_SECONDS: Final = 10  # a driver without persistence mode takes some seconds to wake
BF16: Final = (8, 0)  # compute capability from which there is bfloat16
MINIMUM: Final = {11: "450.80", 12: "525.60", 13: "580"}  # driver for a major version of CUDA (NVIDIA's CUDA release notes)
STAGES: Final = tuple(name for name in DEVICE_STAGES if name != "merge")  # which falls back to the CPU
_ASKED: Final = "name,memory.total,compute_cap,driver_version"


@dataclass(frozen=True, slots=True)
class Card:
    name: str
    mib: float
    capability: tuple[int, int]
    driver: str

    @property
    def dtype(self) -> str:
        return "bfloat16" if self.capability >= BF16 else "float16"


def smi(*options: str) -> str | None:
    """What nvidia-smi prints; None where there is none, or it fails."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    try:
        done = subprocess.run([tool, *options], capture_output=True, text=True, errors="replace", timeout=SMI_SECONDS)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode == 0 else None


def found() -> list[Card]:
    """The GPUs of this machine, as far as its driver tells."""
    cards = []
    for line in (smi(f"--query-gpu={_ASKED}", "--format=csv,noheader,nounits") or "").splitlines():
        fields = [field.strip() for field in line.split(",")]
        try:
            name, mib, capability, driver = fields
            major, minor = map(int, capability.split("."))
            cards.append(Card(name, float(mib), (major, minor), driver))
        except ValueError:  # "[N/A]", or words of an error
            continue
    return cards


def cards(asked: Asked) -> Iterator[Finding]:
    """Each GPU, and which profiles fit the smallest; a failure where the profile that was chosen needs one that is not here."""
    there = found()
    chosen = asked.profile if asked.profile and on_gpu(asked.config) else None
    if not there:
        silent = "an NVIDIA device is here, but nvidia-smi tells nothing of it" if preflight.gpu_present() else "no NVIDIA GPU"
        todo = "install the driver with nvidia-smi" if preflight.gpu_present() else "take a machine with one, or --profile smoke or cpu"
        if asked.profile and not on_gpu(asked.config):
            yield Finding("ok", f"{silent}; the profile {asked.profile} needs none")
        else:
            yield Finding("fail" if chosen else "warn", f"{silent}: only the profiles smoke and cpu run here", todo)
        return
    for card in there:
        yield Finding(
            "ok", f"{card.name}, {card.mib / 1024:.1f} GiB, compute capability {'.'.join(map(str, card.capability))}: {card.dtype}"
        )
    wanted = {name: asked.config if name == chosen else load_config(name) for name in config.profiles()}
    found_out = {name: misfit(one, there) for name, one in wanted.items() if on_gpu(one)}
    fitting = [name for name, wrong in found_out.items() if wrong is None]
    told = f"profiles for a GPU that fit by their estimates: {', '.join(fitting) or 'none'}"
    if chosen and (wrong := found_out[chosen]) is not None:
        yield Finding(wrong.status, f"{chosen} {wrong.why}; {told}", wrong.todo)
    else:
        yield Finding("ok" if fitting else "warn", told, "" if fitting else "take smoke or cpu, or a larger GPU")


@dataclass(frozen=True, slots=True)
class Misfit:
    """Why a config does not run on these GPUs: words after its name. `warn`: that cannot be told."""

    why: str
    todo: str
    status: Literal["warn", "fail"] = "fail"


def misfit(wanted: Config, cards: list[Card]) -> Misfit | None:
    """The first that is missing, of GPUs for its processes, its number type, and memory; None where it fits."""
    processes = max(memory.processes(wanted, stage) for stage in STAGES)
    if processes > len(cards):
        why = f"starts {processes} processes, each on a GPU of its own, and the GPUs here are {len(cards)}"
        return Misfit(why, f"take a machine with {processes}, or a profile for one")
    for stage in ("sft", "grpo"):
        for card in cards:
            if getattr(wanted, stage).dtype == "bfloat16" and card.capability < BF16:
                return Misfit(f"trains in bfloat16, which {card.name} has not", f"take --profile t4, or --set {stage}.dtype=float16")
    try:
        shape = machine.shape(wanted.base_model)
    except Gwen25Error as error:
        return Misfit(f"cannot be held against the GPU: {error}", "ask `gwen25 estimate`", "warn")
    return _short_of_memory(wanted, shape, min(card.mib for card in cards) * 2**20)


def _short_of_memory(wanted: Config, shape: Shape, there: float) -> Misfit | None:
    for stage in STAGES:
        if stage == "evaluate" and wanted.evaluate.backend == "openai":  # that model is elsewhere
            continue
        peak = fit.peak(wanted, shape, stage)
        if fit.verdict(peak.bytes, there) == "too large":
            why = f"does not fit: {stage} needs about {peak.bytes / 1e9:.1f} GB ({peak.name}), and the GPU has {there / 1e9:.1f}"
            helped = fit.remedy(wanted, shape, stage, there)
            todo = f"it would fit with {fit.told(helped)}" if helped else "take a larger GPU; `gwen25 estimate` shows the terms"
            return Misfit(why, todo)
    return None


# ------------------------------------------------------------------------------------------------------------------ driver


def driver(asked: Asked) -> Iterator[Finding]:
    """The newest CUDA that the driver serves, against the one that torch was built for."""
    built, there = torch_cuda(), found()
    if not there:
        yield Finding("ok", f"no driver answers; torch is built for {'CUDA ' + built if built else 'CPUs alone'}")
        return
    name = f"driver {there[0].driver}"
    if built is None:
        yield Finding(
            "fail" if on_gpu(asked.config) else "warn",
            f"{name}, but the installed torch is built for CPUs alone (or is not installed)",
            "pip install torch from PyPI or download.pytorch.org's index for the driver's CUDA, without an index of CPU wheels",
        )
        return
    told = re.search(r"CUDA[A-Za-z ]*Version\s*:\s*(\d+)\.(\d+)", smi() or "")
    if told is None:
        yield Finding("warn", f"{name} does not tell its CUDA; torch is built for CUDA {built}", f"look for {_minimum(built)}")
        return
    serves, needs = (int(told[1]), int(told[2])), tuple(map(int, built.split(".")[:2]))
    said = f"{name} serves CUDA {serves[0]}.{serves[1]}, torch is built for {built}"
    if serves >= needs:
        yield Finding("ok", said)
    elif serves[0] == needs[0]:
        yield Finding("warn", f"{said}: one major version, which works but for kernels compiled at run time", f"better: {_minimum(built)}")
    else:
        yield Finding("fail", f"{said}: torch will find no GPU", f"install {_minimum(built)}, or a torch for CUDA {serves[0]}.{serves[1]}")


def _minimum(built: str) -> str:
    least = MINIMUM.get(int(built.split(".")[0]))
    return f"driver {least} or later" if least else "a driver that serves it"


def torch_cuda() -> str | None:
    """The CUDA version in torch's own version file; None for a CPU build, and where torch is not installed."""
    spec = find_spec("torch")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        try:
            text = (Path(folder) / "version.py").read_text(encoding="utf-8")
        except OSError:
            continue
        if (line := re.search(r"^cuda\b[^=\n]*=\s*['\"](\d+(?:\.\d+)*)", text, re.MULTILINE)) is not None:
            return line[1]
    return None
