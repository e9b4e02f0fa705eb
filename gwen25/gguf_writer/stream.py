"""Work done a little ahead of its use by a few threads, and bytes that go to the disk while more are made.

    with Ahead() as ahead:
        for result in ahead.map(work, items): ...       in order; at most DEPTH are waiting, so memory is the same for any number
    with Direct(file) as out: out.write(data)           on the disk when it ends, most of it long before

numpy and the kernel let other threads run while they work, so two threads halve what two cores take. Not here: what the work is.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, BinaryIO, Final, Self, TypeVar

THREADS: Final = 2
DEPTH: Final = 6  # results of half a megabyte to two
O_DIRECT: Final = getattr(os, "O_DIRECT", 0)  # macOS has none
STRIPE: Final = 8 << 20  # bytes; there are two of them
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
Item = TypeVar("Item")
Made = TypeVar("Made")


def keep_freed_memory() -> bool:
    """Have malloc keep what a piece leaves for the next one: to ask the kernel for the same megabyte again cost a third of all CPU time.

    For a process whose work is to write a GGUF: all of it keeps up to 64 MB of what it frees, for good. False where that cannot be set:
    only glibc has mallopt(3), whose numbers these are; it would give back the end of its heap at 128 kB.
    """
    try:
        set_option = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    return bool(set_option(M_MMAP_THRESHOLD, 16 << 20) and set_option(M_TRIM_THRESHOLD, 64 << 20))


class Ahead:
    """A pool of threads whose results come in the order of their items."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(THREADS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._pool.shutdown(cancel_futures=True)

    def map(self, work: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[Made]:
        waiting: deque[Future[Made]] = deque()
        for item in items:
            waiting.append(self._pool.submit(work, item))
            if len(waiting) > DEPTH:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


class Direct:
    """A file opened for writing without a buffer; one stripe is on its way to the disk, of a thread's own, while the next one is filled.

    Past the page cache (O_DIRECT) where the file system has that: on a virtual machine, making and filling six gigabytes of cached pages
    took 4 to 16 s of CPU where the disk took 3.7. Where it has not (tmpfs before Linux 6.6, some network ones), plainly.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._pool = file.fileno(), ThreadPoolExecutor(1)
        # O_DIRECT asks for aligned memory, and mmap gives whole pages
        self._stripe, self._other = mmap.mmap(-1, STRIPE), mmap.mmap(-1, STRIPE)
        self._filled = 0
        self._underway: Future[None] | None = None
        _ask(self._file, direct=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if error is None:
                self._wait()
                _ask(self._file, direct=False)  # the end fills no stripe
                _write(self._file, memoryview(self._stripe)[: self._filled])
                os.fsync(self._file)
        finally:
            self._pool.shutdown()

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view):
            part = view[done : done + STRIPE - self._filled]
            self._stripe[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            done += len(part)
            if self._filled == STRIPE:
                self._wait()
                self._underway = self._pool.submit(_write, self._file, memoryview(self._stripe))
                self._stripe, self._other, self._filled = self._other, self._stripe, 0
        return done

    def _wait(self) -> None:
        """Raises OSError where the disk failed or is full."""
        underway, self._underway = self._underway, None
        if underway is not None:
            underway.result()


def _ask(descriptor: int, direct: bool) -> None:
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    with contextlib.suppress(OSError):  # EINVAL: this file system has no direct writes
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | O_DIRECT if direct else flags & ~O_DIRECT)


def _write(descriptor: int, view: memoryview) -> None:
    done = 0
    while done < len(view):  # a write may take a part only
        try:
            done += os.write(descriptor, view[done:])
        except OSError as error:
            if error.errno != errno.EINVAL or not fcntl.fcntl(descriptor, fcntl.F_GETFL) & O_DIRECT:
                raise
            _ask(descriptor, direct=False)  # blocks larger than a page, or a part that ended within one
