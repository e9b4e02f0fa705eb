"""What one trainer's step costs beside another's: they train at once, a step each in turn.

    spans = in_turn({"ours": (trainer, start), "TRL": (other, other.train)})      seconds of each step, by trainer: wall and CPU

Each trains in a thread of its own and holds the machine from one step's beginning to the next one's, whatever happens in between:
the step, callbacks, logs, checkpoints, the next batch. So a busy minute meets both, and the n-th steps of two trainers are a pair. CPU
is the thread's own: torch works in the thread that calls it where it is given one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

RESAMPLES = 2000
FEW = 8  # blocks: of fewer no interval is made
PATIENCE = 600.0  # seconds that one step may take


class Span(NamedTuple):
    wall: float
    cpu: float


class Turns:
    """Whose turn it is, among trainers that take turns in the order of their names."""

    def __init__(self, names: Sequence[str]):
        self.waiting, self.changed = list(names), threading.Condition()

    def take(self, name: str) -> None:
        with self.changed:
            if not self.changed.wait_for(lambda: self.waiting[:1] == [name] or name not in self.waiting, PATIENCE):
                raise TimeoutError(f"{name} waited {PATIENCE:g} s for its turn")

    def give(self, name: str, last: bool = False) -> None:
        with self.changed:
            if name in self.waiting:
                self.waiting.remove(name)
                self.waiting += [] if last else [name]
            self.changed.notify_all()


def stopwatch(name: str, turns: Turns, spans: list[Span]) -> Any:
    """The TrainerCallback that takes times and turns; it must be the first of its trainer's."""
    from transformers import TrainerCallback

    class Stopwatch(TrainerCallback):
        began: Span | None = None

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.ended()
            turns.give(name)
            turns.take(name)
            self.began = Span(time.perf_counter(), time.thread_time())

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.ended()

        def ended(self) -> None:
            now = Span(time.perf_counter(), time.thread_time())
            if self.began is not None:
                spans.append(Span(now.wall - self.began.wall, now.cpu - self.began.cpu))

    return Stopwatch()


def timed(callback: Any, events: Sequence[str]) -> list[float]:
    """CPU seconds that each call of the callback's `events` takes from now on, as they come."""
    taken: list[float] = []

    def clocked(event: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            began = time.thread_time()
            try:
                return event(*arguments, **options)
            finally:
                taken.append(time.thread_time() - began)

        return call

    for event in events:
        setattr(callback, event, clocked(getattr(callback, event)))
    return taken


def in_turn(trainers: Mapping[str, tuple[Any, Callable[[], object]]]) -> dict[str, list[Span]]:
    """Train each of `trainers` (a trainer and what starts it) to its end. The last step's span has the end of the training in it."""
    import torch

    turns, failed = Turns(list(trainers)), []
    spans: dict[str, list[Span]] = {name: [] for name in trainers}

    def work(name: str, start: Callable[[], object]) -> None:
        torch.set_num_threads(1)
        try:
            turns.take(name)
            start()
        except BaseException as error:
            failed.append(error)
        finally:
            turns.give(name, last=True)

    for name, (trainer, _) in trainers.items():
        trainer.callback_handler.callbacks.insert(0, stopwatch(name, turns, spans[name]))
    threads = [threading.Thread(target=work, args=(name, start), name=name) for name, (_, start) in trainers.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return spans


def overhead(ours: Sequence[float], theirs: Sequence[float], block: int = 1) -> tuple[float, float, float]:
    """The sum of ours over the sum of theirs, less 1, with its bootstrap 95 % interval: a cost that falls on few steps is in both.

    Drawn are blocks of `block` consecutive pairs, so that each draw has as many of the steps that come once a block (checkpoints); where
    they are fewer than FEW, single pairs.
    """
    count = len(theirs) // block if len(theirs) // block >= FEW else len(theirs)
    own, other = (np.array([part.sum() for part in np.array_split(np.asarray(each), count)]) for each in (ours, theirs))
    chosen = np.random.default_rng(0).integers(0, count, (RESAMPLES, count))
    low, high = np.quantile(own[chosen].sum(1) / other[chosen].sum(1) - 1, (0.025, 0.975))
    return float(own.sum() / other.sum() - 1), float(low), float(high)
