"""What isolates programs on this machine, found by trying it on a program that attempts what must not work.

probe() -> Isolation      once a process; SandboxUnavailable where it is not enough
"""

from __future__ import annotations

import functools
import os
import tempfile
from pathlib import Path

from gwen25.errors import SandboxUnavailable
from gwen25.sandbox.isolate import Child, Isolation, Limits, User

UNSAFE = "GWEN25_UNSAFE_SANDBOX"  # set to 1: run programs even where Landlock or seccomp is missing
CANARIES = """
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

    Adequate is Landlock (any ABI) and seccomp, both in force and seen to refuse. SandboxUnavailable where they are not, unless the
    environment says GWEN25_UNSAFE_SANDBOX=1: then programs run with what there is, and every verdict's `isolation` starts with UNSAFE.
    """
    return _probe(os.environ.get(UNSAFE) == "1")


@functools.cache
def _probe(unsafe: bool) -> Isolation:
    reasons = []
    users: tuple[User, ...] = ("own", "nobody", "same") if os.geteuid() == 0 else ("same",)
    for permitted in (False, True) if unsafe else (False,):
        for user in users:
            try:
                return _tried(Isolation("", user, permitted))
            except SandboxUnavailable as error:
                reasons.append(f"{user} user: {error}")
    raise SandboxUnavailable(
        f"no adequate isolation on this machine ({'; '.join(reasons)}): programs are judged only under Linux's Landlock and seccomp "
        f"(kernel 5.13 or newer, x86_64 or aarch64, Landlock among the security modules); {UNSAFE}=1 runs them without, at your own risk"
    )


def _tried(isolation: Isolation) -> Isolation:
    with tempfile.TemporaryDirectory() as folder:
        secret = Path(folder, "secret")
        secret.touch(mode=0o644)
        Path(folder).chmod(0o755)
        with Child(CANARIES.format(secret=str(secret)).encode(), Limits(), isolation) as child:
            child.go()
            child.wait()
            said = child.answer().decode(errors="replace").split("\n")
            if said != ["done", ""] and not isolation.unsafe:
                raise SandboxUnavailable(f"a trial program was not stopped, or did not run: {said} {child.stderr()}")
            return Isolation(child.layers, isolation.user, isolation.unsafe)
