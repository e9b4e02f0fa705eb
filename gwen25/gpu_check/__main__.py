"""The command: rows as they end, a line of counts, and JSON where it is asked for."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gwen25.artifacts import Store
from gwen25.checks import gpu
from gwen25.errors import BadInput, unknown
from gwen25.gpu_check import ROWS, Row, Setting, runner
from gwen25.job import provenance, write_json

COLUMNS = 120
INDENT = 38  # below "status         row           seconds  "


def main(argv: Sequence[str] | None = None) -> int:
    try:
        return _run(_parser().parse_args(argv))
    except (BadInput, OSError) as error:  # an option, or a folder that cannot be made or written
        print(f"gpu-check: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m gwen25.gpu_check", description="What this GPU really does with gwen25.")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--shape", choices=["qwen2.5-3b", "tiny"], default="qwen2.5-3b", help="of the model in the training rows")
    parser.add_argument("--only", action="append", default=[], metavar="ROW", help="may be repeated; what it stands on runs too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="results and measures, for programs")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="work there, and keep it: each row's log is in it")
    return parser


def _run(arguments: argparse.Namespace) -> int:
    rows = chosen(arguments.only)
    if arguments.device == "cpu" and arguments.shape != "tiny":
        raise BadInput("--device cpu is for --shape tiny: a step of the real shape would take an hour")
    if arguments.json is not None and not os.access(arguments.json.absolute().parent, os.W_OK):
        raise BadInput(f"--json {arguments.json}: its folder is not there, or cannot be written")
    with _folder(arguments.keep) as folder:
        print(_header(arguments.device), flush=True)
        results = []
        for result in runner.run(rows, Setting(arguments.device, arguments.shape, str(folder))):
            print(line(result), flush=True)
            results.append(result)
    counts = Counter(result.outcome.status for result in results)
    took = sum(result.seconds for result in results)
    print(f"\n{', '.join(f'{count} {status}' for status, count in counts.items())}; {took:.0f} s")
    if arguments.json is not None:
        write_json(arguments.json, as_json(arguments, results))
    return 0 if set(counts) <= {"ok", "missing"} else 1


def _header(device: str) -> str:
    """What the rows are run on, as far as the driver tells."""
    torch = provenance()["packages"].get("torch", "not installed")
    cards = "; ".join(f"{card.name}, {card.mib / 1024:.1f} GiB, driver {card.driver}" for card in gpu.found())
    return f"{'CPU' if device == 'cpu' else cards or 'no GPU that nvidia-smi tells of'}; torch {torch}\n"


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    """The one to keep, or one below the store's, which lies on a disk (a temporary one may lie in memory), removed at the end."""
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep.absolute()
        return
    with tempfile.TemporaryDirectory(prefix="gpu-check-", dir=Store.default().root.parent) as folder:
        yield Path(folder)


def chosen(names: Sequence[str]) -> list[Row]:
    """The named rows and what they stand on, in order; all of them where none is named."""
    known = {row.name: row for row in ROWS}
    for name in names:
        if name not in known:
            raise unknown("row", name, known)
    wanted = {*names, *(known[name].after for name in names)}
    return [row for row in ROWS if not names or row.name in wanted]


def line(result: runner.Result) -> str:
    told = f"{result.outcome.status:15}{result.row.name:14}{result.seconds:6.1f} s  {result.outcome.said}"
    return "\n".join(textwrap.wrap(told, COLUMNS, subsequent_indent=" " * INDENT))


def as_json(arguments: argparse.Namespace, results: Sequence[runner.Result]) -> dict[str, Any]:
    rows = [
        {"row": result.row.name, "seconds": round(result.seconds, 2), "limit_seconds": result.row.seconds, **asdict(result.outcome)}
        for result in results
    ]
    machine = {"gpus": [asdict(card) for card in gpu.found()], **provenance()}
    return {"device": arguments.device, "shape": arguments.shape, "machine": machine, "rows": rows}


if __name__ == "__main__":
    sys.exit(main())
