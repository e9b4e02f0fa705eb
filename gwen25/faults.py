"""A hook for tests: faults that a running stage meets where a file says so.

    GWEN25_FAULTS=FOLDER; touch FOLDER/sft-oom-3             a memory error as step 3 begins
    touch FOLDER/grpo-kill-4                                 SIGKILL as step 4 begins
    touch FOLDER/grpo-oom-sampling-2                         a memory error as the second sampling of that process begins
    echo "Free memory on device ..." > FOLDER/grpo-oom-loading-1    an error with these words instead

Each fires once: its file is removed first. Steps count from 1 over the whole run, phases (`out_of_memory.phase`) within a process.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path


def meet(stage: str, where: str) -> None:
    """Raise, or die of, what the folder holds for this moment. Does nothing where GWEN25_FAULTS is not set."""
    folder = os.environ.get("GWEN25_FAULTS")
    if not folder:
        return
    if _taken(Path(folder) / f"{stage}-kill-{where}") is not None:
        os.kill(os.getpid(), signal.SIGKILL)
    words = _taken(Path(folder) / f"{stage}-oom-{where}")
    if words:
        raise ValueError(words)
    if words is not None:
        import torch

        raise torch.OutOfMemoryError(f"out of memory at {where}, as GWEN25_FAULTS asked")


def _taken(file: Path) -> str | None:
    """What the file held, by the one process that removed it; None for all others."""
    try:
        words = file.read_text(encoding="utf-8").strip()
        file.unlink()
    except FileNotFoundError:
        return None
    return words
