"""A step's batch, held against TRL's own rules before anything is loaded: for every profile, launcher and recipe."""

from __future__ import annotations

import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from gwen25 import batches, preflight, training
from gwen25.config import load_config, profiles, recipes
from gwen25.errors import BadInput
from tests.pipelines import training_jobs as jobs


def _config(profile: str = "smoke", **overrides: Any) -> Any:
    return load_config(profile, overrides={name.replace("__", "."): value for name, value in overrides.items()})


@pytest.mark.parametrize(("profile", "recipe"), list(product(profiles(), recipes())))
def test_every_profile_and_recipe_has_a_batch_that_its_launcher_can_share(profile: str, recipe: str) -> None:
    preflight._batches(load_config(profile, recipe), {"sft", "grpo"})


def _ours(work: Path, micro: int, accumulation: int, world: int, group: int, patch: pytest.MonkeyPatch) -> training.Batch | None:
    """The split that a stage would train with; None where preflight refuses the config."""
    launcher = {"grpo": ["torchrun", f"--nproc-per-node={world}"]}
    overrides = {"grpo__per_device_train_batch_size": micro, "grpo__gradient_accumulation_steps": accumulation}
    try:
        config = _config(grpo__num_generations=group, runtime__launcher=launcher, **overrides)
        preflight._batches(config, {"grpo"})
    except BadInput:
        return None
    patch.setenv("WORLD_SIZE", str(world))
    batch = training.split(jobs.job("grpo", work, config.grpo, work, {}, micro_batch=micro), micro * accumulation)
    patch.delenv("WORLD_SIZE")
    return batch


def test_what_passes_is_taken_by_trl_and_what_trl_would_refuse_does_not_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Micro-batch, accumulation, processes and group in every combination of small numbers, against the real GRPOConfig."""
    from trl import GRPOConfig as TrlConfig

    def trl_takes(micro: int, accumulation: int, world: int, group: int) -> bool:
        monkeypatch.setattr(TrlConfig, "world_size", world)
        try:
            made = TrlConfig(
                output_dir=str(tmp_path), use_cpu=True, bf16=False, per_device_train_batch_size=micro,
                gradient_accumulation_steps=accumulation, num_generations=group,
            )  # fmt: skip
        except ValueError as error:
            assert "must be divisible by num_generations" in str(error)
            return False
        return made.generation_batch_size == micro * world * accumulation

    passed = refused = 0
    for micro, accumulation, world, group in product((1, 2, 3, 8), (1, 4), (1, 2, 3), (2, 4, 8)):
        batch = _ours(tmp_path, micro, accumulation, world, group, monkeypatch)
        if batch is None:
            refused += 1
            # the config's batch is that of all processes: TRL would take it, if at all, as another number of rows
            assert micro * accumulation % world or not trl_takes(micro, accumulation, 1, group)
        else:
            passed += 1
            assert batch.effective == micro * accumulation
            assert trl_takes(batch.micro, batch.accumulation, world, group)
    assert passed > 15 and refused > 15, "both were tried"


def test_a_group_of_one_is_refused() -> None:
    with pytest.raises(BadInput, match=r"grpo\.num_generations: .*greater than or equal to 2"):
        _config(grpo__num_generations=1)


def test_weights_of_another_number_than_the_rewards_cannot_be_written() -> None:
    """They are given by name, and come from the panel in the order of its functions."""
    from gwen25.rewards import active, weights

    config = _config(grpo__reward_weights={"execution": 2.0}).grpo
    assert len(weights(config)) == len(active(config))


@pytest.mark.parametrize(
    ("rows", "processes", "group", "told"),
    [
        (6, 4, 2, "grpo: per_device_train_batch_size x gradient_accumulation_steps = 6 rows cannot be divided over 4 processes"),
        (6, 3, 4, "grpo: per_device_train_batch_size x gradient_accumulation_steps = 6 must be divisible by num_generations = 4"),
    ],
)
def test_the_message_says_what_to_change(rows: int, processes: int, group: int, told: str) -> None:
    with pytest.raises(BadInput, match=told):
        batches.check("grpo", rows, processes, group)


def test_the_command_ends_with_2_before_anything_is_made(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "gwen25.cli", "grpo", "--profile", "smoke"]
    launcher = "runtime.launcher={grpo: [torchrun, --nproc-per-node=3]}"
    done = subprocess.run(
        [*command, "--set", launcher],
        capture_output=True,
        text=True,
        timeout=120,
        env={"GWEN25_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert "= 8 rows cannot be divided over 3 processes; choose a multiple of 3" in done.stdout + done.stderr
    assert not list(tmp_path.glob("**/manifest.json"))
