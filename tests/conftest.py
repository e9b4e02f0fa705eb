"""What many tests need: real data where it is at hand, the tiny model, a clean environment."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from gwen25 import child

REPOSITORY = Path(__file__).parent.parent
os.environ["HF_HUB_OFFLINE"] = "1"  # huggingface_hub reads it once, as it is imported
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores Ctrl-C, and so would every process started here


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No key, host or store of the developer's reaches a test."""
    for name in (
        "AUTO_HPARAMS",
        "GEMINI_API_KEY",
        "GOOGLE_API_KEY",
        "OPENAI_API_KEY",
        "OLLAMA_HOST",
        "HF_TOKEN",
        "PREFECT_API_URL",
        "GWEN25_FAULTS",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GWEN25_HOME", str(tmp_path_factory.getbasetemp() / "gwen25-home"))
    child.allow()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data: GWEN25_TEST_DATA, or ../shared/data beside the checkout. Skips where there is none."""
    folder = Path(os.environ.get("GWEN25_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}: set GWEN25_TEST_DATA to a folder that holds it")
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smoke profile's base model, built once."""
    from gwen25.samples import tiny

    folder = tmp_path_factory.mktemp("tiny-qwen2")
    tiny.build(folder)
    return folder


@pytest.fixture
def deterministic() -> Iterator[None]:
    """Puts back what a test does to torch's determinism."""
    import torch

    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    yield
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])
    torch.backends.cudnn.benchmark = benchmark


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """A temporary server: up in about 12 s, so once for the session."""
    os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield
