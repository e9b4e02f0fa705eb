"""REF in `gwen25 chat REF`: what each form finds, which format it speaks, and one clear error for each that is nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gwen25 import gguf_writer, modeling, references, resolve
from gwen25.artifacts import Made, Store
from gwen25.errors import BadInput
from gwen25.job import write_json
from gwen25.ollama_api import Ollama
from gwen25.samples import tiny
from tests.fake_ollama import FakeOllama
from tests.pipelines import training_jobs as jobs

FORMAT = jobs.FORMAT


class Warnings(list[str]):
    def __call__(self, text: str) -> None:
        self.append(text)


@pytest.fixture(autouse=True)
def _own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GWEN25_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    made = jobs.trained_adapter(tmp_path_factory.mktemp("made"), tiny_model).payload
    return made.rename(tmp_path_factory.mktemp("adapter") / "mine")  # away from its artifact's manifest


def _published(stage: str, files: dict[str, str], config: dict[str, object], facts: dict[str, object]) -> tuple[str, Path]:
    """An artifact of the store: its reference and its folder."""
    store, key = Store.default(), "0123456789abcdef" * 2
    work = store.work(stage, key)
    (work / "payload").mkdir(parents=True)
    for name, text in files.items():
        (work / "payload" / name).write_text(text)
    made = {"stage": stage, "version": 1, "key": key, "config": config, "externals": {}, "inputs": {}}
    artifact = store.publish(Made(**made, facts={**jobs.FACTS, **facts}, metrics={}, provenance={}))
    return f"{stage}:{key[:6]}", artifact.path


def test_a_model_directory_and_its_format(tiny_model: Path, tmp_path: Path) -> None:
    warned = Warnings()
    found = references.find(str(tiny_model), warn=warned)
    assert found == references.Model("model", str(tiny_model), str(tiny_model), FORMAT)
    assert len(warned) == 1 and "has another chat template: it was not trained in chatml-think" in warned[0]
    ours = tmp_path / "ours"
    tiny.build(ours)
    modeling.save_tokenizer(modeling.load_tokenizer(ours, FORMAT), ours)
    warned.clear()
    assert references.find(str(ours), warn=warned).kind == "model" and not warned


def test_a_gguf_by_file_and_by_folder(tiny_model: Path, tmp_path: Path) -> None:
    file, warned = tmp_path / "m.gguf", Warnings()
    gguf_writer.write(tiny_model, file, "f16", chat_format=FORMAT)
    assert references.find(str(file), warn=warned) == references.Model("gguf", str(file), str(file), FORMAT)
    assert references.find(str(tmp_path), warn=warned).path == str(file) and not warned
    (tmp_path / "n.gguf").write_bytes(file.read_bytes())
    with pytest.raises(BadInput, match="holds 2 GGUF files: name one"):
        references.find(str(tmp_path))


def test_an_adapter_needs_the_base_that_it_was_trained_on(adapter: Path, tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"does not say where its base model is \(sha256:0000.*--base"):
        references.find(str(adapter))
    with pytest.raises(BadInput, match="is not the base that the adapter was trained on, sha256:0000"):
        references.find(str(adapter), base=str(tiny_model))
    mine = tmp_path / "mine"
    mine.mkdir()
    for file in adapter.iterdir():
        (mine / file.name).write_bytes(file.read_bytes())
    config = json.loads((mine / "adapter_config.json").read_text())
    for named in (f"sha256:{resolve.folder_digest(tiny_model)}", str(tiny_model)):
        write_json(mine / "adapter_config.json", {**config, "base_model_name_or_path": named})
        base = str(tiny_model) if named.startswith("sha256") else None
        assert references.find(str(mine), base=base) == references.Model("adapter", str(mine), str(mine), FORMAT, tiny_model)


def test_artifacts_of_the_store_by_reference_alias_and_path(tiny_model: Path) -> None:
    reference, folder = _published("merge", {"config.json": "{}"}, {}, {})
    found = references.find(reference)
    assert (found.kind, found.path, found.name) == ("model", str(folder / "payload"), "merge:01234567")
    assert references.find(str(folder)) == found == references.find(str(folder / "payload"))
    write_json(Store.default().root / "aliases.json", {"champion": {"stage": "merge", "key": "0123456789abcdef" * 2}})
    assert references.find("champion") == found
    packed, folder = _published("gguf", {"m.gguf": "x"}, {}, {"file": "m.gguf"})
    assert references.find(packed).path == str(folder / "payload" / "m.gguf")


def test_an_adapter_of_the_store_knows_its_base(tiny_model: Path) -> None:
    pinned = {"digest": resolve.folder_digest(tiny_model)}
    reference, folder = _published("sft", {"adapter_config.json": "{}"}, {"base_model": str(tiny_model)}, {"base_model": pinned})
    assert references.find(reference) == references.Model("adapter", "sft:01234567", str(folder / "payload"), FORMAT, tiny_model)


def test_a_base_that_has_changed_since_is_refused(tiny_model: Path) -> None:
    reference, _ = _published("sft", {"adapter_config.json": "{}"}, {"base_model": str(tiny_model)}, {})
    with pytest.raises(BadInput, match="is not the base that the adapter was trained on"):
        references.find(reference)


def test_a_format_that_has_changed_since_is_refused() -> None:
    reference, _ = _published("merge", {"config.json": "{}"}, {}, {"chat_format": {"name": FORMAT.name, "digest": "old"}})
    with pytest.raises(BadInput, match="another version of the chat format"):
        references.find(reference)


def test_a_name_at_the_ollama_server(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeOllama() as server:
        monkeypatch.setenv("OLLAMA_HOST", server.url)
        server.blobs["sha256:x"] = b"GGUF"
        for name, template in (("ours", FORMAT.ollama), ("theirs", "{{ .Prompt }}")):
            Ollama(server.url).create(name, files={"m.gguf": "sha256:x"}, template=template, system="", parameters={})
        warned = Warnings()
        assert references.find("ollama:ours", warn=warned) == references.Model("ollama", "ollama:ours", "ours", FORMAT) and not warned
        references.find("ollama:theirs", warn=warned)
        assert "another template than chatml-think" in warned[0]
        with pytest.raises(BadInput, match=r"model 'gone' not found; the server has: ours:latest, theirs:latest"):
            references.find("ollama:gone")


def test_a_sample_is_built() -> None:
    assert (Path(references.find("sample:tiny-qwen2").path) / "config.json").is_file()


def test_an_ollama_artifact_goes_by_its_key_and_the_server_by_a_tag(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeOllama() as server:
        monkeypatch.setenv("OLLAMA_HOST", server.url)
        server.blobs["sha256:x"] = b"GGUF"
        Ollama(server.url).create("0123", files={"m.gguf": "sha256:x"}, template=FORMAT.ollama, system="", parameters={})
        assert references.find("ollama:0123").kind == "ollama"
        _, folder = _published("ollama", {"m.gguf": "x"}, {}, {"file": "m.gguf"})
        found = references.find("ollama:0123")
        assert (found.kind, found.path) == ("gguf", str(folder / "payload" / "m.gguf"))
        assert references.find("ollama:0123:latest").path == "0123:latest"


def test_no_champion_says_how_one_is_named() -> None:
    with pytest.raises(BadInput, match="no champion yet: `gwen25 promote REF`, or the deployment retrain"):
        references.find("champion")
    with pytest.raises(BadInput, match="no champion yet"):
        references.find("champion@1")


@pytest.mark.parametrize(
    ("reference", "base", "told"), [("", None, "name is empty"), (" ", None, "name is empty"), ("x", "", "--base is empty")]
)
def test_an_empty_name_is_not_the_current_folder(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, reference: str, base: str | None, told: str
) -> None:
    monkeypatch.chdir(tiny_model)
    with pytest.raises(BadInput, match=told):
        references.find(reference, base)


@pytest.mark.parametrize(
    ("reference", "told"),
    [
        ("nonsense", "no path, no alias, no store reference such as merge:3f2a"),
        ("foo:bar", "no path, no alias, no store reference"),
        ("merge:feed", "names no artifacts; `gwen25 list`"),
        ("merge", "neither a store reference"),
        ("./nowhere", "no such file or directory: ./nowhere"),
        ("model.gguf", "no such file or directory: model.gguf"),
        ("~/nowhere/at/all", "no such file or directory"),
        ("a/b/c", "no path, no alias"),
        ("x" * 5000, "no path, no alias"),
        ("ollama:", "needs a name, such as ollama:gwen25"),
        ("sample:other", "unknown sample model"),
    ],
)
def test_a_name_of_nothing_is_one_clear_error(reference: str, told: str) -> None:
    with pytest.raises(BadInput, match=told):
        references.find(reference)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("hello")
    rows, _ = _published("dataset", {"train.jsonl": "{}"}, {}, {})
    for reference, told in (
        (str(tmp_path / "empty"), "holds no model: neither config.json, nor adapter_config.json, nor a .gguf file"),
        (str(tmp_path / "text.txt"), "no whole GGUF|does not begin with GGUF|is no GGUF"),
        (rows, "is no model"),
    ):
        with pytest.raises(BadInput, match=told):
            references.find(reference)
