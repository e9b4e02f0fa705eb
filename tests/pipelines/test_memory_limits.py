"""Memory that really runs out, and that a fault says ran out: the stage's own process, its attempts, and the same result.

.venv/bin/pytest -m slow tests/pipelines/test_memory_limits.py
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from gwen25 import fitted, modeling, stage, training
from gwen25.artifacts import Artifact, Manifest, Store
from gwen25.config import RuntimeConfig
from gwen25.job import Input, Job
from gwen25.pipelines import grpo
from gwen25.resolve import Resolved
from gwen25.samples import tiny
from gwen25.stage import Plan
from tests.pipelines import training_jobs as jobs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # each starts three to six processes that import torch

REWARDS = {"rewards": {"active": ["format_exact", "format_approximate", "execution"], "judge": None}}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "store").mkdir()
    return Store(tmp_path / "store")


@pytest.fixture(autouse=True)
def _base_by_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """These jobs name their base by a digest that is not its own, which publishing would take for a change."""
    monkeypatch.setattr(stage, "changed_since", lambda _: None)


def plan(job: Job, key: str, launcher: list[str] | None = None) -> Plan:
    """The job as `stage.launch` takes it."""
    runtime = job.runtime.model_dump() | {"retry_delay_seconds": 0.01}
    if launcher:
        runtime["launcher"] = {job.stage: tuple(launcher)}
    inputs = {role: Artifact(stage=given.stage, key=given.key, digest=given.digest, path=given.path) for role, given in job.inputs.items()}
    resolved = Resolved(dict(job.externals), dict(job.locations))
    return Plan(
        stage.STAGES[job.stage], key * 32, job.config.model_dump(mode="json"), resolved, inputs, RuntimeConfig.model_validate(runtime)
    )


def made(work: Plan, store: Store) -> tuple[Path, dict[str, Any], list[str]]:
    lines = list[str]()
    artifact, _ = stage.obtain(work, store, lines.append)
    return artifact.path, Manifest.read(artifact.path).provenance, lines


def attempts(folder: Path) -> list[dict[str, Any]]:
    tried: list[dict[str, Any]] = json.loads((folder / "aside" / "attempts.json").read_text())["attempts"]
    return tried


def logged(folder: Path) -> list[dict[str, Any]]:
    return training.read_metrics(folder / "aside" / "metrics.jsonl")


# ------------------------------------------------------------------------------------------------------ a really small limit


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Input]:
    """A model and rows of which eight at once need hundreds of megabytes more than four: 4 layers of 2048, rows of 350 tokens."""
    folder = tmp_path_factory.mktemp("wide")
    tiny.build(folder / "base", hidden_size=256, intermediate_size=2048, num_hidden_layers=4, num_attention_heads=8, num_key_value_heads=2)
    rows = jobs.dataset(folder / "data", rows=8, heldout=0)
    file = rows.payload / "train.jsonl"
    long = [json.loads(line) | {"reasoning": "Read both. " * 100} for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(row) + "\n" for row in long))
    return folder / "base", rows


def _wide_job(work: Path, wide: tuple[Path, Input], micro_batch: int, **overrides: object) -> Job:
    section = jobs.config(sft__max_steps=2, sft__max_length=2048, dataset__max_length=2048, **overrides).sft
    return jobs.job("sft", work, section, wide[0], {"dataset": wide[1]}, micro_batch=micro_batch)


def _data_bytes(job: Job) -> int:
    """The most private memory that the job's process had: VmData, which RLIMIT_DATA bounds, looked at a hundred times a second."""
    process, most = jobs.child(job), 0
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        if found := re.search(r"VmData:\s+(\d+) kB", status.read_text()):
            most = max(most, int(found[1]) * 1024)
        time.sleep(0.01)
    assert process.stdout is not None and process.returncode == 0, process.stdout.read()
    return most


def test_a_training_that_meets_a_real_limit_completes_with_a_smaller_micro_batch(
    wide: tuple[Path, Input], store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limiter = shutil.which("prlimit")
    if limiter is None:
        pytest.skip("no prlimit (util-linux) to set a limit with")
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")  # an arena a thread would reserve 64 MiB each
    small, large = (_data_bytes(_wide_job(tmp_path / str(rows), wide, rows)) for rows in (4, 8))
    print(f"private memory: {small >> 20} MiB with 4 rows, {large >> 20} MiB with 8")
    assert large - small > 200 << 20, "the limit would lie within noise"
    limit = small + (large - small) // 3
    launcher = [limiter, f"--data={limit}", sys.executable]
    job = _wide_job(tmp_path / "job", wide, 8)
    folder, provenance, lines = made(plan(job, "a", launcher), store)
    tried = [(one["cause"], one["micro_batch"], one.get("phase")) for one in attempts(folder)]
    assert tried == [("out_of_memory", 8, "training"), ("done", 4, None)], lines
    assert any("allocate memory" in line for line in lines), "these are the allocator's own words"
    begun_small = tmp_path / "4"
    assert [row["loss"] for row in logged(folder)] == [row["loss"] for row in logged(begun_small)]
    assert jobs.files(folder / "payload") == jobs.files(begun_small / "payload")

    again = _wide_job(tmp_path / "again", wide, 8, seed=7)
    _, provenance, lines = made(plan(again, "b", launcher), store)
    assert (provenance["attempts"], provenance["micro_batch"]) == (1, 4)
    assert any("starts with what fitted here after memory ran out: micro-batch 4" in line for line in lines)


# -------------------------------------------------------------------------------------------------------- injected, by phase


def test_grpo_trains_and_samples_in_smaller_parts_to_the_same_rewards(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory runs out in the first sampling, then as the second step begins; groups stay whole, and so do the completions.

    Losses, of 0.04 to 0.09, are held to 2e-5; the adapter to a hundredth of the way that it went.
    """
    data = jobs.dataset(tmp_path / "data", rows=4, heldout=0)
    base, adapter = jobs.taught_a_little(tmp_path / "taught", data)
    section = jobs.config(
        grpo__max_steps=4,
        grpo__save_steps=1,
        grpo__max_completion_length=40,
        grpo__log_completions_steps=1,
        grpo__rewards=["format_exact", "format_approximate", "execution"],
    ).grpo
    job = jobs.job("grpo", tmp_path / "job", section, base, {"dataset": data, "sft": adapter}, REWARDS, 8)
    straight, _, _ = made(plan(job, "a"), store)
    assert all(row["frac_groups_compared"] > 0 for row in logged(straight)), "rewards without a spread would teach nothing"
    faults = tmp_path / "faults"
    faults.mkdir()
    for name in ("grpo-oom-sampling-1", "grpo-oom-2"):
        (faults / name).touch()
    monkeypatch.setenv("GWEN25_FAULTS", str(faults))
    folder, provenance, lines = made(plan(job, "b"), store)
    assert not list(faults.iterdir())
    tried = [(one["cause"], one.get("phase"), one["micro_batch"], one["at_once"]) for one in attempts(folder)]
    assert tried == [("out_of_memory", "sampling", 8, None), ("out_of_memory", "training", 8, 4), ("done", None, 4, 4)], lines
    assert (store.root / fitted.FILE).exists() and provenance["attempts"] == 3

    groups = [training.read_metrics(one / "aside" / "completions.jsonl") for one in (folder, straight)]
    assert len(groups[0]) == 4
    for group, other in zip(*groups, strict=True):
        spread = [one.pop("advantage") for one in other["completions"]]
        assert max(spread) > 0 > min(spread)
        assert [one.pop("advantage") for one in group["completions"]] == pytest.approx(spread, abs=1e-5)
        assert group == other, "the same completions, each with the same rewards"
    assert training.read_metrics(folder / "aside" / "rewards.jsonl") == training.read_metrics(straight / "aside" / "rewards.jsonl")
    for row, other in zip(logged(folder), logged(straight), strict=True):
        assert row["num_tokens"] == other["num_tokens"] and row["completions/mean_length"] == other["completions/mean_length"]
        assert row["reward"] == pytest.approx(other["reward"], abs=1e-6)
        assert row["loss"] == pytest.approx(other["loss"], abs=2e-5)
        assert row["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-3)
    before, mine, theirs = (modeling.read_adapter(one / "payload") for one in (adapter.path, folder, straight))
    moved, apart = grpo.distance(theirs, before), grpo.distance(mine, theirs)
    print(f"losses {[row['loss'] for row in logged(straight)]}; the adapter moved {moved:.1e}, the two are {apart:.1e} apart")
    assert moved > 5e-4 and apart < moved / 100


# ---------------------------------------------------------------------------------------------------------- after a resume


# 4 steps, saved at 2, with the optimizer whose state would show
BIG: dict[str, dict[str, object]] = {
    "sft": {"sft__lora_r": 8192, "sft__lora_alpha": 8192},
    "grpo": {"grpo__max_completion_length": 24, "grpo__rewards": ["format_exact", "format_approximate", "execution"]},
}


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_a_resumed_run_needs_no_more_memory_than_one_that_was_not_interrupted(stage: str, tmp_path: Path) -> None:
    """An adapter whose optimizer state would show: 17 million numbers, 137 MB of it in float32; the tolerance is a fifth of that,
    and half of it for GRPO, whose sampling moves the peak by 40 MB from run to run."""
    base, faults = tmp_path / "base", tmp_path / "faults"
    tiny.build(base, pretrained=True)
    inputs = {"dataset": jobs.dataset(tmp_path / "data")}
    if stage == "grpo":
        inputs["sft"] = jobs.trained_adapter(tmp_path / "sft", base, rank=8192, strength=0.001)  # so little that the base still speaks
    faults.mkdir()
    peaks = []
    for name in ("straight", "resumed"):
        common = {"max_steps": 4, "save_steps": 2, "optim": "adamw_torch", "learning_rate": 1e-4}
        section = getattr(jobs.config(**{f"{stage}__{field}": value for field, value in common.items()}, **BIG[stage]), stage)
        job = jobs.job(stage, tmp_path / name, section, base, inputs, REWARDS if stage == "grpo" else None, micro_batch=8)
        if name == "resumed":
            (faults / f"{stage}-kill-4").touch()
            assert jobs.run_child(job, faults)[0] == -9
        status, output = jobs.run_child(job, faults)
        assert status == 0 and ("resuming after step 2" in output) is (name == "resumed"), output
        peaks.append(json.loads((job.work / "result.json").read_text())["provenance"]["peak_rss_bytes"])
    numbers = sum(tensor.numel() for tensor in modeling.read_adapter(tmp_path / "straight" / "payload").values())
    state = 2 * 4 * numbers
    print(f"peak {peaks[0] >> 20} MiB straight, {peaks[1] >> 20} MiB resumed; optimizer state {state >> 20} MiB")
    assert state > 100 << 20
    assert peaks[1] <= peaks[0] + state // (5 if stage == "sft" else 2)
