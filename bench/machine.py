"""What a figure must be read beside: the machine, the interpreter, and what it costs to start one."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

STARTS = 7


def facts(python: str) -> dict[str, Any]:
    started = {flags: statistics.median(_starts([python, *flags.split(), "-c", "pass"])) for flags in ("-I", "-I -S")}
    return {
        "when": time.strftime("%Y-%m-%d %H:%M"),
        "CPU": f"{os.cpu_count()} x {_cpu_model()}",
        "Linux": platform.release(),
        "Python": platform.python_version(),
        "user": "root" if os.getuid() == 0 else "ordinary",
        **{f"plain start {flags} ms": round(ms, 1) for flags, ms in started.items()},  # .pth files make the difference
        "load": round(os.getloadavg()[0], 1),
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _starts(command: list[str]) -> Iterator[float]:
    for _ in range(STARTS):
        began = time.perf_counter()
        subprocess.run(command, check=True)
        yield (time.perf_counter() - began) * 1e3
