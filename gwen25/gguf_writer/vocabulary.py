"""A tokenizer.json in GGUF's words: every row's token and type, the rule of its split, merges, special tokens, chat template.

    add_tokenizer(writer, model_dir, config, chat_format)

Byte-level BPE under a split that llama.cpp has a name for; anything else is refused by name. Not here: what other files say of the
tokens (`agreement`), Python tokenizers, sentencepiece.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gwen25.chat import ChatFormat
from gwen25.errors import BadInput
from gwen25.gguf_writer.agreement import Held, looks_special, require_agreement

# The pre-tokenizer that llama.cpp calls "qwen2". Another regex under that name would split text otherwise, in silence.
QWEN2_REGEX: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# SmolLM2: digits one by one, then GPT-2's own split, which a ByteLevel step does by itself
_SPLITS: Final = {(QWEN2_REGEX,): "qwen2", ("Digits each", "ByteLevel"): "smollm"}
_NO_BOS_ROWS: Final = 49152  # a Llama with so many rows is a Granite or a SmolLM2 to llama.cpp's converter, and begins with no token


@dataclass(frozen=True, slots=True)
class _Vocabulary:
    tokens: list[str]
    types: list[int]
    ids: dict[str, int]
    merges: list[str]
    added: set[str]
    controls: set[str]  # the added tokens that are special, or look so to llama.cpp
    split: str
    byte_level: bool  # its post-processor, which says that nothing is put round a text


def add_tokenizer(writer: Any, model_dir: Path, config: Mapping[str, Any], chat_format: ChatFormat | None) -> None:
    """`chat_format`: its template, its end and padding tokens, nothing added to a prompt; None takes the checkpoint's own."""
    import gguf

    vocabulary = _vocabulary(model_dir, int(config["vocab_size"]))
    try:
        special = gguf.SpecialVocab(model_dir)
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise BadInput(f"{model_dir}: tokenizer_config.json cannot be read: {error}") from error
    special.merges = vocabulary.merges
    if chat_format is not None:
        special.chat_template = chat_format.jinja
        for role, token in (("eos", chat_format.eos), ("pad", chat_format.pad)):
            if token not in vocabulary.ids:
                raise BadInput(f"{model_dir}/tokenizer.json has no token {token}, the {role} of the chat format {chat_format.name}")
            special.special_token_ids[role] = vocabulary.ids[token]
    require_agreement(model_dir, Held(vocabulary.ids, vocabulary.added, vocabulary.controls))
    if chat_format is not None or vocabulary.byte_level:
        # a token of its own in front of the prompt would shift everything
        special.add_special_token.update(bos=False, eos=False)
    no_bos = writer.arch == "llama" and config["vocab_size"] == _NO_BOS_ROWS
    if no_bos and "bos" in special.add_special_token:
        special.add_special_token["bos"] = False
    if writer.arch == "llama":
        _add_space_prefix(writer, model_dir / "tokenizer_config.json")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.split)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    special.add_to_gguf(writer, quiet=True)
    if no_bos and "bos" not in special.add_special_token:
        writer.add_add_bos_token(False)


def _add_space_prefix(writer: Any, file: Path) -> None:
    if file.is_file():
        prefix = json.loads(file.read_text(encoding="utf-8")).get("add_prefix_space")
        if prefix is not None:
            writer.add_add_space_prefix(prefix)


def _vocabulary(model_dir: Path, rows: int) -> _Vocabulary:
    """Every row's token and type. Rows past the last token are padding of the matrix, named as llama.cpp's converter does."""
    from gguf import TokenType

    file = model_dir / "tokenizer.json"
    try:
        parts = json.loads(file.read_text(encoding="utf-8"))
        split = split_name(file, parts)
        _require_known_normalizer(file, parts.get("normalizer"))
        added = {token["content"]: token for token in parts["added_tokens"]}
        ids: dict[str, int] = {**parts["model"]["vocab"], **{content: token["id"] for content, token in added.items()}}
        merges = _merges(parts["model"]["merges"])
        controls = {content for content, token in added.items() if token["special"] or looks_special(content)}
        _require_rows(file, ids, rows)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise BadInput(f"{file} cannot be read as a tokenizer: {error!r}") from error
    if not merges:
        raise BadInput(f"{file} holds no merges")
    tokens, types = [f"[PAD{row}]" for row in range(rows)], [int(TokenType.UNUSED)] * rows
    for token, row in ids.items():
        tokens[row], types[row] = token, int(TokenType.NORMAL)
        if token in added:
            types[row] = int(TokenType.CONTROL if token in controls else TokenType.USER_DEFINED)
    return _Vocabulary(tokens, types, ids, merges, set(added), controls, split, _adds_nothing(file, parts.get("post_processor")))


def _require_rows(file: Path, ids: Mapping[str, Any], rows: int) -> None:
    if not ids:
        raise BadInput(f"{file} holds no tokens")
    for token, row in ids.items():
        if isinstance(row, bool) or not isinstance(row, int):
            raise BadInput(f"{file}: the id of token {token!r} is {row!r}; a whole number is expected")
        if not 0 <= row < rows:
            raise BadInput(f"{file}: token id {row} has no row in an embedding of {rows}")


def _merges(merges: list[Any]) -> list[str]:
    """Each merge as one string, parted by a blank: the older spelling of tokenizer.json, whose newer one has pairs."""
    return [pair if isinstance(pair, str) else f"{pair[0].replace(' ', 'Ġ')} {pair[1].replace(' ', 'Ġ')}" for pair in merges]


def split_name(file: Path, parts: Mapping[str, Any]) -> str:
    """llama.cpp's name of the rule by which the tokenizer divides a text before it merges. Raises BadInput for one that has none here."""
    kind = parts["model"].get("type")
    if kind not in (None, "BPE"):
        raise BadInput(f"{file}: a {kind} tokenizer; a byte-level BPE is expected")
    splitters = parts.get("pre_tokenizer") or {}
    steps = splitters.get("pretokenizers", [splitters])
    names = tuple(_step(step) for step in steps if step.get("type") != "ByteLevel" or step.get("use_regex", True))
    if names not in _SPLITS:
        raise BadInput(
            f"{file}: the pre-tokenizer is none that llama.cpp knows (its split: {names or 'none'}); it would split text otherwise"
        )
    return _SPLITS[names]


def _step(step: Mapping[str, Any]) -> str:
    if step.get("type") == "Digits":
        return f"Digits {'each' if step.get('individual_digits') else 'together'}"
    return str((step.get("pattern") or {}).get("Regex", step.get("type")))


def _require_known_normalizer(file: Path, normalizer: Mapping[str, Any] | None) -> None:
    """Qwen2's composes characters (NFC), which llama.cpp leaves out; one that changes more would change every prompt."""
    kind = (normalizer or {}).get("type")
    if kind not in (None, "NFC"):
        raise BadInput(f"{file}: a {kind} normalizer is not carried over; only NFC or none")


def _adds_nothing(file: Path, processor: Mapping[str, Any] | None) -> bool:
    """True for a ByteLevel post-processor, False where there is none. Raises BadInput for one that adds tokens by a template.

    A template without tokens is none: Transformers 5 writes it where it saves SmolLM2's tokenizer.
    """
    steps = (processor or {}).get("processors") or [processor or {}]
    kinds = [str(step.get("type")) for step in steps if step.get("type") != "TemplateProcessing" or step.get("special_tokens")]
    if others := [kind for kind in kinds if kind not in ("ByteLevel", "None")]:
        raise BadInput(f"{file}: a {others[0]} post-processor is not carried over; only ByteLevel or none")
    return "ByteLevel" in kinds
