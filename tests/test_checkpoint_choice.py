"""The adapter that is kept is the best one's, whatever interrupted the run, and looking for it changes nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gwen25 import checkpoint_choice, modeling, packing, stop_rate
from gwen25.chat import problem_messages
from gwen25.checkpoint_choice import Choice
from gwen25.data import Problem
from gwen25.errors import BadInput
from gwen25.job import Input, Job
from gwen25.pipelines import sft
from gwen25.stage import keyed_section
from tests.pipelines import training_jobs as jobs

# the rate ruins what step 2 had learned, so that the last step is not the best one
BEST = {"sft__checkpoint_choice": "heldout_loss", "sft__max_steps": 6, "sft__save_steps": 2, "sft__warmup_steps": 0}
RUINOUS = {"sft__learning_rate": 0.05, "sft__lr_scheduler_type": "constant", "sft__lora_dropout": 0.1}


@pytest.fixture
def make(tmp_path: Path, tiny_model: Path):
    data = jobs.dataset(tmp_path / "dataset")

    def make(name: str, dataset: Input = data, **overrides: object) -> Job:
        section = jobs.config(**{**BEST, **RUINOUS, **overrides}).sft
        return jobs.job("sft", tmp_path / name, section, tiny_model, {"dataset": dataset}, micro_batch=8)

    return make


def looked_at(job: Job) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (job.aside / "checkpoints" / "choices.jsonl").read_text().splitlines()]


def test_the_best_checkpoint_is_kept_and_looking_changes_nothing(make) -> None:
    job, last = make("best"), make("last", sft__checkpoint_choice="last")
    chosen, plain = sft.run(job), sft.run(last)
    rows = looked_at(job)
    assert [row["step"] for row in rows] == [2, 4, 6]
    best = min(rows, key=lambda row: row["heldout_loss"])
    assert best["step"] < 6, "the last step is the best: this test would prove nothing"
    assert chosen.facts["sft"]["checkpoint"] == {"choice": "heldout_loss", "looked_at": 3, **best}
    assert chosen.metrics["heldout_loss"] == best["heldout_loss"]  # measured again on what is published
    assert plain.metrics["heldout_loss"] == rows[-1]["heldout_loss"] and "checkpoint" not in plain.facts["sft"]
    assert jobs.losses(job) == jobs.losses(last)
    kept = modeling.read_adapter(job.aside / "checkpoints" / f"best-{best['step']}")
    assert all(kept[name].equal(tensor) for name, tensor in modeling.read_adapter(job.payload).items())
    assert len(list((job.aside / "checkpoints").glob("best-*"))) == 1


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param("in a step", marks=pytest.mark.slow),
        "between a checkpoint and its look",
        pytest.param("after the last step", marks=pytest.mark.slow),
    ],
)
def test_an_interruption_changes_no_choice(make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    straight, job = make("straight"), make("interrupted")
    result = sft.run(straight)
    if moment == "in a step":
        jobs.die(sft.run, job, 6, tmp_path / "faults", monkeypatch)
    elif moment == "after the last step":
        with monkeypatch.context() as patch:
            patch.setattr(Choice, "finish", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                sft.run(job)
    else:
        consider = Choice.consider
        with monkeypatch.context() as patch:
            patch.setattr(Choice, "consider", lambda self, model, step: 1 / 0 if step == 4 else consider(self, model, step))
            with pytest.raises(ZeroDivisionError):
                sft.run(job)
        assert [row["step"] for row in looked_at(job)] == [2]
    assert sft.run(job) == result and jobs.files(job.payload) == jobs.files(straight.payload)
    assert looked_at(job) == looked_at(straight)


MODEL = SimpleNamespace(training=True, train=lambda mode: None)


@pytest.fixture
def no_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model is its step's number, and its adapter an empty file."""
    monkeypatch.setattr(modeling, "adapter_state", lambda model: {})
    monkeypatch.setattr(modeling, "write_tensors", lambda tensors, file: file.touch())
    monkeypatch.setattr(modeling, "restore_adapter", lambda model, folder: None)


def looking(job: Job, *scores: dict[str, float]) -> Choice:
    """A choice that has looked at steps 2, 4, ... of these scores."""
    found = iter(scores)
    made = Choice(job, lambda: dict(next(found)))
    for step in range(2, 2 * len(scores) + 1, 2):
        made.look(MODEL, SimpleNamespace(global_step=step, max_steps=100))
    return made


def finished(made: Choice, steps: int) -> dict[str, Any]:
    accelerator = SimpleNamespace(unwrap_model=lambda model: model, wait_for_everyone=lambda: None)
    return made.finish(SimpleNamespace(accelerator=accelerator, model=MODEL), steps)


def test_deleting_the_checkpoints_begins_anew(make, no_adapter: None) -> None:
    """As the message about another number of processes says: no step is taken for seen whose adapter is gone."""
    job = make("job")
    looking(job, {"heldout_loss": 1.0})
    shutil.rmtree(job.aside / "checkpoints")
    assert not [file for file in job.aside.rglob("*") if "choice" in file.name]
    again = looking(job, {"heldout_loss": 3.0}, {"heldout_loss": 2.0})
    assert [row["heldout_loss"] for row in again.seen] == [3.0, 2.0] == [row["heldout_loss"] for row in looked_at(job)]


def test_a_line_that_a_loss_of_power_cut_off_is_not_written_on(make, no_adapter: None) -> None:
    job = make("job")
    looking(job, {"heldout_loss": 1.0})
    with (job.aside / "checkpoints" / "choices.jsonl").open("a") as out:
        out.write('{"step": 4, "held')
    again = Choice(job, lambda: {"heldout_loss": 2.0})
    again.look(MODEL, SimpleNamespace(global_step=4, max_steps=100))
    assert [row["step"] for row in looked_at(job)] == [2, 4]


def test_a_line_comes_after_its_adapter_is_on_the_disk(make, no_adapter: None, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed = list[str]()
    monkeypatch.setattr(checkpoint_choice, "flush", lambda path: flushed.append(path.name))
    looking(make("job"), {"heldout_loss": 1.0})
    assert flushed == ["adapter_model.safetensors.part", "best-2", "choices.part", "checkpoints"]
    monkeypatch.setattr(checkpoint_choice, "flush", lambda path: 1 / 0)
    job = make("dies")
    with pytest.raises(ZeroDivisionError):
        looking(job, {"heldout_loss": 1.0})
    assert not Choice(job, dict).seen and not list((job.aside / "checkpoints").rglob(modeling.ADAPTER_WEIGHTS))


def test_a_loss_that_is_no_number_is_the_worst_and_kills_nothing(make, no_adapter: None) -> None:
    nan, inf = float("nan"), float("inf")
    job = make("job")
    made = looking(job, {"heldout_loss": nan}, {"heldout_loss": 9.0}, {"heldout_loss": inf})
    assert [row["heldout_loss"] for row in looked_at(job)] == [None, 9.0, None] and Choice(job, dict).best() == made.best()
    assert finished(made, 6) == {"choice": "heldout_loss", "looked_at": 3, "step": 4, "heldout_loss": 9.0}
    with pytest.raises(BadInput, match=r"sft: the held-out loss is no number at any of 2 checkpoints: lower sft.learning_rate"):
        finished(looking(make("none"), {"heldout_loss": nan}, {"heldout_loss": nan}), 4)


SECOND = """
import json, sys
import torch
from types import SimpleNamespace
from pathlib import Path
from gwen25 import modeling
from gwen25.checkpoint_choice import Choice
rank, folder = int(sys.argv[1]), Path(sys.argv[2])
torch.distributed.init_process_group("gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=2)
modeling.adapter_state = lambda model: {}
job = SimpleNamespace(aside=folder, config=SimpleNamespace(save_steps=2), say=lambda text: None)
choice = Choice(job, lambda: {"heldout_loss": 1.0, **({"pass_rate": 0.5} if rank == 0 else {})})
choice.look(SimpleNamespace(training=True, train=lambda mode: None), SimpleNamespace(global_step=2, max_steps=9))
print(json.dumps(choice.seen))
"""


@pytest.mark.slow
def test_of_several_processes_the_first_judges_for_all(tmp_path: Path) -> None:
    ranks = [
        subprocess.Popen([sys.executable, "-c", SECOND, rank, tmp_path], env={**os.environ, "RANK": rank}, stdout=subprocess.PIPE)
        for rank in ("0", "1")
    ]
    told = [json.loads(rank.communicate(timeout=120)[0]) for rank in ranks]
    assert told == [[{"step": 2, "heldout_loss": 1.0, "pass_rate": 0.5}]] * 2


def test_only_the_first_process_runs_programs(make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss is all processes' together; a program's answer is the first one's."""
    run = list[bool]()
    monkeypatch.setattr(checkpoint_choice, "pass_rate", lambda *_, **__: run.append(first) or 0.25)
    monkeypatch.setattr(packing, "not_packed", lambda model: nullcontext())
    inner = SimpleNamespace(get_base_model=lambda: None)
    for first in (True, False):
        trainer = SimpleNamespace(
            evaluate=lambda rows: {"eval_loss": 1.0},
            is_world_process_zero=lambda: first,  # noqa: B023  asked within this turn
            accelerator=SimpleNamespace(unwrap_model=lambda model: inner),
            model=None,
            args=SimpleNamespace(per_device_train_batch_size=1),
            add_callback=lambda callback: None,
        )
        job = make("first" if first else "other", sft__checkpoint_choice="heldout_execution")
        made = sft.make_choice(trainer, job, None, None, SimpleNamespace(dataset=None), [((), "", ())])
        assert made is not None and made.measure() == {"heldout_loss": 1.0, **({"pass_rate": 0.25} if first else {})}
    assert run == [True]


def test_programs_decide_first_and_the_loss_among_equals(make, no_adapter: None) -> None:
    scores = [{"heldout_loss": loss, "pass_rate": rate} for loss, rate in ((1.0, 0.1), (1.5, 0.2), (1.4, 0.2), (0.5, 0.0), (1.4, 0.2))]
    job = make("job")
    found = iter(scores)
    made = Choice(job, lambda: dict(next(found)))
    best = []
    for step in range(2, 12, 2):
        made.look(MODEL, SimpleNamespace(global_step=step, max_steps=10))
        best.append(made.best()["step"])
        assert [folder.name for folder in (job.aside / "checkpoints").glob("best-*")] == [f"best-{best[-1]}"]
    assert best == [2, 4, 6, 6, 6]
    assert Choice(job, lambda: {}).best() == made.best()  # another attempt knows it


def test_a_checkpoint_that_a_cancel_left_is_no_candidate(make) -> None:
    made = Choice(make("job"), lambda: 1 / 0)
    made.look(None, SimpleNamespace(global_step=3, max_steps=6))
    made.look(None, SimpleNamespace(global_step=0, max_steps=6))
    with pytest.raises(ZeroDivisionError):
        made.look(SimpleNamespace(training=True), SimpleNamespace(global_step=7, max_steps=7))  # the last one is, whatever its number


def test_the_key_names_the_steps_only_where_one_of_them_is_chosen(make) -> None:
    def key(**overrides: object) -> dict[str, Any]:
        return keyed_section(make("job", **overrides).config.model_dump(mode="json"))

    last = key(sft__checkpoint_choice="last")
    assert not {"checkpoint_choice", "choice_max_tokens", "save_steps"} & last.keys()
    assert key()["checkpoint_choice"] == "heldout_loss" and key()["save_steps"] == 2
    assert key(sft__choice_max_tokens=7) == key() and key(sft__choice_max_tokens=7, sft__checkpoint_choice="last") == last
    programs = {"sft__checkpoint_choice": "heldout_execution"}
    assert key(sft__choice_max_tokens=7, **programs) == {**key(**programs), "choice_max_tokens": 7}


def test_without_held_out_rows_there_is_nothing_to_choose_by(make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told before the base is loaded."""
    monkeypatch.setattr(sft, "make_trainer", lambda *_: pytest.fail("the base is loaded"))
    statements = make("programs", sft__checkpoint_choice="heldout_execution")
    with pytest.raises(BadInput, match="needs held-out statements with examples, and there are none"):
        sft.run(statements)
    with pytest.raises(BadInput, match=r"sft.checkpoint_choice=heldout_loss needs held-out rows; raise dataset.heldout_fraction"):
        sft.run(make("job", dataset=jobs.dataset(tmp_path / "none", heldout=0)))


STATEMENT = "Print the sum of two integers.\n\nExample\n\nInput\n\n2 3\n\nOutput\n\n5\n\n"


def heldout(file: Path, *statements: str) -> Path:
    rows = [{"id": str(at), "messages": problem_messages(Problem(str(at), text, ()))} for at, text in enumerate(statements)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_held_out_statements_with_examples_are_asked_once_each(tmp_path: Path) -> None:
    several = STATEMENT + "If there are several answers, print any of them."
    asked = checkpoint_choice.problems(heldout(tmp_path / "heldout.jsonl", STATEMENT, "No example.", STATEMENT, several))
    ((_, statement, tests),) = asked
    assert statement == STATEMENT.strip() and [(test.input, test.output) for test in tests] == [("2 3\n", "5\n")]
    with pytest.raises(BadInput, match="needs held-out statements with examples, and there are none"):
        checkpoint_choice.problems(heldout(tmp_path / "none.jsonl", "No example."))


def test_what_is_run_decides(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Right, wrong, without a program, cut off in its reasoning: one of four is solved."""
    tokenizer = modeling.load_tokenizer(tiny_model, jobs.FORMAT)
    right, wrong = ("print(sum(map(int, input().split())))", "print(6)")
    texts = [f"{jobs.FORMAT.answer('Add.', code)}<|im_end|>{code}" for code in (right, wrong)]
    texts += ["No program.</think>\n\nSorry.<|im_end|>", f"A draft:\n\n```python\n{right}\n```\n"]
    written = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    monkeypatch.setattr(stop_rate, "write_out", lambda *_: written)
    asked = checkpoint_choice.problems(heldout(tmp_path / "heldout.jsonl", STATEMENT)) * 4
    limits = {"max_tokens": 64, "room": 512, "workers": 1}
    assert checkpoint_choice.pass_rate(None, tokenizer, jobs.FORMAT, asked, **limits) == 0.25


def test_programs_of_a_packed_run_are_sampled_and_judged(make, tmp_path: Path) -> None:
    data = jobs.dataset(tmp_path / "asked")
    rows = [json.loads(line) for line in (data.payload / "heldout.jsonl").read_text().splitlines()]
    rows[0]["messages"] = problem_messages(Problem("row", STATEMENT, ()))
    (data.payload / "heldout.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ask = {"sft__checkpoint_choice": "heldout_execution", "sft__packing": True, "sft__choice_max_tokens": 24, "sft__max_steps": 2}
    job = make("job", dataset=data, **ask)
    kept = sft.run(job).facts["sft"]["checkpoint"]
    assert kept == {"choice": "heldout_execution", "looked_at": 1, **looked_at(job)[0]} and kept["pass_rate"] == 0.0
