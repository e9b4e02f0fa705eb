"""GGUF files held against their checkpoint: bytes, keys, tokens in llama.cpp; and all that must be refused."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from gwen25 import llamacpp
from gwen25.chat import FORMATS
from gwen25.config import load_config
from gwen25.errors import BadInput, Gwen25Error
from gwen25.gguf_header import read_header
from gwen25.gguf_writer import WRITTEN_TYPES, numbers
from gwen25.gguf_writer.source import Stored
from gwen25.job import Input, Job
from gwen25.llamacpp import LlamaCpp
from gwen25.parity import verify
from gwen25.pipelines.gguf import convert, inspect, run
from gwen25.samples import tiny
from tests.conftest import REPOSITORY
from tests.formatted import in_format

FORMAT = FORMATS["chatml-think"]
FACTS = {
    "chat_format": {"name": FORMAT.name, "digest": FORMAT.digest},
    "base_model": {"id": "Qwen/Qwen2.5-0.5B", "revision": "abc"},
    "license": "Apache-2.0",
    "context": 2048,
}


def sha(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def wide_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of 256 and 512 weights: K-quants divide them."""
    folder = tmp_path_factory.mktemp("wide")
    tiny.build(folder, hidden_size=256, intermediate_size=512)
    return folder


@pytest.fixture
def copy(tiny_model: Path, tmp_path: Path) -> Path:
    """A tiny checkpoint that the test may spoil."""
    return Path(shutil.copytree(tiny_model, tmp_path / "copy"))


def edit(file: Path, change: Callable[[Any], Any]) -> None:
    value = json.loads(file.read_text(encoding="utf-8"))
    changed = change(value)
    file.write_text(json.dumps(value if changed is None else changed), encoding="utf-8")


def as_bf16(model: Path) -> None:
    """Rewrite the weights of a checkpoint in bfloat16, by torch's rounding."""
    import torch
    from safetensors.torch import load_file as load
    from safetensors.torch import save_file as save

    save({name: tensor.to(torch.bfloat16) for name, tensor in load(model / "model.safetensors").items()}, model / "model.safetensors")


def read(file: Path) -> Any:
    from gguf import GGUFReader

    return GGUFReader(file)


def tensors_of(file: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    return {t.name: (t.tensor_type.name, tuple(int(n) for n in t.shape), t.data.tobytes()) for t in read(file).tensors}


# -------------------------------------------------------------------------------------------------------------------- bytes

# sha256 of the tensor data that llama.cpp's convert_hf_to_gguf.py (0.5.0) writes for tiny.build(folder); with general.name
# equal its whole file was byte for byte ours, in all four types, for f32 and bf16 checkpoints
CONVERTED_BY_LLAMA_CPP = {
    "f32": "c6510cb65a4805f9e2ee0af7bde1fd4d5e6c394afee403d7fcdc7861bf4e82f0",
    "f16": "47331b3fce32bbb5aba4a1dedfdef50f615112d871edcf193e0c5435a6158156",
    "bf16": "731d5073fec107c36c7da1955422d84987a393fed95d505295f41d0bcd26c4a6",
    "q8_0": "768905628c880b6172a3ea4709b0079a795485363bbf2db64aec209cb874aa4c",
}
KEYS = [
    *("general.architecture", "general.type", "general.name", "general.size_label", "general.license"),
    *("qwen2.block_count", "qwen2.context_length", "qwen2.embedding_length", "qwen2.feed_forward_length"),
    *("qwen2.attention.head_count", "qwen2.attention.head_count_kv", "qwen2.rope.freq_base", "qwen2.attention.layer_norm_rms_epsilon"),
    *("general.file_type", "general.quantization_version"),
    *("tokenizer.ggml.model", "tokenizer.ggml.pre", "tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.merges"),
    *("tokenizer.ggml.eos_token_id", "tokenizer.ggml.padding_token_id", "tokenizer.ggml.bos_token_id"),
    *("tokenizer.ggml.add_bos_token", "tokenizer.ggml.add_eos_token", "tokenizer.chat_template"),
]


@pytest.mark.parametrize("type", WRITTEN_TYPES)
def test_tensor_data_is_what_llama_cpps_converter_writes(type: str, tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.gguf"
    convert(tiny_model, out, type, chat_format=FORMAT, name="n", licence="l")
    reader = read(out)
    assert reader.tensors[0].shape[1] == 704, "recorded with the packaged vocabulary of 704 rows: record again for another"
    assert hashlib.sha256(out.read_bytes()[reader.data_offset :]).hexdigest() == CONVERTED_BY_LLAMA_CPP[type]
    assert [key for key in reader.fields if not key.startswith("GGUF.")] == [key for key in KEYS if key in reader.fields]
    assert set(KEYS) <= set(reader.fields)


def q8_0(weights: np.ndarray[Any, Any]) -> bytes:
    """ggml's reference: blocks of 32, scale absmax/127 in f16, quotients rounded half away from zero."""
    out = b""
    for block in weights.reshape(-1, 32).astype(np.float32):
        scale = np.float32(np.abs(block).max() / np.float32(127))
        inverse = np.float32(1) / scale if scale else np.float32(0)
        quotients = np.trunc(np.abs(block * inverse) + np.float32(0.5)) * np.sign(block)
        out += np.float16(scale).tobytes() + quotients.astype(np.int8).tobytes()
    return out


EXPECTED: dict[str, Callable[[np.ndarray[Any, Any]], bytes]] = {
    "f32": lambda weights: weights.tobytes(),
    "f16": lambda weights: weights.astype(np.float16).tobytes(),
    "q8_0": q8_0,
}


@pytest.mark.parametrize("type", EXPECTED)
def test_every_tensor_holds_its_weights(type: str, tiny_model: Path, tmp_path: Path) -> None:
    convert(tiny_model, tmp_path / "m.gguf", type, chat_format=FORMAT)
    written = tensors_of(tmp_path / "m.gguf")
    stored = load_file(tiny_model / "model.safetensors")
    assert len(written) == len(stored) == 26
    assert "output.weight" not in written, "the embedding is tied"
    pairs = {
        "token_embd.weight": "model.embed_tokens.weight",
        "output_norm.weight": "model.norm.weight",
        "blk.1.attn_norm.weight": "model.layers.1.input_layernorm.weight",
        "blk.0.attn_k.bias": "model.layers.0.self_attn.k_proj.bias",
        "blk.1.attn_v.weight": "model.layers.1.self_attn.v_proj.weight",
        "blk.0.attn_output.weight": "model.layers.0.self_attn.o_proj.weight",
        "blk.1.ffn_norm.weight": "model.layers.1.post_attention_layernorm.weight",
        "blk.0.ffn_down.weight": "model.layers.0.mlp.down_proj.weight",
    }
    for ours, theirs in pairs.items():
        weights = stored[theirs]
        kind, shape, data = written[ours]
        assert shape == weights.shape[::-1]
        vector = weights.ndim == 1
        assert kind == ("F32" if vector else type.upper())
        assert data == (weights.tobytes() if vector else EXPECTED[type](weights)), ours


@pytest.mark.parametrize("type", WRITTEN_TYPES)
def test_a_bf16_checkpoint(type: str, copy: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file as load

    as_bf16(copy)
    weights = load(copy / "model.safetensors")["model.layers.0.mlp.up_proj.weight"]
    convert(copy, tmp_path / "m.gguf", type, chat_format=FORMAT)
    data = tensors_of(tmp_path / "m.gguf")["blk.0.ffn_up.weight"][2]
    if type == "q8_0":
        assert data == q8_0(weights.float().numpy())
    else:
        dtype = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[type]
        assert data == weights.to(dtype).view(torch.uint8).numpy().tobytes()


def test_half_precision_corner_values() -> None:
    """Subnormals, ties, the largest: the table for bf16 and the direct way agree with torch."""
    import torch

    bits = np.arange(1 << 16, dtype=np.uint16)
    bits = bits[(bits & 0x7F80) != 0x7F80]
    floats = torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16)
    fits = floats.to(torch.float16).isfinite().numpy()
    wide = Stored("w", "BF16", (len(bits),), Path("f"), 0)
    with pytest.raises(BadInput, match="beyond float16's 65504"):
        numbers.to_f16(bits, wide)
    ours = numbers.to_f16(bits[fits], wide)
    assert ours.tobytes() == floats[torch.from_numpy(fits)].to(torch.float16).numpy().tobytes()


@pytest.mark.parametrize("type", ["q8_0", "q4_k_m"])
def test_the_same_checkpoint_gives_the_same_bytes(type: str, wide_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("cyllama")
    other = Path(shutil.copytree(wide_model, tmp_path / "elsewhere"))
    convert(wide_model, tmp_path / "a.gguf", type, chat_format=FORMAT)
    convert(other, tmp_path / "b.gguf", type, chat_format=FORMAT)
    assert sha(tmp_path / "a.gguf") == sha(tmp_path / "b.gguf")
    assert {file.name for file in tmp_path.iterdir()} == {"a.gguf", "b.gguf", "elsewhere"}, "nothing else is left behind"


def test_shards_and_small_pieces_change_nothing(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert(copy, tmp_path / "whole.gguf", "q8_0", chat_format=FORMAT)
    tensors = load_file(copy / "model.safetensors")
    names = sorted(tensors, key=lambda name: hashlib.sha256(name.encode()).digest())
    parts = {"model-00001-of-00002.safetensors": names[:9], "model-00002-of-00002.safetensors": names[9:]}
    for file, held in parts.items():
        save_file({name: tensors[name] for name in held}, copy / file)
    index = {"weight_map": {name: file for file, held in parts.items() for name in held}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    (copy / "model.safetensors").unlink()
    monkeypatch.setattr(numbers, "PIECE", 300)
    convert(copy, tmp_path / "sharded.gguf", "q8_0", chat_format=FORMAT)
    assert tensors_of(tmp_path / "sharded.gguf") == tensors_of(tmp_path / "whole.gguf")


@pytest.mark.parametrize("type", ["q8_0", "q4_k_m"])
def test_the_header_is_read_as_ggufs_own_reader_reads_it(type: str, wide_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("cyllama")
    convert(wide_model, tmp_path / "m.gguf", type, chat_format=FORMAT)
    header, reader = read_header(tmp_path / "m.gguf"), read(tmp_path / "m.gguf")
    assert header.fields == {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    theirs = [(t.name, t.tensor_type.name, tuple(int(n) for n in t.shape), int(t.n_bytes)) for t in reader.tensors]
    assert [(t.name, t.type, t.shape, t.bytes) for t in header.tensors] == theirs


@pytest.mark.parametrize(
    "spoil", [lambda data: data[:5000], lambda data: b"GGML" + data[4:], lambda data: data[:8] + b"\xff" * 500, lambda data: b""]
)
def test_a_damaged_header_is_bad_input(spoil: Callable[[bytes], bytes], tiny_model: Path, tmp_path: Path) -> None:
    convert(tiny_model, tmp_path / "m.gguf", "f16", chat_format=FORMAT)
    (tmp_path / "m.gguf").write_bytes(spoil((tmp_path / "m.gguf").read_bytes()))
    with pytest.raises(BadInput, match=r"m\.gguf is not a whole GGUF file"):
        read_header(tmp_path / "m.gguf")


def test_an_untied_head_is_written(tmp_path: Path) -> None:
    tiny.build(tmp_path / "model", tie_word_embeddings=False)
    convert(tmp_path / "model", tmp_path / "m.gguf", "f32", chat_format=FORMAT)
    head = load_file(tmp_path / "model" / "model.safetensors")["lm_head.weight"]
    assert tensors_of(tmp_path / "m.gguf")["output.weight"][2] == head.tobytes()


# ---------------------------------------------------------------------------------------------------------------- the keys


def test_keys_say_what_the_checkpoint_is(tiny_model: Path, tmp_path: Path) -> None:
    convert(tiny_model, tmp_path / "m.gguf", "f16", chat_format=FORMAT)
    fields = read(tmp_path / "m.gguf").fields
    held = {key: fields[key].contents() for key in fields if not key.startswith("GGUF.")}
    config = json.loads((tiny_model / "config.json").read_text(encoding="utf-8"))
    ids = tiny.token_ids((tiny_model / "tokenizer.json").read_text(encoding="utf-8"))
    assert held["general.architecture"] == "qwen2"
    assert held["qwen2.context_length"] == config["max_position_embeddings"]
    assert held["qwen2.attention.head_count_kv"] == config["num_key_value_heads"]
    assert held["qwen2.rope.freq_base"] == config["rope_theta"] == 1e6
    assert held["general.file_type"] == 1
    assert held["tokenizer.ggml.pre"] == "qwen2"
    assert held["tokenizer.ggml.eos_token_id"] == ids["<|im_end|>"], "the base's <|endoftext|> would never stop a turn"
    assert held["tokenizer.ggml.padding_token_id"] == ids["<|endoftext|>"]
    assert held["tokenizer.ggml.add_bos_token"] is False
    assert held["tokenizer.chat_template"] == FORMAT.jinja
    tokens, types = held["tokenizer.ggml.tokens"], held["tokenizer.ggml.token_type"]
    assert len(tokens) == len(types) == config["vocab_size"]
    assert all(tokens[row] == token for token, row in ids.items())
    spare = range(len(ids), config["vocab_size"])
    assert len(spare) > 0
    assert all((tokens[row], types[row]) == (f"[PAD{row}]", 5) for row in spare)
    assert types[ids["<|im_end|>"]] == 3


def test_without_a_chat_format_the_checkpoints_own_is_kept(tiny_model: Path, tmp_path: Path) -> None:
    convert(tiny_model, tmp_path / "m.gguf", "f16")
    fields = read(tmp_path / "m.gguf").fields
    settings = json.loads((tiny_model / "tokenizer_config.json").read_text(encoding="utf-8"))
    ids = tiny.token_ids((tiny_model / "tokenizer.json").read_text(encoding="utf-8"))
    assert fields["tokenizer.chat_template"].contents() == settings["chat_template"]
    assert fields["tokenizer.ggml.eos_token_id"].contents() == ids["<|endoftext|>"]


def test_rope_theta_as_transformers_5_saves_it(copy: Path, tmp_path: Path) -> None:
    def change(config: dict[str, Any]) -> None:
        config["rope_parameters"] = {"rope_theta": config.pop("rope_theta") / 2, "rope_type": "default"}

    edit(copy / "config.json", change)
    convert(copy, tmp_path / "m.gguf", "f16")
    assert read(tmp_path / "m.gguf").fields["qwen2.rope.freq_base"].contents() == 5e5


# ---------------------------------------------------------------------------------------------------------------- llama.cpp


@pytest.fixture(scope="module")
def greedy(tiny_model: Path) -> tuple[list[int], list[int]]:
    """A prompt's ids and the 16 tokens that transformers continues it with, in float32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    prompt = tokenizer(FORMAT.render([{"role": "user", "content": "Print 7."}]), add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        out = model.generate(torch.tensor([prompt]), max_new_tokens=16, do_sample=False, eos_token_id=None, pad_token_id=0)
    return prompt, out[0, len(prompt) :].tolist()


@pytest.mark.parametrize("type", ["f32", "f16", "bf16", "q8_0"])
def test_llama_cpp_says_what_transformers_says(type: str, greedy: tuple[list[int], list[int]], tiny_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    convert(tiny_model, tmp_path / "m.gguf", type, chat_format=FORMAT)
    assert verify(tmp_path / "m.gguf", tiny_model, FORMAT) > 100
    prompt, expected = greedy
    with LlamaCpp(tmp_path / "m.gguf", n_ctx=512, threads=1) as model:
        said = model.complete(prompt, n_predict=16)
    if type == "f32":
        assert said == expected
    else:  # a random model's near ties may fall otherwise in fewer bits, but not at once
        assert said[0] == expected[0]


def test_a_model_that_never_worked_is_let_go(tiny_model: Path, tmp_path: Path) -> None:
    """llama.cpp's server waits for ever where it is ended before its loop began: one in ten, on a busy machine."""
    pytest.importorskip("xllamacpp")
    convert(tiny_model, tmp_path / "m.gguf", "f16", chat_format=FORMAT)
    code = """
import sys
from pathlib import Path
from gwen25.llamacpp import LlamaCpp
asked = [lambda m: None, lambda m: m.properties(), lambda m: m.tokenize("x"), lambda m: m.render([{"role": "user", "content": "x"}])]
for ask in asked * 8:
    with LlamaCpp(Path(sys.argv[1]), n_ctx=64, threads=1, quiet=True) as model:
        ask(model)
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "m.gguf")], cwd=REPOSITORY, check=True, timeout=60, capture_output=True)


@pytest.mark.parametrize("type", ["q4_k_m", "q2_k", "q6_k"])
def test_k_quants_load_and_run(type: str, wide_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    pytest.importorskip("cyllama")
    convert(wide_model, tmp_path / "m.gguf", type, chat_format=FORMAT)
    held = inspect(tmp_path / "m.gguf", type)
    assert held.fallbacks == {}
    assert held.bits_per_weight < 7
    assert any(kind.endswith("_K") for kind in held.types)
    assert read(tmp_path / "m.gguf").fields["general.file_type"].contents() == llamacpp.K_QUANTS[type]
    assert verify(tmp_path / "m.gguf", wide_model, FORMAT) > 100


def test_a_broken_vocabulary_is_found(copy: Path, tmp_path: Path) -> None:
    """verify can fail: a GGUF from a checkpoint with two tokens exchanged loads well and tokenizes otherwise."""
    pytest.importorskip("xllamacpp")
    convert(copy, tmp_path / "m.gguf", "f16", chat_format=FORMAT)

    def exchange(tokenizer: dict[str, Any]) -> None:
        vocabulary = tokenizer["model"]["vocab"]
        vocabulary["x"], vocabulary["y"] = vocabulary["y"], vocabulary["x"]

    edit(copy / "tokenizer.json", exchange)
    with pytest.raises(Gwen25Error, match="tokenizes otherwise than the checkpoint"):
        verify(tmp_path / "m.gguf", copy, FORMAT)


def test_another_template_is_found(tiny_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    convert(tiny_model, tmp_path / "m.gguf", "f16")  # with the base's own template
    with pytest.raises(Gwen25Error, match="renders another prompt"):
        verify(tmp_path / "m.gguf", tiny_model, FORMAT)


def test_a_file_that_does_not_load(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    (tmp_path / "junk.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(Gwen25Error, match=r"llama\.cpp does not load junk\.gguf"):
        LlamaCpp(tmp_path / "junk.gguf")
    with pytest.raises(BadInput, match="no such GGUF file"):
        LlamaCpp(tmp_path / "nothing.gguf")


# ---------------------------------------------------------------------------------------------------------------- refusals


def drop(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def config(**values: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "config.json", lambda held: {**held, **values})


def tokenizer(**values: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "tokenizer.json", lambda held: {**held, **values})


def junk(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).write_text("{", encoding="utf-8")

    return spoil


def weights(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        held = load_file(folder / "model.safetensors")
        change(held)
        save_file(held, folder / "model.safetensors")

    return spoil


def put(name: str, value: float) -> Callable[[dict[str, Any]], None]:
    def change(held: dict[str, Any]) -> None:
        held[name] = held[name].copy()
        held[name].flat[5] = value

    return change


def cut_off(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-100])


def other_regex(folder: Path) -> None:
    def change(tokenizer: dict[str, Any]) -> None:
        tokenizer["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\p{N}{1,3}|\s+"

    edit(folder / "tokenizer.json", change)


def stray_shard(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../secret.safetensors"}}), encoding="utf-8")


def disagreeing_shards(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model.safetensors"}}), encoding="utf-8")


def no_end_token(folder: Path) -> None:
    def change(tokenizer: dict[str, Any]) -> None:
        tokenizer["added_tokens"] = [token for token in tokenizer["added_tokens"] if token["content"] != "<|im_end|>"]

    edit(folder / "tokenizer.json", change)


UP = "model.layers.0.mlp.up_proj.weight"
REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "no config": (drop("config.json"), r"no config\.json"),
    "no weights": (drop("model.safetensors"), r"no such file: .*model\.safetensors"),
    "no tokenizer": (drop("tokenizer.json"), r"tokenizer\.json cannot be read"),
    "architecture": (config(architectures=["MistralForCausalLM"]), "architecture MistralForCausalLM; only Qwen2ForCausalLM"),
    "no architecture": (config(architectures=None), "architecture none named"),
    "rope scaling": (config(rope_scaling={"type": "dynamic", "factor": 4.0}), "rope scaling 'dynamic' is not carried over"),
    "yarn without factor": (config(rope_parameters={"rope_type": "yarn", "rope_theta": 1e6}), "'yarn' has no number for factor"),
    "sliding window": (config(use_sliding_window=True), "full attention only"),
    "no size": (config(hidden_size=None), "no number for hidden_size"),
    "other vocabulary size": (config(vocab_size=1 << 20), r"model\.embed_tokens\.weight has shape"),
    "more layers": (config(num_hidden_layers=3), "12 tensors are missing, such as model.layers.2"),
    "fewer layers": (config(num_hidden_layers=1), "12 tensors are not qwen2's, such as model.layers.1"),
    "regex": (other_regex, "the pre-tokenizer is none that llama.cpp knows"),
    "normalizer": (tokenizer(normalizer={"type": "Lowercase"}), "a Lowercase normalizer is not carried over"),
    "post-processor": (
        tokenizer(post_processor={"type": "TemplateProcessing", "special_tokens": {"<s>": {}}}),
        "a TemplateProcessing post-processor is not carried over",
    ),
    "tokenizer's kind": (tokenizer(model={"type": "Unigram", "vocab": [], "merges": []}), "a Unigram tokenizer"),
    "no merges": (tokenizer(model={"type": "BPE", "vocab": {"a": 0}, "merges": []}), r"tokenizer\.json holds no merges"),
    "merges of something else": (tokenizer(model={"type": "BPE", "vocab": {"a": 0}, "merges": [1]}), "cannot be read as a tokenizer"),
    "tokenizer's settings": (junk("tokenizer_config.json"), r"tokenizer_config\.json cannot be read"),
    "sampling advice": (lambda folder: edit(folder / "generation_config.json", lambda held: {**held, "top_p": "0.8"}), "top_p is '0.8'"),
    "no end token": (no_end_token, r"has no token <\|im_end\|>, the eos"),
    "tensor missing": (weights(lambda held: held.pop(UP)), f"1 tensors are missing, such as {UP}"),
    "tensor too many": (weights(lambda held: held.update(extra=np.zeros(3))), "extra is stored as F64"),
    "not a number": (weights(put(UP, float("nan"))), "not finite"),
    "infinite bias": (weights(put("model.layers.1.self_attn.q_proj.bias", float("inf"))), "not finite"),
    "beyond float16": (weights(put(UP, 1e6)), "beyond float16's 65504; choose bf16"),
    "quantized weights": (weights(lambda held: held.update({UP: np.zeros((128, 64), np.uint8)})), "is stored as U8"),
    "cut off": (cut_off, "not a whole safetensors file"),
    "junk": (lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 500), "not a whole safetensors file"),
    "stray shard": (stray_shard, "a shard must lie beside its index"),
    "disagreeing shards": (disagreeing_shards, "its shards disagree on 27 tensors"),
}


@pytest.mark.parametrize(("spoil", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(spoil: Callable[[Path], None], message: str, copy: Path, tmp_path: Path) -> None:
    spoil(copy)
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(BadInput, match=message):
        convert(copy, out / "m.gguf", "f16", chat_format=FORMAT)
    assert list(out.iterdir()) == [], "nothing half-written"


def test_arguments_refused(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="unknown gguf type 'q8'; did you mean 'q8_0'"):
        convert(tiny_model, tmp_path / "m.gguf", "q8")
    with pytest.raises(BadInput, match="is not a directory; make it first"):
        convert(tiny_model, tmp_path / "no" / "m.gguf", "f16")
    monkeypatch.setattr(llamacpp, "quantizer", lambda: None)
    with pytest.raises(BadInput, match="q4_k_m needs a quantizer"):
        convert(tiny_model, tmp_path / "m.gguf", "q4_k_m")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("status", "out"), [(3, "something\nno such ftype"), (0, "")])
def test_llama_quantize_on_path_comes_first(
    status: int, out: str, wide_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for the binary copies its input; a failing one is an error that quotes it, and leaves no file."""
    tools, made = tmp_path / "bin", tmp_path / "made"
    tools.mkdir()
    made.mkdir()
    script = f"""#!{sys.executable}
import shutil, sys
shutil.copy(sys.argv[1], sys.argv[2])
print({out!r}, file=sys.stderr)
sys.exit({status} if sys.argv[3] == "Q4_K_M" else 9)
"""
    (tools / "llama-quantize").write_text(script, encoding="utf-8")
    (tools / "llama-quantize").chmod(0o755)
    monkeypatch.setenv("PATH", str(tools))
    assert llamacpp.quantizer() == str(tools / "llama-quantize")
    if status:
        with pytest.raises(Gwen25Error, match="failed with status 3: no such ftype"):
            convert(wide_model, made / "m.gguf", "q4_k_m", chat_format=FORMAT)
        assert list(made.iterdir()) == []
    else:
        convert(wide_model, made / "m.gguf", "q4_k_m", chat_format=FORMAT)
        assert [file.name for file in made.iterdir()] == ["m.gguf"]
        assert inspect(made / "m.gguf", "f32").types == {"F32": 26}, "an f32 checkpoint reaches the quantizer in f32"


# -------------------------------------------------------------------------------------------------------------------- the stage


def stage_job(model: Path, work: Path, type: str, facts: dict[str, Any] | None = None) -> Job:
    """A job whose input is `model` in the chat format, as the stage merge leaves it."""
    artifact = work / "merge"
    artifact.mkdir(parents=True)
    in_format(model, artifact / "payload")
    (work / "payload").mkdir()
    (work / "aside").mkdir()
    settings = load_config("smoke", overrides={"gguf.type": type})
    merged = Input("merge", "k", "d", artifact, FACTS if facts is None else facts, {})
    return Job("gguf", "k", settings.gguf, {"model": merged}, {}, {}, settings.runtime, None, work)


def test_run(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("xllamacpp")
    results = [run(stage_job(tiny_model, tmp_path / name, "q8_0")) for name in ("a", "b")]
    file = tmp_path / "a" / "payload" / "gwen25-q8_0.gguf"
    assert sorted(entry.name for entry in file.parent.iterdir()) == [file.name, "parity.json"]
    assert sha(file) == sha(tmp_path / "b" / "payload" / file.name)
    assert results[0] == results[1]
    facts, metrics = results[0].facts, results[0].metrics
    assert {key: facts[key] for key in FACTS} == FACTS
    assert (facts["file"], facts["type"], facts["tensor_types"]) == (file.name, "q8_0", {"F32": 11, "Q8_0": 15})
    assert facts["bytes"] == file.stat().st_size
    assert metrics["fallback_tensors"] == 0
    assert metrics["verified_token_ids"] > 100
    fields = read(file).fields
    assert fields["general.name"].contents() == "Qwen2.5-0.5B gwen25"
    assert fields["general.license"].contents() == "Apache-2.0"
    assert f"{file.name}: prompts, token ids and stop tokens agree in gguf, transformers, llama.cpp" in capsys.readouterr().out


def test_run_tells_of_fallbacks(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows of 64 and 128 are no multiple of 256: llama.cpp stores every matrix otherwise, and the user is told."""
    pytest.importorskip("cyllama")
    result = run(stage_job(tiny_model, tmp_path / "work", "q4_k_m"))
    assert result.metrics["fallback_tensors"] == 15
    assert "15 of 15 matrices have rows that q4_k_m does not divide" in capsys.readouterr().out
    held = json.loads((tmp_path / "work" / "aside" / "tensors.json").read_text(encoding="utf-8"))
    assert len(held["fallbacks"]) == 15
    assert [entry.name for entry in (tmp_path / "work" / "aside").iterdir()] == ["tensors.json"]


def test_q8_0_falls_back_to_f16(tmp_path: Path) -> None:
    tiny.build(tmp_path / "model", hidden_size=48, intermediate_size=96)
    convert(tmp_path / "model", tmp_path / "m.gguf", "q8_0", chat_format=FORMAT)
    held = inspect(tmp_path / "m.gguf", "q8_0")
    assert set(held.fallbacks.values()) == {"F16"}
    assert held.types == {"F16": 13, "F32": 11, "Q8_0": 2}


def test_run_without_llama_cpp_says_so(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(llamacpp, "can_load", lambda: False)
    result = run(stage_job(tiny_model, tmp_path / "work", "f16"))
    assert "verified_token_ids" not in result.metrics
    assert "not tried in llama.cpp" in capsys.readouterr().out


def test_a_format_that_changed_since_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    facts = {**FACTS, "chat_format": {"name": FORMAT.name, "digest": "0" * 64}}
    with pytest.raises(BadInput, match="another version of the chat format"):
        run(stage_job(tiny_model, tmp_path / "work", "f16", facts))
    assert list((tmp_path / "work" / "payload").iterdir()) == []


def test_the_real_vocabulary(shared_data: Path, tmp_path: Path) -> None:
    """151,936 rows of which 271 belong to no token, 151,387 merges, two tool tokens that are not special."""
    pytest.importorskip("xllamacpp")
    tiny.build(tmp_path / "model", tokenizer=shared_data / "tokenizer")
    result = run(stage_job(tmp_path / "model", tmp_path / "work", "q8_0"))
    fields = read_header(tmp_path / "work" / "payload" / result.facts["file"]).fields
    types = fields["tokenizer.ggml.token_type"]
    assert fields["tokenizer.ggml.eos_token_id"] == 151645
    assert len(fields["tokenizer.ggml.merges"]) == 151387
    assert [types.count(kind) for kind in (1, 3, 4, 5)] == [151643, 20, 2, 271]


def test_a_llamas_rows_are_paired_as_smollm2_unpairs_them() -> None:
    from gwen25.samples import smollm2

    rows = np.arange(24 * 3, dtype=np.float32).reshape(24, 3)  # 3 heads of 8
    paired = numbers.paired(rows, 3)
    assert [int(row[0]) // 3 for row in paired[:8]] == [0, 4, 1, 5, 2, 6, 3, 7]
    assert (smollm2._unpermuted(paired, 3) == rows).all()
