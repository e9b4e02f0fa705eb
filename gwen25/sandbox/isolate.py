"""One isolated child: start it, feed it, watch it, end it, leave nothing behind. Runs in the grader.

    with Child(program, limits, probe()) as child:      a stdin program: one child for one input
        child.put(b"1 2\\n"); child.go(); child.wait()

    with Child(program, limits, probe(), func_name="add") as child:      a function: one child, one input after the other
        child.put(b"1\\n2"); child.go(); child.wait(); child.answer()

The verdict's limit is CPU time, read from the kernel's clock of the child, so that it does not depend on the machine's load.
stdin, stdout and stderr are files in memory, as in `python solution.py < in > out`; their size is bounded by the kernel.
Not here: what is refused and how (`confine`), what the program sees (`bootstrap`), what works here (`layers`), verdicts (`judge`).
"""

from __future__ import annotations

import contextlib
import functools
import marshal
import os
import select
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gwen25.errors import BadInput, SandboxUnavailable
from gwen25.sandbox.bootstrap import SOURCE
from gwen25.sandbox.scratch import root, scratch_folder, weight

START_SECONDS = 60.0  # of wall time; a healthy start takes 0.02
POLL_SECONDS = 0.25  # how often a running child's CPU clock is read
STDERR_CHARACTERS = 2000
STUB = "import sys; sys.path.insert(0, {folder!r}); from bootstrap import start; exec(compile(*start()))"
ENVIRONMENT = {
    "PYTHONHASHSEED": "0",  # the order of sets is the same in every run; -I and -E would ignore it
    "LC_ALL": "C.UTF-8",
    "MALLOC_ARENA_MAX": "1",  # each further arena reserves address space: 19 threads instead of 125 under 1 GiB
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}

User = Literal["own", "nobody", "same"]
Ended = Literal["exit", "answer", "cpu", "wall", "output"]


@dataclass(frozen=True)
class Limits:
    """What one test may use. CPU time decides; wall time only ends what hangs, and then says nothing about the program ("unknown").

    Memory is address space, of which the interpreter itself takes some 30 MB. Output bounds stdout, stderr and each file that a program
    writes, by the kernel; its files together may hold four times as much, which is looked at every quarter of a second.
    """

    cpu_seconds: float = 6.0
    wall_seconds: float = 60.0
    memory_bytes: int = 1 << 30
    output_bytes: int = 16 << 20

    def __post_init__(self) -> None:
        if min(self.cpu_seconds, self.wall_seconds, self.output_bytes) <= 0:
            raise BadInput(f"every limit of the sandbox must be above 0, not {self}")
        if self.memory_bytes < 64 << 20:
            raise BadInput(f"memory_bytes={self.memory_bytes}: an interpreter needs at least {64 << 20} to start")


@dataclass(frozen=True)
class Isolation:
    """The layers in force here. `user`: whom a child becomes, a user of its own, nobody, or the same as the grader."""

    layers: str
    user: User
    unsafe: bool = False

    def __str__(self) -> str:
        return f"UNSAFE {self.layers}" if self.unsafe else self.layers


class Child:
    """A program under way. Leaving the `with` block kills, reaps and removes it, however the block ends.

    Raises SandboxUnavailable where the child does not reach the point at which it is locked in.
    """

    def __init__(self, program: bytes, limits: Limits, isolation: Isolation, *, func_name: str | None = None, tests: int = 1):
        self.limits, self._isolation = limits, isolation
        self._func_name, self._tests, self._program = func_name, tests, program
        self.usage: Any = None  # resource usage, once reaped
        self.exit_code: int | None = None  # negative: the signal

    def __enter__(self) -> Child:
        with contextlib.ExitStack() as stack:
            self._start(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self, stack: contextlib.ExitStack) -> None:
        try:
            self._scratch = stack.enter_context(scratch_folder())
            (self._scratch / SOURCE).write_bytes(self._program)
            self._stdin, self._stdout, self._stderr = (_memory_file(stack, name) for name in ("stdin", "stdout", "stderr"))
            ours, theirs = socket.socketpair()
            self._control = stack.enter_context(ours)
            with theirs:
                self._spawn(theirs.fileno())
            stack.callback(self.kill)
            self._pidfd = os.pidfd_open(self.pid)
            stack.callback(os.close, self._pidfd)
        except (OSError, AttributeError) as error:  # AttributeError: a system without memfd or pidfd
            raise SandboxUnavailable(f"cannot start an isolated program: {error}") from error
        self._poll = select.poll()
        self._poll.register(self._pidfd, select.POLLIN)
        if self._func_name is not None:
            self._poll.register(self._control, select.POLLIN)
        self._cpu_clock = (~self.pid << 3) | 2  # the kernel's id of another process' CPU clock (clock_getcpuclockid(3))
        self._await_ready()

    def _spawn(self, control: int) -> None:
        functional = self._func_name is not None
        read, packages = readable()
        job = {
            "parent": os.getpid(),
            "control": control,
            "answer": self._stdout,
            "func_name": self._func_name,
            "user": self._isolation.user,
            "unsafe": self._isolation.unsafe,
            "read": read,
            "packages": packages,
            "memory_bytes": self.limits.memory_bytes,
            "output_bytes": self.limits.output_bytes,
            "cpu_backstop": int(self.limits.cpu_seconds * self._tests) + 2,
        }
        command = [sys.executable, "-s", "-S", "-P", "-B", "-c", STUB.format(folder=str(root())), marshal.dumps(job).hex()]
        self._process = subprocess.Popen(
            command,
            stdin=self._stdin,
            stdout=subprocess.DEVNULL if functional else self._stdout,  # what a function prints is nobody's business
            stderr=self._stderr,
            pass_fds=(control, self._stdout) if functional else (control,),
            env=ENVIRONMENT,
            cwd=self._scratch,
            start_new_session=True,
        )
        self.pid = self._process.pid

    def _await_ready(self) -> None:
        self._control.settimeout(START_SECONDS)
        try:
            word, _, rest = self._control.recv(2048).decode(errors="replace").partition(" ")
        except OSError:  # the time is over, or a reset
            word, rest = "", ""
        if word != "ready":
            self.kill()
            raise SandboxUnavailable(f"an isolated program could not be started: {rest or self.stderr() or f'exit code {self.exit_code}'}")
        cpu, maxrss, self.layers = rest.split(" ", 2)
        self._cpu_start = self._cpu_mark = float(cpu)
        self._rss_start = int(maxrss)
        self._wall_start = self._wall_mark = time.monotonic()

    def put(self, data: bytes) -> None:
        """Replace what the child's stdin holds."""
        os.ftruncate(self._stdin, 0)
        if os.pwrite(self._stdin, data, 0) != len(data):
            raise SandboxUnavailable(f"no memory for an input of {len(data)} bytes")

    def go(self) -> None:
        """Let the child read its input; the clocks of this test start."""
        self._wall_mark = time.monotonic()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has ended already: `wait` will see that
            self._control.send(b"+")

    def wait(self) -> Ended:
        """Until the child exits, answers, or has used up a limit. It is reaped unless it answered."""
        ended: Ended | None = None
        while ended is None:
            wall = self._wall_mark + self.limits.wall_seconds - time.monotonic()
            cpu = self._cpu_mark + self.limits.cpu_seconds - self._cpu()
            ready = {fd for fd, _ in self._poll.poll(1000 * max(0.001, min(wall, cpu, POLL_SECONDS)))} if min(wall, cpu) > 0 else set()
            ended = self._ended(ready, wall, cpu)
        if ended != "answer":
            self.kill()
        return ended

    def _ended(self, ready: set[int], wall: float, cpu: float) -> Ended | None:
        answered = self._control.fileno() in ready and self._said() == b"="
        mark, now = self._cpu_mark, self._cpu()
        if cpu <= 0 or now - mark > self.limits.cpu_seconds:  # also when it is done: the verdict must not depend on when we looked
            return "cpu"
        if answered:
            self._cpu_mark = now
            return "answer"
        if self._pidfd in ready:
            return "exit"
        if self.overflowed:
            return "output"
        return "wall" if wall <= 0 else None

    def _said(self) -> bytes:
        word = b""
        with contextlib.suppress(ConnectionResetError):
            word = self._control.recv(1)
        if not word:  # closed, by its end or by the program: it would be ready for ever
            self._poll.unregister(self._control)
        return word

    def _cpu(self) -> float:
        return time.clock_gettime(self._cpu_clock) if self.running else self.usage.ru_utime + self.usage.ru_stime

    def kill(self) -> None:
        """End the child now, reap it, keep what it used."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            _, status, self.usage = os.wait4(self.pid, 0)
            self.exit_code = self._process.returncode = os.waitstatus_to_exitcode(status)

    def answer(self) -> bytes:
        """What it printed, or returned as JSON."""
        return os.pread(self._stdout, self.limits.output_bytes, 0)

    @property
    def running(self) -> bool:
        """Whether it has not been reaped."""
        return self.usage is None

    @property
    def overflowed(self) -> bool:
        """Whether stdout (or the answer) or stderr reached the limit on output, or its files together four times that."""
        most = self.limits.output_bytes
        streams = max(os.fstat(self._stdout).st_size, os.fstat(self._stderr).st_size)
        return streams >= most or weight(self._scratch, 4 * most) > 4 * most

    def stderr(self) -> str:
        """The last characters of its stderr."""
        tail = 4 * STDERR_CHARACTERS  # bytes
        return os.pread(self._stderr, tail, max(0, os.fstat(self._stderr).st_size - tail)).decode(errors="replace")[-STDERR_CHARACTERS:]

    @property
    def cpu_seconds(self) -> float:
        """CPU time since it was locked in."""
        return max(0.0, self._cpu() - self._cpu_start)

    @property
    def wall_seconds(self) -> float:
        """Wall time since it was locked in."""
        return time.monotonic() - self._wall_start

    @property
    def peak_memory_bytes(self) -> int | None:
        """Highest resident memory; None where the grader is the larger one (the kernel counts the moment before exec in)."""
        peak = int(self.usage.ru_maxrss)
        return peak * 1024 if peak > self._rss_start or self._rss_start < 64 << 10 else None


@functools.cache
def readable() -> tuple[list[str], list[str]]:
    """(what a child may read, its folders of packages): the interpreter's library and packages, the system's libraries, time zones."""
    paths = sysconfig.get_paths()
    packages = sorted({paths["purelib"], paths["platlib"]})
    library = Path(sys.base_exec_prefix, "lib")
    system = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/usr/share/zoneinfo", "/etc/localtime"]
    wanted = [paths["stdlib"], paths["platstdlib"], *packages, str(library), *system]
    return sorted({path for path in wanted if Path(path).exists()}), [path for path in packages if Path(path).is_dir()]


def _memory_file(stack: contextlib.ExitStack, name: str) -> int:
    fd = os.memfd_create(name)
    stack.callback(os.close, fd)
    return fd
