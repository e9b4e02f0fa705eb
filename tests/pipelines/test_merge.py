"""Merge: the arithmetic against PEFT's and against its own definition, the files against the hub's layout, and the check itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gwen25 import lora, merging, modeling, models
from gwen25.errors import BadInput, Gwen25Error
from gwen25.job import Input, Job
from gwen25.pipelines import merge
from gwen25.samples import tiny
from tests.pipelines import training_jobs as jobs


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Input:
    return jobs.trained_adapter(tmp_path_factory.mktemp("adapter"), tiny_model)


def _job(work: Path, base: Path, adapter: Input, **overrides: object) -> Job:
    section = jobs.config(**{f"merge__{name}": value for name, value in overrides.items()}).merge
    return jobs.job("merge", work, section, base, {"adapter": adapter})


def _tensors(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    tensors: dict[str, Any] = {}
    for file in models.weight_files(folder):
        tensors |= load_file(file)
    return tensors


def _peft_merge(base: Path, adapter: Input) -> dict[str, Any]:
    tokenizer = modeling.load_tokenizer(base, jobs.FORMAT)
    model = modeling.load_adapter(modeling.load_base(base, tokenizer, jobs.FORMAT, dtype="float32"), adapter.payload)
    return dict(model.merge_and_unload().state_dict())


def test_float32_is_pefts_merge_bit_for_bit(tmp_path: Path, tiny_model: Path, adapter: Input) -> None:
    job = _job(tmp_path / "work", tiny_model, adapter, dtype="float32")
    result = merge.run(job)
    mine, theirs = _tensors(job.payload), _peft_merge(tiny_model, adapter)
    assert mine.keys() == theirs.keys() - {"lm_head.weight"}  # tied: the embedding is the head
    assert all(mine[name].equal(theirs[name]) for name in mine)
    assert result.metrics["kl"] < 1e-9 and result.metrics["top1_agreement"] == 1.0
    assert result.metrics["adapter_kl"] > 1e-3  # the check had something to find


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_trained_token_rows_are_merged_as_peft_does(tmp_path: Path, tied: bool, dtype: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    base = tmp_path / "base"
    tiny.build(base, tie_word_embeddings=tied)
    adapter = jobs.trained_adapter(tmp_path / "adapter", base, chat_tokens=True)
    job = _job(tmp_path / "work", base, adapter, dtype=dtype)
    result = merge.run(job)
    mine, theirs, before = _tensors(job.payload), _peft_merge(base, adapter), _tensors(base)
    assert mine.keys() == theirs.keys() - ({merging.HEAD} if tied else set())
    assert all(mine[name].equal(theirs[name].to(getattr(torch, dtype))) for name in mine)
    for name in {merging.EMBEDDING, merging.HEAD} & mine.keys():
        changed = (mine[name] != before[name].to(mine[name].dtype)).any(dim=1).nonzero().flatten().tolist()
        assert changed == [641, 642], name  # <|im_start|> and <|im_end|>, and no other row
    model = AutoModelForCausalLM.from_pretrained(job.payload)
    assert model.lm_head.weight.equal(model.model.embed_tokens.weight) == tied
    assert result.metrics["top1_agreement"] > 0.9


def test_token_rows_reach_the_gguf(tmp_path: Path, tiny_model: Path) -> None:
    import numpy as np
    from gguf import GGUFReader

    from gwen25.pipelines import gguf

    job = _job(tmp_path / "work", tiny_model, jobs.trained_adapter(tmp_path / "adapter", tiny_model, chat_tokens=True))
    merge.run(job)
    gguf.convert(job.payload, tmp_path / "m.gguf", "f32", chat_format=jobs.FORMAT)
    [table] = [tensor for tensor in GGUFReader(tmp_path / "m.gguf").tensors if tensor.name == "token_embd.weight"]
    assert np.array_equal(table.data, _tensors(job.payload)[merging.EMBEDDING].numpy())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_narrow_dtype_is_the_float32_merge_rounded_once(tmp_path: Path, tiny_model: Path, adapter: Input, dtype: str) -> None:
    import torch

    job = _job(tmp_path / "work", tiny_model, adapter, dtype=dtype)
    result = merge.run(job)
    mine, exact = _tensors(job.payload), _peft_merge(tiny_model, adapter)
    assert all(mine[name].equal(exact[name].to(getattr(torch, dtype))) for name in mine)
    assert 0 < result.metrics["kl"] < merge.TOLERANCE[dtype]
    config = json.loads((job.payload / "config.json").read_text())
    assert config["dtype"] == config["torch_dtype"] == dtype


def test_the_directory_loads_and_speaks_the_format(tmp_path: Path, tiny_model: Path, adapter: Input) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    job = _job(tmp_path / "work", tiny_model, adapter)
    result = merge.run(job)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(job.payload), AutoTokenizer.from_pretrained(job.payload)
    end, pad = (tokenizer.get_vocab()[token] for token in ("<|im_end|>", "<|endoftext|>"))
    assert model.config.eos_token_id == tokenizer.eos_token_id == end and model.config.pad_token_id == tokenizer.pad_token_id == pad
    assert sorted(model.generation_config.eos_token_id) == sorted([end, pad]) and model.generation_config.max_new_tokens is None
    assert tokenizer.chat_template == jobs.FORMAT.jinja
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert {name: result.facts[name] for name in adapter.facts} == dict(adapter.facts)  # lineage for gguf, ollama, evaluate
    assert result.facts["dtype"] == "float32"
    assert all(str(tiny_model).encode() not in content for content in jobs.files(job.payload).values())
    assert models.inspect(job.payload).context == 2048
    json.dumps([result.facts, result.metrics], allow_nan=False)


def test_shards_hold_the_same_model_and_every_attempt_the_same_bytes(tmp_path: Path, tiny_model: Path, adapter: Input) -> None:
    tokenizer = modeling.load_tokenizer(tiny_model, jobs.FORMAT)

    def write(out: Path, max_shard: int) -> dict[str, bytes]:
        out.mkdir(exist_ok=True)
        merge.write_model(tiny_model, adapter.payload, out, tokenizer, jobs.FORMAT, dtype="float32", max_shard=max_shard)
        return jobs.files(out)

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    first = write(whole, 10**9)
    parts.mkdir()
    (parts / "model-00001-of-00009.safetensors").write_bytes(b"left by an earlier attempt")
    (parts / "model-00001-of-00009.safetensors.part").write_bytes(b"left by a killed one")
    assert write(parts, 100_000) == write(parts, 100_000) and write(whole, 10**9) == first
    files = models.weight_files(parts)
    assert len(files) > 2 and files == sorted(parts.glob("*.safetensors")) and not list(parts.glob("*.part"))
    made = {name: tensor.numpy().tobytes() for name, tensor in _tensors(parts).items()}
    assert made == {name: tensor.numpy().tobytes() for name, tensor in _tensors(whole).items()}
    for file in files:
        tensors = models.read_header(file)
        assert sum(entry["data_offsets"][1] - entry["data_offsets"][0] for entry in tensors.values()) <= 100_000 or len(tensors) == 1
    index = json.loads((parts / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(len(content) for content in made.values())
    write(parts, 10**9)
    assert jobs.files(parts) == first  # no shard, and no index, is left over


def test_without_a_format_tokenizer_and_stops_stay_the_bases(tmp_path: Path, tiny_model: Path, adapter: Input) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    merge.write_model(tiny_model, adapter.payload, tmp_path, tokenizer, None, dtype="bfloat16", max_shard=10**9)
    before, after = models.read_config(tiny_model), models.read_config(tmp_path)
    assert before["eos_token_id"] == after["eos_token_id"] and before.get("pad_token_id") == after.get("pad_token_id")
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == tokenizer.chat_template
    assert (tmp_path / "generation_config.json").exists() == (tiny_model / "generation_config.json").exists()
    assert AutoModelForCausalLM.from_pretrained(tmp_path).lm_head.weight.dtype.is_floating_point


def _in_4bit(adapter: Input, dtype: str) -> Input:
    return replace(adapter, facts={**adapter.facts, "sft": {**adapter.facts["sft"], "load_in_4bit": True, "dtype": dtype}})


@pytest.mark.parametrize(("trained", "dtype"), [("float32", "float32"), ("bfloat16", "bfloat16")])
def test_an_adapter_of_a_4bit_base_takes_the_nearer_base(
    tmp_path: Path, tiny_model: Path, adapter: Input, trained: str, dtype: str
) -> None:
    job = _job(tmp_path / "work", tiny_model, _in_4bit(adapter, trained), dtype=dtype)
    result = merge.run(job)
    assert result.facts["merged_base"] == "dequantized"
    bound = merge.TOLERANCE["bfloat16" if merge._multiplies_in_bf16("cpu") else dtype]
    assert result.metrics["kl"] == result.metrics["kl_dequantized_base"] < bound
    assert result.metrics["kl_plain_base"] > 10 * result.metrics["kl"]  # what the adapter had learned to correct
    before, after = _tensors(tiny_model), _tensors(job.payload)
    assert after[merging.EMBEDDING].equal(before[merging.EMBEDDING].to(after[merging.EMBEDDING].dtype))  # no 4-bit embedding


def test_the_plain_base_is_taken_where_it_is_the_nearer(
    tmp_path: Path, tiny_model: Path, adapter: Input, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it would be if dequantization did not give what 4 bits compute with; the files are then those of the plain merge."""
    from gwen25 import nf4

    real = nf4.dequantized

    def worse(*given: Any) -> Any:
        rows = real(*given)
        return lambda start, stop: rows(start, stop) * 0.5

    monkeypatch.setattr(nf4, "dequantized", worse)
    monkeypatch.setitem(merge.TOLERANCE, "float32", 1.0)
    job = _job(tmp_path / "work", tiny_model, _in_4bit(adapter, "float32"))
    result = merge.run(job)
    assert result.facts["merged_base"] == "plain" and result.metrics["kl_plain_base"] < result.metrics["kl_dequantized_base"]
    plain = _job(tmp_path / "plain", tiny_model, adapter)
    assert "merged_base" not in merge.run(plain).facts
    assert jobs.files(job.payload) == jobs.files(plain.payload)


def test_the_last_training_says_whether_it_was_4bit() -> None:
    four, full = {"load_in_4bit": True, "dtype": "float16"}, {"load_in_4bit": False, "dtype": "float32"}
    told = [
        merge.trained_in_4bit(facts)
        for facts in ({}, {"sft": full}, {"sft": four}, {"sft": four, "grpo": full}, {"sft": full, "grpo": four})
    ]
    assert told == [None, None, "float16", None, "float16"]


def test_an_untied_head_is_kept(tmp_path: Path) -> None:
    base = tmp_path / "untied"
    tiny.build(base, tie_word_embeddings=False)
    job = _job(tmp_path / "work", base, jobs.trained_adapter(tmp_path / "adapter", base))
    merge.run(job)
    before, after = _tensors(base), _tensors(job.payload)
    assert after.keys() == before.keys() and after["lm_head.weight"].equal(before["lm_head.weight"])


def test_a_copy_of_the_embedding_as_head_is_dropped_and_another_head_refused(tmp_path: Path) -> None:
    base = tmp_path / "base"
    tiny.build(base)
    adapter = jobs.trained_adapter(tmp_path / "adapter", base)
    tensors = _tensors(base)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()  # as some checkpoints store it
    modeling.write_tensors(tensors, base / "model.safetensors")
    job = _job(tmp_path / "work", base, adapter)
    merge.run(job)
    assert "lm_head.weight" not in _tensors(job.payload)
    tensors["lm_head.weight"][0, 0] += 1
    modeling.write_tensors(tensors, base / "model.safetensors")
    with pytest.raises(BadInput, match=r"says tie_word_embeddings, and lm_head.weight differs"):
        merge.run(job)


def test_a_wrong_merge_is_not_published(tmp_path: Path, tiny_model: Path, adapter: Input, monkeypatch: pytest.MonkeyPatch) -> None:
    scaling = lora.scaling
    for factor in (0.0, 0.5, -1.0):  # the adapter lost, halved, or subtracted
        monkeypatch.setattr(lora, "scaling", lambda config, module, factor=factor: factor * scaling(config, module))
        with pytest.raises(Gwen25Error, match=r"is not base . adapter|has lost part of the adapter"):
            merge.run(_job(tmp_path / str(factor), tiny_model, adapter, dtype="bfloat16"))


def test_the_check_in_numbers() -> None:
    import torch

    draw = torch.Generator().manual_seed(0)
    target = [torch.randn(5, 11, generator=draw) for _ in range(2)]
    same = merge.agreement(target, [logits + 3.0 for logits in target], [logits * 0 for logits in target])
    assert same.kl == pytest.approx(0, abs=1e-9) and same.top1_agreement == 1.0  # a constant changes no distribution
    uniform = sum(float((logits.softmax(-1) * logits.log_softmax(-1)).sum(-1).mean()) for logits in target) / 2 + float(
        torch.tensor(11.0).log()
    )
    assert same.adapter_kl == pytest.approx(uniform, rel=1e-5)
    merge.require_agreement(replace(same, max_logit_difference=0.0), "float32")
    broken = merge.agreement(target, [logits * float("nan") for logits in target], target)
    with pytest.raises(Gwen25Error, match="KL nan"):
        merge.require_agreement(broken, "bfloat16")
    with pytest.raises(Gwen25Error, match="has lost part"):
        merge.require_agreement(merge.Agreement(kl=0.008, max_logit_difference=1.0, top1_agreement=0.9, adapter_kl=0.03), "bfloat16")


def test_check_prompts_are_as_many_and_different() -> None:
    prompts = list(merge.check_prompts(jobs.FORMAT, 5))
    assert len(set(prompts)) == 5 and all(prompt.endswith("<|im_start|>assistant\n<think>\n") for prompt in prompts)


@pytest.mark.parametrize(("text", "size"), [("5GB", 5_000_000_000), ("300MB", 300_000_000)])
def test_shard_sizes(text: str, size: int) -> None:
    assert merge.shard_bytes(text) == size


def test_another_base_or_format_is_refused(tmp_path: Path, tiny_model: Path, adapter: Input) -> None:
    for change, told in (
        ({"base_model": {"digest": "1" * 64}}, r"an adapter of another base: it was trained on sha256:1"),
        ({"chat_format": {"name": jobs.FORMAT.name, "digest": "x"}}, r"another version of the chat format"),
    ):
        with pytest.raises(BadInput, match=told):
            merge.run(_job(tmp_path / "work", tiny_model, replace(adapter, facts={**adapter.facts, **change})))
    deeper = tmp_path / "deeper"
    tiny.build(deeper, num_hidden_layers=3)
    with pytest.raises(BadInput, match=r"layers.2.* which the base model does not have"):
        merge.run(_job(tmp_path / "other", tiny_model, jobs.trained_adapter(tmp_path / "three", deeper)))
