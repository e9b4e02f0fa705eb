"""TRL's GRPOTrainer with four things that it lacks.

    trainer = make(rows=prompts.rows, redraws=2, samples=aside / "completions.jsonl", every=5, model=..., args=..., ...)

Groups drawn again (`grpo.redraw_zero_spread`, after DAPO's dynamic sampling, arXiv:2503.14476, section 3.2): a group whose rewards are all
alike has no advantage (`rewards.spread`). Such groups are replaced by groups of further prompts, in rounds: each samples as many
groups as are missing, and takes those that have a spread. The batch keeps its shape; what is still missing after the last round stays
as it was drawn. Which prompts come next is a function of seed and step alone, and completions come from the trainer's random state at that
step, so a resumed run draws the same. Over several processes the completions of all are gathered, and each takes its part.
Lengths and `frac_*` of a step are those of the prompts as they came, for the chosen ones would flatter; `reward` and `rewards/*` are of
the batch that is trained on, and rewards.jsonl counts all that was drawn.

Samples: every few steps a whole group with each completion's rewards and advantage, one JSON object a line. Of steps that share
their completions (`num_iterations`) the one that sampled them writes.

Sampling by Transformers multiplies LoRA in the type in which the loss does (`lora_as`).

Unknown is not zero: of a micro-batch whose completions were all cut off, and masked, TRL logs a KL, entropy and share of clipped
ratios of 0.0 over no token at all, which would pull the step's mean down. Here those are left out of it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gwen25 import training
from gwen25.rewards.spread import PLACES, teaches

if TYPE_CHECKING:
    import torch
    from trl import GRPOTrainer as Base
else:
    Base = object  # TRL's takes seconds to import: `make` puts it behind

# TRL's measures that are means over unmasked tokens; its `clip_ratio/*_min` and `_max` are NaN by themselves where there are none
_OF_TOKENS: Final = (
    *("kl", "entropy", "cispo_clip_ratio", "vespo/phi_seq_mean"),
    *(f"clip_ratio/{side}_mean" for side in ("low", "high", "region")),
)


@dataclass
class _Drawn:
    """Completions of all processes, group by group, and what each reward function gave them: (completions, functions)."""

    rows: list[dict[str, Any]]
    prompt_ids: list[list[int]]
    completion_ids: list[list[int]]
    completions: list[str]
    logps: list[list[float]] | None
    rewards: torch.Tensor

    def take(self, group: int, other: _Drawn, source: int, size: int) -> None:
        """Put another draw's group in the place of one of ours."""
        here, there = slice(group * size, (group + 1) * size), slice(source * size, (source + 1) * size)
        self.rows[here], self.prompt_ids[here] = other.rows[there], other.prompt_ids[there]
        self.completion_ids[here], self.completions[here] = other.completion_ids[there], other.completions[there]
        if self.logps is not None and other.logps is not None:
            self.logps[here] = other.logps[there]
        self.rewards[here] = other.rewards[there]


def make(*, rows: Sequence[dict[str, Any]], redraws: int, samples: Path, every: int, **options: Any) -> Any:
    """The trainer. `rows`: every prompt of the run; `redraws`: rounds a step; `samples`: their file, `every`: steps between them.

    `options` are GRPOTrainer's.
    """
    from trl import GRPOTrainer

    class Trainer(Groups, GRPOTrainer):  # type: ignore[misc]
        pass

    return Trainer(rows=rows, redraws=redraws, samples=samples, every=every, **options)


@contextmanager
def lora_as(model: Any, dtype: torch.dtype | None) -> Iterator[None]:
    """LoRA's float32 matrices in the type in which autocast multiplies them where the loss is computed; None changes nothing.

    TRL samples without autocast, so LoRA would compute in float32: another policy than the one trained, by roundings, and slower
    (docs/log.md). Other parameters stand in the modules for the time: the own ones keep their bits, and DDP its hooks on them. DoRA
    computes with its matrices elsewhere too, and keeps them.
    """
    import torch

    plain = dtype is not None and not any(config.use_dora for config in model.peft_config.values())
    named = model.named_modules() if plain else ()
    layers = [layer for name, layer in named if (".lora_A." in name or ".lora_B." in name) and layer.weight.requires_grad]
    own = [layer.weight for layer in layers]
    try:
        for layer, weight in zip(layers, own, strict=True):
            layer.weight = torch.nn.Parameter(weight.detach().to(dtype), requires_grad=False)
        yield
    finally:
        for layer, weight in zip(layers, own, strict=True):
            layer.weight = weight


class Groups(Base):  # type: ignore[misc]
    """What `make` adds to TRL's trainer."""

    def __init__(self, *, rows: Sequence[dict[str, Any]], redraws: int, samples: Path, every: int, **options: Any):
        super().__init__(**options)
        self._all_rows, self._redraws, self._samples, self._every = rows, redraws, samples, every
        self._inputs: list[dict[str, Any]] = []
        self._settled: torch.Tensor | None = None

    # -------------------------------------------------------------------------------------------- groups drawn again

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self._inputs = inputs  # `_generate` puts other rows in it, as in the prompts that it is given
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        # completions are sampled at every `num_iterations`-th step; the first one at or after each `every`-th is shown
        if self.state.global_step % self._every < self.num_iterations and self.accelerator.is_main_process:
            training.append(self._samples, self._sample())
        return output

    def _generate(self, prompts: list[str]) -> tuple[Any, ...]:
        if not self._redraws:
            made: tuple[Any, ...] = super()._generate(prompts)
            return made
        drawn = self._draw(self._inputs)
        counted = {name: list(values) for name, values in self._metrics["train"].items() if name.startswith("completions/")}
        told = {name: list(values) for name, values in self._pending_metrics.items()}
        before = self._reward(drawn.rewards).nanmean().item()
        extra, replaced = self._redraw(drawn)
        self._metrics["train"].update(counted)
        self._pending_metrics.clear()
        self._pending_metrics.update(told)
        self._pending_extra_logs.clear()
        spread = self._spread(drawn.rewards)
        for name, value in (("frac_groups_compared", sum(spread) / len(spread)), ("completions", extra), ("groups_replaced", replaced)):
            self._metrics["train"][f"redraw/{name}"].append(float(value))
        self._metrics["train"]["redraw/reward_before"].append(before)
        return self._hand_out(drawn, prompts)

    def _generate_single_turn(self, *arguments: Any, **options: Any) -> tuple[Any, ...]:
        import torch

        dtype = torch.bfloat16 if self.args.bf16 else torch.float16 if self.args.fp16 else None
        with lora_as(self.model, None if self.use_vllm else dtype):  # vLLM is given merged weights
            made: tuple[Any, ...] = super()._generate_single_turn(*arguments, **options)
        return made

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, ids: Any) -> torch.Tensor:
        """The rewards of the draws that a batch was put together from, where it was."""
        settled, self._settled = self._settled, None
        rewards: torch.Tensor = super()._calculate_rewards(inputs, prompts, completions, ids) if settled is None else settled
        return rewards

    def _draw(self, rows: list[dict[str, Any]]) -> _Drawn:
        """Sample and reward one completion for each of this process's rows; those of all processes."""
        from accelerate.utils import gather_object  # type: ignore[import-untyped]

        prompts = [row["prompt"] for row in rows]
        prompt_ids, ids, _, completions, logps, *_ = super()._generate(prompts)
        rewards = super()._calculate_rewards(rows, prompts, completions, ids)
        return _Drawn(
            gather_object(rows),
            gather_object(prompt_ids),
            gather_object(ids),
            gather_object(completions),
            None if logps is None else gather_object(logps),
            rewards,
        )

    def _redraw(self, drawn: _Drawn) -> tuple[int, int]:
        """Replace groups without spread; how many completions that took, and how many groups were replaced."""
        size, further = self.num_generations, self._further(drawn)
        extra = replaced = 0
        for _ in range(self._redraws):
            flat = [group for group, spread in enumerate(self._spread(drawn.rewards)) if not spread]
            rows = [row for _, row in zip(range(self._whole(len(flat))), further, strict=False)]
            rows = rows[: len(rows) - len(rows) % self._whole(1)]
            if not flat or not rows:
                break
            other = self._draw(self._mine([row for row in rows for _ in range(size)]))
            useful = [group for group, spread in enumerate(self._spread(other.rewards)) if spread]
            for group, source in zip(flat, useful, strict=False):
                drawn.take(group, other, source, size)
            extra, replaced = extra + len(other.rows), replaced + min(len(flat), len(useful))
        return extra, replaced

    def _further(self, drawn: _Drawn) -> Iterator[dict[str, Any]]:
        """Prompts that this step has not drawn, each once, in an order of their own for each step."""
        rows, here = self._all_rows, {row["prompt"] for row in drawn.rows}
        for at in random.Random(f"{self.args.seed} {self.state.global_step} redraw").sample(range(len(rows)), len(rows)):
            if rows[at]["prompt"] not in here:
                here.add(rows[at]["prompt"])
                yield rows[at]

    def _whole(self, groups: int) -> int:
        """At least so many groups that every process has as many completions as the others."""
        processes: int = self.accelerator.num_processes
        each = processes // math.gcd(processes, self.num_generations)
        return math.ceil(groups / each) * each

    def _mine(self, whole: list[Any]) -> list[Any]:
        share = len(whole) // self.accelerator.num_processes
        return whole[self.accelerator.process_index * share :][:share]

    def _hand_out(self, drawn: _Drawn, prompts: list[str]) -> tuple[Any, ...]:
        """This process's part, in the form in which TRL's `_generate` returns it."""
        self._inputs[:] = self._mine(drawn.rows)
        prompts[:] = [row["prompt"] for row in self._inputs]
        self._settled = drawn.rewards
        logps = None if drawn.logps is None else self._mine(drawn.logps)
        return self._mine(drawn.prompt_ids), self._mine(drawn.completion_ids), None, self._mine(drawn.completions), logps, {}, None, []

    def _reward(self, rewards: torch.Tensor) -> torch.Tensor:
        """The weighted sum for each completion; NaN where no function gave one."""
        total: torch.Tensor = (rewards * self.reward_weights.to(rewards.device)).nansum(dim=1)
        return total.masked_fill(rewards.isnan().all(dim=1), math.nan)

    def _spread(self, rewards: torch.Tensor) -> list[bool]:
        """Which groups hold two different rewards: (groups x size, functions)."""
        apart = self.multi_objective_aggregation == "normalize_then_sum"
        groups = rewards.view(-1, self.num_generations, rewards.shape[1]).tolist()
        return [teaches(group, self.reward_weights.tolist(), apart=apart) for group in groups]

    # --------------------------------------------------------------------------------------------------------- measures

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        loss: torch.Tensor = super()._compute_loss(model, inputs)
        if not self.accelerator.reduce(inputs["completion_mask"].sum(), reduction="sum").item():
            measures = self._metrics["train" if self.model.training else "eval"]
            for name in _OF_TOKENS:
                if measures.get(name):
                    measures[name][-1] = math.nan  # TRL's `log` leaves NaN out, and gives None where nothing is left
        return loss

    # --------------------------------------------------------------------------------------------------------- samples

    def _sample(self) -> dict[str, Any]:
        """A group of the batch just scored, the first whose rewards differ, else the first: TRL has gathered all processes' here."""
        import torch

        size, logs = self.num_generations, self._logs
        rewards = {name: list(values) for name, values in logs["rewards"].items()}
        spread = self._spread(torch.tensor(list(rewards.values())).T)
        at = spread.index(True) * size if any(spread) else 0
        group = range(at, at + size)
        completions = [
            {
                "completion": logs["completion"][one],
                "rewards": {name: None if math.isnan(values[one]) else round(values[one], PLACES) for name, values in rewards.items()},
                "advantage": round(logs["advantages"][one], PLACES),
            }
            for one in group
        ]
        prompt = logs["prompt"][at]
        return {"step": self.state.global_step + 1, "id": self._id(prompt), "prompt": prompt, "completions": completions}

    def _id(self, prompt: str) -> str | None:
        return next((row["id"] for row in self._all_rows if row["prompt"] == prompt), None)
