"""Rows that misbehave, for the runner's tests: each is run in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from gwen25.gpu_check import Missing, Outcome, Row, Setting


def well(row: Row, setting: Setting) -> Outcome:
    return Outcome("ok", f"{row.name} on {setting.device}", {"value": 7})


def lacks(row: Row, setting: Setting) -> Outcome:
    raise Missing("a GPU of 40 GiB: this one has 15.0")


def wrong(row: Row, setting: Setting) -> Outcome:
    raise ValueError(f"off by 0.5; the key is {os.environ.get('GEMINI_API_KEY')}")


def memory(row: Row, setting: Setting) -> Outcome:
    class OutOfMemoryError(RuntimeError):  # torch's, by its name
        pass

    raise OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")


def segfault(row: Row, setting: Setting) -> Outcome:
    print("about to fall", flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)
    raise AssertionError


def leaves(row: Row, setting: Setting) -> Outcome:
    os._exit(3)


def hangs(row: Row, setting: Setting) -> Outcome:
    """With a child in a session of its own, as vLLM's engine is, and deaf to SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(120)"], start_new_session=True)
    Path(setting.folder, "child").write_text(str(child.pid))
    print("waiting for ever", flush=True)
    time.sleep(120)
    raise AssertionError


def writes_nonsense(row: Row, setting: Setting) -> Outcome:
    Path(sys.argv[2]).write_text("{")
    os._exit(0)


def again(row: Row, setting: Setting) -> Outcome:
    """A stage whose backward pass turns out to have no deterministic kernel."""
    from gwen25.config import load_config
    from gwen25.gpu_check import steps
    from gwen25.job import Job, Result

    work = Path(setting.folder) / "again"
    (work / "aside").mkdir(parents=True, exist_ok=True)
    tries = work / "tries"

    def run(job: Job) -> Result:
        tries.write_text(tries.read_text() + f"{os.getpid()} " if tries.exists() else f"{os.getpid()} ")
        if not (job.aside / "not-deterministic").exists() or row.profile == "never":
            (job.aside / "not-deterministic").write_text("cumsum has none")
            raise RuntimeError("cumsum does not have a deterministic implementation")
        return Result()

    config = load_config("smoke")
    job = Job("sft", "-", config.sft, {}, {}, {}, config.runtime, 1, work)
    steps._run(run, job)
    return Outcome("ok", f"done{steps._loose(job)}")
