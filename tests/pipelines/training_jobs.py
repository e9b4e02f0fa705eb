"""Jobs for the training stages: the sample rows as a data set, the tiny model as base, and a way to run the real child."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from gwen25 import modeling, models, token_rows
from gwen25.chat import FORMATS, problem_messages
from gwen25.config import Config, load_config
from gwen25.data import Problem, TestCase, read_jsonl
from gwen25.job import Input, Job, Result, write_json
from gwen25.samples import tiny

FORMAT = FORMATS["chatml-think"]
BASE = {"digest": "0" * 64}
SMOKE = {"runtime.num_threads": 1}


def config(**overrides: Any) -> Config:
    """The smoke profile on one thread, with `section__key=value` overrides."""
    return load_config("smoke", overrides={**SMOKE, **{name.replace("__", "."): value for name, value in overrides.items()}})


def artifact(folder: Path, stage: str, facts: Mapping[str, Any]) -> Input:
    """A made artifact in `folder`, whose payload is there already."""
    manifest = {"stage": stage, "key": f"{stage}-key", "digest": f"{stage}-digest", "facts": dict(facts), "metrics": {}}
    write_json(folder / "manifest.json", manifest)
    return Input(stage, manifest["key"], manifest["digest"], folder, dict(facts), {})


def dataset(folder: Path, rows: int = 12, heldout: int = 2) -> Input:
    """Short sums and products: SFT rows, held-out rows and GRPO rows in the data set stage's own layout."""
    payload = folder / "payload"
    payload.mkdir(parents=True)
    made = [_row(number) for number in range(rows + heldout)]
    _write(payload / "train.jsonl", made[:rows])
    _write(payload / "heldout.jsonl", made[rows:])
    _write(payload / "grpo.jsonl", [_grpo_row(number) for number in range(rows)])
    return artifact(folder, "dataset", {"rows": rows, "heldout_rows": heldout, "license": "CC-BY-4.0", "source": "samples"})


def _problem(number: int) -> Problem:
    task = ("sum", "product", "difference")[number % 3]
    tests = tuple(TestCase(f"{a} {number}\n", f"{_answer(task, a, number)}\n") for a in (2, 5))
    return Problem(f"row-{number}", f"Read two integers and print their {task}. Case {number}.", tests)


def _answer(task: str, a: int, b: int) -> int:
    return {"sum": a + b, "product": a * b, "difference": a - b}[task]


def _row(number: int) -> dict[str, Any]:
    problem = _problem(number)
    sign = "+*-"[number % 3]
    code = f"a, b = map(int, input().split())\nprint(a {sign} b)"
    reasoning = "Read both. " * (1 + number % 4) + f"Then use {sign}."
    return {"id": problem.id, "messages": problem_messages(problem), "reasoning": reasoning, "code": code}


def _grpo_row(number: int) -> dict[str, Any]:
    problem = _problem(number)
    tests = [{"input": test.input, "output": test.output, "kind": test.kind} for test in problem.tests]
    return {
        "id": problem.id,
        "messages": problem_messages(problem),
        "statement": problem.statement,
        "tests": tests,
        "func_name": None,
        "starter_code": "",
        "difficulty": "easy",
    }


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def job(
    stage: str,
    work: Path,
    section: Any,
    base: Path,
    inputs: Mapping[str, Input],
    externals: Mapping[str, Any] | None = None,
    micro_batch: int | None = None,
) -> Job:
    """A Job in this process; payload/ and aside/ are made as `job.main` would."""
    for name in ("payload", "aside"):
        (work / name).mkdir(parents=True, exist_ok=True)
    pinned = {"base_model": BASE, "chat_format": {"name": FORMAT.name, "digest": FORMAT.digest}, **(externals or {})}
    return Job(stage, "k", section, inputs, pinned, {"base_model": str(base)}, config().runtime, micro_batch, work)


def request(made: Job) -> None:
    """Write the request.json that says what the Job says, as `stage.launch` would; an earlier attempt's ending is forgotten."""
    told = {
        "stage": made.stage,
        "section_name": made.stage,
        "version": 1,
        "key": made.key,
        "section": made.config.model_dump(mode="json"),
        "inputs": {role: {"path": str(given.path)} for role, given in made.inputs.items()},
        "externals": dict(made.externals),
        "locations": dict(made.locations),
        "runtime": made.runtime.model_dump(mode="json"),
        "micro_batch": made.micro_batch,
        "at_once": made.at_once,
        "packed": made.packed,
    }
    for name in ("result.json", "failure.json"):
        (made.work / name).unlink(missing_ok=True)
    write_json(made.work / "request.json", told)


def environment(faults: Path | None = None) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **({} if faults is None else {"GWEN25_FAULTS": str(faults)})}


def child(made: Job, faults: Path | None = None, processes: int = 1) -> subprocess.Popen[str]:
    """Start the stage's real module on the Job's request; under torchrun for several processes."""
    request(made)
    launcher = [] if processes == 1 else ["-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
    command = [sys.executable, *launcher, "-m", f"gwen25.pipelines.{made.stage}", str(made.work)]
    return subprocess.Popen(command, env=environment(faults), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def run_child(made: Job, faults: Path | None = None, processes: int = 1) -> tuple[int, str]:
    """Exit status and output of the whole run."""
    started = child(made, faults, processes)
    output, _ = started.communicate(timeout=300)
    return started.returncode, output


def losses(made: Job) -> list[float]:
    """The logged losses, one a step; every step once and in order."""
    rows = [row for _, row in read_jsonl(made.aside / "metrics.jsonl")]
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    return [row["loss"] for row in rows]


Run = Callable[[Job], Result]  # a stage's `run`, in this process


def die(run: Run, made: Job, step: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One attempt, which runs out of memory as that step begins. `folder`: a new one, for the fault that says so."""
    import torch

    folder.mkdir()
    (folder / f"{made.stage}-oom-{step}").touch()
    monkeypatch.setenv("GWEN25_FAULTS", str(folder))
    with pytest.raises(torch.OutOfMemoryError):
        run(made)
    assert not list(folder.iterdir())  # once
    assert not list(made.payload.iterdir())


def go_on(run: Run, made: Job, straight: Job, expected: Result) -> None:
    """The next attempt, which ends as the run that nothing disturbed: every bit of the payload, every loss, facts and measures."""
    result = run(made)
    assert files(made.payload) == files(straight.payload)
    assert losses(made) == losses(straight)
    assert result == expected


def losses_by_rewards(made: Job) -> None:
    """Hold that GRPO trained by rewards here: without a group whose rewards differ, equal runs are equal for nothing having happened."""
    rows = [row for _, row in read_jsonl(made.aside / "metrics.jsonl")]
    compared = [row["frac_groups_compared"] for row in rows if "frac_groups_compared" in row]  # by the panel, of steps that sampled
    assert sum(share > 0 for share in compared) >= len(compared) / 3, f"too few groups had two different rewards: {compared}"
    taught = next(row for row in rows if row.get("frac_groups_compared"))
    assert taught["frac_reward_zero_std"] < 1 and taught["reward_std"] > 0 and taught["grad_norm"] > 0, taught


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def taught_a_little(folder: Path, data: Input) -> tuple[Path, Input]:
    """The pretrained tiny model and an adapter after six steps of real SFT: some completions keep the format, a few programs
    are right, and most groups have something to compare. Random matrices on the untrained model earn nothing.
    """
    from gwen25.pipelines import sft

    tiny.build(folder / "base", pretrained=True)
    section = config(sft__max_steps=6, sft__save_steps=100, sft__lora_r=32, sft__lora_alpha=64).sft
    taught = job("sft", folder / "sft", section, folder / "base", {"dataset": data}, micro_batch=8)
    return folder / "base", artifact(taught.work, "sft", sft.run(taught).facts)


def trained_adapter(folder: Path, base: Path, *, rank: int = 8, strength: float = 0.05, chat_tokens: bool = False) -> Input:
    """An adapter artifact as SFT would leave it, with random matrices in the place of trained ones."""
    import torch
    from peft import LoraConfig, get_peft_model

    tokenizer = modeling.load_tokenizer(base, FORMAT)
    targets = list(models.LORA_TARGETS["Qwen2ForCausalLM"])
    rows = token_rows.wanted(tokenizer, FORMAT, tied=models.inspect(base).tied) if chat_tokens else None
    lora = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets, task_type="CAUSAL_LM", trainable_token_indices=rows)
    model = get_peft_model(modeling.load_base(base, tokenizer, FORMAT, dtype="float32"), lora)
    draw = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=draw) * strength)
            elif "trainable_tokens" in name:
                parameter.add_(torch.randn(parameter.shape, generator=draw) * strength)
    modeling.save_adapter(model, folder / "payload", BASE)
    modeling.save_tokenizer(tokenizer, folder / "payload")
    return artifact(folder, "sft", FACTS)


FACTS = {
    "base_model": BASE,
    "license": "Apache-2.0",
    "chat_format": {"name": FORMAT.name, "digest": FORMAT.digest},
    "context": 2048,
    "dataset": {"rows_train": 12, "licenses": {"cc-by-4.0": 8, "apache-2.0": 4}, "digest": "d"},
    "sft": {"learning_rate": 2e-4, "steps": 6, "load_in_4bit": False},
}
