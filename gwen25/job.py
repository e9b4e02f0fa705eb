"""The child's side of the process boundary: what a stage is given, what it gives back.

    python -m gwen25.pipelines.sft WORK_DIR          (started by `stage.launch`, which wrote WORK_DIR/request.json)

A pipeline module holds `run(job) -> Result` and ends with

    if __name__ == "__main__":
        main(run)

It writes what downstream reads under `job.payload` and everything else (logs, plots, checkpoints) under `job.aside`, which
survives a retry, so that a trainer finds its checkpoints again; each attempt starts with an empty payload. What `run` raises
decides what happens next: BadInput is never retried, memory is retried with what needs less of it, the rest with a pause.

    WORK_DIR/request.json   in
    WORK_DIR/result.json    out, written last: facts and metrics
    WORK_DIR/failure.json   out instead: the cause and one line
    WORK_DIR/payload/       digested: what the artifact is
    WORK_DIR/aside/         not digested
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from gwen25 import out_of_memory
from gwen25.config import Config, RuntimeConfig
from gwen25.errors import BadInput, Cause, Gwen25Error, Unavailable

_PACKAGES: Final = (
    "gwen25",
    "torch",
    "transformers",
    "trl",
    "peft",
    "datasets",
    "tokenizers",
    "bitsandbytes",
    "gguf",
    "xllamacpp",
    "cyllama",
    "vllm",
)
PROGRESS: Final = "@progress "  # a line of the child's output that is JSON for the parent, not text for the log
EXIT: Final[dict[Cause, int]] = {"bad_input": 2, "unavailable": 75, "out_of_memory": 71, "cancelled": 143}  # others: 1

terminating = threading.Event()  # set by SIGTERM in a stage that can checkpoint: its trainer looks at each step's end


@dataclass(frozen=True, slots=True)
class Input:
    """An artifact that this stage reads: `payload` is its folder, `facts` what it says of itself."""

    stage: str
    key: str
    digest: str
    path: Path
    facts: Mapping[str, Any]
    metrics: Mapping[str, Any]

    @property
    def payload(self) -> Path:
        return self.path / "payload"


@dataclass(frozen=True, slots=True)
class Result:
    """What a stage says of its payload. Facts are for downstream, metrics for people; an unmeasured metric is absent."""

    facts: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """Everything a stage may know.

    `externals` are the pinned things from outside (revisions, digests: keyed); `locations` say where they lie on this
    machine (paths: not keyed). `config` is the stage's section, `micro_batch` the split to use at equal effective batch
    (rows; None where the stage does not train), `at_once` how many sequences to sample at once (None: as many as there are),
    `packed` how many packed sequences a micro-batch has at most (None: those that hold `micro_batch` rows on average).
    """

    stage: str
    key: str
    config: Any
    inputs: Mapping[str, Input]
    externals: Mapping[str, Any]
    locations: Mapping[str, str]
    runtime: RuntimeConfig
    micro_batch: int | None
    work: Path
    at_once: int | None = None
    packed: int | None = None

    @property
    def payload(self) -> Path:
        return self.work / "payload"

    @property
    def aside(self) -> Path:
        return self.work / "aside"

    def progress(self, step: int, total: int | None, **metrics: float | int | str | None) -> None:
        """Tell the parent how far the work is; it becomes a progress bar in the UI. Cheap, and never fails the work."""
        if _speaks():
            # one write: another thread's or process's line must not land between text and newline
            sys.stdout.write(PROGRESS + json.dumps({"stage": self.stage, "step": step, "total": total, **metrics}) + "\n")
            sys.stdout.flush()

    def say(self, text: str) -> None:
        """One line for the log."""
        if _speaks():
            print(text, flush=True)

    def warn(self, text: str) -> None:
        """One line for the log that asks for attention."""
        if _speaks():
            print(f"warning: {text}", flush=True)


def read_request(work: Path) -> Job:
    """The Job that `stage.launch` wrote. Raises BadInput where the folder holds none."""
    try:
        request = json.loads((work / "request.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{work}: no readable request.json ({error}); stages are started by `gwen25`, not by hand") from error
    section = Config.model_fields[request["section_name"]].annotation
    assert isinstance(section, type) and issubclass(section, BaseModel)
    return Job(
        stage=request["stage"],
        key=request["key"],
        config=section.model_validate(request["section"]),
        inputs={role: _input(Path(artifact["path"])) for role, artifact in request["inputs"].items()},
        externals=request["externals"],
        locations=request["locations"],
        runtime=RuntimeConfig.model_validate(request["runtime"]),
        micro_batch=request["micro_batch"],
        work=work,
        at_once=request.get("at_once"),
        packed=request.get("packed"),
    )


def _input(path: Path) -> Input:
    manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    return Input(manifest["stage"], manifest["key"], manifest["digest"], path, manifest["facts"], manifest["metrics"])


def main(run: Callable[[Job], Result], argv: list[str] | None = None) -> None:
    """Run a stage in this process: read the request, do the work, write result.json or failure.json, exit with its status."""
    arguments = sys.argv[1:] if argv is None else argv
    if len(arguments) != 1:
        print("usage: python -m gwen25.pipelines.<stage> WORK_DIR", file=sys.stderr)
        sys.exit(2)
    work = Path(arguments[0])
    try:
        job = read_request(work)
        out_of_memory.watch(job.stage, work)
        job.payload.mkdir(exist_ok=True)
        job.aside.mkdir(exist_ok=True)
        if job.micro_batch is not None:  # only trainers can use the grace time; the others end at once
            signal.signal(signal.SIGTERM, lambda *_: terminating.set())
        result = run(job)
        if _speaks():
            write_json(work / "result.json", {"facts": result.facts, "metrics": _measured(result.metrics), "provenance": provenance()})
    except BaseException as error:  # the boundary: whatever ended the work becomes a cause on disk
        sys.exit(_report(work, error))


def _measured(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics with NaN and infinity as None: a number that is none was not measured, and must not cost the work."""
    return {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in metrics.items()}


def _speaks() -> bool:
    """Under torchrun one process of all speaks and writes the result."""
    return os.environ.get("RANK", "0") == "0"


def provenance() -> dict[str, Any]:
    """What made this: interpreter, packages, machine. Recorded in the manifest, never keyed."""
    versions = {}
    for package in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    hardware: dict[str, Any] = {"machine": platform.machine(), "cpus": os.cpu_count()}
    if (torch := sys.modules.get("torch")) is not None and torch.cuda.is_available():
        hardware["gpu"] = torch.cuda.get_device_name()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts kibibytes
    return {"python": platform.python_version(), "packages": versions, "hardware": hardware, "peak_rss_bytes": peak}


def _report(work: Path, error: BaseException) -> int:
    cause = cause_of(error)
    if cause not in ("bad_input", "cancelled", "unavailable"):
        traceback.print_exc()
    text = Redactor()(str(error) if isinstance(error, Gwen25Error) else f"{type(error).__name__}: {error}")
    print(f"error: {text}", flush=True)
    # under torchrun the first to fail knows why; the others are ended because of it
    if work.is_dir() and not (work / "failure.json").exists():
        # an error raised on purpose would be raised again: only what was away may be there the next time
        retry = not isinstance(error, Gwen25Error) or isinstance(error, Unavailable)
        failure = {"cause": cause, "message": text, "retry": retry and cause != "cancelled"}
        shortage = out_of_memory.recognise(error)
        if cause == "out_of_memory" and shortage is not None:
            failure |= {"phase": shortage.phase, "rows": shortage.rows}
        write_json(work / "failure.json", failure)
    return EXIT.get(cause, 1)


class Cancelled(BaseException):
    """SIGTERM was obeyed: the trainer has checkpointed. Not an Exception, so that no handler swallows it."""


def cause_of(error: BaseException) -> Cause:
    """Classify what ended a stage. Memory errors of CUDA, of torch's CPU allocator and of Python count alike."""
    if isinstance(error, BadInput):
        return "bad_input"
    if isinstance(error, Unavailable):
        return "unavailable"
    if isinstance(error, (Cancelled, KeyboardInterrupt)):
        return "cancelled"
    return "crashed" if out_of_memory.recognise(error) is None else "out_of_memory"


class Redactor:
    """Takes secrets of the environment, and names and passwords in addresses, out of a line before anybody sees it."""

    _SECRET: Final = re.compile(r"(TOKEN|KEY|SECRET|PASSWORD|AUTH)", re.IGNORECASE)
    _USERINFO: Final = re.compile(r"//[^\s/@:]*:[^\s/@]+@")

    def __init__(self) -> None:
        # shorter values are words, not secrets: "1" or "true" must not blank a log
        self._values = {value: name for name, value in os.environ.items() if self._SECRET.search(name) and len(value) >= 8}

    def __call__(self, line: str) -> str:
        for value, name in self._values.items():
            if value in line:
                line = line.replace(value, f"[{name}]")
        return self._USERINFO.sub("//[userinfo]@", line)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON whole or not at all: a temporary file, fsync, rename. NaN is refused: an unmeasured number is None or absent.

    A failure leaves no temporary file. A kill does, `.NAME.THREAD`: each attempt begins with an empty payload, so it reaches no artifact.
    """
    temporary = path.with_name(f".{path.name}.{threading.get_native_id()}")  # threads of one process may write the same file
    try:
        with temporary.open("w", encoding="utf-8") as out:
            json.dump(value, out, ensure_ascii=False, indent=1, sort_keys=True, allow_nan=False)
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
