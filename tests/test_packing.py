"""Packed rows are whole, well fitted, and trained as they would be alone, whatever attends."""

from __future__ import annotations

import random
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gwen25 import packing
from gwen25.errors import BadInput
from tests.gpu import packed_rows
from tests.gpu.packed_rows import LENGTHS, collated, collator, deaf, drawn, model_of


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(50, 80))
def test_every_row_is_there_once_and_whole(lengths: list[int], limit: int) -> None:
    bins = packing.pack(lengths, limit)
    assert sorted(row for taken in bins for row in taken) == list(range(len(lengths)))
    assert all(sum(lengths[row] for row in taken) <= limit for taken in bins)


@settings(deadline=None)
@given(st.lists(st.integers(1, 50), max_size=40), st.integers(50, 80))
def test_a_row_goes_where_it_leaves_least(lengths: list[int], limit: int) -> None:
    """Best fit decreasing, by a search over all sequences: as many of them, and as full."""
    rooms: list[int] = []
    for length in sorted(lengths, reverse=True):
        if fitting := [room for room in rooms if room >= length]:
            rooms.remove(min(fitting))
            rooms.append(min(fitting) - length)
        else:
            rooms.append(limit - length)
    assert sorted(limit - sum(lengths[row] for row in taken) for taken in packing.pack(lengths, limit)) == sorted(rooms)


def test_a_row_that_is_too_long_is_never_cut() -> None:
    with pytest.raises(ValueError, match="row 1 has 9 tokens, more than the 8"):
        packing.pack([3, 9], 8)


def test_hundreds_of_thousands_of_rows_are_packed_in_seconds() -> None:
    draw = random.Random(1)
    lengths = [min(32768, int(draw.lognormvariate(9, 0.8))) for _ in range(200_000)]
    bins = packing.pack(lengths, 32768)
    assert sum(lengths) / (len(bins) * 32768) > 0.99


@pytest.fixture(scope="module")
def rows() -> list[list[int]]:
    return drawn()


def loss_and_gradients(model: Any, batches: list[dict[str, Any]]) -> tuple[float, dict[str, Any]]:
    """The sum over all trained tokens, as the trainer adds up the micro-batches of a step."""
    import torch

    model.zero_grad()
    total = 0.0
    for batch in batches:
        labels = batch.pop("labels")
        logits = model(**batch, use_cache=False).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction="sum")
        loss.backward()
        total += loss.item()
    return total, {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("attention", ["sdpa", "eager", "transformers' mask"])
def test_loss_and_gradients_are_those_of_rows_alone(tiny_model: Path, rows: list[list[int]], attention: str) -> None:
    import torch

    model = model_of(tiny_model, "eager" if attention == "eager" else "sdpa")
    expected, gradients = loss_and_gradients(model, [collated([row]) for row in rows])
    if attention == "sdpa":
        with packing.attending(model.get_base_model()):
            assert model.config._attn_implementation == packing.BY_ROW
            total, packed = loss_and_gradients(model, [collated(rows)])
        assert model.config._attn_implementation == "sdpa"
    else:  # the mask that Transformers makes of positions
        total, packed = loss_and_gradients(model, [collated(rows)])
    assert total == pytest.approx(expected, rel=1e-6)
    assert gradients.keys() == packed.keys() and len(gradients) > 10
    for name, gradient in gradients.items():
        torch.testing.assert_close(packed[name], gradient, rtol=1e-4, atol=1e-4 * float(gradient.abs().max()), msg=name)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_packed_rows_lose_what_they_lose_alone_in_each_type_of_numbers(tiny_model: Path, attention: str, dtype: str) -> None:
    """With training's autocast and LoRA in float32. On a GPU: tests/gpu, the same body."""
    packed_rows.compare(tiny_model, attention, dtype, "cpu").require()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_tolerance_of_16_bits_would_not_let_a_leak_pass(tiny_model: Path, dtype: str) -> None:
    found = packed_rows.compare(tiny_model, "sdpa", dtype, "cpu", leaks=True)
    assert not found.unseen and min(found.loss / 4, found.logits / 8, found.gradients / 8) > 10 * found.eps, found
    with pytest.raises(AssertionError):
        found.require()


def test_checkpointing_recomputes_the_same_attention(tiny_model: Path, rows: list[list[int]]) -> None:
    import torch

    model = model_of(tiny_model, "sdpa")
    with packing.attending(model.get_base_model()):
        _, plain = loss_and_gradients(model, [collated(rows)])
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable()
        model.train()
        _, recomputed = loss_and_gradients(model, [collated(rows)])
    assert all(torch.equal(plain[name], recomputed[name]) for name in plain)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_attention_is_zero_beyond_a_row(tiny_model: Path, rows: list[list[int]], attention: str) -> None:
    """What a row's tokens do to the loss of every other row: nothing at all."""
    import torch

    model = model_of(tiny_model, attention).get_base_model()
    embedded = model.get_input_embeddings()(torch.tensor([list(chain.from_iterable(rows))])).detach().requires_grad_()
    batch = {name: value for name, value in collated(rows).items() if name not in ("input_ids", "labels")}
    ends = torch.tensor([0, *LENGTHS]).cumsum(0).tolist()
    with packing.attending(model):
        logits = model(inputs_embeds=embedded, **batch, use_cache=False).logits[0]
    for start, end in pairwise(ends):
        (moved,) = torch.autograd.grad(logits[start:end].square().sum(), embedded, retain_graph=True)
        seen = moved[0].abs().sum(1)
        assert (seen[start:end] > 0).all() and seen[:start].sum() == 0 == seen[end:].sum()


@pytest.mark.parametrize("attention", ["sdpa", "eager", "deaf"])
def test_an_attention_that_lets_rows_see_each_other_is_refused(tiny_model: Path, rows: list[list[int]], attention: str) -> None:
    from transformers import AttentionInterface
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    AttentionInterface.register("deaf", deaf)
    model = model_of(tiny_model, "eager" if attention == "eager" else "sdpa").get_base_model().train()
    collate = collator()
    if attention == "deaf":
        model.set_attn_implementation("deaf")
        with pytest.raises(BadInput, match="with deaf attention a packed row sees the rows before it"):
            packing.require_apart(model, collate, rows[::2])
    else:
        with packing.attending(model):
            packing.require_apart(model, collate, rows[::2])
        padded = DataCollatorForLanguageModeling(pad_token_id=0)  # a mask of ones in the place of positions: one long row
        with pytest.raises(BadInput, match="sees the rows before it"):
            packing.require_apart(model, padded, rows[::2])
    assert model.training


def test_a_batch_that_does_not_say_where_rows_begin_is_refused(tiny_model: Path, rows: list[list[int]]) -> None:
    import torch

    model = model_of(tiny_model, "sdpa").get_base_model()
    with packing.attending(model), pytest.raises(ValueError, match="where its rows begin"):
        model(input_ids=torch.tensor([rows[0]]))


def test_layers_that_look_back_over_a_window_keep_their_mask(tiny_model: Path) -> None:
    model = model_of(tiny_model, "sdpa").get_base_model()
    model.config.layer_types = ["full_attention", "sliding_attention"]
    with packing.attending(model):
        assert model.config._attn_implementation == "sdpa"
