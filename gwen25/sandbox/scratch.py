"""Folders that programs may write: one root a grader, one folder a zygote, none left behind.

    with scratch_folder() as folder: ...      empty, ours, removed at the end whatever a hostile program put there
    root()                                    the grader's own: it holds the zygote's compiled modules, no program can write it

A grader that was killed cannot tidy up; the next grader of the same user does it for it.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import py_compile
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from gwen25.sandbox.tidy import empty

PREFIX = "gwen25-sandbox-"
CODE = "code"  # below the root: what a zygote imports, compiled (7 ms less a start)
MODULES = ("zygote", "bootstrap", "confine", "pure", "rewind", "tidy", "warmup")
STALE_SECONDS = 60  # younger roots may be about to get their lock


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A fresh folder below `root`, removed on leaving, by the process that made it: a forked one that ends leaves it alone."""
    folder, pid = Path(tempfile.mkdtemp(dir=root())), os.getpid()
    try:
        yield folder
    finally:
        if os.getpid() == pid:
            remove_tree(folder)


_root_lock = threading.Lock()
_roots: dict[int, Path] = {}  # by pid, so that a forked grader makes its own


def _renew_lock() -> None:
    global _root_lock
    _root_lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)  # another thread of the parent may have held it


def root() -> Path:
    """This process' folder, made at the first call and removed at exit."""
    pid = os.getpid()
    with _root_lock:
        if pid not in _roots:
            _roots[pid] = _make_root(pid)
        return _roots[pid]


def _make_root(pid: int) -> Path:
    """With the zygote's own modules compiled. The lock on it says that its grader is alive."""
    _sweep(Path(tempfile.gettempdir()))
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    folder.chmod(0o711)  # another user may enter a folder whose name it knows
    fcntl.flock(os.open(folder, os.O_RDONLY | os.O_DIRECTORY), fcntl.LOCK_EX | fcntl.LOCK_NB)
    atexit.register(lambda: remove_tree(folder) if os.getpid() == pid else None)
    (folder / CODE).mkdir(mode=0o755)
    for module in MODULES:
        py_compile.compile(str(Path(__file__).with_name(f"{module}.py")), str(folder / CODE / f"{module}.pyc"), doraise=True)
    return folder


def _sweep(parent: Path) -> None:
    """Remove the roots of graders that were killed: ours, older than a minute, and not locked by a living one."""
    for folder in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # another grader was faster
            facts = folder.lstat()
            if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.geteuid() or time.time() - facts.st_mtime < STALE_SECONDS:
                continue
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove_tree(folder)
            finally:
                os.close(lock)


def remove_tree(folder: Path) -> None:
    """Remove a folder whose owner is dead and was hostile."""
    empty(str(folder))
    folder.rmdir()
