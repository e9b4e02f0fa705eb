"""The notebook for Colab: what its script says, nothing else; and what its Colab cell does, with stand-ins for Colab's own modules.

Whole runs, of the script and of the notebook in a kernel, are in tests/flows/test_notebook.py, where the store is filled already.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from types import ModuleType
from typing import Any

import pytest

from gwen25.config import load_config, parse_override
from gwen25.estimate import estimate
from tests.derive_notebook import NOTEBOOK, SCRIPT, derived

CELLS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
CODE = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]
PROSE = " ".join(" ".join("".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "markdown").split())
COLAB = next(code for code in CODE if "google.colab" in code)
SETTINGS = next(code for code in CODE if "profile, settings =" in code)


def test_the_notebook_is_what_the_script_says() -> None:
    assert NOTEBOOK.read_text(encoding="utf-8") == derived(SCRIPT.read_text(encoding="utf-8")), (
        "gwen25/notebooks/finetuning.ipynb is stale: `make notebook` derives it from finetuning.py"
    )


def test_a_script_that_says_something_else_makes_another_notebook() -> None:
    script = SCRIPT.read_text(encoding="utf-8")
    assert derived(script + "\n# %%\nsay('more')\n") != derived(script) == derived(script)


@pytest.mark.parametrize("code", CODE, ids=range(len(CODE)))
def test_a_code_cell_is_plain_python(code: str) -> None:
    """No magic, no shell line: the script runs anywhere."""
    compile(code, "cell", "exec")


def test_it_holds_no_outputs() -> None:
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in CELLS if cell["cell_type"] == "code")


def test_every_step_is_explained_before_it_is_done() -> None:
    headings = [line for cell in CELLS if cell["cell_type"] == "markdown" for line in cell["source"] if line.startswith("## ")]
    assert len(headings) >= 10 and CELLS[0]["cell_type"] == "markdown"


# ------------------------------------------------------------------------------------------------------------------- Colab


class NotThere(Exception):
    """As userdata.SecretNotFoundError."""


@pytest.fixture
def colab(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stand-ins for google.colab and pip: what they were asked. The secret HF_TOKEN is there, GEMINI_API_KEY is not."""
    asked: dict[str, Any] = {"pip": []}

    def get(name: str) -> str:
        if name != "HF_TOKEN":
            raise NotThere(name)
        return "hf_verysecret"

    drive, userdata = ModuleType("google.colab.drive"), ModuleType("google.colab.userdata")
    vars(drive).update(mount=lambda where: asked.update(mounted=where))
    vars(userdata).update(get=get, SecretNotFoundError=NotThere, NotebookAccessError=PermissionError)
    for module in (ModuleType("google.colab"), drive, userdata):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(subprocess, "run", lambda command, **_: asked["pip"].append(command))
    monkeypatch.setenv("HF_TOKEN", "")
    return asked


def test_on_colab_the_store_lies_on_drive_and_secrets_are_not_printed(colab: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    exec(COLAB, {})
    assert os.environ["GWEN25_HOME"].startswith(colab["mounted"])
    assert os.environ["HF_TOKEN"] == "hf_verysecret" and "GEMINI_API_KEY" not in os.environ
    [pip] = colab["pip"]
    assert pip[:4] == [sys.executable, "-m", "pip", "install"]
    told = "".join(capsys.readouterr())
    assert "GEMINI_API_KEY is not among" in told and "verysecret" not in told + str(pip)


def test_elsewhere_the_colab_cell_does_nothing(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    before = dict(os.environ)
    names: dict[str, Any] = {}
    exec(COLAB, names)
    assert names["on_colab"] is False and dict(os.environ) == before and "".join(capfd.readouterr()) == ""


def test_what_the_notebook_says_of_a_t4_is_what_is_estimated(monkeypatch: pytest.MonkeyPatch) -> None:
    names: dict[str, Any] = {"on_colab": True, "sys": sys}
    monkeypatch.setattr(sys, "argv", ["script"])
    exec(SETTINGS, names)
    assert names["profile"] == "t4"
    config = load_config("t4", overrides=dict(parse_override(text) for text in names["settings"]))
    found = estimate(config)
    assert found.judging is None, "no key is asked for"
    peaks = {name: f"{node.peak.bytes / 1e9:.1f}" for name, node in found.nodes.items()}
    hours = {name: (of.seconds or 0) / 3600 for name, of in found.hours.items()}
    needs = ", ".join(f"`{name}`{' needs' * (name == 'sft')} {peaks[name]}" for name in ("sft", "grpo", "merge", "evaluate"))
    assert f"{needs}; of the machine's own 12 GB of memory `gguf` takes {peaks['gguf']}, the most of the nodes on the CPU" in PROSE
    assert all(node.verdict in (None, "fits") for node in found.nodes.values())
    assert max(node.peak.bytes for node in found.nodes.values() if node.device == "CPU") == found.nodes["gguf"].peak.bytes
    told = (
        f"{sum(hours.values()):.0f} hours by estimate: sft {60 * hours['sft']:.0f} minutes, grpo {hours['grpo']:.1f} h, "
        f"score {hours['score']:.1f} h, the evaluations {hours['evaluate'] + hours['baseline']:.1f} h"
    )
    assert told in PROSE
    disk = {term.name: term.bytes / 1e9 for term in found.disk}
    kept = disk["adapters"] + disk["merged model"] + disk["GGUF"]
    assert f"takes {kept:.1f} GB there, and {disk['GGUF']:.1f} GB more where Drive has no hard links" in PROSE
    assert f"old checkpoints ({disk['checkpoints'] / 3:.2f} GB each)" in PROSE
