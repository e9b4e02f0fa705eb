"""The same SFT steps by others: TRL's own trainer as its documentation has it, and Unsloth's where somebody has installed it.

The rows, the base, the recipe's sizes and the cap are those of the row `sft, a100`, whose figures are told beside. What is compared is the
time of the last step and the peak of the process; not the loss, since TRL tokenises the rows for itself.
Unsloth's row follows its documentation and was never run by us: it needs a GPU, and its releases have pinned other versions of TRL.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gwen25 import models
from gwen25.chat import FORMATS
from gwen25.config import Config
from gwen25.data import read_jsonl
from gwen25.gpu_check import Outcome, Row, Setting, base, runner, steps

if TYPE_CHECKING:
    from datasets import Dataset

OURS: Final = "sft, a100"


def trl(row: Row, setting: Setting) -> Outcome:
    """TRL's SFTTrainer, told where the model lies."""
    config = _prepared(row, setting)
    from peft import LoraConfig

    lora = LoraConfig(**_lora(config), bias="none", task_type="CAUSAL_LM")
    return _trained(row, setting, config, str(base.whole(setting)), peft_config=lora)


def unsloth(row: Row, setting: Setting) -> Outcome:
    """Unsloth's FastLanguageModel in TRL's trainer. It must be imported before TRL and transformers, which it changes."""
    from unsloth import FastLanguageModel  # type: ignore[import-not-found,unused-ignore]

    config = _prepared(row, setting)
    directory, most = str(base.whole(setting)), config.sft.max_length
    model, tokenizer = FastLanguageModel.from_pretrained(directory, max_seq_length=most, load_in_4bit=config.sft.load_in_4bit)
    tuned = FastLanguageModel.get_peft_model(
        model, **_lora(config), bias="none", use_gradient_checkpointing="unsloth", random_state=config.seed, max_seq_length=most
    )
    return _trained(row, setting, config, tuned, processing_class=tokenizer)


def _prepared(row: Row, setting: Setting) -> Config:
    steps.cap(row, setting)
    return steps.config_of(row, setting)


def _lora(config: Config) -> dict[str, Any]:
    targets = list(models.LORA_TARGETS["Qwen2ForCausalLM"])
    return {"r": config.sft.lora_r, "lora_alpha": config.sft.lora_alpha, "lora_dropout": config.sft.lora_dropout, "target_modules": targets}


def _trained(row: Row, setting: Setting, config: Config, model: Any, **given: Any) -> Outcome:
    """Train for the steps of our own row; the speed of the last, the peak, and both beside ours."""
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    ticks: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            steps.wait_for_device(setting.device)
            ticks.append(time.monotonic())

    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(**_arguments(config, setting, isinstance(model, str))),
        train_dataset=_rows(config, row, setting),
        callbacks=[Clock()],
        **given,
    )
    trainer.train()
    tokens = trainer.state.log_history[-2]["num_tokens"] / trainer.state.global_step  # the last entry is the run's summary
    numbers = {**steps.peak(setting), "tokens_per_second": tokens / (ticks[-1] - ticks[-2])}
    told = f"{numbers['tokens_per_second']:,.0f} tokens/s, peak {numbers['peak_bytes'] / 1e9:.2f} GB"
    return Outcome("ok", f"{told}; {_beside(numbers, setting)}", numbers)


def _arguments(config: Config, setting: Setting, by_name: bool) -> dict[str, Any]:
    """The recipe's sizes by TRL's names; all else is TRL's default."""
    sft = config.sft
    return {
        "output_dir": str(Path(setting.folder) / "beside"),
        "max_length": sft.max_length,
        "max_steps": sft.max_steps,
        "per_device_train_batch_size": sft.per_device_train_batch_size,
        "gradient_accumulation_steps": sft.gradient_accumulation_steps,
        "learning_rate": sft.learning_rate,
        "optim": sft.optim,
        "bf16": sft.dtype == "bfloat16",
        "use_cpu": setting.device == "cpu",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        **({"model_init_kwargs": {"dtype": sft.dtype}} if by_name else {}),
    }


def _rows(config: Config, row: Row, setting: Setting) -> Dataset:
    """The rows of our own row, as the text that TRL tokenises."""
    from datasets import Dataset

    format = FORMATS[config.chat_format]
    source = steps.job_of("sft", config, row, setting).inputs["dataset"].payload / "train.jsonl"
    return Dataset.from_list(
        [
            {"prompt": format.render(each["messages"]), "completion": format.answer(each["reasoning"], each["code"]) + format.eos}
            for _, each in read_jsonl(source)
        ]
    )


def _beside(numbers: dict[str, Any], setting: Setting) -> str:
    """Our own row's figures over these, where it was run before."""
    try:
        ours = json.loads((Path(setting.folder) / runner.place(OURS) / runner.OUTCOME).read_text(encoding="utf-8"))["numbers"]
        speed = ours["tokens_per_second"] / numbers["tokens_per_second"]
        numbers |= {"ours_over_this_speed": speed, "ours_over_this_peak": ours["peak_bytes"] / numbers["peak_bytes"]}
    except (OSError, ValueError, KeyError):
        return f"ours was not measured beside: run `{OURS}` too"
    return f"ours: {speed:.2f} of its speed, {numbers['ours_over_this_peak']:.2f} of its peak"
