"""`gwen25 run --dry-run` names the base model's evaluation too, under the key that the flow gives it."""

from __future__ import annotations

from typing import Any

import pytest

from gwen25 import cli, stage
from gwen25.artifacts import Store
from gwen25.config import load_config


def _baselines(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    assert cli.main(["run", "--dry-run", *arguments]) == 0
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("baseline")]


def test_the_base_models_evaluation_has_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert _baselines(capsys, "--set", "evaluate.baseline=false") == _baselines(capsys, "--until", "merge") == []
    [line] = _baselines(capsys)
    assert "would run  evaluate:" in line and "sample:tiny-qwen2 (evaluate.baseline)" in line


def test_its_key_is_the_flows(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks import evaluate

    plans: list[stage.Plan] = []

    def run(name: str, config: Any, inputs: Any, *, refresh: bool, extra: Any) -> None:
        plans.append(stage.plan_stage(name, config, inputs, print, extra))

    monkeypatch.setattr(evaluate.node, "run", run)
    before = sorted(Store.default().root.glob("*/*"))
    evaluate.baseline.fn(load_config("smoke"))
    assert f"evaluate:{plans[0].key[:8]};" in _baselines(capsys)[0]
    assert sorted(Store.default().root.glob("*/*")) == before
