"""Which step's adapter SFT keeps: the last one's, or that of the checkpoint which did best on held-out rows.

    choice = Choice(job, measure); trainer.add_callback(choice.callback())      looks at each checkpoint as it is saved
    steps = training.train(trainer, job)
    facts = choice.finish(trainer, steps)                                       the best one's numbers are in the model now

`heldout_loss`: the lowest loss. `heldout_execution`: the most held-out problems solved, of equals the lowest loss. Candidates are the
steps that save_steps names, and the last; so save_steps is part of the key then. A checkpoint that a cancel leaves behind is none, or an
interrupted run would choose from others. Looking changes no random state: with a choice or without, the same adapters are trained.

    aside/checkpoints/choices.jsonl   a line for each step that was looked at; no step is looked at twice, in whichever attempt
    aside/checkpoints/best-STEP/      the best so far

Both lie with the checkpoints and go with them: once the artifact is published, or where somebody deletes them to begin anew. A score
that is no number (NaN) is null in its line and counts as the worst.
"""

from __future__ import annotations

import json
import math
import os
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gwen25 import chat, modeling, sandbox, stop_rate, training
from gwen25.artifacts import flush
from gwen25.chat import ChatFormat
from gwen25.data import Message, TestCase, read_jsonl
from gwen25.errors import BadInput
from gwen25.job import Job
from gwen25.mining import accepts_several_outputs, mine_examples
from gwen25.sandbox.compare import tolerance_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROBLEMS: Final = 32  # held-out problems at most; with as many, one more or less is three points
Scores = dict[str, float]  # heldout_loss, and pass_rate where programs were run: by the first process alone
Asked = tuple[Sequence[Message], str, tuple[TestCase, ...]]  # prompt, statement, tests


class Choice:
    """What was looked at so far, and the best of it on disk. `measure` scores the model as it is now."""

    def __init__(self, job: Job, measure: Callable[[], Scores]):
        self.job, self.measure = job, measure
        self.file = training.checkpoints(job) / "choices.jsonl"
        self.seen: list[dict[str, Any]] = training.read_metrics(self.file)

    def callback(self) -> Any:
        from transformers import TrainerCallback

        choice = self

        class Look(TrainerCallback):
            def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
                choice.look(model, state)  # a death may have come between a checkpoint and its look

            def on_save(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
                choice.look(model, state)

        return Look()

    def look(self, model: Any, state: Any) -> None:
        step = int(state.global_step)
        if step and (step % self.job.config.save_steps == 0 or step >= state.max_steps):
            self.consider(model, step)

    def consider(self, model: Any, step: int) -> None:
        """Score this step and keep its adapter where it is the best so far; nothing where that was done already."""
        if any(row["step"] == step for row in self.seen):
            return
        with _undisturbed(model):
            row = _of_the_first({"step": step, **{name: _finite(value) for name, value in self.measure().items()}})
        before = self.best()
        self.seen.append(row)
        self.job.say(f"step {step}: " + ", ".join(f"{name} {_told(value)}" for name, value in row.items() if name != "step"))
        if not _first():
            return
        if self.best() is row:
            self._keep(model, row)
        self._write()  # after the adapter: a line says that its numbers are there
        if before is not None and self.best() is row:
            shutil.rmtree(self._folder(before), ignore_errors=True)

    def best(self) -> dict[str, Any] | None:
        return min(self.seen, key=_rank, default=None)

    def finish(self, trainer: Any, steps: int) -> dict[str, Any]:
        """Put the best one's numbers into the model; returns what was chosen, of how many. Raises BadInput where no loss is a number."""
        model = trainer.accelerator.unwrap_model(trainer.model)
        self.consider(model, steps)
        best = self.best()
        assert best is not None
        if all(row["heldout_loss"] is None for row in self.seen):
            raise BadInput(
                f"{self.job.stage}: the held-out loss is no number at any of {len(self.seen)} checkpoints: lower "
                f"{self.job.stage}.learning_rate or max_grad_norm, or take another dtype"
            )
        trainer.accelerator.wait_for_everyone()
        if best["step"] != steps:
            modeling.restore_adapter(model, self._folder(best))
        self.job.say(f"checkpoint_choice: step {best['step']} of {steps} is kept, of {len(self.seen)} looked at")
        return {"choice": self.job.config.checkpoint_choice, "looked_at": len(self.seen), **best}

    def _keep(self, model: Any, row: dict[str, Any]) -> None:
        """The adapter on the disk, whole, before its line is."""
        folder = self._folder(row)
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"{modeling.ADAPTER_WEIGHTS}.part"
        modeling.write_tensors(modeling.adapter_state(model), part)
        flush(part)
        part.replace(folder / modeling.ADAPTER_WEIGHTS)
        flush(folder)

    def _write(self) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        part = self.file.with_suffix(".part")
        part.write_text("".join(json.dumps(row, allow_nan=False) + "\n" for row in self.seen), encoding="utf-8")
        flush(part)
        part.replace(self.file)
        flush(self.file.parent)

    def _folder(self, row: dict[str, Any]) -> Path:
        return training.checkpoints(self.job) / f"best-{row['step']}"


def _rank(row: dict[str, Any]) -> tuple[float, float, int]:
    """The best first. A row without a loss, or without programs, has no number to win by."""
    loss, solved = row["heldout_loss"], row.get("pass_rate")
    return -(solved or 0.0), math.inf if loss is None else loss, row["step"]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _told(value: float | None) -> str:
    return "no number" if value is None else f"{value:.4g}"


def _first() -> bool:
    """Whether this process writes for all."""
    return os.environ.get("RANK", "0") == "0"


def _of_the_first(row: dict[str, Any]) -> dict[str, Any]:
    """The first process's row in all of them: it alone runs programs, and a limit of time may be met by one and missed by another."""
    import torch

    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return row
    told = [row]
    torch.distributed.broadcast_object_list(told, src=0)
    return told[0]


@contextmanager
def _undisturbed(model: Any) -> Iterator[None]:
    """The random numbers that training draws next, and the model's mode, are as if nothing had been looked at."""
    import numpy
    import torch

    python, arrays, was = random.getstate(), numpy.random.get_state(), model.training
    with torch.random.fork_rng():
        yield
    random.setstate(python)
    numpy.random.set_state(arrays)
    model.train(was)


# --------------------------------------------------------------------------------------------------------------- execution


def problems(file: Path) -> list[Asked]:
    """Prompt, statement and tests of the held-out rows whose statement shows examples that one output answers, each once.

    Raises BadInput where there are none, SandboxUnavailable where programs cannot be run apart.
    """
    sandbox.probe()
    found: dict[str, Asked] = {}
    for _, row in read_jsonl(file):
        statement = _statement(row["messages"])
        if statement is not None and not accepts_several_outputs(statement) and (tests := mine_examples(statement)):
            found.setdefault(statement, (row["messages"], statement, tests))
    if not found:
        raise BadInput(
            f"{file}: sft.checkpoint_choice=heldout_execution needs held-out statements with examples, and there are none; "
            "raise dataset.heldout_fraction, or take heldout_loss"
        )
    return list(found.values())[:PROBLEMS]


def _statement(messages: Sequence[Message]) -> str | None:
    """What a prompt for a program that reads its input was made of; None for another prompt."""
    before, _, after = chat.prompt_text("problem_stdin").partition("{statement}")
    text = messages[-1]["content"]
    return text[len(before) : len(text) - len(after)] if text.startswith(before) and text.endswith(after) else None


def pass_rate(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    format: ChatFormat,
    asked: Sequence[Asked],
    *,
    max_tokens: int,
    room: int,
    workers: int,
) -> float:
    """Share of the problems that the model's greedy answer solves. `room`: tokens in memory at once; one answer may exceed it.

    An answer that hands in no program, such as one that is cut off in its reasoning, solves nothing. Raises SandboxUnavailable where
    programs cannot be run apart.
    """
    starts = [
        stop_rate.Start(tokenizer(format.render(messages), add_special_tokens=False)["input_ids"], max_tokens) for messages, _, _ in asked
    ]
    made = stop_rate.write_out(model, tokenizer, format, starts, room)
    programs = [format.program(str(tokenizer.decode(_to_the_stop(ids, modeling.stop_ids(tokenizer, format))))) for ids in made]
    jobs = [
        sandbox.Job(program, tests, tolerance=tolerance_of(statement))
        for program, (_, statement, tests) in zip(programs, asked, strict=True)
        if program is not None
    ]
    return sum(settled.status == "passed" for settled in sandbox.grade_surely(jobs, workers=workers)) / len(asked)


def _to_the_stop(ids: Sequence[int], stops: Sequence[int]) -> list[int]:
    return list(ids[: next((at for at, token in enumerate(ids) if token in stops), len(ids))])
