"""The same steps by others: TRL's own trainers as its documentation has them, and Unsloth's SFT where somebody has installed it.

The rows, the base, the config's values and the cap are those of our row of the same stage and profile, whose figures are told beside. What
is compared is the time of the last step and the peak of the process; not the loss, since TRL tokenises the rows for itself and
GRPO's rewards are another function here. What is TRL's default in ours too is left to TRL. On a GPU ours runs deterministic kernels
(`modeling.prepare`; strict in the backward pass), TRL's does not, as a user's would not: what that costs is in our figures.
Unsloth's row follows its documentation (github.com/unslothai/unsloth: models/loader.py and its examples) and was never run by us with
the real package: it needs a GPU, and its releases have pinned other versions of TRL. Tests run it with a stand-in.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gwen25 import modeling, models, training
from gwen25.chat import FORMATS
from gwen25.config import Config
from gwen25.data import read_jsonl
from gwen25.gpu_check import Outcome, Row, Setting, base, runner, steps
from gwen25.pipelines import grpo

if TYPE_CHECKING:
    from datasets import Dataset

# what both sections have by the trainer's own name
SHARED: Final = (
    *("max_steps", "per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate", "optim", "weight_decay"),
    *("warmup_steps", "lr_scheduler_type", "max_grad_norm", "seed"),
)


def trl_sft(row: Row, setting: Setting) -> Outcome:
    """TRL's SFTTrainer, told where the model lies."""
    config = _prepared(row, setting)
    import torch
    from peft import LoraConfig

    lora = LoraConfig(**_lora(config), bias="none", task_type="CAUSAL_LM")
    bits = {"quantization_config": modeling.four_bit(getattr(torch, config.sft.dtype))} if config.sft.load_in_4bit else {}
    return _sft(row, setting, config, str(base.whole(setting)), peft_config=lora, **bits)


def unsloth(row: Row, setting: Setting) -> Outcome:
    """Unsloth's FastLanguageModel in TRL's trainer. It must be imported before TRL and transformers, which it changes."""
    from unsloth import FastLanguageModel  # type: ignore[import-not-found,unused-ignore]

    config = _prepared(row, setting)
    directory, most = str(base.whole(setting)), config.sft.max_length
    model, tokenizer = FastLanguageModel.from_pretrained(directory, max_seq_length=most, load_in_4bit=config.sft.load_in_4bit)
    tuned = FastLanguageModel.get_peft_model(
        model, **_lora(config), bias="none", use_gradient_checkpointing="unsloth", random_state=config.seed, max_seq_length=most
    )
    return _sft(row, setting, config, tuned, processing_class=tokenizer)


def trl_grpo(row: Row, setting: Setting) -> Outcome:
    """TRL's GRPOTrainer, going on from the adapter that our row goes on from, with a reward that costs nothing."""
    config = _prepared(row, setting)
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM
    from trl import GRPOConfig, GRPOTrainer

    job = steps.job_of("grpo", config, row, setting)
    whole = AutoModelForCausalLM.from_pretrained(
        base.whole(setting),
        dtype=getattr(torch, config.grpo.dtype),
        attn_implementation=config.grpo.attn_implementation,
        device_map=None if setting.device == "cpu" else {"": 0},
    )
    own = {name: getattr(config.grpo, name) for name in grpo.TRLS}
    format = FORMATS[config.chat_format]
    trainer = GRPOTrainer(
        model=PeftModel.from_pretrained(whole, job.inputs["sft"].payload, is_trainable=True),
        reward_funcs=length,
        args=GRPOConfig(**own | _arguments(config.grpo, setting)),
        train_dataset=_dataset({"prompt": format.render(each["messages"])} for each in _lines(job, "grpo")),
    )
    return _trained(row, setting, "grpo", trainer)


def length(completions: list[str], **_: Any) -> list[float]:
    """A reward that differs from completion to completion."""
    return [float(len(text)) for text in completions]


def _prepared(row: Row, setting: Setting) -> Config:
    steps.cap(row, setting)
    return steps.config_of(row, setting)


def _lora(config: Config) -> dict[str, Any]:
    targets = list(models.LORA_TARGETS["Qwen2ForCausalLM"])
    return {"r": config.sft.lora_r, "lora_alpha": config.sft.lora_alpha, "lora_dropout": config.sft.lora_dropout, "target_modules": targets}


def _sft(row: Row, setting: Setting, config: Config, model: Any, **given: Any) -> Outcome:
    """TRL's SFTTrainer round `model`, a path or what Unsloth has made."""
    from trl import SFTConfig, SFTTrainer

    format = FORMATS[config.chat_format]
    arguments = _arguments(config.sft, setting) | {"max_length": config.sft.max_length}
    if isinstance(model, str):
        arguments["model_init_kwargs"] = {"dtype": config.sft.dtype, "attn_implementation": config.sft.attn_implementation}
        if config.sft.load_in_4bit and setting.device == "cpu":
            arguments["model_init_kwargs"]["device_map"] = {"": "cpu"}
    rows = (
        {"prompt": format.render(each["messages"]), "completion": format.answer(each["reasoning"], each["code"]) + format.eos}
        for each in _lines(steps.job_of("sft", config, row, setting), "train")
    )
    trainer = SFTTrainer(model=model, args=SFTConfig(**arguments), train_dataset=_dataset(rows), **given)
    if config.sft.dtype == "float16":
        training.widen(trainer.model)  # TRL makes LoRA bfloat16 on a 4-bit base, whose gradients fp16's scaler refuses
    return _trained(row, setting, "sft", trainer)


def _arguments(section: Any, setting: Setting) -> dict[str, Any]:
    """The config's values by the trainers' names."""
    return {
        **{name: getattr(section, name) for name in SHARED},
        "output_dir": str(Path(setting.folder) / "beside"),
        training.checkpointing_name(): section.gradient_checkpointing,
        "bf16": section.dtype == "bfloat16",
        "fp16": section.dtype == "float16",
        "use_cpu": setting.device == "cpu",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def _lines(job: Any, name: str) -> list[dict[str, Any]]:
    """The rows of our own row."""
    return [each for _, each in read_jsonl(job.inputs["dataset"].payload / f"{name}.jsonl")]


def _dataset(rows: Any) -> Dataset:
    """Text, which TRL tokenises."""
    from datasets import Dataset

    return Dataset.from_list(list(rows))


def _trained(row: Row, setting: Setting, stage: str, trainer: Any) -> Outcome:
    """Train for the steps of our own row; the speed of the last, the peak, and both beside ours."""
    from transformers import TrainerCallback

    ticks: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            steps.wait_for_device(setting.device)
            ticks.append(time.monotonic())

    trainer.add_callback(Clock())
    trainer.train()
    numbers: dict[str, Any] = {**steps.peak(setting), **steps.speed(_tokens_a_step(stage, trainer), ticks)}
    told = f"{steps.speed_told(stage, numbers)}, peak {numbers['peak_bytes'] / 1e9:.2f} GB"
    return Outcome("ok", f"{told}; {_beside(numbers, setting, f'{stage}, {row.profile}')}", numbers)


def _tokens_a_step(stage: str, trainer: Any) -> float:
    """As `steps` counts them, by TRL's own logs."""
    logged = trainer.state.log_history
    if stage == "sft":
        return float([each["num_tokens"] for each in logged if "num_tokens" in each][-1] / trainer.state.global_step)
    batch = trainer.args.per_device_train_batch_size * trainer.args.gradient_accumulation_steps
    return float([each[steps.LENGTH] for each in logged if steps.LENGTH in each][-1] * batch)


def _beside(numbers: dict[str, Any], setting: Setting, name: str) -> str:
    """Our own row's figures over these, where it was run before."""
    try:
        ours = json.loads((Path(setting.folder) / runner.place(name) / runner.OUTCOME).read_text(encoding="utf-8"))["numbers"]
        speed = ours["tokens_per_second"] / numbers["tokens_per_second"]
        numbers |= {"ours_over_this_speed": speed, "ours_over_this_peak": ours["peak_bytes"] / numbers["peak_bytes"]}
    except (OSError, ValueError, KeyError):
        return f"ours was not measured beside: run `{name}` too"
    kernels = "; ours runs deterministic kernels, TRL's does not" if setting.device == "cuda" else ""
    return f"ours: {speed:.2f} of its speed, {numbers['ours_over_this_peak']:.2f} of its peak{kernels}"
