"""Does the tuned model end its answers? Held-out programs are written out greedily, and what ends them is counted.

    measure(model, tokenizer, format, held-out file, room=8192, context=32768) -> Stops

Each row's own reasoning is given, up to the blank line after `</think>`, and the model writes the program. From the bare prompt
nearly every answer would be cut off: 5 % of real reasoning fits 2k tokens. An answer may be twice as long as the row's own program and 64
tokens more; one that is still within its program then tells nothing and is left out. One that has closed its program and writes on
counts against the rate: it is what a user sees of a model that has not learned its end token.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from gwen25 import modeling
from gwen25.chat import THINK_CLOSE, ChatFormat
from gwen25.data import read_jsonl

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROWS: Final = 20  # held-out rows at most: the fewest of which one may fail and 95 % still hold
EXPECTED: Final = 0.95  # of the answers that were not cut off
_SEAM: Final = f"{THINK_CLOSE}\n\n"
_CLOSED: Final = re.compile(r"```python\n.*?\n```\s", re.DOTALL)  # the shape that `ChatFormat.answer` teaches


@dataclass(frozen=True, slots=True)
class Stops:
    """Of `answers` that came to an end or closed their program, `ended` ended with the end token; `cut` are not among them."""

    answers: int = 0
    ended: int = 0
    cut: int = 0

    @property
    def rate(self) -> float | None:
        """None where no answer came to an end: nothing was measured."""
        return self.ended / self.answers if self.answers else None


class Start(NamedTuple):
    """What the model is given, and how many tokens it may write."""

    ids: list[int]
    allowed: int


def measure(model: Any, tokenizer: PreTrainedTokenizerBase, format: ChatFormat, file: Path, *, room: int, context: int) -> Stops:
    """Write out the first rows of a held-out file. `room`: tokens in memory at once, padding included; one row may exceed it."""
    starts = [start for start in _starts(tokenizer, format, file) if len(start.ids) + start.allowed <= context]
    kinds = [_kind(tokenizer, format, ids) for ids in write_out(model, tokenizer, format, starts, room)]
    return Stops(len(kinds) - kinds.count("cut"), kinds.count("ended"), kinds.count("cut"))


def write_out(model: Any, tokenizer: PreTrainedTokenizerBase, format: ChatFormat, starts: Sequence[Start], room: int) -> list[list[int]]:
    """What the model writes after each start, greedily, in their order. `room`: as in `measure`."""
    order = sorted(range(len(starts)), key=lambda at: len(starts[at].ids))  # as batches take them
    made = [answer for batch in _batches(starts, room) for answer in _write(model, tokenizer, format, batch)]
    return [answer for _, answer in sorted(zip(order, made, strict=True))]


def _starts(tokenizer: PreTrainedTokenizerBase, format: ChatFormat, file: Path) -> Iterator[Start]:
    for _, row in islice(read_jsonl(file), ROWS):
        thought, seam, program = format.answer(row["reasoning"], row["code"]).partition(_SEAM)
        given: list[int] = tokenizer(format.render(row["messages"]) + thought + seam, add_special_tokens=False)["input_ids"]
        yield Start(given, 2 * len(tokenizer(program, add_special_tokens=False)["input_ids"]) + 64)


def _batches(starts: Sequence[Start], room: int) -> Iterator[list[Start]]:
    """Starts of like length together, as many as fit the room."""
    batch: list[Start] = []
    for start in sorted(starts, key=lambda start: len(start.ids)):
        longest = len(start.ids) + max(one.allowed for one in [*batch, start])  # they come in order: the last is the longest
        if batch and (len(batch) + 1) * longest > room:
            yield batch
            batch = []
        batch.append(start)
    if batch:
        yield batch


def _write(model: Any, tokenizer: PreTrainedTokenizerBase, format: ChatFormat, batch: Sequence[Start]) -> list[list[int]]:
    """What the model writes after each start, greedily; each cut to its own allowance."""
    import torch

    width, pad = max(len(start.ids) for start in batch), tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (width - len(start.ids)) + start.ids for start in batch], device=model.device)
    mask = torch.tensor([[0] * (width - len(start.ids)) + [1] * len(start.ids) for start in batch], device=model.device)
    settings = modeling.generation_config(tokenizer, format)
    settings.max_new_tokens, settings.do_sample, settings.use_cache = max(start.allowed for start in batch), False, True
    model.eval()
    with torch.no_grad():
        made = model.generate(input_ids=ids, attention_mask=mask, generation_config=settings)
    return [row[width:].tolist()[: start.allowed] for row, start in zip(made, batch, strict=True)]


def _kind(tokenizer: PreTrainedTokenizerBase, format: ChatFormat, ids: Sequence[int]) -> str:
    """ "ended" with the end token, "other" (another stop token, or text after the program), or "cut" within the program."""
    stops = modeling.stop_ids(tokenizer, format)
    end = next((token for token in ids if token in stops), None)
    if end is not None:
        return "ended" if end == stops[0] else "other"
    return "other" if _CLOSED.search(str(tokenizer.decode(list(ids)))) else "cut"
