"""The grader's slots: keep them, hand them work, begin anew where one dies.

    with Runner(source, limits, isolation, func_name) as run:      one program
        run(b"1 2\n") -> Outcome                                   from a fresh state each time
        run.many([b"1", b"2"]) -> [Outcome, Outcome]               of a pure program, in one process, as far as that came

A slot is started at first use and kept for the next program. Memory does not grow with the number of programs. A slot that dies under a
program is replaced and the program run once more, with its source compiled out of the zygote's reach; a second death is told as "killed":
something outside did it, and nothing is known of the program.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from gwen25.errors import SandboxUnavailable
from gwen25.sandbox.bootstrap import RECORD
from gwen25.sandbox.isolate import Isolation, Limits
from gwen25.sandbox.scratch import root
from gwen25.sandbox.slots import HEAVY, Died, Kind, Outcome, Slot, memory_file

MANY_SECONDS = 2.0  # of CPU time for many inputs: a program that needs more gains nothing by saving 2 ms a process
STDIN_SECONDS = 0.5  # the same for a program that reads stdin, which is run once alone before, so that a slow one is known


class _Program:
    """A program's source as a file in memory, under a number of its own."""

    numbers = itertools.count()

    def __init__(self, stack: contextlib.ExitStack, source: bytes, func_name: str | None):
        self._number, self._size, self._func_name = next(self.numbers), len(source), func_name
        self.file = memory_file(stack, "source")
        if os.pwrite(self.file, source, 0) != len(source):
            raise SandboxUnavailable(f"no memory for a program of {len(source)} bytes")

    def request(self, limits: Limits, *, many: bool, wary: bool) -> dict[str, Any]:
        """`many`: inputs at once. `wary`: compile it in the child."""
        return {
            "many": many,
            "program": self._number,
            "size": self._size,
            "func_name": self._func_name,
            "wary": wary,
            "cpu_seconds": limits.cpu_seconds,
            "wall_seconds": limits.wall_seconds,
            "memory_bytes": limits.memory_bytes,
            "output_bytes": limits.output_bytes,
            "cpu_backstop": int(limits.cpu_seconds) + 2,
        }


class Pool:
    """Slots that wait for work, by isolation and kind."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: dict[Kind, list[Slot]] = {}
        self._busy: dict[Slot, threading.Event] = {}  # by whom it is used
        self._number = itertools.count()

    @contextlib.contextmanager
    def slot(self, kind: Kind, stop: threading.Event, *, fresh: bool) -> Iterator[Slot]:
        """A slot of one's own; ended, not given back, where the block raises or the zygote has grown. `fresh`: a new one."""
        slot = (None if fresh else self._living(kind)) or Slot(kind, next(self._number))
        try:
            with self._lock:
                self._busy[slot] = stop
            yield slot
        except BaseException:
            slot.grown = True
            raise
        finally:
            with self._lock:
                self._busy.pop(slot, None)
                if not slot.grown:
                    self._idle.setdefault(kind, []).append(slot)
            if slot.grown:
                slot.close()

    def _living(self, kind: Kind) -> Slot | None:
        """One that waits, of those that were not killed meanwhile."""
        while True:
            with self._lock:
                idle = self._idle.get(kind)
                slot = idle.pop() if idle else None
            if slot is None or slot.alive:
                return slot
            slot.close()

    def interrupt(self, stop: threading.Event) -> None:
        """End the programs under way for the caller whose `stop` this is."""
        with self._lock:
            for slot, whose in self._busy.items():
                if whose is stop:
                    slot.kill()

    def close(self) -> None:
        """End every idle slot."""
        with self._lock:
            idle = [slot for slots in self._idle.values() for slot in slots]
            self._idle.clear()
        for slot in idle:
            slot.close()


class Runner:
    """A program that can be run, each time from a fresh state. A context. `stop`: begin nothing any more."""

    def __init__(self, source: bytes, limits: Limits, isolation: Isolation, func_name: str | None, stop: threading.Event | None = None):
        self._source, self._limits, self._func_name = source, limits, func_name
        heavy = tuple(name for name in HEAVY if f"import {name}".encode() in source or f"from {name}".encode() in source)
        self._kind = Kind(isolation, func_name is not None, heavy)
        self._stop = stop or threading.Event()

    def __enter__(self) -> Runner:
        with contextlib.ExitStack() as stack:
            self._program = _Program(stack, self._source, self._func_name)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __call__(self, data: bytes) -> Outcome:
        """One input. Where the zygote died under it, once more."""
        for wary in (False, True):
            with contextlib.suppress(Died):
                return self._once(data, self._limits, wary=wary)
        return Outcome("killed", -9, 0.0, 0.0, 0, b"", "the sandbox was twice killed from outside")

    def many(self, inputs: Sequence[bytes]) -> list[Outcome]:
        """The outcomes of the first inputs of a pure program: all that were answered before one failed, or the time for them was over."""
        seconds = STDIN_SECONDS if self._func_name is None else MANY_SECONDS
        try:
            limits = replace(self._limits, cpu_seconds=min(seconds, self._limits.cpu_seconds))
            whole = self._once(b"".join(RECORD.pack(len(data)) + data for data in inputs), limits, many=True)
        except Died:
            return []
        found: list[Outcome] = []
        at = 0
        while at + RECORD.size <= len(whole.answer) and len(found) < len(inputs):
            (size,) = RECORD.unpack_from(whole.answer, at)
            at += RECORD.size + size
            if at <= len(whole.answer):
                found.append(replace(whole, ended="exit", exit_code=0, answer=whole.answer[at - size : at], stderr=""))
        if whole.ended != "exit":  # the last one may have been answered after its time
            del found[-1:]
        share = len(found) or 1
        return [replace(outcome, cpu_seconds=whole.cpu_seconds / share, wall_seconds=whole.wall_seconds / share) for outcome in found]

    def _once(self, data: bytes, limits: Limits, *, many: bool = False, wary: bool = False) -> Outcome:
        with _pool().slot(self._kind, self._stop, fresh=wary) as slot:
            if self._stop.is_set():  # asked only here: a slot that was starting is among the busy ones only now
                raise SandboxUnavailable("interrupted")
            return slot.run(self._program.request(limits, many=many, wary=wary), self._program.file, data, limits)


def interrupt(stop: threading.Event) -> None:
    """Begin nothing more for the runners that were given `stop`, and end what is under way for them."""
    stop.set()
    _pool().interrupt(stop)


_state_lock = threading.Lock()
_pools: dict[int, Pool] = {}  # by pid: a forked grader makes its own


def _pool() -> Pool:
    with _state_lock:
        pid = os.getpid()
        if pid not in _pools:
            root()  # registers its removal first, so that it comes last
            _pools[pid] = Pool()
            atexit.register(lambda pool: pool.close() if os.getpid() == pid else None, _pools[pid])
        return _pools[pid]


def _renew_lock() -> None:
    global _state_lock
    _state_lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)  # another thread of the parent may have held it
