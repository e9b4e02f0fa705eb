"""The panel: all rewards of a batch scored together, so that an unknown score cannot punish.

    judge = Judge(config.grpo.judge, folder) if "judge" in active(config.grpo) else None
    panel = Panel(config.grpo, FORMATS["chatml-think"], judge, sandbox_workers=2, ends={151645, 151643}, file=aside / "rewards.jsonl")
    GRPOTrainer(reward_funcs=panel.functions(), args=GRPOConfig(reward_weights=panel.weights(), ...), ...)
    panel.check(last=True)                       after training: the coverage of a run shorter than the window

TRL adds the rewards of a completion by `nansum`: a None beside other rewards counts as 0 against the completion's siblings.
Only a completion whose rewards are all None is left out of its group (grpo_trainer.py, `unscorable_mask`). So the rewards
are not independent, and the first function that TRL calls fills the table for all. Where correctness is unknown, the policy

    completion   makes every reward of that completion None: its advantage is 0, its siblings are compared among themselves
    group        makes correctness None for the whole group: nobody is shifted, form alone is compared there

and where no correctness reward applies to a row, every reward is None, unless `allow_format_only`.
`shuffle_rewards` then deals the rewards of a group out at random: a run to hold another against, since all but the learning is alike.

A completion that the limit cut off has no rewards at all while `mask_truncated_completions` is on. TRL masks only its loss: its
zeros would stay in its group's mean, and the one that ended early, with anything, would be praised for it at full strength.
What this costs: rambling on past the limit is not punished either; `truncated` counts it.

With `judge_agreement` some of the programs that were run are shown to the judge as well, for half of its budget; only counts come of it.

Each batch is written to `file` as a line {step, known, applicable, counts}; a step whose groups were drawn again has several. A run
that is resumed reads them, and its numbers are those of the whole run, of each step once. (The judge's own tally of requests counts
repeated steps too.)
Rows bring the columns `tests` (or `tests_json`), `func_name` and `statement`; a group is `num_generations` completions in a row.
"""

from __future__ import annotations

import os
import random
import sys
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Final, TypeVar

from gwen25 import training
from gwen25.chat import ChatFormat
from gwen25.config import GrpoConfig
from gwen25.data import TestCase
from gwen25.errors import JudgeUnavailable, Unavailable
from gwen25.rewards import REWARDS, active, agreement, weight
from gwen25.rewards.judge import Judge
from gwen25.rewards.sample import Sample, Tools, read_tests
from gwen25.rewards.spread import teaches

Scores = list[float | None]
_T = TypeVar("_T")

_COLUMNS: Final = ("completion_ids", "tests", "tests_json", "func_name", "statement")


@dataclass
class _Batch:
    """The table of one batch, kept until each function has been called once with it."""

    given: tuple[list[Any], ...]
    table: dict[str, Scores]
    served: set[str] = field(default_factory=set)


@dataclass
class _Scored:
    """A completion's rewards. `known`: whether its correctness is; None where no correctness reward applies, or it was `cut` off."""

    scores: dict[str, float | None]
    known: bool | None
    cut: bool = False


class Panel:
    """The active rewards of a run, as the functions that TRL wants."""

    def __init__(
        self,
        config: GrpoConfig,
        format: ChatFormat,
        judge: Judge | None,
        sandbox_workers: int,
        ends: Collection[int],
        file: Path | None = None,
    ):
        """`judge` may be None where `active` leaves it out. `ends`: ids of the tokens that a completion may end in, the pad among them.

        `file`: what the batches of earlier attempts were and this one's are written to, less the steps that are done again. Raises
        BadInput as `active`.
        """
        self.names = active(config)
        if "judge" in self.names and judge is None:
            raise ValueError("the judge is active: give the panel one")
        self.config = config
        self.tools = Tools(format, judge, sandbox_workers, config.execution_reward, config.max_completion_length, config.soft_punish_cache)
        self._ends, self._file = frozenset(ends), file
        self._correctness = [name for name in REWARDS if name in self.names and REWARDS[name].kind == "correctness"]
        self._held: _Batch | None = None
        self._batches: list[dict[str, Any]] | None = None  # of the whole run; None: the file was not read yet

    def functions(self) -> list[Callable[..., Scores]]:
        """One function for each active reward: `(prompts, completions, **columns) -> list[float | None]`.

        Call them with the same batch in turn, as TRL does. They raise SandboxUnavailable and JudgeUnavailable.
        """
        return [self._function(name) for name in self.names]

    def weights(self) -> list[float]:
        """Weights of `functions()`, in order."""
        return [weight(self.config, name) for name in self.names]

    def metrics(self) -> dict[str, float | int | None]:
        """Counts of the whole run, all processes together, and coverage over the window (None where nothing was applicable).

        `completions`, `truncated`, `groups` and `groups/compared`, those with two different rewards: the others teach nothing.
        `unknown/<reward>`, and what the rewards and the judge count; of judge against execution `agreement/share` and
        `agreement/kappa` (None without a program that both judged).
        """
        always = ("completions", "truncated", "groups", "groups/compared", *(f"unknown/{name}" for name in self.names))
        total = Counter(dict.fromkeys(always, 0))
        for batch in self._history():
            total.update(batch["counts"])
        return {"coverage": self.coverage(), **total, **(agreement.measures(total) if self.config.judge_agreement else {})}

    def coverage(self) -> float | None:
        """Share of completions with a known correctness, of those that a correctness reward applies to, over the window."""
        _, known, applicable = self._window()
        return known / applicable if applicable else None

    def check(self, last: bool = False) -> None:
        """Raise where too few completions have a known correctness, as soon as that is certain; `last`: no batch follows.

        It is certain where a full window of batches like these could not reach `min_reward_coverage` even if all of its
        batches still to come were known. A full window of which nothing is known is too little whatever that field says. The
        window reaches back into earlier attempts. JudgeUnavailable where a judge sat on the panel, else Unavailable.
        """
        batches, known, applicable = self._window()
        if not applicable:
            return
        to_come = 0 if last else (self.config.coverage_window - batches) / batches * applicable
        if known + to_come >= self.config.min_reward_coverage * (applicable + to_come) and known + to_come > 0:
            return
        judge, sandbox = self.tools.judge, self.tools.sandbox_failure
        why = f"; the judge's last failure: {judge.last_failure}" if judge is not None and judge.last_failure else ""
        why += f"; the sandbox's last failure: {sandbox}" if sandbox else ""
        error = Unavailable if judge is None else JudgeUnavailable
        raise error(
            f"correctness is known for {known} of the last {applicable} completions; grpo.min_reward_coverage = "
            f"{self.config.min_reward_coverage:g} asks for more, and 0 still for one{why}; training on would learn from form, try again "
            "when the service answers"
        )

    def _history(self, before: int | None = None) -> list[dict[str, Any]]:
        """The batches of the whole run; when they are read from the file, only those of steps before `before`."""
        if self._batches is None:
            self._batches = []
            for batch in [] if self._file is None else training.read_metrics(self._file):
                if before is None or batch["step"] < before:
                    self._remember(batch)
        return self._batches

    def _remember(self, batch: dict[str, Any]) -> None:
        """Add a batch to the history, in which a step stands once."""
        assert self._batches is not None
        last = self._batches[-1] if self._batches else None
        if last is None or batch["step"] is None or last["step"] != batch["step"]:
            self._batches.append(batch)
            return
        known, applicable = last["known"] + batch["known"], last["applicable"] + batch["applicable"]
        self._batches[-1] = {
            **batch,
            "known": known,
            "applicable": applicable,
            "counts": dict(Counter(last["counts"]) + Counter(batch["counts"])),
        }

    def _window(self) -> tuple[int, int, int]:
        """The last batches: how many, their completions of known correctness, and those that could have one."""
        batches = self._history()[-self.config.coverage_window :]
        return len(batches), sum(batch["known"] for batch in batches), sum(batch["applicable"] for batch in batches)

    def _function(self, name: str) -> Callable[..., Scores]:
        def reward(prompts: list[Any], completions: list[Any], **columns: Any) -> Scores:
            return self._scores(name, prompts, completions, columns)

        reward.__name__ = reward.__qualname__ = name  # TRL logs rewards/<__name__>/mean
        return reward

    def _scores(self, name: str, prompts: list[Any], completions: list[Any], columns: Mapping[str, Any]) -> Scores:
        given = (list(prompts), list(completions), *(list(columns.get(column) or ()) for column in _COLUMNS))
        held = self._held
        # a name that was served already begins a new batch, even one that is equal to the last
        if held is None or name in held.served or held.given != given:
            self._held = held = _Batch(given, self._score_all(self._samples(completions, columns), columns))
            self.check()
        held.served.add(name)
        return held.table[name]

    def _samples(self, completions: Sequence[Any], columns: Mapping[str, Any]) -> list[Sample]:
        parsed: dict[str, tuple[TestCase, ...]] = {}  # a group shares its tests, which may be megabytes of JSON

        def tests(at: int) -> tuple[TestCase, ...]:
            value = _cell(columns, "tests", at) or _cell(columns, "tests_json", at)
            if not isinstance(value, str):
                return read_tests(value)
            if value not in parsed:
                parsed[value] = read_tests(value)
            return parsed[value]

        return [
            Sample(
                _text(completion),
                self.tools.format,
                tests(at),
                _cell(columns, "func_name", at) or None,
                _cell(columns, "statement", at),
                None if (ids := _cell(columns, "completion_ids", at)) is None else len(ids),
            )
            for at, completion in enumerate(completions)
        ]

    def _score_all(self, samples: list[Sample], columns: Mapping[str, Any]) -> dict[str, Scores]:
        step = columns["trainer_state"].global_step + 1 if self._file is not None else None
        earlier = self._history(step)[-1:]  # read before the file grows
        begun = step is not None and any(batch["step"] == step for batch in earlier)
        before = self._counted()
        mine = self._score(samples, self._cut_off(len(samples), columns))
        if self.config.judge_agreement and self.tools.judge is not None and not begun:
            agreement.ask(samples, [row.scores.get("execution") for row in mine], self.tools, self.config, step)
        parts, rank = _gather((mine, self._counted() - before))
        rows = list(chain.from_iterable(rows for rows, _ in parts))
        self._apply_policy(rows)
        if self.config.shuffle_rewards:
            self._shuffle(rows, step)
        counts = self._note(step, rows, sum((counts for _, counts in parts), Counter[str]()))
        if (log := columns.get("log_metric")) is not None:
            for name, value in _shares(rows, counts).items():
                log(name, value)
        start = sum(len(rows) for rows, _ in parts[:rank])
        return {name: [row.scores[name] for row in rows[start : start + len(samples)]] for name in self.names}

    def _cut_off(self, size: int, columns: Mapping[str, Any]) -> list[bool]:
        """Which completions earn nothing because the limit cut them off: TRL's own rule for which losses it masks."""
        if not self.config.mask_truncated_completions:
            return [False] * size
        return [ids[-1] not in self._ends for ids in columns["completion_ids"]]

    def _counted(self) -> Counter[str]:
        """What rewards and judge have counted in this process so far."""
        judge = self.tools.judge
        judged = {} if judge is None else {f"judge/{name}": count for name, count in judge.counts.items()}
        return self.tools.counts + Counter(judged)

    def _score(self, samples: list[Sample], cut_off: list[bool]) -> list[_Scored]:
        judging = [
            None if cut else next((name for name in self._correctness if REWARDS[name].applies(sample)), None)
            for sample, cut in zip(samples, cut_off, strict=True)
        ]
        rows = [_Scored(dict.fromkeys(self.names), None, cut) for cut in cut_off]
        for name in self.names:
            formal = REWARDS[name].kind != "correctness"
            chosen = [at for at in range(len(samples)) if (formal and not cut_off[at]) or judging[at] == name]
            scores = REWARDS[name].score([samples[at] for at in chosen], self.tools) if chosen else []
            for at, score in zip(chosen, scores, strict=True):
                rows[at].scores[name] = score
                self.tools.counts[f"unknown/{name}"] += score is None
                if not formal:
                    rows[at].known = score is not None
        self.tools.counts.update({"completions": len(samples), "truncated": sum(cut_off)})
        return rows

    def _apply_policy(self, rows: list[_Scored]) -> None:
        """Mend the rewards where correctness is unknown (`known` False) or no correctness reward applies (None)."""
        size = self.config.num_generations
        for at, row in enumerate(rows):
            group = rows[at // size * size :][:size]
            if row.known is None and not self.config.allow_format_only:
                dropped = self.names
            elif self.config.none_policy == "completion":
                dropped = self.names if row.known is False else ()
            else:
                dropped = tuple(self._correctness) if any(other.known is False for other in group) else ()
            row.scores.update(dict.fromkeys(dropped))

    def _shuffle(self, rows: list[_Scored], step: int | None) -> None:
        """Deal the rewards of each group out at random, the same way for the same step: the control of an experiment."""
        size = self.config.num_generations
        for at in range(0, len(rows), size):
            group = rows[at : at + size]
            dealt = random.Random(f"{self.config.seed} {step} {at}").sample(group, len(group))
            for row, given in zip(group, [(other.scores, other.known, other.cut) for other in dealt], strict=True):
                row.scores, row.known, row.cut = given

    def _note(self, step: int | None, rows: list[_Scored], counts: Counter[str]) -> Counter[str]:
        """Remember a batch, in the file too; its counts, with those of its groups."""
        size = self.config.num_generations
        groups = [[list(row.scores.values()) for row in rows[at : at + size]] for at in range(0, len(rows), size)]
        apart = self.config.multi_objective_aggregation == "normalize_then_sum"
        compared = sum(teaches(group, self.weights(), apart=apart) for group in groups)
        counts.update({"groups": len(groups), "groups/compared": compared})
        known = [row.known for row in rows]
        batch = {"step": step, "known": known.count(True), "applicable": len(known) - known.count(None), "counts": dict(counts)}
        self._history()
        self._remember(batch)
        if self._file is not None and os.environ.get("RANK", "0") == "0":
            training.append(self._file, batch)
        return counts


def _shares(rows: Sequence[_Scored], counts: Mapping[str, int]) -> dict[str, float]:
    """What a step's log tells beside TRL's numbers, less what was not measured.

    `frac_programs_passed`: of the programs that have a verdict, and the answers that hand in none, whatever is paid for passing.
    `frac_reward_none`: of the completions that were not cut off, those whose correctness should be known and is not.
    """
    judged = {name: count for name, count in counts.items() if name.startswith("verdicts/") and name != "verdicts/unknown"}
    ended = [row for row in rows if not row.cut]
    shares = {"frac_groups_compared": counts["groups/compared"] / counts["groups"]}
    if total := sum(judged.values()):
        shares["frac_programs_passed"] = judged.get("verdicts/passed", 0) / total
    if ended:
        nothing = [row.known is False or all(score is None for score in row.scores.values()) for row in ended]
        shares["frac_reward_none"] = sum(nothing) / len(ended)
    return shares


def _gather(mine: _T) -> tuple[list[_T], int]:
    """What each process has, in rank order, and our rank: a group of TRL's may span processes."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return [mine], 0
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, mine)
    return parts, torch.distributed.get_rank()


def _cell(columns: Mapping[str, Any], name: str, at: int) -> Any:
    values = columns.get(name)
    return None if values is None else values[at]


def _text(completion: Any) -> str:
    """A completion's text: TRL gives strings, or lists of chat messages for conversational prompts."""
    if isinstance(completion, str):
        return completion
    return "".join(message.get("content") or "" for message in completion)
