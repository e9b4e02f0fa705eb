"""Trackers of experiments beside our own metrics.jsonl: TensorBoard, trackio, Weights & Biases, MLflow, by Transformers' callbacks.

    runtime.report_to: [tensorboard]
    SFTTrainer(..., callbacks=[training.callback(job), *trackers.callbacks(job)])

What is drawn does not depend on them, so they are no part of a key. They write under `job.aside` unless the environment says
otherwise; keys and addresses (WANDB_API_KEY, MLFLOW_TRACKING_URI) come from there alone.

A resumed run logs again what came after its checkpoint, and every attempt goes on in the same run. Of TensorBoard, the files of earlier
attempts say which points are drawn, and each is drawn once, whenever the process was killed. The others write behind or far away, so
nobody knows what arrived: a step is noted in `aside/tracked.json` and then given, at most once. A death costs them what was not
written yet, and doubles nothing; a loss of power may take the note with it. A tracker that fails is left out from there on with a
warning: hours of training are worth more than a curve. None is given a checkpoint or a model, whatever WANDB_LOG_MODEL and
HF_MLFLOW_LOG_ARTIFACTS say: `gwen25 push` is what hands a model out.
"""

from __future__ import annotations

import json
import os
import secrets
import struct
from collections.abc import Iterator
from copy import copy
from importlib import util
from pathlib import Path
from typing import Any, Final

from gwen25 import training
from gwen25.errors import BadInput
from gwen25.job import Job, Redactor

PROJECT: Final = "gwen25"
# by name: what its package asks pip for
INSTALL: Final = {"tensorboard": "tensorboard", "trackio": "trackio", "wandb": "wandb", "mlflow": "mlflow"}
KINDS: Final = ("loss", "eval_loss")  # logs that have a step of their own; the closing summary counts the resumed leg only
GIVEN: Final = "tracked.json"


def require(job: Job) -> None:
    """Raises BadInput for a tracker that is not installed in the interpreter of this stage."""
    for name in job.runtime.report_to:
        if util.find_spec(name) is None:
            raise BadInput(f"runtime.report_to: {name} is not installed here: pip install {INSTALL[name]}, or leave {name} out")


def callbacks(job: Job) -> list[Any]:
    """One TrainerCallback for each tracker of `runtime.report_to` that can be begun with. Raises BadInput as `require`."""
    require(job)
    if not job.runtime.report_to:
        return []
    _environment(job)
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    made = (once(job, name, INTEGRATION_TO_CALLBACK[name]) for name in job.runtime.report_to)
    return [callback for callback in made if callback is not None]


def _environment(job: Job) -> None:
    """Where they write, and one run for all attempts; what the environment says already stands."""
    os.environ.update({"WANDB_LOG_MODEL": "false", "HF_MLFLOW_LOG_ARTIFACTS": "false"})  # else they upload checkpoints
    defaults = {
        "TENSORBOARD_LOGGING_DIR": str(job.aside / "tensorboard"),
        "TRACKIO_DIR": str(job.aside / "trackio"),
        "WANDB_PROJECT": PROJECT,
        "WANDB_DIR": str(job.aside),
        "WANDB_RUN_ID": _id(job),
        "WANDB_RESUME": "allow",
        "MLFLOW_TRACKING_URI": f"sqlite:///{job.aside / 'mlflow.db'}",
        "MLFLOW_EXPERIMENT_NAME": PROJECT,
    }
    if "WANDB_API_KEY" not in os.environ:
        defaults["WANDB_MODE"] = "offline"  # it would ask for a key, and nobody answers
    if (known := _noted(job).get("mlflow_run")) is not None:
        defaults["MLFLOW_RUN_ID"] = known
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def _run(job: Job) -> str:
    return f"{job.stage}-{job.key[:12]}"


def _id(job: Job) -> str:
    """Drawn once for a work folder: the same key made again is another run."""
    known = _noted(job).get("wandb_run")
    if known is None:
        known = f"{_run(job)}-{secrets.token_hex(4)}"
        if os.environ.get("RANK", "0") == "0":  # no other process logs
            _note(job, wandb_run=known)
    return str(known)


def once(job: Job, name: str, tracker: type) -> Any:
    """Transformers' callback for a tracker, which is given each step once and may fail; None where it fails to be made."""

    class Once(tracker):  # type: ignore[misc]
        failed = False
        drawn: set[tuple[str, int]] | None = None  # TensorBoard's points: tag and step

        def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            self.tried(self.begin, args, state, control, **rest)

        def begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            _name(args, job)
            super().on_train_begin(args, state, control, **rest)
            if name == "mlflow" and (run := self._ml_flow.active_run()) is not None:
                _note(job, mlflow_run=run.info.run_id)

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **rest: Any) -> None:
            kind = next((kind for kind in KINDS if kind in (logs or {})), None)
            if kind is None or self.failed:
                return
            if not state.global_step:  # the run's training was done already: this process's Trainer has taken no step
                state = copy(state)
                state.global_step = _last(job)
            if name == "tensorboard":
                self.tried(self.draw, args, state, control, logs=logs, **rest)
                return
            if state.global_step <= _noted(job).get(f"{name} {kind}", -1):
                return
            if state.is_world_process_zero:
                _note(job, **{f"{name} {kind}": state.global_step})  # first: a death after it costs a point, one before it would double it
            self.tried(self.log, args, state, control, logs=logs, **rest)

        def draw(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **rest: Any) -> None:
            if not state.is_world_process_zero:
                return
            from transformers.integrations.integration_utils import rewrite_logs

            if self.drawn is None:
                self.drawn = _drawn(job)
            tags = rewrite_logs(logs)  # type: ignore[no-untyped-call]
            points = {key: (tag, state.global_step) for key, tag in zip(logs, tags, strict=True)}
            new = {key: logs[key] for key, point in points.items() if point not in self.drawn}
            self.log(args, state, control, logs=new, **rest)
            self.drawn.update(points.values())  # the base model's held-out loss is of the same step

        def _init_summary_writer(self, *_: Any, **__: Any) -> None:  # TensorBoard's, which would not mark its files as ours
            self.tb_writer = self._SummaryWriter(_folder(), filename_suffix=f".{_id(job)}")

        def log(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            _name(args, job)  # a run whose training was done already begins here
            if name != "mlflow" or not (self._initialized and state.is_world_process_zero and self._ml_flow.active_run() is None):
                super().on_log(args, state, control, **rest)
                return
            self._ml_flow.start_run(run_id=_noted(job)["mlflow_run"])  # training ended it, and MLflow would begin another
            super().on_log(args, state, control, **rest)
            self._ml_flow.end_run()

        def on_train_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            self.tried(super().on_train_end, args, state, control, **rest)

        def on_save(self, *_: Any, **__: Any) -> None:
            """Nothing is uploaded."""

        def on_predict(self, *_: Any, **__: Any) -> None:
            """Nothing of ours predicts."""

        def tried(self, event: Any, *arguments: Any, **options: Any) -> None:
            if self.failed:
                return
            try:
                event(*arguments, **options)
            except Exception as error:  # whatever the tracker's client or its network raise
                self.failed = True
                _warn(job, name, error)

    try:
        return Once()
    except Exception as error:  # its package may be there and not import
        _warn(job, name, error)
        return None


def _name(args: Any, job: Job) -> None:
    args.run_name, args.project, args.trackio_static_space_id = _run(job), PROJECT, False


def _folder() -> str:
    return os.path.expanduser(os.environ["TENSORBOARD_LOGGING_DIR"])  # noqa: PTH111 - a Path makes s3:/ of s3://


def _drawn(job: Job) -> set[tuple[str, int]]:
    """Tags and steps in this work folder's event files. Other runs may share the folder."""
    from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]
    from tensorboard.compat.tensorflow_stub.io import gfile  # type: ignore[import-untyped]

    files = gfile.glob(f"{_folder()}/*tfevents*.{_id(job)}")
    events = (Event.FromString(record) for file in files for record in _records(gfile.GFile(file, "rb").read()))
    return {(value.tag, event.step) for event in events for value in event.summary.value}


def _records(content: bytes) -> Iterator[bytes]:
    """A TFRecord file's records (tensorflow/core/lib/io/record_writer.h): length, its checksum, the record, its checksum.

    One that a death cut off is none. Sums are not taken: TensorBoard's reader does so in Python, 0.7 ms a point, half a minute of
    a GPU for a run of 1,000 steps with 45 curves.
    """
    at = 0
    while len(content) >= at + 12:
        end = at + 12 + int(struct.unpack_from("<Q", content, at)[0])
        if len(content) < end + 4:
            return
        yield content[at + 12 : end]
        at = end + 4


def _last(job: Job) -> int:
    rows = training.read_metrics(job.aside / "metrics.jsonl")
    return int(rows[-1]["step"]) if rows else 0


def _warn(job: Job, name: str, error: Exception) -> None:
    words = Redactor()(" ".join(str(error).split()))[:200]  # in this order: half a key would not be known for one
    job.warn(f"{name} failed and is given no more ({type(error).__name__}: {words})")


def _noted(job: Job) -> dict[str, Any]:
    """What the trackers have had; nothing where the note is not there, or was cut off by a loss of power."""
    try:
        noted: dict[str, Any] = json.loads((job.aside / GIVEN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return noted


def _note(job: Job, **new: Any) -> None:
    file: Path = job.aside / GIVEN
    part = file.with_suffix(".part")
    part.write_text(json.dumps(_noted(job) | new), encoding="utf-8")  # no fsync: a death of the process loses nothing
    part.replace(file)
