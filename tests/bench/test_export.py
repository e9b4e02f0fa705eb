"""The bench of exports does the work it names, and says NO where a goal is missed. Its figures are not tested."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench import export, export_report, made_up
from bench.export_report import CONVERTER, COPY, NOTHING, OURS, PEFT, TORCH, Run
from gwen25.gguf_header import read_header
from tests.conftest import REPOSITORY


def runs(size: str = "0.5B", wall: float = 1.0, peak: int = 100) -> list[Run]:
    others = [(NOTHING, "", 0.1, 12), (TORCH, "", 4.0, 230), (COPY, "", 1.0, None)]
    held = [(OURS, work, wall, peak) for work in ("f16", "q8_0")] + [(CONVERTER, work, 4.0, 1100) for work in ("f16", "q8_0")]
    held += [(OURS, "merge", wall, 230 + peak), (PEFT, "merge", 2.0, 1500)]
    return [Run(0, size, what, work, seconds, seconds, mb and mb * 10**6, None) for what, work, seconds, mb in others + held]


def verdicts(given: list[Run]) -> list[str]:
    return [row[-1] for row in list(export_report._goals(given))[1:]]


def test_goals_are_met_and_missed() -> None:
    assert verdicts(runs()) == ["yes"] * 8
    assert verdicts(runs(wall=3.0)) == ["NO"] * 5 + ["yes"] * 3
    assert verdicts(runs(peak=220)) == ["yes"] * 5 + ["NO"] * 3
    assert verdicts(runs() + runs("3B"))[-3:] == ["yes"] * 3
    assert verdicts(runs() + runs("3B", peak=150))[-3:] == ["NO"] * 3


def test_the_tables_show_unequal_bytes_and_what_was_not_measured() -> None:
    shown = export_report.markdown({"CPU": "2"}, [run._replace(same=run.what != OURS) for run in runs()])
    assert "| f16 | llama.cpp's converter | 4.00 (4.00-4.00) | 4.00 (4.00-4.00) | 1100 (1100-1100) | 1088 (1088-1088) |" in shown
    assert shown.count("| NO |") == 3
    assert "| - | cp and fsync | 1.00 (1.00-1.00) | 1.00 (1.00-1.00) | - | - | - | - |" in shown


@pytest.fixture
def base(tmp_path: Path) -> Path:
    made_up.checkpoint("tiny", tmp_path / "base")
    return tmp_path / "base"


def test_a_contestant_works_and_tells_its_peak(base: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench.contestants", "gguf", str(base), str(tmp_path / "m.gguf"), "q8_0"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=60)
    assert 10_000_000 < json.loads(done.stdout)["peak"] < 200_000_000
    assert len(read_header(tmp_path / "m.gguf").tensors) == 26
    assert export._same_tail(tmp_path / "m.gguf", tmp_path / "m.gguf")
    other = bytearray((tmp_path / "m.gguf").read_bytes())
    other[-40] ^= 1
    (tmp_path / "other.gguf").write_bytes(other)
    assert not export._same_tail(tmp_path / "m.gguf", tmp_path / "other.gguf")


@pytest.mark.slow  # torch is imported three times: half a minute
def test_the_merge_is_measured_beside_peft(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export.main(["--sizes", "tiny", "--rounds", "1", "--only", "merge", "--work", str(tmp_path), "--json", str(tmp_path / "j")]) == 0
    assert "| merge | PEFT |" in capsys.readouterr().out
    held = [run for run in json.loads((tmp_path / "j").read_text())["runs"] if run["work"] == "merge"]
    assert {run["what"]: run["same"] for run in held} == {"ours": True, "peft": None}
    assert [entry.name for entry in tmp_path.iterdir()] == ["j"]
