"""Releases: which files of the hub are one, from a small hub of our own."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from gwen25.benchmarks.releases import fetch
from gwen25.errors import BadInput, Unavailable
from tests.benchmarks.lcb_rows import row


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's REST as a download needs: one data set, two files, at one commit."""

    commit = "a" * 40

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        name = self.path.rsplit("/", 1)[-1]
        number = {"test.jsonl": 1, "test2.jsonl": 2}.get(name)
        known = number is not None and self.path.startswith(f"/datasets/some/benchmark/resolve/{self.commit}/")
        data = json.dumps(row(question_id=f"q{number}")).encode() + b"\n" if known else b""
        self.send_response(200 if known else 404)
        if not known:
            self.send_header("X-Error-Code", "EntryNotFound" if "some/benchmark" in self.path else "RepoNotFound")
        self.send_header("X-Repo-Commit", self.commit)
        self.send_header("ETag", f'"{name}"')
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


FETCH = """
import sys
from gwen25.benchmarks import livecodebench
from gwen25.benchmarks.livecodebench import fetch, read
try:
    print([problem.id for problem in read(fetch(*sys.argv[1:]))])
except Exception as error:
    print(type(error).__name__, error)
"""


def fetched(hub: str, home: Path, *arguments: str) -> str:
    """In a process of its own: huggingface_hub reads its environment once, when it is imported."""
    environment = {"HF_ENDPOINT": hub, "HF_HOME": str(home), "PATH": "/usr/bin:/bin", "HF_HUB_DISABLE_TELEMETRY": "1"}
    done = subprocess.run(
        [sys.executable, "-c", FETCH, *arguments],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.stdout or done.stderr


def test_a_release_is_its_first_files_at_a_revision(hub: str, tmp_path: Path) -> None:
    assert fetched(hub, tmp_path, "some/benchmark", Hub.commit, "release_v2") == "['q1', 'q2']\n"
    assert "BadInput the hub has no release_v3" in fetched(hub, tmp_path, "some/benchmark", Hub.commit, "release_v3")
    assert "BadInput the hub has no release_v1 of some/thing" in fetched(hub, tmp_path, "some/thing", Hub.commit, "release_v1")
    assert fetched("http://127.0.0.1:9", tmp_path, "some/benchmark", Hub.commit, "release_v1") == "['q1']\n"  # from the cache


def test_a_release_that_is_none_is_refused() -> None:
    with pytest.raises(BadInput, match="release_v1"):
        fetch("some/benchmark", "main", "latest")


def test_an_offline_hub_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(Unavailable, match="the hub did not give release_v1"):
        fetch("some/benchmark", Hub.commit, "release_v1")
