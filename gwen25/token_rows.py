"""Rows of the embedding that are trained beside LoRA: PEFT's `trainable_token_indices`, for `sft.trainable_chat_tokens`.

    wanted(tokenizer, format, tied)            what LoraConfig is given
    declared(adapter_config, tensor_names)     weight -> (tensor of the adapter file, rows that it replaces)
    require_fit(weight, rows, held, shape)     BadInput for rows of another base

LoRA on a block's projections never moves an embedding. Where the base has not learned the chat format's own tokens
(`base_check`), their rows are trained whole: the adapter file holds them as they shall be, not as a difference. A tied model
has one matrix for input and output, so one tensor; an untied one has two.

vLLM does not take such an adapter ("... is unsupported LoRA weight", github.com/vllm-project/vllm/issues/36501), and neither does
llama.cpp: the merged model is for them.

Training costs memory, about eight bytes a number of the embedding in bfloat16: input and output each work on a copy with the rows
put in, and each gives a gradient of its size. For Qwen2.5-3B that is 2.5 GB.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from gwen25.chat import ChatFormat
from gwen25.errors import BadInput

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SUFFIX: Final = ".token_adapter.trainable_tokens_delta"
MATRICES: Final = {"embed_tokens": "model.embed_tokens", "lm_head": "lm_head"}  # PEFT's short name -> the module


class Rows(NamedTuple):
    """A tensor of the adapter file, and the rows of its weight that it replaces, in the tensor's order."""

    tensor: str
    indices: tuple[int, ...]


def chat_tokens(format: ChatFormat) -> tuple[str, ...]:
    """The tokens that only a chat has: they open and end every turn."""
    return ("<|im_start|>", format.eos)


def wanted(tokenizer: PreTrainedTokenizerBase, format: ChatFormat, *, tied: bool) -> dict[str, list[int]]:
    """`trainable_token_indices` for the format's own tokens; where the head is a matrix of its own, its rows too."""
    vocabulary = tokenizer.get_vocab()
    indices = sorted(vocabulary[token] for token in chat_tokens(format))
    return dict.fromkeys(("embed_tokens",) if tied else ("embed_tokens", "lm_head"), indices)


def open_head(model: Any) -> None:
    """Let TRL's loss read the bias of a head whose rows are trained: PEFT 0.21's wrapper passes on its weight alone."""
    head = model.get_output_embeddings()
    if hasattr(head, "token_adapter"):
        head.bias = head.token_adapter.get_base_layer().bias


def is_rows(tensor: str) -> bool:
    return tensor.endswith(SUFFIX)


def declared(config: Mapping[str, Any], tensors: Iterable[str]) -> dict[str, Rows]:
    """By name of the base's weight, what the config declares and the file holds. BadInput where the two disagree."""
    given = config.get("trainable_token_indices") or {}
    by_matrix = {"embed_tokens": given} if isinstance(given, list) else given
    if not isinstance(by_matrix, Mapping) or not all(name in MATRICES and _is_indices(rows) for name, rows in by_matrix.items()):
        raise BadInput(f"trainable_token_indices = {given!r}: lists of rows of {' and '.join(MATRICES)} are expected")
    found = {
        f"{MATRICES[name]}.weight": Rows(f"base_model.model.{MATRICES[name]}{SUFFIX}", tuple(rows)) for name, rows in by_matrix.items()
    }
    held = {tensor for tensor in tensors if is_rows(tensor)}
    if held != (told := {rows.tensor for rows in found.values()}):
        odd = sorted(held ^ told)[0]
        raise BadInput(f"the adapter's config and file disagree on {odd!r}: trainable_token_indices is {given!r}; train it again")
    return found


def _is_indices(rows: Any) -> bool:
    return isinstance(rows, list) and bool(rows) and all(type(row) is int for row in rows) and len(set(rows)) == len(rows)


def require_fit(name: str, rows: Rows, held: tuple[int, ...], shape: tuple[int, ...] | None) -> None:
    """Raises BadInput for rows, a tensor of shape `held`, that do not fit the base's weight `name` of `shape` (None: it has none)."""
    if shape is None:
        raise BadInput(f"the adapter replaces rows of {name!r}, which the base model does not have: an adapter of another base")
    if held != (len(rows.indices), shape[1]) or not all(0 <= row < shape[0] for row in rows.indices):
        raise BadInput(f"{rows.tensor} of shape {held} does not fit rows {list(rows.indices)} of {name}, {shape}")
