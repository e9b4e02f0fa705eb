"""The panel: all rewards of a batch scored together, so that an unknown score cannot punish.

    judge = Judge(config.grpo.judge, folder) if "judge" in active(config.grpo) else None
    panel = Panel(config.grpo, FORMATS["chatml-think"], judge, sandbox_workers=2)
    GRPOTrainer(reward_funcs=panel.functions(), args=GRPOConfig(reward_weights=panel.weights(), ...), ...)
    panel.check(last=True)                       after training: the coverage of a run shorter than the window

TRL adds the rewards of a completion by `nansum`: a None beside other rewards counts as 0 against the completion's siblings.
Only a completion whose rewards are all None is left out of its group (grpo_trainer.py, `unscorable_mask`). So the rewards
are not independent, and the first function that TRL calls fills the table for all. Where correctness is unknown, the policy

    completion   makes every reward of that completion None: its advantage is 0, its siblings are compared among themselves
    group        makes correctness None for the whole group: nobody is shifted, form alone is compared there

and where no correctness reward applies to a row, every reward is None, unless `allow_format_only`.
Rows bring the columns `tests` (or `tests_json`), `func_name` and `statement`; a group is `num_generations` completions in a row.
"""

from __future__ import annotations

import sys
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final

from gwen25.chat import ChatFormat
from gwen25.config import GrpoConfig
from gwen25.data import TestCase
from gwen25.errors import JudgeUnavailable, Unavailable
from gwen25.rewards import REWARDS, active, weight
from gwen25.rewards.judge import Judge
from gwen25.rewards.sample import Sample, Tools, read_tests

Scores = list[float | None]

_COLUMNS: Final = ("tests", "tests_json", "func_name", "statement")


@dataclass
class _Batch:
    """The table of one batch, kept until each function has been called once with it."""

    given: tuple[list[Any], ...]
    table: dict[str, Scores]
    served: set[str] = field(default_factory=set)


class Panel:
    """The active rewards of a run, as the functions that TRL wants."""

    def __init__(self, config: GrpoConfig, format: ChatFormat, judge: Judge | None, sandbox_workers: int):
        """`judge` may be None where `active` leaves it out. Raises BadInput as `active`."""
        self.names = active(config)
        if "judge" in self.names and judge is None:
            raise ValueError("the judge is active: give the panel one")
        self.config = config
        self.tools = Tools(format, judge, sandbox_workers)
        self._correctness = [name for name in REWARDS if name in self.names and REWARDS[name].kind == "correctness"]
        self._held: _Batch | None = None
        self._window: deque[tuple[int, int]] = deque(maxlen=config.coverage_window)  # (known, applicable) of each batch
        self._unknown: Counter[str] = Counter()

    def functions(self) -> list[Callable[..., Scores]]:
        """One function for each active reward: `(prompts, completions, **columns) -> list[float | None]`.

        Call them with the same batch in turn, as TRL does. They raise SandboxUnavailable and JudgeUnavailable.
        """
        return [self._function(name) for name in self.names]

    def weights(self) -> list[float]:
        """Weights of `functions()`, in order."""
        return [weight(self.config, name) for name in self.names]

    def metrics(self) -> dict[str, float | int | None]:
        """Counts since the panel was made, and coverage over the window (None where nothing was applicable)."""
        judged = {} if self.tools.judge is None else {f"judge/{name}": count for name, count in self.tools.judge.counts.items()}
        unknown = {f"unknown/{name}": self._unknown[name] for name in self.names}
        return {"coverage": self.coverage(), **unknown, **self.tools.counts, **judged}

    def coverage(self) -> float | None:
        """Share of completions with a known correctness, of those that a correctness reward applies to, over the window."""
        known, applicable = (sum(column) for column in zip(*self._window, strict=True)) if self._window else (0, 0)
        return known / applicable if applicable else None

    def check(self, last: bool = False) -> None:
        """Raise where too few completions have a known correctness, as soon as that is certain; `last`: no batch follows.

        It is certain where a full window of batches like these could not reach `min_reward_coverage` even if all of its
        batches still to come were known. JudgeUnavailable where a judge sat on the panel, else Unavailable.
        """
        if not self._window:
            return
        known, applicable = (sum(column) for column in zip(*self._window, strict=True))
        to_come = 0 if last else (self.config.coverage_window - len(self._window)) / len(self._window) * applicable
        if not applicable or known + to_come >= self.config.min_reward_coverage * (applicable + to_come):
            return
        judge = self.tools.judge
        why = f"; the judge's last failure: {judge.last_failure}" if judge is not None and judge.last_failure else ""
        error = Unavailable if judge is None else JudgeUnavailable
        raise error(
            f"correctness is known for {known} of the last {applicable} completions, below grpo.min_reward_coverage = "
            f"{self.config.min_reward_coverage:g}{why}; training on would learn from form, try again when the service answers"
        )

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
            self._held = held = _Batch(given, self._score_all(self._samples(completions, columns)))
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
                _text(completion), self.tools.format, tests(at), _cell(columns, "func_name", at) or None, _cell(columns, "statement", at)
            )
            for at, completion in enumerate(completions)
        ]

    def _score_all(self, samples: list[Sample]) -> dict[str, Scores]:
        judging = [next((name for name in self._correctness if REWARDS[name].applies(sample)), None) for sample in samples]
        table: dict[str, Scores] = {name: [None] * len(samples) for name in self.names}
        for name in self.names:
            chosen = [at for at in range(len(samples)) if REWARDS[name].kind == "format" or judging[at] == name]
            scores = REWARDS[name].score([samples[at] for at in chosen], self.tools) if chosen else []
            for at, score in zip(chosen, scores, strict=True):
                table[name][at] = score
                self._unknown[name] += score is None
        known = [None if name is None else table[name][at] is not None for at, name in enumerate(judging)]
        self._apply_policy(table, known)
        return table

    def _apply_policy(self, table: dict[str, Scores], known: list[bool | None]) -> None:
        """Mend `table` where correctness is unknown (`known` False) or no correctness reward applies (None)."""
        everywhere, start = _gather(known)
        self._window.append((everywhere.count(True), len(everywhere) - everywhere.count(None)))
        size = self.config.num_generations
        for at, row in enumerate(known):
            group = (start + at) // size * size
            if row is None and not self.config.allow_format_only:
                dropped = self.names
            elif self.config.none_policy == "completion":
                dropped = self.names if row is False else ()
            else:
                dropped = tuple(self._correctness) if False in everywhere[group : group + size] else ()
            for name in dropped:
                table[name][at] = None


def _gather(known: list[bool | None]) -> tuple[list[bool | None], int]:
    """`known` of all processes in rank order, and where ours begins: a group of TRL's may span processes."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return known, 0
    parts: list[list[bool | None]] = [[] for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather_object(parts, known)
    return list(chain.from_iterable(parts)), sum(map(len, parts[: torch.distributed.get_rank()]))


def _cell(columns: Mapping[str, Any], name: str, at: int) -> Any:
    values = columns.get(name)
    return None if values is None else values[at]


def _text(completion: Any) -> str:
    """A completion's text: TRL gives strings, or lists of chat messages for conversational prompts."""
    if isinstance(completion, str):
        return completion
    return "".join(message.get("content") or "" for message in completion)
