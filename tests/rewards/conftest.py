"""The judging service as a fixture."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.rewards.judging_service import Service, serve


@pytest.fixture
def service() -> Iterator[Service]:
    with serve() as running:
        yield running
