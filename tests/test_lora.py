"""What an adapter's config says, by PEFT's rules, and what is refused by its name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gwen25 import lora
from gwen25.errors import BadInput

Q = "base_model.model.model.layers.0.self_attn.q_proj"
MODULES = [f"model.layers.{layer}.{room}" for layer in (0, 1, 10) for room in ("self_attn.q_proj", "mlp.up_proj")] + ["lm_head"]
KEYS = ["q_proj", "proj", "layers.1", r"layers\.1\..*", "model.layers.0.self_attn.q_proj", "self_attn.q_proj", "(q|up)_proj", "", ".*"]


def _folder(tmp_path: Path, config: Any) -> Path:
    (tmp_path / "adapter_config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return tmp_path


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS), st.integers(1, 64), max_size=4), st.sampled_from(MODULES))
def test_patterns_match_as_pefts_do(pattern: dict[str, int], module: str) -> None:
    from peft.utils.other import get_pattern_key

    wanted = pattern.get(get_pattern_key(list(pattern), module), 8)
    assert lora.rank_of({"r": 8, "rank_pattern": pattern}, module) == wanted
    assert lora.scaling({"r": 1, "lora_alpha": 8, "alpha_pattern": pattern}, module) == wanted


def test_scales() -> None:
    config = {"r": 16, "lora_alpha": 8, "rank_pattern": {"q_proj": 4}}
    assert (lora.scaling(config, "v_proj"), lora.scaling(config, "q_proj")) == (0.5, 2.0)
    assert (lora.scaling({**config, "use_rslora": True}, "v_proj"), lora.scaling({**config, "use_rslora": True}, "q_proj")) == (2.0, 4.0)


@pytest.mark.parametrize(
    "config", [{}, {"peft_type": "LORA"}, {"peft_type": "LORA", "rank_pattern": None, "bias": "none", "of later": False}]
)
def test_keys_that_are_left_out_have_pefts_defaults(tmp_path: Path, config: dict[str, Any]) -> None:
    read = lora.read_config(_folder(tmp_path, config))
    assert (read["r"], read["lora_alpha"]) == (8, 8)
    pair = lora.pairs(read, [f"{Q}.lora_A.weight", f"{Q}.lora_B.weight"])["model.layers.0.self_attn.q_proj.weight"]
    assert pair == lora.Pair(f"{Q}.lora_A.weight", f"{Q}.lora_B.weight", None, 8, 1.0)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"peft_type": "LOHA"}, "peft_type is LOHA, and only LORA can be merged here; merge it with PEFT"),
        ({"peft_type": "IA3"}, "peft_type is IA3"),
        ({"peft_type": "PROMPT_TUNING"}, "peft_type is PROMPT_TUNING"),
        *(({option: True}, f"{option} is set, which cannot be merged here; merge it with PEFT") for option in lora._REFUSED),
        ({"of_later": {"scale": 2}}, "of_later is set, an option that gwen25 does not know"),
        ({"bias": "lora_only"}, "trains biases of the base"),
        ({"init_lora_weights": "pissa_niter_4"}, "save it as plain LoRA"),
        ({"init_lora_weights": "loftq"}, "such a training changes the base's weights before it begins"),
        ({"r": 0}, "r = 0 and lora_alpha = 8 make no adapter"),
        ({"lora_alpha": float("nan")}, "lora_alpha = nan make no adapter"),
        ({"r": "x"}, "is not the config of a LoRA adapter"),
        ({"rank_pattern": [1]}, "is not the config of a LoRA adapter"),
        ({"rank_pattern": {"q_proj": 0}}, "map names to numbers that are not 0"),
        ([1], "is not the config of a LoRA adapter"),
        ("{", "is not the config of a LoRA adapter"),
    ],
)
def test_what_cannot_be_merged_is_refused_by_name(tmp_path: Path, config: Any, told: str) -> None:
    with pytest.raises(BadInput, match=told):
        lora.read_config(_folder(tmp_path, config))


def test_every_field_of_pefts_config_is_known_and_its_defaults_are_taken(tmp_path: Path) -> None:
    from dataclasses import fields

    from peft import LoraConfig

    assert {field.name for field in fields(LoraConfig)} == lora._KNOWN
    LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj"], lora_dropout=0.1).save_pretrained(tmp_path)
    assert lora.read_config(tmp_path)["r"] == 4


@pytest.mark.parametrize("start", [True, False, None, "gaussian", "eva", "orthogonal"])
def test_starts_that_leave_the_base_alone_are_taken(tmp_path: Path, start: Any) -> None:
    assert lora.read_config(_folder(tmp_path, {"init_lora_weights": start}))["init_lora_weights"] == start


@pytest.mark.parametrize(
    ("names", "config", "told"),
    [
        ([f"{Q}.lora_A.weight"], {}, "only one of A and B for model.layers.0.self_attn.q_proj.weight"),
        ([f"{Q}.lora_A.weight", f"{Q}.lora_B.weight"], {"use_dora": True}, "use_dora is true .* and its file holds no magnitudes of"),
        ([f"{Q}.lora_{part}" for part in ("A.weight", "B.weight", "magnitude_vector")], {}, "use_dora is false .* holds magnitudes of"),
        ([f"{Q}.lora_B.bias"], {}, "no LoRA matrix of a linear layer"),
        (["base_model.model.model.embed_tokens.lora_embedding_A"], {}, "LoRA on the embedding cannot be merged here; merge it with PEFT"),
        (["base_model.model.lm_head.weight"], {}, "no LoRA matrix of a linear layer"),
    ],
)
def test_tensors_that_are_no_pairs_are_refused(names: list[str], config: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInput, match=told):
        lora.pairs({"r": 8, "lora_alpha": 8, **config}, names)


def test_a_head_that_is_tied_is_not_adapted_alone() -> None:
    head = "base_model.model.lm_head"
    pairs = lora.pairs({"r": 2, "lora_alpha": 2}, [f"{head}.lora_A.weight", f"{head}.lora_B.weight"])
    shapes = {f"{head}.lora_A.weight": (2, 4), f"{head}.lora_B.weight": (9, 2)}
    lora.require_fit(pairs, shapes, {"lm_head.weight": (9, 4)})
    with pytest.raises(BadInput, match=r"changes lm_head.weight, which is tied to the embedding"):
        lora.require_fit(pairs, shapes, {}, tied=True)


def test_a_pickle_is_not_read(tmp_path: Path) -> None:
    assert "an adapter directory in PEFT's layout is expected" in lora.no_weights(tmp_path)
    (tmp_path / "adapter_model.bin").write_bytes(b"")
    assert "adapter_model.bin is a pickle, which runs code as it is read; save the adapter with" in lora.no_weights(tmp_path)


def test_a_pattern_that_is_no_expression_is_refused() -> None:
    with pytest.raises(BadInput, match=r"a pattern '\(' that is no regular expression"):
        lora.rank_of({"r": 8, "rank_pattern": {"(": 4}}, "q_proj")
