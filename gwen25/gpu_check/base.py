"""What the training rows stand on: random weights of a real shape, an untrained adapter, rows as long as a profile allows.

    weights(row, setting)          the row that writes them below setting.folder
    tiny(folder) ; whole(setting)  the packaged tiny model's folder; the one that the training rows load

They lie on disk, so that loading, with its quantizing, is the stage's own. Every weight is drawn from one pool of numbers: a draw for
each of 3 billion would take longer than the row may. The tokenizer is the packaged one: most rows of the embedding have no word.
"""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from gwen25 import models
from gwen25.gpu_check import Missing, Outcome, Row, Setting
from gwen25.models import Shape

REAL: Final = models.BASE_MODELS["Qwen/Qwen2.5-3B"].shape
CONTEXT: Final = 32768  # Qwen2.5-3B's
POOL: Final = 4_000_037  # numbers; no multiple of a row's length, so that no two rows near each other are equal
SHARD: Final = 4_000_000_000  # bytes of a file, as the hub's are
SPREAD: Final = 0.02  # of the random weights, Qwen2's own initializer_range
IDENTITY: Final = {"digest": "0" * 64}


def weights(row: Row, setting: Setting) -> Outcome:
    """Write the base of the training rows."""
    folder = Path(setting.folder)
    made = tiny(folder)
    if setting.shape == "tiny":
        return Outcome("ok", f"the packaged tiny model: {shape(setting).parameters:,} parameters")
    free, need = shutil.disk_usage(folder).free, 2.1 * REAL.parameters
    if free < need:
        raise Missing(
            f"disk: {need / 1e9:.1f} GB are needed at {folder}, {free / 1e9:.1f} are free; set GWEN25_HOME to a larger one, or --keep"
        )
    size = write(whole(setting), REAL, made)
    return Outcome("ok", f"{REAL.parameters:,} random parameters in bfloat16, {size / 1e9:.1f} GB at {folder}")


def tiny(folder: Path) -> Path:
    """The smoke profile's base, built once."""
    out = folder / "tiny"
    if not (out / "config.json").is_file():
        from gwen25.samples import tiny as sample

        sample.build(out, pretrained=True)
    return out


def whole(setting: Setting) -> Path:
    return Path(setting.folder) / ("tiny" if setting.shape == "tiny" else "base")


def shape(setting: Setting) -> Shape:
    return REAL if setting.shape != "tiny" else models.shape_of(models.read_config(whole(setting)), "the tiny model")


# ----------------------------------------------------------------------------------------------------------------- weights


def write(out: Path, shape: Shape, like: Path) -> int:
    """A bfloat16 checkpoint of `shape` in files of at most SHARD bytes, with the tokenizer of `like`; returns its bytes."""
    out.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(like / name, out / name)
    sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size")
    settings = models.read_config(like) | {name: getattr(shape, name) for name in sizes}
    settings |= {"max_position_embeddings": CONTEXT, "sliding_window": CONTEXT, "max_window_layers": shape.num_hidden_layers}
    settings |= {"tie_word_embeddings": shape.tie_word_embeddings, "torch_dtype": "bfloat16"}
    (out / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    shards = list(_shards(tensors(shape)))
    where: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        _write_shard(out / name, shard)
        where |= dict.fromkeys(shard, name)
    total = sum(2 * _count(dims) for shard in shards for dims in shard.values())
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (out / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return total


def tensors(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and dimensions of each tensor of a Qwen2."""
    hidden = shape.hidden_size
    yield "model.embed_tokens.weight", (shape.vocab_size, hidden)
    names = (
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.down_proj",
    )
    for layer in range(shape.num_hidden_layers):
        for name, (width, out) in zip(names, shape.projections, strict=True):
            yield f"model.layers.{layer}.{name}.weight", (out, width)
            if shape.qkv_bias and name[-6:] in ("q_proj", "k_proj", "v_proj"):
                yield f"model.layers.{layer}.{name}.bias", (out,)
        for name in ("input_layernorm", "post_attention_layernorm"):
            yield f"model.layers.{layer}.{name}.weight", (hidden,)
    yield "model.norm.weight", (hidden,)
    if not shape.tie_word_embeddings:
        yield "lm_head.weight", (shape.vocab_size, hidden)


def _shards(listed: Iterator[tuple[str, tuple[int, ...]]]) -> Iterator[dict[str, tuple[int, ...]]]:
    shard: dict[str, tuple[int, ...]] = {}
    for name, dims in listed:
        if shard and 2 * sum(map(_count, (*shard.values(), dims))) > SHARD:
            yield shard
            shard = {}
        shard[name] = dims
    yield shard


def _count(dims: tuple[int, ...]) -> int:
    return dims[0] * (dims[1] if len(dims) > 1 else 1)


def _write_shard(file: Path, shard: dict[str, tuple[int, ...]]) -> None:
    """A safetensors file: length of the header, header, data. Matrices are drawn, norms are 1, biases 0."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, dims in shard.items():
        header[name] = {"dtype": "BF16", "shape": list(dims), "data_offsets": [end, end := end + 2 * _count(dims)]}
    text = json.dumps(header).encode()
    pool = _pool()
    with file.open("wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for name, dims in shard.items():
            left = 2 * _count(dims)
            if len(dims) == 1:
                out.write((b"\x80\x3f" if "norm" in name else b"\0\0") * dims[0])  # 1 in bfloat16
                continue
            for _ in range(left // len(pool)):
                out.write(pool)
            out.write(pool[: left % len(pool)])


def _pool() -> bytes:
    """Normal numbers in bfloat16: the upper half of float32's bits."""
    import numpy as np

    drawn = np.random.default_rng(0).normal(0, SPREAD, POOL).astype(np.float32)
    return (drawn.view(np.uint32) >> 16).astype("<u2").tobytes()


# ------------------------------------------------------------------------------------------------------------- the adapter


def adapter(out: Path, shape: Shape, rank: int, alpha: int) -> None:
    """A PEFT adapter directory as SFT would leave it before its first step: A drawn, B zero."""
    import numpy as np
    from peft import LoraConfig
    from safetensors.numpy import save

    from gwen25 import modeling
    from gwen25.job import write_json

    out.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    matrices = {}
    for name, dims in tensors(shape):
        if "_proj.weight" in name:
            module = f"base_model.model.{name.removesuffix('.weight')}"
            matrices[f"{module}.lora_A.weight"] = (draw.standard_normal((rank, dims[1]), np.float32) * SPREAD).astype(np.float32)
            matrices[f"{module}.lora_B.weight"] = np.zeros((dims[0], rank), np.float32)
    (out / modeling.ADAPTER_WEIGHTS).write_bytes(save(matrices, metadata={"format": "pt"}))
    targets = list(models.LORA_TARGETS["Qwen2ForCausalLM"])
    lora = LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets, bias="none", task_type="CAUSAL_LM")
    write_json(out / modeling.ADAPTER_CONFIG, modeling.portable_config(lora.to_dict(), IDENTITY))
