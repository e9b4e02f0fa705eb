"""Base models: which are known, which architectures can be trained, what a checkpoint on disk is.

    inspect(Path("Qwen2.5-3B"))         architecture, context, dtype, vocabulary; BadInput where it cannot be used
    shape_of(read_config(directory), "") the sizes that memory and time follow from
    tensor_shapes(Path("Qwen2.5-3B"))   name -> shape, read from the safetensors headers alone

To add a base model of a known architecture, add a row to BASE_MODELS; a hub id without a row works too, its licence is then
read from its card. To add an architecture, add its projections to LORA_TARGETS and check merge and GGUF on it.

Standard library only: preflight asks here in the flow's process, before torch is anywhere.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gwen25.errors import BadInput


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes that memory and time follow from, by the names that config.json gives them."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    intermediate_size: int
    vocab_size: int
    tie_word_embeddings: bool
    qkv_bias: bool = True  # Qwen2's; a Llama has none

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def kv_size(self) -> int:
        """Width of keys, and of values: numbers of one token in one layer."""
        return self.num_key_value_heads * self.head_dim

    @property
    def projections(self) -> tuple[tuple[int, int], ...]:
        """(in, out) of a block's seven linear layers: q, k, v, o, gate, up, down."""
        hidden, inner = self.hidden_size, self.intermediate_size
        return (
            (hidden, hidden),
            (hidden, self.kv_size),
            (hidden, self.kv_size),
            (hidden, hidden),
            *((hidden, inner),) * 2,
            (inner, hidden),
        )

    @property
    def linear(self) -> int:
        """Weights of all blocks' linear layers: what 4-bit loading packs."""
        return self.num_hidden_layers * sum(width * out for width, out in self.projections)

    @property
    def embedding(self) -> int:
        return self.vocab_size * self.hidden_size

    @property
    def parameters(self) -> int:
        """Linear layers, biases of q, k and v, two norms a block and one more, embedding and head."""
        biases = (self.hidden_size + 2 * self.kv_size) * self.qkv_bias
        small = self.num_hidden_layers * (biases + 2 * self.hidden_size) + self.hidden_size
        return self.linear + small + self.embedding * (1 if self.tie_word_embeddings else 2)

    def lora(self, rank: int) -> int:
        """Parameters of an adapter of this rank on the seven linear layers of every block."""
        return self.num_hidden_layers * rank * sum(width + out for width, out in self.projections)


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A known hub checkpoint. `licence` is an SPDX id or the licence's name."""

    hub_id: str
    licence: str
    shape: Shape

    @property
    def parameters(self) -> int:
        """Tied embeddings counted once."""
        return self.shape.parameters


# hidden, layers, heads, key-value heads, intermediate, vocabulary, tied: as the config.json on the hub says
_HALF: Final = Shape(896, 24, 14, 2, 4864, 151936, True)
_ONE_AND_A_HALF: Final = Shape(1536, 28, 12, 2, 8960, 151936, True)
_THREE: Final = Shape(2048, 36, 16, 2, 11008, 151936, True)
_SEVEN: Final = Shape(3584, 28, 28, 4, 18944, 152064, False)
SMOLLM2: Final = Shape(576, 30, 9, 3, 1536, 49152, True, qkv_bias=False)

# Licences are the checkpoints' own, not the family's: of these only the 3B ones are for research, not for commerce.
BASE_MODELS: Final[dict[str, BaseModel]] = {
    model.hub_id: model
    for model in (
        BaseModel("Qwen/Qwen2.5-0.5B", "Apache-2.0", _HALF),
        BaseModel("Qwen/Qwen2.5-1.5B", "Apache-2.0", _ONE_AND_A_HALF),
        BaseModel("Qwen/Qwen2.5-3B", "Qwen Research", _THREE),
        BaseModel("Qwen/Qwen2.5-7B", "Apache-2.0", _SEVEN),
        BaseModel("Qwen/Qwen2.5-Coder-0.5B", "Apache-2.0", _HALF),
        BaseModel("Qwen/Qwen2.5-Coder-1.5B", "Apache-2.0", _ONE_AND_A_HALF),
        BaseModel("Qwen/Qwen2.5-Coder-3B", "Qwen Research", _THREE),
        BaseModel("Qwen/Qwen2.5-Coder-7B", "Apache-2.0", _SEVEN),
    )
}

# All linear layers of a block, none of the embeddings: they are tied to the head in the small models, and stay the base's.
LORA_TARGETS: Final[dict[str, tuple[str, ...]]] = {
    "Qwen2ForCausalLM": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    "LlamaForCausalLM": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a model directory says of itself. `dtype` as in its config, "float32" where it names none; `licence` None where unknown."""

    architecture: str
    context: int
    dtype: str
    vocab_size: int
    tied: bool
    licence: str | None


def inspect(directory: Path) -> Checkpoint:
    """Look at a model directory's config and file names (milliseconds, no weights read).

    Raises BadInput for a directory that is absent, or lacks config.json, weights (*.safetensors) or tokenizer.json, and for
    an architecture that cannot be trained here.
    """
    if not directory.is_dir():
        raise BadInput(f"no such model directory: {directory}")
    checkpoint = read_checkpoint(directory / "config.json", directory)
    if not any(directory.glob("*.safetensors")):
        raise BadInput(f"{directory}: no weights (*.safetensors); .bin and .gguf files are not read")
    if not (directory / "tokenizer.json").is_file():
        raise BadInput(f"{directory}: no tokenizer.json; save the fast tokenizer beside the weights")
    return checkpoint


def read_checkpoint(file: Path, named: Path | str) -> Checkpoint:
    """What a config.json says; `named` is how errors call the model. Raises BadInput as `inspect` does."""
    config = _read_config(file, named)
    architectures = config.get("architectures") or []
    if len(architectures) != 1 or architectures[0] not in LORA_TARGETS:
        found = ", ".join(map(str, architectures)) or "none named"
        raise BadInput(f"{named}, config.json: the architecture is {found}; supported: {', '.join(sorted(LORA_TARGETS))}")
    try:
        context, vocab_size = int(config["max_position_embeddings"]), int(config["vocab_size"])
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{named}, config.json: max_position_embeddings and vocab_size must be whole numbers ({error})") from error
    dtype = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    tied = bool(config.get("tie_word_embeddings", False))
    return Checkpoint(architectures[0], context, dtype, vocab_size, tied, _licence_of_card(file.parent))


def shape_of(config: Mapping[str, Any], named: Path | str) -> Shape:
    """The shape that a config.json tells. Raises BadInput where one of its numbers is not there."""
    try:
        sizes = {name: int(config[name]) for name in _SIZES}
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{named}, config.json: {', '.join(_SIZES)} must be whole numbers ({error!r})") from error
    tied, qwen2 = bool(config.get("tie_word_embeddings", False)), config.get("architectures") == ["Qwen2ForCausalLM"]
    return Shape(**sizes, tie_word_embeddings=tied, qkv_bias=qwen2)


_SIZES: Final = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size")


def read_config(directory: Path) -> dict[str, Any]:
    """config.json of a model directory, or BadInput."""
    return _read_config(directory / "config.json", directory)


def _read_config(file: Path, named: Path | str) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadInput(f"{named}: no config.json; a directory in the Hugging Face layout is expected") from error
    except (OSError, ValueError) as error:
        raise BadInput(f"{named}: config.json cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise BadInput(f"{named}: config.json: a JSON object is expected")
    return config


def licence(base_model: Mapping[str, Any], directory: Path) -> str | None:
    """The base model's licence: from the table, else from the card in its directory, else None (unknown).

    `base_model` is the pinned identity: {"id", "revision"} or {"digest"}.
    """
    known = BASE_MODELS.get(str(base_model.get("id")))
    return known.licence if known is not None else _licence_of_card(directory)


def name_of(base_model: Mapping[str, Any]) -> str:
    """How a pinned base model is named in cards and configs: its hub id, or its content digest; never a path of this machine."""
    return str(base_model["id"]) if "id" in base_model else f"sha256:{base_model['digest']}"


def _licence_of_card(directory: Path) -> str | None:
    """`license_name` (for custom ones) or `license` in the front matter of README.md, as the hub's cards hold it."""
    try:
        lines = (directory / "README.md").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    if not lines or lines[0].strip() != "---":
        return None
    found: dict[str, str] = {}
    for line in lines[1:]:
        if line.strip() == "---":
            break
        key, _, value = line.partition(":")
        found[key] = value.strip().strip("\"'")
    return found.get("license_name") or found.get("license") or None


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files that hold the model: those of the index where there is one, else every one in the directory."""
    index = directory / "model.safetensors.index.json"
    if not index.is_file():
        return sorted(directory.glob("*.safetensors"))
    names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    files = [directory / Path(name).name for name in names]
    if missing := [file.name for file in files if not file.is_file()]:
        raise BadInput(f"{directory}: the index names files that are not there: {', '.join(missing)}; fetch the model again")
    return files


def tensor_shapes(directory: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor of a checkpoint, from the files' headers. Raises BadInput for a file that is cut off."""
    shapes: dict[str, tuple[int, ...]] = {}
    for file in weight_files(directory):
        shapes |= {name: tuple(entry["shape"]) for name, entry in read_header(file).items()}
    return shapes


def read_header(file: Path) -> dict[str, dict[str, Any]]:
    """A safetensors file's header: tensor name -> {"dtype", "shape", "data_offsets"}; BadInput where header and size disagree.

    Format: github.com/huggingface/safetensors, "Format" (8 bytes length, JSON, data).
    """
    try:
        with file.open("rb") as data:
            (length,) = struct.unpack("<Q", data.read(8))
            if length > file.stat().st_size - 8:
                raise ValueError("the header is cut off")
            header: dict[str, dict[str, Any]] = json.loads(data.read(length))
        header.pop("__metadata__", None)
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        if file.stat().st_size != 8 + length + end:
            raise ValueError(f"{file.stat().st_size} bytes where the header tells of {8 + length + end}")
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise BadInput(f"{file} is not a whole safetensors file ({error}); fetch or write it again") from error
    return header
