"""The runner of `gpu-check`: whatever ends a row is that row's outcome, and the next one follows."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gwen25 import preflight
from gwen25.checks import gpu
from gwen25.gpu_check import BUDGET, ROWS, Outcome, Row, Setting, child, runner
from gwen25.gpu_check.__main__ import COLUMNS, chosen, line, main


def row(does: str, seconds: float = 20, **more: object) -> Row:
    return Row(does, f"tests.gpu_check.rows:{does}", seconds, **more)  # type: ignore[arg-type]


@pytest.fixture
def setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setting:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    return Setting("cpu", "tiny", str(tmp_path))


@pytest.mark.parametrize(
    ("does", "status", "said"),
    [
        ("well", "ok", "well on cpu"),
        ("lacks", "missing", "a GPU of 40 GiB"),
        ("wrong", "failed", "ValueError: off by 0.5"),
        ("memory", "out of memory", "Tried to allocate 20.00 GiB"),
        ("segfault", "failed", "killed by SIGSEGV; its last words: about to fall"),
        ("leaves", "failed", "ended with status 3; its last words: none"),
        ("writes_nonsense", "failed", "ended with status 0"),
        ("not_there", "failed", "AttributeError"),
    ],
)
def test_an_end_is_told(setting: Setting, monkeypatch: pytest.MonkeyPatch, does: str, status: str, said: str) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", "a-key-that-must-not-be-shown")
    outcome = runner.attempt(row(does), setting, 20)
    assert outcome.status == status and said in outcome.said and "must-not-be-shown" not in outcome.said
    assert outcome.numbers == ({"value": 7} if does == "well" else {}), "what was not measured is absent"


def test_a_row_that_hangs_ends_with_all_it_started(setting: Setting) -> None:
    started = time.monotonic()
    outcome = runner.attempt(row("hangs"), setting, 1.5)
    assert outcome.status == "timeout" and "waiting for ever" in outcome.said and time.monotonic() - started < 8
    with pytest.raises(ProcessLookupError):
        os.kill(int(Path(setting.folder, "child").read_text()), 0)


def test_the_next_row_follows_and_one_that_stood_on_a_failure_says_so(setting: Setting) -> None:
    rows = [row("segfault"), row("well"), row("lacks", after="segfault"), row("wrong", after="lacks")]
    found = [result.outcome for result in runner.run(rows, setting)]
    assert [outcome.status for outcome in found] == ["failed", "ok", "missing", "missing"]
    assert found[2].said == "the row `segfault` (failed)" and found[3].said == "the row `lacks` (missing)"


def test_what_lacks_a_package_says_which_without_a_process(setting: Setting) -> None:
    [result] = runner.run([row("well", packages=("json", "no_such_package_here"))], setting)
    assert result.outcome == Outcome("missing", "not installed: no_such_package_here; pip install no_such_package_here")
    assert not list(Path(setting.folder).iterdir())


def test_limits_grow_by_what_was_left_and_end_at_twice_their_own(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []

    def attempt(row: Row, setting: Setting, seconds: float) -> Outcome:
        given.append(seconds)
        return Outcome("ok", "")

    monkeypatch.setattr(runner, "attempt", attempt)
    list(runner.run([row("well", 10), row("well", 20), row("well", 30), row("well", 90)], setting))
    assert given == pytest.approx([10, 30, 60, 150], abs=0.5)


def test_a_row_that_takes_more_than_it_may_takes_nothing_from_the_next(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []

    def slow(row: Row, setting: Setting, seconds: float) -> Outcome:
        given.append(seconds)
        time.sleep(0.2)  # twice what its row may take
        return Outcome("ok", "")

    monkeypatch.setattr(runner, "attempt", slow)
    list(runner.run([row("well", 0.1), row("well", 0.3)], setting))
    assert given[1] == 0.3


def test_without_unsloth_all_rows_end_within_the_budget_though_each_takes_all_that_it_is_given(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = [0.0]

    def attempt(row: Row, setting: Setting, seconds: float) -> Outcome:
        ends.append(ends[-1] + seconds)
        return Outcome("ok", "")

    monkeypatch.setattr(runner, "time", SimpleNamespace(monotonic=lambda: ends[-1]))
    monkeypatch.setattr(runner, "missing", lambda row, setting: "not installed: unsloth" if "unsloth" in row.packages else None)
    monkeypatch.setattr(runner, "attempt", attempt)
    list(runner.run(ROWS, setting))
    assert len(ends) == len(ROWS) and ends[-1] <= BUDGET


@pytest.mark.slow  # 6 s: four processes that import the stages' machinery
def test_a_backward_pass_without_a_deterministic_kernel_is_tried_once_more_in_a_new_process(setting: Setting) -> None:
    outcome = runner.attempt(row("again"), setting, 20)
    assert outcome.status == "ok" and "not deterministic here: cumsum has none" in outcome.said
    tries = Path(setting.folder, "again", "tries")
    assert len(tries.read_text().split()) == 2
    tries.unlink()
    Path(setting.folder, "again", "aside", "not-deterministic").unlink()
    assert runner.attempt(row("again", profile="never"), setting, 20).status == "failed" and len(tries.read_text().split()) == 2


# the table


def test_all_rows_together_fit_eight_minutes_and_leave_room_for_their_ends() -> None:
    *ours, last = ROWS
    assert "unsloth" in last.packages, "the last: where it is absent what it may take is no other row's"
    assert not [one.name for one in ours if "unsloth" in one.packages]
    assert sum(one.seconds for one in ours) + len(ROWS) * runner.GRACE_SECONDS <= BUDGET == 480
    assert len({one.name for one in ROWS}) == len(ROWS)
    names = [one.name for one in ROWS]
    assert all(one.after is None or names.index(one.after) < number for number, one in enumerate(ROWS))


def test_each_rows_function_is_there() -> None:
    from importlib import import_module

    for one in ROWS:
        module, _, function = one.does.partition(":")
        assert callable(getattr(import_module(module), function))


def test_without_a_gpu_each_row_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    monkeypatch.setattr(preflight, "gpu_present", lambda: False)
    monkeypatch.setattr(gpu, "smi", lambda *_: None)
    file = tmp_path / "found.json"
    assert main(["--json", str(file)]) == 0
    said = capsys.readouterr().out.splitlines()
    for one in ROWS:
        assert sum("no CUDA device" in text and f" {one.name} " in text for text in said) == 1
    found = json.loads(file.read_text())
    assert "torch" in found["machine"]["packages"] and found["machine"]["gpus"] == []
    assert found["device"] == "cuda" and [one["row"] for one in found["rows"]] == [one.name for one in ROWS]
    assert all(one["status"] == "missing" and one["numbers"] == {} for one in found["rows"])


def test_a_torch_without_cuda_says_so(tmp_path: Path) -> None:
    """A device file was there, and the torch that is installed cannot use it."""
    import torch

    if torch.cuda.is_available():
        pytest.skip("torch finds a GPU here")
    outcome = child.run(ROWS[0], Setting("cuda", "tiny", str(tmp_path)))
    assert outcome.status == "missing" and f"no CUDA device for torch {torch.__version__}" in outcome.said


@pytest.mark.parametrize(("ends", "status"), [("ok", 0), ("missing", 0), ("failed", 1), ("out of memory", 1), ("timeout", 1)])
def test_exit_status(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ends: Any, status: int) -> None:
    monkeypatch.setattr(runner, "attempt", lambda *_: Outcome(ends, "as scripted"))
    assert main(["--device", "cpu", "--shape", "tiny", "--keep", str(tmp_path)]) == status


@pytest.mark.parametrize(
    "bad", [["--only", "sft"], ["--device", "cpu"], ["--json", "/no/such/folder/x.json"], ["--keep", "/dev/null/x"]], ids=str
)
def test_a_bad_option_is_one_line(bad: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(bad) == 2
    said = capsys.readouterr()
    assert not said.out and said.err.startswith("gpu-check: ") and said.err.count("\n") == 1


def test_nothing_is_left_behind(setting: Setting, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GWEN25_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("gwen25.gpu_check.__main__.ROWS", (row("well"),))
    assert main(["--device", "cpu", "--shape", "tiny"]) == 0
    assert [path for path in (tmp_path / "home").rglob("*") if path.is_file()] == [] and not list((tmp_path / "home").glob("gpu-check-*"))


def test_a_named_row_brings_what_it_stands_on() -> None:
    assert [one.name for one in chosen(["vllm", "bfloat16"])] == ["bfloat16", "weights", "vllm"] and len(chosen([])) == len(ROWS)


def test_a_long_line_is_wrapped() -> None:
    result = runner.Result(ROWS[0], Outcome("out of memory", "word " * 80), 123.4)
    assert all(len(text) <= COLUMNS for text in line(result).splitlines()) and "123.4 s" in line(result)
