"""A prepared interpreter that forks one child a test, or one for many tests of a program that is `pure`. Standard library only.

Started by `slots` alone:

    python -s -S -P -B -c STUB SETTINGS      with the socket's number among the settings

It imports what programs import, locks itself in, and then: a request (limits, a function's name) with its files comes over the socket,
a child is forked and becomes the program, the zygote watches it, ends it, clears the scratch, and says what happened. No foreign code
ever runs in the zygote itself; no expected output ever comes here, and no input of another test but for a pure program, one by one.
A child cannot touch the socket (closed), its zygote (signals and tracing are refused) or the numbers below (the kernel's own).
"""

from __future__ import annotations

import _socket  # the C part: `socket` itself brings selectors and enum, 2 MB
import builtins
import contextlib
import gc
import marshal
import mmap
import os
import resource
import select
import signal
import struct
import sys
import time
import warnings

import bootstrap  # type: ignore[import-not-found]  # beside this file, in no package: a child knows no gwen25
import confine  # type: ignore[import-not-found]
import pure  # type: ignore[import-not-found]
import rewind  # type: ignore[import-not-found]
import tidy  # type: ignore[import-not-found]
import warmup  # type: ignore[import-not-found]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType
    from typing import Any

# What programs import most, and nothing that a plain import would not bring; `random` and `threading` cost 0.1-0.25 ms in every fork
PRELOADED = ("collections", "heapq", "bisect", "math", "itertools", "functools", "operator", "re", "string", "copy", "typing", "io")
FOR_FUNCTIONS = ("json", "dataclasses")  # the second costs 15 ms where it is imported, and one solution in 160 does
POLL_SECONDS = 0.25  # how often a running child's clock and files are looked at
CHANNEL = 3  # the socket's number; in a function's child that of the file which its value is written to
ANSWER = CHANNEL
INPUTS, ANSWERS = CHANNEL, CHANNEL + 1  # of a stdin program's many inputs
MOST_FILES = 6
ALL_FILES = 1 << 20
COMPILE_BYTES = 512 << 20  # of address space while a source is compiled
COMPILED_HERE = 64 << 10  # bytes of source: 4 MB of `x=1` took 2.9 s and 300 MB that never came back


def serve() -> Any:
    """Answer requests until the socket closes. Returns only in a child: the context in which its program runs."""
    settings = marshal.loads(bytes.fromhex(sys.argv[1]))
    os.dup2(settings["channel"], CHANNEL)
    os.closerange(CHANNEL + 1, ALL_FILES)  # the grader's numbers may be high; with the socket at a low one nothing is left to reach
    channel = _socket.socket(fileno=CHANNEL)
    try:
        names = _import_all(settings)
        layers = confine.enter(settings)
        seal = confine.Seal(settings["unsafe"], settings["on_disk"])
        _try_a_child(settings, seal)
    except BaseException as error:
        channel.send(f"failed {type(error).__name__}: {error}".encode(errors="replace")[:1000])
        os._exit(1)
    zygote = _Zygote(channel, settings, names, seal)
    warmup.warm_up()
    gc.collect()
    gc.freeze()  # a child's collections leave our pages alone
    channel.send(f"ready {layers}".encode())
    return zygote.run()


def _import_all(settings: dict[str, Any]) -> dict[str, Any]:
    for name in PRELOADED + (FOR_FUNCTIONS if settings["functions"] else ()):
        __import__(name)
    bootstrap.prepare(settings["packages"])
    for name in settings["heavy"]:
        with contextlib.suppress(ImportError):  # not installed: the program will say so itself
            __import__(name)
    if not settings["functions"]:
        return {}
    sys.setrecursionlimit(bootstrap.RECURSION_LIMIT)
    names: dict[str, Any] = bootstrap.namespace()
    return names


def _try_a_child(settings: dict[str, Any], seal: Any) -> None:
    """Lock one child in and see that it can still read what programs need: a home of mode 0700 hides an interpreter from another user."""
    reader, writer = os.pipe()
    zygote = os.getpid()
    if os.fork() == 0:
        said = b""
        try:
            confine.lock(settings, zygote)
            seal()
            hidden = [path for path in settings["read"] if not os.access(path, os.R_OK)]
            if hidden:
                said = f"{hidden[0]} cannot be read after the change of user".encode()
        except BaseException as error:
            said = f"{type(error).__name__}: {error}".encode()
        os.write(writer, said or b"-")
        os._exit(0)
    os.close(writer)
    said = os.read(reader, 1000)
    os.close(reader)
    os.wait()
    if said != b"-":
        raise OSError(said.decode(errors="replace"))


class _Zygote:
    def __init__(self, channel: _socket.socket, settings: dict[str, Any], names: dict[str, Any], seal: Any):
        self._channel, self._settings, self._names, self._seal = channel, settings, names, seal
        self._known = {**vars(builtins), **names}
        self._reader: Any = pure.Reader(names if settings["functions"] else None)  # for functions it imports what it lists
        self._pid = os.getpid()
        self._poll = select.poll()
        self._poll.register(channel, select.POLLIN)
        self._page = mmap.mmap(-1, mmap.PAGESIZE)  # shared with the child until its program starts, see `_before`
        self._number, self._program = -1, bootstrap.Program(b"", None)
        self._pure: bool | None = None  # not asked
        self._asked, self._limits = (0, 0, 0), confine.child_limits(0, 0, 0)

    def run(self) -> Any:
        while True:
            request, files = self._receive()
            self._prepare(request, files[0])
            if request["many"] and not self._is_pure():
                result: tuple[Any, ...] = ("exit", 0, 0.0, 0.0, 0, _peak())
            else:
                self._page[:9] = bytes(9)
                started = time.monotonic()
                pid = os.fork()
                if pid == 0:
                    return self._become(request, files)
                result = self._watch(pid, request, started, *files[2:4])
            for file in files:
                os.close(file)
            self._channel.send(marshal.dumps(result))
            tidy.empty(".")  # after the answer: what cannot be cleared away ends this zygote, not a verdict

    def _receive(self) -> tuple[dict[str, Any], list[int]]:
        data, ancillary, _, _ = self._channel.recvmsg(4096, _socket.CMSG_SPACE(4 * MOST_FILES))
        if not data:  # the grader is gone, or has no more work
            os._exit(0)
        files = ancillary[0][2]
        return marshal.loads(data), list(struct.unpack(f"{len(files) // 4}i", files))

    def _prepare(self, request: dict[str, Any], file: int) -> None:
        """What the children of several requests share: the program, its limits."""
        asked = (request["memory_bytes"], request["output_bytes"], request["cpu_backstop"])
        if asked != self._asked:
            self._asked, self._limits = asked, confine.child_limits(*asked)
        if self._number != request["program"]:
            source = os.pread(file, request["size"], 0)
            self._number, self._program = request["program"], bootstrap.Program(source, None if request["wary"] else _compiled(source))
            self._pure = None

    def _is_pure(self) -> bool:
        """Of the program at hand. What was compiled can be read."""
        if self._pure is None:
            self._pure = self._program.code is not None and self._reader.pure(self._program.source)
        return bool(self._pure)

    def _become(self, request: dict[str, Any], files: list[int]) -> Any:
        """In the child: be the program. Nothing of ours is let go: each object freed would be one more page copied."""
        page, program = self._page, self._program
        try:
            _wire(request, files)
            self._channel.detach()
            confine.lock(self._settings, self._pid)
            memory, size, cpu = self._limits
            resource.setrlimit(*memory)
            resource.setrlimit(*size)
            ready = struct.pack("d?", time.process_time(), True)  # exact only while there is no limit on CPU time
            resource.setrlimit(*cpu)
            self._seal()
        except BaseException as error:
            os.pwrite(2, f"{type(error).__name__}: {error}".encode(errors="replace"), 0)
            os._exit(1)
        page[:9] = ready
        page.close()
        if request["func_name"] is None:
            context = bootstrap.Repeated(program.code, INPUTS, ANSWERS, request["cpu_seconds"]) if request["many"] else program
            context.kept = self
            return context
        if request["many"]:
            return bootstrap.answers(program, request["func_name"], self._known, ANSWER, rewind.back)
        return bootstrap.answer(program, request["func_name"], self._names, ANSWER)

    def _watch(self, pid: int, limits: dict[str, Any], started: float, stdout: int, stderr: int) -> tuple[Any, ...]:
        """(how it ended, exit code, CPU seconds, wall seconds, peak memory in bytes, our own)"""
        ended = self._wait(pid, limits, started, stdout, stderr)
        if ended != "exit":
            os.kill(pid, signal.SIGKILL)
        _, status, usage = os.wait4(pid, 0)
        wall = time.monotonic() - started
        before, started_well = self._before()
        cpu = usage.ru_utime + usage.ru_stime
        if not started_well:
            ended = "failed"
        elif ended == "exit" and cpu - before > limits["cpu_seconds"]:  # the verdict must not depend on when we looked
            ended = "cpu"
        elif ended == "exit" and self._overflowed(limits, stdout, stderr):
            ended = "output"
        return ended, os.waitstatus_to_exitcode(status), max(0.0, cpu - before), wall, usage.ru_maxrss << 10, _peak()

    def _wait(self, pid: int, limits: dict[str, Any], started: float, stdout: int, stderr: int) -> str:
        pidfd, clock = os.pidfd_open(pid), (~pid << 3) | 2  # the kernel's id of another process' CPU clock (clock_getcpuclockid(3))
        self._poll.register(pidfd, select.POLLIN)
        wall, cpu = limits["wall_seconds"], limits["cpu_seconds"]
        try:
            while not (ready := self._poll.poll(1000 * max(0.001, min(wall, cpu, POLL_SECONDS)))):
                wall = started + limits["wall_seconds"] - time.monotonic()
                before, begun = self._before()
                cpu = limits["cpu_seconds"] + before - time.clock_gettime(clock) if begun else wall
                if min(wall, cpu) <= 0:
                    return "cpu" if cpu <= 0 else "wall"
                if self._overflowed(limits, stdout, stderr):
                    return "output"
            if ready[0][0] != pidfd or len(ready) > 1:  # nobody waits for the answer any more
                os.kill(pid, signal.SIGKILL)
                os._exit(0)
            return "exit"
        finally:
            self._poll.unregister(pidfd)
            os.close(pidfd)

    def _before(self) -> Any:
        """CPU seconds the child had used when its program started (0.0 may be true: stolen time is not counted), and whether it has."""
        return struct.unpack("d?", self._page[:9])

    def _overflowed(self, limits: dict[str, Any], stdout: int, stderr: int) -> bool:
        """Whether stdout (or the answer) or stderr reached the limit on output, or the files of the scratch together four times that."""
        most = limits["output_bytes"]
        streams = max(os.fstat(stdout).st_size, os.fstat(stderr).st_size)
        return streams >= most or bool(tidy.weight(".", 4 * most) > 4 * most)


def _wire(request: dict[str, Any], files: list[int]) -> None:
    """Put the files where the child's program expects them, and close all others."""
    _, stdin, stdout, stderr, *own = files
    wanted = {0: stdin, 2: stderr, 1 if request["func_name"] is None else ANSWER: stdout}
    if own:  # of the one test that is under way; the source alone may lie at ANSWERS, since numbers rise in the order of the files
        wanted = {0: own[0], 1: own[1], 2: stderr, INPUTS: stdin, ANSWERS: stdout}
    for number, file in wanted.items():
        os.dup2(file, number)
    os.closerange(max(wanted) + 1, ALL_FILES)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _compiled(source: bytes) -> CodeType | None:
    """The program's code, compiled once for all its tests; None where that is for the child: it is large, broken, or warns."""
    if len(source) > COMPILED_HERE or b"finally" in source:  # each `finally` is emitted twice, and 20 may be nested: 27 GB for 1 kB
        return None
    unlimited = resource.getrlimit(resource.RLIMIT_AS)
    try:
        resource.setrlimit(resource.RLIMIT_AS, confine.within(resource.RLIMIT_AS, COMPILE_BYTES, unlimited[1]))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            code: CodeType = bootstrap.compiled(source)
            return code
    except BaseException:  # the child will meet it again, and say so on its own stderr
        return None
    finally:
        resource.setrlimit(resource.RLIMIT_AS, unlimited)
