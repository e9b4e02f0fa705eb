"""SFT and GRPO as users run them (`pipelines.sft.run`, `pipelines.grpo.run`), for a few steps: speed, and the peak beside the estimate.

The config is the profile's; what is changed stands in CHANGED: how many steps, rewards that run no program, and completions short
enough for the row's limit. The estimate is taken of the same config, so the two can be compared; its CUDA context is left out on
both sides, for torch does not see it, and the cap leaves room for it.

Speed is the last step's. SFT's tokens are those of the rows; GRPO's are those sampled, of the whole step: sampling, rewards and training.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gwen25 import preflight, training
from gwen25.chat import FORMATS, ChatFormat, problem_messages
from gwen25.config import Config, load_config
from gwen25.data import Problem
from gwen25.estimate import fit, terms
from gwen25.gpu_check import Missing, Outcome, Row, Setting, base, kernels
from gwen25.job import Input, Job, Result

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHANGED: Final[dict[str, Any]] = {
    "sft.max_steps": 3,  # the optimizer's moments are there from the second on; the third is timed
    "sft.gradient_accumulation_steps": 1,
    "sft.warmup_steps": 0,
    "sft.save_steps": 1000,
    "grpo.vllm": "off",  # these rows run in this interpreter; vLLM, in its own, has a row of its own
    "grpo.max_steps": 2,  # the second is timed; most of it is sampling, which has no moments to wait for
    "grpo.warmup_steps": 0,
    "grpo.save_steps": 1000,
    "grpo.max_completion_length": 128,  # of 8,192 and 3,072: a token takes some 40 ms without vLLM
    "grpo.mask_truncated_completions": False,  # random weights never end an answer, and a masked one bears no loss
    "grpo.rewards": ["format_exact", "format_approximate"],
    "grpo.allow_format_only": True,
}
TINY: Final[dict[str, Any]] = {
    "dataset.max_length": 512,
    "sft.max_length": 512,
    "dataset.max_prompt_length": 320,
    "grpo.max_completion_length": 16,
}
LENGTH: Final = "completions/mean_length"  # TRL's name, over all completions of a step
UNIT: Final = "Then add the next number to the sum.\n"  # rows are filled up with it
NEAR: Final = 0.95  # of its nominal size is what a GPU offers: 39.4 GiB of 40, 14.6 of 15


def sft_step(row: Row, setting: Setting) -> Outcome:
    from gwen25.pipelines import sft

    return _measured("sft", sft.run, row, setting)


def grpo_step(row: Row, setting: Setting) -> Outcome:
    from gwen25.pipelines import grpo

    return _measured("grpo", grpo.run, row, setting)


def config_of(row: Row, setting: Setting) -> Config:
    changed = CHANGED | {"runtime.device": setting.device} | (TINY if setting.shape == "tiny" else {})
    return load_config(row.profile, overrides=changed)


def _measured(stage: str, run: Callable[[Job], Result], row: Row, setting: Setting) -> Outcome:
    """Run the stage under the row's cap; its peak, and the estimate's."""
    config = config_of(row, setting)
    cap(row, setting)
    job = job_of(stage, config, row, setting)
    shutil.rmtree(training.checkpoints(job), ignore_errors=True)  # of a run before in a kept folder: nothing would be trained
    result = _run(run, job)
    made, wanted = result.facts[stage], config.sft.max_steps if stage == "sft" else config.grpo.max_steps
    if made["steps"] != wanted:
        raise ValueError(f"{made['steps']} steps were made, and {wanted} are expected")
    found = {**peak(setting), **speed(_tokens_a_step(stage, made, job), job.ticks)}
    estimated = fit.peak(config, base.shape(setting), stage)
    expected = estimated.bytes - (terms.CONTEXT if setting.device == "cuda" else 0)
    ratio = found["peak_bytes"] / expected
    told = f"peak {found['peak_bytes'] / 1e9:.2f} GB, estimated {expected / 1e9:.2f} ({estimated.name}): ratio {ratio:.2f}"
    told += f"; {speed_told(stage, found)}"
    numbers = {**found, "estimated_bytes": expected, "estimated_phase": estimated.name, "ratio": ratio, "loss": result.metrics.get("loss")}
    if setting.device == "cuda" and row.cap_gib is not None:
        numbers["cap_bytes"] = row.cap_gib * 2**30
    return Outcome("ok", f"{told}; {_what(stage, config)}{_under(row, setting)}{_loose(job)}", numbers)


def _tokens_a_step(stage: str, made: Mapping[str, Any], job: Job) -> float:
    """SFT: every row is as long as the others. GRPO: what the last step sampled, which random weights seldom end before the limit."""
    if stage == "sft":
        return float(made["tokens"] / made["rows"] * made["effective_batch_size"])
    last = training.read_metrics(job.aside / "metrics.jsonl")[-1]
    return float(last[LENGTH] * made["effective_batch_size"])


def speed(tokens: float, ticks: Sequence[float]) -> dict[str, float]:
    """Of the last step, which has `tokens`; `ticks`: when each step ended."""
    seconds = ticks[-1] - ticks[-2]
    return {"tokens_per_second": tokens / seconds, "seconds_per_step": seconds}


def speed_told(stage: str, numbers: Mapping[str, Any]) -> str:
    kind = "tokens" if stage == "sft" else "sampled tokens"
    return f"{numbers['tokens_per_second']:,.0f} {kind}/s, {numbers['seconds_per_step']:.3g} s a step"


def _run(run: Callable[[Job], Result], job: Job) -> Result:
    """The stage; once more where its backward pass turned out to have no deterministic kernel, as `stage` would.

    In this process anew, for the memory of the first attempt would count.
    """
    again = _refused(job).exists()
    try:
        return run(job)
    except RuntimeError:
        if again or not _refused(job).exists():
            raise
        print("once more, without strict determinism", flush=True)
        os.execv(sys.executable, sys.orig_argv)


def _refused(job: Job) -> Path:
    return job.aside / "not-deterministic"  # `training` leaves it


def _loose(job: Job) -> str:
    return f"; the backward pass is not deterministic here: {_refused(job).read_text(encoding='utf-8')}" if _refused(job).exists() else ""


def _what(stage: str, config: Config) -> str:
    section = config.sft if stage == "sft" else config.grpo
    weights = f"{'4-bit, ' if section.load_in_4bit else ''}{section.dtype}, rank {config.sft.lora_r}"
    if stage == "sft":
        return f"{weights}, rows of {config.sft.max_length:,} tokens"
    return f"{weights}, prompts of {config.dataset.max_prompt_length:,} tokens and completions of {config.grpo.max_completion_length:,}"


def _under(row: Row, setting: Setting) -> str:
    """What bounds or colours the measure."""
    if setting.device == "cpu":
        return "; no cap on a CPU"
    import torch

    fused = row.profile == "t4" and torch.cuda.get_device_capability() >= (8, 0)
    return f"; under {row.cap_gib:g} GiB" + ("; attention is fused here, and a T4's is not" if fused else "")


def cap(row: Row, setting: Setting) -> None:
    """Hold torch to the row's memory, less what the CUDA context takes outside torch."""
    if setting.device == "cpu" or row.cap_gib is None:
        return
    import torch

    if load_config(row.profile).sft.dtype == "bfloat16":
        kernels.require_bfloat16(setting)
    if not preflight.can_compile():
        raise Missing("a C compiler and Python.h, with which Triton builds launchers: apt-get install gcc python3-dev")
    total, cap = torch.cuda.get_device_properties(0).total_memory, row.cap_gib * 2**30
    if total < NEAR * cap:
        raise Missing(f"a GPU of {row.cap_gib:g} GiB: this one has {total / 2**30:.1f}")
    torch.cuda.set_per_process_memory_fraction(min(1.0, (cap - terms.CONTEXT) / total))


def wait_for_device(device: str) -> None:
    """Until the GPU has done what it was given: a step returns before."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def peak(setting: Setting) -> dict[str, Any]:
    """Of torch's allocator on a GPU, of the process on a CPU."""
    if setting.device == "cpu":
        return {"peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    import torch

    return {"peak_bytes": torch.cuda.max_memory_reserved(), "peak_allocated_bytes": torch.cuda.max_memory_allocated()}


# ----------------------------------------------------------------------------------------------------------------- the job


@dataclass(frozen=True)
class TimedJob(Job):
    """A Job that looks at the clock as each step ends."""

    ticks: list[float] = field(default_factory=list)
    device: str = "cpu"

    def progress(self, step: int, total: int | None, **metrics: float | int | str | None) -> None:
        wait_for_device(self.device)
        self.ticks.append(time.monotonic())


def job_of(stage: str, config: Config, row: Row, setting: Setting) -> TimedJob:
    """The stage's Job, as `stage.launch` would make it of a store that holds its inputs."""
    from gwen25 import modeling

    work = Path(setting.folder) / f"work-{stage}-{row.profile}"
    for name in ("payload", "aside", "dataset/payload", "sft/payload"):
        (work / name).mkdir(parents=True, exist_ok=True)
    directory, format = base.whole(setting), FORMATS[config.chat_format]
    tokenizer = modeling.load_tokenizer(directory, format)
    pinned = {"base_model": base.IDENTITY, "chat_format": {"name": format.name, "digest": format.digest}}
    inputs = {"dataset": _rows(work / "dataset", config, tokenizer, format)}
    if stage == "grpo":
        base.adapter(work / "sft" / "payload", base.shape(setting), config.sft.lora_r, config.sft.lora_alpha)
        inputs["sft"] = Input("sft", "-", "-", work / "sft", {**pinned, "license": None, "context": base.CONTEXT, "dataset": {}}, {})
    externals = {**pinned, "rewards": {"active": list(config.grpo.rewards), "judge": None}}
    section = config.sft if stage == "sft" else config.grpo
    batch = section.per_device_train_batch_size
    located = {"base_model": str(directory)}
    return TimedJob(stage, "-", section, inputs, externals, located, config.runtime, batch, work, device=setting.device)


def _rows(folder: Path, config: Config, tokenizer: PreTrainedTokenizerBase, format: ChatFormat) -> Input:
    """Two rows of each kind, as long as the config allows."""
    payload = folder / "payload"
    short = problem_messages(Problem("short", "Print the sum of all numbers.", ()))
    messages = _fill(
        lambda units: problem_messages(Problem("long", "Print the sum of all numbers.\n" + UNIT * units, ())),
        lambda made: _tokens(tokenizer, format.render(made)),
        config.dataset.max_prompt_length,
    )
    reasoning = _fill(
        lambda units: UNIT * units + "That is all.",
        lambda made: _tokens(tokenizer, format.render(short) + format.answer(made, CODE)) + 1,
        min(config.sft.max_length, config.dataset.max_length),
    )
    trained = {"messages": short, "reasoning": reasoning, "code": CODE}
    asked = {"messages": messages, "statement": "Print the sum of all numbers.", "tests": [], "func_name": None}
    for name, row in (("train", trained), ("grpo", asked)):
        lines = (json.dumps({"id": f"{name}-{number}", **row}) + "\n" for number in range(2))
        (payload / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    (payload / "heldout.jsonl").touch()
    return Input("dataset", "-", "-", folder, {"license": None}, {})


CODE: Final = "print(sum(map(int, input().split())))"


def _tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


def _fill(make: Callable[[int], Any], length: Callable[[Any], int], limit: int) -> Any:
    """What `make` gives of as many units as fit `limit` tokens: each adds the same number of them."""
    none, some = length(make(0)), length(make(10))
    if none > limit:
        raise ValueError(f"{none} tokens without any filling, more than the {limit} that fit")
    units = int((limit - none) * 10 / (some - none))
    while length(made := make(units)) > limit:
        units -= 1
    return made
