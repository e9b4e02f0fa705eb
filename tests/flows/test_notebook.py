"""The notebook and its script: the same stages and the same store as the flow, so after the flow everything is a hit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gwen25.stage import STAGES
from tests.derive_notebook import NOTEBOOK, SCRIPT

IN_ORDER = [*STAGES, "evaluate"]  # the base model last
SAID = ("the loss is on those that begin with *", "held-out loss", "coverage", "| **pass@1** |", "A is base, B is tuned: ")


def cached(told: str) -> list[str]:
    return [line.split()[1].partition(":")[0] for line in told.splitlines() if line.startswith("Cached")]


def answered(told: str) -> bool:
    """Whether the model said anything to the notebook's question: what it says is drawn, and of a tiny model."""
    return bool(told.rpartition("and print their sum.")[2].strip())


def script(home: Path, *arguments: str, **environment: str) -> str:
    """What a run of the script says; it must end well."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "GWEN25_HOME": str(home), **environment},
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow  # after a whole flow
@pytest.mark.usefixtures("prefect_server")
def test_after_the_flow_the_script_makes_nothing_again(smoke: Any, smoke_home: Path) -> None:
    told = script(smoke_home)
    assert cached(told) == IN_ORDER
    assert [words for words in SAID if words not in told] == [] and answered(told)


@pytest.mark.slow  # after a whole flow
@pytest.mark.usefixtures("prefect_server")
def test_the_notebook_runs_from_top_to_bottom_in_a_kernel(smoke: Any, smoke_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("GWEN25_HOME", str(smoke_home))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    told = "".join(output.get("text", "") for output in outputs)
    assert cached(told) == IN_ORDER
    assert [words for words in SAID if words not in told] == [] and answered(told)
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3, "loss, reward and results are seen, not named"


@pytest.mark.slow  # trains: a minute
def test_with_auto_hparams_the_script_says_and_takes_the_recommendations(tmp_path: Path) -> None:
    few = ("sft.max_steps=2", "grpo.max_steps=1", "evaluate.max_problems=2", "evaluate.n=1", "evaluate.baseline=false")
    told = script(tmp_path, "smoke", *few, AUTO_HPARAMS="1")
    assert "AUTO_HPARAMS is on" in told and "50 rows are few, the given rate stands" in told
    assert "auto_hparams: learning_rate" in told, "the stage itself took them"
    assert "AUTO_HPARAMS: no value changed" in told


def test_a_wrong_profile_is_one_line() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "smok"], capture_output=True, text=True, timeout=60)
    assert done.returncode != 0 and "did you mean 'smoke'" in done.stderr and "Traceback" not in done.stderr
