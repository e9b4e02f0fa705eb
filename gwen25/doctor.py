"""The doctor: what this machine lacks for a run, and what to do about it.

    for name, finding in examine(asked): name, finding.status, finding.what, finding.todo

To add a check, write a function of what is asked that gives findings (`gwen25.checks`), and add a row to CHECKS. A check changes
nothing on the machine. Not here: what one run needs of its config (`preflight`), how findings are printed (`commands.doctor`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from gwen25.checks import Asked, Check, Finding, box, cheats, gpu, machine, services
from gwen25.errors import Gwen25Error, SandboxUnavailable

CHECKS: Final[dict[str, Check]] = {
    "python": machine.python,
    "packages": machine.packages,
    "pins": machine.pins,
    "gpu": gpu.cards,
    "driver": gpu.driver,
    "disk": machine.disk,
    "base model": machine.base_model,
    "licence": machine.licence,
    "hub": services.hub,
    "judge": services.judging,
    "ollama": services.ollama,
    "llama.cpp": machine.llama_cpp,
    "sandbox": box.level,
    "refused": box.properties,
    "speed": box.speed,
    "canaries": cheats.rewards,
    "judge canaries": cheats.talking_judge,
}


def examine(asked: Asked) -> Iterator[tuple[str, Finding]]:
    """Every check in order, as (its name, a finding). One that breaks is a failure of its own, and the next one follows."""
    for name, check in CHECKS.items():
        try:
            for finding in check(asked):
                yield name, finding
        except SandboxUnavailable:
            yield name, Finding("fail", "not looked at: no program can be run here", "see `sandbox` above")
        except Gwen25Error as error:
            yield name, Finding("fail", f"not looked at: {error}", "mend that, then ask again")
        except Exception as error:  # whatever a strange machine does must not hide the other findings
            yield name, Finding("fail", f"the check itself broke: {type(error).__name__}: {error}", "report this")
