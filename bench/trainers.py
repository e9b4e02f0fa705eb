"""What `bench.sft` trains: a small model, rows of real lengths, and the trainers: our node's, and TRL's called directly.

    rows = Rows.of(lengths, seed)            ids at random: how fast a step is does not depend on what is said
    job = node(work, base, per_device_train_batch_size=8)
    ours(job, base, rows.dataset, packed)    as the sft node makes it
    direct(job, base, rows.dataset)          as TRL's documentation does, on the same rows with the same settings

The model is Qwen2.5-3B with a sixteenth of its width (2 x 64 heads, 128) and 4 layers: with rows a sixteenth as long, attention and linear
layers divide the arithmetic among them as they do there.
"""

from __future__ import annotations

import gzip
import json
import math
import os
import random
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gwen25 import modeling, training
from gwen25.chat import FORMATS
from gwen25.config import load_config
from gwen25.errors import BadInput
from gwen25.job import Job
from gwen25.pipelines import sft
from gwen25.samples import tiny

FORMAT = FORMATS["chatml-think"]
Sizes = dict[str, Any]
WIDTH: Sizes = {
    "hidden_size": 128,
    "intermediate_size": 704,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
}
CONTEXT = 32768
PROMPT = 0.05  # of a row's tokens, without loss
# share of R1's rows that are at most so long, prompt and answer (738 rows of Codeforces, Qwen2.5's tokenizer)
QUANTILES = ((400, 0.0), (1024, 0.003), (2048, 0.039), (4096, 0.207), (8192, 0.516), (16384, 0.893), (CONTEXT, 1.0))
# what the node sets otherwise than TRL by default: the same work is compared, and none of it is a line of ours
SAME: Sizes = {
    "save_total_limit": training.KEPT_CHECKPOINTS,
    "logging_nan_inf_filter": False,
    "dataloader_pin_memory": False,
    "ddp_find_unused_parameters": False,
    "remove_unused_columns": False,
    "per_device_eval_batch_size": 1,
    "prediction_loss_only": True,
    "packing": False,
    "packing_strategy": "bfd",
}


def lengths_of(data: Path | None, count: int) -> tuple[list[int], str]:
    """Tokens of R1's rows in the folder `data` (its r1_codeforces_rows and Qwen2.5's tokenizer), else made up; and which they are.

    `count` of them, evenly spaced by length, so that few rows have the lengths of all.
    """
    file = None if data is None else data / "ocr_rows" / "r1_codeforces_rows.jsonl.gz"
    if file is None or not file.is_file():
        return [_made_up((at + 0.5) / count) for at in range(count)], "made up with R1's quantiles"
    found = sorted(length for length in _tokenized(file, file.parents[1] / "tokenizer" / "tokenizer.json.gz") if length <= CONTEXT)
    return [found[int((at + 0.5) * len(found) / count)] for at in range(count)], f"{count} of {len(found)} of R1's rows"


def _tokenized(file: Path, vocabulary: Path) -> list[int]:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_str(gzip.decompress(vocabulary.read_bytes()).decode())
        rows = [json.loads(line) for line in gzip.decompress(file.read_bytes()).splitlines()]
    except (OSError, ValueError) as error:
        raise BadInput(f"{file.parents[1]}: rows and tokenizer/tokenizer.json.gz are expected ({error})") from error
    parts = [tokenizer.encode_batch([row[name] for row in rows], add_special_tokens=False) for name in ("input", "output")]
    return [len(statement.ids) + len(answer.ids) for statement, answer in zip(*parts, strict=True)]


def _made_up(share: float) -> int:
    """The length that this share of rows does not pass, straight lines between the known ones on a scale of powers."""
    at = bisect_left([known for _, known in QUANTILES], share)
    (low, before), (high, after) = QUANTILES[at - 1], QUANTILES[at]
    between: float = low * (high / low) ** ((share - before) / (after - before))
    return round(between)


def rows_of(lengths: Sequence[int], file: Path) -> sft.Rows:
    """Rows of these lengths on disk, of ids that mean nothing."""
    draw = random.Random(5)

    def row(length: int) -> sft.Tokens:
        ids, prompt = [draw.randrange(3, 600) for _ in range(length)], max(1, math.ceil(PROMPT * length))
        return sft.Tokens(ids, [sft.IGNORED] * prompt + ids[prompt:])

    return sft.store((row(length) for length in lengths), file)


def base(folder: Path, **sizes: Any) -> Path:
    tiny.build(folder, max_position_embeddings=CONTEXT, **{**WIDTH, **sizes})
    return folder


def node(work: Path, base: Path, micro_batch: int, **section: Any) -> Job:
    """A job of the sft node on one thread, as its stage would be told; nothing but `work` is written to."""
    values = {"runtime.num_threads": 1, "sft.optim": "adamw_torch", "sft.gradient_accumulation_steps": 1, "dataset.max_length": 64}
    config = load_config("smoke", overrides=values | {f"sft.{name}": value for name, value in section.items()})
    for name in ("payload", "aside"):
        (work / name).mkdir(parents=True, exist_ok=True)
    return Job("sft", "bench", config.sft, {}, {}, {"base_model": str(base)}, config.runtime, micro_batch, work)


def ours(job: Job, base: Path, dataset: Any, packed: sft.Packed | None = None) -> Any:
    tokenizer = modeling.load_tokenizer(base, FORMAT)
    return in_order(sft.make_trainer(job, base, tokenizer, FORMAT, dataset, "cpu", packed))


def direct(job: Job, base: Path, dataset: Any) -> Any:
    """TRL's SFTTrainer called directly: loaded by Transformers, LoRA by PEFT, and no class, function or callback of ours in a step.

    What it has of ours are inputs: rows that are tokenised already (`dataset`), and the node's settings, written out by TRL's names; a
    test holds every argument against the node's. Left out as in the node: the printing of logs.
    """
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback
    from trl import SFTConfig, SFTTrainer

    section = job.config
    arguments = SFTConfig(
        output_dir=str(job.work / "direct"),
        per_device_train_batch_size=section.per_device_train_batch_size,
        gradient_accumulation_steps=section.gradient_accumulation_steps,
        num_train_epochs=section.num_train_epochs,
        max_steps=section.max_steps,
        learning_rate=section.learning_rate,
        optim=section.optim,
        weight_decay=section.weight_decay,
        warmup_steps=section.warmup_steps,
        lr_scheduler_type=section.lr_scheduler_type,
        max_grad_norm=section.max_grad_norm,
        seed=section.seed,
        data_seed=section.seed,
        save_steps=section.save_steps,
        logging_steps=section.logging_steps,
        bf16=False,  # on a CPU too it is TRL's default
        use_cpu=True,
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        report_to="none",
        disable_tqdm=True,
        train_sampling_strategy="sequential",
        **SAME,
        **{training.checkpointing_name(): section.gradient_checkpointing},
    )
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    lora = LoraConfig(
        r=section.lora_r, lora_alpha=section.lora_alpha, lora_dropout=section.lora_dropout, target_modules=targets, task_type="CAUSAL_LM"
    )
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(base, dtype=section.dtype, attn_implementation=section.attn_implementation),
        args=arguments,
        train_dataset=dataset,
        processing_class=AutoTokenizer.from_pretrained(base),
        peft_config=lora,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def watch_of(trainer: Any) -> Any:
    """The node's own callback."""
    return next(found for found in trainer.callback_handler.callbacks if isinstance(found, training.Watch))


def in_order(trainer: Any) -> Any:
    """Batches as the rows lie, so that each contestant's are those that were counted."""
    trainer.args.train_sampling_strategy = "sequential"
    return trainer


def data_folder(given: Path | None) -> Path | None:
    """The folder of real rows: given, or GWEN25_TEST_DATA's; None where there is none."""
    folder = given or (Path(os.environ["GWEN25_TEST_DATA"]) if "GWEN25_TEST_DATA" in os.environ else None)
    return folder if folder is not None and folder.is_dir() else None
