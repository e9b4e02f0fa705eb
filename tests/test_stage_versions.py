"""A stage whose code changes needs a new version, or a written note that its output is the same; else old hits would lie."""

from __future__ import annotations

import pytest

from gwen25.stage import STAGES
from tests.record_stage_code import code_digest, modules, recorded


@pytest.mark.parametrize("stage", STAGES)
def test_code_and_version_move_together(stage: str) -> None:
    golden = recorded()[stage]
    assert (STAGES[stage].version, code_digest(stage)) == (golden["version"], golden["code"]), (
        f"the code behind {stage} has changed: raise its version in gwen25/stage.py, or add a line to same_output in "
        "tests/golden/stage_code.json that says why its output is the same; then `make golden`"
    )


def test_the_closure_reaches_what_decides_results() -> None:
    assert {"gwen25.pipelines.grpo", "gwen25.rewards.panel", "gwen25.sandbox", "gwen25.chat"} <= set(modules("gwen25.pipelines.grpo"))
    assert "gwen25.rewards" not in modules("gwen25.pipelines.gguf")
