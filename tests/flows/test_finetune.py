"""The flow, for real: every node in its child process, on the smoke profile, under a Prefect server."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from flows.outcome import HEADLINES, summarise
from gwen25.artifacts import Artifact, Manifest, Store
from gwen25.errors import StageFailed
from gwen25.stage import STAGES
from tests.flows.conftest import run

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]
NODES = {*STAGES, "baseline"}


def digests(outcome: Any) -> dict[str, str]:
    return {name: artifact.digest for name, artifact in outcome.artifacts.items()}


def test_every_node_is_made_and_its_artifact_is_whole(smoke: Any, smoke_home: Path) -> None:
    store = Store(smoke_home / "store")
    assert set(smoke.artifacts) == NODES
    for artifact in smoke.artifacts.values():
        store.verify(artifact.path)
    assert not list(store.root.glob("*/*.work"))


def test_the_summary_names_what_the_manifests_hold(smoke: Any) -> None:
    for name, artifact in smoke.artifacts.items():
        manifest = Manifest.read(artifact.path)
        missing = {key for key, _ in HEADLINES.get(artifact.stage, ())} - {**manifest.facts, **manifest.metrics}.keys()
        assert not missing, (name, missing)


def test_the_summary_shows_the_base_model_under_both_prompts(smoke: Any) -> None:
    assert "| | base | base, base-model prompt | tuned |" in summarise(smoke)
    assert (smoke.artifacts["baseline"].payload / "base_prompt" / "report.json").is_file()


def test_what_the_nodes_say_of_themselves(smoke: Any) -> None:
    facts = {name: Manifest.read(artifact.path) for name, artifact in smoke.artifacts.items()}
    data = facts["dataset"].metrics
    assert data["rows_read"] == data["rows_kept"] + sum(data["dropped"].values())
    assert all(facts[name].facts["chat_format"]["name"] == "chatml-think" for name in ("sft", "grpo", "adapters", "merge", "gguf"))
    assert facts["ollama"].facts["created"] is False
    report = json.loads((smoke.artifacts["evaluate"].payload / "report.json").read_text())
    assert report["n"] == 5 and {"truncated", "no_code", "max_tokens"} <= set(report)


def test_grpo_really_moved_the_adapter(smoke: Any) -> None:
    sft, grpo = (smoke.artifacts[name].payload / "adapter_model.safetensors" for name in ("sft", "grpo"))
    assert sft.read_bytes() != grpo.read_bytes()


def test_a_second_run_is_cached_throughout(smoke: Any, smoke_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    again = run(smoke_home, monkeypatch)
    assert set(again.cached) == NODES and digests(again) == digests(smoke)


def test_a_grpo_value_leaves_dataset_and_sft_cached(smoke: Any, smoke_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = run(smoke_home, monkeypatch, overrides={"grpo.beta": 0.1})
    assert set(changed.cached) == {"dataset", "sft", "baseline"}


def test_the_judges_key_is_a_different_run_and_back(smoke: Any, smoke_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", "no-such-key-anywhere")  # never used: every smoke row has tests
    with_judge = run(smoke_home, monkeypatch, until="grpo")
    assert "grpo" not in with_judge.cached and "sft" in with_judge.cached
    monkeypatch.delenv("GEMINI_API_KEY")
    assert set(run(smoke_home, monkeypatch, until="grpo").cached) == {"dataset", "sft", "grpo"}


def test_a_flipped_byte_is_noticed_and_the_artifact_made_again(
    smoke: Any, smoke_home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    weights = smoke.artifacts["merge"].payload / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        mended = run(smoke_home, monkeypatch)
    assert "merge" not in mended.cached and "sft" in mended.cached
    assert digests(mended) == digests(smoke)
    assert any("set aside" in record.getMessage() for record in caplog.records)


def test_bad_input_of_a_stage_ends_the_run_with_its_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"id": "1"}\n')
    failure = run(tmp_path / "home", monkeypatch, overrides={"dataset.source": str(file)})
    assert isinstance(failure, StageFailed) and failure.cause == "bad_input" and "rows.jsonl" in failure.reason
    assert "Traceback" not in caplog.text


# --- deaths within one run -------------------------------------------------------------------------------------------


def faults(folder: Path, *names: str) -> str:
    """A folder of faults, each used once: see gwen25.training."""
    folder.mkdir()
    for name in names:
        (folder / name).touch()
    return str(folder)


def weights(artifact: Artifact) -> bytes:
    return (artifact.payload / "adapter_model.safetensors").read_bytes()


def test_killed_children_are_retried_in_the_same_run_to_identical_bits(smoke: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GWEN25_FAULTS", faults(tmp_path / "faults", "sft-kill-7", "grpo-kill-4"))
    disturbed = run(tmp_path / "home", monkeypatch, until="adapters")
    assert not list((tmp_path / "faults").iterdir()), "a fault was never reached"
    assert {name: Manifest.read(disturbed.artifacts[name].path).provenance["attempts"] for name in ("sft", "grpo")} == {"sft": 2, "grpo": 2}
    for name in ("dataset", "sft", "grpo", "adapters"):
        assert disturbed.artifacts[name].digest == smoke.artifacts[name].digest, name


def aside(artifact: Artifact, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (artifact.path / "aside" / name).read_text().splitlines()]


def losses(artifact: Artifact) -> list[float]:
    return [row["loss"] for row in aside(artifact, "metrics.jsonl") if row.get("loss") is not None]


def test_a_kill_and_lost_memory_in_one_run(smoke: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GWEN25_FAULTS", faults(tmp_path / "faults", "sft-kill-7", "sft-oom-12", "grpo-oom-3"))
    disturbed = run(tmp_path / "home", monkeypatch, until="adapters")
    assert not isinstance(disturbed, BaseException), disturbed
    assert not list((tmp_path / "faults").iterdir()), "a fault was never reached"
    made = {name: Manifest.read(disturbed.artifacts[name].path).provenance for name in ("sft", "grpo")}
    assert made["sft"]["attempts"] == 3 and made["sft"]["micro_batch"] == 4
    assert made["grpo"]["attempts"] == 2 and made["grpo"]["micro_batch"] == 4
    assert losses(disturbed.artifacts["sft"]) == pytest.approx(losses(smoke.artifacts["sft"]), abs=2e-3)
    # GRPO began from an adapter that is another by roundings: no token was so near another that it was sampled differently
    mine, theirs = (one.artifacts["grpo"] for one in (disturbed, smoke))
    compared = [row["frac_groups_compared"] for row in aside(theirs, "metrics.jsonl")]
    assert any(compared[2:]), f"no group had a spread after memory ran out, and this would prove nothing: {compared}"
    assert aside(mine, "rewards.jsonl") == aside(theirs, "rewards.jsonl")
    assert losses(mine) == pytest.approx(losses(theirs), abs=1e-3)
