"""One piece of work in a process of its own, and the memory that it took: what `bench.export` times.

    python -m bench.contestants gguf MODEL OUT q8_0        our writer
    python -m bench.contestants merge BASE ADAPTER OUT     our merge
    python -m bench.contestants peft BASE ADAPTER OUT      load, merge_and_unload, save_pretrained
    python -m bench.contestants nothing                    the interpreter
    python -m bench.contestants torch                      the interpreter with torch

The last line is JSON: {"peak": bytes of resident memory, the most it ever was}. Every writer's output is on the disk when it ends.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

SHARD = 5 * 10**9


def gguf(model: str, out: str, type: str) -> None:
    from gwen25.gguf_writer import keep_freed_memory, write

    keep_freed_memory()  # as the node does
    write(Path(model), Path(out), type)


def merge(base: str, adapter: str, out: str) -> None:
    from gwen25.merging import merge_adapter

    Path(out).mkdir()
    merge_adapter(Path(base), Path(adapter), Path(out), dtype="bfloat16", max_shard=SHARD)


def peft(base: str, adapter: str, out: str) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    merged.save_pretrained(out, max_shard_size=SHARD)
    for file in Path(out).iterdir():
        sync(file)


def converter(jobs: str) -> None:
    from bench.converter import main as convert

    convert(jobs)


def nothing() -> None:
    """What every other one starts from."""


def torch() -> None:
    import torch  # noqa: F401


def sync(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def peak() -> int | None:
    """The kernel's own high-water mark of this process; None where it keeps none."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), None)


if __name__ == "__main__":
    WORK = {work.__name__: work for work in (gguf, merge, peft, converter, nothing, torch)}
    WORK[sys.argv[1]](*sys.argv[2:])
    print(json.dumps({"peak": peak()}))
