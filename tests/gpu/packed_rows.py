"""Whether packed rows are trained as they would be alone, for one attention, one type of numbers and one device.

    found = compare(directory, "sdpa", "float16", "cuda") ; found.require()

The same body for a CPU (`tests/test_packing.py`) and a GPU (`test_packed_rows_on_cuda.py`). The arithmetic is training's: weights in the
type, LoRA in float32, autocast. What the tolerances can tell is shown by an attention that lets rows see each other.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from gwen25 import modeling, packing
from tests.pipelines import training_jobs as jobs

LENGTHS = (37, 5, 64, 20)
PROMPT = 4  # tokens of each row without loss


def drawn(seed: int = 3) -> list[list[int]]:
    draw = random.Random(seed)
    return [[draw.randrange(3, 600) for _ in range(length)] for length in LENGTHS]


def model_of(directory: Path, attention: str, dtype: str = "float32", device: str = "cpu") -> Any:
    """The base with an adapter that is not zero."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    tokenizer = modeling.load_tokenizer(directory, jobs.FORMAT)
    base = modeling.load_base(directory, tokenizer, jobs.FORMAT, dtype=dtype, device=device, attn_implementation=attention)
    config = LoraConfig(r=8, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    return get_peft_model(base, config)


def collator() -> Any:
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    return DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)


def collated(rows: list[list[int]]) -> dict[str, Any]:
    """One packed sequence, by TRL's own collator; the loss is on all but each row's first PROMPT tokens."""
    packed = {
        "input_ids": [token for row in rows for token in row],
        "labels": [token if at >= PROMPT else -100 for row in rows for at, token in enumerate(row)],
        "seq_lengths": [len(row) for row in rows],
    }
    batch: dict[str, Any] = collator()([packed])
    return batch


def deaf(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **options: Any) -> Any:
    """Attention that hears neither a mask nor where rows begin."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    return sdpa_attention_forward(module, query, key, value, None, is_causal=True)


@dataclass(frozen=True)
class Found:
    """Packed against alone. Errors are of the norm: `logits` the worst row's, `gradients` of all LoRA matrices together."""

    unseen: bool  # no bit of any row's logits depends on another row
    loss: float  # of the worst row, relative
    logits: float
    gradients: float
    eps: float  # torch's, of the type

    def require(self) -> None:
        """A few roundings of the type. On a CPU at most 0.8 eps of loss, 3.2 of logits and 1.9 of gradients were found, all in float32, and
        below 0.4 in 16 bits; rows that see each other are off by 0.35, 1.2 and 0.97, which is 11 bfloat16 tolerances or more."""
        assert self.unseen, "a row's logits change with another row's tokens"
        assert self.loss <= 4 * self.eps, self
        assert self.logits <= 8 * self.eps, self
        assert self.gradients <= 8 * self.eps, self


def compare(directory: Path, attention: str, dtype: str, device: str, *, leaks: bool = False) -> Found:
    """`leaks`: rows are packed for an attention that lets them see each other."""
    import torch
    from transformers import AttentionInterface

    model = model_of(directory, attention, dtype, device)
    base, rows = model.get_base_model(), drawn()
    alone = [_pass(model, [row], dtype) for row in rows]
    expected = {name: sum(gradients[name] for _, _, gradients in alone) for name in alone[0][2]}
    if leaks:
        AttentionInterface.register("deaf", deaf)
        base.set_attn_implementation("deaf")
    with packing.attending(base):
        if not leaks:
            packing.require_apart(base, collator(), rows[::2])
        logits, losses, gradients = _pass(model, rows, dtype)
        unseen = all(_unseen(model, rows, at, dtype) for at in range(len(rows)))
    return Found(
        unseen,
        max(abs(packed - own) / own for packed, (_, [own], _) in zip(losses, alone, strict=True)),
        max(_off([packed], [own]) for packed, ([own], _, _) in zip(logits, alone, strict=True)),
        _off(list(gradients.values()), [expected[name] for name in gradients]),
        float(torch.finfo(getattr(torch, dtype)).eps),
    )


def _pass(model: Any, rows: list[list[int]], dtype: str) -> tuple[list[Any], list[float], dict[str, Any]]:
    """Forward and backward of one packed sequence: logits and summed loss of each row, and LoRA's gradients of all of them."""
    import torch
    from torch.nn.functional import cross_entropy

    model.zero_grad()
    batch = collated(rows)
    labels = batch["labels"].to(model.device)
    logits = _parts(_logits(model, batch, dtype), rows)
    targets = _parts(labels[0], rows)
    losses = [
        cross_entropy(said[:-1].float(), target[1:], ignore_index=-100, reduction="sum")
        for said, target in zip(logits, targets, strict=True)
    ]
    torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
    gradients = {name: value.grad.float().cpu() for name, value in model.named_parameters() if value.grad is not None}
    return [part.detach().float().cpu() for part in logits], [loss.item() for loss in losses], gradients


def _logits(model: Any, batch: dict[str, Any], dtype: str) -> Any:
    import torch

    given = {
        name: value.to(model.device) if isinstance(value, torch.Tensor) else value for name, value in batch.items() if name != "labels"
    }
    kind = getattr(torch, dtype)
    with torch.autocast(model.device.type, dtype=kind, enabled=kind != torch.float32):
        return model(**given, use_cache=False).logits[0]


def _parts(whole: Any, rows: list[list[int]]) -> list[Any]:
    ends = [0]
    for row in rows:
        ends.append(ends[-1] + len(row))
    return [whole[start:end] for start, end in pairwise(ends)]


def _unseen(model: Any, rows: list[list[int]], at: int, dtype: str) -> bool:
    """Whether row `at` says the same, to the bit, with every other row's tokens exchanged. Shapes are equal, so sums are too."""
    import torch

    others = [row if number == at else other for number, (row, other) in enumerate(zip(rows, drawn(4), strict=True))]
    with torch.no_grad():
        first, second = (_parts(_logits(model, collated(given), dtype), given)[at] for given in (rows, others))
    return torch.equal(first, second)


def _off(found: list[Any], expected: list[Any]) -> float:
    import torch

    a, b = (torch.cat([tensor.flatten() for tensor in tensors]) for tensors in (found, expected))
    return float((a - b).norm() / b.norm())
