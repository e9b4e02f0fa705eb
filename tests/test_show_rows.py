"""Rows as tokens: every token readable, also where it is a part of a character."""

from __future__ import annotations

import json
from pathlib import Path

from gwen25 import show_rows
from gwen25.chat import FORMATS


def test_parts_of_a_character_are_spelled_as_the_vocabulary_does(tmp_path: Path, tiny_model: Path) -> None:
    from tokenizers import Tokenizer

    row = {"id": "a", "messages": [{"role": "user", "content": "👍🏽"}], "reasoning": "求", "code": "print(1)", "tokens": 0}
    (tmp_path / "train.jsonl").write_text(json.dumps(row) + "\n")
    tokenizer = Tokenizer.from_file(str(tiny_model / "tokenizer.json"))
    lines = list(show_rows.lines(tmp_path / "train.jsonl", tokenizer, FORMATS["chatml-think"], 5))
    text = "\n".join(lines)
    assert "\ufffd" not in text and '"ð"=' in text and "<|im_end|>" in lines[-1]
    assert lines[0].startswith("each token as") and lines[1].startswith("--- a: ")
