"""What counts as an answer that ends: a model that writes what the test says stands in for a trained one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gwen25 import modeling, stop_rate
from gwen25.chat import FORMATS
from gwen25.stop_rate import Stops

FORMAT = FORMATS["chatml-think"]
PROGRAM = "```python\nprint(1)\n```"


class Parrot:
    """Writes the given texts, one a row in the order of the batch, then pads; remembers what it was given."""

    device = "cpu"

    def __init__(self, tokenizer: Any, *texts: str):
        self._tokenizer, self._texts, self.given = tokenizer, list(texts), list[str]()

    def eval(self) -> None:
        pass

    def generate(self, *, input_ids: Any, attention_mask: Any, generation_config: Any) -> Any:
        import torch

        assert not generation_config.do_sample
        rows = []
        for ids, mask in zip(input_ids, attention_mask, strict=True):
            self.given.append(self._tokenizer.decode(ids[mask.bool()]))
            text = self._texts.pop(0)
            written = self._tokenizer(text, add_special_tokens=False)["input_ids"][: generation_config.max_new_tokens]
            rows.append(ids.tolist() + written + [self._tokenizer.pad_token_id] * (generation_config.max_new_tokens - len(written)))
        return torch.tensor(rows)


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    return modeling.load_tokenizer(tiny_model, FORMAT)


def _heldout(folder: Path, *reasonings: str) -> Path:
    rows = [
        {"id": str(n), "messages": [{"role": "user", "content": "Print 1."}], "reasoning": reasoning, "code": "print(1)"}
        for n, reasoning in enumerate(reasonings)
    ]
    (folder / "heldout.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "heldout.jsonl"


def _measured(tokenizer: Any, folder: Path, *texts: str) -> Stops:
    file = _heldout(folder, *["Just print it." for _ in texts])
    return stop_rate.measure(Parrot(tokenizer, *texts), tokenizer, FORMAT, file, room=100_000, context=2048)


@pytest.mark.parametrize(
    ("text", "counted"),
    [
        (f"{PROGRAM}<|im_end|>", Stops(1, 1, 0)),
        ("```python\nprint(<|im_end|>", Stops(1, 1, 0)),  # early, but it ends
        (f"{PROGRAM}<|endoftext|>", Stops(1, 0, 0)),  # another token: a server that stops at the eos alone would go on
        (f"{PROGRAM}\n\nNow a word on why. " + "It prints. " * 200, Stops(1, 0, 0)),  # has answered and does not end
        ("```python\n" + "print(1)\n" * 200, Stops(0, 0, 1)),  # cut within its program: tells nothing
    ],
)
def test_what_ends_an_answer(tokenizer: Any, tmp_path: Path, text: str, counted: Stops) -> None:
    assert _measured(tokenizer, tmp_path, text) == counted


def test_the_rate_is_of_those_that_were_not_cut(tokenizer: Any, tmp_path: Path) -> None:
    good, bad, cut = f"{PROGRAM}<|im_end|>", f"{PROGRAM}<|endoftext|>", "```python\n" + "print(1)\n" * 200
    found = _measured(tokenizer, tmp_path, good, good, cut, bad)
    assert found == Stops(3, 2, 1) and found.rate == pytest.approx(2 / 3)
    assert _measured(tokenizer, tmp_path, cut).rate is None  # not measured is no zero


def test_the_row_s_own_reasoning_is_given(tokenizer: Any, tmp_path: Path) -> None:
    file = _heldout(tmp_path, "It is one.", "")
    parrot = Parrot(tokenizer, "<|im_end|>", "<|im_end|>")
    stop_rate.measure(parrot, tokenizer, FORMAT, file, room=100_000, context=2048)
    prompt = FORMAT.render([{"role": "user", "content": "Print 1."}])
    assert sorted(parrot.given) == sorted([f"{prompt}It is one.\n</think>\n\n", f"{prompt}</think>\n\n"])


def test_batches_fit_the_room_and_rows_beyond_the_context_are_left_out(tokenizer: Any, tmp_path: Path) -> None:
    file = _heldout(tmp_path, *["word " * n for n in (1, 400, 2, 3, 1200, 90)])
    starts = list(stop_rate._starts(tokenizer, FORMAT, file))
    batches = list(stop_rate._batches(starts, room=700))
    assert sorted(len(one.ids) for batch in batches for one in batch) == sorted(len(start.ids) for start in starts)
    for batch in batches:
        assert len(batch) == 1 or len(batch) * (max(len(one.ids) for one in batch) + max(one.allowed for one in batch)) <= 700
    assert len(batches) > 2 and max(map(len, batches)) > 1
    parrot = Parrot(tokenizer, *[f"{PROGRAM}<|im_end|>"] * 5)
    context = sorted(len(start.ids) + start.allowed for start in starts)[-2]
    assert stop_rate.measure(parrot, tokenizer, FORMAT, file, room=10_000, context=context) == Stops(5, 5, 0)


def test_no_more_than_a_few_rows_are_written(tokenizer: Any, tmp_path: Path) -> None:
    assert _measured(tokenizer, tmp_path, *[f"{PROGRAM}<|im_end|>"] * 50).answers == stop_rate.ROWS
