"""Merge: the arithmetic against PEFT's and against its own definition, the files against the hub's layout, and the check itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gwen25 import modeling, models
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
    whole, parts = _job(tmp_path / "whole", tiny_model, adapter), _job(tmp_path / "parts", tiny_model, adapter)
    merge.run(whole)
    tokenizer = modeling.load_tokenizer(tiny_model, jobs.FORMAT)
    (parts.payload / "model-00001-of-00009.safetensors").write_bytes(b"left by an earlier attempt")
    for _ in range(2):
        for old in parts.payload.glob("model*"):
            old.unlink()
        size = merge.write_weights(tiny_model, adapter.payload, parts.payload, dtype="float32", max_shard=100_000, job=parts)
        files = models.weight_files(parts.payload)
        assert len(files) > 2 and files == sorted(parts.payload.glob("*.safetensors"))
        made = {name: tensor.numpy().tobytes() for name, tensor in _tensors(parts.payload).items()}
        assert made == {name: tensor.numpy().tobytes() for name, tensor in _tensors(whole.payload).items()}
        for file in files:
            tensors = models.read_header(file)
            assert sum(entry["data_offsets"][1] - entry["data_offsets"][0] for entry in tensors.values()) <= 100_000 or len(tensors) == 1
    index = json.loads((parts.payload / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == size == sum(len(content) for content in made.values())
    merge.write_model(tiny_model, adapter.payload, whole.payload, tokenizer, jobs.FORMAT, whole.config, whole)
    first = jobs.files(whole.payload)
    merge.write_model(tiny_model, adapter.payload, whole.payload, tokenizer, jobs.FORMAT, whole.config, whole)
    assert jobs.files(whole.payload) == first


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
    scaling = modeling.scaling
    for factor in (0.0, 0.5, -1.0):  # the adapter lost, halved, or subtracted
        monkeypatch.setattr(modeling, "scaling", lambda config, factor=factor: factor * scaling(config))
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
