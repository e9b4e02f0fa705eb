"""A config.json's model in GGUF's words: which architecture, the names and shapes of its tensors, its keys.

    config = supported(model_dir)             or BadInput, by name
    mapped(config, tensors, model_dir)        [("token_embd.weight", Stored(...)), ...]
    add_model(writer, config, model_dir, file_type, weights, labels)

Defaults and the two spellings of rope (rope_scaling beside rope_theta, or transformers 5's rope_parameters) are resolved as
transformers does, whose config llama.cpp's converter reads. Not here: the tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gwen25.errors import BadInput
from gwen25.gguf_writer.source import Stored
from gwen25.models import read_config

# GGUF's name of an architecture. llama.cpp turns a Llama's q and k in pairs of neighbours, transformers in halves: see `turned_heads`.
_ARCHITECTURES: Final = {"Qwen2ForCausalLM": "qwen2", "LlamaForCausalLM": "llama"}

EMBEDDING: Final = "model.embed_tokens.weight"
HEAD: Final = "lm_head.weight"
_TOP: Final = {EMBEDDING: "token_embd.weight", "model.norm.weight": "output_norm.weight"}
_BLOCK: Final = {
    "input_layernorm.weight": "attn_norm.weight",
    **{f"self_attn.{x}_proj.{part}": f"attn_{x}.{part}" for x in "qkv" for part in ("weight", "bias")},
    "self_attn.o_proj.weight": "attn_output.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    **{f"mlp.{x}_proj.weight": f"ffn_{x}.weight" for x in ("gate", "up", "down")},
}
_SIZES: Final = (
    "num_hidden_layers",
    "max_position_embeddings",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
)


@dataclass(frozen=True, slots=True)
class Labels:
    """What a file may say of itself beyond the checkpoint: general.name, general.license, and `lineage` as gwen25.* keys."""

    name: str | None = None
    licence: str | None = None
    lineage: Mapping[str, str] | None = None


def supported(model_dir: Path) -> dict[str, Any]:
    """The checkpoint's config, once it is one that is carried over completely."""
    config = read_config(model_dir)
    where = f"{model_dir}/config.json"
    architecture = ", ".join(map(str, config.get("architectures") or ["none named"]))
    if architecture not in _ARCHITECTURES:
        raise BadInput(f"{where}: architecture {architecture}; only {', '.join(_ARCHITECTURES)} can be written as GGUF here")
    if config.get("attention_bias") or config.get("mlp_bias"):
        raise BadInput(f"{where}: a Llama with biases is not carried over; convert with llama.cpp's own script")
    if (activation := config.get("hidden_act", "silu")) != "silu":
        raise BadInput(f"{where}: hidden_act is {activation!r}; llama.cpp computes silu, whatever the config says")
    if config.get("use_sliding_window"):
        raise BadInput(f"{where}: use_sliding_window is set; llama.cpp's qwen2 knows full attention only")
    missing = [key for key in (*_SIZES, "rms_norm_eps", "vocab_size") if not isinstance(config.get(key), (int, float))]
    if missing:
        raise BadInput(f"{where}: no number for {', '.join(missing)}")
    _require_known_rope(_rope(config), where)
    return config


def name_of(config: Mapping[str, Any]) -> str:
    return _ARCHITECTURES[config["architectures"][0]]


def turned_heads(config: Mapping[str, Any], tensor: str) -> int | None:
    """In how many heads a tensor's rows change places for llama.cpp; None where they keep theirs."""
    if name_of(config) != "llama":
        return None
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    return heads.get(tensor.split(".")[-2])


# ------------------------------------------------------------------------------------------------------------------- tensors


def mapped(config: Mapping[str, Any], stored: list[Stored], model_dir: Path) -> list[tuple[str, Stored]]:
    """GGUF's name beside each tensor, in the checkpoint's order. Complete, nothing unknown, every shape as configured.

    The copy of a tied embedding that some writers keep as lm_head is left out; that it is one is the caller's to check.
    """
    names = dict(_TOP)
    for layer in range(config["num_hidden_layers"]):
        block = {key: value for key, value in _BLOCK.items() if not (key.endswith("bias") and name_of(config) == "llama")}
        names |= {f"model.layers.{layer}.{key}": f"blk.{layer}.{value}" for key, value in block.items()}
    if not config.get("tie_word_embeddings"):
        names[HEAD] = "output.weight"
    found = {tensor.name: tensor for tensor in stored if not (tensor.name == HEAD and HEAD not in names)}
    if missing := names.keys() - found.keys():
        raise BadInput(f"{model_dir}: {len(missing)} tensors are missing, such as {min(missing)}")
    if unknown := found.keys() - names.keys():
        raise BadInput(f"{model_dir}: {len(unknown)} tensors are not {name_of(config)}'s, such as {min(unknown)}")
    shapes = _shapes(config)
    for tensor in found.values():
        expected = shapes[tensor.name.split(".", 3)[-1] if ".layers." in tensor.name else tensor.name]
        if tensor.shape != expected:
            raise BadInput(f"{model_dir}: {tensor.name} has shape {list(tensor.shape)}; the config asks for {list(expected)}")
    return [(names[name], tensor) for name, tensor in found.items()]


def _head_size(config: Mapping[str, Any]) -> int:
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def _shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shape by tensor name, (out, in) as torch has it; a block's tensors by the name within the block."""
    hidden, inner, rows = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    queries, keys = (config[heads] * _head_size(config) for heads in ("num_attention_heads", "num_key_value_heads"))
    shapes: dict[str, tuple[int, ...]] = {
        EMBEDDING: (rows, hidden),
        HEAD: (rows, hidden),
        "model.norm.weight": (hidden,),
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
        "self_attn.o_proj.weight": (hidden, queries),
        "mlp.gate_proj.weight": (inner, hidden),
        "mlp.up_proj.weight": (inner, hidden),
        "mlp.down_proj.weight": (hidden, inner),
    }
    for name, width in (("q", queries), ("k", keys), ("v", keys)):
        shapes |= {f"self_attn.{name}_proj.weight": (width, hidden), f"self_attn.{name}_proj.bias": (width,)}
    return shapes


# ---------------------------------------------------------------------------------------------------------------------- keys


def add_model(writer: Any, config: Mapping[str, Any], model_dir: Path, file_type: int, weights: int, labels: Labels) -> None:
    """Every key but the tokenizer's, in llama.cpp's order. `weights`: how many the file holds."""
    import gguf

    writer.add_type(gguf.GGUFType.MODEL)
    _add_sampling(writer, model_dir / "generation_config.json")
    if labels.name:
        writer.add_name(labels.name)
    writer.add_size_label(gguf.size_label(weights, weights, 0, 0))
    if labels.licence:
        writer.add_license(labels.licence)
    for key, value in (labels.lineage or {}).items():
        writer.add_string(f"gwen25.{key}", value)
    layers, context, hidden, inner, heads, groups = (int(config[key]) for key in _SIZES)
    writer.add_block_count(layers)
    writer.add_context_length(context)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(groups)
    _add_rope(writer, _rope(config))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    llama = name_of(config) == "llama"
    if llama or config.get("head_dim"):  # transformers' LlamaConfig works it out, Qwen2's has none unless the file names one
        writer.add_key_length(_head_size(config))
        writer.add_value_length(_head_size(config))
    writer.add_file_type(file_type)
    if llama:
        writer.add_vocab_size(int(config["vocab_size"]))
        writer.add_rope_dimension_count(_head_size(config))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


# generation_config.json's name -> the writer's, in llama.cpp's order
_SAMPLING: Final = {
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "temperature": "temp",
    "repetition_penalty": "penalty_repeat",
}


def _add_sampling(writer: Any, file: Path) -> None:
    """The advice on sampling, where there is some. llama.cpp's converter passes over a file that is no JSON; so does this."""
    try:
        advice = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    given = {key: advice[key] for key in _SAMPLING if advice.get(key) is not None} if isinstance(advice, dict) else {}
    for key, value in given.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1 << 31:
            raise BadInput(f"{file}: {key} is {value!r}; a number is expected")
        getattr(writer, f"add_sampling_{_SAMPLING[key]}")(int(value) if key == "top_k" else float(value))


def _rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """Rope's parameters in transformers 5's spelling; the older spelling goes first where a file has both, as there."""
    rope = dict(config.get("rope_scaling") or config.get("rope_parameters") or {})
    rope["rope_type"] = rope.get("rope_type") or rope.get("type") or "default"
    if rope.get("rope_theta") is None:
        rope["rope_theta"] = config.get("rope_theta") or 10_000
    if rope["rope_type"] == "yarn":
        rope.setdefault("original_max_position_embeddings", config["max_position_embeddings"])
    return rope


_ROPE_NUMBERS: Final = {
    "default": (),
    "linear": ("factor",),
    "yarn": ("factor", "original_max_position_embeddings"),
}


def _require_known_rope(rope: Mapping[str, Any], where: str) -> None:
    kind = rope["rope_type"]
    if kind not in _ROPE_NUMBERS:
        raise BadInput(f"{where}: rope scaling {kind!r} is not carried over; remove it, or convert with llama.cpp's own script")
    if missing := [key for key in ("rope_theta", *_ROPE_NUMBERS[kind]) if not isinstance(rope.get(key), (int, float))]:
        raise BadInput(f"{where}: rope scaling {kind!r} has no number for {', '.join(missing)}")


def _add_rope(writer: Any, rope: Mapping[str, Any]) -> None:
    import gguf

    kind = rope["rope_type"]
    if kind != "default":
        writer.add_rope_scaling_type(gguf.RopeScalingType(kind))
        writer.add_rope_scaling_factor(rope["factor"])
    if kind == "yarn":
        writer.add_rope_scaling_orig_ctx_len(int(rope["original_max_position_embeddings"]))
        for name, value in (
            ("ext_factor", rope.get("extrapolation_factor")),
            ("attn_factor", rope.get("attention_factor", rope.get("attn_factor"))),
            ("beta_fast", rope.get("beta_fast")),
            ("beta_slow", rope.get("beta_slow")),
        ):
            if value is not None:
                getattr(writer, f"add_rope_scaling_yarn_{name}")(value)
    writer.add_rope_freq_base(float(rope["rope_theta"]))
