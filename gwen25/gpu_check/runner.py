"""Rows as processes: what is missing is said without one, and whatever ends one is its row's outcome.

    for result in run(ROWS, setting): result.row, result.outcome, result.seconds

A row may use what earlier ones have left of their limits, up to twice its own; together they stay within their sum.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from gwen25 import preflight, supervise
from gwen25.gpu_check import Outcome, Row, Setting
from gwen25.job import Redactor, write_json

GRACE_SECONDS: Final = 1  # nothing here is worth a checkpoint
OUTCOME: Final = "outcome.json"
TAIL: Final = 300  # characters of a dead row's last words


@dataclass(frozen=True, slots=True)
class Result:
    row: Row
    outcome: Outcome
    seconds: float


def run(rows: Sequence[Row], setting: Setting) -> Iterator[Result]:
    """Each row's result, as it ends."""
    started, planned = time.monotonic(), 0.0
    unwell: dict[str, str] = {}
    for row in rows:
        planned += row.seconds
        before = time.monotonic()
        lacking = missing(row, setting)
        if lacking is None and row.after in unwell:
            lacking = f"the row `{row.after}` ({unwell[row.after or '']})"
        if lacking is not None:
            outcome = Outcome("missing", lacking)
        else:
            outcome = attempt(row, setting, max(row.seconds, min(2 * row.seconds, planned - (before - started))))
        if outcome.status != "ok":
            unwell[row.name] = outcome.status
        yield Result(row, outcome, time.monotonic() - before)


def missing(row: Row, setting: Setting) -> str | None:
    """The device or the packages that a row lacks, as far as can be told without CUDA."""
    if setting.device == "cuda" and not preflight.gpu_present():
        return "no CUDA device"
    lacking = [name for name in row.packages if find_spec(name) is None]
    return f"not installed: {', '.join(lacking)}; pip install {' '.join(lacking)}" if lacking else None


def attempt(row: Row, setting: Setting, seconds: float) -> Outcome:
    """Run one row in a process under the supervisor, so that all it starts ends with it."""
    folder = Path(setting.folder) / place(row.name)
    folder.mkdir(parents=True, exist_ok=True)
    request, out, log = folder / "request.json", folder / OUTCOME, folder / "log.txt"
    out.unlink(missing_ok=True)
    write_json(request, {"row": asdict(row), "setting": asdict(setting)})
    command = [sys.executable, "-m", "gwen25.gpu_check.child", str(request), str(out)]
    supervisor = [sys.executable, "-I", "-S", supervise.__file__, str(os.getpid()), str(GRACE_SECONDS)]
    with log.open("w", encoding="utf-8") as said:
        process = subprocess.Popen(
            [*supervisor, *command], stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True, env=environment(setting)
        )
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            return Outcome("timeout", f"not done in {seconds:.0f} s; its last words: {_tail(log)}")
        finally:
            _end(process)
    return _read(out) or Outcome("failed", f"{_death(status)}; its last words: {_tail(log)}")


def place(name: str) -> str:
    """A row's folder, below the setting's."""
    return name.replace(", ", "-").replace(" ", "-")


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(GRACE_SECONDS + 15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _read(out: Path) -> Outcome | None:
    """What the row wrote, if it came to that."""
    try:
        return Outcome(**json.loads(out.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _death(status: int) -> str:
    number = -status if status < 0 else status - 128 if status > 128 else None
    if number is None:
        return f"ended with status {status}"
    try:
        return f"killed by {signal.Signals(number).name}"
    except ValueError:
        return f"ended with status {status}"


def _tail(log: Path) -> str:
    text = Redactor()(log.read_text(encoding="utf-8", errors="replace"))
    return " ".join(text.split())[-TAIL:] or "none"


def environment(setting: Setting) -> dict[str, str]:
    """As a stage's process has it (`child.environment`), without a plan: what torch's determinism and the loaders ask for."""
    root = str(Path(__file__).parents[2])
    given = {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")])),
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",  # nothing here is on the hub
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "TQDM_DISABLE": "1",
        "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0] if setting.device == "cuda" else "",
    }
    if setting.device == "cpu":
        given = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", **given}
    return given
