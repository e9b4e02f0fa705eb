"""A tokenizer made anew of a GGUF's metadata alone: what its words say of a text, where no llama.cpp is installed to read them.

    ids = encoder(read_header(file).fields)
    ids("x = 1")                          the token ids

The split is the one that llama.cpp has under the name in `tokenizer.ggml.pre` (src/llama-vocab.cpp), not the checkpoint's: a file
with another name, or with an added token typed as a plain one, gives other ids here too. Only splits that the writer writes are known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from gwen25.errors import BadInput

# tokenizer.ggml.token_type
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
MODEL: Final = "gpt2"  # tokenizer.ggml.model of a byte-level BPE, the one kind that is written
# one regex after the other, each on the pieces that the last has left
_SPLITS: Final = {
    "qwen2": (
        r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    "smollm": (r"\p{N}", r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"),
}


def encoder(fields: Mapping[str, Any]) -> Callable[[str], list[int]]:
    """Text -> ids, special tokens parsed, nothing added. Raises BadInput for metadata of which no tokenizer can be made."""
    from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers

    try:
        if (model := fields["tokenizer.ggml.model"]) != MODEL:
            raise ValueError(f"it is a {model!r}; only {MODEL!r} is known here")
        pre = fields["tokenizer.ggml.pre"]
        if pre not in _SPLITS:
            raise ValueError(f"its split is {pre!r}; known here: {', '.join(_SPLITS)}")
        tokens, types = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
        rows = {token: row for row, (token, type) in enumerate(zip(tokens, types, strict=True)) if type != UNUSED}
        parts = [merge.split(" ") for merge in fields["tokenizer.ggml.merges"]]
        made = Tokenizer(models.BPE(vocab=rows, merges=[(first, second) for first, second in parts]))
    except Exception as error:  # the library raises bare Exceptions
        raise BadInput(f"the GGUF's metadata make no tokenizer: {error}") from error
    splits: list[Any] = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in _SPLITS[pre]]
    made.pre_tokenizer = pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    for token, row in rows.items():
        if types[row] in (CONTROL, USER_DEFINED):
            made.add_tokens([AddedToken(token, normalized=False, special=types[row] == CONTROL)])

    def ids(text: str) -> list[int]:
        found: list[int] = made.encode(text, add_special_tokens=False).ids
        return found

    return ids
