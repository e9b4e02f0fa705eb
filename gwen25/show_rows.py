"""Training rows as the model sees them: tokens, ids, and which of them the loss is taken on. For `gwen25 dataset --show N`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from gwen25.chat import ChatFormat

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PIECES_A_LINE = 12


def lines(train: Path, tokenizer: Tokenizer, format: ChatFormat, count: int) -> Iterator[str]:
    """Text lines for the first `count` rows of a train.jsonl: `.` before tokens that are only read, `*` before trained ones."""
    with train.open(encoding="utf-8") as rows:
        for row in map(json.loads, islice(rows, count)):
            prompt = format.render(row["messages"])
            target = format.answer(row["reasoning"], row["code"]) + format.eos
            yield f"--- {row['id']}: {row['tokens']} tokens"
            yield from _tokens(tokenizer, ".", prompt)
            yield from _tokens(tokenizer, "*", target)


def _tokens(tokenizer: Tokenizer, mark: str, text: str) -> Iterator[str]:
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    pieces = [f"{json.dumps(tokenizer.decode([token], skip_special_tokens=False), ensure_ascii=False)}={token}" for token in ids]
    for start in range(0, len(pieces), PIECES_A_LINE):
        yield f"{mark} " + " ".join(pieces[start : start + PIECES_A_LINE])
