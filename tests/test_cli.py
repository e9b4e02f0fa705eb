"""The command line: one clear line and status 2 for bad input, before anything is trained."""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gwen25 import cli, preflight, samples
from gwen25.artifacts import Store
from gwen25.stage import STAGES

TINY = {"base_model": "sample:tiny-qwen2"}


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = cli.main(arguments)
    out, err = capsys.readouterr()
    return status, out, err


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line of a command that ends with status 2 and leaves nothing in the store."""
    status, _, err = run(capsys, *arguments)
    assert status == 2, err
    assert err.startswith("gwen25: ") and err.count("\n") == 1 and "Traceback" not in err
    assert not list(Store.default().root.glob("*/*"))
    return err


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GWEN25_HOME", str(tmp_path / "home"))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--profile", "smok"], "did you mean 'smoke'"),
        (["--recipe", "best"], "unknown recipe 'best'"),
        (["--set", "sft.learning_rat=1"], "did you mean sft.learning_rate?"),
        (["--set", "stf.learning_rate=1"], "did you mean 'sft'?"),
        (["--set", "grpo.rewards=[format_exat]"], "did you mean 'format_exact'?"),
        (["--set", "grpo.max_steps=-3"], "grpo.max_steps"),
        (["--set", "grpo.num_generations=3"], "divisible by num_generations"),
        (["--set", "nonsense"], "section.key=value"),
        (["--config", "/no/such.yaml"], "/no/such.yaml"),
        (["--refresh", "sff"], "unknown stage 'sff'; did you mean 'sft'?"),
        (["--until", "grp"], "unknown stage 'grp'; did you mean 'grpo'?"),
        (["--set", "base_model=/no/such/model"], "/no/such/model"),
        (["--set", "dataset.source=/no/such.jsonl"], "no such file: /no/such.jsonl"),
        (["--set", "evaluate.problems=/no/such.jsonl.gz"], "no such file: /no/such.jsonl.gz"),
        (["--set", "sft.max_length=1000000", "--set", "dataset.max_length=512"], "more than the model's context"),
        (["--set", "chat_format=chatlm"], "chat format"),
        (["--set", "runtime.python={sft: /no/python}"], "no such interpreter: /no/python"),
        (["--set", "evaluate.backend=openai"], "evaluate.base_url"),
    ],
)
def test_bad_options_are_refused_before_anything_runs(capsys: pytest.CaptureFixture[str], options: list[str], expected: str) -> None:
    assert expected in refused(capsys, "run", *options)


def test_no_gpu_for_a_profile_that_needs_one(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "gpu_present", lambda: False)
    assert "needs a GPU" in refused(capsys, "run", "--set", "runtime.device=cuda")


def test_too_little_disk(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _: usage)
    assert "GWEN25_HOME to a larger disk" in refused(capsys, "run")


def test_a_store_that_cannot_be_written(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GWEN25_HOME", str(tmp_path / "file"))
    status, _, err = run(capsys, "run")
    assert status == 2 and "cannot be written" in err and err.count("\n") == 1


@pytest.mark.parametrize("change", ["architecture", "weights", "config"])
def test_a_base_model_that_is_none(capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_model: Path, change: str) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for file in tiny_model.iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    match change:
        case "architecture":
            config = json.loads((model / "config.json").read_text())
            (model / "config.json").write_text(json.dumps({**config, "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}))
        case "weights":
            (model / "model.safetensors").unlink()
        case "config":
            (model / "config.json").unlink()
    expected = {"architecture": "GPT2LMHeadModel", "weights": "weights", "config": "config.json"}[change]
    assert expected in refused(capsys, "run", "--set", f"base_model={model}")


GOOD = {
    "id": "1",
    "input": "s",
    "output": "o",
    "source": "x",
    "license": "y",
    "dataset": "d",
    "split": "train",
    "difficulty": "1",
    "solution": "p",
}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty"),
        (json.dumps(GOOD).encode() + b"\n{not json\n", "line 2: not JSON"),
        (b"[1]\n", "line 1: a JSON object"),
    ],
)
def test_a_data_file_that_is_none_is_named_with_its_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, content: bytes, expected: str
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(content)
    status, out, err = run(capsys, "dataset", "--set", f"dataset.source={file}", "--set", "runtime.retry_delay_seconds=0")
    assert status == 2 and expected in err and err.count("\n") == 1 and "Traceback" not in out


def test_a_data_file_that_is_cut_off(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl.gz"
    file.write_bytes(gzip.compress(os.urandom(50_000))[:20_000])
    status, out, err = run(capsys, "dataset", "--set", f"dataset.source={file}")
    assert status == 2 and "rows.jsonl.gz" in err and "Traceback" not in out


def test_a_node_says_which_node_it_stands_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert "`gwen25 dataset` with the same options makes it" in refused(capsys, "sft")


def test_one_node_without_prefect_then_the_store_commands(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "dataset")
    assert status == 0 and "made  dataset:" in out
    status, out, _ = run(capsys, "dataset")
    assert status == 0 and "Cached  dataset:" in out
    status, out, _ = run(capsys, "list", "--json")
    (row,) = json.loads(out)
    assert set(row) == {"stage", "key", "digest", "path", "made", "seconds", "size"} and row["stage"] == "dataset"
    reference = f"dataset:{row['key'][:6]}"
    status, out, _ = run(capsys, "show", reference, "--json")
    assert json.loads(out)["digest"] == row["digest"]
    status, out, _ = run(capsys, "lineage", reference)
    assert out.startswith("dataset:")
    assert run(capsys, "verify")[0] == 0
    (Path(row["path"]) / "payload" / "train.jsonl").open("a").write("x")
    status, out, _ = run(capsys, "verify", "--json")
    assert status == 1 and json.loads(out)[0]["intact"] is False


def test_rows_as_tokens_with_what_is_trained(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "dataset", "--show", "1")
    read, trained = ([line for line in out.splitlines() if line.startswith(mark)] for mark in (". ", "* "))
    assert status == 0 and '"<think"' in read[-2] + read[-1] and '"<|im_end|>"=642' in trained[-1]
    assert not any("im_start" in line for line in trained)
    [header] = [line for line in out.splitlines() if line.startswith("--- ")]
    told = [int(word) for word in header.replace(",", "").split() if word.isdigit()]
    counted = [sum(len(re.findall(r'"=\d+', line)) for line in lines) for lines in (read, trained)]
    assert told == [sum(counted), *counted]


def test_a_number_of_rows_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "dataset", "--show", "-3")
    assert (status, out) == (2, "") and "--show -3: a number of rows is expected" in err


def test_a_users_file_is_checked_line_by_line(capsys: pytest.CaptureFixture[str]) -> None:
    rows = str(samples.path("rows.jsonl"))
    status, out, _ = run(capsys, "dataset", "--check", rows)
    assert status == 0 and f"{rows}, line 58: no_code" in out and "55 kept" in out.splitlines()[-1]
    assert "no_code: an `output` has a fenced python block after </think>" in out
    assert "tokenizer of sample:tiny-qwen2, rows of at most 512 tokens (dataset.max_length)" in out
    assert not list(Store.default().root.glob("*/*"))


def test_a_users_file_with_lines_that_are_no_rows_has_status_2(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("{\n" + samples.path("rows.jsonl").read_text().splitlines()[0] + "\n7\n")
    status, out, _ = run(capsys, "dataset", "--check", str(file))
    assert status == 2 and f"{file}, line 1: malformed: not JSON" in out and f"{file}, line 3: malformed: a JSON object" in out
    assert "malformed: the node stops at the first such line" in out and out.splitlines()[-1] == "2 malformed, 1 kept"


REPORT = {"rows": [{"question_id": q, "difficulty": "easy", "n": 1, "c": c} for q, c in (("a", 1), ("b", 0))], "n": 1, "temperature": 0.2}


def test_two_reports_are_compared_on_the_problems_they_share(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for name, report in (("a", REPORT), ("b", {**REPORT, "rows": REPORT["rows"][:1], "temperature": 0.6})):
        (tmp_path / f"{name}.json").write_text(json.dumps(report))
    status, out, _ = run(capsys, "compare", str(tmp_path / "a.json"), str(tmp_path / "b.json"))
    assert status == 0 and out.startswith("Cannot tell: not measured alike (temperature)")
    assert "not measured alike: temperature (0.2; 0.6)" in out and "1 problems are in one report only" in out
    status, out, _ = run(capsys, "compare", str(tmp_path / "a.json"), str(tmp_path / "b.json"), "--json")
    found = json.loads(out)
    assert (found["problems"], found["verdict"], found["incomparable"]) == (1, "cannot tell", ["temperature"])


def test_a_verdict_between_reports_in_folders_names_the_models(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for name, passes in (("base", 1), ("tuned", 3)):
        (tmp_path / name).mkdir()
        rows = [{"question_id": str(at), "difficulty": "easy", "n": 5, "c": passes} for at in range(40)]
        (tmp_path / name / "report.json").write_text(json.dumps({"model": name, "rows": rows}))
    status, out, _ = run(capsys, "compare", str(tmp_path / "base"), str(tmp_path / "tuned"))
    assert status == 0 and out.startswith("B is better than A: pass@1 +40.00 points") and "pass@5 (any of 5)" in out
    assert f"- A: base ({tmp_path / 'base'})" in out and f"- B: tuned ({tmp_path / 'tuned'})" in out
    status, out, _ = run(capsys, "compare", str(tmp_path / "tuned"), str(tmp_path / "base"), "--json")
    assert json.loads(out)["verdict"] == "worse"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["compare", "/no/a.json", "/no/b.json"], "/no/a.json"),
        (["grade", "/no/problems.jsonl", "/no/answers.jsonl", "--out", "/no/such/folder/v.jsonl"], "--out /no/such/folder/v.jsonl"),
        (["evaluate", "/no/model"], "/no/model"),
        (["evaluate", "sft:00"], "names no artifacts"),
        (["evaluate", "champion"], "no champion yet: `gwen25 promote REF`"),
        (["evaluate", ""], "the model's name is empty"),
        (["evaluate", "--base-url", "http://user:secret@127.0.0.1:1/v1"], "user name, password"),
        (["evaluate", "--base-url", "nonsense"], "http(s)://host"),
        (["evaluate", "some/model-nobody-has"], "HF_HUB_OFFLINE"),
        (["run", "--set", "runtime.launcher={sft: []}"], "runtime.launcher"),
        (["run", "--set", f"dataset.source={'x' * 300}"], "neither a local path nor a dataset"),
        (["run", "--set", "runtime.timeout_seconds=.inf"], "finite"),
        (["run", "--set", "evaluate.start_date=2024-99-99"], "evaluate.start_date"),
        (["run", "--until", "sft", "--refresh", "merge"], "ends before merge"),
        (["run", "--set", "evaluate.max_tokens=2048"], "more than the model's context"),
        (["run", "--set", "evaluate.backend=openai", "--set", "evaluate.base_url=http://127.0.0.1:1/v1"], "cannot be both"),
    ],
)
def test_more_that_is_refused_in_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str) -> None:
    err = refused(capsys, *arguments)
    assert expected in err and "secret@" not in err


def test_a_malformed_problems_file_is_refused_before_the_training(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "problems.jsonl").write_text('{"question_id": "1"}\n')
    assert "problems.jsonl" in refused(capsys, "run", "--set", f"evaluate.problems={tmp_path / 'problems.jsonl'}")


def test_a_dry_run_says_what_would_run_and_runs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "run", "--dry-run")
    assert status == 0 and out.count("would run") == len(STAGES) + 1  # the base model's evaluation too
    assert not list(Store.default().root.glob("*/*"))


@pytest.mark.parametrize("reference", ["sft:00", "champion"])
def test_references_that_name_nothing(capsys: pytest.CaptureFixture[str], reference: str) -> None:
    assert run(capsys, "show", reference)[0] == 2


def test_the_module_form_gives_the_status() -> None:
    done = subprocess.run([sys.executable, "-m", "gwen25.cli", "show", "sft:00"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "Traceback" not in done.stderr
