"""Stages' real modules in processes that can be made to die at one exact moment. Ready at once: what they import is imported here.

    python -m tests.pipelines.killed_stage        one JSON line in: {"stage", "work", "log", "death"}; two out: {"pid"}, then {"status"}

A process is forked from this one for each line and runs `python -m gwen25.pipelines.<stage> WORK` as written there: importing
torch, transformers, TRL and PEFT takes eight seconds, which forty deaths need not pay again.

`death` is null, or [checkpoint, event, half]: while `checkpoint-<checkpoint>` is being written, its event-th change (from 0) is the
last thing that happens. A change is each file that is opened for writing, each that torch or safetensors writes, and each that the
deletion of an older checkpoint removes. `half`: a file of torch's or safetensors' is left at half its length, else it is not begun.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Death:
    """Counts changes to one checkpoint and everything after it, and ends the process at one of them."""

    def __init__(self, work: Path, checkpoint: int, event: int, half: bool):
        self.folder, self.checkpoint = work / "aside" / "checkpoints", f"checkpoint-{checkpoint}"
        self.left, self.half = event, half

    def arm(self) -> None:
        import peft.peft_model
        import torch

        torch.save = self.cut(torch.save)  # optimizer.pt, scheduler.pt, rng_state.pth, training_args.bin
        peft.peft_model.safe_save_file = self.cut(peft.peft_model.safe_save_file)
        sys.addaudithook(self.heard)

    def due(self, name: object) -> bool:
        """Whether this change is the one."""
        if not isinstance(name, (str, os.PathLike)) or self.folder not in Path(name).parents:
            return False
        if not (self.folder / self.checkpoint).exists():
            return False
        self.left -= 1
        return self.left < 0

    def heard(self, kind: str, arguments: tuple[Any, ...]) -> None:
        if kind == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            changed = arguments[0]
        elif kind == "os.remove":  # by shutil.rmtree: a name in an open folder
            changed = arguments[0] if arguments[1] == -1 else Path(f"/proc/self/fd/{arguments[1]}").readlink() / arguments[0]
        else:
            return
        if self.due(changed):
            os.kill(os.getpid(), signal.SIGKILL)

    def cut(self, save: Callable[..., Any]) -> Callable[..., Any]:
        """`save(value, file, ...)`."""

        def saved(value: Any, name: Any, *arguments: Any, **options: Any) -> Any:
            if not self.due(name):
                return save(value, name, *arguments, **options)
            if self.half:
                save(value, name, *arguments, **options)
                os.truncate(name, Path(name).stat().st_size // 2)
            return os.kill(os.getpid(), signal.SIGKILL)

        return saved


def run(stage: str, work: str, log: str, death: list[int] | None) -> None:
    """In the forked process: never returns."""
    status = 1
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(output, stream)
        if death is not None:
            Death(Path(work), death[0], death[1], bool(death[2])).arm()
        sys.argv = [stage, work]
        runpy.run_module(f"gwen25.pipelines.{stage}", run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as end:
        status = int(end.code or 0)
    finally:
        sys.stdout.flush()
        os._exit(status)


def serve() -> None:
    import datasets  # noqa: F401
    import peft  # noqa: F401
    import torch  # noqa: F401
    import trl

    trl.SFTTrainer, trl.GRPOTrainer  # noqa: B018  # lazily imported by name
    for line in sys.stdin:
        if not (pid := os.fork()):
            run(**json.loads(line))
        print(json.dumps({"pid": pid}), flush=True)
        print(json.dumps({"status": os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}), flush=True)


if __name__ == "__main__":
    serve()
