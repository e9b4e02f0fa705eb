"""Kinds of checkpoint that a GGUF can be made of: how the weights are stored, how the config and the tokenizer are spelled."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gwen25.samples import tiny

YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}
SAMPLING = {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05, "do_sample": True}


def edit(file: Path, **changes: Any) -> None:
    """Set keys of a JSON file; None takes one away."""
    held = (json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}) | changes
    file.write_text(json.dumps({key: value for key, value in held.items() if value is not None}, ensure_ascii=False), encoding="utf-8")


def config(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "config.json", **changes)


def store(folder: Path, change: Callable[[str, Any], Any], shards: int = 1) -> None:
    """Write the weights anew, each passed through `change`, over so many files."""
    from safetensors.torch import load_file, save_file

    weights = {name: change(name, tensor) for name, tensor in load_file(folder / "model.safetensors").items()}
    if shards == 1:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = sorted(weights, key=lambda name: name[::-1])  # an order that is not the model's
    places = {}
    for number in range(shards):
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        held = {name: weights[name] for name in names[number::shards]}
        save_file(held, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(held, file)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}), encoding="utf-8")


def dtype(name: str, shards: int = 1) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        import torch

        store(folder, lambda _, tensor: tensor.to(getattr(torch, name)), shards)

    return change


def mixed(folder: Path) -> None:
    import torch

    store(folder, lambda _, tensor: tensor.to(torch.bfloat16 if tensor.ndim == 2 else torch.float32))


def wild(folder: Path) -> None:
    """Corners of the arithmetic in every matrix: zeros, a block of zeros, subnormals, ties, the largest that all four types hold."""
    import torch

    def change(name: str, tensor: Any) -> Any:
        if tensor.ndim < 2:
            return tensor
        flat = tensor.flatten().clone()
        flat[:32] = 0
        flat[32:64] = torch.arange(32) * 2.0**-133
        flat[64:96] = torch.arange(-16, 16) + 0.5
        flat[64] = 127.0
        flat[96:128] = torch.tensor(np.float32(0.5) + np.arange(32, dtype=np.float32) * 2.0**-11)
        flat[96] = 65504.0 if tensor.shape[0] % 2 else -65504.0
        flat[128:160] = -0.0
        return flat.reshape(tensor.shape)

    store(folder, change)


def saved_by_transformers(folder: Path) -> None:
    """Config, weights and tokenizer as transformers itself saves them today: rope_parameters, dtype, chat_template.jinja."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for file in folder.iterdir():
        file.unlink()
    model.save_pretrained(folder, max_shard_size="60KB")
    tokenizer.save_pretrained(folder)


def template_beside(folder: Path) -> None:
    settings = folder / "tokenizer_config.json"
    (folder / "chat_template.jinja").write_text(json.loads(settings.read_text(encoding="utf-8"))["chat_template"], encoding="utf-8")
    edit(settings, chat_template=None)


LEGACY = {"<|endoftext|>": 640, "<|im_start|>": 641, "<|im_end|>": 642, "<tool_call>": 643, "</tool_call>": 644}


def with_legacy_files(folder: Path) -> None:
    """As tokenizers were saved before added_tokens_decoder: roles and added tokens in files of their own, which count."""
    roles = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "additional_special_tokens": ["<|im_start|>", "<|im_end|>"]}
    edit(folder / "special_tokens_map.json", **roles)
    edit(folder / "added_tokens.json", **LEGACY)
    edit(folder / "tokenizer_config.json", added_tokens_decoder=None, pad_token=None, additional_special_tokens=None)


def with_stale_legacy_files(folder: Path) -> None:
    """The same files left by an earlier save, beside an added_tokens_decoder: nobody reads them."""
    edit(folder / "special_tokens_map.json", eos_token="<|im_end|>", pad_token="<pad>")
    edit(folder / "added_tokens.json", **LEGACY | {"<my_tok>": 645})


def as_llama(folder: Path) -> None:
    """SmolLM2's shape: no biases, a head size that transformers works out, digits one by one and GPT-2's split."""
    from safetensors.torch import load_file, save_file

    weights = {name: tensor for name, tensor in load_file(folder / "model.safetensors").items() if not name.endswith("bias")}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    edit(folder / "config.json", architectures=["LlamaForCausalLM"], model_type="llama", sliding_window=None, use_sliding_window=None)
    split = [
        {"type": "Digits", "individual_digits": True},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    ]
    edit(folder / "tokenizer.json", pre_tokenizer={"type": "Sequence", "pretokenizers": split}, normalizer=None)
    edit(folder / "tokenizer_config.json", tokenizer_class="TokenizersBackend")


def pad(folder: Path, more: int) -> None:
    """More rows in the embedding than the tokenizer has tokens, as Qwen2.5's have."""
    import torch

    rows = json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    edit(folder / "config.json", vocab_size=rows + more)

    def longer(name: str, tensor: Any) -> Any:
        return torch.cat([tensor, tensor[:1].expand(more, -1)]) if name in ("model.embed_tokens.weight", "lm_head.weight") else tensor

    store(folder, longer)


def as_smollm2(folder: Path) -> None:
    """As many rows as SmolLM2 has, which llama.cpp's converter takes as a sign; no post-processor but an empty template."""
    as_llama(folder)
    template = {"single": [{"Sequence": {"id": "A", "type_id": 0}}], "pair": [], "special_tokens": {}}
    edit(folder / "tokenizer.json", post_processor={"type": "TemplateProcessing", **template})
    edit(folder / "tokenizer_config.json", add_bos_token=None)
    pad(folder, 49152 - json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"])


# name -> (what tiny.build takes, what is changed afterwards)
KINDS: dict[str, tuple[dict[str, Any], Callable[[Path], None]]] = {
    "tied": ({}, lambda folder: None),
    "untied": ({"tie_word_embeddings": False}, dtype("bfloat16")),
    "sharded": ({"tie_word_embeddings": False}, dtype("float16", shards=3)),
    "bf16": ({}, dtype("bfloat16")),
    "mixed": ({}, mixed),
    "corners": ({}, wild),
    "yarn": ({}, config(rope_scaling=YARN)),
    "yarn-full": ({}, config(rope_scaling={**YARN, "beta_fast": 32.0, "beta_slow": 1, "attention_factor": 1.25})),
    "yarn-in-rope-parameters": ({}, config(rope_theta=None, rope_parameters={"rope_type": "yarn", "rope_theta": 5e5, "factor": 2.0})),
    "linear": ({}, config(rope_scaling={"rope_type": "linear", "factor": 2})),
    "rope-parameters": ({}, config(rope_theta=None, rope_parameters={"rope_type": "default", "rope_theta": 1000000})),
    "no-theta": ({}, config(rope_theta=None)),
    "saved-by-transformers": ({}, saved_by_transformers),
    "sampling": ({}, lambda folder: edit(folder / "generation_config.json", **SAMPLING)),
    "no-generation-config": ({}, lambda folder: (folder / "generation_config.json").unlink()),
    "no-template": ({}, lambda folder: edit(folder / "tokenizer_config.json", chat_template=None)),
    "template-beside": ({}, template_beside),
    "legacy-files": ({}, with_legacy_files),
    "stale-legacy-files": ({}, with_stale_legacy_files),
    "odd-rows": ({"hidden_size": 48, "intermediate_size": 96}, dtype("bfloat16")),
    "head-size": ({}, config(head_dim=32)),
    "padded": ({}, lambda folder: pad(folder, 37)),
    "llama": ({}, as_llama),
    "llama-49152": ({}, as_smollm2),
    "llama-saved-by-transformers": ({}, lambda folder: (as_llama(folder), saved_by_transformers(folder))[0]),
    "llama-untied": ({"tie_word_embeddings": False}, lambda folder: (as_llama(folder), dtype("bfloat16")(folder))[0]),
}
SPLITS = {kind: "smollm" if kind.startswith("llama") else "qwen2" for kind in KINDS}


def build(kind: str, folder: Path) -> Path:
    shape, change = KINDS[kind]
    tiny.build(folder, **shape)
    change(folder)
    return folder
