"""How samples/tiny.safetensors was made: the tiny Qwen2, pretrained for a minute on the packaged rows.

    python -m gwen25.samples.pretrain [OUT.safetensors]

Untrained weights would make the smoke profile's rewards all zero, and its GRPO a test of nothing. These have seen what a base
model has seen: statements, reasoning, fenced code, `</think>`, ChatML; enough that after SFT some answers are well formed
and some are not, not enough to write a program. Run once, after the rows or the tokenizer change; the file is committed
(float16, 0.25 MB). Another machine makes slightly other weights: nothing depends on the bits, only on the file.
"""

from __future__ import annotations

import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from gwen25 import chat, samples
from gwen25.data import read_jsonl
from gwen25.samples import tiny

STEPS: Final = 500  # cross-entropy from 7.0 to about 0.8; a minute on one core
BATCH: Final = 8  # windows
WINDOW: Final = 128  # tokens
LEARNING_RATE: Final = 3e-3


def documents() -> Iterator[str]:
    """Each good row as four texts: whole chat, answer, statement and solution as prose, reasoning and solution."""
    format = chat.FORMATS["chatml-think"]
    for _, row in read_jsonl(samples.path("rows.jsonl")):
        answer = format.parse(row["output"] or "")
        if not answer.reasoning or not answer.code:
            continue
        target, fenced = format.answer(answer.reasoning, answer.code), f"```python\n{answer.code}\n```"
        yield format.render([{"role": "user", "content": row["input"]}]) + target + format.eos
        yield target + format.eos
        yield f"{row['input']}\n\n{answer.reasoning}\n\n{fenced}"
        yield f"{answer.reasoning}\n\n{fenced}"


def pretrain(out: Path, steps: int = STEPS, seed: int = 0) -> float:
    """Train every weight of the tiny model and write them as float16. Returns the last step's loss, in nats a token."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with tempfile.TemporaryDirectory() as folder:
        tiny.build(Path(folder))
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    texts = [[*tokenizer(text)["input_ids"], end] for text in documents()]
    draw = random.Random(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, steps, pct_start=0.1)
    loss = torch.zeros(())
    for _ in range(steps):
        windows = torch.tensor([_window(texts, draw) for _ in range(BATCH)])
        loss = model(input_ids=windows, labels=windows).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    tied = {name: tensor.detach().half().contiguous() for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    save_file(tied, out)
    return float(loss)


def _window(texts: list[list[int]], draw: random.Random) -> list[int]:
    """WINDOW tokens from anywhere in a run of texts drawn at random."""
    stream: list[int] = []
    while len(stream) <= WINDOW:
        stream += draw.choice(texts)
    start = draw.randrange(len(stream) - WINDOW)
    return stream[start : start + WINDOW]


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("tiny.safetensors")
    print(f"{target}: loss {pretrain(target):.3f}")
