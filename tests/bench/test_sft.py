"""The bench of SFT counts, pairs and judges rightly, and does the work it names. Its figures are not tested."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench import sft, step_time, trainers
from bench.sft import PACKED, RANDOM, SORTED, Run


def test_a_batch_is_as_long_as_its_longest_row() -> None:
    assert sft.padded([3, 1, 2, 5, 4], 2) == 2 * 3 + 2 * 5 + 4
    assert sft.ceiling([7] * 12, 4) == 1.0
    assert sft.ceiling([1, 3], 2) == 6 / 4


def test_made_up_lengths_have_r1s_quantiles() -> None:
    lengths, source = trainers.lengths_of(None, 1000)
    assert "made up" in source and len(lengths) == 1000 and min(lengths) >= 400 and max(lengths) <= 32768
    for most, share in trainers.QUANTILES:
        assert sum(length <= most for length in lengths) / 1000 == pytest.approx(share, abs=0.002)
    # what was counted on the real rows: 1.74 and 2.05
    assert sft.ceiling(lengths, 4) == pytest.approx(1.74, abs=0.1) and sft.ceiling(lengths, 8) == pytest.approx(2.05, abs=0.15)


def test_lengths_of_the_real_rows_are_those_of_all(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainers, "_tokenized", lambda file, vocabulary: list(range(100, 40000, 100)))
    lengths, source = trainers.lengths_of(shared_data, 4)
    assert lengths == [4100, 12300, 20500, 28700] and source == "4 of 327 of R1's rows"


def runs(packed: float = 1.0, loss: float = 2.0) -> list[Run]:
    """Random batches compute twice as much in twice the time, sorted ones a tenth more; `packed`: seconds."""
    ways = ((RANDOM, 2000, 2.0, 2.0), (SORTED, 1100, 1.1, 2.0), (PACKED, 1000, packed, loss))
    return [Run(0, 8, way, 1000, computed, wall, wall, nats) for way, computed, wall, nats in ways]


def verdicts(given: list[Run], ceiling: float = 2.05) -> list[tuple[str, str]]:
    return [(row[-2], row[-1]) for row in list(sft._goals(given, {8: ceiling}))[1:]]


def test_goals_are_met_and_missed() -> None:
    assert verdicts(runs()) == [("yes", "yes")] * 2
    assert verdicts(runs(packed=1.14)) == [("yes", "yes")] * 2
    assert verdicts(runs(packed=1.2)) == [("NO", "yes")] * 2
    assert verdicts(runs(), ceiling=2.5) == [("NO", "yes"), ("yes", "yes")]  # the harder of the two ceilings
    assert verdicts(runs(loss=2.001)) == [("yes", "NO")] * 2


def test_a_cost_has_an_interval() -> None:
    share, low, high = step_time.overhead([1.01] * 20, [1.0] * 20)
    assert share == pytest.approx(0.01) and low == pytest.approx(0.01) and high == pytest.approx(0.01)
    noisy = step_time.overhead([1.0, 2.0] * 10, [2.0, 1.0] * 10)
    assert noisy[1] < noisy[0] < noisy[2]


def test_a_cost_that_falls_on_few_steps_is_counted() -> None:
    theirs, rare = [0.27] * 500, [0.27 + 0.4 * (step % 25 == 24) for step in range(500)]
    share, low, high = step_time.overhead(rare, theirs, block=25)
    assert share == low == high == pytest.approx(0.4 / 25 / 0.27), "each block has one"
    share, low, high = step_time.overhead(rare, theirs)
    assert share == pytest.approx(0.4 / 25 / 0.27) and low < share < high
    outlier = step_time.overhead([0.27] * 499 + [30.0], theirs, block=25)
    assert outlier[1] == pytest.approx(0, abs=1e-9) and outlier[2] > 0.4, "one of the machine's is seen in the interval"


def test_of_few_blocks_single_pairs_are_drawn() -> None:
    ours, theirs = [1.0, 1.2] * 20, [1.0] * 40
    assert step_time.overhead(ours, theirs, block=20) == step_time.overhead(ours, theirs)
    assert step_time.overhead(ours, theirs, block=5) != step_time.overhead(ours, theirs)


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (-0.003, 0.019, "held"),
        (-0.003, 0.038, "not shown"),
        (0.008, 0.07, "not shown"),
        (0.021, 0.07, "exceeded"),
        (0.0, 0.02, "not shown"),
    ],
)
def test_a_bound_is_held_or_exceeded_only_where_the_whole_interval_says_so(low: float, high: float, said: str) -> None:
    assert sft.verdict(low, high) == said


def test_costs_are_judged_by_their_intervals_and_trl_over_itself_must_be_nothing() -> None:
    def judged(ours: list[float], again: list[float], callbacks: float) -> list[str]:
        count = len(ours)
        steady = {"TRL": [[1.0, 1.0]] * count, sft.AGAIN: [[each, each] for each in again], "callbacks": [callbacks] * count}
        return [row[-1] for row in list(sft._costs({**steady, "ours": [[each, 1.01] for each in ours]}))[1:]]

    assert judged([1.01] * 20, [1.0] * 20, 0.001) == ["held", "held", "nothing", "nothing", "held"]
    assert judged([1.03] * 20, [1.0] * 20, 0.03) == ["exceeded", "held", "nothing", "nothing", "exceeded"]
    assert judged([0.9, 1.1] * 10, [1.0] * 20, 0.001) == ["not shown", "held", "nothing", "nothing", "held"]
    # the callbacks' own time is compared with no other trainer
    assert judged([1.01] * 20, [1.01] * 20, 0.001) == ["not shown", "not shown", "NOT NOTHING", "NOT NOTHING", "held"]
    rare = [([1.0] * (sft.SAVED - 1) + [1 + each * sft.SAVED]) * 10 for each in (0.01, 0.06)]  # on one step of each block
    assert [judged(each, [1.0] * len(each), 0.001)[0] for each in rare] == ["held", "exceeded"]


def test_each_contestant_goes_behind_each_other_equally_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    orders: list[list[str]] = []
    monkeypatch.setattr(sft, "_leg", lambda lengths, steps, base, work, names: orders.append(list(names)) or {})
    sft._cost([], 12, tmp_path, tmp_path / "cost")
    assert Counter(order[0] for order in orders) == {"ours": 2, "TRL": 2, sft.AGAIN: 2} and len(orders) == sft.LEGS
    behind = Counter((order[at - 1], order[at]) for order in orders for at in range(3))  # the first goes behind the last
    assert len(behind) == 6 and set(behind.values()) == {3}


def test_trl_called_directly_has_the_nodes_settings_and_nothing_of_ours_in_it(tmp_path: Path) -> None:
    base = trainers.base(tmp_path / "base")
    rows = trainers.rows_of([20, 30, 40, 50], tmp_path / "rows.arrow")
    section = {"per_device_train_batch_size": 4, "max_steps": 3, "max_length": 64, "save_steps": 25}
    made = [
        make(trainers.node(tmp_path / name, base, 4, **section), base, rows.dataset)
        for name, make in (("ours", trainers.ours), ("direct", trainers.direct))
    ]
    ours, direct = made
    settings = [{name: value for name, value in trainer.args.to_dict().items() if name != "output_dir"} for trainer in made]
    assert settings[0] == settings[1]
    shapes = [{name: (p.shape, p.dtype, p.requires_grad) for name, p in trainer.model.named_parameters()} for trainer in made]
    assert shapes[0] == shapes[1]
    loras = [trainer.model.peft_config["default"].to_dict() for trainer in made]
    assert {name for name in loras[0] if loras[0][name] != loras[1][name]} <= {"base_model_name_or_path", "target_modules"}
    assert set(loras[0]["target_modules"]) == set(loras[1]["target_modules"])
    assert type(direct).__module__.startswith("trl.") and type(direct.data_collator) is type(ours.data_collator)
    assert trainers.watch_of(ours) and not [
        each for each in direct.callback_handler.callbacks if type(each).__module__.startswith("gwen25")
    ]
    assert not [module for module in direct.model.modules() if type(module).__module__.startswith("gwen25") or module._forward_pre_hooks]


class Loop:
    """A trainer's loop: it says who is at work, and takes its time."""

    def __init__(self, name: str, steps: int, log: list[str], work: Callable[[], object] = lambda: None):
        self.name, self.steps, self.log, self.work = name, steps, log, work
        self.callback_handler = SimpleNamespace(callbacks=[])

    def train(self) -> None:
        for _ in range(self.steps):
            for callback in self.callback_handler.callbacks:
                callback.on_step_begin(None, None, None)
            self.log.append(self.name)
            self.work()
        for callback in self.callback_handler.callbacks:
            callback.on_train_end(None, None, None)


def test_trainers_take_turns_step_by_step_and_one_works_at_a_time() -> None:
    log: list[str] = []
    at_work, together = threading.Lock(), []

    def work() -> None:
        together.append(at_work.acquire(blocking=False))
        at_work.release()

    loops = {name: Loop(name, steps, log, work) for name, steps in (("a", 3), ("b", 5), ("c", 3))}
    spans = step_time.in_turn({name: (loop, loop.train) for name, loop in loops.items()})
    assert log == ["a", "b", "c"] * 3 + ["b", "b"] and all(together)
    assert {name: len(taken) for name, taken in spans.items()} == {"a": 3, "b": 5, "c": 3}


def test_what_a_callback_takes_is_counted_by_itself() -> None:
    callback = SimpleNamespace(on_log=lambda text, times: sum(range(times)), on_save=lambda: 1)
    taken = step_time.timed(callback, ["on_log"])
    assert callback.on_log("a", times=200_000) == 199_999 * 100_000 and callback.on_save() == 1
    assert len(taken) == 1 and taken[0] > 0


def test_a_trainer_that_fails_ends_the_bench() -> None:
    log: list[str] = []
    loops = {"a": Loop("a", 3, log), "b": Loop("b", 3, log, lambda: 1 / 0)}
    with pytest.raises(ZeroDivisionError):
        step_time.in_turn({name: (loop, loop.train) for name, loop in loops.items()})


@pytest.mark.slow  # 21 trainers of a tiny model
def test_the_quick_run_trains_compares_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sft.main(["--quick", "--json", str(tmp_path / "all.json")]) == 0
    shown = capsys.readouterr().out
    assert "| 4 | packed | 1.00 |" in shown and "### A step of the node, and of TRL again, over TRL's" in shown
    held: dict[str, Any] = json.loads((tmp_path / "all.json").read_text())
    losses = [run["loss"] for run in held["packing"]]
    assert len(losses) == 3 and max(losses) - min(losses) <= sft.TOLERANCE
    # of 8 steps in each of 6 legs the first five and the last are left out
    assert {name: len(taken) for name, taken in held["cost"].items()} == dict.fromkeys(["ours", "TRL", sft.AGAIN, "callbacks"], 12)
    assert all(0 < seconds < 1 for seconds in held["cost"]["callbacks"])
