"""Packing: whole rows laid end to end in sequences of one length, none of which sees another.

    bins = pack([700, 300, 500], limit=1024)        [[0, 1], [2]]: numbers of rows, best fit decreasing
    with attending(model): trainer.train()          attention stays within a row

Rows are never cut, and positions begin at 0 in each row, so a packed row is trained as it would be alone. Which sequence a row shares
is decided by lengths alone: the same rows give the same sequences, on every machine and after every resume.

How a row is kept from seeing its neighbours, by `attn_implementation`:

    sdpa                a call of torch's fused attention for each row (below). Transformers' own way is one call with a mask of
                        length x length, 1 GB for 32,768 tokens, over which no flash kernel runs and all masked scores are computed
    eager               that mask: Transformers makes it from positions that fall back to 0
    flash_attention_2   its kernel for rows of unequal length, which is told where each begins

All three are given what TRL's padding-free collator tells of a batch: one long sequence, positions, and where rows begin. An attention that
does not listen would let rows see each other and train on; `require_apart` looks for that before a step is taken.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from gwen25.errors import BadInput

if TYPE_CHECKING:
    import torch

BY_ROW: Final = "gwen25_by_row"  # the attention below, as Transformers' registry calls it
PROBE: Final = 64  # tokens of a row that `require_apart` looks at


def pack(lengths: Sequence[int], limit: int) -> list[list[int]]:
    """Rows to sequences of at most `limit` tokens, each the fullest that still takes the row, the longest rows first.

    Returns the numbers of the rows in each sequence; n log n. Raises ValueError for a row that is longer than `limit`.
    """
    bins: list[list[int]] = []
    by_room: dict[int, list[int]] = {}  # sequences by the tokens they have left
    rooms: list[int] = []  # those numbers of tokens, in order
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if lengths[row] > limit:
            raise ValueError(f"row {row} has {lengths[row]} tokens, more than the {limit} of a sequence")
        at = bisect_left(rooms, lengths[row])
        if at == len(rooms):
            chosen, room = len(bins), limit
            bins.append([])
        else:
            room = rooms[at]
            chosen = by_room[room].pop()
            if not by_room[room]:
                del by_room[room], rooms[at]
        bins[chosen].append(row)
        left = room - lengths[row]
        if left:
            if left not in by_room:
                insort(rooms, left)
            by_room.setdefault(left, []).append(chosen)
    return bins


def by_row(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    cu_seq_lens_q: torch.Tensor | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each row of one packed sequence.

    query, key, value: (1, heads, tokens, size). `cu_seq_lens_q`: where rows begin, and the end, as flash attention's kernels take it.
    Raises ValueError for a batch that does not say where its rows begin: it would be taken for one long row.
    """
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if cu_seq_lens_q is None or attention_mask is not None or query.shape[0] != 1:
        raise ValueError("packed attention takes one sequence that says where its rows begin, and no mask")
    lengths = cu_seq_lens_q.diff().tolist()
    rows = zip(*(torch.split(states, lengths, 2) for states in (query, key, value)), strict=True)
    attended = [sdpa_attention_forward(module, q, k, v, None, is_causal=True, **options)[0] for q, k, v in rows]
    return torch.cat(attended, 1), None


@contextmanager
def attending(model: Any) -> Iterator[None]:
    """In this block `model`, a causal language model of Transformers that attends by SDPA, does so `by_row`.

    Others are left as they are. So is one with layers that look back over a window only, which Transformers' mask
    knows and `by_row` does not.
    """
    from transformers import AttentionInterface

    windows = "sliding_attention" in (getattr(model.config, "layer_types", None) or ())
    if model.config._attn_implementation != "sdpa" or windows:
        yield
        return
    AttentionInterface.register(BY_ROW, by_row)
    model.set_attn_implementation(BY_ROW)
    try:
        yield
    finally:
        model.set_attn_implementation("sdpa")


@contextmanager
def not_packed(model: Any) -> Iterator[None]:
    """In this block, within one of `attending`, the model attends as before: to sample, which `by_row` does not."""
    packed = model.config._attn_implementation == BY_ROW
    if packed:
        model.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        if packed:
            model.set_attn_implementation(BY_ROW)


def require_apart(model: Any, collate: Any, rows: Sequence[Sequence[int]]) -> None:
    """A row must say the same, to the bit, whatever row stands before it. Raises BadInput where it does not, naming the attention.

    `collate`: TRL's collator, as it is in training. `rows`: ids of two rows.
    """
    import torch

    before, row = (list(ids[-PROBE:]) for ids in rows)

    def said(neighbour: list[int]) -> torch.Tensor:
        ids = [*neighbour, *row]
        batch = collate([{"input_ids": ids, "labels": ids, "seq_lengths": [len(neighbour), len(row)]}])
        del batch["labels"]
        there = {name: value.to(model.device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
        logits: torch.Tensor = model(**there, use_cache=False).logits[0, len(neighbour) :]
        return logits

    was = model.training
    model.eval()
    with torch.no_grad():  # shapes are equal, so nothing but what is seen can make a difference
        apart = torch.equal(said(before), said([before[-1]] * len(before)))
    model.train(was)
    if not apart:
        raise BadInput(
            f"sft.packing: with {model.config._attn_implementation} attention a packed row sees the rows before it here; "
            "take sft.attn_implementation=sdpa, or sft.packing=false"
        )
