"""The training rows, run on a CPU with the tiny model, each in its own process as the command does; and vLLM's where it is."""

from __future__ import annotations

import json
from importlib import import_module
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import pytest

from gwen25 import training
from gwen25.config import VLLM_PYTHON
from gwen25.gpu_check import ROWS, Missing, Setting, base, beside, child, runner, serving, steps
from gwen25.gpu_check.__main__ import main

TRAINING = [row for row in ROWS if ".steps:" in row.does]
BESIDE = [row for row in ROWS if ".beside:" in row.does]
[VLLM] = [row for row in ROWS if ".serving:" in row.does]


def run(tmp_path: Path, *options: str) -> tuple[int, list[dict[str, object]]]:
    file = tmp_path / "found.json"
    status = main(["--device", "cpu", "--shape", "tiny", "--json", str(file), *options])
    return status, json.loads(file.read_text())["rows"]


def test_a_cap_is_on_each_training_row_and_on_no_other() -> None:
    assert [(row.profile, row.cap_gib) for row in TRAINING] == [("a100", 40), ("a100", 40), ("t4", 15), ("t4", 15)]
    capped = [(row.name, row.profile, row.cap_gib) for row in BESIDE]
    assert capped == [
        ("sft, TRL", "a100", 40),
        ("grpo, TRL", "a100", 40),
        ("sft, TRL, t4", "t4", 15),
        ("sft, Unsloth", "a100", 40),
    ], "as the row that they are told beside"
    assert all(row.cap_gib is None for row in ROWS if row not in TRAINING + BESIDE)


def measured(row: dict[str, object]) -> dict[str, float]:
    numbers = row["numbers"]
    assert row["status"] == "ok" and isinstance(numbers, dict), row
    return numbers


@pytest.mark.slow  # 100 s: four processes that import TRL and make two or three steps each
def test_training_rows_measure_their_speed_and_a_peak_beside_the_estimate(tmp_path: Path) -> None:
    status, rows = run(tmp_path, *(word for row in TRAINING for word in ("--only", row.name)))
    assert status == 0 and [row["status"] for row in rows] == ["ok"] * 5, rows
    for row in rows[1:]:
        numbers = measured(row)
        assert numbers["ratio"] == pytest.approx(numbers["peak_bytes"] / numbers["estimated_bytes"]) and 0.5 < numbers["ratio"] < 2
        assert "cap_bytes" not in numbers and "peak_allocated_bytes" not in numbers and "no cap on a CPU" in str(row["said"])
        tokens = numbers["tokens_per_second"] * numbers["seconds_per_step"]
        if str(row["row"]).startswith("sft"):  # one row of at most 512
            assert 490 < tokens <= 512 and "sampled" not in str(row["said"])
        else:  # four completions of at most 16
            assert 4 <= round(tokens) <= 4 * 16 and "sampled tokens/s" in str(row["said"])


@pytest.mark.slow  # 150 s: six processes that import TRL and make two or three steps each
def test_trls_own_trainers_take_the_same_rows_and_are_told_beside_ours(tmp_path: Path) -> None:
    pairs = {"sft, TRL": "sft, a100", "grpo, TRL": "grpo, a100", "sft, TRL, t4": "sft, t4"}
    status, found = run(tmp_path, *(word for name in chain(*pairs.items()) for word in ("--only", name)))
    rows = {str(row["row"]): row for row in found}
    assert status == 0 and len(rows) == 7
    for name, own in pairs.items():
        theirs, ours = measured(rows[name]), measured(rows[own])
        assert theirs["ours_over_this_speed"] == pytest.approx(ours["tokens_per_second"] / theirs["tokens_per_second"])
        assert (
            theirs["ours_over_this_peak"] == pytest.approx(ours["peak_bytes"] / theirs["peak_bytes"])
            and "of its peak" in rows[name]["said"]
        )
        assert 0.5 < theirs["ours_over_this_peak"] < 2
        tokens = [each["tokens_per_second"] * each["seconds_per_step"] for each in (theirs, ours)]
        if name.startswith("sft"):
            assert tokens[0] == pytest.approx(tokens[1], rel=0.01), "the same rows"
        else:
            assert 4 <= round(tokens[0]) <= 4 * 16


# what TRL's trainer has otherwise than ours, none of it in a step's work
OTHERWISE = {
    *("output_dir", "save_strategy", "save_steps", "save_total_limit"),  # in ours too nothing is saved before the last step
    *("data_seed", "ddp_find_unused_parameters", "logging_nan_inf_filter", "remove_unused_columns"),
}
SFTS = {
    *("dataset_kwargs", "max_length", "model_init_kwargs"),  # TRL tokenises and loads for itself
    *("num_train_epochs", "per_device_eval_batch_size", "prediction_loss_only"),  # max_steps is set, and nothing is evaluated
}
GRPOS = {"reward_weights", "shuffle_dataset"}  # another reward; two equal prompts


class Built(Exception):
    """A trainer that would train now."""


@pytest.mark.parametrize(
    ("name", "own", "otherwise"),
    [("sft, TRL", "sft, a100", SFTS), ("sft, TRL, t4", "sft, t4", SFTS), ("grpo, TRL", "grpo, a100", GRPOS)],
)
def test_the_same_settings_reach_trl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, own: str, otherwise: set[str]) -> None:
    """Every argument of the trainer that our row trains with, and what is trained."""

    def ready(trainer: Any, job: Any) -> None:
        training.widen(trainer.model)  # the first that the real one does
        raise Built(trainer)

    def beside_ready(row: Any, setting: Any, stage: str, trainer: Any) -> None:
        raise Built(trainer)

    monkeypatch.setattr(training, "train", ready)
    monkeypatch.setattr(beside, "_trained", beside_ready)
    setting = Setting("cpu", "tiny", str(tmp_path))
    base.tiny(tmp_path)
    made = []
    for wanted in (own, name):
        [row] = [row for row in ROWS if row.name == wanted]
        module, _, function = row.does.partition(":")
        with pytest.raises(Built) as built:
            getattr(import_module(module), function)(row, setting)
        made.append(built.value.args[0])
    ours, theirs = (trainer.args.to_dict() for trainer in made)
    assert {key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)} <= OTHERWISE | otherwise
    config = steps.config_of(row, setting)
    if name.startswith("sft"):
        assert theirs["max_length"] == config.sft.max_length
        loaded = theirs["model_init_kwargs"]
        assert (loaded["dtype"], loaded["attn_implementation"]) == (config.sft.dtype, config.sft.attn_implementation)
    shapes = [{each: (p.shape, p.dtype, p.requires_grad) for each, p in trainer.model.named_parameters()} for trainer in made]
    assert shapes[0] == shapes[1], "4-bit weights have a type of their own"
    loras = [trainer.model.peft_config["default"].to_dict() for trainer in made]
    assert {each for each in loras[0] if loras[0][each] != loras[1][each]} <= {"base_model_name_or_path"}


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_what_is_told_beside_says_that_ours_alone_is_deterministic_on_a_gpu(tmp_path: Path, device: Literal["cuda", "cpu"]) -> None:
    folder = tmp_path / runner.place("sft, t4")
    folder.mkdir()
    (folder / runner.OUTCOME).write_text(json.dumps({"numbers": {"tokens_per_second": 14.0, "peak_bytes": 7}}))
    told = beside._beside({"tokens_per_second": 7.0, "peak_bytes": 14}, Setting(device, "tiny", str(tmp_path)), "sft, t4")
    assert told.startswith("ours: 2.00 of its speed, 0.50 of its peak")
    assert told.endswith("; ours runs deterministic kernels, TRL's does not") == (device == "cuda")


def test_without_our_row_nothing_is_told_beside(tmp_path: Path) -> None:
    numbers = {"tokens_per_second": 7.0, "peak_bytes": 7}
    told = beside._beside(numbers, Setting("cpu", "tiny", str(tmp_path)), "sft, t4")
    assert "run `sft, t4` too" in told and len(numbers) == 2


# Unsloth, by a stand-in: its API as its examples and its source have it (unsloth/models/loader.py), and no more

STAND_IN = """
import json, os, pathlib, sys

early = not {"trl", "transformers", "peft"} & set(sys.modules)  # it changes them as they are imported


class FastLanguageModel:
    @staticmethod
    def from_pretrained(model_name="unsloth/Llama-3.2-1B-Instruct", max_seq_length=2048, dtype=None, load_in_4bit=True,
                        load_in_8bit=False, load_in_16bit=False, full_finetuning=False, token=None, device_map="sequential"):
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        note("from_pretrained", early=early, model_name=model_name, max_seq_length=max_seq_length, dtype=dtype, load_in_4bit=load_in_4bit)
        return AutoModelForCausalLM.from_pretrained(model_name, dtype=torch.bfloat16), AutoTokenizer.from_pretrained(model_name)

    @staticmethod
    def get_peft_model(model, r=16, target_modules=("q_proj",), lora_alpha=16, lora_dropout=0.0, bias="none", layers_to_transform=None,
                       layers_pattern=None, use_gradient_checkpointing="unsloth", random_state=3407, max_seq_length=2048,
                       use_rslora=False, modules_to_save=None, init_lora_weights=True, loftq_config=None):
        from peft import LoraConfig, get_peft_model

        note("get_peft_model", r=r, target_modules=target_modules, lora_alpha=lora_alpha, lora_dropout=lora_dropout, bias=bias,
             use_gradient_checkpointing=use_gradient_checkpointing, random_state=random_state, max_seq_length=max_seq_length)
        lora = LoraConfig(r=r, target_modules=target_modules, lora_alpha=lora_alpha, task_type="CAUSAL_LM")
        return get_peft_model(model, lora)


def note(call, **given):
    with pathlib.Path(os.environ["STAND_IN_CALLS"]).open("a") as out:
        out.write(json.dumps([call, given]) + "\\n")
"""


@pytest.mark.slow  # 60 s: two processes that import TRL and make three steps each
def test_unsloth_is_called_as_documented_and_told_beside_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "unsloth.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(tmp_path / "packages")  # where the runner looks for it
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"))  # and the row's process
    monkeypatch.setenv("STAND_IN_CALLS", str(tmp_path / "calls"))
    status, rows = run(tmp_path, "--only", "sft, a100", "--only", "sft, Unsloth")
    ours, theirs = (measured(row) for row in rows[1:])
    assert status == 0 and theirs["tokens_per_second"] > 0 and theirs["peak_bytes"] > 0
    assert theirs["ours_over_this_speed"] == pytest.approx(ours["tokens_per_second"] / theirs["tokens_per_second"])
    (first, loaded), (second, tuned) = (json.loads(line) for line in (tmp_path / "calls").read_text().splitlines())
    assert (first, second) == ("from_pretrained", "get_peft_model")
    assert loaded["early"], "it is imported before what it changes"
    assert Path(loaded["model_name"]).name == "tiny" and not loaded["load_in_4bit"] and loaded["max_seq_length"] == 512
    assert (tuned["r"], tuned["lora_alpha"], tuned["lora_dropout"], tuned["bias"]) == (32, 64, 0.0, "none")
    assert {"q_proj", "down_proj"} < set(tuned["target_modules"]) and len(tuned["target_modules"]) == 7
    assert tuned["use_gradient_checkpointing"] == "unsloth" and (tuned["random_state"], tuned["max_seq_length"]) == (42, 512)


@pytest.mark.skipif(find_spec("unsloth") is not None, reason="Unsloth is installed here")
def test_without_unsloth_its_row_is_missing_and_says_how_to_get_it(tmp_path: Path) -> None:
    [row] = [row for row in BESIDE if row.name == "sft, Unsloth"]
    assert runner.missing(row, Setting("cpu", "tiny", str(tmp_path))) == "not installed: unsloth; pip install unsloth"


def test_without_its_environment_vllm_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(serving.PYTHON, str(tmp_path / "no" / "python"))
    with pytest.raises(Missing, match="make vllm-env"):
        serving.colocate(VLLM, Setting("cpu", "tiny", str(tmp_path)))


@pytest.mark.parametrize(
    ("prints", "well", "said"),
    [
        ('echo \'{"equal": true, "slept": false, "tokens": 16, "version": "1"}\'; echo bye', True, "16 greedy tokens, twice the same"),
        (
            'echo \'{"equal": true, "slept": true, "tokens": 16, "version": "1", "awake_bytes": 4e10, "asleep_bytes": 1e9}\'',
            True,
            "40.0 GB awake, 1.0 asleep",
        ),
        ('echo \'{"equal": false, "slept": true, "tokens": 16, "version": "1"}\'', False, "another greedy answer"),
        ("echo no kernel image is available >&2; exit 1", False, "no kernel image"),
        ("echo '{broken'", False, "vLLM ended with status 0"),
    ],
)
def test_what_vllm_says_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, prints: str, well: bool, said: str) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{prints}\n")
    python.chmod(0o755)
    monkeypatch.setenv(serving.PYTHON, str(python))
    outcome = child.run(VLLM, Setting("cpu", "tiny", str(tmp_path)))
    assert outcome.status == ("ok" if well else "failed") and said in outcome.said


@pytest.mark.server
@pytest.mark.skipif(not VLLM_PYTHON.exists(), reason="no vLLM environment: make vllm-env")
def test_the_real_vllm_answers_the_same_twice(tmp_path: Path) -> None:
    status, rows = run(tmp_path, "--only", "vllm")
    assert status == 0 and rows[-1]["status"] == "ok", rows
