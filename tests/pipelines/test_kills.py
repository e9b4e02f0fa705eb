"""Twenty deaths of SFT and twenty of GRPO, by SIGKILL, at moments that a seed draws; each run ends as if there had been none.

    .venv/bin/pytest -m slow tests/pipelines/test_kills.py          5 minutes; half an hour on shared cores

Four runs of each stage die five times: as they begin (loading the model, a checkpoint), in a step, between two
files of a checkpoint or within one, while an older checkpoint is deleted, or after the last step. An epoch of SFT and a pass of
GRPO over its prompts have four steps, so two thirds of a run lie beyond the first.

Two more deaths are of GRPO's own: in a round that draws groups again (`redraw_zero_spread`), and between the two steps that share one
sampling (`num_iterations`).

Held against the run without a death: the adapter's bytes; every logged number of every step, which are those of the rows that
the step saw (losses, tokens, learning rate, rewards), each step once; optimizer, schedule and random states of the last
checkpoint; the result. Peak memory has a test of its own, with an optimizer that would show.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from gwen25 import modeling, training
from gwen25.data import read_jsonl
from gwen25.job import Input, Job
from tests.conftest import REPOSITORY
from tests.pipelines import training_jobs as jobs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]  # half a minute a run, ten where cores are shared

STEPS, SAVED_EVERY = 12, 2
# 16 rows in batches of 4, 8 prompts two a step: four steps an epoch or pass
SETTINGS: dict[str, dict[str, object]] = {
    "sft": {
        "sft__num_train_epochs": 3,
        "sft__per_device_train_batch_size": 2,
        "sft__gradient_accumulation_steps": 2,
        "sft__save_steps": SAVED_EVERY,
        "sft__lora_dropout": 0.05,  # so that every step draws
        "sft__optim": "adamw_8bit",
        "sft__lora_r": 64,  # matrices of 4096 numbers: their state is of 8 bits
    },
    "grpo": {
        "grpo__max_steps": STEPS,
        "grpo__save_steps": SAVED_EVERY,
        "grpo__per_device_train_batch_size": 4,
        "grpo__gradient_accumulation_steps": 2,
        "grpo__max_completion_length": 40,
        "grpo__rewards": ["format_exact", "format_approximate", "execution"],
    },
}
REWARDS = {"rewards": {"active": ["format_exact", "format_approximate", "execution"], "judge": None}}
WALL = {"step_time"}  # seconds: no two runs share them
CHANGES = 18  # of one checkpoint's writing: 13 were counted, and 11 files of an older one that go


class Death(NamedTuple):
    """One death: the kind of moment, the checkpoint in whose window it lies, and a fraction or the number of a file."""

    kind: str  # start, step, file, half, end
    window: int
    at: float


def deaths(seed: int) -> list[Death]:
    """Five deaths in the order of the run: windows of two steps, and one after the last."""
    draw = random.Random(seed)
    windows = sorted(draw.sample(range(1, STEPS // SAVED_EVERY + 2), 5))
    return [_death(draw, window) for window in windows]


def _death(draw: random.Random, window: int) -> Death:
    if window > STEPS // SAVED_EVERY:
        return Death("end", STEPS, draw.random())
    kind = draw.choice(["start", "step", "file", "half"])
    return Death(kind, window * SAVED_EVERY, draw.randrange(CHANGES) if kind in ("file", "half") else draw.random())


class Doomed:
    """Processes that are killed, from `killed_stage`: forked with their imports done."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.pipelines.killed_stage"],
            env=jobs.environment(),
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, job: Job, log: Path, death: Death) -> int:
        """The process's id."""
        exact = [death.window, int(death.at), int(death.kind == "half")] if death.kind in ("file", "half") else None
        assert self._server.stdin is not None
        asked = {"stage": job.stage, "work": str(job.work), "log": str(log), "death": exact}
        self._server.stdin.write(json.dumps(asked) + "\n")
        self._server.stdin.flush()
        return int(self._told()["pid"])

    def status(self) -> int:
        """How the process ended, once it has."""
        return int(self._told()["status"])

    def _told(self) -> dict[str, int]:
        assert self._server.stdout is not None
        told: dict[str, int] = json.loads(self._server.stdout.readline())
        return told

    def stop(self) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(60)


@dataclass
class Run:
    """A work folder and what ran in it."""

    job: Job
    killed: list[str]

    def prepare(self) -> None:
        """As `stage.launch` does before each attempt."""
        for left in self.job.payload.iterdir():
            left.unlink()
        jobs.request(self.job)

    def die(self, doomed: Doomed, death: Death) -> None:
        """One attempt, ended by that death. It must be one: an attempt that comes to its end was not killed."""
        self.prepare()
        log = self.job.work / "log.txt"
        log.write_text("")
        process = doomed.start(self.job, log, death)
        if death.kind == "start":
            time.sleep(death.at)  # a second: on an idle machine loading takes half of it, and 3 s were a whole run
        elif death.kind == "step":
            self._wait_for_step(log, death.window - 1)
            time.sleep(death.at * 0.05)  # less than a step, which takes 0.1 s on an idle machine: the next death's window must be ahead
        elif death.kind == "end":
            self._wait_for_step(log, STEPS)
            time.sleep(death.at * 0.2)
        if death.kind not in ("file", "half"):
            os.kill(process, signal.SIGKILL)
        assert doomed.status() == -signal.SIGKILL, f"{death} did not happen: {log.read_text()[-3000:]}"
        assert not (self.job.work / "result.json").exists()
        self.killed.append(f"{death.kind} in {self.where()}")

    def _wait_for_step(self, log: Path, step: int) -> None:
        """Until this attempt has told of that step, or a later one."""
        end = time.monotonic() + 300
        while time.monotonic() < end:
            told = [json.loads(line.removeprefix("@progress ")) for line in log.read_text().splitlines(True) if _is_progress(line)]
            if told and told[-1]["step"] >= step:
                return
            time.sleep(0.01)
        raise AssertionError(f"step {step} was never taken: {log.read_text()[-3000:]}")

    def where(self) -> str:
        steps = [row["step"] for row in training.read_metrics(self.job.aside / "metrics.jsonl")]
        found = {folder.name: training._flaw(folder, 1) for folder in training.checkpoints(self.job).glob("checkpoint-*")}
        whole, flawed = ([name for name in sorted(found) if (found[name] is None) is good] for good in (True, False))
        return f"step {max(steps, default=0)}, whole {whole}, not {flawed}"

    def finish(self) -> str:
        """A process of its own, from its interpreter's start."""
        self.prepare()
        status, output = jobs.run_child(self.job)
        assert status == 0, output
        return output


def _is_progress(line: str) -> bool:
    return line.startswith("@progress ") and line.endswith("\n")


@pytest.fixture(scope="module")
def doomed() -> Iterator[Doomed]:
    made = Doomed()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Input:
    return jobs.dataset(tmp_path_factory.mktemp("dataset") / "a", rows=16, heldout=2)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Input:
    return jobs.dataset(tmp_path_factory.mktemp("prompts") / "a", rows=8, heldout=0)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, data: Input) -> Input:
    """A trained adapter of the untrained model: some completions keep the format, and about half of the groups are all alike."""
    from gwen25.pipelines import sft

    section = jobs.config(sft__max_steps=24, sft__save_steps=100, sft__lora_r=32, sft__lora_alpha=64, sft__learning_rate=0.01).sft
    job = jobs.job("sft", tmp_path_factory.mktemp("sft"), section, tiny_model, {"dataset": data}, micro_batch=8)
    return jobs.artifact(job.work, "sft", sft.run(job).facts)


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory, data: Input) -> tuple[Path, Input]:
    """A base and an adapter whose every group has something to compare; `adapter` leaves some groups to be drawn again."""
    return jobs.taught_a_little(tmp_path_factory.mktemp("taught"), data)


Begin = Callable[..., Run]


@pytest.fixture(scope="module")
def begin(tiny_model: Path, data: Input, prompts: Input, adapter: Input, taught: tuple[Path, Input]) -> Begin:
    def begin(stage: str, work: Path, **options: object) -> Run:
        section = getattr(jobs.config(**SETTINGS[stage], **options), stage)
        base, start = taught if stage == "grpo" and "grpo__redraw_zero_spread" not in options else (tiny_model, adapter)
        inputs = {"dataset": data} if stage == "sft" else {"dataset": prompts, "sft": start}
        micro = section.per_device_train_batch_size
        return Run(jobs.job(stage, work, section, base, inputs, {} if stage == "sft" else REWARDS, micro), [])

    return begin


@pytest.fixture(scope="module")
def straight(begin: Begin, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Run]:
    """The run of a stage that nothing disturbs, made once."""
    made: dict[str, Run] = {}

    def straight(stage: str) -> Run:
        if stage not in made:
            made[stage] = begin(stage, tmp_path_factory.mktemp(f"straight-{stage}"))
            made[stage].finish()
            if stage == "grpo":
                jobs.losses_by_rewards(made[stage].job)
        return made[stage]

    return straight


def logged(job: Job) -> list[dict[str, Any]]:
    rows = [row for _, row in read_jsonl(job.aside / "metrics.jsonl")]
    return [{name: value for name, value in row.items() if name not in WALL} for row in rows]


def last_checkpoint(job: Job) -> dict[str, Any]:
    """Everything that a resumed run would begin with, as plain values."""
    import torch

    folder = training.checkpoints(job) / f"checkpoint-{STEPS}"
    names = ("optimizer.pt", "scheduler.pt", "rng_state.pth")
    state = json.loads((folder / "trainer_state.json").read_text())
    state["log_history"] = [{name: value for name, value in row.items() if name not in WALL} for row in state["log_history"]]
    return {
        "trainer": {name: value for name, value in state.items() if name not in ("total_flos",)},
        "adapter": {name: tensor.tolist() for name, tensor in modeling.read_adapter(folder).items()},
        **{name: plain(torch.load(folder / name, weights_only=False)) for name in names},
    }


def plain(value: Any) -> Any:
    """Tensors and arrays as lists, whatever holds them."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, dict):
        return {str(name): plain(inner) for name, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def result(job: Job) -> dict[str, Any]:
    told = json.loads((job.work / "result.json").read_text())
    return {"facts": told["facts"], "metrics": told["metrics"]}


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_five_deaths_change_nothing(
    stage: str, seed: int, begin: Begin, straight: Callable[[str], Run], doomed: Doomed, tmp_path: Path
) -> None:
    undisturbed, run = straight(stage).job, begin(stage, tmp_path / "work")
    for death in deaths(seed):
        run.die(doomed, death)
    output = run.finish()
    print(*run.killed, sep="\n")
    assert "resuming after step" in output
    assert_as_if_nothing_had_been(run.job, undisturbed)


def assert_as_if_nothing_had_been(job: Job, undisturbed: Job) -> None:
    assert jobs.files(job.payload) == jobs.files(undisturbed.payload)
    assert [row["step"] for row in logged(job)] == list(range(1, STEPS + 1))
    assert logged(job) == logged(undisturbed)
    assert last_checkpoint(job) == last_checkpoint(undisturbed)
    assert result(job) == result(undisturbed)
    for name in ("completions.jsonl", "rewards.jsonl"):
        assert (job.aside / name).exists() is (job.stage == "grpo")
        if job.stage == "grpo":
            assert training.read_metrics(job.aside / name) == training.read_metrics(undisturbed.aside / name)


def killed_at(run: Run, where: str, faults: Path) -> list[int]:
    """One attempt of GRPO, ended by SIGKILL at that moment (`gwen25.faults`); the steps whose draws it had rewarded, draw by draw."""
    run.prepare()
    faults.mkdir()
    (faults / f"grpo-kill-{where}").touch()
    status, output = jobs.run_child(run.job, faults)
    assert status == -signal.SIGKILL and not list(faults.iterdir()), output
    assert not (run.job.work / "result.json").exists()
    return draws(run.job)


def draws(job: Job) -> list[int]:
    """The step of each draw of completions: a step whose groups were drawn again stands several times."""
    return [row["step"] for row in training.read_metrics(job.aside / "rewards.jsonl")]


def test_a_death_while_groups_are_drawn_again_changes_nothing(begin: Begin, tmp_path: Path) -> None:
    straight, run = (begin("grpo", tmp_path / name, grpo__redraw_zero_spread=2) for name in ("straight", "killed"))
    straight.finish()
    jobs.losses_by_rewards(straight.job)
    drawn = draws(straight.job)
    # from 0; a first draw has no step before it that is its own. The middle one, with whole checkpoints before it and steps after it
    again = [at for at in range(1, len(drawn)) if drawn[at] == drawn[at - 1] and SAVED_EVERY < drawn[at] < STEPS]
    assert again, f"nothing was drawn again, and this would prove nothing: {drawn}"
    died = again[len(again) // 2]
    assert killed_at(run, f"sampling-{died + 1}", tmp_path / "faults") == drawn[:died], "its step's first draw was rewarded already"
    output = run.finish()
    assert f"resuming after step {(drawn[died] - 1) // SAVED_EVERY * SAVED_EVERY} of {STEPS}" in output
    assert_as_if_nothing_had_been(run.job, straight.job)


def test_a_death_between_two_steps_on_one_sampling_changes_nothing(begin: Begin, tmp_path: Path) -> None:
    """Steps 7 and 8 share their completions; a process that dies as 8 begins has trained on them once."""
    straight, run = (begin("grpo", tmp_path / name, grpo__num_iterations=2) for name in ("straight", "killed"))
    straight.finish()
    jobs.losses_by_rewards(straight.job)
    assert draws(straight.job) == [1, 3, 5, 7, 9, 11]
    assert killed_at(run, "8", tmp_path / "faults") == [1, 3, 5, 7]
    assert [row["step"] for row in logged(run.job)][-1] == 7
    assert f"resuming after step 6 of {STEPS}" in run.finish()
    assert_as_if_nothing_had_been(run.job, straight.job)


def test_the_deaths_are_of_every_kind_and_most_are_beyond_the_first_epoch() -> None:
    all_of_them = [death for seed in (1, 2, 3, 4) for death in deaths(seed)]
    assert len(all_of_them) == 20
    kinds = {kind: sum(death.kind == kind for death in all_of_them) for kind in ("start", "step", "file", "half", "end")}
    assert all(kinds.values()) and kinds["file"] + kinds["half"] >= 7, kinds
    assert sum(death.window > STEPS // 3 for death in all_of_them) >= 12
