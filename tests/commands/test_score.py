"""`gwen25 score MODEL FORM...`: forms of the tiny model in a table, each by the engine that runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gwen25 import gguf_writer, llamacpp
from gwen25.chat import FORMATS
from gwen25.cli import main
from tests.fake_ollama import FakeOllama

FORMAT = FORMATS["chatml-think"]
FEW = ["--set", "score.max_problems=2", "--set", "score.max_tokens=8", "--set", "score.positions=12"]
needs_llamacpp = pytest.mark.skipif(not llamacpp.can_load(), reason="xllamacpp is not installed")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A merged model as the flow leaves it: with the chat format's template."""
    from gwen25 import modeling
    from gwen25.samples import tiny

    folder = tmp_path_factory.mktemp("model") / "merged"
    tiny.build(folder, pretrained=True)
    modeling.save_tokenizer(modeling.load_tokenizer(folder, FORMAT), folder)
    return folder


@pytest.fixture(scope="module")
def gguf(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("gguf") / "m.gguf"
    gguf_writer.write(model, file, "f16", chat_format=FORMAT)
    return file


@pytest.fixture(scope="module")
def adapter(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LoRA with a B that is not zero."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(model)
    tuned = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    folder = tmp_path_factory.mktemp("adapter")
    tuned.save_pretrained(folder)
    return folder


@needs_llamacpp
def test_each_form_is_a_row(
    model: Path, gguf: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeOllama() as server:
        monkeypatch.setenv("OLLAMA_HOST", server.url)
        server.models["coder:latest"] = {"parameters": {}, "template": FORMAT.ollama}
        forms = [str(gguf), str(adapter), str(model), "ollama:coder"]
        assert main(["score", str(model), *forms, "--base", str(model), "--json", "--out", str(tmp_path / "out"), *FEW]) == 0
    own, packed, lora, same, served = json.loads(capsys.readouterr().out)["scores"]
    assert own["mean_kl"] is None and own["problems"] == 2 and own["tokens_per_second"] > 0
    assert packed["kind"] == "llama.cpp" and packed["mean_kl"] < 1e-4 and packed["bits_per_weight"] > 16
    assert lora["mean_kl"] > 1e-3 and lora["positions"] == 12, "the adapter is in force"
    assert same["mean_kl"] == pytest.approx(0, abs=1e-9) and same["top1_agreement"] == 1
    assert served["mean_kl"] is None and served["top1_agreement"] is None and served["pass1"] is not None
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["answers.jsonl", "report.md", "score.json"]
    assert "| ollama:coder | - | - |" in (tmp_path / "out" / "report.md").read_text()


@needs_llamacpp
def test_the_table_says_what_its_figures_rest_on(model: Path, gguf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", str(model), str(gguf), *FEW, "--set", "score.top_k=8"]) == 0
    told = capsys.readouterr().out
    assert ">= " in told and "lower bound, top 8 and the rest as one" in told and "paired, over problems" in told


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["{gguf}", "{gguf}"], "MODEL is a merged model"),
        (["{model}"], "at least one form"),
        (["{model}", "/no/such.gguf"], "no such file"),
        (["--out", "x"], "--out belongs to"),
        (["{model}", "{gguf}", "--profile", "a100"], "shows none"),
    ],
)
def test_what_cannot_be_scored_is_said_before_anything_is_loaded(
    model: Path, gguf: Path, arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = [argument.format(model=model, gguf=gguf) for argument in arguments]
    assert main(["score", *filled]) == 2
    assert expected in capsys.readouterr().err
