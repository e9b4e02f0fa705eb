"""SIGTERM at any moment: what was trained is saved, the process ends soon, and the next run ends as if nothing had been.

.venv/bin/pytest -m "slow or not slow" tests/pipelines/test_preemption.py
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from gwen25 import child, stage, training
from gwen25.artifacts import Artifact, Store
from gwen25.config import RuntimeConfig
from gwen25.errors import StageFailed
from gwen25.job import Cancelled, Input, Job, terminating
from gwen25.out_of_memory import left_by
from gwen25.pipelines import grpo, sft
from gwen25.resolve import Resolved
from gwen25.stage import Plan
from tests.pipelines import training_jobs as jobs

SFT = {"sft__max_steps": 6, "sft__save_steps": 100, "sft__lora_dropout": 0.05}
REWARDS = {"rewards": {"active": ["format_exact", "format_approximate", "execution"], "judge": None}}
GRPO: dict[str, object] = {
    "grpo__max_steps": 4,
    "grpo__save_steps": 100,
    "grpo__max_completion_length": 200,  # a second of sampling
    "grpo__rewards": ["format_exact", "format_approximate", "execution"],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Input:
    return jobs.dataset(tmp_path_factory.mktemp("dataset") / "a")


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory, data: Input) -> tuple[Path, Input]:
    return jobs.taught_a_little(tmp_path_factory.mktemp("taught"), data)


Make = Callable[..., Job]


@pytest.fixture
def make(tmp_path: Path, tiny_model: Path, data: Input, request: pytest.FixtureRequest) -> Make:
    def make(stage: str, name: str = "work", micro_batch: int = 2) -> Job:
        section = getattr(jobs.config(**(SFT if stage == "sft" else GRPO)), stage)
        if stage == "sft":
            return jobs.job("sft", tmp_path / name, section, tiny_model, {"dataset": data}, micro_batch=micro_batch)
        base, start = request.getfixturevalue("taught")  # seconds, which SFT's tests need not wait
        return jobs.job("grpo", tmp_path / name, section, base, {"dataset": data, "sft": start}, REWARDS, micro_batch)

    return make


@pytest.fixture(autouse=True)
def _base_by_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """These jobs name their base by a digest that is not its own, which publishing would take for a change."""
    monkeypatch.setattr(stage, "changed_since", lambda _: None)


@pytest.fixture(autouse=True)
def _not_terminating() -> Iterator[None]:
    yield
    terminating.clear()  # the flag is the process's: the next file's trainings would be given up


def test_a_step_under_way_is_given_up_and_taken_again(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the second of four micro-batches, which have drawn dropout already."""
    straight, job, seen = make("sft", "straight"), make("sft"), [0]
    given_up = training.Watch.on_substep_end

    def substep(self: training.Watch, args: object, state: object, control: object, **rest: object) -> None:
        seen[0] += 1
        if seen[0] == 6:  # step 1 has three substeps, the smaller step 2 has one
            terminating.set()
        given_up(self, args, state, control, **rest)

    result = sft.run(straight)
    with monkeypatch.context() as patch, pytest.raises(Cancelled):
        patch.setattr(training.Watch, "on_substep_end", substep)
        sft.run(job)
    assert [folder.name for folder in training.checkpoints(job).glob("checkpoint-*")] == ["checkpoint-2"]
    terminating.clear()
    assert sft.run(job) == result
    assert jobs.files(job.payload) == jobs.files(straight.payload)
    logs = [training.read_metrics(one.aside / "metrics.jsonl") for one in (job, straight)]
    assert logs[0] == logs[1] and [row["step"] for row in logs[0]] == list(range(1, 7))


@pytest.mark.parametrize(("given_up_in", "saved"), [(4, ["checkpoint-3"]), (5, [])])  # step 4 follows a log, step 5 does not
def test_a_mean_under_way_is_not_lost(make: Make, monkeypatch: pytest.MonkeyPatch, given_up_in: int, saved: list[str]) -> None:
    """A log is the mean of three steps: what is saved in their middle could not be taken up, so the checkpoint before it stands."""
    straight, job = (
        replace(one, config=one.config.model_copy(update={"logging_steps": 3})) for one in (make("sft", "straight"), make("sft"))
    )
    given_up = training.Watch.on_substep_end

    def substep(self: training.Watch, args: object, state: SimpleNamespace, control: object, **rest: object) -> None:
        if state.global_step + 1 == given_up_in:
            terminating.set()
        given_up(self, args, state, control, **rest)

    result = sft.run(straight)
    with monkeypatch.context() as patch, pytest.raises(Cancelled):
        patch.setattr(training.Watch, "on_substep_end", substep)
        sft.run(job)
    assert [folder.name for folder in training.checkpoints(job).glob("checkpoint-*")] == saved
    terminating.clear()
    assert sft.run(job) == result
    assert jobs.files(job.payload) == jobs.files(straight.payload)
    logs = [training.read_metrics(one.aside / "metrics.jsonl") for one in (job, straight)]
    assert logs[0] == logs[1] and [row["step"] for row in logs[0]] == [3, 6] and logs[0][1]["num_tokens"] > logs[0][0]["num_tokens"]


def test_before_the_first_step_there_is_nothing_to_save(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make("sft")
    monkeypatch.setattr(training.Watch, "on_step_begin", lambda self, *_, **__: terminating.set())
    with pytest.raises(Cancelled):
        sft.run(job)
    assert not list(training.checkpoints(job).glob("checkpoint-*"))


def _ended(process: subprocess.Popen[str], job: Job, within: float) -> str:
    started = time.monotonic()
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 143, output
    assert time.monotonic() - started < within, output
    assert json.loads((job.work / "failure.json").read_text())["cause"] == "cancelled"
    return output


@pytest.mark.slow  # five processes
def test_sampling_is_given_up_within_seconds(make: Make) -> None:
    """A real process of GRPO, SIGTERM twice while it samples for its third step; then again, in the next attempt."""
    straight, job = make("grpo", "straight", 4), make("grpo", micro_batch=4)
    status, output = jobs.run_child(straight)
    assert status == 0, output
    jobs.losses_by_rewards(straight)
    for step, saved in ((2, 2), (3, 3)):
        process = jobs.child(job)
        assert process.stdout is not None
        for line in process.stdout:
            if f'"step": {step},' in line:
                break
        end = time.monotonic() + 60
        while left_by(job.work).phase != "sampling" and time.monotonic() < end:
            time.sleep(0.005)
        assert left_by(job.work).phase == "sampling"
        process.terminate()
        time.sleep(0.05)
        process.terminate()  # some schedulers say it twice
        _ended(process, job, within=15)
        assert [row["step"] for row in training.read_metrics(job.aside / "metrics.jsonl")][-1] == saved
        assert (training.checkpoints(job) / f"checkpoint-{saved}").exists()
    status, output = jobs.run_child(job)
    assert status == 0 and "resuming after step 3 of 4" in output, output
    assert jobs.files(job.payload) == jobs.files(straight.payload)
    rows = [[{**row, "step_time": None} for row in training.read_metrics(one.aside / "metrics.jsonl")] for one in (job, straight)]
    assert rows[0] == rows[1]
    for name in ("rewards.jsonl", "completions.jsonl"):
        assert training.read_metrics(job.aside / name) == training.read_metrics(straight.aside / name)


def _plan(job: Job, processes: int, key: str) -> Plan:
    """The job as `stage.launch` takes it, under torchrun."""
    runtime = job.runtime.model_dump() | {"grace_seconds": 20.0}
    if processes > 1:
        runtime["launcher"] = {job.stage: (sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}")}
    inputs = {role: Artifact(stage=given.stage, key=given.key, digest=given.digest, path=given.path) for role, given in job.inputs.items()}
    resolved = Resolved(dict(job.externals), dict(job.locations))
    section = job.config.model_dump(mode="json")
    return Plan(stage.STAGES[job.stage], key * 32, section, resolved, inputs, RuntimeConfig.model_validate(runtime))


def _workers(work: Path) -> list[str]:
    """Processes of that work folder, wherever their session."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(work).encode() in (text := entry.read_bytes()):
                found.append(text.replace(b"\0", b" ").decode())
        except OSError:  # gone meanwhile
            continue
    return found


@pytest.mark.slow  # eight processes of two launchers, and a third that is refused
def test_two_processes_stop_together_go_on_together_and_nothing_else_goes_on(make: Make, tmp_path: Path) -> None:
    """torchrun gives its workers a session of their own: a signal to the launcher's group would not reach them."""
    store, lines = Store(tmp_path / "store"), list[str]()
    store.root.mkdir()
    straight = stage.launch(_plan(make("sft", "straight"), 2, "a"), store, lines.append)
    plan, job, failures = _plan(make("sft"), 2, "b"), store.work("sft", "b" * 32), list[StageFailed]()
    reached = threading.Event()

    def progress(row: dict[str, object]) -> None:
        if row["step"] == 2:
            reached.set()

    def run() -> None:
        try:
            stage.launch(plan, store, lines.append, progress)
        except StageFailed as failure:
            failures.append(failure)

    thread = threading.Thread(target=run)
    thread.start()
    assert reached.wait(120), lines
    assert len(_workers(job)) >= 3  # the supervisor's command, and two workers
    child.stop_all()
    thread.join(60)
    child.allow()
    assert failures and failures[0].cause == "cancelled" and not _workers(job)
    [checkpoint] = (job / "aside" / "checkpoints").glob("checkpoint-*")
    assert sorted(file.name for file in checkpoint.glob("rng_state*")) == ["rng_state_0.pth", "rng_state_1.pth"]

    with pytest.raises(
        StageFailed, match=r"was made by 2 processes and would go on with 1, .* set runtime.launcher.sft to 2 again"
    ) as refused:
        stage.launch(_plan(make("sft"), 1, "b"), store, lines.append)
    assert (refused.value.cause, refused.value.retry) == ("bad_input", False)

    made = stage.launch(plan, store, lines.append)
    assert any("resuming after step" in line for line in lines)
    assert made.digest == straight.digest
    assert training.read_metrics(made.path / "aside" / "metrics.jsonl") == training.read_metrics(straight.path / "aside" / "metrics.jsonl")


def test_grpo_has_the_same_ears(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM's flag while the first tokens of step 1 are sampled: nothing is rewarded, nothing is saved."""
    job = make("grpo", micro_batch=8)
    monkeypatch.setattr(training.Watch, "on_step_begin", lambda self, *_, **__: terminating.set())
    monkeypatch.setattr("gwen25.rewards.panel.Panel.functions", lambda self: [_never])
    monkeypatch.setattr("gwen25.rewards.panel.Panel.weights", lambda self: [1.0])
    with pytest.raises(Cancelled):
        grpo.run(job)
    assert not list(training.checkpoints(job).glob("checkpoint-*"))


def _never(**_: object) -> list[float | None]:
    raise AssertionError("sampling was not given up")
