"""Folders that programs may write: one root a grader, one folder a child, none left behind.

    with scratch_folder() as folder: ...      empty, ours, removed at the end whatever a hostile program put there
    root()                                    the grader's own: it holds the child's compiled modules, no program can write it

A grader that was killed cannot tidy up; the next grader of the same user does it for it.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import itertools
import os
import py_compile
import secrets
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

PREFIX = "gwen25-sandbox-"
STALE_SECONDS = 60  # younger roots may be about to get their lock


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A fresh folder below `root`, removed on leaving."""
    folder = Path(tempfile.mkdtemp(dir=root()))
    try:
        yield folder
    finally:
        remove_tree(folder)


def weight(folder: Path, most: int) -> int:
    """Bytes below, 4096 more for each entry. Stops counting above `most`; a folder that cannot be listed weighs more than that."""
    total, folders = 0, [str(folder)]
    while folders and total <= most:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    total += 4096 + entry.stat(follow_symlinks=False).st_size
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    if total > most:
                        break
        except FileNotFoundError:  # removed while we looked
            continue
        except OSError:  # no permission, or a path too long for the kernel
            return most + 1
    return total


_root_lock = threading.Lock()
_roots: dict[int, Path] = {}  # by pid, so that a forked grader makes its own


def root() -> Path:
    """This process' folder, made at the first call and removed at exit."""
    pid = os.getpid()
    with _root_lock:
        if pid not in _roots:
            _roots[pid] = _make_root(pid)
        return _roots[pid]


def _make_root(pid: int) -> Path:
    """With the child's own modules compiled (7 ms less a start). The lock on it says that its grader is alive."""
    _sweep(Path(tempfile.gettempdir()))
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    folder.chmod(0o711)  # another user may enter a folder whose name it knows
    fcntl.flock(os.open(folder, os.O_RDONLY | os.O_DIRECTORY), fcntl.LOCK_EX | fcntl.LOCK_NB)
    atexit.register(lambda: remove_tree(folder) if os.getpid() == pid else None)
    for module in ("bootstrap", "confine"):
        py_compile.compile(str(Path(__file__).with_name(f"{module}.py")), str(folder / f"{module}.pyc"), doraise=True)
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
    """Remove a folder whose owner is dead and was hostile: links are not followed, missing permissions and depth are no obstacle.

    Each folder within is first moved to the top, so that no path grows long: 3,000 levels are too many for the kernel and for a stack.
    """
    token, number, pending = secrets.token_hex(8), itertools.count(), [folder]
    while pending:
        current = pending.pop()
        with os.scandir(current) as entries:
            for entry in list(entries):
                path = Path(entry.path)
                if not entry.is_dir(follow_symlinks=False):
                    path.unlink()
                    continue
                path.chmod(0o700)
                pending.append(path.rename(folder / f"{token}-{next(number)}"))
        if current != folder:
            current.rmdir()
    folder.rmdir()
