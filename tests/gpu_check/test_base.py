"""What the training rows stand on: weights of the real shape, an adapter that GRPO takes, rows as long as a profile allows."""

from __future__ import annotations

from pathlib import Path

import pytest

from gwen25 import modeling, models
from gwen25.chat import FORMATS
from gwen25.data import read_jsonl
from gwen25.gpu_check import ROWS, Missing, Setting, base, steps
from gwen25.models import Shape

FORMAT = FORMATS["chatml-think"]
MIDDLE = Shape(128, 3, 4, 2, 256, 2048, True)
BY_NAME = {row.name: row for row in ROWS}


def test_the_tensors_are_the_real_models() -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    for shape in (base.REAL, MIDDLE, Shape(128, 2, 4, 2, 256, 2048, False)):
        names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size")
        sizes = {name: getattr(shape, name) for name in names}
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen2", tie_word_embeddings=shape.tie_word_embeddings, **sizes))
        expected = {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}
        assert dict(base.tensors(shape)) == expected


def test_a_written_checkpoint_loads_whole_and_is_random(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(base, "POOL", 10_007)
    monkeypatch.setattr(base, "SHARD", 500_000)
    size = base.write(tmp_path, MIDDLE, tiny_model)
    assert size == 2 * MIDDLE.parameters and len(models.weight_files(tmp_path)) > 1
    assert models.inspect(tmp_path).context == base.CONTEXT
    model = modeling.load_base(tmp_path, modeling.load_tokenizer(tmp_path, FORMAT), FORMAT, dtype="bfloat16")
    assert sum(parameter.numel() for parameter in model.parameters()) == MIDDLE.parameters
    state = model.state_dict()
    assert state["model.norm.weight"].eq(1).all() and state["model.layers.0.self_attn.q_proj.bias"].eq(0).all()
    drawn = state["model.layers.2.mlp.up_proj.weight"].float()
    assert abs(float(drawn.std()) - base.SPREAD) < 0.002 and abs(float(drawn.mean())) < 0.002
    assert len({tuple(row.tolist()) for row in drawn[:64]}) == 64, "no two rows are equal"
    assert torch.isfinite(model(input_ids=torch.tensor([[1, 2, 3]])).logits).all()


def test_a_small_disk_is_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 5e9}))
    with pytest.raises(Missing, match=r"6\.5 GB are needed"):
        base.weights(BY_NAME["weights"], Setting("cuda", "qwen2.5-3b", str(tmp_path)))
    assert not base.whole(Setting("cuda", "qwen2.5-3b", str(tmp_path))).exists()


def test_the_adapter_is_one_that_peft_takes_and_that_changes_nothing_yet(tmp_path: Path, tiny_model: Path) -> None:
    import torch

    shape = models.shape_of(models.read_config(tiny_model), "tiny")
    base.adapter(tmp_path, shape, 8, 16)
    model = modeling.load_base(tiny_model, modeling.load_tokenizer(tiny_model, FORMAT), FORMAT, dtype="float32")
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        before = model(input_ids=ids).logits.clone()
        tuned = modeling.load_adapter(model, tmp_path, trainable=True)
        assert torch.equal(tuned(input_ids=ids).logits, before)
    modeling.restore_adapter(tuned, tmp_path)
    assert modeling.require_trainable(tuned) == shape.lora(8)


@pytest.mark.parametrize("profile", ["a100", "t4"])
def test_rows_are_as_long_as_the_profile_allows_and_no_longer(tmp_path: Path, profile: str) -> None:
    """The real lengths: what the estimate is taken of is what is trained on."""
    setting = Setting("cuda", "qwen2.5-3b", str(tmp_path))
    config = steps.config_of(BY_NAME[f"sft, {profile}"], setting)
    tokenizer = modeling.load_tokenizer(base.tiny(tmp_path), FORMAT)
    folder = tmp_path / "dataset"
    (folder / "payload").mkdir(parents=True)
    steps._rows(folder, config, tokenizer, FORMAT)
    [trained, _] = [row for _, row in read_jsonl(folder / "payload" / "train.jsonl")]
    length = steps._tokens(tokenizer, FORMAT.render(trained["messages"]) + FORMAT.answer(trained["reasoning"], trained["code"])) + 1
    assert 0.98 < length / config.sft.max_length <= 1
    [asked, _] = [row for _, row in read_jsonl(folder / "payload" / "grpo.jsonl")]
    assert 0.95 < steps._tokens(tokenizer, FORMAT.render(asked["messages"])) / config.dataset.max_prompt_length <= 1


def test_the_measured_config_is_the_profiles_but_for_what_is_said(tmp_path: Path) -> None:
    from gwen25.config import flatten, load_config

    for profile in ("a100", "t4"):
        found = flatten(steps.config_of(BY_NAME[f"grpo, {profile}"], Setting("cuda", "qwen2.5-3b", str(tmp_path))).model_dump(mode="json"))
        plain = flatten(load_config(profile).model_dump(mode="json"))
        # the interpreter follows from grpo.vllm
        assert {name for name in plain if plain[name] != found[name]} <= {*steps.CHANGED, "runtime.python"}
        assert found["sft.lora_r"] == 32 and found["sft.load_in_4bit"] == (profile == "t4")
