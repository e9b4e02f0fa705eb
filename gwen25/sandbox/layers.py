"""What isolates programs on this machine, found by trying it on a program that attempts what must not work.

probe() -> Isolation      once a process; SandboxUnavailable where it is not enough
"""

from __future__ import annotations

import functools
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Final, get_args

from gwen25.errors import BadInput, SandboxUnavailable
from gwen25.sandbox.isolate import Isolation, Level, Limits, User
from gwen25.sandbox.pool import Runner
from gwen25.sandbox.slots import layers_of

UNSAFE: Final = "GWEN25_UNSAFE_SANDBOX"  # set to 1: run programs even where Landlock or seccomp is missing
LEVEL: Final = "GWEN25_SANDBOX_LEVEL"  # set to a level: that one or none
CANARIES: Final = """
import os, socket
tries = {{
    "read a file": lambda: open({secret!r}).read(),
    "write a file": lambda: open({secret!r} + ".new", "w"),
    "open a socket": lambda: socket.socket(),
    "start a process": lambda: os.fork() or os._exit(0),
    "signal the grader": lambda: os.kill(os.getppid(), 0),
}}
for what, attempt in tries.items():
    try:
        attempt()
    except OSError:
        continue
    print(what)
print("done")
"""


def probe() -> Isolation:
    """The strongest isolation that works here, found by trying it once in this process' life.

    Adequate is Landlock (any ABI) and seccomp, both in force and seen to refuse; bubblewrap's namespaces round them where they can be had.
    SandboxUnavailable where they are not, unless the environment says GWEN25_UNSAFE_SANDBOX=1: then programs run with what there is, and
    every verdict's `isolation` starts with UNSAFE. GWEN25_SANDBOX_LEVEL=namespaces asks for nothing less, =landlock for nothing more.
    """
    level = os.environ.get(LEVEL, "")
    if level not in ("", *get_args(Level)):
        raise BadInput(f"{LEVEL}={level!r}: one of {', '.join(get_args(Level))} is expected, or nothing for the strongest that works")
    return _probe(os.environ.get(UNSAFE) == "1", level)


@functools.cache
def _probe(unsafe: bool, wanted: str) -> Isolation:
    reasons: list[str] = []
    users: tuple[User, ...] = ("own", "nobody", "same") if os.geteuid() == 0 else ("same",)
    for permitted in (False, True) if unsafe else (False,):
        for level in get_args(Level):
            for user in users if wanted in ("", level) else ():
                for again in (False, True):  # one that was killed from outside must not make us settle for less
                    try:
                        return _tried(Isolation(level, user, unsafe=permitted, reasons=tuple(reasons)))
                    except SandboxUnavailable as error:
                        reasons += [f"{level}, {user} user: {error}"] if again else []
    raise SandboxUnavailable(
        f"no adequate isolation on this machine ({'; '.join(reasons)}): programs are judged only under Linux's Landlock and seccomp "
        f"(kernel 5.13 or newer, x86_64 or aarch64, Landlock among the security modules); {UNSAFE}=1 runs them without, at your own risk"
    )


def _tried(isolation: Isolation) -> Isolation:
    found = replace(isolation, layers=layers_of(isolation))
    with tempfile.TemporaryDirectory() as folder:
        secret = Path(folder, "secret")
        secret.touch(mode=0o644)
        Path(folder).chmod(0o755)
        with Runner(CANARIES.format(secret=str(secret)).encode(), Limits(), found, None) as run:
            outcome = run(b"")
    if outcome.answer != b"done\n" and not isolation.unsafe:
        raise SandboxUnavailable(f"a trial program was not stopped, or did not run: {outcome.answer!r} {outcome.stderr}")
    return found
