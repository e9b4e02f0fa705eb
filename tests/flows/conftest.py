"""Stores that live as long as the flow tests do."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def smoke_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """GWEN25_HOME of the undisturbed smoke run, shared by the tests that look at it."""
    return tmp_path_factory.mktemp("smoke-home")
