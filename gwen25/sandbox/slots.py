"""One prepared interpreter of the grader's (see `zygote`): start it, hand it a program with one input, end it.

    Slot(kind, number)                     15 MB, up in 0.1 s; SandboxUnavailable where it does not come up
    slot.run(request, file, data, limits) -> Outcome      Died where the zygote is gone

stdin, stdout and stderr are files in memory, as in `python solution.py < in > out`; their size is bounded by the kernel.
Not here: who waits for a slot (`pool`), verdicts (`judge`).
"""

from __future__ import annotations

import contextlib
import marshal
import os
import socket
import subprocess
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from gwen25.errors import SandboxUnavailable
from gwen25.sandbox import keeper
from gwen25.sandbox.isolate import ENVIRONMENT, Isolation, Limits, command, readable
from gwen25.sandbox.scratch import CODE, root, scratch_folder

START_SECONDS = 60.0  # of wall time; a healthy start takes 0.1
SPARE_SECONDS = 30.0  # beyond the wall limit, until a zygote that says nothing is given up
GROWN_BYTES = 64 << 20  # a zygote this much larger than at its start is replaced
STDERR_CHARACTERS = 2000
HEAVY = ("numpy",)  # 90 ms of CPU time to import: programs that import it get a zygote that has it
OWN_UIDS = 1_900_000_000  # plus 32 numbers for each grader: users that no other process has
THREADS = 256  # of a user, or of a namespace, that holds nothing but the program
SHARED_THREADS = 4096  # of a user whose other processes count as well; root is not bound by it
NOBODY = 65534  # where user ids end at 65535 (a container with mapped ids)

Ended = Literal["exit", "cpu", "wall", "output", "killed"]


@dataclass(frozen=True)
class Outcome:
    """How one run of a program ended, and what it said: printed, or returned as JSON.

    `killed`: by something outside, twice. Memory in bytes, the interpreter's own included. `stderr`: its last characters.
    """

    ended: Ended
    exit_code: int
    cpu_seconds: float
    wall_seconds: float
    peak_memory_bytes: int
    answer: bytes
    stderr: str


class Kind(NamedTuple):
    """What a zygote can be used for. `heavy`: of HEAVY, what it has imported."""

    isolation: Isolation
    functions: bool = False
    heavy: tuple[str, ...] = ()


class Died(Exception):
    """The zygote is gone."""


class Slot:
    """One zygote. Raises SandboxUnavailable where it does not come up."""

    def __init__(self, kind: Kind, number: int):
        self._stack = contextlib.ExitStack()
        self._peak = 0
        self.grown = False
        try:
            self._start(kind, number)
        except (OSError, AttributeError) as error:  # AttributeError: a system without memfd or pidfd
            self.close()
            raise SandboxUnavailable(f"cannot start an isolated interpreter: {error}") from error
        except BaseException:
            self.close()
            raise

    def _start(self, kind: Kind, number: int) -> None:
        isolation, functions, heavy = kind
        inside = isolation.level == "namespaces"
        folder = None if inside else self._stack.enter_context(scratch_folder())
        streams = [memory_file(self._stack, name) for name in ("stdin", "stdout", "stderr")]  # so that its stream objects suit files
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel = self._stack.enter_context(ours)
        read, packages = readable()
        uid = {"own": OWN_UIDS + os.getpid() * 32 + number % 32, "nobody": NOBODY, "same": None}[isolation.user]
        settings = {
            "parent": None if inside else os.getpid(),
            "channel": theirs.fileno(),
            "functions": functions,
            "heavy": heavy,
            "uid": uid,
            "alone": isolation.user == "own",
            "on_disk": not inside,
            "threads": THREADS if inside or isolation.user == "own" else SHARED_THREADS,
            "unsafe": isolation.unsafe,
            "read": read,
            "packages": packages,
        }
        words = command(isolation, root() / CODE, marshal.dumps(settings).hex())
        with theirs:
            self._process = keeper.do(
                lambda: subprocess.Popen(
                    words,
                    stdin=streams[0],
                    stdout=subprocess.DEVNULL if functions else streams[1],  # what a function prints is nobody's business
                    stderr=streams[2],
                    pass_fds=(theirs.fileno(),),
                    env=ENVIRONMENT,
                    cwd=folder,
                    start_new_session=True,
                )
            )
        self._stack.callback(self._end)
        self.layers = self._ready(streams[2], "namespaces " if inside else "")

    def _ready(self, stderr: int, level: str) -> str:
        self._channel.settimeout(START_SECONDS)
        try:
            word, _, rest = self._channel.recv(4096).decode(errors="replace").partition(" ")
        except TimeoutError:
            word, rest = "", f"it did not come up within {START_SECONDS:.0f} s"
        if word != "ready":
            self._end()
            said = os.pread(stderr, STDERR_CHARACTERS, 0).decode(errors="replace").strip()
            raise OSError(rest or said or f"exit code {self._process.returncode}")
        return level + rest

    def run(self, request: dict[str, Any], source: int, data: bytes, limits: Limits) -> Outcome:
        """One test. Raises Died where the zygote does not answer."""
        with contextlib.ExitStack() as stack:
            stdin, stdout, stderr = (memory_file(stack, name) for name in ("stdin", "stdout", "stderr"))
            # many inputs and outputs lie in the first two, and a program sees two others, which hold those of one test
            apart = [memory_file(stack, name) for name in ("stdin", "stdout")] if request["many"] and request["func_name"] is None else []
            if os.pwrite(stdin, data, 0) != len(data):
                raise SandboxUnavailable(f"no memory for an input of {len(data)} bytes")
            ended, exit_code, cpu, wall, peak, own = self._ask(request, [source, stdin, stdout, stderr, *apart], limits)
            self._peak = self._peak or own
            self.grown = own > self._peak + GROWN_BYTES
            error = _tail(stderr)
            if ended == "failed" and exit_code < 0:  # a source that crashes who reads it
                raise Died
            if ended == "failed":
                raise SandboxUnavailable(f"an isolated program could not be started: {error}")
            return Outcome(ended, exit_code, cpu, wall, peak, os.pread(stdout, limits.output_bytes, 0), error)

    def _ask(self, request: dict[str, Any], files: list[int], limits: Limits) -> tuple[Any, ...]:
        self._channel.settimeout(limits.wall_seconds + SPARE_SECONDS)
        try:
            socket.send_fds(self._channel, [marshal.dumps(request)], files)
            answer = self._channel.recv(4096)
        except OSError as error:
            raise Died from error
        if not answer:
            raise Died
        try:
            ended, exit_code, cpu, wall, peak, own = marshal.loads(answer)
        except (ValueError, EOFError, TypeError) as error:  # no words of a zygote's
            raise Died from error
        return ended, exit_code, cpu, wall, peak, own

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        """The zygote is bubblewrap's child, or dies with its socket: nothing outlives this."""
        self._process.kill()

    def _end(self) -> None:
        self.kill()
        self._process.wait()

    def close(self) -> None:
        self._stack.close()


def layers_of(isolation: Isolation) -> str:
    """Start a zygote this way and name what is in force in it. SandboxUnavailable where that fails."""
    slot = Slot(Kind(isolation), 0)
    try:
        return slot.layers
    finally:
        slot.close()


def _tail(file: int) -> str:
    size = os.fstat(file).st_size
    most = 4 * STDERR_CHARACTERS  # bytes
    return os.pread(file, most, max(0, size - most)).decode(errors="replace")[-STDERR_CHARACTERS:] if size else ""


def memory_file(stack: contextlib.ExitStack, name: str) -> int:
    fd = os.memfd_create(name)
    stack.callback(os.close, fd)
    return fd
