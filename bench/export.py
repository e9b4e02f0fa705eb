"""How fast a model is exported, and in how much memory: our GGUF writer beside llama.cpp's converter, our merge beside PEFT.

    make bench-export [LLAMA_CPP=FOLDER] [BENCH_FLAGS="--sizes 0.5B --rounds 3"]
    GWEN25_LLAMA_CPP=FOLDER python -m bench.export --sizes 0.5B 3B --rounds 3 --json OUT

Made-up checkpoints of Qwen2.5-0.5B's and 3B's shape; each writer in a fresh process, its output on the disk before the clock stops,
what others left unwritten on the disk before it starts. Rounds are interleaved, so that whatever else the machine does meets all alike.
`cp` and fsync of the checkpoint is what the disk alone takes. In the first round outputs are compared: the tensors of a GGUF with the
converter's, the merged weights with PEFT's, byte for byte.

Takes 5 GB of disk for 0.5B and 25 GB for 3B, below --work. Not here: the checkpoints (`made_up`), the work (`contestants`), the tables
(`export_report`).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench import converter, export_report, machine, made_up
from bench.export_report import CONVERTER, COPY, NOTHING, OURS, PEFT, TORCH, Run
from gwen25.errors import BadInput, Gwen25Error

TYPES = ("f16", "q8_0")
PIECE = 64 << 20


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    facts = machine.facts(sys.executable) | {"rounds": arguments.rounds}
    try:
        with tempfile.TemporaryDirectory(prefix="bench-export-", dir=arguments.work) as work:
            runs = [run for size in arguments.sizes for run in _size(size, Path(work), arguments)]
    except Gwen25Error as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2 if isinstance(error, BadInput) else 1
    print(export_report.markdown(facts, runs))
    if arguments.json:
        arguments.json.write_text(json.dumps(export_report.as_json(facts, runs), indent=1) + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "bench.export", description="exports per second and bytes of memory: ours, llama.cpp's converter, PEFT"
    )
    parser.add_argument("--sizes", nargs="+", choices=list(made_up.SHAPES), default=["0.5B", "3B"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, help="a folder on the disk to measure (default: the system's temporary one)")
    parser.add_argument("--tokenizer", type=Path, help="a folder with a real tokenizer.json; else 700 tokens and padding")
    parser.add_argument("--only", choices=["gguf", "merge"], help="one half of it")
    parser.add_argument("--json", type=Path, help="write every figure there")
    return parser


def _size(size: str, work: Path, arguments: argparse.Namespace) -> Iterator[Run]:
    base, adapter = work / "base", work / "adapter"
    made_up.checkpoint(size, base, arguments.tokenizer)
    made_up.adapter(base, adapter)
    for number in range(arguments.rounds):
        yield from (_run(size, number, what, "", [], None) for what in (NOTHING, TORCH))
        if arguments.only != "merge":
            yield from _gguf(size, number, base, work)
        if arguments.only != "gguf":
            yield from _merge(size, number, base, adapter, work)
    for folder in (base, adapter):
        shutil.rmtree(folder)


def _gguf(size: str, number: int, base: Path, work: Path) -> Iterator[Run]:
    copy = work / "copy"
    files = sorted(str(file) for file in base.glob("*.safetensors"))
    copy.mkdir()
    yield _run(size, number, COPY, "", files, copy)
    shutil.rmtree(copy)
    for type in TYPES:
        ours, theirs, jobs = work / "ours.gguf", work / "theirs.gguf", work / "jobs.json"
        jobs.write_text(json.dumps([{"model": str(base), "out": str(theirs), "type": type, "pre": "qwen2"}]))
        peer = converter.folder() is not None
        order = [(OURS, ["gguf", str(base), str(ours), type]), *([(CONVERTER, ["converter", str(jobs)])] if peer else [])]
        done = [_run(size, number, what, type, command, None) for what, command in order[:: 1 if number % 2 else -1]]
        same = _same_tail(ours, theirs) if peer and number == 0 else None
        yield from (run._replace(same=same) if run.what == OURS else run for run in done)
        for file in (ours, theirs):
            file.unlink(missing_ok=True)


def _merge(size: str, number: int, base: Path, adapter: Path, work: Path) -> Iterator[Run]:
    ours, theirs = work / "ours", work / "theirs"
    order = [(OURS, ["merge", str(base), str(adapter), str(ours)]), (PEFT, ["peft", str(base), str(adapter), str(theirs)])]
    done = [_run(size, number, what, "merge", command, None) for what, command in order[:: 1 if number % 2 else -1]]
    same = _same_weights(ours, theirs) if number == 0 else None
    yield from (run._replace(same=same) if run.what == OURS else run for run in done)
    for folder in (ours, theirs):
        shutil.rmtree(folder)


def _run(size: str, number: int, what: str, work: str, command: list[str], copy_to: Path | None) -> Run:
    """One contestant, once. CPU is that of its process and of what that started."""
    whole = [sys.executable, "-m", "bench.contestants", *(command or [what])]
    if copy_to is not None:
        names = " ".join(str(copy_to / Path(file).name) for file in command)
        whole = ["sh", "-c", f"cp {' '.join(command)} {copy_to}/ && sync {names}"]
    os.sync()
    began, before = time.perf_counter(), os.times()
    done = subprocess.run(whole, capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    wall, after = time.perf_counter() - began, os.times()
    if done.returncode != 0:
        raise Gwen25Error(f"{what} {work} of {size} failed: {done.stderr.strip()[-2000:]}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    peak = None if copy_to is not None else json.loads(done.stdout.splitlines()[-1])["peak"]
    return Run(number, size, what, work, wall, cpu, peak, None)


def _same_tail(ours: Path, theirs: Path) -> bool:
    """Whether the tensors' data, which ends both files, is equal, and every tensor has one name, type and shape."""
    from gwen25.gguf_header import read_header

    a, b = read_header(ours).tensors, read_header(theirs).tensors
    size = sum(tensor.bytes + -tensor.bytes % 32 for tensor in a)
    return a == b and _equal(ours, theirs, ours.stat().st_size - size, theirs.stat().st_size - size, size)


def _same_weights(ours: Path, theirs: Path) -> bool:
    from gwen25.weights import size_of, stored

    a, b = stored(ours), stored(theirs)
    if {name: (tensor.shape, tensor.dtype) for name, tensor in a.items()} != {
        name: (tensor.shape, tensor.dtype) for name, tensor in b.items()
    }:
        return False
    return all(_equal(a[name].file, b[name].file, a[name].offset, b[name].offset, size_of(a[name].shape, a[name].dtype)) for name in a)


def _equal(ours: Path, theirs: Path, at: int, there: int, size: int) -> bool:
    with ours.open("rb") as a, theirs.open("rb") as b:
        a.seek(at)
        b.seek(there)
        return all(a.read(count) == b.read(count) for count in (min(PIECE, size - done) for done in range(0, size, PIECE)))


if __name__ == "__main__":
    sys.exit(main())
