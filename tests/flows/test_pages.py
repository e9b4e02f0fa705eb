"""What Prefect's server holds after a run: each node's page, with its numbers and warnings, or why the node failed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from gwen25.artifacts import Manifest
from tests.conftest import REPOSITORY

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]  # the server needs 12 s to start; one of them trains

QUIET = "result = Result({'rows': 7}, {'loss': 0.25})"
WARNED = """
from gwen25 import grpo_report, grpo_watch

rows = [{"step": at + 1, "reward": 0.2 + 0.02 * at, "frac_programs_passed": 0.1} for at in range(16)]
cautions = grpo_watch.read(rows)
(job.aside / "report.md").write_text(grpo_report.page(cautions, []))
told = [f"step {one.step}: {one.text}" for one in cautions]
result = Result({"grpo": {"warnings": told}}, {"reward": 0.5, "kl": 0.0125, "entropy": None})
"""
UNJUDGED = """
from gwen25 import sandbox
from gwen25.chat import FORMATS
from gwen25.errors import SandboxUnavailable
from gwen25.rewards.panel import Panel


def gone(*_, **__):
    raise SandboxUnavailable("cannot start an isolated interpreter")


sandbox.grade_surely = gone
group, format = job.config.num_generations, FORMATS["chatml-think"]
columns = {
    "prompts": ["a problem"] * group,
    "completions": [format.answer("A thought.", "print(3)")] * group,
    "tests": [[{"input": "1 2", "output": "3", "kind": "stdin"}]] * group,
    "completion_ids": [[5, 7]] * group,
}
panel = Panel(job.config, format, None, 1, {7})
for step in range(job.config.max_steps):
    for reward in panel.functions():
        reward(**columns)
"""


def scripted(**scripts: str) -> dict[str, Any]:
    """Overrides by which these stages do as they are told, once."""
    script = str(REPOSITORY / "tests" / "scripted_stage.py")
    return {"runtime.launcher": {name: [sys.executable, script, text] for name, text in scripts.items()}, "runtime.max_retries": 0}


def run(home: Path, monkeypatch: pytest.MonkeyPatch, **overrides: Any) -> Any:
    """The final state of the flow up to GRPO."""
    from flows.finetune import finetune

    monkeypatch.setenv("GWEN25_HOME", str(home))
    return finetune(profile="smoke", until="grpo", overrides=overrides, return_state=True)


def pages(state: Any) -> dict[str, str]:
    """The Markdown that the server holds of this flow run, by the name of the task run that made it."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    run_id = state.state_details.flow_run_id
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run_id])))
        made = [artifact for artifact in found if artifact.type == "markdown"]
        names = [client.read_task_run(artifact.task_run_id).name if artifact.task_run_id else artifact.key for artifact in made]
    assert len(set(names)) == len(names), "one page of each"
    for artifact, name in zip(made, names, strict=True):
        assert artifact.key in (f"{name}-artifact", name)
    return {str(name): str(artifact.data) for artifact, name in zip(made, names, strict=True)}


def test_each_node_has_a_page_with_its_numbers_and_its_warnings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = run(tmp_path, monkeypatch, **scripted(dataset=QUIET, sft=QUIET, grpo=WARNED))
    outcome = state.result()
    found = pages(state)
    assert set(found) == {"dataset", "sft", "grpo", "finetune-summary"}
    for name, artifact in outcome.artifacts.items():
        assert found[name].startswith(f"## {name}:{artifact.key[:8]}\n\n`{artifact.path}`")
    assert all("| loss | 0.25 |" in found[name] and "| rows | 7 |" in found[name] for name in ("dataset", "sft"))
    assert "| reward | 0.5 |" in found["grpo"] and "| kl | 0.0125 |" in found["grpo"]
    assert "entropy" not in found["grpo"], "what was not measured is not there"
    [warning] = Manifest.read(outcome.artifacts["grpo"].path).facts["grpo"]["warnings"]
    assert "the reward rises (" in warning and "while the share of programs that pass does not" in warning
    for name in ("grpo", "finetune-summary"):
        assert f"\n- {warning}\n" in found[name] + "\n", "whole, not cut as a cell of a table is"
    assert "the reward rises" not in found["sft"]

    again = run(tmp_path, monkeypatch, **scripted(dataset=QUIET, sft=QUIET, grpo=WARNED))
    assert set(again.result().cached) == {"dataset", "sft", "grpo"}
    assert f"- {warning}" in pages(again)["finetune-summary"], "told of what came from the store as well"


def test_a_run_whose_rewards_stay_unknown_says_in_the_ui_how_many_and_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    state = run(tmp_path, monkeypatch, **scripted(dataset=QUIET, sft=QUIET, grpo=UNJUDGED))
    flow_run = FlowRunFilter(id=FlowRunFilterId(any_=[state.state_details.flow_run_id]))
    with get_client(sync_client=True) as client:
        runs = {task.name: task.state for task in client.read_task_runs(flow_run_filter=flow_run)}
    failed = runs["grpo"]
    assert failed is not None and failed.is_failed() and state.is_failed()
    for shown in (failed.message, state.message):
        assert "grpo failed (unavailable): correctness is known for 0 of the last 12 completions; grpo.min_reward_coverage = 0.8" in shown
        assert "the sandbox's last failure: " in shown and "cannot start an isolated interpreter" in shown
    assert "grpo" not in pages(state)


def test_the_page_of_a_real_grpo_run_holds_what_it_measured_and_warned_of(smoke_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight tokens are too few for any answer. Data set and SFT are those of the smoke run."""
    state = run(smoke_home, monkeypatch, **{"grpo.max_completion_length": 8, "grpo.max_steps": 5})
    artifact = state.result().artifacts["grpo"]
    page, manifest = pages(state)["grpo"], Manifest.read(artifact.path)
    logged = [json.loads(line) for line in (artifact.path / "aside" / "metrics.jsonl").read_text().splitlines()]
    assert len(logged) == 5
    for name in ("reward", "kl", "entropy", "clipped_ratio", "coverage"):
        assert f"\n| {name} | {manifest.metrics[name]:.6g} |\n" in page
    assert "- step 5: 100% of the completions are cut off by grpo.max_completion_length" in page
    assert "## Step 1: one prompt, 4 completions" in page and "data:image/png;base64," in page
