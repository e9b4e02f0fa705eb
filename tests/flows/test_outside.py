"""Adapters and models that gwen25 did not train, in the flows that take a model by its name."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from flows.model import given, needed
from gwen25.artifacts import Manifest, Store
from gwen25.errors import BadInput
from tests.test_imports import plain_adapter, speak_our_format


@pytest.fixture(autouse=True)
def _own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GWEN25_HOME", str(tmp_path / "home"))


@pytest.fixture
def adapter(tiny_model: Path, tmp_path: Path) -> Path:
    folder = plain_adapter(tmp_path / "adapter", tiny_model)
    speak_our_format(folder, tiny_model)
    return folder


def quiet(_: str) -> None:
    pass


def test_an_adapter_brings_the_base_that_it_names(adapter: Path, tiny_model: Path) -> None:
    it = given(str(adapter), "smoke", "reference", {}, quiet)
    assert it.artifact is not None and needed(it.artifact) == {"merge"} and it.config.base_model == str(tiny_model)
    again = given(f"adapters:{it.artifact.key[:8]}", "smoke", "reference", {}, quiet)
    assert again.artifact == it.artifact and again.config.base_model == str(tiny_model)


def test_the_overrides_base_stands_over_the_one_that_it_names(adapter: Path, tiny_model: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(tiny_model, tmp_path / "other"))
    (other / "README.md").write_text("another digest")
    it = given(str(adapter), "smoke", "reference", {"base_model": str(other)}, quiet)
    assert it.config.base_model == str(other)
    first = given(str(adapter), "smoke", "reference", {}, quiet)
    assert it.artifact is not None and first.artifact is not None and it.artifact.key != first.artifact.key


@pytest.mark.slow  # a package of both forms, in the flow's own processes: 40 s of work
@pytest.mark.usefixtures("prefect_server")
def test_package_takes_an_adapter_and_the_model_that_was_merged_of_it(adapter: Path, tmp_path: Path) -> None:
    from flows.package import package

    outcome = package(str(adapter), profile="smoke")
    assert set(outcome.artifacts) == {"merge", "gguf", "score", "ollama"} and not outcome.cached
    facts = Manifest.read(outcome.artifacts["ollama"].path).facts
    assert set(facts["outside"]) == {"digest"} and "sft" not in facts
    assert set(Manifest.read(outcome.artifacts["merge"].path).inputs) == {"adapter"}
    copy = Path(shutil.copytree(outcome.artifacts["merge"].payload, tmp_path / "merged"))
    whole = package(str(copy), profile="smoke")  # the same bytes from outside: all that was made of them is there
    assert set(whole.artifacts) == set(whole.cached) == {"gguf", "score", "ollama"}
    assert [manifest.stage for manifest in Store.default().manifests()].count("merge") == 2


@pytest.mark.slow  # it starts Prefect's server
@pytest.mark.usefixtures("prefect_server")
def test_package_refuses_a_template_of_others_in_one_line(tiny_model: Path, caplog: pytest.LogCaptureFixture) -> None:
    from flows.package import package

    state: Any = package(str(tiny_model), profile="smoke", return_state=True)
    error = state.result(raise_on_failure=False)
    assert state.is_failed() and isinstance(error, BadInput) and "take it with its own" in str(error) and "Traceback" not in caplog.text
    assert not Store.default().manifests()
