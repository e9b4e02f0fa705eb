"""The client of Ollama's REST, against a server that speaks it as v0.33 was seen to: uploads, refusals, the probe."""

from __future__ import annotations

import dataclasses
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gwen25 import gguf_writer, ollama_api
from gwen25.chat import FORMATS
from gwen25.errors import BadInput, Unavailable
from gwen25.ollama_api import Ollama, probe_server, server_url
from tests.fake_ollama import CHATML_JINJA, FakeOllama

FORMAT = FORMATS["chatml-think"]


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    """Bytes that begin like a GGUF: the server of these tests looks no further."""
    file = tmp_path / "m.gguf"
    file.write_bytes(b"GGUF" + bytes(1 << 18))
    return file


def test_progress_counts_the_bytes_that_were_sent(tmp_path: Path) -> None:
    file = tmp_path / "large"
    file.write_bytes(b"GGUF" + bytes(40 << 20))
    told: list[tuple[int, int]] = []
    with FakeOllama() as server:
        Ollama(server.url).upload(file, lambda done, total: told.append((done, total)))
        size = file.stat().st_size
        assert [(done >> 24, total) for done, total in told] == [(1, size), (2, size), (2, size)]
        assert told[-1] == (size, size)
        Ollama(server.url).upload(file, lambda done, total: told.append((done, total)))
        assert len(told) == 3, "nothing was sent"


def test_a_blob_that_somebody_else_sent_meanwhile_is_taken(gguf: Path) -> None:
    """The server then answers without reading, and the sender's connection breaks."""
    with FakeOllama("sent meanwhile") as server:
        assert Ollama(server.url).upload(gguf) in server.blobs


# ------------------------------------------------------------------------------------------------------ what the server says


def test_refusals_carry_the_servers_words(gguf: Path, tmp_path: Path) -> None:
    rest: dict[str, Any] = {"template": "{{ .Prompt }}", "system": "", "parameters": {}}
    with FakeOllama() as fake:
        server = Ollama(fake.url, timeout=5)
        digest = server.upload(gguf)
        with pytest.raises(BadInput, match="invalid model name"):
            server.create("no such/name!", files={"m.gguf": digest}, **rest)
        with pytest.raises(BadInput, match="neither 'from' or 'files' was specified"):
            server.create("n", files={}, **rest)
        with pytest.raises(Unavailable, match="no such file or directory"):  # pruned since: another attempt sends it again
            server.create("n", files={"m.gguf": "sha256:" + "0" * 64}, **rest)
        with pytest.raises(BadInput, match=r"template error: .* unclosed action"):
            server.create("n", files={"m.gguf": digest}, **{**rest, "template": "{{ .Prompt"})
        (tmp_path / "junk").write_bytes(b"PK")
        with pytest.raises(BadInput, match="supplied file was not in GGUF format"):
            server.create("n", files={"m.gguf": server.upload(tmp_path / "junk")}, **rest)
        with pytest.raises(BadInput, match=r"refused /api/show \(404\): model 'n' not found"):
            server.show("n")
        server.create("n", files={"m.gguf": digest}, **rest)
        assert server.models() == ["n:latest"]
        server.delete("n")
        with pytest.raises(BadInput, match="model 'n' not found"):
            server.delete("n")


def test_names_are_those_that_the_server_lists(gguf: Path) -> None:
    with FakeOllama() as fake:
        server = Ollama(fake.url)
        assert server.models() == [] and server.digest("n") is None, "a server without any says null"
        server.create("n", files={"m.gguf": server.upload(gguf)}, template="t", system="", parameters={})
        server.copy("n", "me/n:q4")
        assert server.models() == ["n:latest", "me/n:q4"]
        assert server.digest("n") == server.digest("me/n:q4") is not None
        fake.faults = {"lists oddly"}
        with pytest.raises(BadInput, match="is no Ollama server: /api/tags lists 'none'"):
            server.models()


def test_a_line_of_a_stream_that_is_no_object_is_none_of_ollamas(gguf: Path) -> None:
    with FakeOllama() as fake:
        server = Ollama(fake.url)
        files = {"m.gguf": server.upload(gguf)}
        server.create("n", files=files, template="t", system="", parameters={})
        fake.faults = {"says a number"}
        with pytest.raises(BadInput, match="is no Ollama server: /api/create gave b'17"):
            server.create("m", files=files, template="t", system="", parameters={})
        with pytest.raises(BadInput, match="is no Ollama server: /api/chat gave b'17"):
            list(server.stream("n", [{"role": "user", "content": "x"}], {}))
        assert server.models() == ["n:latest"]


def test_a_parameter_of_a_wrong_type_passes_create_and_fails_later(gguf: Path) -> None:
    """Why values are checked before they are sent; and that the 500 is no reason to try again."""
    with FakeOllama() as fake:
        server = Ollama(fake.url)
        files = {"m.gguf": server.upload(gguf)}
        assert server.create("n", files=files, template="t", system="", parameters={"temperature": "hot"})[-1] == "success"
        with pytest.raises(BadInput, match='option "temperature" must be of type float32'):
            server.chat("n", [{"role": "user", "content": "x"}], {})


def test_the_server_replaces_a_template_near_its_own(tiny_model: Path, tmp_path: Path) -> None:
    """Without a TEMPLATE a ChatML that opens <think> loses it, as seen on v0.33; ours is always sent."""
    near = dataclasses.replace(FORMAT, jinja=CHATML_JINJA.replace("assistant\\n'", "assistant\\n<think>\\n'"))
    assert near.jinja != CHATML_JINJA
    gguf_writer.write(tiny_model, tmp_path / "near.gguf", "f16", chat_format=near)
    with FakeOllama() as fake:
        server = Ollama(fake.url)
        files = {"m.gguf": server.upload(tmp_path / "near.gguf")}
        told = server.create("n", files=files, template="", system="", parameters={})
        assert "using autodetected template chatml" in told
        assert "<think>" not in server.show("n")["template"]
        server.create("n", files=files, template=FORMAT.ollama, system="", parameters={})
        assert server.show("n")["template"] == FORMAT.ollama


# ------------------------------------------------------------------------------------------------------------------ the probe


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("", "http://127.0.0.1:11434"),
        ("example.org", "http://example.org:11434"),
        ("10.0.0.5:8000", "http://10.0.0.5:8000"),
        (":8000", "http://127.0.0.1:8000"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:80", "http://127.0.0.1:80"),
        ("http://example.org", "http://example.org:80"),
        ("https://example.org", "https://example.org:443"),
        ("https://example.org:8443/ollama/", "https://example.org:8443/ollama"),
        ("http://0.0.0.0:11434", "http://127.0.0.1:11434"),
        ("example.org/ollama", "http://example.org:11434/ollama"),
        ("::1", "http://[::1]:11434"),
        ("[::1]:8000", "http://[::1]:8000"),
        ("[::]:8000", "http://[::1]:8000"),
        (' "127.0.0.1:1234" ', "http://127.0.0.1:1234"),
    ],
)
def test_forms_of_ollama_host(host: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", host)
    assert server_url() == url


@pytest.mark.parametrize("host", ["ftp://example.org", "host:port", "127.0.0.1:99999", "user@host", "a b", "[::1"])
def test_no_address(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", host)
    with pytest.raises(BadInput, match=r"OLLAMA_HOST=.* is no address .*; such as 127\.0\.0\.1:11434"):
        server_url()


def test_the_probe_finds_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeOllama(version="0.33.1") as server:
        monkeypatch.setenv("OLLAMA_HOST", server.url)
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # not asked: the address is the user's own
        assert probe_server() == (server.url, "0.33.1")


@pytest.fixture
def mute() -> Iterator[socket.socket]:
    """A port that takes connections and says nothing, unless the test makes it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def test_the_probe_finds_none(mute: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ollama_api, "PROBE_SECONDS", 0.2)
    monkeypatch.setenv("OLLAMA_HOST", f"127.0.0.1:{mute.getsockname()[1]}")
    assert probe_server() is None, "silent"
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setenv("OLLAMA_HOST", f"127.0.0.1:{port}")
    assert probe_server() is None, "nobody there"


@pytest.mark.parametrize(
    "said", [b"HTTP/1.1 200 OK\r\n\r\n<html>", b"HTTP/1.1 200 OK\r\n\r\n[]", b"HTTP/1.1 404 No\r\n\r\n", b"SSH-2.0-x\r\n", b""]
)
def test_the_probe_finds_something_else(said: bytes, mute: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    def serve() -> None:
        connection, _ = mute.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(said)

    threading.Thread(target=serve, daemon=True).start()
    monkeypatch.setenv("OLLAMA_HOST", f"127.0.0.1:{mute.getsockname()[1]}")
    assert probe_server() is None


def test_the_client_is_quick_to_import() -> None:
    """The parent process probes before every run: nothing heavy may come with it."""
    code = "import sys, gwen25.ollama_api; print([m for m in ('torch', 'transformers', 'numpy', 'pydantic') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
