"""The thread that starts zygotes. They are told to die with the thread that started them, so it lives as long as the grader.

do(order) -> what it returns, or raises what it raises
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

_Made = TypeVar("_Made")


class _Keeper:
    def __init__(self) -> None:
        self._orders: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="zygotes", daemon=True).start()  # an executor's would end before the last graders do

    def do(self, order: Callable[[], _Made]) -> _Made:
        future: Future[_Made] = Future()
        self._orders.put((future, order))
        return future.result()

    def _run(self) -> None:
        while True:
            future, order = self._orders.get()
            try:
                future.set_result(order())
            except BaseException as error:
                future.set_exception(error)


_lock = threading.Lock()
_keepers: dict[int, _Keeper] = {}  # by pid: a forked grader makes its own


def do(order: Callable[[], _Made]) -> _Made:
    """Run `order` in that thread."""
    with _lock:
        pid = os.getpid()
        if pid not in _keepers:
            _keepers[pid] = _Keeper()
        keeper = _keepers[pid]
    return keeper.do(order)


def _renew_lock() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)  # another thread of the parent may have held it
