"""Sampling in slices: fewer rows in memory at once, and the same answers.

    generate = in_slices(model.generate, at_once=4)
    ids = generate(input_ids=ids, attention_mask=mask, generation_config=settings)      (rows, prompt + answer), as from model.generate

Every slice is padded as the whole batch is, begins at the same random state, and takes its rows' share of the numbers that the
whole batch would have drawn: torch.multinomial of one sample is argmax(p / q), q ~ Exp(1) of p's shape (torch,
aten/src/ATen/native/Distributions.cpp). Afterwards the random state is that of the whole batch. So the answers are equal but
where two tokens are so near that the batch's size decides the rounding, or where the model has dropout at work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from gwen25.out_of_memory import phase

if TYPE_CHECKING:
    import torch

Generate = Callable[..., Any]  # keyword arguments of transformers' `generate`, to a tensor of ids


def in_slices(generate: Generate, at_once: int | None, *, watch: Callable[[], None] | None = None) -> Generate:
    """The same function over `at_once` rows at a time; None takes all. `watch` is called at each token, and may raise."""

    def sliced(*, input_ids: torch.Tensor, attention_mask: torch.Tensor, **options: Any) -> torch.Tensor:
        rows = len(input_ids)
        size = rows if at_once is None else min(at_once, rows)
        if watch is not None:
            options["stopping_criteria"] = _watching(watch, options.get("stopping_criteria"))
        with phase("sampling", rows=size):
            if size == rows:
                whole: torch.Tensor = generate(input_ids=input_ids, attention_mask=attention_mask, **options)
                return whole
            starts = range(0, rows, size)
            return _joined([_Part(range(at, min(at + size, rows)), rows) for at in starts], generate, input_ids, attention_mask, options)

    return sliced


class _Part:
    """The rows of a slice, out of how many; it counts its draws."""

    def __init__(self, rows: range, of: int):
        self.rows, self.of, self.draws = rows, of, 0

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """torch.multinomial over these rows draws as it would over all."""
        import torch

        whole = torch.multinomial

        def multinomial(probs: torch.Tensor, num_samples: int) -> torch.Tensor:
            assert num_samples == 1 and probs.dim() == 2, "generate draws one token for each row"
            self.draws += 1
            q = probs.new_empty((self.of, probs.shape[1])).exponential_(1)
            return (probs / q[self.rows.start : self.rows.stop]).argmax(-1, keepdim=True)

        torch.multinomial = multinomial  # type: ignore[assignment]
        try:
            yield
        finally:
            torch.multinomial = whole


def _joined(parts: list[_Part], generate: Generate, ids: torch.Tensor, mask: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
    import torch

    start, made, ends = _random_state(ids.device), list[torch.Tensor](), list[tuple[int, list[torch.Tensor]]]()
    for part in parts:
        _set_random_state(ids.device, start)
        rows = slice(part.rows.start, part.rows.stop)
        with part.drawing():
            made.append(generate(input_ids=ids[rows], attention_mask=mask[rows], **options))
        ends.append((part.draws, _random_state(ids.device)))
    _set_random_state(ids.device, max(ends, key=lambda end: end[0])[1])
    width, pad = max(part.shape[1] for part in made), options["generation_config"].pad_token_id
    return torch.cat([torch.nn.functional.pad(part, (0, width - part.shape[1]), value=pad) for part in made])


def _random_state(device: torch.device) -> list[torch.Tensor]:
    import torch

    return [torch.get_rng_state()] + ([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])


def _set_random_state(device: torch.device, state: list[torch.Tensor]) -> None:
    import torch

    torch.set_rng_state(state[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state[1], device)


def _watching(watch: Callable[[], None], others: Any) -> Any:
    """Stopping criteria that stop nothing by themselves: they are where `generate` lets a caller in at each token."""
    import torch
    from transformers import StoppingCriteria, StoppingCriteriaList

    class Watching(StoppingCriteria):
        def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **_: Any) -> torch.BoolTensor:
            watch()
            return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)  # type: ignore[return-value]

    return StoppingCriteriaList([*(others or []), Watching()])
