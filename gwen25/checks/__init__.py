"""What the doctor looks at. A check gives findings: what is so here, whether that will do, what to do about it.

    machine     interpreter, packages, pins, llama.cpp, disk, the base model's licence
    gpu         the GPU, which profile fits it, the driver against torch's CUDA
    services    hub, judge and Ollama: do they answer, are their keys there
    box         the sandbox: its level, what it refuses, its speed
    cheats      canaries against the rewards

Not here: which checks there are, and in which order (`doctor`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from gwen25.config import Config, load_config


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of a report. `warn`: a run works, with less or under a condition. `fail`: it would stop, or would not be safe.

    `todo` says what to do, and is empty where that is nothing.
    """

    status: Literal["ok", "warn", "fail"]
    what: str
    todo: str = ""


@dataclass(frozen=True, slots=True)
class Asked:
    """What the machine is to be good for. `profile` None: none was chosen, and `config` is the reference recipe."""

    config: Config
    profile: str | None = None

    @property
    def stops(self) -> Literal["warn", "fail"]:
        """What it is that a run of this config would be refused: without a profile none was meant yet."""
        return "fail" if self.profile else "warn"


def reference() -> Asked:
    return Asked(load_config())


Check = Callable[[Asked], Iterable[Finding]]
