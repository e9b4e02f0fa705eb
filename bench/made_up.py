"""Checkpoints of a real model's shape and size with weights that mean nothing, and an adapter for one; made as fast as a disk writes.

    checkpoint("0.5B", Path("base"))      988 MB of bf16, one file
    checkpoint("3B", Path("base"))        6.2 GB of bf16, two files
    adapter(Path("base"), Path("adapter"))

Weights are normal with a spread of 0.02 like trained ones, cut from one random megabyte or so at ever other places: what is converted
or added takes as long as with weights that are all different.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from gwen25.samples import tiny

SHAPES: dict[str, dict[str, int]] = {
    "tiny": {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 1024},
    "0.5B": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14, "vocab_size": 151936},
    "3B": {"hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "num_attention_heads": 16, "vocab_size": 151936},
}
GROUPS = 2  # key-value heads, of both
SHARD = 4 * 10**9
RANK = 16
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def checkpoint(size: str, out: Path, tokenizer: Path | None = None) -> None:
    """`tokenizer`: a folder with a tokenizer.json (or .gz), the packaged one of 700 tokens otherwise."""
    tiny.build(out, tokenizer=tokenizer)
    (out / "model.safetensors").unlink()
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    config |= {**SHAPES[size], "num_key_value_heads": GROUPS, "torch_dtype": "bfloat16", "tie_word_embeddings": True}
    (out / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    shards = _shards(dict(_shapes(config)), 2)
    places = {}
    for number, shapes in enumerate(shards, 1):
        file = "model.safetensors" if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write(out / file, shapes, "BF16")
        places |= dict.fromkeys(shapes, file)
    if len(shards) > 1:
        (out / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}), encoding="utf-8")


def adapter(base: Path, out: Path) -> None:
    """LoRA of rank 16 on all seven projections, in PEFT's layout, float32, scale 2."""
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    shapes = {}
    for name, shape in _shapes(config):
        if name.split(".")[-2] in PROJECTIONS and name.endswith("weight"):
            stem = f"base_model.model.{name.removesuffix('.weight')}"
            shapes |= {f"{stem}.lora_A.weight": (RANK, shape[1]), f"{stem}.lora_B.weight": (shape[0], RANK)}
    out.mkdir(parents=True)
    _write(out / "adapter_model.safetensors", dict(sorted(shapes.items())), "F32")
    settings = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 2 * RANK, "target_modules": list(PROJECTIONS)}
    (out / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")


def _shapes(config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    keys = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    yield "model.embed_tokens.weight", (config["vocab_size"], hidden)
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        yield f"{at}.input_layernorm.weight", (hidden,)
        yield f"{at}.post_attention_layernorm.weight", (hidden,)
        for name, width in (("q", hidden), ("k", keys), ("v", keys)):
            yield f"{at}.self_attn.{name}_proj.weight", (width, hidden)
            yield f"{at}.self_attn.{name}_proj.bias", (width,)
        yield f"{at}.self_attn.o_proj.weight", (hidden, hidden)
        yield f"{at}.mlp.gate_proj.weight", (inner, hidden)
        yield f"{at}.mlp.up_proj.weight", (inner, hidden)
        yield f"{at}.mlp.down_proj.weight", (hidden, inner)
    yield "model.norm.weight", (hidden,)


def _shards(shapes: dict[str, tuple[int, ...]], itemsize: int) -> list[dict[str, tuple[int, ...]]]:
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    for name, shape in sorted(shapes.items()):
        if sum(map(prod, shards[-1].values())) * itemsize > SHARD:
            shards.append({})
        shards[-1][name] = shape
    return shards


def _write(file: Path, shapes: dict[str, tuple[int, ...]], dtype: str) -> None:
    noise = np.random.default_rng(0).standard_normal(1 << 20, dtype=np.float32) * np.float32(0.02)
    bits = (noise.view(np.uint32) >> 16).astype(np.uint16) if dtype == "BF16" else noise
    numbers = np.tile(bits, 2)  # any megabyte of it that is asked for
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, shape in shapes.items():
        end = at + prod(shape) * numbers.itemsize
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for place, shape in enumerate(shapes.values()):
            _fill(out, numbers, prod(shape), place * 7919)
        out.flush()
        os.fsync(out.fileno())


def _fill(out: Any, numbers: np.ndarray[Any, Any], count: int, place: int) -> None:
    period = len(numbers) // 2
    while count:
        start = place % period
        length = min(count, period)
        out.write(numbers[start : start + length].data)
        count -= length
        place += 104729
