"""Fewer sequences at once: the same answers, the same random numbers afterwards, and an error that says how many there were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gwen25.generate import Sampling, Transformers, answers
from gwen25.out_of_memory import Shortage, recognise
from gwen25.slices import in_slices
from tests.test_generate import FORMAT, PROMPTS


def model(folder: Path, at_once: int | None) -> Transformers:
    return Transformers(folder, FORMAT, dtype="float32", device="cpu", batch_size=8, at_once=at_once)


@pytest.mark.parametrize("at_once", [1, 3, 8, 20])
def test_slices_of_a_batch_answer_as_the_whole(tiny_model: Path, at_once: int) -> None:
    """15 samples of five prompts in batches of 8, whose answers end at different lengths."""
    import torch

    sampling = Sampling(n=3, temperature=1.2, top_p=0.9, max_tokens=24)
    whole = answers(model(tiny_model, None), PROMPTS, sampling)
    after = torch.get_rng_state()
    assert answers(model(tiny_model, at_once), PROMPTS, sampling) == whole
    assert torch.get_rng_state().equal(after)
    assert len({sample.text for samples in whole for sample in samples}) == 15  # or the comparison would say little


def test_slices_end_where_their_own_rows_end(tiny_model: Path) -> None:
    """A slice whose rows all end early is filled up, and the numbers drawn afterwards are those after the longest row."""
    import torch

    made = model(tiny_model, None)
    inner, stop = made._model, made._stop[0]
    ids = torch.arange(100, 118).reshape(6, 3)
    settings = made._settings(Sampling(temperature=1.0, max_tokens=12))

    def early(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Rows that begin with an even token, of which the first slice is full, end after two tokens."""
        return scores.index_fill(1, torch.tensor([stop]), 1e9) if input_ids.shape[1] >= 5 and (input_ids[:, 0] % 6 == 4).all() else scores

    drawn: list[Any] = []
    for at_once in (None, 6, 1):
        torch.manual_seed(3)
        out = in_slices(inner.generate, at_once)(
            input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=settings, logits_processor=[early]
        )
        drawn.append((out, torch.rand(1)))
    assert drawn[0][0].equal(drawn[1][0]) and drawn[0][1].equal(drawn[1][1])
    alone = drawn[2][0]
    assert alone.shape == drawn[0][0].shape and (alone[0, 6:] == settings.pad_token_id).all()
    assert alone[1].equal(drawn[0][0][1]) and drawn[2][1].equal(drawn[0][1])  # row 1 does not end early: its numbers are the whole's


def test_a_shortage_tells_how_many_sequences_there_were() -> None:
    import torch

    def generate(**_: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("no more")

    ids = torch.zeros(8, 4, dtype=torch.long)
    for at_once, rows in ((None, 8), (3, 3)):
        with pytest.raises(torch.OutOfMemoryError) as caught:
            in_slices(generate, at_once)(input_ids=ids, attention_mask=ids)
        assert recognise(caught.value) == Shortage("sampling", rows)
    assert torch.multinomial.__name__ == "multinomial" and "built-in" in repr(torch.multinomial), "what was replaced is put back"


def test_a_caller_is_let_in_at_each_token_and_may_end_it(tiny_model: Path) -> None:
    import torch

    made, calls = model(tiny_model, None), [0]

    def watch() -> None:
        calls[0] += 1
        if calls[0] == 5:
            raise KeyboardInterrupt

    ids = torch.arange(100, 106).reshape(2, 3)
    settings = made._settings(Sampling(temperature=1.0, max_tokens=12))
    with pytest.raises(KeyboardInterrupt):
        in_slices(made._model.generate, None, watch=watch)(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=settings)
    assert calls[0] == 5
