"""Work done a little ahead of its use by a few threads, and bytes that go to the disk while more are made.

    with Ahead() as ahead:
        for result in ahead.map(work, items): ...       in order; at most DEPTH are waiting, so memory is the same for any number
    with Flushed(file) as out: out.write(data)          fsynced at the end, most of it long before

numpy and the kernel let other threads run while they work, so two threads halve what two cores take. Not here: what the work is.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, BinaryIO, Final, Self, TypeVar

THREADS: Final = 2
DEPTH: Final = 6  # results of half a megabyte to a megabyte
FLUSH: Final = 64 << 20  # bytes; the kernel would begin at a tenth of the memory, which a small model never fills
Item = TypeVar("Item")
Made = TypeVar("Made")


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


class Flushed:
    """A file opened for writing without a buffer; a thread of its own tells the kernel to begin with what is there."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._pool, self._new = file, ThreadPoolExecutor(1), 0
        self._flush: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._pool.shutdown()
        if error is None:
            if self._flush is not None:
                self._flush.result()  # a disk that failed in the middle says so once
            os.fsync(self._file.fileno())

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        size, done = len(view), 0
        while done < size:  # an unbuffered write may take a part only
            done += os.write(self._file.fileno(), view[done:])
        self._new += size
        if self._new >= FLUSH and (self._flush is None or self._flush.done()):
            if self._flush is not None:
                self._flush.result()
            self._new, self._flush = 0, self._pool.submit(os.fdatasync, self._file.fileno())
        return size
