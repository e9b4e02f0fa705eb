"""Files and folders that a user names as the place for a result: they appear whole or not at all.

    with folder(Path("merged"), force=False, mark="config.json") as part: ...     write into `part`; it becomes `merged` at the end
    with file(Path("model.gguf"), force=False) as part: ...

What is written lies beside its place, under a name with a dot, until all of it is on the disk. A death leaves that, and the next
run clears it. Without `force` nothing that is there is replaced; with it a folder goes only where it holds what such a command
writes (`mark`, and no folders): a mistyped name must not cost somebody's home.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gwen25.artifacts import flush
from gwen25.errors import BadInput


@contextmanager
def folder(out: Path, *, force: bool, mark: str) -> Iterator[Path]:
    """A new folder that takes the place of `out` at the end. Raises BadInput where it may not, before anything is done."""
    out = _place(out)
    _may_replace_folder(out, force, mark)
    part = out.with_name(f".{out.name}.part")
    with _alone(part):
        _restore(out)
        _may_replace_folder(out, force, mark)  # what was put back counts too
        yield part
        for path in (*part.iterdir(), part):
            flush(path)
        _swap(part, out)


@contextmanager
def file(out: Path, *, force: bool) -> Iterator[Path]:
    """A new file that takes the place of `out` at the end, beside which it is written."""
    out = _place(out)
    if out.is_dir():
        raise BadInput(f"{out} is a folder; give the name of the file in it")
    if out.exists() and not force:
        raise BadInput(f"{out} exists; --force replaces it")
    scratch = out.with_name(f".{out.name}.part")
    with _alone(scratch):
        yield scratch / out.name
        flush(scratch / out.name)
        (scratch / out.name).replace(out)
        flush(out.parent)


def room(where: Path, need: int) -> None:
    """Raises BadInput where the disk of `where` has not `need` bytes free: told in the first second, not the last."""
    there = next(parent for parent in (where.absolute(), *where.absolute().parents) if parent.exists())
    if need > (free := shutil.disk_usage(there).free):
        raise BadInput(f"{where} needs about {need / 1e9:.1f} GB, and its disk has {free / 1e9:.1f} GB free; name another place")


def _place(out: Path) -> Path:
    out = out.expanduser().absolute()
    if not out.parent.is_dir():
        raise BadInput(f"{out.parent} is not a folder; make it first")
    if not os.access(out.parent, os.W_OK):
        raise BadInput(f"{out.parent} cannot be written; name a place of yours")
    return out


def _may_replace_folder(out: Path, force: bool, mark: str) -> None:
    if not out.exists() and not out.is_symlink():
        return
    if not out.is_dir() or out.is_symlink():
        raise BadInput(f"{out} exists and is no folder; name another place")
    held = list(out.iterdir())
    if not held:
        return
    if not force:
        raise BadInput(f"{out} exists and is not empty; --force replaces it")
    if not (out / mark).is_file() or any(path.is_dir() for path in held):
        raise BadInput(
            f"{out} holds other things than this command writes (it has no {mark}, or has folders in it); not even --force removes it"
        )


@contextmanager
def _alone(part: Path) -> Iterator[None]:
    """Make the folder `part`, empty, and take it away at the end. A lock on it tells what a dead run has left from what another is
    writing."""
    descriptor = _locked(part)
    try:
        for left in part.iterdir():
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left)
            else:
                left.unlink()
        yield
    finally:
        if _is_at(part, descriptor):  # else it has become the output, and what is there now is another run's
            shutil.rmtree(part, ignore_errors=True)
        os.close(descriptor)


def _locked(part: Path) -> int:
    """A descriptor that holds the lock of the folder that is at `part` now. One that another run took away in between is no lock."""
    while True:
        part.mkdir(exist_ok=True)
        try:
            descriptor = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            name = part.name.removeprefix(".").removesuffix(".part")
            raise BadInput(f"another run is writing {name} in {part.parent}; wait for it") from error
        if _is_at(part, descriptor):
            return descriptor
        os.close(descriptor)


def _is_at(part: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(part.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _old(out: Path) -> Path:
    return out.with_name(f".{out.name}.old")


def _restore(out: Path) -> None:
    """Put back what stepped aside for a run that was killed before its own stood."""
    if not out.exists() and _old(out).is_dir():
        _old(out).rename(out)
        flush(out.parent)


def _swap(part: Path, out: Path) -> None:
    """`part` becomes `out`. What was there steps aside for a moment, and goes only when the new one stands."""
    old = _old(out)
    if out.exists():
        shutil.rmtree(old, ignore_errors=True)
        out.rename(old)
    try:
        part.rename(out)
    except OSError:
        _restore(out)
        raise
    flush(out.parent)
    shutil.rmtree(old, ignore_errors=True)
