"""The process between a flow and a stage: dies with the flow, and takes every descendant of the stage along.

    python -I -S gwen25/supervise.py PARENT_PID GRACE_SECONDS COMMAND...

`stage.launch` starts it; it starts COMMAND (`[*launcher] python -m gwen25.pipelines.<stage> WORK_DIR`) and ends with that
command's exit status. It exists because a stage cannot do this for itself: a Python signal handler waits for the current
C call (a step of a large model takes half a minute), and torchrun and vLLM start sessions of their own, out of reach of a
signal to the process group. This process does nothing but wait, and the kernel makes it the parent of every orphan below.

On SIGTERM, or when the parent is gone: SIGTERM to the command, GRACE_SECONDS to checkpoint (2 when the parent is gone),
then SIGKILL to all that is left. Linux only; standard library only; 10 MB.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
ORPHAN_GRACE_SECONDS = 2.0  # nobody is left to read the checkpoint's progress, and no process may outlive the flow by 5 s


def _prctl(option: int, value: int) -> None:
    if _LIBC.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def _die_with_me(supervisor: int) -> None:
    """In the command, between fork and exec: safe, since this process has one thread."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != supervisor:
        os._exit(1)


class _Terminated(Exception):
    """SIGTERM arrived: from the flow, or from the kernel because the flow is gone."""


def _terminated(_signal: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _Terminated


def _children() -> list[int]:
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def _reap_all(deadline_seconds: float = 10.0) -> None:
    """SIGKILL our children until none is left; their own children become ours as they die."""
    end = time.monotonic() + deadline_seconds
    while time.monotonic() < end:
        for pid in _children():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.01)


def _wait(pid: int, seconds: float | None = None) -> int | None:
    """Exit status of the command as a shell gives it (128 + signal), reaping adopted orphans meanwhile; None: still running."""
    end = None if seconds is None else time.monotonic() + seconds
    while end is None or time.monotonic() < end:
        done, status = os.waitpid(-1, 0 if end is None else os.WNOHANG)
        if done == pid:
            code = os.waitstatus_to_exitcode(status)
            return 128 - code if code < 0 else code
        if not done:
            time.sleep(0.05)
    return None


def main(argv: list[str]) -> int:
    parent, grace, command = int(argv[0]), float(argv[1]), argv[2:]
    signal.signal(signal.SIGTERM, _terminated)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the flow, which then says what to do
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    if os.getppid() != parent:
        return 143
    me = os.getpid()
    child: subprocess.Popen[bytes] | None = None
    status: int | None = None
    try:
        child = subprocess.Popen(command, preexec_fn=lambda: _die_with_me(me))
        status = _wait(child.pid)
    except _Terminated:
        if child is not None:
            child.terminate()
            status = _wait(child.pid, grace if os.getppid() == parent else min(grace, ORPHAN_GRACE_SECONDS))
    except OSError as error:
        print(f"error: cannot start {command[0]}: {error.strerror}", flush=True)
        status = 127
    finally:
        _reap_all()
    return 143 if status is None else status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
