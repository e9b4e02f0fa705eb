"""Out of memory: what counts as it, and what the stage was doing when it came.

    with phase("sampling", rows=8): ...      an error that leaves the block knows that it came from there
    if found := recognise(error): ...        Shortage(phase="sampling", rows=8); None where memory was not the matter

Why the phase: what helps differs. Training takes a smaller micro-batch, sampling fewer rows at once, vLLM another share of the
GPU, and nothing helps where the model itself does not fit. A process that the kernel kills cannot speak: its phase stands in
WORK_DIR/phase.json from the moment it begins.

Standard library only. Not here: what the next attempt is given (`fitted`).
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from gwen25 import faults

# share: vLLM finds less free memory than its share; cache: its share holds no cache for one answer
Phase = Literal["loading", "training", "sampling", "share", "cache"]
FILE: Final = "phase.json"
_LINKS: Final = 8  # of a chain of causes: libraries wrap an error two or three times

# torch's CPU allocator, the kernel's ENOMEM, CUDA and cuBLAS, in their own words
_WORDS: Final = re.compile(r"out of memory|can(no|')t allocate memory|ALLOC_FAILED", re.IGNORECASE)
# vLLM's (v1/worker/gpu_worker.py, v1/core/kv_cache_utils.py); it raises ValueError
_VLLM: Final[tuple[tuple[re.Pattern[str], Phase], ...]] = (
    (re.compile(r"Free memory on device .{0,80} is less than desired GPU memory utilization"), "share"),
    (re.compile(r"No available memory for the cache blocks"), "cache"),
    (re.compile(r"larger than the (available KV cache memory|maximum number of tokens that can be stored in KV cache)"), "cache"),
)


@dataclass(frozen=True, slots=True)
class Shortage:
    """Where memory ran out. `rows`: sequences that were in work at once; None where that is not known."""

    phase: Phase | None = None
    rows: int | None = None


_stage, _mark = "", None  # type: str, Path | None
_begun: Counter[str] = Counter()


def watch(stage: str, work: Path) -> None:
    """Note phases in this work folder from now on: the first process of a stage does, as it begins."""
    global _stage, _mark
    _stage, _mark = stage, work / FILE if os.environ.get("RANK", "0") == "0" else None
    _begun.clear()


@contextmanager
def phase(name: Phase, rows: int | None = None) -> Iterator[None]:
    """What is done in this block. Phases may nest: the innermost is told."""
    before = _told()
    _tell(Shortage(name, rows))
    try:
        _begun[name] += 1
        faults.meet(_stage, f"{name}-{_begun[name]}")
        yield
    except BaseException as error:
        if not hasattr(error, "gwen25_shortage"):
            with suppress(AttributeError):
                error.gwen25_shortage = Shortage(name, rows)  # type: ignore[attr-defined]
        raise
    else:
        _tell(before)


def recognise(error: BaseException) -> Shortage | None:
    """The shortage that an error tells of, in whatever library's words and however often wrapped; None for any other error."""
    link: BaseException | None = error
    for _ in range(_LINKS):
        if link is None:
            return None
        if (found := _own(link)) is not None:
            return Shortage(found.phase or _phase(error).phase, found.rows or _phase(error).rows)
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return None


def _own(error: BaseException) -> Shortage | None:
    for words, name in _VLLM:
        if words.search(str(error)):
            return Shortage(name)
    # torch.OutOfMemoryError by name: this module must not import torch
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & {"MemoryError", "OutOfMemoryError"} or (isinstance(error, (RuntimeError, OSError)) and _WORDS.search(str(error))):
        return _phase(error)
    return None


def _phase(error: BaseException) -> Shortage:
    found = getattr(error, "gwen25_shortage", None)
    return found if isinstance(found, Shortage) else Shortage()


_now = Shortage()


def _told() -> Shortage:
    return _now


def _tell(shortage: Shortage) -> None:
    """Note it; not fsynced: it is read after the death of a process, not of the machine."""
    global _now
    _now = shortage
    if _mark is not None:
        with suppress(OSError):  # a full disk must not end a training
            _mark.write_text(json.dumps({"phase": shortage.phase, "rows": shortage.rows}), encoding="utf-8")


def left_by(work: Path) -> Shortage:
    """The phase in which a process died that could say nothing; an empty one where none is noted."""
    try:
        noted = json.loads((work / FILE).read_text(encoding="utf-8"))
        phase, rows = noted["phase"], noted["rows"]
    except (OSError, ValueError, KeyError, TypeError):
        return Shortage()
    return Shortage(phase if phase in get_args(Phase) else None, rows if isinstance(rows, int) and rows > 0 else None)
