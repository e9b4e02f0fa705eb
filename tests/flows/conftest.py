"""Runs of the flow, and stores that live as long as the tests of it do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def smoke_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """GWEN25_HOME of the undisturbed smoke run, shared by the tests that look at it."""
    return tmp_path_factory.mktemp("smoke-home")


def run(home: Path, monkeypatch: pytest.MonkeyPatch, **parameters: Any) -> Any:
    """The flow's Outcome, or the error it ended with."""
    from flows.finetune import finetune

    monkeypatch.setenv("GWEN25_HOME", str(home))
    return finetune(profile="smoke", return_state=True, **parameters).result(raise_on_failure=False)


@pytest.fixture
def smoke(smoke_home: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The undisturbed run: made by the first test that asks, a hit for the others."""
    outcome = run(smoke_home, monkeypatch)
    assert not isinstance(outcome, BaseException), outcome
    return outcome
