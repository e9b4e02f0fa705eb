"""The flow on real rows: 738 R1 answers, Qwen2.5's own tokenizer, a small Qwen2 of random weights, real problems."""

from __future__ import annotations

import gzip
import itertools
import json
from pathlib import Path

import pytest

from gwen25.artifacts import Manifest
from gwen25.samples import tiny

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]


def test_the_flow_on_real_rows_with_the_real_tokenizer(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.finetune import finetune

    model, problems = tmp_path / "model", tmp_path / "problems.jsonl"
    tiny.build(model, tokenizer=tokenizer_folder(shared_data, tmp_path))
    with gzip.open(shared_data / "problems" / "lcb_after_v1.jsonl.gz", "rt", encoding="utf-8") as lines:
        problems.write_text("".join(itertools.islice(lines, 6)), encoding="utf-8")
    monkeypatch.setenv("GWEN25_HOME", str(tmp_path / "home"))
    overrides = {
        "base_model": str(model),
        "dataset.source": str(shared_data / "ocr_rows" / "r1_codeforces_rows.jsonl.gz"),
        "dataset.max_length": 2048,  # 5 % of R1's rows
        "dataset.max_prompt_length": 1024,
        "sft.max_length": 2048,
        "sft.max_steps": 2,  # 3,000 tokens a step under a vocabulary of 151,936: 20 s on two cores
        "dataset.heldout_fraction": 0.02,
        "sft.per_device_train_batch_size": 2,
        "sft.gradient_accumulation_steps": 1,
        "grpo.max_steps": 2,
        "evaluate.problems": str(problems),
        "evaluate.n": 1,
        "evaluate.batch_size": 6,
        "evaluate.baseline": False,
    }
    outcome = finetune(profile="smoke", overrides=overrides, return_state=True).result(raise_on_failure=False)
    assert not isinstance(outcome, BaseException), outcome
    data = Manifest.read(outcome.artifacts["dataset"].path).metrics
    assert data["rows_read"] == 738 == data["rows_kept"] + sum(data["dropped"].values())
    assert data["rows_kept"] > 20
    report = json.loads((outcome.artifacts["evaluate"].payload / "report.json").read_text())
    assert report["problems"]["all"] == 6


def tokenizer_folder(shared_data: Path, tmp_path: Path) -> Path:
    """Qwen2.5's tokenizer as a model directory holds it."""
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    with gzip.open(shared_data / "tokenizer" / "tokenizer.json.gz") as packed:
        (folder / "tokenizer.json").write_bytes(packed.read())
    (folder / "tokenizer_config.json").write_bytes((shared_data / "tokenizer" / "tokenizer_config_base.json").read_bytes())
    return folder
