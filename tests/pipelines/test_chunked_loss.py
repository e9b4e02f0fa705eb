"""SFT's loss is the plain cross entropy, and is taken from tiles of the logits: TRL's fused head, which no option of ours asks for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gwen25 import modeling
from gwen25.pipelines import sft
from tests.pipelines import training_jobs as jobs

TOKENS, COLUMNS = 16, 100  # of a tile here; TRL's are 4,096 x 32,768, which a tiny model's logits would fit in


@pytest.fixture
def trainer(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Our SFTTrainer on four rows, in train mode, with small tiles."""
    from trl.kernels import chunked_logprob
    from trl.trainer import utils

    monkeypatch.setattr(chunked_logprob, "TOKEN_CHUNK_SIZE", TOKENS)
    monkeypatch.setattr(utils, "_CHUNKED_LOGPROB_CHUNK_SIZE", COLUMNS)
    data = jobs.dataset(tmp_path / "dataset", rows=4)
    job = jobs.job("sft", tmp_path / "work", jobs.config().sft, tiny_model, {"dataset": data}, micro_batch=4)
    device, tokenizer = modeling.prepare(job), modeling.load_tokenizer(tiny_model, jobs.FORMAT)
    rows = sft.store(sft.tokens(data.payload / "train.jsonl", tokenizer, jobs.FORMAT, 512), tmp_path / "rows.arrow")
    made = sft.make_trainer(job, tiny_model, tokenizer, jobs.FORMAT, rows.dataset, device)
    made.model.train()
    yield made


def widths(step: Any, vocabulary: int) -> tuple[Any, int]:
    """What `step` returns, and the most rows of a tensor as wide as the vocabulary that torch made in it, backward pass included."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    most = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal most
            found = function(*args, **(kwargs or {}))
            # the transposed head is as wide, and no memory of its own
            if isinstance(found, torch.Tensor) and found.dim() and found.shape[-1] == vocabulary and found.is_contiguous():
                most = max(most, found.numel() // vocabulary)
            return found

    with Watch():
        loss = step()
        loss.backward()
    return loss.detach(), most


def test_the_loss_is_taken_from_tiles_and_equals_the_plain_cross_entropy(trainer: Any) -> None:
    import torch

    batch = next(iter(trainer.get_train_dataloader()))
    labels, vocabulary = batch["labels"], trainer.model.config.vocab_size
    assert labels.numel() > 4 * TOKENS and vocabulary > 4 * COLUMNS, "several tiles each way, or this would prove nothing"
    # a fresh adapter's B is 0, and no gradient would reach A
    for name, parameter in trainer.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(7))

    def plain() -> Any:
        logits = trainer.model(**{name: value for name, value in batch.items() if name != "labels"}).logits
        return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())

    def gradients() -> dict[str, Any]:
        taken = {name: parameter.grad for name, parameter in trainer.model.named_parameters() if parameter.grad is not None}
        trainer.model.zero_grad()
        return taken

    tiled, tiled_rows = widths(lambda: trainer.compute_loss(trainer.model, dict(batch)), vocabulary)
    by_tiles = gradients()
    whole, whole_rows = widths(plain, vocabulary)
    at_once = gradients()
    assert whole_rows >= labels.numel() and tiled_rows == 0
    assert tiled.item() == pytest.approx(whole.item(), rel=1e-5)
    assert by_tiles.keys() == at_once.keys() and by_tiles
    for name, gradient in by_tiles.items():
        torch.testing.assert_close(gradient, at_once[name], rtol=1e-4, atol=1e-6, msg=name)
