"""A Qwen2 checkpoint in the Hugging Face layout -> one GGUF file in f32, f16, bf16 or q8_0.

    write(Path("merged"), Path("model.gguf"), "q8_0", chat_format=FORMATS["chatml-think"])

Keys, values, tensor order and tensor bytes are those of llama.cpp's convert_hf_to_gguf.py, without torch and without the
model in memory: each tensor is read in 8 MB pieces (pread, not a mapping, whose pages count as ours), converted, appended.
What is not a plain Qwen2ForCausalLM with Qwen2's tokenizer is refused by name: a GGUF with a wrong pre-tokenizer or a
dropped rope scaling loads everywhere and is wrong everywhere.

Not here: K-quants (`llamacpp.quantize`), proof that the file loads (`pipelines.gguf`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gwen25.chat import ChatFormat
from gwen25.errors import BadInput
from gwen25.models import read_config

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PIECE_BYTES: Final = 8 << 20
WRITTEN_TYPES: Final = ("f32", "f16", "bf16", "q8_0")
_BYTES: Final = {"F32": 4, "F16": 2, "BF16": 2}

# The pre-tokenizer that llama.cpp calls "qwen2". Another regex under that name would split text otherwise, in silence.
QWEN2_REGEX: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

_TOP: Final = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
_BLOCK: Final = {
    "input_layernorm.weight": "attn_norm.weight",
    **{f"self_attn.{x}_proj.{part}": f"attn_{x}.{part}" for x in "qkv" for part in ("weight", "bias")},
    "self_attn.o_proj.weight": "attn_output.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    **{f"mlp.{x}_proj.weight": f"ffn_{x}.weight" for x in ("gate", "up", "down")},
}


@dataclass(frozen=True, slots=True)
class Stored:
    """Where a tensor lies: `dtype` as safetensors names it (F32, F16, BF16), `shape` torch's, bytes from `offset` of `file`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int


def write(
    model_dir: Path,
    out: Path,
    type: str,
    *,
    chat_format: ChatFormat | None = None,
    name: str | None = None,
    licence: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write the checkpoint as GGUF; `out` appears whole or not at all. The same checkpoint and arguments give the same bytes.

    `chat_format`: its template and its end and padding tokens; None takes the checkpoint's own. `name` and `licence` become
    general.name and general.license. `progress` is told the tensors written and their total. Raises BadInput for another
    architecture or tokenizer, tensors that are missing, not known or of another shape than the config says, and weights that
    are not finite (or not in float16's range, for f16).
    """
    if type not in WRITTEN_TYPES:
        raise BadInput(f"gguf type {type!r} cannot be written directly; choose from: {', '.join(WRITTEN_TYPES)}")
    config = _supported(model_dir)
    tensors = _mapped(config, read_tensors(model_dir), model_dir)
    part = out.with_name(f".{out.name}.part")
    try:
        _write(model_dir, part, type, config, tensors, chat_format, {"name": name, "licence": licence}, progress)
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)


def source_type(model_dir: Path) -> str:
    """The GGUF type that holds every matrix of a checkpoint exactly: f32, f16 or bf16."""
    kinds = {tensor.dtype for tensor in read_tensors(model_dir) if len(tensor.shape) == 2}
    return kinds.pop().lower() if len(kinds) == 1 else "f32"


# ------------------------------------------------------------------------------------------------ what the checkpoint holds


def read_tensors(model_dir: Path) -> list[Stored]:
    """Every tensor of a checkpoint, shards in name order and tensors by name in each, as llama.cpp's converter walks them.

    Raises BadInput for a file that is missing, cut off or no safetensors, and for a shard index that disagrees with its files.
    """
    index = model_dir / "model.safetensors.index.json"
    if not index.is_file():
        return _header(model_dir / "model.safetensors")
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = sorted(set(weight_map.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{index} is not a shard index: {error!r}") from error
    if strange := [file for file in files if Path(file).name != file]:
        raise BadInput(f"{index} names {strange[0]!r}: a shard must lie beside its index")
    tensors = [tensor for file in files for tensor in _header(model_dir / file)]
    if differing := {tensor.name for tensor in tensors} ^ set(weight_map):
        raise BadInput(f"{index} and its shards disagree on {len(differing)} tensors, such as {min(differing)}; fetch the checkpoint again")
    return tensors


def _header(file: Path) -> list[Stored]:
    """The header of one safetensors file: 8 bytes of length, JSON, then the data."""
    try:
        size = file.stat().st_size
        with file.open("rb") as data:
            length = int.from_bytes(data.read(8), "little")
            if not 2 <= length <= min(size - 8, 100 << 20):
                raise ValueError(f"a header of {length} bytes in a file of {size}")
            header = json.loads(data.read(length))
        header.pop("__metadata__", None)
        return [_stored(file, size, 8 + length, name, entry) for name, entry in sorted(header.items())]
    except FileNotFoundError as error:
        raise BadInput(f"no such file: {file}; weights are read from safetensors files") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{file} is not a whole safetensors file: {error}; write or fetch it again") from error


def _stored(file: Path, size: int, start: int, name: str, entry: Mapping[str, Any]) -> Stored:
    dtype, shape = str(entry["dtype"]), tuple(int(n) for n in entry["shape"])
    if dtype not in _BYTES:
        raise BadInput(f"{file}: {name} is stored as {dtype}; only {', '.join(_BYTES)} can be exported (merge a quantized model first)")
    first, end = (int(n) for n in entry["data_offsets"])
    if end - first != prod(shape) * _BYTES[dtype] or first < 0 or start + end > size:
        raise ValueError(f"{name} does not fit in its place")
    return Stored(name, dtype, shape, file, start + first)


def _supported(model_dir: Path) -> dict[str, Any]:
    """The checkpoint's config, once it is one that this writer carries over completely."""
    config = read_config(model_dir)
    where = f"{model_dir}/config.json"
    architecture = ", ".join(map(str, config.get("architectures") or ["none named"]))
    if architecture != "Qwen2ForCausalLM":
        raise BadInput(f"{where}: architecture {architecture}; only Qwen2ForCausalLM can be written as GGUF here")
    rope = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise BadInput(f"{where}: rope scaling {kind!r} is not carried over; remove it, or convert with llama.cpp's own script")
    if config.get("use_sliding_window"):
        raise BadInput(f"{where}: use_sliding_window is set; llama.cpp's qwen2 knows full attention only")
    missing = [key for key in (*_SIZES, "rms_norm_eps", "vocab_size") if not isinstance(config.get(key), (int, float))]
    if missing:
        raise BadInput(f"{where}: no number for {', '.join(missing)}")
    return config


_SIZES: Final = (
    "num_hidden_layers",
    "max_position_embeddings",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
)


def _mapped(config: Mapping[str, Any], stored: list[Stored], model_dir: Path) -> list[tuple[str, Stored]]:
    """GGUF's name beside each tensor, in the checkpoint's order. Complete, nothing unknown, every shape as configured."""
    shapes = _shapes(config)
    names = dict(_TOP)
    for layer in range(config["num_hidden_layers"]):
        names |= {f"model.layers.{layer}.{key}": f"blk.{layer}.{value}" for key, value in _BLOCK.items()}
    tied = bool(config.get("tie_word_embeddings", False))
    if not tied:
        names["lm_head.weight"] = "output.weight"
    found = {tensor.name: tensor for tensor in stored}
    if tied:
        found.pop("lm_head.weight", None)  # some writers keep the tied copy; llama.cpp takes the embedding for both
    if missing := names.keys() - found.keys():
        raise BadInput(f"{model_dir}: {len(missing)} tensors are missing, such as {min(missing)}")
    if unknown := found.keys() - names.keys():
        raise BadInput(f"{model_dir}: {len(unknown)} tensors are not Qwen2's, such as {min(unknown)}")
    for tensor in found.values():
        expected = shapes[tensor.name.split(".", 3)[-1] if ".layers." in tensor.name else tensor.name]
        if tensor.shape != expected:
            raise BadInput(f"{model_dir}: {tensor.name} has shape {list(tensor.shape)}; the config asks for {list(expected)}")
    return [(names[name], tensor) for name, tensor in found.items()]


def _shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shape by tensor name, (out, in) as torch has it; a block's tensors by the name within the block."""
    hidden, inner, rows = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    head = config.get("head_dim") or hidden // config["num_attention_heads"]
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (rows, hidden),
        "lm_head.weight": (rows, hidden),
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


# ------------------------------------------------------------------------------------------------------------ the tokenizer


@dataclass(frozen=True, slots=True)
class _Vocabulary:
    tokens: list[str]
    types: list[int]
    ids: dict[str, int]


def _vocabulary(model_dir: Path, rows: int) -> _Vocabulary:
    """Every row's token and type. Rows past the last token are padding of the matrix, named as llama.cpp's converter does."""
    from gguf import TokenType

    file = model_dir / "tokenizer.json"
    try:
        parts = json.loads(file.read_text(encoding="utf-8"))
        vocabulary, added = parts["model"]["vocab"], {token["content"]: token for token in parts["added_tokens"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{file} cannot be read as a tokenizer: {error!r}") from error
    _refuse_other_tokenizer(file, parts)
    ids: dict[str, int] = {**vocabulary, **{content: token["id"] for content, token in added.items()}}
    if max(ids.values()) >= rows:
        raise BadInput(f"{file}: token id {max(ids.values())} has no row in an embedding of {rows}")
    tokens, types = [f"[PAD{row}]" for row in range(rows)], [int(TokenType.UNUSED)] * rows
    for token, row in ids.items():
        tokens[row], types[row] = token, int(TokenType.NORMAL)
        if token in added:
            control = added[token]["special"] or (token.startswith("<|") and token.endswith("|>"))
            types[row] = int(TokenType.CONTROL if control else TokenType.USER_DEFINED)
    return _Vocabulary(tokens, types, ids)


def _refuse_other_tokenizer(file: Path, parts: Mapping[str, Any]) -> None:
    kind = parts["model"].get("type")
    if kind not in (None, "BPE"):
        raise BadInput(f"{file}: a {kind} tokenizer; Qwen2's byte-level BPE is expected")
    splitters = parts.get("pre_tokenizer") or {}
    splits = [step for step in splitters.get("pretokenizers", [splitters]) if step.get("type") != "ByteLevel"]
    regexes = [(step.get("pattern") or {}).get("Regex", step.get("type")) for step in splits]
    if regexes != [QWEN2_REGEX]:
        raise BadInput(f"{file}: the pre-tokenizer is not Qwen2's (its split: {regexes or 'none'}); llama.cpp would split text otherwise")


# ------------------------------------------------------------------------------------------------------------------ the file


def _write(
    model_dir: Path,
    out: Path,
    type: str,
    config: Mapping[str, Any],
    tensors: list[tuple[str, Stored]],
    chat_format: ChatFormat | None,
    labels: Mapping[str, str | None],
    progress: Callable[[int, int], None],
) -> None:
    import gguf
    import numpy as np

    kinds = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}
    writer = gguf.GGUFWriter(out, "qwen2")
    plan: list[tuple[Stored, str]] = []
    for name, tensor in tensors:
        target = _target(tensor, type)
        quant = gguf.GGMLQuantizationType[target.upper()]
        block, block_bytes = gguf.GGML_QUANT_SIZES[quant]
        writer.add_tensor_info(name, tensor.shape, np.dtype(np.float32), prod(tensor.shape) // block * block_bytes, quant)
        plan.append((tensor, target))
    _add_model(writer, config, gguf.LlamaFileType[kinds[type]], labels)
    _add_tokenizer(writer, model_dir, config, chat_format)
    with ExitStack() as stack:
        stack.callback(writer.close)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        file = writer.fout[0]
        writer.write_padding(file, file.tell())
        descriptors: dict[Path, int] = {}
        for done, (tensor, target) in enumerate(plan, 1):
            if tensor.file not in descriptors:
                descriptors[tensor.file] = os.open(tensor.file, os.O_RDONLY)
                stack.callback(os.close, descriptors[tensor.file])
            size = 0
            for piece in _pieces(tensor, descriptors[tensor.file]):
                size += file.write(_converted(piece, tensor, target))
            writer.write_padding(file, size)
            progress(done, len(plan))


def _target(tensor: Stored, type: str) -> str:
    """llama.cpp keeps vectors (norms, biases) in f32, and rows that q8_0's blocks of 32 do not divide in f16."""
    if len(tensor.shape) == 1:
        return "f32"
    if type == "q8_0" and tensor.shape[-1] % 32:
        return "f16"
    return type


def _add_model(writer: Any, config: Mapping[str, Any], file_type: int, labels: Mapping[str, str | None]) -> None:
    import gguf

    writer.add_type(gguf.GGUFType.MODEL)
    if labels["name"]:
        writer.add_name(labels["name"])
    writer.add_size_label(gguf.size_label(*writer.get_total_parameter_count()))
    if labels["licence"]:
        writer.add_license(labels["licence"])
    layers, context, hidden, inner, heads, groups = (int(config[key]) for key in _SIZES)
    writer.add_block_count(layers)
    writer.add_context_length(context)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(groups)
    rope = config.get("rope_parameters") or {}
    writer.add_rope_freq_base(float(rope.get("rope_theta") or config.get("rope_theta") or 10_000))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    if head := config.get("head_dim"):
        writer.add_key_length(head)
        writer.add_value_length(head)
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _add_tokenizer(writer: Any, model_dir: Path, config: Mapping[str, Any], chat_format: ChatFormat | None) -> None:
    import gguf

    vocabulary = _vocabulary(model_dir, int(config["vocab_size"]))
    special = gguf.SpecialVocab(model_dir, load_merges=True)
    if not special.merges:
        raise BadInput(f"{model_dir}/tokenizer.json holds no merges")
    if chat_format is not None:
        special.chat_template = chat_format.jinja
        for role, token in (("eos", chat_format.eos), ("pad", chat_format.pad)):
            if token not in vocabulary.ids:
                raise BadInput(f"{model_dir}/tokenizer.json has no token {token}, the {role} of the chat format {chat_format.name}")
            special.special_token_ids[role] = vocabulary.ids[token]
    # Qwen2 adds no token of its own: one in front of the prompt would shift everything
    special.add_special_token.update(bos=False, eos=False)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    special.add_to_gguf(writer, quiet=True)


# ------------------------------------------------------------------------------------------------------------- the arithmetic


def _pieces(tensor: Stored, descriptor: int) -> Iterator[NDArray[Any]]:
    """The tensor in order, whole rows at a time, as the bits that are stored (uint16 or uint32)."""
    import numpy as np

    width, size = tensor.shape[-1], _BYTES[tensor.dtype]
    rows = prod(tensor.shape) // width
    step = max(1, PIECE_BYTES // (width * size))
    for row in range(0, rows, step):
        wanted = min(step, rows - row) * width * size
        data = os.pread(descriptor, wanted, tensor.offset + row * width * size)
        if len(data) != wanted:
            raise BadInput(f"{tensor.file} ended while {tensor.name} was read; it was changed meanwhile, start again")
        yield np.frombuffer(data, np.dtype(f"<u{size}")).reshape(-1, width)


def _converted(bits: NDArray[Any], tensor: Stored, target: str) -> memoryview:
    """The piece in its target type. Rounding is to the nearest, ties to even, as in llama.cpp; q8_0 is the gguf package's."""
    import gguf
    import numpy as np

    _refuse_not_finite(bits, tensor)
    if tensor.dtype.lower() == target:
        converted: NDArray[Any] = bits
    elif target == "f16":
        converted = _to_f16(bits, tensor)
    else:
        floats = _to_f32(bits, tensor.dtype)
        converted = floats if target == "f32" else gguf.quants.quantize(floats, gguf.GGMLQuantizationType[target.upper()])
    return np.ascontiguousarray(converted).data


def _to_f32(bits: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    import numpy as np

    if dtype == "BF16":
        return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return bits.view(np.float16).astype(np.float32) if dtype == "F16" else bits.view(np.float32)


def _to_f16(bits: NDArray[Any], tensor: Stored) -> NDArray[np.float16]:
    import numpy as np

    if tensor.dtype == "BF16":
        halves: NDArray[np.float16] = np.take(_every_bf16_as_f16(), bits)
    else:
        with np.errstate(over="ignore"):
            halves = _to_f32(bits, tensor.dtype).astype(np.float16)
    if np.isinf(halves).any():
        raise BadInput(f"{tensor.name} holds a value beyond float16's 65504; choose bf16, f32 or q8_0")
    return halves


@cache
def _every_bf16_as_f16() -> NDArray[np.float16]:
    """A table of bf16's 65,536 values: looking them up is three times faster than converting them."""
    import numpy as np

    with np.errstate(over="ignore", invalid="ignore"):
        return _to_f32(np.arange(1 << 16, dtype=np.uint16), "BF16").astype(np.float16)


_EXPONENT: Final = {"F32": 0x7F80_0000, "F16": 0x7C00, "BF16": 0x7F80}  # all ones: infinity or not a number


def _refuse_not_finite(bits: NDArray[Any], tensor: Stored) -> None:
    exponent = bits.dtype.type(_EXPONENT[tensor.dtype])
    if ((bits & exponent) == exponent).any():
        raise BadInput(f"{tensor.file}: {tensor.name} holds values that are not finite; the training diverged or the file is damaged")
