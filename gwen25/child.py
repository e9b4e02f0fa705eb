"""A stage's process, from the outside: how it is started, followed, stopped.

    child = Child(plan, work, lock)                  under gwen25/supervise.py, in a session of its own
    tail = child.follow(log, on_line, on_progress)   until it has ended; secrets are taken out of every line
    stop_all()                                       ends what this process started, and lets nothing start until `allow()`

Not here: what is run and when it counts as done (`stage`), the child's own side (`job`).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gwen25 import job
from gwen25.errors import StageFailed

if TYPE_CHECKING:
    from gwen25.config import RuntimeConfig
    from gwen25.stage import Plan

OnLine = Callable[[str], None]
OnProgress = Callable[[dict[str, Any]], None]

_RUNNING: set[Child] = set()
_STARTING = threading.Lock()
_stopping = threading.Event()


def allow() -> None:
    """Stages may start again after a `stop_all`: the first line of a flow."""
    _stopping.clear()


def stop_all() -> None:
    """End every stage this process started, within their grace time, and let none start until `allow`.

    For a flow's `finally`: a task's own does not run on cancel, and tasks that wait for a slot or a retry go on in their threads.
    """
    with _STARTING:
        _stopping.set()
        children = list(_RUNNING)
    for child in children:
        child.cancel()
    for child in children:
        child.wait()


def stopping() -> bool:
    """Whether `stop_all` was called and nothing may start."""
    return _stopping.is_set()


def stop_if_asked(plan: Plan) -> None:
    if _stopping.is_set():
        raise StageFailed(plan.stage.name, "cancelled", None, "the run is being stopped")


class Child:
    """A running stage: its process, its output, how it ended."""

    def __init__(self, plan: Plan, work: Path, lock: int):
        self.plan = plan
        self.cancelled = self.timed_out = False
        self._oom_before = _oom_kills()
        name, runtime = plan.stage.name, plan.runtime
        launcher = runtime.launcher.get(name, (interpreter(runtime, name),))  # type: ignore[call-overload]
        supervisor = [
            sys.executable,
            "-I",
            "-S",
            str(Path(__file__).with_name("supervise.py")),
            str(os.getpid()),
            str(runtime.grace_seconds),
        ]
        with _STARTING:
            stop_if_asked(plan)
            self.process = subprocess.Popen(
                [*supervisor, *launcher, "-m", plan.stage.module, str(work)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(lock,),
                env=environment(plan),
                text=True,
                encoding="utf-8",
                errors="replace",
            )
            _RUNNING.add(self)

    @property
    def exit_code(self) -> int | None:
        return self.process.returncode

    def follow(self, log: Path, on_line: OnLine, on_progress: OnProgress) -> list[str]:
        """Hand on each line until the child has ended; keeps them in `log`. Returns the last 20."""
        tail: list[str] = []
        redact = job.Redactor()
        timer = threading.Timer(self.plan.runtime.timeout_seconds or 0, self._time_out)
        if self.plan.runtime.timeout_seconds:
            timer.start()
        try:
            assert self.process.stdout is not None
            with log.open("a", encoding="utf-8") as kept:
                for raw in self.process.stdout:
                    line = redact(raw.rstrip("\n"))[:10_000]
                    if (progress := _progress(line)) is not None:
                        on_progress(progress)
                        continue
                    kept.write(line + "\n")
                    kept.flush()
                    tail = [*tail[-19:], line]
                    on_line(line)
            self.process.wait()
        except BaseException:  # Ctrl-C, a cancelled task: nothing may be left running
            self.cancel()
            self.wait()
            raise
        finally:
            timer.cancel()
            _RUNNING.discard(self)
        return tail

    def cancel(self) -> None:
        self.cancelled = True
        self.process.terminate()

    def wait(self) -> None:
        try:
            self.process.wait(self.plan.runtime.grace_seconds + 5)
        except subprocess.TimeoutExpired:  # the supervisor itself hangs: its death takes the command along
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def host_oom_kills(self) -> bool:
        """Whether the kernel killed a process for memory since this child began."""
        return _oom_kills() > self._oom_before

    def _time_out(self) -> None:
        self.timed_out = True
        self.process.terminate()


def _progress(line: str) -> dict[str, Any] | None:
    """A progress line's content; None for any other line, a garbled one included: a broken bar must not end a training."""
    if not line.startswith(job.PROGRESS):
        return None
    try:
        value = json.loads(line.removeprefix(job.PROGRESS))
    except ValueError:
        return None
    return value if isinstance(value, dict) and isinstance(value.get("step"), int) else None


def _oom_kills() -> int:
    """The kernel's count of out-of-memory kills (proc(5), vmstat: oom_kill); of the whole machine."""
    found = re.search(r"^oom_kill (\d+)$", Path("/proc/vmstat").read_text(), re.MULTILINE)
    return int(found[1]) if found else 0


def interpreter(runtime: RuntimeConfig, stage: str) -> str:
    """The Python that runs a stage: the one that the config names for it, else our own."""
    return str(runtime.python.get(stage, sys.executable))  # type: ignore[call-overload]


def search_path(runtime: RuntimeConfig, stage: str) -> str:
    """PATH for a stage, its interpreter's folder first: `accelerate` is found there whether or not that environment is activated."""
    found = shutil.which(interpreter(runtime, stage))
    folders = [str(Path(found).absolute().parent)] if found else []
    return os.pathsep.join([*folders, os.environ.get("PATH", os.defpath)])


def environment(plan: Plan) -> dict[str, str]:
    """The child's environment: the caller's, less Prefect's own, plus what makes output prompt and runs repeatable."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {
        "PATH": search_path(plan.runtime, plan.stage.name),
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")])),
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # torch's deterministic algorithms on CUDA ask for it
        "TOKENIZERS_PARALLELISM": "false",  # its threads and the data loader's forks deadlock
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "MPLBACKEND": "Agg",
        "TQDM_DISABLE": "1",  # progress comes as lines of our own; a bar redrawn in a log is noise
    }
    if plan.runtime.cuda_visible_devices is not None:
        environment["CUDA_VISIBLE_DEVICES"] = plan.runtime.cuda_visible_devices
    elif plan.stage.name not in plan.runtime.launcher:
        # one process, one GPU: over several transformers would take nn.DataParallel, which TRL refuses
        environment["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    if plan.runtime.device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
        # threads that wait must not spin: with two stages on two cores a step takes five times as long
        environment = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", **environment}
    if plan.runtime.num_threads is not None:
        environment["OMP_NUM_THREADS"] = str(plan.runtime.num_threads)
    return environment
