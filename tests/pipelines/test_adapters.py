"""The adapters stage: a sound adapter passes unchanged and portable; every way to be unsound is refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from gwen25 import modeling, models
from gwen25.errors import BadInput
from gwen25.job import Input, Job
from gwen25.pipelines import adapters
from tests.pipelines import training_jobs as jobs

TARGETS = models.LORA_TARGETS["Qwen2ForCausalLM"]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Input:
    return jobs.trained_adapter(tmp_path_factory.mktemp("adapter"), tiny_model)


def _job(work: Path, base: Path, adapter: Input, **externals: object) -> Job:
    return jobs.job("adapters", work, jobs.config().adapters, base, {"adapter": adapter}, externals)


def test_a_sound_adapter_is_made_portable(tmp_path: Path, tiny_model: Path, adapter: Input) -> None:
    job = _job(tmp_path / "work", tiny_model, adapter)
    result = adapters.run(job)
    made = jobs.files(job.payload)
    assert sorted(made) == [
        "README.md", "adapter_config.json", "adapter_model.safetensors", "chat_template.jinja", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    assert made["adapter_model.safetensors"] == jobs.files(adapter.payload)["adapter_model.safetensors"]
    assert all(str(tiny_model).encode() not in content for content in made.values())
    assert result.facts["adapter"] == {"weights": 14, "parameters": result.metrics["parameters"], "rank": 8, "scaling": 2.0}
    assert {name: result.facts[name] for name in adapter.facts} == dict(adapter.facts)
    json.dumps([result.facts, result.metrics], allow_nan=False)


def test_the_same_adapter_gives_the_same_bytes_wherever_it_lies(tmp_path: Path, tiny_model: Path, adapter: Input) -> None:
    elsewhere = tmp_path / "moved-base"
    shutil.copytree(tiny_model, elsewhere)
    shutil.copytree(adapter.path, tmp_path / "moved")
    here, there = _job(tmp_path / "a", tiny_model, adapter), _job(tmp_path / "b", elsewhere, replace(adapter, path=tmp_path / "moved"))
    adapters.run(here), adapters.run(there)
    assert jobs.files(here.payload) == jobs.files(there.payload)


def test_peft_loads_it_and_it_changes_the_model(tmp_path: Path, tiny_model: Path, adapter: Input) -> None:
    import torch
    from transformers import AutoTokenizer

    job = _job(tmp_path / "work", tiny_model, adapter)
    adapters.run(job)
    tokenizer = AutoTokenizer.from_pretrained(job.payload)
    assert tokenizer.eos_token == "<|im_end|>" and tokenizer.pad_token == "<|endoftext|>"
    messages = [{"role": "user", "content": "Hi"}]
    assert tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == jobs.FORMAT.render(messages)
    model = modeling.load_adapter(modeling.load_base(tiny_model, tokenizer, jobs.FORMAT, dtype="float32"), job.payload)
    ids = tokenizer(jobs.FORMAT.render(messages), return_tensors="pt")["input_ids"]
    with torch.no_grad():
        adapted = model(ids).logits
        with model.disable_adapter():
            assert (model(ids).logits - adapted).abs().max() > 0.01


def test_the_card_tells_base_data_licences_recipe_format_and_limits(adapter: Input) -> None:
    facts = {**adapter.facts, "base_model": {"id": "Qwen/Qwen2.5-3B", "revision": "a" * 40}, "license": "Qwen Research"}
    text = adapters.card(facts, modeling.read_adapter_config(adapter.payload), jobs.FORMAT)
    for told in (
        "base_model: Qwen/Qwen2.5-3B", "license: other", "license_name: Qwen Research", "| base model | Qwen Research |",
        "| data, 8 rows | cc-by-4.0 |", "| data, 4 rows | apache-2.0 |", "| learning_rate | 0.0002 |", "| rows_train | 12 |",
        "<|im_start|>assistant\n<think>\n", "`<|im_end|>` or `<|endoftext|>`", "run them in a sandbox", "No reinforcement learning",
    ):  # fmt: skip
        assert told in text
    unknown = adapters.card({**facts, "license": None, "dataset": {}}, modeling.read_adapter_config(adapter.payload), jobs.FORMAT)
    assert "unknown: see its own card" in unknown and "| data | unknown |" in unknown and "license:" not in unknown


def test_token_rows_pass_with_a_word_on_who_refuses_them(tmp_path: Path, tiny_model: Path) -> None:
    source = jobs.trained_adapter(tmp_path / "source", tiny_model, chat_tokens=True)
    job = _job(tmp_path / "work", tiny_model, source)
    result = adapters.run(job)
    assert result.facts["adapter"]["token_rows"] == 2 and result.facts["adapter"]["weights"] == 14
    assert json.loads((job.payload / "adapter_config.json").read_text())["trainable_token_indices"] == {"embed_tokens": [641, 642]}
    assert "vLLM and llama.cpp refuse such an adapter: give them the merged model" in (job.payload / "README.md").read_text()
    tensors = modeling.read_adapter(job.payload)
    config = modeling.read_adapter_config(job.payload)
    for odd, told in (({"embed_tokens": [641, 704]}, "does not fit rows"), (None, "config and file disagree")):
        with pytest.raises(BadInput, match=told):
            adapters.check(tensors, {**config, "trainable_token_indices": odd}, models.tensor_shapes(tiny_model), TARGETS)


A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
B = A.replace("lora_A", "lora_B")

Damage = Callable[[dict[str, object]], None]


def _nan(tensors: dict) -> None:
    tensors[A][0, 0] = float("nan")


def _infinite(tensors: dict) -> None:
    tensors[B][3, 1] = float("inf")


def _zero(tensors: dict) -> None:
    for name in tensors:
        if "lora_B" in name:
            tensors[name] = tensors[name] * 0


def _narrow(tensors: dict) -> None:
    tensors[A] = tensors[A][:, :-1].contiguous()


def _other_rank(tensors: dict) -> None:
    tensors[A] = tensors[A][:4].contiguous()


def _half(tensors: dict) -> None:
    del tensors[B]


def _fewer(tensors: dict) -> None:
    del tensors[A], tensors[B]


def _deeper(tensors: dict) -> None:
    for name in (A, B):
        tensors[name.replace("layers.0", "layers.9")] = tensors[name].clone()


def _head(tensors: dict) -> None:
    tensors["base_model.model.lm_head.weight"] = tensors[A].clone()


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (_nan, r"q_proj.lora_A.weight holds a number that is not finite"),
        (_infinite, r"q_proj.lora_B.weight holds a number that is not finite"),
        (_zero, r"every B of the adapter is zero: it is untrained"),
        (_narrow, r"is of shape \(8, 63\) where the base model and r = 8 ask for \(8, 64\)"),
        (_other_rank, r"is of shape \(4, 64\) where"),
        (_half, r"only one of A and B for model.layers.0.self_attn.q_proj.weight"),
        (_fewer, r"leaves out 1 of the base's 14 weights, such as model.layers.0.self_attn.q_proj.weight"),
        (_deeper, r"model.layers.9.self_attn.q_proj.weight'?, which the base model does not have: an adapter of another base"),
        (_head, r"lm_head.weight', which is no LoRA matrix"),
    ],
)
def test_an_unsound_adapter_is_refused(tmp_path: Path, tiny_model: Path, adapter: Input, damage: Damage, told: str) -> None:
    shutil.copytree(adapter.path, tmp_path / "bad")
    bad = replace(adapter, path=tmp_path / "bad")
    tensors = modeling.read_adapter(bad.payload)
    damage(tensors)
    modeling.write_tensors(tensors, bad.payload / "adapter_model.safetensors")
    job = _job(tmp_path / "work", tiny_model, bad)
    with pytest.raises(BadInput, match=told):
        adapters.run(job)
    assert not list(job.payload.iterdir())  # nothing half-made


def test_a_cut_off_file_is_refused(tmp_path: Path, tiny_model: Path, adapter: Input) -> None:
    shutil.copytree(adapter.path, tmp_path / "bad")
    file = tmp_path / "bad" / "payload" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(BadInput, match="not a whole safetensors file"):
        adapters.run(_job(tmp_path / "work", tiny_model, replace(adapter, path=tmp_path / "bad")))


@pytest.mark.parametrize("option", ["lora_bias", "modules_to_save", "fan_in_fan_out", "layer_replication"])
def test_what_cannot_be_merged_is_refused(tmp_path: Path, tiny_model: Path, adapter: Input, option: str) -> None:
    shutil.copytree(adapter.path, tmp_path / "bad")
    file = tmp_path / "bad" / "payload" / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), option: True}))
    with pytest.raises(BadInput, match=f"{option} is set"):
        adapters.run(_job(tmp_path / "work", tiny_model, replace(adapter, path=tmp_path / "bad")))


def test_an_adapter_of_fewer_targets_passes_where_its_config_says_so(tmp_path: Path, tiny_model: Path, adapter: Input) -> None:
    shutil.copytree(adapter.path, tmp_path / "fewer")
    fewer = replace(adapter, path=tmp_path / "fewer")
    tensors = {name: tensor for name, tensor in modeling.read_adapter(fewer.payload).items() if "q_proj" in name or "v_proj" in name}
    modeling.write_tensors(tensors, fewer.payload / "adapter_model.safetensors")
    file = fewer.payload / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "target_modules": ["q_proj", "v_proj"]}))
    assert adapters.run(_job(tmp_path / "work", tiny_model, fewer)).facts["adapter"]["weights"] == 4


def test_an_adapter_of_another_base_is_refused(tmp_path: Path, tiny_model: Path, adapter: Input) -> None:
    job = _job(tmp_path / "work", tiny_model, adapter, base_model={"id": "Qwen/Qwen2.5-3B", "revision": "abcdef"})
    with pytest.raises(BadInput, match=r"an adapter of another base: .* sha256:0+, and .* Qwen/Qwen2.5-3B at revision abcdef"):
        adapters.run(job)
