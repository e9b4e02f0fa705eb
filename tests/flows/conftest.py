"""One Prefect server for all flow tests, and stores that live as long as they do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """A temporary server: up in about 12 s, so once for the session."""
    os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(scope="session")
def smoke_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """GWEN25_HOME of the undisturbed smoke run, shared by the tests that look at it."""
    return tmp_path_factory.mktemp("smoke-home")
