"""The body of a node: the GPU's slot, pages that never fail the work, retries by cause."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from prefect.concurrency.sync import concurrency
from prefect.states import Failed

from gwen25 import stage
from gwen25.artifacts import Made, Store
from gwen25.config import load_config
from gwen25.errors import StageFailed
from gwen25.resolve import Resolved
from gwen25.stage import Plan
from tasks import node, ui


def plan(name: str, device: str) -> Plan:
    config = load_config("smoke", overrides={"runtime.device": device})
    return Plan(stage.STAGES[name], os.urandom(16).hex(), {}, Resolved(), {}, config.runtime)


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_one_stage_at_a_time_on_the_gpu() -> None:
    with node._gpu_slot(plan("sft", "cuda")), pytest.raises(TimeoutError), concurrency("gpu", occupy=1, strict=True, timeout_seconds=1):
        raise AssertionError("two stages hold the GPU")
    with node._gpu_slot(plan("grpo", "cuda")):
        pass  # freed


def test_neither_the_cpu_nor_a_stage_without_a_gpu_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "_ensure_slot", lambda: pytest.fail("the server was asked for a slot"))
    for name, device in (("sft", "cpu"), ("dataset", "cuda"), ("gguf", "cuda")):
        with node._gpu_slot(plan(name, device)):
            pass


@pytest.mark.parametrize("retry", [True, False])
def test_only_what_another_attempt_may_mend_is_retried(retry: bool) -> None:
    failure = StageFailed("sft", "killed", 137, "gone", retry=retry)
    assert node.transient(node.submit, None, Failed(data=failure)) is retry  # type: ignore[arg-type]
    assert node.transient(node.submit, None, Failed(data=ValueError())) is False  # type: ignore[arg-type]


def test_a_page_shows_what_was_measured_and_nothing_else(tmp_path: Path) -> None:
    store = Store(tmp_path)
    work = store.work("sft", "0" * 32)
    for folder in ("payload", "aside"):
        (work / folder).mkdir(parents=True)
    (work / "payload" / "a").write_text("x")
    (work / "aside" / "loss.png").write_bytes(b"\x89PNG")
    made = store.publish(
        Made("sft", 1, "0" * 32, {}, {}, {}, {"rank": 8}, {"loss": 0.25, "kl": None, "odd": "a|b<c>\nd"}, {"seconds": 1.0})
    )
    page = ui.page(made)
    assert "| loss | 0.25 |" in page and "| rank | 8 |" in page and "kl" not in page
    assert "a\\|b&lt;c&gt; d" in page and "data:image/png;base64," in page
