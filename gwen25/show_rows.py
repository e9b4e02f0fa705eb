"""Training rows as the model sees them: tokens, ids, and which of them the loss is taken on. For `gwen25 dataset --show N`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from gwen25.chat import ChatFormat

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PIECES_A_LINE = 12


def lines(train: Path, tokenizer: Tokenizer, format: ChatFormat, count: int) -> Iterator[str]:
    """Text lines for the first `count` rows of a train.jsonl: `.` before tokens that are only read, `*` before trained ones."""
    yield 'each token as "text"=id; lines that begin with . are the prompt, only read; the loss is on those that begin with *'
    with train.open(encoding="utf-8") as rows:
        for row in map(json.loads, islice(rows, count)):
            prompt = format.render(row["messages"])
            target = format.answer(row["reasoning"], row["code"]) + format.eos
            read, trained = (tokenizer.encode(text, add_special_tokens=False).ids for text in (prompt, target))
            yield f"--- {row['id']}: {len(read) + len(trained)} tokens, {len(read)} read and {len(trained)} trained"
            yield from _tokens(tokenizer, ".", read)
            yield from _tokens(tokenizer, "*", trained)


def _tokens(tokenizer: Tokenizer, mark: str, ids: Sequence[int]) -> Iterator[str]:
    pieces = [f"{_text(tokenizer, token)}={token}" for token in ids]
    for start in range(0, len(pieces), PIECES_A_LINE):
        yield f"{mark} " + " ".join(pieces[start : start + PIECES_A_LINE])


def _text(tokenizer: Tokenizer, token: int) -> str:
    """A token's text in quotes; in the vocabulary's own spelling where it is a part of a character."""
    text = tokenizer.decode([token], skip_special_tokens=False)
    return json.dumps(tokenizer.id_to_token(token) if "\ufffd" in text else text, ensure_ascii=False)
