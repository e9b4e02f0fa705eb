"""The Ollama package, and the model at a server: a fake one that speaks its REST, and a real one where OLLAMA_HOST names it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gwen25 import gguf_writer, ollama_api
from gwen25.chat import FORMATS, prompt_text
from gwen25.config import load_config
from gwen25.errors import BadInput, Unavailable
from gwen25.job import Input, Job
from gwen25.ollama_api import Ollama, probe_server, server_url
from gwen25.pipelines.ollama import Package, modelfile, run
from tests.fake_ollama import FakeOllama

FORMAT = FORMATS["chatml-think"]
REAL_HOST = os.environ.get("OLLAMA_HOST")  # before the tests' clean environment drops it


@pytest.fixture(scope="module")
def gguf(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("gguf") / "gwen25-f16.gguf"
    gguf_writer.write(tiny_model, file, "f16", chat_format=FORMAT)
    return file


def stage_job(gguf: Path, work: Path, url: str | None = None, version: str = "0.33.0", **overrides: Any) -> Job:
    artifact = work / "gguf"
    (artifact / "payload").mkdir(parents=True)
    (artifact / "payload" / gguf.name).write_bytes(gguf.read_bytes())
    (work / "payload").mkdir()
    (work / "aside").mkdir()
    facts = {
        "chat_format": {"name": FORMAT.name, "digest": FORMAT.digest},
        "base_model": {"id": "Qwen/Qwen2.5-0.5B", "revision": "abc"},
        "license": "Apache-2.0",
        "file": gguf.name,
    }
    settings = load_config("smoke", overrides={f"ollama.{key}": value for key, value in overrides.items()})
    externals = {"ollama": {"server": version if url else None}}
    locations = {"ollama": url} if url else {}
    made = Input("gguf", "k", "d", artifact, facts, {})
    return Job("ollama", "k", settings.ollama, {"gguf": made}, externals, locations, settings.runtime, None, work)


def payload(job: Job) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in job.payload.iterdir()}


# ---------------------------------------------------------------------------------------------------------------- the package


def parse_modelfile(text: str) -> list[tuple[str, str]]:
    """Commands and values, character by character as Ollama's parser.ParseFile reads them (one word, blanks, a value that ends
    at the first blank or line end where its quotes are closed; of other characters only printable ones are kept)."""
    commands, at = [], 0
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        start = at
        while text[at].isalpha():
            at += 1
        name, value = text[start:at].lower(), ""
        if name == "parameter":
            start = at = at + 1
            while text[at] not in " \t":
                at += 1
            name = text[start:at]
        at += 1
        while at <= len(text):
            ended = at == len(text) or text[at] in " \t\n\r"
            held = _unquoted(value.strip())
            if ended and held is not None and (at == len(text) or text[at] not in " \t"):
                commands.append((name, held))
                break
            assert at < len(text), "unexpected EOF"
            if ended or text[at].isprintable():
                value += text[at]
            at += 1
    return commands


def _unquoted(text: str) -> str | None:
    if text.startswith('"""'):
        return text[3:-3] if len(text) >= 6 and text.endswith('"""') else None
    if text.startswith('"'):
        return text[1:-1] if len(text) >= 2 and text.endswith('"') else None
    return text


def test_the_package_without_a_server(gguf: Path, tmp_path: Path) -> None:
    job = stage_job(gguf, tmp_path)
    result = run(job)
    assert sorted(payload(job)) == ["Modelfile", "README.md", gguf.name]
    assert parse_modelfile((job.payload / "Modelfile").read_text(encoding="utf-8")) == [
        ("from", f"./{gguf.name}"),
        ("template", FORMAT.ollama),
        ("system", prompt_text("system")),
        ("num_ctx", "512"),
        ("temperature", "0.6"),
        ("top_p", "0.95"),
        ("stop", "<|im_end|>"),
        ("stop", "<|endoftext|>"),
        ("license", "Apache-2.0"),
    ]
    readme = (job.payload / "README.md").read_text(encoding="utf-8")
    assert "ollama create gwen25-smoke -f Modelfile" in readme
    assert len(readme.splitlines()) == 3
    assert (result.facts["created"], result.facts["name"], result.metrics) == (False, "gwen25-smoke", {})
    assert result.facts["license"] == "Apache-2.0"
    assert (job.payload / gguf.name).stat().st_ino == (job.inputs["gguf"].payload / gguf.name).stat().st_ino, "linked, not copied"
    assert not list(job.aside.iterdir())


def test_the_package_is_the_same_with_and_without_a_server(gguf: Path, tmp_path: Path) -> None:
    alone = stage_job(gguf, tmp_path / "a")
    run(alone)
    with FakeOllama() as server:
        served = stage_job(gguf, tmp_path / "b", server.url)
        run(served)
    assert payload(alone) == payload(served)
    run(dataclasses.replace(alone))  # a second attempt in the same folder
    assert payload(alone) == payload(served)


def test_copied_where_no_link_can_be(gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    job = stage_job(gguf, tmp_path)
    run(job)
    assert payload(job)[gguf.name] == hashlib.sha256(gguf.read_bytes()).hexdigest()


PACKAGE = Package("n", Path("m.gguf"), FORMAT.ollama, "S", {"num_ctx": 512, "stop": ["<|im_end|>"]}, None)


@pytest.mark.parametrize(
    "system", ['ends in "', '"quoted"', '" a', "two\n\nlines\n", " blanks ", '"" x ""', "# no comment", "FROM x", "é 求和 👍"]
)
def test_a_modelfile_holds_what_it_was_given(system: str) -> None:
    commands = dict(parse_modelfile(modelfile(dataclasses.replace(PACKAGE, system=system))))
    assert commands["system"] == system
    assert commands["template"] == FORMAT.ollama


def test_no_licence_and_no_system_are_no_lines() -> None:
    names = [name for name, _ in parse_modelfile(modelfile(dataclasses.replace(PACKAGE, system="")))]
    assert names == ["from", "template", "num_ctx", "stop"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"template": 'a """ b'}, 'the template holds """'),
        ({"system": "a\u00a0b"}, r"the system holds U\+00A0"),
        ({"license": "a\rb"}, r"the license holds U\+000D"),
        ({"parameters": {"temprature": 1.0}}, "temprature = 1.0 is not known"),
        ({"parameters": {"temperature": "hot"}}, "temperature = 'hot' is not known here, or not of its type"),
        ({"parameters": {"num_ctx": True}}, "num_ctx = True"),
        ({"parameters": {"num_ctx": 4096.5}}, "num_ctx = 4096.5"),
        ({"parameters": {"stop": ['"']}}, "a Modelfile cannot hold it"),
    ],
)
def test_values_refused_before_anything_is_written(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        modelfile(dataclasses.replace(PACKAGE, **change))


def test_a_gguf_that_ollama_would_serve_wrongly(gguf: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="num_ctx = 4096 is more than the model's context of 2048"):
        run(stage_job(gguf, tmp_path / "a", num_ctx=4096))
    own = tmp_path / "own.gguf"
    gguf_writer.write(tiny_model, own, "f16")
    with pytest.raises(BadInput, match="another chat template than chatml-think"):
        run(stage_job(own, tmp_path / "b"))
    endless = dataclasses.replace(FORMAT, eos="<|endoftext|>")
    gguf_writer.write(tiny_model, own, "f16", chat_format=endless)
    with pytest.raises(BadInput, match=r"the GGUF ends at <\|endoftext\|>"):
        run(stage_job(own, tmp_path / "c"))
    bare = tmp_path / "bare.gguf"
    bare.write_bytes(gguf.read_bytes().replace(b"tokenizer.ggml.token_type", b"tokenizer.ggml.tokenXtype"))
    with pytest.raises(BadInput, match=r"the GGUF lacks tokenizer\.ggml\.token_type"):
        run(stage_job(bare, tmp_path / "d"))
    (tmp_path / "junk.gguf").write_bytes(b"PK")
    with pytest.raises(BadInput, match="not a whole GGUF"):
        run(stage_job(tmp_path / "junk.gguf", tmp_path / "e"))
    assert not any(list((tmp_path / name / "payload").iterdir()) for name in "abcde")


# ----------------------------------------------------------------------------------------------------------------- the server


def test_created_and_proved(gguf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with FakeOllama() as server:
        job = stage_job(gguf, tmp_path, server.url)
        result = run(job)
        [(name, model)] = server.models.items()
        digest = f"sha256:{hashlib.sha256(gguf.read_bytes()).hexdigest()}"
        assert name == "gwen25-smoke:latest"
        assert server.blobs == {digest: gguf.read_bytes()}
        assert model["files"] == {gguf.name: digest}
        assert (model["template"], model["system"], model["license"]) == (FORMAT.ollama, prompt_text("system"), "Apache-2.0")
        assert model["parameters"] == {"num_ctx": 512, "temperature": 0.6, "top_p": 0.95, "stop": ["<|im_end|>", "<|endoftext|>"]}
        assert result.facts["created"] is True
        assert result.metrics == {"verified_prompts": 3, "smoke_tokens": 23, "smoke_done_reason": "stop"}
        smoke = json.loads((job.aside / "smoke.json").read_text(encoding="utf-8"))
        assert smoke["thinking"] == "Add them."
        assert smoke["well_formed"] is True
        assert smoke["statuses"][-1] == "success"
        assert "warning" not in capsys.readouterr().out
        run(stage_job(gguf, tmp_path / "again", server.url))
        assert [asked.split()[0] for asked in server.requests if "/blobs/" in asked] == ["HEAD", "POST", "HEAD"], "uploaded once"


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        ("breaks off", Unavailable, "broke off while making gwen25-smoke, after .'verifying conversion'."),
        ("half a line", Unavailable, "broke off in the middle of a line"),
        ("create fails", BadInput, "did not make gwen25-smoke: failed to validate GGUF"),
        ("damaged upload", Unavailable, "digest mismatch"),
        ("jinja wins", BadInput, "shows another template .* OLLAMA_GO_TEMPLATE=1"),
        ("loses a stop", BadInput, "shows stop = "),
        ("renders otherwise", BadInput, "renders another prompt"),
        ("fails to run", Unavailable, "llama-server process has terminated"),
        ("never stops", BadInput, r"shows <\|im_end\|> in its answer"),
        ("odd end", BadInput, "ended its first answer with 'load'"),
        ("busy", Unavailable, "server busy"),
    ],
)
def test_what_can_go_wrong_at_the_server(fault: str, error: type[Exception], message: str, gguf: Path, tmp_path: Path) -> None:
    with FakeOllama(fault) as server, pytest.raises(error, match=message):
        run(stage_job(gguf, tmp_path, server.url))


def test_a_server_that_does_not_tell_its_prompts(gguf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with FakeOllama("no debug", version="0.12.0") as server:
        result = run(stage_job(gguf, tmp_path, server.url))
    assert "verified_prompts" not in result.metrics
    out = capsys.readouterr().out
    assert "warning: the Ollama server is now 0.12.0; it was 0.33.0" in out
    assert "warning: Ollama 0.12.0 does not tell the prompts it renders" in out


def test_a_server_that_went_away(gguf: Path, tmp_path: Path) -> None:
    with FakeOllama() as server:
        url = server.url
    with pytest.raises(Unavailable, match="does not answer GET /api/version"):
        run(stage_job(gguf, tmp_path, url))


def test_refusals_carry_the_servers_words(gguf: Path, tmp_path: Path) -> None:
    rest: dict[str, Any] = {"template": "{{ .Prompt }}", "system": "", "parameters": {}}
    with FakeOllama() as fake:
        server = Ollama(fake.url, timeout=5)
        digest = server.upload(gguf)
        with pytest.raises(BadInput, match="invalid model name"):
            server.create("no such/name!", files={"m.gguf": digest}, **rest)
        with pytest.raises(BadInput, match="neither 'from' or 'files' was specified"):
            server.create("n", files={}, **rest)
        with pytest.raises(BadInput, match="no such file or directory"):
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


# ------------------------------------------------------------------------------------------------------------- a real server


@pytest.mark.server
def test_a_real_server(gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that the fake claims, from upload to prompt, at the server that OLLAMA_HOST names; its model is deleted again."""
    if REAL_HOST is None:
        pytest.skip("OLLAMA_HOST is not set: no real Ollama server")
    monkeypatch.setenv("OLLAMA_HOST", REAL_HOST)
    found = probe_server()
    assert found is not None, f"no Ollama server answers at {REAL_HOST}"
    url, version = found
    name = f"gwen25-test-{os.getpid()}"
    try:
        result = run(stage_job(gguf, tmp_path, url, version, name=name, smoke_tokens=16))
        assert result.facts["created"] is True
        assert result.metrics["smoke_done_reason"] in ("stop", "length")
        assert result.metrics.get("verified_prompts") == 3
        assert "thinking" in Ollama(url).show(name)["capabilities"]
    finally:
        Ollama(url).delete(name)
