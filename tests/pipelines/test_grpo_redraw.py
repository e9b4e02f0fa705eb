"""Groups that teach nothing are drawn again: the batch keeps its shape, the cost is told, and no interruption changes the result."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from gwen25 import modeling, training
from gwen25.data import read_jsonl
from gwen25.grpo_trainer import Groups
from gwen25.job import Input, Job, Result
from gwen25.pipelines import grpo
from gwen25.rewards import REWARDS, Reward
from gwen25.rewards.sample import Sample, Tools
from tests.pipelines import training_jobs as jobs

ROWS, A_STEP, GROUP = 9, 8, 4
PLANNED = {"rewards": {"active": ["format_approximate"], "judge": None}}
STEPS = {
    "grpo__max_steps": 4,
    "grpo__save_steps": 1,
    "grpo__max_completion_length": 12,
    "grpo__rewards": ["format_approximate"],
    "grpo__allow_format_only": True,
    "grpo__redraw_zero_spread": 2,
    "grpo__log_completions_steps": 1,
    "grpo__beta": 0.0,
}


def by_length(samples: Sequence[Sample], tools: Tools) -> list[float | None]:
    """A third of the prompts has a spread: the answers' lengths in characters. Those of the others are all alike."""
    return [len(sample.text) / 1000 if _teaches(str(sample.statement)) else 0.5 for sample in samples]


def _teaches(statement: str) -> bool:
    return int(statement.split("Case ")[1].split(".")[0]) % 3 == 0


@pytest.fixture(autouse=True)
def rewards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REWARDS, "format_approximate", Reward(by_length, 1.0, "format"))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> dict[str, Input]:
    folder = tmp_path_factory.mktemp("inputs")
    return {"dataset": jobs.dataset(folder / "data", rows=ROWS, heldout=0), "sft": jobs.trained_adapter(folder / "sft", tiny_model)}


Make = Callable[..., Job]


@pytest.fixture
def make(tmp_path: Path, tiny_model: Path, inputs: dict[str, Input]) -> Make:
    def make(name: str = "work", **overrides: object) -> Job:
        section = jobs.config(**{**STEPS, **overrides}).grpo
        return jobs.job("grpo", tmp_path / name, section, tiny_model, inputs, PLANNED, micro_batch=A_STEP)

    return make


def _logged(job: Job) -> list[dict[str, Any]]:
    return training.read_metrics(job.aside / "metrics.jsonl")


def _asked(job: Job) -> list[dict[str, Any]]:
    return [row for _, row in read_jsonl(job.aside / "completions.jsonl")]


def _trained_on(job: Job, patch: pytest.MonkeyPatch) -> tuple[Result, list[dict[str, Any]]]:
    """Run the job; the batches as they go to the loss, with their prompts."""
    batches: list[dict[str, Any]] = []
    score = Groups._generate_and_score_completions

    def watched(trainer: Groups, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output = score(trainer, inputs)
        batches.append({"rows": [dict(row) for row in inputs], **{name: value.clone() for name, value in output.items()}})
        return output

    with patch.context() as context:
        context.setattr(Groups, "_generate_and_score_completions", watched)
        return grpo.run(job), batches


def test_groups_without_spread_are_replaced_and_the_batch_keeps_its_shape(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make(grpo__redraw_zero_spread=4)
    result, batches = _trained_on(job, monkeypatch)
    order = grpo.schedule(ROWS, A_STEP // GROUP, 4, 42)
    logged = _logged(job)
    assert len(batches) == len(logged) == 4
    for step, (batch, row) in enumerate(zip(batches, logged, strict=True)):
        planned = [f"row-{at}" for at in order[2 * step : 2 * step + 2]]
        ids = [row["id"] for row in batch["rows"]]
        assert batch["completion_ids"].shape[0] == batch["advantages"].shape[0] == A_STEP
        assert ids[:GROUP] == [ids[0]] * GROUP and ids[GROUP:] == [ids[GROUP]] * GROUP != ids[:GROUP], "whole groups, of two prompts"
        assert row["redraw/frac_groups_compared"] == 1.0, "three of nine prompts teach, and four rounds find two of them"
        for group in (0, 1):
            advantages = batch["advantages"][GROUP * group : GROUP * (group + 1)]
            assert advantages.abs().max() > 0.1 and abs(float(advantages.sum())) < 1e-3
            teaches = int(planned[group].split("-")[1]) % 3 == 0
            assert (ids[GROUP * group] == planned[group]) == teaches, "what teaches stays, what does not is replaced"
        flat = sum(int(name.split("-")[1]) % 3 != 0 for name in planned)
        assert row["redraw/groups_replaced"] == flat
        assert row["frac_groups_compared"] == 1 - flat / 2, "of the prompts as they came"
        assert row["redraw/completions"] >= flat * GROUP and row["redraw/completions"] % GROUP == 0
    extra = sum(row["redraw/completions"] for row in logged)
    assert extra > 0
    assert result.metrics["completions"] == 4 * A_STEP + extra, "what was drawn for nothing is counted"
    assert result.metrics["redraw/frac_groups_compared"] == 1.0
    assert result.facts["grpo"]["redraw_zero_spread"] == 4


def test_prompt_and_completion_stay_together(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids, texts, rewards and rows of a replaced group are moved as one."""
    job = make(grpo__redraw_zero_spread=4, grpo__max_steps=2)
    _, batches = _trained_on(job, monkeypatch)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(job.inputs["sft"].payload)
    for batch, sample in zip(batches, _asked(job), strict=True):
        prompts = tokenizer.batch_decode([ids[mask.bool()] for ids, mask in zip(batch["prompt_ids"], batch["prompt_mask"], strict=True)])
        assert prompts == [row["prompt"] for row in batch["rows"]]
        ids = [ids[mask.bool()] for ids, mask in zip(batch["completion_ids"], batch["completion_mask"], strict=True)]
        texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
        at = prompts.index(sample["prompt"])
        shown = sample["completions"]
        assert [one["completion"] for one in shown] == texts[at : at + GROUP]
        assert [one["rewards"]["format_approximate"] for one in shown] == pytest.approx(
            [len(text) / 1000 for text in texts[at : at + GROUP]]
        )
        assert [one["advantage"] for one in shown] == pytest.approx(batch["advantages"][at : at + GROUP].tolist(), abs=1e-5)


def test_without_it_a_flat_group_stays(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make(grpo__redraw_zero_spread=0, grpo__max_steps=1)
    result, batches = _trained_on(job, monkeypatch)
    order = grpo.schedule(ROWS, A_STEP // GROUP, 1, 42)
    assert [row["id"] for batch in batches for row in batch["rows"][::GROUP]] == [f"row-{at}" for at in order]
    assert result.metrics["completions"] == A_STEP and not any(name.startswith("redraw") for row in _logged(job) for name in row)


def test_no_further_prompt_is_no_error(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REWARDS, "format_approximate", Reward(lambda samples, tools: [0.5] * len(samples), 1.0, "format"))
    job = make(grpo__redraw_zero_spread=99, grpo__max_steps=1)
    result, [batch] = _trained_on(job, monkeypatch)
    assert result.metrics["completions"] == A_STEP + (ROWS - 2) * GROUP, "each prompt was tried once"
    order = grpo.schedule(ROWS, A_STEP // GROUP, 1, 42)
    assert [row["id"] for row in batch["rows"][::GROUP]] == [f"row-{at}" for at in order], "nothing better was found"
    assert _logged(job)[0]["redraw/groups_replaced"] == 0


def test_resuming_draws_the_same_again(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    straight, broken = make("straight"), make("broken")
    expected = grpo.run(straight)
    assert any(row["redraw/groups_replaced"] for row in _logged(straight)[2:]), "or this would prove nothing"
    jobs.die(grpo.run, broken, 3, tmp_path / "faults", monkeypatch)
    jobs.go_on(grpo.run, broken, straight, expected)
    for name in ("completions.jsonl", "rewards.jsonl"):
        assert (broken.aside / name).read_text() == (straight.aside / name).read_text()


def _in_a_process(rank: int, folder: str, request: dict[str, Any], port: int) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    REWARDS["format_approximate"] = Reward(by_length, 1.0, "format")
    section = jobs.config(**request["overrides"]).grpo
    inputs = {name: jobs.artifact(Path(path), name, facts) for name, (path, facts) in request["inputs"].items()}
    job = jobs.job("grpo", Path(folder), section, Path(request["base"]), inputs, PLANNED, micro_batch=A_STEP)
    make, trainers = grpo.make_trainer, list[Any]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grpo, "make_trainer", lambda *arguments: trainers.append(make(*arguments)) or trainers[-1])
        result, batches = _trained_on(job, patch)
    weights = {
        name: tensor.tolist() for name, tensor in modeling.adapter_state(trainers[0].model).items() if name.endswith("q_proj.lora_B.weight")
    }
    told = [{"ids": [row["id"] for row in batch["rows"]], "advantages": batch["advantages"].tolist()} for batch in batches]
    Path(folder, f"told-{rank}.json").write_text(json.dumps({"metrics": result.metrics, "batches": told, "weights": weights}))


@pytest.mark.slow  # two processes import torch and train
@pytest.mark.parametrize(("group", "dtype"), [(4, "float32"), (8, "bfloat16")])  # of 8, half a group lies in each process
def test_two_processes_share_what_is_drawn_again(
    tmp_path: Path, tiny_model: Path, inputs: dict[str, Input], group: int, dtype: str
) -> None:
    import socket

    import torch.multiprocessing as processes

    overrides = {**STEPS, "grpo__redraw_zero_spread": 4, "grpo__num_generations": group, "grpo__max_steps": 3, "grpo__dtype": dtype}
    told = {name: (str(given.path), dict(given.facts)) for name, given in inputs.items()}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    request = {"overrides": overrides, "inputs": told, "base": str(tiny_model)}
    processes.spawn(_in_a_process, (str(tmp_path / "work"), request, port), nprocs=2)
    parts = [json.loads((tmp_path / "work" / f"told-{rank}.json").read_text()) for rank in (0, 1)]
    start = modeling.read_adapter(inputs["sft"].payload)
    assert parts[0]["weights"] and parts[0]["weights"] == parts[1]["weights"], "gradients are those of both"
    assert all(values != start[name].tolist() for name, values in parts[0]["weights"].items())
    order = grpo.schedule(ROWS, A_STEP // group, 3, 42)
    for step in range(3):
        ids = [name for part in parts for name in part["batches"][step]["ids"]]
        advantages = [value for part in parts for value in part["batches"][step]["advantages"]]
        assert len(ids) == len(advantages) == A_STEP
        for at in range(0, A_STEP, group):
            assert len(set(ids[at : at + group])) == 1 and abs(sum(advantages[at : at + group])) < 1e-3
            assert int(ids[at].split("-")[1]) % 3 == 0 and max(advantages[at : at + group]) > 0.1
            planned = order[A_STEP // group * step + at // group]
            assert (ids[at] == f"row-{planned}") == (planned % 3 == 0)
    logged = [row for _, row in read_jsonl(tmp_path / "work" / "aside" / "metrics.jsonl")]
    assert parts[0]["metrics"]["completions"] == 3 * A_STEP + sum(row["redraw/completions"] for row in logged)
