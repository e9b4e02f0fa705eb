"""Push: the card from what the store knows, what is never sent, and a hub (a real HTTP server) that answers, refuses and breaks off."""

from __future__ import annotations

import getpass
import json
import shutil
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from gwen25 import cli
from gwen25.artifacts import Artifact, Made, Store
from gwen25.chat import FORMATS
from gwen25.errors import BadInput
from gwen25.hub import story as telling
from gwen25.hub.card import card
from gwen25.hub.clean import require_clean
from gwen25.hub.send import pack
from gwen25.pipelines import gguf
from tests.fake_hub import TOKEN, FakeHub, Repository

FORMAT = FORMATS["chatml-think"]
BASE = {"id": "Qwen/Qwen2.5-3B", "revision": "3" * 40}
PROVENANCE = {"seconds": 1.0, "python": "3.11.7", "packages": {"gwen25": "0.1.0", "peft": "0.21.2"}, "peak_rss_bytes": 1}
DATA = {
    "data": {"id": "nvidia/OpenCodeReasoning", "revision": "a" * 40},
    "licenses": {"cc-by-4.0": 50},
    "rows_train": 50,
    "solutions_verified": True,
}
FACTS = {
    "base_model": BASE,
    "chat_format": {"name": FORMAT.name, "digest": FORMAT.digest},
    "license": "Qwen Research",
    "dataset": DATA,
    "sft": {"learning_rate": 2e-4, "lora_r": 16, "load_in_4bit": True},
    "adapter": {"rank": 16},
}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("GWEN25_HOME", str(tmp_path / "home"))
    return Store.default()


def published(
    store: Store, stage: str, number: int, files: dict[str, Any], inputs: dict[str, Artifact] | None = None, **more: Any
) -> Artifact:
    """An artifact with these files; `more` are its facts, metrics or externals."""
    key = f"{number:032x}"
    work = store.work(stage, key)
    (work / "payload").mkdir(parents=True)
    (work / "aside").mkdir()
    for name, content in files.items():
        if isinstance(content, Path):
            (work / "payload" / name).write_bytes(content.read_bytes())
        else:
            (work / "payload" / name).write_text(content)
    made = {"config": {}, "externals": {}, "facts": FACTS, "metrics": {}, "provenance": PROVENANCE, **more}
    return store.publish(Made(stage=stage, version=1, key=key, inputs=inputs or {}, **made))


def report(model: str, value: float) -> dict[str, Any]:
    score = {"value": value, "low": value / 2, "high": value + 0.1}
    return {
        "benchmark": "livecodebench", "model": model, "source": "livecodebench/code_generation_lite", "release": "release_v1", "n": 5,
        "temperature": 0.2, "max_tokens": 1024, "samples": 60, "problems": {"all": 12}, "scores": {"all": {"1": score}}, "notes": [],
        "window": {"first": "2024-03-09", "last": "2025-01-11", "start_date": None, "end_date": None}, "prompt": "chat",
    }  # fmt: skip


SETTINGS = {"problems_from": {"digest": "p"}, "n": 5, "temperature": 0.2, "max_tokens": 1024, "prompt": "chat"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> dict[str, Artifact]:
    """A whole run, as the store would hold it: data set to package, and evaluations of the merged model and of the base."""
    store = Store(tmp_path_factory.mktemp("made") / "store")
    dropped = {"rows_read": 64, "rows_kept": 50, "dropped": {"too_long": 13, "duplicate": 1, "seam": 0}}
    made = {"dataset": published(store, "dataset", 1, {"train.jsonl": "{}"}, facts=DATA, metrics=dropped)}
    weights = "w" * 3000
    made["sft"] = published(store, "sft", 2, {"adapter_model.safetensors": weights}, {"dataset": made["dataset"]})
    files = {"adapter_model.safetensors": weights + "a", "adapter_config.json": "{}", "README.md": "the stage's own card"}
    made["adapters"] = published(store, "adapters", 3, files, {"adapter": made["sft"]})
    made["merge"] = published(store, "merge", 4, {"model.safetensors": weights + "m", "config.json": "{}"}, {"adapter": made["adapters"]})
    file = store.root.parent / "gwen25-f16.gguf"
    gguf.convert(tiny_model, file, "f16", chat_format=FORMAT)
    facts = {**FACTS, "file": file.name, "type": "f16", "bytes": file.stat().st_size}
    made["gguf"] = published(store, "gguf", 5, {file.name: file}, {"model": made["merge"]}, facts=facts, metrics={"bits_per_weight": 16.1})
    packed = {"Modelfile": f"FROM ./{file.name}\n", file.name: file, "README.md": "x"}
    made["ollama"] = published(store, "ollama", 6, packed, {"gguf": made["gguf"]}, facts={**facts, "name": "coder"})
    own = {"report.json": json.dumps(report("merge:0000", 0.25))}
    made["evaluate"] = published(store, "evaluate", 7, own, {"model": made["merge"]}, facts=SETTINGS)
    published(store, "evaluate", 8, {"report.json": json.dumps(report("base", 0.125))}, facts=SETTINGS, externals={"model": BASE})
    return made


@pytest.fixture
def run(store: Store, made: dict[str, Artifact]) -> dict[str, Artifact]:
    """A copy of that run in the test's own store."""
    shutil.copytree(made["merge"].path.parents[1], store.root, dirs_exist_ok=True)
    return {stage: one.model_copy(update={"path": store.folder(one.stage, one.key)}) for stage, one in made.items()}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub that the client asks: online, without xet (whose protocol it does not speak), and without pauses between tries."""
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(_http, "time", types.SimpleNamespace(sleep=lambda seconds: None, time=_http.time.time))
    with FakeHub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


def told(store: Store, artifact: Artifact) -> str:
    return card(telling.tell(store, artifact), "me/model")


def metadata(text: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(text.split("---")[1])
    return found


# ------------------------------------------------------------------------------------------------------------------ the card


@pytest.mark.parametrize(
    ("stage", "relation", "library"),
    [("adapters", "adapter", "peft"), ("merge", "finetune", "transformers"), ("gguf", "quantized", "gguf")],
)
def test_the_hubs_metadata(store: Store, run: dict[str, Artifact], stage: str, relation: str, library: str) -> None:
    found = metadata(told(store, run[stage]))
    assert (found["base_model"], found["base_model_relation"], found["library_name"]) == ("Qwen/Qwen2.5-3B", relation, library)
    assert (found["license"], found["license_name"]) == ("other", "qwen-research")
    assert found["license_link"] == "https://huggingface.co/Qwen/Qwen2.5-3B/blob/main/LICENSE"
    assert found["datasets"] == ["nvidia/OpenCodeReasoning"] and found["pipeline_tag"] == "text-generation"


def test_the_card_tells_data_recipe_and_every_stage(store: Store, run: dict[str, Artifact]) -> None:
    text = told(store, run["gguf"])
    assert "Of 64 rows read, 50 were kept" in text and "| too_long | 13 |" in text and "seam" not in text
    assert "| lora_r | 16 |" in text and "No reinforcement learning was run on it." in text and "4-bit copy of the base" in text
    assert "| gwen25-f16.gguf | f16 | 16.1 |" in text and "ollama create coder -f Modelfile" in text
    for stage in ("gguf", "merge", "adapters", "sft", "dataset"):
        assert f"| {stage} | `{run[stage].key}` | `{run[stage].digest}` |" in text
    assert "gwen25 0.1.0" in text and FORMAT.render([{"role": "user", "content": "x"}])[-30:] in text


def test_a_score_stands_with_n_interval_and_the_base_beside_it(store: Store, run: dict[str, Artifact]) -> None:
    for stage in ("adapters", "merge", "gguf"):
        text = told(store, run[stage])
        assert "25.0% (12.5% to 35.0%) | 12.5% (6.2% to 22.5%)" in text and "| samples each (n) | 5 | 5 |" in text
        assert ("not on this form of it" in text) == (stage != "merge")


def test_what_was_not_measured_is_said_not_left_out(store: Store) -> None:
    alone = published(store, "merge", 1, {"model.safetensors": "w"}, facts={**FACTS, "license": None, "base_model": {"digest": "0" * 64}})
    text = told(store, alone)
    assert "On problems: not measured." in text and "Nobody has measured how well it does." in text
    assert "Licence: unknown" in text and "license" not in metadata(text) and "base_model" not in metadata(text)
    assert "no longer in the store" in text  # the data set


def test_an_evaluation_of_other_bytes_does_not_count(store: Store, run: dict[str, Artifact]) -> None:
    other = published(store, "merge", 99, {"model.safetensors": "another"}, {"adapter": run["sft"]})
    assert "not measured" in told(store, other)


def test_a_stage_that_is_no_form_of_the_model_is_refused(store: Store, run: dict[str, Artifact]) -> None:
    for stage, instead in (("sft", "gwen25 adapters"), ("ollama", "gwen25 gguf"), ("dataset", "gwen25 merge")):
        with pytest.raises(BadInput, match=instead):
            telling.tell(store, run[stage])


# ------------------------------------------------------------------------------------------------------------- what is sent


def push(*arguments: str) -> int:
    return cli.main(["push", *arguments])


def test_a_gguf_goes_up_in_one_commit_with_card_and_modelfile(run: dict[str, Artifact], hub: FakeHub, capsys: Any) -> None:
    assert push("gguf:0", "me/model", "--private") == 0
    repository = hub.repositories["me/model"]
    assert repository.private and len(repository.messages) == 1
    assert set(repository.files) == {".gitattributes", "gwen25-f16.gguf", "Modelfile", "README.md"}
    assert repository.files["gwen25-f16.gguf"] == (run["gguf"].payload / "gwen25-f16.gguf").read_bytes()
    assert repository.commits[-1] in capsys.readouterr().out


def test_the_stages_own_card_is_replaced(run: dict[str, Artifact], hub: FakeHub) -> None:
    assert push("adapters:0", "me/model") == 0
    files = hub.repositories["me/model"].files
    assert set(files) == {".gitattributes", "adapter_model.safetensors", "adapter_config.json", "README.md"}
    assert b"## Evaluation" in files["README.md"] and b"the stage's own card" not in files["README.md"]
    assert not hub.repositories["me/model"].private


def test_nothing_that_is_sent_tells_a_path_a_user_or_a_secret(run: dict[str, Artifact], hub: FakeHub, tmp_path: Path, capsys: Any) -> None:
    assert push("merge:0", "me/model") == 0
    sent = b"\n".join(hub.bodies)
    for word in (str(tmp_path), str(Path.home()), TOKEN, getpass.getuser() + "/.gwen25"):
        assert word.encode() not in sent
    shown = capsys.readouterr()
    assert TOKEN not in shown.out + shown.err


@pytest.mark.parametrize(("text", "why"), [("{home}/base", "the path"), (TOKEN, "a secret of this environment")])
def test_a_file_that_would_tell_is_refused_before_anything_is_sent(
    store: Store, hub: FakeHub, tmp_path: Path, capsys: Any, text: str, why: str
) -> None:
    content = json.dumps({"note": text.format(home=tmp_path / "home")})
    published(store, "merge", 1, {"model.safetensors": "w", "config.json": content})
    assert push("merge:0", "me/model") == 2
    shown = capsys.readouterr().err
    assert "config.json" in shown and why in shown and TOKEN not in shown and not hub.requests


def test_a_dry_run_asks_no_hub_and_needs_no_token(
    run: dict[str, Artifact], hub: FakeHub, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    assert push("gguf:0", "me/model", "--dry-run") == 0
    assert capsys.readouterr().out.startswith("---\n")
    assert push("gguf:0", "me/model", "--dry-run", str(tmp_path / "out")) == 0
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"gwen25-f16.gguf", "Modelfile", "README.md"}
    assert push("gguf:0", "me/model", "--dry-run", str(tmp_path / "out")) == 2 and "--force" in capsys.readouterr().err
    assert push("gguf:0", "me/model", "--dry-run", str(tmp_path / "out"), "--force") == 0
    assert not hub.requests
    assert push("gguf:0", "me/model") == 2 and "HF_TOKEN is not set" in capsys.readouterr().err


def test_a_second_push_sends_no_weights_again(run: dict[str, Artifact], hub: FakeHub) -> None:
    assert push("gguf:0", "me/model") == 0
    sent = hub.uploads
    assert push("gguf:0", "me/model") == 0 and hub.uploads == sent


def test_damage_in_the_store_is_found_before_it_is_published(run: dict[str, Artifact], hub: FakeHub, capsys: Any) -> None:
    file = run["merge"].payload / "model.safetensors"
    file.write_text("x" * file.stat().st_size)
    assert push("merge:0", "me/model") == 1 and "is not what was written" in capsys.readouterr().err and not hub.requests


# ------------------------------------------------------------------------------------------------------ a hub that does not take it


@pytest.mark.parametrize(
    ("path", "status", "exit", "words"),
    [
        ("/api/whoami-v2", 401, 2, "HF_TOKEN is not one that it knows"),
        ("/api/repos/create", 403, 2, "me/model was not made"),
        ("/api/models/me/model/preupload/main", 403, 2, "HF_TOKEN may not write there"),
        ("/api/models/me/model/preupload/main", 500, 1, "was made by this push and holds no files"),
        ("/me/model.git/info/lfs/objects/batch", 503, 1, "was made by this push and holds no files"),
        ("/verify", 400, 2, "was made by this push and holds no files"),
        ("/api/models/me/model/commit/main", 409, 1, "push again"),
        ("/api/models/me/model/commit/main", 500, 1, "was made by this push and holds no files"),
        ("/api/models/me/model/commit/main", 400, 2, "was made by this push and holds no files"),
    ],
)
def test_a_refusal_is_one_line_and_changes_nothing(
    run: dict[str, Artifact], hub: FakeHub, capsys: Any, path: str, status: int, exit: int, words: str
) -> None:
    hub.answers[path] = status
    assert push("gguf:0", "me/model") == exit
    shown = capsys.readouterr().err
    last = shown.strip().splitlines()[-1]
    assert last.startswith("gwen25: the hub refused me/model with") and words in last and "Traceback" not in shown and TOKEN not in shown
    assert all(repository.files.keys() == {".gitattributes"} for repository in hub.repositories.values())
    hub.answers.clear()
    assert push("gguf:0", "me/model") == 0  # and the same push goes on


def test_an_upload_that_is_cut_is_tried_again_and_nothing_is_half_there(run: dict[str, Artifact], hub: FakeHub) -> None:
    hub.cut = True
    assert push("gguf:0", "me/model") == 0
    assert hub.repositories["me/model"].files["gwen25-f16.gguf"] == (run["gguf"].payload / "gwen25-f16.gguf").read_bytes()


def test_a_hub_that_is_away_is_unavailable(run: dict[str, Artifact], hub: FakeHub, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    assert push("gguf:0", "me/model") == 1
    assert "me/model is as it was" in capsys.readouterr().err


def test_a_commit_whose_answer_is_lost_is_not_called_undone(run: dict[str, Artifact], hub: FakeHub, capsys: Any) -> None:
    hub.lose_commit = True
    assert push("gguf:0", "me/model") == 1
    assert "whether the commit was made is not known" in capsys.readouterr().err


def test_files_of_another_model_are_not_mixed_with_ours(run: dict[str, Artifact], hub: FakeHub, capsys: Any) -> None:
    assert push("merge:0", "me/model") == 0
    before = dict(hub.repositories["me/model"].files)
    assert push("adapters:0", "me/model") == 2 and "would lie beside this model's, such as config.json" in capsys.readouterr().err
    assert hub.repositories["me/model"].files == before


@pytest.mark.parametrize("place", ["model", "a/b/c", "https://huggingface.co/me/model", "me/"])
def test_a_place_that_is_none_is_refused(run: dict[str, Artifact], hub: FakeHub, capsys: Any, place: str) -> None:
    assert push("gguf:0", place) == 2 and "owner/name is expected" in capsys.readouterr().err and not hub.requests


def test_a_gguf_that_tells_a_path_in_its_keys_is_found(store: Store, tmp_path: Path, tiny_model: Path) -> None:
    file = tmp_path / "model.gguf"
    gguf.convert(tiny_model, file, "f16", name=str(tmp_path / "home" / "secret"))
    artifact = published(store, "gguf", 1, {"model.gguf": file}, facts={**FACTS, "file": "model.gguf", "type": "f16", "bytes": 1})
    with pytest.raises(BadInput, match=r"model\.gguf would tell the path"):
        require_clean(pack(telling.tell(store, artifact), artifact.payload, "me/model").files)


# ------------------------------------------------------------------------------------------- who sees it, and what it tells of here


def test_private_is_refused_where_the_repository_is_public_already(run: dict[str, Artifact], hub: FakeHub, capsys: Any) -> None:
    hub.repositories["me/model"] = Repository(private=False)
    assert push("gguf:0", "me/model", "--private") == 2 and "me/model is public" in capsys.readouterr().err
    assert not hub.uploads and hub.repositories["me/model"].files.keys() == {".gitattributes"}
    hub.repositories["me/model"].private = True
    assert push("gguf:0", "me/model", "--private") == 0


def test_a_repository_that_was_there_is_told_apart_from_one_that_the_push_made(run: dict[str, Artifact], hub: FakeHub, capsys: Any) -> None:
    hub.answers["/api/models/me/model/commit/main"] = 500
    assert push("gguf:0", "me/model") == 1 and "was made by this push" in capsys.readouterr().err
    assert push("gguf:0", "me/model") == 1 and "me/model is as it was" in capsys.readouterr().err


def pushed(store: Store, name: str, value: Any) -> int:
    published(store, "merge", 1, {"model.safetensors": "w", name: json.dumps(value)})
    return push("merge:0", "me/model")


@pytest.mark.parametrize("path", ["/data/alice/x", "C:\\models\\x", "~/x", "/srv/models/mine"])
def test_a_value_that_is_a_path_is_refused(store: Store, hub: FakeHub, capsys: Any, path: str) -> None:
    assert pushed(store, "config.json", {"p": [path]}) == 2 and "config.json would tell the path" in capsys.readouterr().err
    assert not hub.requests


def test_a_home_of_one_step_is_found_inside_a_text(store: Store, hub: FakeHub, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("HOME", "/srv")
    assert pushed(store, "config.json", {"p": "made from /srv/models/mine"}) == 2 and "the path /srv" in capsys.readouterr().err


def test_entries_of_a_vocabulary_are_no_paths(store: Store, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/root")
    vocabulary = {"model": {"vocab": {"/": 0, "/root": 1, "/usr/bin": 2}, "merges": ["/root /x"]}, "added_tokens": [{"content": "/a/b"}]}
    assert pushed(store, "tokenizer.json", vocabulary) == 0


def test_paths_that_loaders_note_are_taken_out(store: Store, hub: FakeHub, capsys: Any) -> None:
    noted = {"name_or_path": "/data/alice/x", "inner": {"_name_or_path": "~/x"}, "base_model_name_or_path": "/data/b", "r": 16}
    assert pushed(store, "adapter_config.json", noted | {"revision": None}) == 0 and "which is not sent" in capsys.readouterr().err
    sent = json.loads(hub.repositories["me/model"].files["adapter_config.json"])
    assert sent == {"inner": {}, "base_model_name_or_path": "Qwen/Qwen2.5-3B", "r": 16, "revision": None}


def test_a_config_that_was_cleaned_is_still_searched(store: Store, hub: FakeHub, capsys: Any) -> None:
    assert pushed(store, "config.json", {"_name_or_path": "/data/alice/x", "p": "/data/alice/y"}) == 2 and not hub.requests


def test_the_metadata_of_safetensors_is_read(store: Store, hub: FakeHub, tmp_path: Path, capsys: Any) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    save_file({"w": np.zeros(2, np.float32)}, tmp_path / "w.safetensors", metadata={"trained_on": "/data/alice/x"})
    published(store, "merge", 1, {"model.safetensors": tmp_path / "w.safetensors"})
    assert push("merge:0", "me/model") == 2 and "model.safetensors would tell the path" in capsys.readouterr().err
