"""The training rows, run on a CPU with the tiny model, each in its own process as the command does; and vLLM's where it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gwen25.config import VLLM_PYTHON
from gwen25.gpu_check import ROWS, Missing, Setting, beside, child, serving
from gwen25.gpu_check.__main__ import main

TRAINING = [row for row in ROWS if ".steps:" in row.does]
BESIDE = [row for row in ROWS if ".beside:" in row.does]
VLLM = ROWS[-1]


def run(tmp_path: Path, *options: str) -> tuple[int, list[dict[str, object]]]:
    file = tmp_path / "found.json"
    status = main(["--device", "cpu", "--shape", "tiny", "--json", str(file), *options])
    return status, json.loads(file.read_text())["rows"]


def test_a_cap_is_on_each_training_row_and_on_no_other() -> None:
    assert [(row.profile, row.cap_gib) for row in TRAINING] == [("a100", 40), ("a100", 40), ("t4", 15), ("t4", 15)]
    assert [(row.profile, row.cap_gib) for row in BESIDE] == [("a100", 40)] * 2, "as the row that they are told beside"
    assert all(row.cap_gib is None for row in ROWS if row not in TRAINING + BESIDE)


@pytest.mark.slow  # 100 s: four processes that import TRL and make two steps each
def test_training_rows_measure_a_peak_beside_the_estimate(tmp_path: Path) -> None:
    status, rows = run(tmp_path, *(word for row in TRAINING for word in ("--only", row.name)))
    assert status == 0 and [row["status"] for row in rows] == ["ok"] * 5, rows
    for row in rows[1:]:
        numbers = row["numbers"]
        assert isinstance(numbers, dict)
        assert numbers["ratio"] == pytest.approx(numbers["peak_bytes"] / numbers["estimated_bytes"]) and 0.5 < numbers["ratio"] < 2
        assert "cap_bytes" not in numbers and "peak_allocated_bytes" not in numbers and "no cap on a CPU" in str(row["said"])
        assert ("tokens_per_second" in numbers) == str(row["row"]).startswith("sft")


@pytest.mark.slow  # 60 s: two processes that import TRL and make three steps each
def test_trls_own_trainer_takes_the_same_rows_and_is_told_beside_ours(tmp_path: Path) -> None:
    status, rows = run(tmp_path, "--only", "sft, a100", "--only", "sft, TRL", "--only", "sft, Unsloth")
    ours, theirs, unsloth = (row["numbers"] for row in rows[1:])
    assert status == 0 and isinstance(ours, dict) and isinstance(theirs, dict)
    assert theirs["ours_over_this_speed"] == pytest.approx(ours["tokens_per_second"] / theirs["tokens_per_second"])
    assert 0.5 < theirs["ours_over_this_peak"] < 2
    assert rows[-1]["status"] == "missing" and "pip install unsloth" in str(rows[-1]["said"]) and unsloth == {}


def test_without_our_row_nothing_is_told_beside(tmp_path: Path) -> None:
    numbers = {"tokens_per_second": 7.0, "peak_bytes": 7}
    assert "run `sft, a100` too" in beside._beside(numbers, Setting("cpu", "tiny", str(tmp_path))) and len(numbers) == 2


def test_without_its_environment_vllm_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(serving.PYTHON, str(tmp_path / "no" / "python"))
    with pytest.raises(Missing, match="make vllm-env"):
        serving.colocate(VLLM, Setting("cpu", "tiny", str(tmp_path)))


@pytest.mark.parametrize(
    ("prints", "well", "said"),
    [
        ('echo \'{"equal": true, "slept": false, "tokens": 16, "version": "1"}\'; echo bye', True, "16 greedy tokens, twice the same"),
        (
            'echo \'{"equal": true, "slept": true, "tokens": 16, "version": "1", "awake_bytes": 4e10, "asleep_bytes": 1e9}\'',
            True,
            "40.0 GB awake, 1.0 asleep",
        ),
        ('echo \'{"equal": false, "slept": true, "tokens": 16, "version": "1"}\'', False, "another greedy answer"),
        ("echo no kernel image is available >&2; exit 1", False, "no kernel image"),
        ("echo '{broken'", False, "vLLM ended with status 0"),
    ],
)
def test_what_vllm_says_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, prints: str, well: bool, said: str) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{prints}\n")
    python.chmod(0o755)
    monkeypatch.setenv(serving.PYTHON, str(python))
    outcome = child.run(VLLM, Setting("cpu", "tiny", str(tmp_path)))
    assert outcome.status == ("ok" if well else "failed") and said in outcome.said


@pytest.mark.server
@pytest.mark.skipif(not VLLM_PYTHON.exists(), reason="no vLLM environment: make vllm-env")
def test_the_real_vllm_answers_the_same_twice(tmp_path: Path) -> None:
    status, rows = run(tmp_path, "--only", "vllm")
    assert status == 0 and rows[-1]["status"] == "ok", rows
