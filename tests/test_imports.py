"""What gwen25 did not train, in the store: copied whole, keyed by content, known as foreign; and what cannot be taken."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from gwen25 import imports, modeling, models, resolve
from gwen25.artifacts import Manifest, Store
from gwen25.chat import FORMATS
from gwen25.errors import BadInput
from gwen25.hub.card import card
from gwen25.hub.story import tell
from gwen25.job import write_json

FORMAT = FORMATS["chatml-think"]
IDENTITY = {"name": FORMAT.name, "digest": FORMAT.digest}


@pytest.fixture(autouse=True)
def _own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GWEN25_HOME", str(tmp_path / "home"))


def plain_adapter(folder: Path, base: Path, targets: tuple[str, ...] = ("q_proj", "v_proj")) -> Path:
    """A directory as PEFT saves it: LoRA of rank 4 on some projections, and no more."""
    import numpy as np
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    draw, held = np.random.default_rng(0), {}
    for name, shape in models.tensor_shapes(base).items():
        module = name.removesuffix(".weight")
        if module.endswith(targets):
            for half, size in (("A", (4, shape[1])), ("B", (shape[0], 4))):
                held[f"base_model.model.{module}.lora_{half}.weight"] = draw.normal(0, 0.1, size).astype(np.float32)
    save_file(held, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    settings = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "target_modules": list(targets), "bias": "none"}
    write_json(folder / "adapter_config.json", {**settings, "base_model_name_or_path": str(base)})
    return folder


def speak_our_format(folder: Path, base: Path) -> None:
    """A tokenizer with our chat template, as `save_pretrained` would leave it beside an adapter."""
    settings = json.loads((base / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings.pop("chat_template", None)
    write_json(folder / "tokenizer_config.json", {**settings, "eos_token": FORMAT.eos, "pad_token": FORMAT.pad})
    if folder != base:
        shutil.copyfile(base / "tokenizer.json", folder / "tokenizer.json")
    (folder / "chat_template.jinja").write_text(FORMAT.jinja, encoding="utf-8")


@pytest.fixture
def adapter(tiny_model: Path, tmp_path: Path) -> Path:
    folder = plain_adapter(tmp_path / "adapter", tiny_model)
    speak_our_format(folder, tiny_model)
    return folder


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    speak_our_format(folder, folder)
    return folder


def quiet(_: str) -> None:
    pass


def test_an_adapter_enters_as_one_that_was_checked_nowhere_and_says_so(adapter: Path, tiny_model: Path) -> None:
    told: list[str] = []
    made = imports.adapter(str(adapter), None, told.append)
    manifest = Manifest.read(made.path)
    assert made.stage == "adapters" and "gwen25 did not train it" in told[0]
    assert manifest.facts["base_model"] == {"digest": resolve.folder_digest(tiny_model)} and manifest.facts["chat_format"] == IDENTITY
    assert (
        set(manifest.facts["outside"]) == {"digest"}
        and manifest.externals == {"outside": manifest.facts["outside"]}
        and not manifest.inputs
    )
    assert (made.payload / "adapter_model.safetensors").read_bytes() == (adapter / "adapter_model.safetensors").read_bytes()
    config = json.loads((made.payload / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == f"sha256:{resolve.folder_digest(tiny_model)}" and config["r"] == 4


def test_a_model_enters_as_a_merged_one(model: Path) -> None:
    made = imports.model(str(model), quiet)
    facts = Manifest.read(made.path).facts
    assert made.stage == "merge" and facts["chat_format"] == IDENTITY and facts["dtype"] == "float32" and facts["context"] == 2048
    assert models.inspect(made.payload).architecture == "Qwen2ForCausalLM"
    assert modeling.chat_format(facts, "it") is FORMAT


def test_the_same_content_is_found_again_and_other_content_is_another(adapter: Path, tiny_model: Path, tmp_path: Path) -> None:
    first = imports.adapter(str(adapter), None, quiet)
    moved = adapter.rename(tmp_path / "moved")
    assert imports.adapter(str(moved), None, quiet) == first
    write_json(moved / "adapter_config.json", {**json.loads((moved / "adapter_config.json").read_text()), "lora_alpha": 16})
    assert imports.adapter(str(moved), None, quiet).key != first.key
    assert len(Store.default().manifests()) == 2


def test_an_artifact_stays_what_it_is_whatever_happens_to_the_folder(model: Path) -> None:
    made = imports.model(str(model), quiet)
    (model / "model.safetensors").write_bytes(b"")
    shutil.rmtree(model)
    Store.default().verify(made.path)


def test_a_folder_that_changes_under_the_copy_is_no_artifact(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = shutil.copyfile

    def changing(source: Path, target: Path) -> None:
        copy(source, target)
        if target.name == "config.json":
            target.write_text(target.read_text() + " ")

    monkeypatch.setattr(shutil, "copyfile", changing)
    with pytest.raises(BadInput, match=r"config\.json changed while it was copied"):
        imports.model(str(model), quiet)
    assert not Store.default().manifests()


def test_the_card_calls_unknown_what_nobody_told(adapter: Path) -> None:
    text = card(tell(Store.default(), imports.adapter(str(adapter), None, quiet)), "me/model")
    assert text.count("Unknown: it was not trained by gwen25.") == 2 and "not measured" in text
    assert "What it was trained on, and for, is unknown." in text and "Python alone" not in text and "gwen25 did not train it" in text
    assert str(adapter.parent) not in text


def test_a_model_of_others_is_not_published_as_ones_own(model: Path) -> None:
    made = imports.model(str(model), quiet)
    with pytest.raises(BadInput, match="nothing was made of it that could be published"):
        tell(Store.default(), made)


def test_a_model_without_one_of_our_templates_is_told_the_other_way(adapter: Path, tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="`gwen25 gguf` and `gwen25 ollama` take it with its own"):
        imports.model(str(tiny_model), quiet)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (adapter / name).unlink()  # then the base's template is the adapter's
    with pytest.raises(BadInput, match="a chat template that is none of gwen25's"):
        imports.adapter(str(adapter), None, quiet)
    assert not Store.default().manifests()


def test_tokens_that_the_flows_merge_would_lose_are_refused(adapter: Path, tiny_model: Path) -> None:
    parts: dict[str, Any] = json.loads((adapter / "tokenizer.json").read_text())
    free = models.inspect(tiny_model).vocab_size - 1
    held = {*parts["model"]["vocab"].values(), *(token["id"] for token in parts["added_tokens"])}
    if free in held:
        pytest.skip("the tiny model's embedding has no free row")
    parts["added_tokens"].append({**parts["added_tokens"][-1], "content": "<new>", "id": free})
    write_json(adapter / "tokenizer.json", parts)
    with pytest.raises(BadInput, match="adds tokens to its base's"):
        imports.adapter(str(adapter), None, quiet)


def test_names_that_lead_to_an_adapter_are_told_from_models(adapter: Path, tiny_model: Path) -> None:
    names = (str(adapter), str(tiny_model), "sample:tiny-qwen2", "base", "me/nobody-knows")
    assert [imports.is_adapter(name, quiet) for name in names] == [True, False, False, False, False]
