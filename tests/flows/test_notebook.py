"""The notebook script: the same stages and the same store as the flow, so after the flow everything is a hit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gwen25.stage import STAGES
from tests.conftest import REPOSITORY

SCRIPT = REPOSITORY / "gwen25" / "notebooks" / "finetuning.py"


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_after_the_flow_the_notebook_makes_nothing_again(smoke: Any, smoke_home: Path) -> None:
    environment = {**os.environ, "GWEN25_HOME": str(smoke_home)}
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    cached = [line.split()[1].partition(":")[0] for line in done.stdout.splitlines() if line.startswith("Cached")]
    assert cached == list(STAGES)


def test_a_wrong_profile_is_one_line() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "smok"], capture_output=True, text=True, timeout=60)
    assert done.returncode != 0 and "did you mean 'smoke'" in done.stderr and "Traceback" not in done.stderr
