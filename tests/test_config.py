"""Config: precedence, strictness, one clear error."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest
from pydantic import ValidationError

from gwen25 import config
from gwen25.commands.common import configuration
from gwen25.config import load_config, parse_override
from gwen25.errors import BadInput
from gwen25.stage import keyed_section


def test_defaults_are_the_reference_recipe() -> None:
    reference = load_config()
    sft, grpo = reference.sft, reference.grpo
    assert (sft.per_device_train_batch_size, sft.gradient_accumulation_steps, sft.learning_rate, sft.num_train_epochs) == (1, 2, 2e-4, 2)
    assert (sft.optim, sft.weight_decay, sft.warmup_steps, sft.lora_r, sft.lora_alpha) == ("adamw_8bit", 0.01, 5, 32, 64)
    assert (grpo.learning_rate, grpo.max_steps, grpo.temperature, grpo.num_generations) == (5e-5, 100, 0.6, 4)
    assert (reference.base_model, reference.dataset.source, reference.dataset.split) == (
        "Qwen/Qwen2.5-3B",
        "nvidia/OpenCodeReasoning",
        "split_0",
    )
    assert reference.sft.max_length == 32768 and reference.sft.dtype == "bfloat16"


@pytest.mark.parametrize("profile", config.profiles())
@pytest.mark.parametrize("recipe", config.recipes())
def test_every_shipped_profile_and_recipe_loads(profile: str, recipe: str) -> None:
    load_config(profile, recipe)


def test_precedence_is_recipe_profile_file_override(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("grpo: {max_steps: 7, beta: 0.1}\n")
    assert load_config("smoke").grpo.max_steps == 6
    assert load_config("smoke", file=file).grpo.max_steps == 7
    both = load_config("smoke", file=file, overrides={"grpo.max_steps": 8})
    assert (both.grpo.max_steps, both.grpo.beta) == (8, 0.1)


def test_top_level_values_reach_every_section() -> None:
    pushed = load_config("smoke", overrides={"seed": 7, "base_model": "/m"})
    assert {pushed.dataset.seed, pushed.sft.seed, pushed.grpo.seed, pushed.evaluate.seed} == {7}
    assert {pushed.dataset.base_model, pushed.sft.base_model, pushed.adapters.base_model} == {"/m"}


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"grpo.max_stesp": 2}, "did you mean grpo.max_steps?"),
        ({"gropo.max_steps": 2}, "did you mean 'grpo'?"),
        ({"max_steps": 2}, "grpo.max_steps"),
        ({"grpo.max_steps": "many"}, "grpo.max_steps: a whole number is expected, not 'many'"),
        ({"grpo.max_steps": 1.5}, "grpo.max_steps: a whole number is expected, not 1.5"),
        ({"grpo.rewards": "judge"}, "grpo.rewards: a list is expected, such as [a, b], not 'judge'"),
        ({"grpo.reward_weights": [1]}, "grpo.reward_weights: a mapping is expected"),
        ({"evaluate.baseline": "maybe"}, "evaluate.baseline: true or false is expected"),
        ({"dataset.target": "x"}, "dataset.target: should be 'reasoning' or 'solution', not 'x'"),
        ({"merge.max_shard_size": "big"}, "merge.max_shard_size: should match pattern"),
        ({"base_model": ""}, "base_model: a hub id, a directory or sample:tiny-qwen2 is expected, not ''"),
        ({"grpo.max_steps": 0}, "greater than or equal to 1, not 0"),
        ({"grpo.num_generations": 3}, "divisible by num_generations = 3"),
        ({"sft.base_model": "x"}, "set at the top of the config"),
        ({"sft": 3}, "is a section"),
        ({"sft.lora_r": 1, "sft.lora_r.x": 2}, "a value and a key below it"),
        ({"dataset.max_length": 4096, "sft.max_length": 512}, "rows would be cut"),
    ],
)
def test_bad_values_get_one_clear_line(overrides: dict[str, object], expected: str) -> None:
    with pytest.raises(BadInput) as caught:
        load_config("smoke", overrides=overrides)
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_unknown_profile_lists_the_right_ones() -> None:
    with pytest.raises(BadInput, match=r"unknown profile 'smok'; did you mean 'smoke'\? \(choose from: a100"):
        load_config("smok")


@pytest.mark.parametrize("text", ["- a\n", "a: [\n", "7\n", "1: 2\n"])
def test_a_config_file_that_is_no_mapping(tmp_path: Path, text: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(BadInput, match=r"bad\.yaml"):
        load_config(file=file)


@pytest.mark.parametrize(
    ("text", "value"),
    [("a.b=5e-5", 5e-5), ("a.b=3", 3), ("a.b=null", None), ("a.b=[x, y]", ["x", "y"]), ("a.b=", None), ("a.b=x=y", "x=y")],
)
def test_overrides_are_read_as_yaml(text: str, value: object) -> None:
    assert parse_override(text) == ("a.b", value)


@pytest.mark.parametrize("text", ["novalue", "=3", "a.b=[1"])
def test_overrides_that_are_none(text: str) -> None:
    with pytest.raises(BadInput):
        parse_override(text)


def test_auto_hparams_is_read_once_into_the_config(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTO_HPARAMS", "1")
    assert load_config("smoke").sft.auto_hparams
    assert not load_config("smoke", overrides={"sft.auto_hparams": False}).sft.auto_hparams
    monkeypatch.setenv("AUTO_HPARAMS", "0")
    assert load_config("smoke", overrides={"sft.auto_hparams": True}).sft.auto_hparams
    monkeypatch.setenv("AUTO_HPARAMS", "yes")
    with pytest.raises(BadInput, match="AUTO_HPARAMS"):
        load_config("smoke")


@pytest.mark.parametrize(("environment", "file"), [("0", True), ("1", False)])
def test_auto_hparams_stands_over_a_file_and_below_an_option(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, environment: str, file: bool
) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(f"sft: {{auto_hparams: {str(file).lower()}}}\n")
    monkeypatch.setenv("AUTO_HPARAMS", environment)
    options = Namespace(profile="smoke", recipe="reference", config=mine, set=[])
    assert configuration(options).sft.auto_hparams is load_config("smoke", file=mine).sft.auto_hparams is not file
    options.set = [f"sft.auto_hparams={str(file).lower()}"]
    assert configuration(options).sft.auto_hparams is file


def test_sections_are_frozen() -> None:
    with pytest.raises(ValidationError):
        load_config("smoke").sft.learning_rate = 1.0  # type: ignore[misc]


def test_the_micro_batch_is_keyed_by_its_product_only() -> None:
    eight = load_config("smoke", overrides={"sft.per_device_train_batch_size": 8, "sft.gradient_accumulation_steps": 1})
    two = load_config("smoke", overrides={"sft.per_device_train_batch_size": 2, "sft.gradient_accumulation_steps": 4})
    assert keyed_section(eight.sft.model_dump(mode="json")) == keyed_section(two.sft.model_dump(mode="json"))
    four = load_config("smoke", overrides={"sft.per_device_train_batch_size": 4})
    assert keyed_section(eight.sft.model_dump(mode="json")) != keyed_section(four.sft.model_dump(mode="json"))


def test_noise_that_is_drawn_for_a_micro_batch_keys_it() -> None:
    """NEFTune's is scaled by the padded length, and drawn in the padded shape."""
    noise = {"sft.neftune_noise_alpha": 5.0}
    eight = load_config("smoke", overrides={**noise, "sft.per_device_train_batch_size": 8, "sft.gradient_accumulation_steps": 1})
    two = load_config("smoke", overrides={**noise, "sft.per_device_train_batch_size": 2, "sft.gradient_accumulation_steps": 4})
    assert keyed_section(eight.sft.model_dump(mode="json")) != keyed_section(two.sft.model_dump(mode="json"))


def test_flatten_undoes_nesting_and_leaves_value_mappings_whole() -> None:
    nested = {
        "seed": 1,
        "grpo": {"max_steps": 2, "judge": {"model": "m"}, "reward_weights": {"execution": 2.0}},
        "runtime": {"python": {"sft": "py"}},
    }
    flat = config.flatten(nested)
    assert flat == {
        "seed": 1,
        "grpo.max_steps": 2,
        "grpo.judge.model": "m",
        "grpo.reward_weights": {"execution": 2.0},
        "runtime.python": {"sft": "py"},
    }
    assert load_config("smoke", overrides=flat).grpo.judge.model == "m"
