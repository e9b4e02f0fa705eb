"""Trackers get each step once, whatever was repeated; what is absent is refused, what fails costs no training.

    python -m tests.test_trackers TRACKER STAGE WORK MOMENT...      attempts on a work folder, each killed at its moment, and a last one

Trackio is tried where it is installed; it holds pillow below the tested version, so in an environment of its own (docs/recipes.md).
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gwen25 import trackers, training
from gwen25.errors import BadInput
from gwen25.job import Input, Job
from gwen25.pipelines import sft
from gwen25.stage import plan_stage
from tests.conftest import REPOSITORY
from tests.pipelines import killed_stage
from tests.pipelines import training_jobs as jobs


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What `_environment` sets is gone after the test, and none of it is there before."""
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith(("WANDB", "MLFLOW", "TRACKIO", "TENSORBOARD"))]:
        monkeypatch.delenv(name)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]


@pytest.fixture
def make(tmp_path: Path, tiny_model: Path):
    data = jobs.dataset(tmp_path / "dataset")

    def make(name: str, *report_to: str, **overrides: object) -> Job:
        section = jobs.config(**{"sft__max_steps": 6, "sft__save_steps": 2, **overrides}).sft
        job = jobs.job("sft", tmp_path / name, section, tiny_model, {"dataset": data}, micro_batch=8)
        return replace(job, runtime=job.runtime.model_copy(update={"report_to": report_to}))

    return make


def points(folder: Path, tag: str) -> list[tuple[int, float]]:
    """Every point of a tag in every event file, doubles included: nothing is purged by the reader."""
    return [(step, value) for found, step, value in drawn(folder) if found == tag]


def drawn(folder: Path) -> list[tuple[str, int, float]]:
    """Every point of every curve, as `points`."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    events = [event for file in sorted(folder.iterdir()) for event in EventFileLoader(str(file)).Load()]
    return [
        (value.tag, event.step, value.tensor.float_val[0]) for event in events for value in event.summary.value if value.tensor.float_val
    ]


def through_a_death(job: Job, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps 1 to 5 are logged; the checkpoint that the second attempt begins with is of step 4."""
    jobs.die(sft.run, job, 6, folder, monkeypatch)
    sft.run(job)


def test_tensorboard_gets_each_step_once_through_a_death(make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    straight, job = make("straight"), make("interrupted", "tensorboard")
    sft.run(straight)
    through_a_death(job, tmp_path / "faults", monkeypatch)
    assert jobs.files(job.payload) == jobs.files(straight.payload), "a tracker changes no bit"
    logged = points(job.aside / "tensorboard", "train/loss")
    assert [step for step, _ in logged] == [1, 2, 3, 4, 5, 6]
    assert [loss for _, loss in logged] == pytest.approx(jobs.losses(straight), rel=1e-6)
    assert not [name for name in jobs.files(job.payload) if "tfevents" in name]


def killed(tracker: str, job: Job, *moments: str) -> list[int]:
    """Attempts in processes of their own, each ended by SIGKILL at its moment, and one that comes to its end; how each ended."""
    jobs.request(job)
    command = [sys.executable, "-m", "tests.test_trackers", tracker, job.stage, str(job.work), *moments]
    ended = subprocess.run(command, env=jobs.environment(), cwd=REPOSITORY, capture_output=True, text=True, timeout=900)
    statuses = json.loads(ended.stdout)
    assert statuses == [-signal.SIGKILL] * len(moments) + [0], (job.work / "log.txt").read_text()[-3000:]
    return statuses


def arm(tracker: str, moment: str) -> None:
    """SIGKILL of this process: `half-3` once the file holds the first number of step 3, `log-3` once the tracker was given step 3 and
    nobody knows yet, `eval-6` the same of the held-out loss, which comes at the end, `save-4` once the checkpoint is whole."""
    from transformers import Trainer
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    where, at = moment.split("-")

    def die_after(holder: Any, name: str, due: Callable[..., bool]) -> None:
        once = getattr(holder, name)

        def deadly(self: Any, *arguments: Any, **options: Any) -> Any:
            found = once(self, *arguments, **options)
            if due(self, *arguments, **options):
                if where == "half":
                    self.flush()
                os.kill(os.getpid(), signal.SIGKILL)
            return found

        setattr(holder, name, deadly)

    def logged(self: Any, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> bool:
        return "eval_loss" in logs if where == "eval" else "loss" in logs and state.global_step == int(at)

    if where == "half":
        from torch.utils.tensorboard import SummaryWriter

        die_after(SummaryWriter, "add_scalar", lambda self, tag, value, step, *_, **__: step == int(at))
    elif where == "save":
        die_after(Trainer, "_save_checkpoint", lambda self, *_, **__: self.state.global_step == int(at))
    else:
        die_after(INTEGRATION_TO_CALLBACK[tracker], "on_log", logged)


def attempts(tracker: str, stage: str, work: str, *moments: str) -> None:
    """As `killed_stage`: each attempt is forked with its imports done."""
    import peft  # noqa: F401
    import trl

    trl.SFTTrainer  # noqa: B018  # lazily imported by name. Not GRPOTrainer: it imports trackio, which looks for its folder as it is
    statuses = []
    for moment in [*moments, ""]:
        for left in (Path(work) / "payload").iterdir():
            left.unlink()
        if not (pid := os.fork()):
            if moment:
                arm(tracker, moment)
            killed_stage.run(stage, work, f"{work}/log.txt", None)
        statuses.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    print(json.dumps(statuses))


@pytest.fixture
def make_grpo(tmp_path: Path, tiny_model: Path):
    prompts, adapter = jobs.dataset(tmp_path / "prompts", rows=4, heldout=0), jobs.trained_adapter(tmp_path / "adapter", tiny_model)
    rewards = ["format_exact", "format_approximate"]
    settings = {"max_steps": 6, "save_steps": 2, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    asked = {**settings, "max_completion_length": 16, "rewards": rewards, "allow_format_only": True}

    def make(name: str, *report_to: str) -> Job:
        section = jobs.config(**{f"grpo__{key}": value for key, value in asked.items()}).grpo
        externals = {"rewards": {"active": rewards, "judge": None}}
        job = jobs.job("grpo", tmp_path / name, section, tiny_model, {"dataset": prompts, "sft": adapter}, externals, micro_batch=4)
        return replace(job, runtime=job.runtime.model_copy(update={"report_to": report_to}))

    return make


def assert_tensorboard_shows_the_log(job: Job) -> None:
    """Each number of each step that metrics.jsonl has, once: in the files themselves, and as TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    rows = training.read_metrics(job.aside / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    expected = {(f"train/{name}", row["step"]) for row in rows for name in row if name != "step"}
    found = [point for point in drawn(job.aside / "tensorboard") if point[0].startswith("train/")]
    assert Counter((tag, step) for tag, step, _ in found) == Counter(expected)
    losses = [(step, value) for tag, step, value in found if tag == "train/loss"]
    assert [value for _, value in sorted(losses)] == pytest.approx([row["loss"] for row in rows], rel=1e-6)
    shown = EventAccumulator(str(job.aside / "tensorboard")).Reload()
    assert sorted(point.step for point in shown.Scalars("train/loss")) == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_tensorboard_gets_each_step_of_sft_once_whenever_it_is_killed(make) -> None:
    """`save-6`: the next attempt trains nothing, and its held-out loss is of step 6 still."""
    job = make("killed", "tensorboard")
    killed("tensorboard", job, "half-1", "log-3", "save-4", "save-6", "eval-6")
    assert_tensorboard_shows_the_log(job)
    evaluated = Counter((tag, step) for tag, step, _ in drawn(job.aside / "tensorboard") if tag.startswith("eval/"))
    assert evaluated["eval/loss", 6] == 1 and set(evaluated.values()) == {1} and {step for _, step in evaluated} == {6}


@pytest.mark.slow
def test_tensorboard_gets_each_step_of_grpo_once_whenever_it_is_killed(make_grpo) -> None:
    job = make_grpo("killed", "tensorboard")
    killed("tensorboard", job, "half-1", "log-3", "save-4")
    assert_tensorboard_shows_the_log(job)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_trackio_gets_no_step_twice_whenever_it_is_killed(stage: str, make, make_grpo) -> None:
    """It writes behind: a death may cost a step, `log-3` that very one."""
    if trackers.util.find_spec("trackio") is None:
        pytest.skip("trackio is not installed: it holds pillow below the tested version")
    job = (make if stage == "sft" else make_grpo)("killed", "trackio")
    killed("trackio", job, "log-3", "save-4")
    rows = sqlite3.connect(job.aside / "trackio" / "gwen25.db").execute("select run_name, metrics from metrics order by id").fetchall()
    logged = [json.loads(metrics) for _, metrics in rows]
    steps = [row["train/global_step"] for row in logged if "train/loss" in row]
    print(steps)
    assert steps == sorted(set(steps)) and {5, 6} <= set(steps) <= set(range(1, 7))
    assert {name for name, _ in rows} == {f"{stage}-k"}


@pytest.mark.parametrize("name", ["dataset", "sft", "grpo"])
def test_a_tracker_is_no_part_of_the_key(name: str) -> None:
    def key(**overrides: Any) -> str:
        return plan_stage(name, jobs.config(**overrides), {}, lambda _: None).key

    assert key(runtime__report_to=["tensorboard", "mlflow"]) == key()


def test_a_tracker_that_is_not_installed_is_refused_before_anything_is_read(make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers.util, "find_spec", lambda name: None)
    job = replace(make("job", "mlflow"), inputs={"dataset": Input("dataset", "k", "d", Path("/nowhere"), {}, {})})
    with pytest.raises(BadInput, match=r"runtime.report_to: mlflow is not installed here: pip install mlflow"):
        sft.run(job)


def test_an_unknown_tracker_is_bad_input() -> None:
    with pytest.raises(BadInput, match="report_to"):
        jobs.config(runtime__report_to=["weights"])


class Tracker:
    """A tracker's callback as Transformers has it; `broken` from its second log on where asked."""

    broken = False

    def __init__(self) -> None:
        self.had: list[tuple[int, dict[str, Any]]] = []
        self.runs: list[tuple[str, str]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.runs.append((args.project, args.run_name))

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if self.broken and self.had:
            raise ConnectionError("no route to host")
        self.had.append((state.global_step, logs))

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        pass


def told(job: Job, tracker: type, steps: list[int], logs: dict[str, Any] | None = None, name: str = "wandb") -> Any:
    """One attempt: the tracker's callback after it was told of these steps."""
    from transformers import TrainerControl, TrainerState

    callback, args = trackers.once(job, name, tracker), SimpleNamespace(to_json_string=lambda: "{}")
    callback.on_train_begin(args, TrainerState(), TrainerControl())
    for step in steps:
        state = TrainerState(global_step=step, is_world_process_zero=True)
        callback.on_log(args, state, TrainerControl(), logs=logs or {"loss": 1.0 / step})
    callback.on_train_end(args, TrainerState(), TrainerControl())
    return callback


def test_the_next_attempt_goes_on_behind_the_last_step_that_was_given(make) -> None:
    job = make("job", "wandb")
    assert [step for step, _ in told(job, Tracker, [1, 2, 3]).had] == [1, 2, 3]
    again = told(job, Tracker, [2, 3, 4, 5])
    assert [step for step, _ in again.had] == [4, 5] and again.runs == [("gwen25", "sft-k")]
    assert told(job, Tracker, [5], {"train_runtime": 3.0}).had == []  # of the resumed leg only
    assert told(job, Tracker, [5], {"eval_loss": 2.0}).had == [(5, {"eval_loss": 2.0})]
    (job.aside / trackers.GIVEN).write_text('{"wandb lo')  # cut off by a loss of power
    assert [step for step, _ in told(job, Tracker, [5, 6]).had] == [5, 6]


def test_a_step_is_noted_before_it_is_given_so_that_a_death_between_doubles_nothing(make) -> None:
    """Not so for TensorBoard, whose files say what they hold."""

    class Deadly(Tracker):
        def on_log(self, *arguments: Any, **options: Any) -> None:
            super().on_log(*arguments, **options)
            raise KeyboardInterrupt  # as little is done after it as after SIGKILL

    job = make("job", "wandb")
    with pytest.raises(KeyboardInterrupt):
        told(job, Deadly, [1])
    assert [step for step, _ in told(job, Tracker, [1, 2]).had] == [2]


def test_what_a_tracker_that_failed_was_not_given_is_given_by_the_next_attempt(make) -> None:
    job = make("job", "wandb")
    told(job, type("Broken", (Tracker,), {"broken": True}), [1, 2, 3])
    assert [step for step, _ in told(job, Tracker, [1, 2, 3]).had] == [3], "2 may have arrived, whatever the client raised"


def test_the_held_out_loss_of_a_run_that_was_trained_already_is_of_its_last_step(make) -> None:
    job = make("job", "wandb")
    training.append(job.aside / "metrics.jsonl", {"step": 6, "loss": 1.0})
    assert told(job, Tracker, [0], {"eval_loss": 2.0}).had == [(6, {"eval_loss": 2.0})]
    assert told(job, Tracker, [0, 6], {"eval_loss": 2.0}).had == []


def test_runs_that_share_a_folder_of_tensorboard_hide_nothing_of_each_other(make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.integrations.integration_utils import TensorBoardCallback

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "shared"))
    for name in ("first", "second", "first"):
        assert not told(make(name, "tensorboard"), TensorBoardCallback, [1, 2], name="tensorboard").failed
    assert sorted(step for step, _ in points(tmp_path / "shared", "train/loss")) == [1, 1, 2, 2]


@pytest.mark.parametrize("folder", ["s3://bucket/logs", "gs://bucket/logs"])
def test_a_folder_far_away_stays_an_address(monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", folder)
    assert trackers._folder() == folder


def test_records_are_those_of_tensorboards_own_writer_and_a_torn_one_is_none(tmp_path: Path) -> None:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    events = [Event(step=step, wall_time=1.0 + step).SerializeToString() for step in range(3)]
    with (tmp_path / "records").open("wb") as file:
        writer = RecordWriter(file)
        for event in events:
            writer.write(event)
    content = (tmp_path / "records").read_bytes()
    assert list(trackers._records(content)) == events
    for cut in range(len(content)):
        whole = list(trackers._records(content[:cut]))
        assert whole == events[: len(whole)] and len(whole) == sum(
            cut >= sum(16 + len(event) for event in events[: count + 1]) for count in range(3)
        )


def test_a_tracker_that_fails_costs_a_warning_and_no_training(make, capsys: pytest.CaptureFixture[str]) -> None:
    job = make("job", "wandb")
    broken = told(job, type("Broken", (Tracker,), {"broken": True}), [1, 2, 3])
    assert [step for step, _ in broken.had] == [1]
    out = capsys.readouterr().out
    assert out.count("warning: wandb failed and is given no more (ConnectionError: no route to host)") == 1


def test_they_write_beside_the_payload_and_secrets_are_left_to_the_environment(make, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make("job", "tensorboard", "wandb")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracker:5000")
    trackers._environment(job)
    inside = [os.environ[name] for name in ("TENSORBOARD_LOGGING_DIR", "TRACKIO_DIR", "WANDB_DIR")]
    assert all(Path(folder).is_relative_to(job.aside) for folder in inside)
    assert os.environ["MLFLOW_TRACKING_URI"] == "http://tracker:5000"
    assert os.environ["WANDB_MODE"] == "offline" and "WANDB_API_KEY" not in os.environ
    assert os.environ["WANDB_RESUME"] == "allow"
    assert (os.environ["WANDB_LOG_MODEL"], os.environ["HF_MLFLOW_LOG_ARTIFACTS"]) == ("false", "false")


def test_a_id_is_a_work_folders_own(make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every attempt goes on in it; the same key made again, in a new folder, is another one."""

    def run(job: Job) -> str:
        monkeypatch.delenv("WANDB_RUN_ID", raising=False)
        trackers._environment(job)
        return os.environ["WANDB_RUN_ID"]

    first, again = make("first", "wandb"), make("again", "wandb")
    drawn = run(first)
    assert drawn.startswith("sft-k-") and drawn == run(first) != run(again)


def test_with_a_key_weights_and_biases_is_online_and_the_key_is_nowhere(
    make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not in the log either, where a client's error holds it, cut off in its middle or behind it."""
    key, password = "0123456789abcdef" * 2 + "ABCDEF", "hunter22"
    monkeypatch.setenv("WANDB_API_KEY", key)
    job = make("job", "wandb")
    jobs.request(job)
    trackers._environment(job)
    assert "WANDB_MODE" not in os.environ
    for before in (0, 185, 195):
        message = f"{'x' * before} {key} was refused by https://me:{password}@tracker:80"

        class Broken(Tracker):
            def on_log(self, *_: Any, text: str = message, **__: Any) -> None:
                raise PermissionError(text)

        told(job, Broken, [before + 1])
    log = capsys.readouterr().out
    kept = (job.work / "request.json").read_text() + (job.aside / trackers.GIVEN).read_text()
    assert log.count("wandb failed") == 3 and "[WANDB_API_KEY] was refused by https://[userinfo]@tracker:80" in log
    assert not [secret for secret in (key[:8], password) if secret in log + kept]


def broken(event: str) -> type[Tracker]:
    def fails(self: Any, *_: Any, **__: Any) -> None:
        raise ConnectionError("no route to host")

    return type("Broken", (Tracker,), {event: fails})


@pytest.mark.parametrize("event", ["__init__", "on_train_begin", "on_log", "on_train_end"])
def test_whatever_fails_costs_a_warning(make, capsys: pytest.CaptureFixture[str], event: str) -> None:
    job = make("job", "wandb")
    assert trackers.once(job, "wandb", broken(event)) is None if event == "__init__" else told(job, broken(event), [1]).failed
    assert capsys.readouterr().out.count("warning: wandb failed and is given no more (ConnectionError: no route to host)") == 1


def test_a_tracker_that_cannot_be_made_is_no_callback(make, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.integrations import integration_utils

    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "wandb", broken("__init__"))
    monkeypatch.setattr(trackers, "require", lambda job: None)
    assert [type(made).__mro__[1].__name__ for made in trackers.callbacks(make("job", "wandb", "tensorboard"))] == ["TensorBoardCallback"]


@pytest.mark.parametrize("event", ["on_save", "on_predict"])
def test_no_checkpoint_is_handed_to_a_tracker(make, event: str) -> None:
    callback = trackers.once(make("job", "wandb"), "wandb", broken(event))
    getattr(callback, event)(None, None, None, metrics={})
    assert not callback.failed


class Mlflow:
    """As much of the module as Transformers' callback calls: which run each metric went to, and what was begun and ended."""

    __version__ = "3.0.0"

    def __init__(self) -> None:
        self.utils = SimpleNamespace(validation=SimpleNamespace(MAX_PARAM_VAL_LENGTH=500, MAX_PARAMS_TAGS_PER_BATCH=100))
        self.running: list[str] = []
        self.runs: list[str] = []
        self.had: list[tuple[str, int, dict[str, float]]] = []

    def active_run(self) -> Any:
        return SimpleNamespace(info=SimpleNamespace(run_id=self.running[-1])) if self.running else None

    def start_run(self, run_id: str | None = None, run_name: str | None = None, nested: bool = False) -> None:
        assert not self.running, "MLflow refuses a second run beside an active one"
        run_id = run_id or os.environ.get("MLFLOW_RUN_ID") or f"run-{len(self.runs) + 1}"
        self.runs += [run_id] if run_id not in self.runs else []
        self.running.append(run_id)

    def end_run(self) -> None:
        self.running.pop()

    def log_metrics(self, metrics: dict[str, float], step: int, synchronous: bool) -> None:
        if not self.running:
            self.start_run()  # as MLflow does where no run is active
        self.had.append((self.running[-1], step, metrics))

    def log_params(self, *_: Any, **__: Any) -> None: ...
    def set_experiment(self, *_: Any) -> None: ...
    def is_tracking_uri_set(self) -> bool:
        return True

    def get_tracking_uri(self) -> str:
        return "memory"


def test_what_is_measured_after_training_is_in_the_run_that_mlflow_began(make, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.integrations import integration_utils

    mlflow = Mlflow()
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    monkeypatch.setattr(integration_utils, "is_mlflow_available", lambda: True)
    monkeypatch.setattr(trackers, "require", lambda job: None)
    result = sft.run(make("job", "mlflow", sft__max_steps=2))
    assert mlflow.runs == ["run-1"] and not mlflow.running
    assert [step for _, step, metrics in mlflow.had if "loss" in metrics] == [1, 2]
    ((run, step, metrics),) = [had for had in mlflow.had if "eval_loss" in had[2]]
    assert (run, step, metrics["eval_loss"]) == ("run-1", 2, result.metrics["heldout_loss"])


def test_mlflow_goes_on_in_the_run_that_it_began(make) -> None:
    job = make("job", "mlflow")
    trackers._note(job, mlflow_run="abc123")
    trackers._environment(job)
    assert os.environ["MLFLOW_RUN_ID"] == "abc123"


if __name__ == "__main__":
    attempts(*sys.argv[1:])
