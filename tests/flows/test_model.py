"""Models by name: what each name means, what is no model, and the two flows that take one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from flows.model import Given, given, needed
from gwen25 import champion, resolve, samples
from gwen25.artifacts import Artifact, Made, Store
from gwen25.config import load_config
from gwen25.errors import BadInput
from tests.flows.test_decision import made


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("GWEN25_HOME", str(tmp_path / "home"))
    return Store.default()


def adapter(store: Store, stage: str, base: dict[str, str]) -> Artifact:
    for folder in ("payload", "aside"):
        (store.work(stage, "a" * 32) / folder).mkdir(parents=True)
    (store.work(stage, "a" * 32) / "payload" / "a").write_text("x")
    return store.publish(Made(stage, 1, "a" * 32, {}, {}, {}, {"base_model": base}, {}, {"seconds": 1.0}))


def of(name: str, **overrides: Any) -> Given:
    return given(name, "smoke", "reference", overrides, lambda _: None)


@pytest.mark.parametrize(
    ("stage", "nodes"), [("sft", {"adapters", "merge"}), ("grpo", {"adapters", "merge"}), ("adapters", {"merge"}), ("merge", set())]
)
def test_a_form_in_the_store_needs_the_nodes_above_it_only(store: Store, stage: str, nodes: set[str]) -> None:
    base, _ = resolve.base_model(load_config("smoke"), lambda _: None)
    artifact = adapter(store, stage, base)
    found = of(f"{stage}:aaa")
    assert found.artifact == artifact and found.outside is None and needed(artifact) == nodes


def test_the_champion_is_a_name_like_another(store: Store) -> None:
    champion.promote(store, made(store, "merge", {"a": 1}), "")
    champion.promote(store, made(store, "merge", {"a": 2}), "")
    assert [found.artifact == store.resolve(name) for name in ("champion", "champion@1") if (found := of(name))] == [True, True]


def test_models_that_lie_outside_the_store(store: Store, tiny_model: Path) -> None:
    base, directory = of("base"), of(str(tiny_model))
    assert base.outside is not None and directory.outside is not None and base.artifact is directory.artifact is None
    assert directory.outside.locations == {"model": str(tiny_model)} and directory.checked.base_model == str(tiny_model)
    served = of("http://127.0.0.1:1/v1", **{"evaluate.served_model": "coder"})
    assert served.outside is not None and served.outside.externals == {"model": {"served": "http://127.0.0.1:1/v1", "name": "coder"}}
    assert (served.config.evaluate.backend, served.config.evaluate.base_url) == ("openai", "http://127.0.0.1:1/v1")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("champion", "no champion yet"),
        ("merge:00", "names no artifacts"),
        ("gguf:0", "is no model that can be merged or evaluated here"),
        ("sft:aaa", "was trained on sha256:0000"),
        ("/no/such/model", "/no/such/model"),
        ("http://user:secret@127.0.0.1:1/v1", "user name, password"),
    ],
)
def test_what_is_no_model_of_this_run_is_refused(store: Store, name: str, expected: str) -> None:
    made(store, "gguf", {"a": 1})
    adapter(store, "sft", {"digest": "0" * 64})
    with pytest.raises(BadInput, match=expected) as refused:
        of(name)
    assert "secret@" not in str(refused.value)


def test_an_adapter_from_outside_is_told_what_it_lacks(store: Store, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(BadInput, match=r"has no adapter_model\.safetensors"):
        of(str(tmp_path))
    with pytest.raises(BadInput, match="llama-server"):
        of(str(tmp_path / "model.gguf"))


# --- the flows, for real ------------------------------------------------------------------------------------------------


@pytest.fixture
def own_home(smoke: Any, smoke_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the smoke run's store."""
    monkeypatch.setenv("GWEN25_HOME", str(tmp_path / "home"))
    return Path(shutil.copytree(smoke_home, tmp_path / "home"))


@pytest.mark.slow  # models are evaluated, merged and packaged
@pytest.mark.usefixtures("prefect_server", "own_home")
def test_evaluate_merges_an_adapter_first_and_takes_what_is_there(smoke: Any) -> None:
    from flows.evaluate import evaluate

    outcome = evaluate(f"grpo:{smoke.artifacts['grpo'].key}", profile="smoke")
    assert set(outcome.artifacts) == set(outcome.cached) == {"adapters", "merge", "evaluate"}
    assert outcome.artifacts["evaluate"].key == smoke.artifacts["evaluate"].key


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server", "own_home")
def test_evaluate_takes_the_base_model_and_other_problems(tmp_path: Path) -> None:
    from prefect.artifacts import Artifact as Page

    from flows.evaluate import evaluate

    problems = tmp_path / "problems.jsonl"
    problems.write_text("".join(samples.path("problems.jsonl").read_text().splitlines(keepends=True)[:2]))
    outcome = evaluate("base", profile="smoke", overrides={"evaluate.problems": str(problems), "evaluate.n": 1})
    assert set(outcome.artifacts) == {"evaluate"} and not outcome.cached
    report = json.loads((outcome.artifacts["evaluate"].payload / "report.json").read_text())
    assert report["n"] == 1 and len(report["rows"]) == 2
    page = Page.get("evaluate-report")
    assert page is not None and page.data == (outcome.artifacts["evaluate"].payload / "report.md").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server", "own_home")
def test_package_brings_an_sft_adapter_to_ollamas_package(smoke: Any) -> None:
    from flows.package import package

    outcome = package(f"sft:{smoke.artifacts['sft'].key[:12]}", profile="smoke")
    assert set(outcome.artifacts) == {"adapters", "merge", "gguf", "score", "ollama"} and not outcome.cached
    assert "No reinforcement learning was run on it." in (outcome.artifacts["adapters"].payload / "README.md").read_text()
    again = package("merge:" + outcome.artifacts["merge"].key, profile="smoke")
    assert set(again.cached) == {"gguf", "score", "ollama"} and again.artifacts["ollama"].digest == outcome.artifacts["ollama"].digest


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("model", ["base", "champion"])
def test_package_refuses_what_is_not_in_the_store_in_one_line(store: Store, model: str, caplog: pytest.LogCaptureFixture) -> None:
    from flows.package import package

    state = package(model, profile="smoke", return_state=True)
    assert state.is_failed() and isinstance(state.result(raise_on_failure=False), BadInput) and "Traceback" not in caplog.text
