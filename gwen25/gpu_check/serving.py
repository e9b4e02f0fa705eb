"""vLLM beside a trainer on one GPU: answer, sleep, wake, answer again, in vLLM's own environment (`make vllm-env`)."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any, Final

from gwen25.config import VLLM_PYTHON
from gwen25.gpu_check import Missing, Outcome, Row, Setting, base

PYTHON: Final = "GWEN25_VLLM_PYTHON"  # an interpreter with vLLM; else the checkout's environment
SHARE: Final = 0.5  # of the GPU's memory, for weights and KV cache together: the other half is a trainer's


def interpreter() -> Path:
    found = Path(os.environ.get(PYTHON) or VLLM_PYTHON)
    if not found.is_file():
        raise Missing(f"vLLM's environment: no {found}; `make vllm-env` makes it, or set {PYTHON}")
    return found


def colocate(row: Row, setting: Setting) -> Outcome:
    """Run `sleeper` there, and read its last line."""
    script = Path(__file__).with_name("sleeper.py")
    # -P: the script's own folder is not looked in for modules, or `kernels` would be ours
    command = [str(interpreter()), "-P", str(script), str(base.whole(setting)), setting.device, str(SHARE)]
    # no PYTHONPATH: of this environment nothing may reach that one
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    # spawn: the script has asked CUDA for its memory, and a forked engine could then use none of it
    environment |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_WORKER_MULTIPROC_METHOD": "spawn"}
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=environment)
    print(done.stdout, flush=True)
    found = read(done.stdout)
    if done.returncode != 0 or found is None:
        raise RuntimeError(f"vLLM ended with status {done.returncode}: {' '.join(done.stdout.split())[-300:]}")
    if not found["equal"]:
        raise ValueError("after waking it gives another greedy answer to the same prompt")
    if not found["slept"]:
        return Outcome("ok", f"vLLM {found['version']}: {found['tokens']} greedy tokens, twice the same; no sleep on a CPU", found)
    awake, asleep = (found[name] / 1e9 for name in ("awake_bytes", "asleep_bytes"))
    told = f"vLLM {found['version']}: {found['tokens']} greedy tokens, the same after sleep; {awake:.1f} GB awake, {asleep:.1f} asleep"
    return Outcome("ok", told, found)


def read(text: str) -> dict[str, Any] | None:
    """The object in the last line that is one: vLLM's own lines may follow it."""
    for line in reversed(text.splitlines()):
        if line.startswith("{"):
            try:
                found = json.loads(line)
            except ValueError:
                continue
            if isinstance(found, dict) and "equal" in found:
                return found
    return None
