"""Profiles and recipes: what they say, that they say no more than they must, and that a dry run of each can be read."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml

from gwen25 import child, models, resolve
from gwen25.cli import main
from gwen25.config import Config, flatten, load_config, profiles, recipes
from gwen25.job import Job, write_json
from gwen25.resolve import Resolved
from gwen25.stage import STAGES, Plan
from tests.pipelines import training_jobs as jobs

NAMES = ("a100", "cpu", "multi-gpu", "smoke", "t4")


def written(package: str, name: str) -> dict[str, Any]:
    text = resources.files(f"gwen25.{package}").joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    return flatten(yaml.safe_load(text))


def test_the_shipped_names() -> None:
    assert tuple(profiles()) == NAMES and recipes() == ["recommended", "reference"]


@pytest.mark.parametrize("name", recipes())
def test_a_recipe_holds_differences_from_the_defaults_alone(name: str) -> None:
    defaults = flatten(Config().model_dump(mode="json"))
    assert [key for key, value in written("recipes", name).items() if defaults[key] == value] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_profile_holds_differences_from_the_reference_alone(name: str) -> None:
    reference = flatten(load_config().model_dump(mode="json"))
    assert [key for key, value in written("profiles", name).items() if reference[key] == value] == []


def test_the_reference_is_the_published_tables() -> None:
    reference = load_config()
    sft, grpo = reference.sft, reference.grpo
    assert (sft.per_device_train_batch_size, sft.gradient_accumulation_steps, sft.learning_rate, sft.num_train_epochs) == (1, 2, 2e-4, 2)
    assert (sft.optim, sft.weight_decay, sft.warmup_steps, sft.lora_r, sft.lora_alpha) == ("adamw_8bit", 0.01, 5, 32, 64)
    assert (grpo.learning_rate, grpo.max_steps, grpo.temperature, grpo.num_generations) == (5e-5, 100, 0.6, 4)
    assert grpo.rewards == ("format_exact", "format_approximate", "judge") and grpo.judge.model.startswith("gemini-")
    assert reference.dataset.max_length == sft.max_length == 32768 and sft.dtype == grpo.dtype == "bfloat16"
    assert set(models.LORA_TARGETS["Qwen2ForCausalLM"]) == {f"{part}_proj" for part in ("q", "k", "v", "o", "gate", "up", "down")}


def test_the_recommended_recipe_is_what_the_docs_argue_for() -> None:
    ours, reference = load_config(recipe="recommended"), load_config()
    assert ours.sft == reference.sft and ours.dataset == reference.dataset
    grpo, theirs = ours.grpo, reference.grpo
    assert grpo.learning_rate < theirs.learning_rate and grpo.warmup_steps > theirs.warmup_steps
    assert grpo.max_grad_norm < theirs.max_grad_norm and grpo.beta > 0 and grpo.epsilon == 0.2
    prompts = grpo.per_device_train_batch_size * grpo.gradient_accumulation_steps // grpo.num_generations
    assert prompts == 4 and grpo.num_generations == 8 and grpo.temperature == 1.0
    assert grpo.mask_truncated_completions and "execution" in grpo.rewards and "judge" not in grpo.rewards
    assert (ours.evaluate.temperature, ours.evaluate.top_p) == (0.6, 0.95) and ours.evaluate.max_tokens >= 16384


def test_the_docs_say_what_the_recipe_says() -> None:
    text = (Path(__file__).parent.parent / "docs" / "recipes.md").read_text(encoding="utf-8")
    table = {row.split("|")[1].strip(" `"): row.split("|")[3].strip() for row in text.splitlines() if row.startswith("| `")}
    ours = flatten(load_config(recipe="recommended").model_dump(mode="json"))
    for key in ("grpo.learning_rate", "grpo.warmup_steps", "grpo.max_grad_norm", "grpo.num_generations", "evaluate.temperature"):
        assert float(table[key]) == ours[key]


def test_a_t4_is_asked_for_nothing_it_does_not_have() -> None:
    t4 = load_config("t4")
    assert {t4.sft.dtype, t4.grpo.dtype, t4.merge.dtype, t4.evaluate.dtype} == {"float16"}  # no bfloat16 below 8.0
    assert t4.sft.load_in_4bit and t4.grpo.load_in_4bit and t4.sft.max_length >= 4096


# ---------------------------------------------------------------------------------------------------------------- dry runs


@pytest.mark.parametrize("recipe", recipes())
@pytest.mark.parametrize("profile", NAMES)
def test_a_dry_run_is_readable_offline(profile: str, recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--profile", profile, "--recipe", recipe, "--dry-run"]) == 0
    said = capsys.readouterr()
    assert [line.split()[0] for line in said.out.splitlines()[: len(STAGES)]] == list(STAGES)
    assert "Traceback" not in said.out + said.err
    if profile == "smoke":
        assert "would not start" not in said.out


def test_a_dry_run_tells_everything_that_is_missing_here_once(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    main(["run", "--profile", "multi-gpu", "--dry-run"])
    _, _, missing = capsys.readouterr().out.partition("On this machine it would not start:\n")
    for what in ("'Qwen/Qwen2.5-3B' is not a local path", "'nvidia/OpenCodeReasoning'", "GEMINI_API_KEY"):
        assert missing.count(what) == 1
    assert "no such command" not in missing  # accelerate stands beside the interpreter, on the PATH or not


def test_a_run_that_is_meant_still_stops_at_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--profile", "a100"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_hub_that_is_away_is_asked_once_in_a_dry_run(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def away(kind: str, name: str, warn: Any) -> str:
        asked.append(name)
        raise resolve.Unavailable(name)

    monkeypatch.setattr(resolve, "_ask_revision", away)
    monkeypatch.setattr(resolve, "_PINNED", {})
    with resolve.asking_once(), resolve.asking_once():
        for _ in range(3):
            with pytest.raises(resolve.Unavailable):
                resolve._hub_revision("model", "a/b", lambda _: None)
    assert asked == ["a/b"]
    with pytest.raises(resolve.Unavailable):  # a run asks again
        resolve._hub_revision("model", "a/b", lambda _: None)
    assert len(asked) == 2


# -------------------------------------------------------------------------------------------------------------- two processes


def launched(made: Job, launcher: Sequence[str]) -> None:
    """A stage as `gwen25.child` starts it: the launcher's words before `-m module`, in the child's environment."""
    request = json.loads((made.work.parent / "alone" / "request.json").read_text(encoding="utf-8"))
    write_json(made.work / "request.json", request)
    plan = Plan(STAGES[made.stage], made.key, {}, Resolved(), {}, made.runtime)
    environment = {**child.environment(plan), "OMP_NUM_THREADS": "1"}
    command = [*launcher, "-m", f"gwen25.pipelines.{made.stage}", str(made.work)]
    # through a shell, as the supervisor does: the command is looked for on the PATH that it is given, not on ours
    done = subprocess.run(["/bin/sh", "-c", shlex.join(command)], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow  # half a minute: two processes import torch and train
def test_the_multi_gpu_launcher_divides_a_batch_over_two_processes(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The profile's own command, over gloo where there is no GPU; the losses are those of one process. No environment is activated."""
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    config = jobs.config(sft__max_steps=2, sft__save_steps=1)
    data = jobs.dataset(tmp_path / "data", rows=16)  # two whole batches
    alone = jobs.job("sft", tmp_path / "alone", config.sft, tiny_model, {"dataset": data})
    assert jobs.run_child(alone)[0] == 0
    both = jobs.job("sft", tmp_path / "both", config.sft, tiny_model, {"dataset": data})
    launched(both, load_config("multi-gpu").runtime.launcher["sft"])
    assert len(list((both.aside / "checkpoints").glob("checkpoint-2/rng_state_*.pth"))) == 2
    assert jobs.losses(both) == pytest.approx(jobs.losses(alone), rel=1e-3)
