"""What a person reads of a run: grpo's warnings stand in its page and in the run's, also where it came from the store."""

from __future__ import annotations

import base64
import io
import random
import re
from pathlib import Path
from typing import Any

from flows.outcome import Outcome, summarise
from gwen25 import grpo_report, plots
from gwen25.artifacts import Artifact, Made, Store
from gwen25.grpo_watch import Caution
from gwen25.pipelines.grpo import CURVES
from tasks import ui

HACK = Caution("hack", 15, "the reward rises (0.2 to 0.5) while the share of programs that pass does not")


def _made(store: Store, stage: str, facts: dict[str, Any], report: str | None = None) -> Artifact:
    work = store.work(stage, stage[0] * 32)
    for folder in (work, work / "payload", work / "aside"):
        folder.mkdir(parents=True)
    (work / "payload" / "file").write_text(stage)
    if report is not None:
        (work / "aside" / "report.md").write_text(report)
    return store.publish(Made(stage, 1, stage[0] * 32, {}, {}, {}, facts, {"reward": 0.5}, {"seconds": 1.0}))


def test_warnings_stand_in_the_runs_summary(tmp_path: Path) -> None:
    store, told = Store(tmp_path), [f"step {HACK.step}: {HACK.text}"]
    warned = _made(store, "grpo", {"grpo": {"warnings": told}})
    after = _made(store, "merge", {"grpo": {"warnings": told}})  # lineage: told once, of the node that earned it
    for cached in ((), ("grpo",)):
        outcome = Outcome(artifacts={"grpo": warned, "merge": after}, cached=cached)
        for markdown in (False, True):
            assert summarise(outcome, markdown=markdown).count(told[0]) == 1
    quiet = _made(store, "sft", {"sft": {}})
    assert "Warnings" not in summarise(Outcome(artifacts={"sft": quiet}, cached=()))


def test_the_nodes_page_shows_warnings_and_samples_that_cannot_break_out(tmp_path: Path) -> None:
    hostile = "```\n# Not a heading\n<script>alert(1)</script>\n| a | b |"
    group = [{"completion": hostile, "rewards": {"execution": None}, "advantage": 0.0}] * 2
    sample = {"step": 1, "id": "row-1", "prompt": hostile, "completions": group}
    page = ui.page(_made(Store(tmp_path), "grpo", {}, grpo_report.page([HACK], [sample])))
    assert f"- step 15: {HACK.text}" in page and "## Step 1: one prompt, 2 completions" in page
    opened = page.count("````text\n") + page.count("\n````\n")
    assert page.count(hostile) == 3 and opened == 6, "each text between two fences of four"
    assert "| reward | 0.5 |" in page


def test_the_curves_of_a_long_grpo_run_are_on_its_page(tmp_path: Path) -> None:
    """As the stage draws them they are half a megabyte, too much for the page."""
    from PIL import Image

    draw, file = random.Random(0), tmp_path / "curves.png"
    plots.curves(file, [{"step": at, **{name: draw.random() for name in CURVES}} for at in range(300)], CURVES, "GRPO")
    assert file.stat().st_size > 2 * ui.PICTURE_BYTES
    made = _made(Store(tmp_path), "grpo", {})
    (made.path / "aside" / "curves.png").write_bytes(file.read_bytes())
    [shown] = re.findall(r"!\[curves\]\(data:image/png;base64,(.+?)\)", ui.page(made))
    content = base64.b64decode(shown)
    assert len(content) <= ui.PICTURE_BYTES
    assert Image.open(io.BytesIO(content)).size == Image.open(file).size
    (made.path / "aside" / "noise.png").write_bytes(draw.randbytes(ui.PICTURE_BYTES + 1))
    assert "noise" not in ui.page(made) and "![curves]" in ui.page(made), "what is no picture costs no page"
