"""A tiny Qwen2 with every part of the real one, for the smoke profile and the tests: 0.1 M parameters.

    build(Path("tiny"), pretrained=True)                 the smoke profile's base: `samples.pretrain` made its weights
    build(Path("tiny"))                                  2 layers of 64, the packaged tokenizer, untrained
    build(Path("tiny"), tokenizer=Path("Qwen2.5-3B"))    the same layers under a real vocabulary

It is Qwen2.5 *base* in miniature, traps included: grouped-query attention with biases, tied embeddings, rows of the
embedding that no token uses, `<|endoftext|>` as eos, a template that invents a system turn. Weights come from Philox's raw
bits and exact arithmetic, so that the same arguments give the same bytes anywhere. No torch here: numpy and safetensors.
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gwen25 import samples
from gwen25.errors import BadInput

QWEN_TOKENS: Final = 151_665  # len(tokenizer) of Qwen2.5
QWEN_ROWS: Final = 151_936  # rows of its embedding: 271 belong to no token
SPARE: Final = 64  # rows are rounded up to a multiple of this

# Like the base model's own, it is ChatML with an invented system turn and no <think>: a run that forgets its chat format shows.
_TEMPLATE: Final = (
    "{%- if messages[0]['role'] != 'system' -%}{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' -}}{%- endif -%}"
    "{%- for message in messages -%}{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)


def build(
    out: Path,
    *,
    tokenizer: Path | None = None,
    hidden_size: int = 64,
    intermediate_size: int = 128,
    num_hidden_layers: int = 2,
    num_attention_heads: int = 2,  # heads of 32: the smallest that vLLM on a CPU takes
    num_key_value_heads: int = 1,
    tie_word_embeddings: bool = True,
    max_position_embeddings: int = 2048,
    seed: int = 0,
    pretrained: bool = False,
) -> None:
    """Write a float32 Qwen2ForCausalLM checkpoint into the folder `out`.

    `tokenizer`: None for the packaged one, else a tokenizer.json (or .json.gz), or a folder that holds one and, where it has
    it, a tokenizer_config.json. `pretrained` takes the packaged weights, which fit the default shape and tokenizer only.
    Raises BadInput where there is no readable tokenizer.
    """
    from safetensors.numpy import load_file, save

    text, settings = _tokenizer(samples.path("tokenizer.json") if tokenizer is None else tokenizer)
    ids = token_ids(text)
    size = max(ids.values()) + 1
    rows = QWEN_ROWS if size == QWEN_TOKENS else math.ceil(size / SPARE) * SPARE
    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "attention_dropout": 0.0,
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|endoftext|>"],
        "hidden_act": "silu",
        "hidden_size": hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": intermediate_size,
        "max_position_embeddings": max_position_embeddings,
        "max_window_layers": num_hidden_layers,
        "model_type": "qwen2",
        "num_attention_heads": num_attention_heads,
        "num_hidden_layers": num_hidden_layers,
        "num_key_value_heads": num_key_value_heads,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "sliding_window": max_position_embeddings,
        "tie_word_embeddings": tie_word_embeddings,
        "torch_dtype": "float32",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": rows,
    }
    generation = {"bos_token_id": ids["<|endoftext|>"], "eos_token_id": ids["<|endoftext|>"], "do_sample": False, "max_new_tokens": 2048}
    out.mkdir(parents=True, exist_ok=True)
    weights = dict(_weights(config, seed))
    if pretrained:
        packaged = load_file(samples.path("tiny.safetensors"))
        if {name: tensor.shape for name, tensor in packaged.items()} != {name: tensor.shape for name, tensor in weights.items()}:
            raise BadInput("samples/tiny.safetensors has other shapes: make it again with `python -m gwen25.samples.pretrain`")
        weights = {name: packaged[name].astype(np.float32) for name in weights}
    (out / "model.safetensors").write_bytes(save(weights, metadata={"format": "pt"}))
    (out / "tokenizer.json").write_text(text, encoding="utf-8")
    for name, value in (("tokenizer_config", settings or _settings(text)), ("generation_config", generation), ("config", config)):
        (out / f"{name}.json").write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def token_ids(tokenizer_json: str) -> dict[str, int]:
    """Token to id, added tokens included, of a tokenizer.json's text."""
    try:
        parts = json.loads(tokenizer_json)
        ids = {**parts["model"]["vocab"], **{token["content"]: token["id"] for token in parts["added_tokens"]}}
        return {token: int(number) for token, number in ids.items()}
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"not a BPE tokenizer.json ({type(error).__name__}: {error})") from error


def _tokenizer(where: Path) -> tuple[str, dict[str, Any] | None]:
    """The text of tokenizer.json, and tokenizer_config.json as a mapping where there is one."""
    folder = where if where.is_dir() else where.parent
    files = [where] if where.is_file() else [folder / "tokenizer.json", folder / "tokenizer.json.gz"]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise BadInput(f"no tokenizer.json in {where}")
    data = file.read_bytes()
    text = (gzip.decompress(data) if file.suffix == ".gz" else data).decode()
    names = [folder / name for name in ("tokenizer_config.json", "tokenizer_config_base.json")]
    return text, next((json.loads(name.read_text(encoding="utf-8")) for name in names if name.is_file()), None)


def _settings(tokenizer_json: str) -> dict[str, Any]:
    """tokenizer_config.json in the manner of Qwen2.5 base."""
    added = json.loads(tokenizer_json)["added_tokens"]
    fields = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
    return {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {str(token["id"]): {field: token[field] for field in fields} for token in added},
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
        "bos_token": None,
        "chat_template": _TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|endoftext|>",
        "errors": "replace",
        "model_max_length": 131072,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }


def _weights(config: dict[str, Any], seed: int) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Name and tensor, in a fixed order. Shapes are torch's (out, in).

    Scales keep every activation near 1: embeddings 1/sqrt(hidden), so that tied logits have a spread of about 1; projections
    1/sqrt(fan in); those that write to the residual stream a further 1/sqrt(2 x layers). Norm weights and biases differ
    from 1 and 0, so that an exchange of two of them is not invisible.
    """
    bits = np.random.Philox(seed)
    hidden, inner, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    head = hidden // heads

    def noise(spread: float, *shape: int) -> NDArray[np.float32]:
        # uniform with standard deviation `spread`: 24 bits of each raw draw are exact in float32, libm takes no part
        raw = bits.random_raw(math.prod(shape)) >> np.uint64(40)
        unit = raw.astype(np.float32) / np.float32(2**23) - np.float32(1)
        return np.ascontiguousarray((unit * np.float32(spread * math.sqrt(3))).reshape(shape))

    def norm() -> NDArray[np.float32]:
        return np.float32(1) + noise(0.1, hidden)

    out = 1 / math.sqrt(2 * layers)
    yield "model.embed_tokens.weight", noise(1 / math.sqrt(hidden), config["vocab_size"], hidden)
    for layer in range(layers):
        at = f"model.layers.{layer}"
        yield f"{at}.input_layernorm.weight", norm()
        for name, width in (("q_proj", heads * head), ("k_proj", groups * head), ("v_proj", groups * head)):
            yield f"{at}.self_attn.{name}.weight", noise(1 / math.sqrt(hidden), width, hidden)
            yield f"{at}.self_attn.{name}.bias", noise(0.1, width)
        yield f"{at}.self_attn.o_proj.weight", noise(out / math.sqrt(heads * head), hidden, heads * head)
        yield f"{at}.post_attention_layernorm.weight", norm()
        yield f"{at}.mlp.gate_proj.weight", noise(1 / math.sqrt(hidden), inner, hidden)
        yield f"{at}.mlp.up_proj.weight", noise(1 / math.sqrt(hidden), inner, hidden)
        yield f"{at}.mlp.down_proj.weight", noise(out / math.sqrt(inner), hidden, inner)
    yield "model.norm.weight", norm()
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", noise(1 / math.sqrt(hidden), config["vocab_size"], hidden)
