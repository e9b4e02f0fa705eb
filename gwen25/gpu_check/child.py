"""One row, in a process of its own:

    python -m gwen25.gpu_check.child REQUEST.json OUTCOME.json

What the row raises becomes its outcome; a process that dies before it has written one is told by `runner`.
"""

from __future__ import annotations

import json
import sys
import traceback
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

from gwen25.gpu_check import Missing, Outcome, Row, Setting
from gwen25.job import Redactor, cause_of, write_json


def run(row: Row, setting: Setting) -> Outcome:
    """The row's outcome, whatever it raises."""
    module, _, function = row.does.partition(":")
    try:
        if setting.device == "cuda" and "torch" in row.packages:
            require_cuda()
        outcome = getattr(import_module(module), function)(row, setting)
    except Missing as missing:
        return Outcome("missing", str(missing))
    except Exception as error:
        traceback.print_exc()
        cause = cause_of(error)
        return Outcome("out of memory" if cause == "out_of_memory" else "failed", f"{type(error).__name__}: {error}")
    assert isinstance(outcome, Outcome)
    return outcome


def require_cuda() -> None:
    import torch

    if not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for CPUs alone"
        raise Missing(f"no CUDA device for torch {torch.__version__}, {built}")


def main(request: Path, out: Path) -> None:
    given = json.loads(request.read_text(encoding="utf-8"))
    given["row"]["packages"] = tuple(given["row"]["packages"])
    outcome = run(Row(**given["row"]), Setting(**given["setting"]))
    redact = Redactor()
    write_json(out, {**asdict(outcome), "said": redact(" ".join(outcome.said.split()))[:600]})


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
