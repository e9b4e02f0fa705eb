"""A vLLM server (make vllm-env) gives the greedy answers that Transformers gives, on the same model directory."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from gwen25 import chat, cli
from tests.conftest import REPOSITORY

PYTHON = REPOSITORY / ".venv-vllm" / "bin" / "python"
pytestmark = [pytest.mark.server, pytest.mark.skipif(not PYTHON.exists(), reason="no vLLM environment: make vllm-env")]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The tiny pretrained model as `merge` leaves one: our template, our stop tokens."""
    from gwen25 import modeling
    from gwen25.samples import tiny

    folder = tmp_path / "model"
    tiny.build(folder, pretrained=True)
    tokenizer = modeling.load_tokenizer(folder, chat.FORMATS["chatml-think"])
    modeling.save_tokenizer(tokenizer, folder)
    modeling.generation_config(tokenizer, chat.FORMATS["chatml-think"]).save_pretrained(folder)
    return folder


@pytest.fixture
def server(model: Path, tmp_path: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = [
        "--model",
        str(model),
        "--port",
        str(port),
        "--host",
        "127.0.0.1",
        "--dtype",
        "float32",
        "--enforce-eager",
        "--max-model-len",
        "1024",
    ]
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "DO_NOT_TRACK": "1"}
    with (tmp_path / "vllm.log").open("w") as log:
        process = subprocess.Popen(
            [str(PYTHON), "-m", "vllm.entrypoints.openai.api_server", *options],
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}/v1"
        end = time.monotonic() + 180
        while True:
            try:
                urllib.request.urlopen(f"{url}/models", timeout=2)
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < end, (tmp_path / "vllm.log").read_text()[-3000:]
                time.sleep(1)
        yield url
    finally:
        os.killpg(process.pid, 9)
        process.wait()


def test_greedy_answers_equal_transformers(model: Path, server: str, tmp_path: Path) -> None:
    greedy = ["--temperature", "0", "--n", "1", "--max-tokens", "160"]
    assert cli.main(["evaluate", str(model), *greedy, "--out", str(tmp_path / "transformers")]) == 0
    assert cli.main(["evaluate", "--backend", "openai", "--base-url", server, *greedy, "--out", str(tmp_path / "vllm")]) == 0
    ours, theirs = (
        {row["question_id"]: row["outputs"] for row in map(json.loads, (tmp_path / side / "samples.jsonl").read_text().splitlines())}
        for side in ("transformers", "vllm")
    )
    assert ours == theirs and len(ours) == 12
    assert any("</think>" in output for outputs in ours.values() for output in outputs), "nothing worth comparing was written"
