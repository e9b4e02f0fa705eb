"""No process outlives its flow: whatever dies, the whole tree below it goes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gwen25 import supervise

SUPERVISOR = [sys.executable, "-I", "-S", supervise.__file__]

# a stage that starts a grandchild in a session of its own, as torchrun and vLLM do, then a great-grandchild that ignores SIGTERM
STUBBORN = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open(sys.argv[1], "w").write(str(os.getpid()))
time.sleep(600)
"""
MIDDLE = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", *sys.argv[1:]], start_new_session=True)
time.sleep(600)
"""
TREE = f"""
import os, subprocess, sys, time
open(sys.argv[1] + "/child", "w").write(str(os.getpid()))
subprocess.Popen([sys.executable, "-c", {MIDDLE!r}, {STUBBORN!r}, sys.argv[1] + "/grandchild"], start_new_session=True)
time.sleep(600)
"""
POLITE = """
import signal, sys, time
def end(*_):
    time.sleep(0.5)
    open(sys.argv[1] + "/saved", "w").close()
    sys.exit(7)
signal.signal(signal.SIGTERM, end)
open(sys.argv[1] + "/up", "w").close()
time.sleep(600)
"""
LEAVES = """
import subprocess, sys
left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
open(sys.argv[1] + "/left", "w").write(str(left.pid))
print("hello")
sys.exit(5)
"""
# a flow: starts a supervisor and waits for it, as `stage.launch` does
FLOW = "import os, subprocess, sys; subprocess.Popen([*sys.argv[1:5], str(os.getpid()), *sys.argv[5:]], start_new_session=True).wait()"


def until(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


def alive(pid: int) -> bool:
    """A zombie is dead: its reaper is another process's business."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def pid_in(path: Path) -> int:
    assert until(lambda: path.exists() and path.read_text() != ""), f"{path.name} never started"
    return int(path.read_text())


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGTERM])
def test_a_flow_that_dies_takes_the_whole_tree_along(tmp_path: Path, sig: signal.Signals) -> None:
    flow = subprocess.Popen([sys.executable, "-c", FLOW, *SUPERVISOR, "30", sys.executable, "-c", TREE, str(tmp_path)])
    pids = [pid_in(tmp_path / "child"), pid_in(tmp_path / "grandchild")]
    flow.send_signal(sig)
    flow.wait()
    assert until(lambda: not any(map(alive, pids)), 5.0)


def test_a_cancelled_stage_gets_its_grace_and_nothing_is_left(tmp_path: Path) -> None:
    process = subprocess.Popen([*SUPERVISOR, str(os.getpid()), "10", sys.executable, "-c", POLITE, str(tmp_path)])
    assert until((tmp_path / "up").exists)
    process.terminate()
    assert process.wait(10) == 7 and (tmp_path / "saved").exists()


def test_a_stage_that_ignores_the_grace_is_killed() -> None:
    stubborn = "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    process = subprocess.Popen([*SUPERVISOR, str(os.getpid()), "0.5", sys.executable, "-c", stubborn], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "up\n"
    started = time.monotonic()
    process.terminate()
    assert process.wait(10) == 143 and time.monotonic() - started < 5


def test_exit_status_and_output_pass_through_and_leftovers_go(tmp_path: Path) -> None:
    done = subprocess.run(
        [*SUPERVISOR, str(os.getpid()), "1", sys.executable, "-c", LEAVES, str(tmp_path)], capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stdout) == (5, "hello\n")
    assert not alive(int((tmp_path / "left").read_text()))


def test_a_command_killed_from_outside_is_told_as_a_shell_does() -> None:
    done = subprocess.run([*SUPERVISOR, str(os.getpid()), "1", sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], timeout=30)
    assert done.returncode == 128 + 9


def test_a_command_that_is_not_there() -> None:
    done = subprocess.run([*SUPERVISOR, str(os.getpid()), "1", "no-such-command"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 127 and "cannot start no-such-command" in done.stdout


def test_a_supervisor_killed_outright_takes_its_command_along(tmp_path: Path) -> None:
    code = f"import os, time; open({str(tmp_path / 'child')!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    process = subprocess.Popen([*SUPERVISOR, str(os.getpid()), "1", sys.executable, "-c", code])
    child = pid_in(tmp_path / "child")
    process.kill()
    process.wait()
    assert until(lambda: not alive(child), 5.0)
