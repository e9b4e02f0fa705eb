"""The flow's own death: SIGKILL of `gwen25 run` in a training. No process is left; the next run goes on and ends the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from gwen25.artifacts import Store

pytestmark = pytest.mark.slow


def gwen25(home: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "gwen25.cli", "run", "--profile", "smoke", "--until", "adapters", *options]
    environment = {**os.environ, "GWEN25_HOME": str(home), "PREFECT_HOME": str(home / "prefect")}
    # as a terminal starts it: a shell's background job would have it ignore Ctrl-C
    heed = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, preexec_fn=heed)


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output[-4000:]
    return output


def processes_of(home: Path) -> list[str]:
    """Whatever still runs for this home, Prefect's server included, found by its environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if f"GWEN25_HOME={home}\0".encode() in (entry / "environ").read_bytes():
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:  # gone meanwhile
            continue
    return found


def wait_for_steps(home: Path, stage: str, steps: int) -> None:
    """Until the stage under way has logged that many optimizer steps."""
    end = time.monotonic() + 300
    while time.monotonic() < end:
        for metrics in (home / "store" / stage).glob("*.work/aside/metrics.jsonl"):
            if len(metrics.read_text().splitlines()) >= steps:
                return
        time.sleep(0.05)
    raise AssertionError(f"{stage} never reached step {steps}")


def digests(home: Path) -> dict[str, str]:
    return {manifest.stage: manifest.digest for manifest in Store(home / "store").manifests()}


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_a_flow_that_is_asked_to_stop_leaves_no_process(tmp_path: Path, sig: signal.Signals) -> None:
    flow = gwen25(tmp_path)
    wait_for_steps(tmp_path, "sft", 2)
    flow.send_signal(sig)
    output, _ = flow.communicate(timeout=60)
    assert flow.returncode != 0
    end = time.monotonic() + 5
    while processes_of(tmp_path) and time.monotonic() < end:
        time.sleep(0.1)
    assert not processes_of(tmp_path), output[-2000:]


def test_a_flow_killed_in_sft_and_in_grpo_goes_on_to_the_same_digests(tmp_path: Path) -> None:
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    finish(gwen25(undisturbed))
    for stage, steps in (("sft", 7), ("grpo", 3)):
        flow = gwen25(disturbed)
        wait_for_steps(disturbed, stage, steps)
        flow.send_signal(signal.SIGKILL)
        flow.wait()
        end = time.monotonic() + 5
        while processes_of(disturbed) and time.monotonic() < end:
            time.sleep(0.1)
        assert not processes_of(disturbed)
        assert not list((disturbed / "store" / stage).glob("*/manifest.json")), "the stage had ended before the kill"
    output = finish(gwen25(disturbed))
    assert "resum" in output.lower()
    assert digests(disturbed) == digests(undisturbed)
