"""What kills a grader's prepared interpreters under it, as want of memory or an administrator would."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

ROOT = re.compile(rb"gwen25-sandbox-[^/\0]+")  # the folder of a grader's own: it stands in the command line of each of its interpreters


@contextlib.contextmanager
def killing(grader: int, every_seconds: float = 0.005) -> Iterator[list[int]]:
    """Kill every process of the grader's sandbox, again and again; yields the pids that were killed. A start of one takes 0.1 s."""
    killed: list[int] = []
    stop = threading.Event()

    def work() -> None:
        root: bytes | None = None
        while not stop.wait(every_seconds):
            root = root or _root(grader)
            for pid, command in _commands() if root else ():
                if root in command and pid not in killed:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                        killed.append(pid)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield killed
    finally:
        stop.set()
        thread.join()


def _root(grader: int) -> bytes | None:
    """The folder of the grader's, from any process below it; None while there is none. Orphans are known by it too."""
    parents, below = _parents(), {grader}
    while below:
        below = {pid for pid, parent in parents.items() if parent in below}
        for pid, command in _commands():
            if pid in below and (found := ROOT.search(command)):
                return found[0]
    return None


def _parents() -> dict[int, int]:
    parents = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(entry.parent.name)] = int(entry.read_text(errors="replace").rpartition(")")[2].split()[1])
    return parents


def _commands() -> Iterator[tuple[int, bytes]]:
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            yield int(entry.parent.name), entry.read_bytes()
