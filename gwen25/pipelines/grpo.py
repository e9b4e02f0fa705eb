"""GRPO: the SFT adapter, improved on problems whose answers can be judged.

    python -m gwen25.pipelines.grpo WORK_DIR          (started by `gwen25 grpo`)

Of each prompt a group of completions is sampled; each is rewarded (`gwen25.rewards`), and what did better than its group is
made likelier (arXiv:2402.03300, by TRL). The adapter goes on from SFT; with beta > 0 a frozen copy of it is the reference
that the KL holds on to. Prompts are rendered here as text, so no template of TRL's is applied, and sampling stops at each of the
format's stop tokens.

    payload/   a PEFT adapter directory with its tokenizer, laid out as SFT's
    aside/     metrics.jsonl, completions.jsonl (whole groups with their rewards), rewards.jsonl (counts by step), report.md (warnings,
               samples), curves.png, judge/

What goes wrong quietly is warned of (`grpo_watch`): in the log, at the step where it is seen; in facts and report.md at the end.

How this differs from TRL's defaults: the order of the prompts is fixed for the whole run (TRL's own sampler forgets its
place when a run is resumed after the first epoch), and no prompt is left out because it fills no whole batch.
A smaller micro-batch saves memory in training; sampling has a measure of its own, `job.at_once` (see `slices`).
`loss_type: bnpo` alone averages over a micro-batch, so its numbers depend on the split.

With grpo.vllm the completions are sampled by vLLM, in this process or on a server; what is resumed then is not equal to a run
without a break, for vLLM's random numbers begin anew.
"""

from __future__ import annotations

import json
import logging
import random
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gwen25 import batches, grpo_report, grpo_watch, modeling, models, plots, sandbox, trackers, training
from gwen25.chat import ChatFormat
from gwen25.config import GrpoConfig
from gwen25.data import read_jsonl
from gwen25.errors import BadInput, Unavailable
from gwen25.job import Job, Result, main

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from gwen25.rewards.panel import Panel

CURVES: Final = (
    *("reward", "frac_programs_passed", "frac_groups_compared", "kl", "entropy"),
    *("completions/clipped_ratio", "completions/mean_length", "sampling/sampling_logp_difference/mean"),
)
# Result.metrics by TRL's names, as means over the last logs
SUMMARY: Final = {
    "reward": "reward",
    "kl": "kl",
    "entropy": "entropy",
    "clipped_ratio": "completions/clipped_ratio",
    "completion_length": "completions/mean_length",
    "frac_groups_compared": "frac_groups_compared",  # the panel's: TRL takes a group of one known reward for one with a spread
    **{name: name for name in ("frac_programs_passed", "frac_reward_none")},
    **{f"redraw/{name}": f"redraw/{name}" for name in ("frac_groups_compared", "completions", "groups_replaced", "reward_before")},
    # how far vLLM's probabilities are from the trainer's, and the weights that correct for it
    **{f"sampling_logp_difference/{which}": f"sampling/sampling_logp_difference/{which}" for which in ("mean", "max")},
    **{f"importance_sampling_ratio/{which}": f"sampling/importance_sampling_ratio/{which}" for which in ("min", "mean", "max")},
}
# fields that are told of a run where they are not as they are by default
OPTIONS: Final = (
    *("epsilon_high", "delta", "num_iterations", "importance_sampling_level", "multi_objective_aggregation", "redraw_zero_spread"),
    *("soft_punish_cache", "execution_reward", "shuffle_rewards", "judge_agreement"),
    *("vllm_importance_sampling_correction", "vllm_importance_sampling_mode"),
    *("vllm_importance_sampling_clip_max", "vllm_importance_sampling_clip_min"),
)


# fields that are TRL's own, by its names
TRLS: Final = (
    *("max_steps", "num_generations", "temperature", "top_p", "max_completion_length", "mask_truncated_completions"),
    *("beta", "epsilon", "epsilon_high", "delta", "num_iterations", "importance_sampling_level"),
    *("loss_type", "scale_rewards", "multi_objective_aggregation"),
)
VLLMS: Final = tuple(f"vllm_importance_sampling_{name}" for name in ("correction", "mode", "clip_max", "clip_min"))


@dataclass(frozen=True, slots=True)
class Prompts:
    """The rows to train on, and how many were left out because nothing could tell a right answer to them.

    `constant_tests`: rows whose tests all expect one output; a program that prints it would pass, so they count as having none.
    """

    rows: list[dict[str, Any]]
    untestable: int
    constant_tests: int


def run(job: Job) -> Result:
    """Train on. Raises BadInput for rows, adapter or batch that cannot be trained with, Unavailable where rewards stay unknown."""
    config: GrpoConfig = job.config
    device = modeling.prepare(job)
    trackers.require(job)
    format = _format(job)
    directory = modeling.base_dir(job)
    tokenizer = modeling.load_tokenizer(directory, format)
    panel = make_panel(job, format, {*modeling.stop_ids(tokenizer, format), int(tokenizer.pad_token_id)})
    prompts = read_prompts(job.inputs["dataset"].payload / "grpo.jsonl", format, judged="judge" in panel.names, config=config)
    job.say(
        f"{len(prompts.rows)} prompts; {prompts.untestable} left out, which have neither tests nor a judge; the tests of "
        f"{prompts.constant_tests} rows are not used, since all expect one output"
    )
    _check_lengths(prompts.rows, tokenizer, config, models.inspect(directory).context)

    start = job.inputs["sft"].payload
    trainer = make_trainer(job, directory, tokenizer, format, prompts.rows, panel, device)
    job.say(f"rewards: {', '.join(panel.names)}; {modeling.require_trainable(trainer.model)} trained parameters")
    steps = training.train(trainer, job)
    try:
        panel.check(last=True)
    except Unavailable:
        if trainer.is_world_process_zero():  # trained to its end without rewards: the next attempt begins anew
            shutil.rmtree(training.checkpoints(job), ignore_errors=True)
        raise

    moved = distance(modeling.adapter_state(trainer.model), modeling.read_adapter(start))
    logged = training.read_metrics(job.aside / "metrics.jsonl")
    masked = config.mask_truncated_completions
    cautions = grpo_watch.read(logged, masked=masked)
    for caution in cautions[len(grpo_watch.read(logged, ended=False)) :]:  # the others were said as they came
        _say(job, caution)
    cautions += _of_nothing(job, panel, moved, steps)
    _say_agreement(job, panel)
    if trainer.is_world_process_zero():
        modeling.save_adapter(trainer.model, job.payload, job.externals["base_model"])
        modeling.save_tokenizer(tokenizer, job.payload)
        plots.curves(job.aside / "curves.png", logged, CURVES, "GRPO")
        report = grpo_report.page(cautions, training.read_metrics(job.aside / "completions.jsonl"))
        (job.aside / "report.md").write_text(report, encoding="utf-8")
    trainer.accelerator.wait_for_everyone()  # the first process has written the payload
    facts = _facts(job, prompts, panel, steps, moved, cautions)
    return Result({**job.inputs["sft"].facts, "grpo": facts}, _metrics(logged, panel, moved))


def _format(job: Job) -> ChatFormat:
    """The chat format of the SFT adapter, if that adapter is one of this run's base and format."""
    facts = job.inputs["sft"].facts
    if facts["base_model"] != job.externals["base_model"]:
        raise BadInput(
            f"the SFT adapter was trained on {models.name_of(facts['base_model'])}, not on "
            f"{models.name_of(job.externals['base_model'])}; choose the same base_model"
        )
    if facts["chat_format"]["name"] != job.config.chat_format:
        raise BadInput(f"the SFT adapter speaks {facts['chat_format']['name']}, not chat_format={job.config.chat_format}")
    return modeling.chat_format(facts, "the SFT adapter")


def make_panel(job: Job, format: ChatFormat, ends: set[int]) -> Panel:
    """The rewards that the key names; `ends` are the ids that a whole completion may end in.

    Raises BadInput where this process has other rewards, because a judge's key is gone, say; SandboxUnavailable.
    """
    from gwen25.rewards import active
    from gwen25.rewards.judge import Judge
    from gwen25.rewards.panel import Panel

    names, keyed = list(active(job.config, job.warn)), list(job.externals["rewards"]["active"])
    if names != keyed:
        raise BadInput(f"the run was planned with the rewards {', '.join(keyed)}, and now there are {', '.join(names)}; start it again")
    if "execution" in names:
        sandbox.probe()  # a machine that cannot isolate programs is refused before the base model is loaded
    judge = Judge(job.config.judge, job.aside / "judge") if "judge" in names else None
    return Panel(job.config, format, judge, job.runtime.sandbox_workers, ends, job.aside / "rewards.jsonl")


def read_prompts(file: Path, format: ChatFormat, *, judged: bool, config: GrpoConfig) -> Prompts:
    """The rows of a data set's GRPO file, rendered. Rows without tests, or whose tests a constant passes, are left out where
    no judge is there to score them.

    Raises BadInput, naming the line, for a row without messages, and where no row is left.
    """
    rows, untestable, constant = [], 0, 0
    for number, row in read_jsonl(file):
        try:
            messages, tests = row["messages"], row["tests"] if "execution" in config.rewards else []
            prompt = format.render(messages)
            if tests and len({test["output"].strip() for test in tests}) == 1:
                tests, constant = [], constant + 1
        except (AttributeError, KeyError, TypeError) as error:
            raise BadInput(f"{file}, line {number} (row {row.get('id')}): messages and tests are expected ({error!r})") from error
        if not tests and not judged and not config.allow_format_only:
            untestable += 1
            continue
        rows.append(
            {
                "id": str(row.get("id")),
                "prompt": prompt,
                # one JSON text a row: Arrow would make one type of all rows' tests
                "tests": json.dumps(tests, ensure_ascii=False),
                "func_name": row.get("func_name") or "",
                "statement": row.get("statement") or _last_user_turn(messages),
            }
        )
    if not rows:
        raise BadInput(
            f"{file}: no row to train on: {untestable} have no tests and no judge is set to score them "
            f"({constant} have tests that all expect one output, which a constant passes); give the judge its key, "
            "take rows with tests, or set grpo.allow_format_only=true"
        )
    return Prompts(rows, untestable, constant)


def _last_user_turn(messages: Sequence[Mapping[str, str]]) -> str:
    return next((message["content"] for message in reversed(messages) if message["role"] == "user"), "")


def _check_lengths(rows: Sequence[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase, config: GrpoConfig, context: int) -> None:
    longest = max(rows, key=lambda row: len(row["prompt"]))
    tokens = len(tokenizer(longest["prompt"])["input_ids"])
    if tokens + config.max_completion_length > context:
        raise BadInput(
            f"grpo.max_completion_length = {config.max_completion_length} and a prompt of {tokens} tokens (row {longest['id']}) are more "
            f"than the model's context of {context}; lower it, or dataset.max_prompt_length"
        )


def schedule(rows: int, each_step: int, steps: int, seed: int) -> list[int]:
    """Indices of the prompts of a whole run, `each_step` for each optimizer step: every prompt once before any comes again.

    The order is a function of these numbers alone, so a resumed run goes on where it was, in whichever pass that is.
    """
    shuffle = random.Random(seed).shuffle
    order: list[int] = []
    while len(order) < each_step * steps:
        passing = list(range(rows))
        shuffle(passing)
        order += passing
    return order[: each_step * steps]


def make_trainer(
    job: Job,
    directory: Path,
    tokenizer: PreTrainedTokenizerBase,
    format: ChatFormat,
    rows: Sequence[dict[str, Any]],
    panel: Panel,
    device: str,
) -> Any:
    """TRL's GRPOTrainer, going on from the SFT adapter. Raises RuntimeError where that adapter would not be trained."""
    from trl import GRPOConfig as TrlConfig

    from gwen25.grpo_trainer import make

    config: GrpoConfig = job.config
    batch = training.split(job, config.per_device_train_batch_size * config.gradient_accumulation_steps)
    batches.check(job.stage, batch.effective, batch.world, config.num_generations)
    arguments = training.arguments(job, batch, device) | {
        **{name: getattr(config, name) for name in TRLS},
        "reward_weights": panel.weights(),
        "shuffle_dataset": False,  # `schedule` has shuffled
        **vllm_arguments(config, modeling.stop_ids(tokenizer, format), partial(_longest, rows, tokenizer)),
    }
    base = modeling.load_base(
        directory,
        tokenizer,
        format,
        dtype=config.dtype,
        device=device,
        load_in_4bit=config.load_in_4bit,
        attn_implementation=config.attn_implementation,
    )
    start = job.inputs["sft"].payload
    logging.getLogger("trl.trainer.grpo_trainer").addFilter(_is_no_row_dump)
    trainer = make(
        rows=rows,
        redraws=config.redraw_zero_spread,
        samples=job.aside / "completions.jsonl",
        every=config.log_completions_steps,
        model=modeling.load_adapter(base, start, trainable=True),
        args=TrlConfig(**arguments),
        reward_funcs=panel.functions(),
        train_dataset=_dataset(rows, schedule(len(rows), batch.effective // config.num_generations, config.max_steps, config.seed)),
        processing_class=tokenizer,
        callbacks=[training.callback(job), _watching(job), *trackers.callbacks(job)],
    )
    training.widen(trainer.model)
    for name in trainer.model.peft_config:  # the policy, and the reference of a KL: TRL has rounded to bfloat16 on a 4-bit base
        modeling.restore_adapter(trainer.model, start, name)
    return trainer


def _watching(job: Job) -> Any:
    """The TrainerCallback that says each warning once, at the step where it first holds; a resumed run begins with the earlier ones."""
    from transformers import TrainerCallback

    class Watching(TrainerCallback):
        watch = grpo_watch.Watch(masked=job.config.mask_truncated_completions)

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            for row in training.read_metrics(job.aside / "metrics.jsonl"):
                self._see(row)

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
            if logs and "loss" in logs and state.is_world_process_zero:
                self._see({"step": state.global_step, **logs})

        def _see(self, row: dict[str, Any]) -> None:
            for caution in self.watch.see(row):
                _say(job, caution)

    return Watching()


def _say(job: Job, caution: grpo_watch.Caution) -> None:
    job.warn(f"step {caution.step}: {caution.text}")


def _longest(rows: Sequence[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens of the longest prompt."""
    return max(len(ids) for ids in tokenizer([row["prompt"] for row in rows])["input_ids"])


def vllm_arguments(config: GrpoConfig, stops: Sequence[int], longest: Callable[[], int]) -> dict[str, Any]:
    """GRPOConfig's own for sampling by vLLM; nothing where Transformers samples. `longest`: tokens of the longest prompt.

    vLLM reads the base's directory, whose stop token is Qwen's <|endoftext|> alone: the format's are told with each request.
    """
    if config.vllm == "off":
        return {}
    shared = {
        **{"use_vllm": True, "vllm_mode": config.vllm, "generation_kwargs": {"stop_token_ids": list(stops)}},
        **{name: getattr(config, name) for name in VLLMS},
    }
    if config.vllm == "server":
        return {**shared, "vllm_server_base_url": config.vllm_server_base_url}
    return {
        **shared,
        "vllm_gpu_memory_utilization": config.vllm_gpu_memory_utilization,
        "vllm_enable_sleep_mode": config.vllm_enable_sleep_mode,
        # the model's whole context otherwise, for which vLLM wants room in its cache before it starts
        "vllm_max_model_length": config.vllm_max_model_length or longest() + config.max_completion_length,
    }


def _is_no_row_dump(record: logging.LogRecord) -> bool:
    """False for TRL's warning that a completion has no reward: it prints the row with all its tests, at almost every step."""
    return "All reward functions returned None" not in str(record.msg)  # accelerate's logger puts "[RANK 0] " before it


def _dataset(rows: Sequence[dict[str, Any]], order: Iterable[int]) -> Dataset:
    from datasets import Dataset

    return Dataset.from_list(list(rows)).select(list(order))


def distance(now: Mapping[str, Any], before: Mapping[str, Any]) -> float:
    """The largest absolute difference of two adapters' numbers. Raises BadInput where they are not of one shape."""
    if now.keys() != before.keys():
        raise BadInput("the SFT adapter holds other matrices than the trained one; train SFT again with this version")
    return max(float((now[name].float() - before[name].float()).abs().max()) for name in now)


def _of_nothing(job: Job, panel: Panel, moved: float, steps: int) -> list[grpo_watch.Caution]:
    """Say loudly that rewards taught nothing. The adapter may have moved all the same: weight decay needs no reward."""
    counts, said = panel.metrics(), []
    if not counts["groups/compared"]:
        said.append(
            f"GRPO LEARNED NOTHING: none of {counts['groups']} groups had two different rewards; {counts['truncated']} of "
            f"{counts['completions']} completions were left out because grpo.max_completion_length cut them off"
        )
    if not moved:
        said.append("GRPO LEFT THE ADAPTER AS IT WAS: it is equal to SFT's in every bit")
    for text in said:
        job.warn(text)
    return [grpo_watch.Caution("nothing", steps, text) for text in said]


def _say_agreement(job: Job, panel: Panel) -> None:
    counts = panel.metrics()
    if counts.get("agreement/n"):
        kappa = counts["agreement/kappa"]
        beyond = "" if kappa is None else f", {kappa:.2f} beyond chance (Cohen's kappa)"
        job.say(f"judge and execution agree on {counts['agreement/share']:.0%} of {counts['agreement/n']} programs{beyond}")


def _metrics(logged: list[dict[str, Any]], panel: Panel, moved: float) -> dict[str, Any]:
    metrics: dict[str, Any] = {name: training.recent(logged, source) for name, source in SUMMARY.items()}
    for name in panel.names:
        metrics[f"rewards/{name}"] = training.recent(logged, f"rewards/{name}/mean")
    metrics |= {**panel.metrics(), "adapter_moved": moved}
    return {name: value for name, value in metrics.items() if value is not None}


def _facts(job: Job, prompts: Prompts, panel: Panel, steps: int, moved: float, cautions: Sequence[grpo_watch.Caution]) -> dict[str, Any]:
    """The recipe as it was really run, and what was warned of, where anything was."""
    config: GrpoConfig = job.config
    values: Mapping[str, Any] = config.model_dump(
        mode="json",
        include={
            "learning_rate", "warmup_steps", "optim", "weight_decay", "lr_scheduler_type", "max_grad_norm", "dtype", "load_in_4bit",
            "num_generations", "temperature", "top_p", "max_completion_length", "mask_truncated_completions", "beta", "epsilon",
            "loss_type", "scale_rewards", "none_policy", "seed", "vllm",
        },
    )  # fmt: skip
    usual = GrpoConfig()
    chosen = {name: getattr(config, name) for name in OPTIONS if getattr(config, name) != getattr(usual, name)}
    counts = panel.metrics()
    judged = {f"agreement_{name}": counts[f"agreement/{name}"] for name in ("n", "share", "kappa") if counts.get("agreement/n")}
    return {
        **values,
        **chosen,
        **judged,
        **({"warnings": [f"step {caution.step}: {caution.text}" for caution in cautions]} if cautions else {}),
        "effective_batch_size": config.per_device_train_batch_size * config.gradient_accumulation_steps,
        "steps": steps,
        "prompts": len(prompts.rows),
        "untestable": prompts.untestable,
        "constant_tests": prompts.constant_tests,
        "rewards": dict(zip(panel.names, panel.weights(), strict=True)),
        "adapter_moved": moved,
        "sft_digest": job.inputs["sft"].digest,
    }


if __name__ == "__main__":
    main(run)
