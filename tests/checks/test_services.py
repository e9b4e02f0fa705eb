"""Checks of hub, judge and Ollama against servers on this machine that answer, refuse, are slow, or talk nonsense; and of secrets."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from gwen25 import cli, doctor, rewards
from gwen25.checks import Asked, Finding, services
from gwen25.config import load_config
from gwen25.errors import BadInput

KEY = "a-key-that-must-not-be-shown"
Answer = tuple[int, bytes]


class Host:
    """`answer(path)` gives status and body; `asked` keeps paths and headers. A body is sent a byte in `drip` seconds where that is set."""

    def __init__(self) -> None:
        self.answer: Callable[[str], Answer] = lambda path: (200, b"{}")
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.drip = 0.0
        self.headers: dict[str, str] = {}
        self.url = ""


@pytest.fixture
def host() -> Iterator[Host]:
    state = Host()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
            status, body = state.answer(self.path)
            if status == 0:  # no HTTP at all
                self.wfile.write(body)
                return
            with contextlib.suppress(OSError):
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **state.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                for byte in range(len(body) if state.drip else 0):
                    time.sleep(state.drip)
                    self.wfile.write(body[byte : byte + 1])
                if not state.drip:
                    self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield state
    server.shutdown()
    server.server_close()


@pytest.fixture
def nowhere() -> str:
    """An address at which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "PATIENCE", 0.7)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def asked(profile: str | None = None, **overrides: Any) -> Asked:
    return Asked(load_config(profile, overrides={name.replace("__", "."): value for name, value in overrides.items()}), profile)


def one(findings: Iterator[Finding]) -> Finding:
    [finding] = findings
    assert KEY not in f"{finding.what} {finding.todo}"
    return finding


# hub


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch, host: Host) -> Host:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_ENDPOINT", host.url)
    monkeypatch.setenv("HF_TOKEN", KEY)
    host.answer = lambda path: (200, json.dumps({"id": "a/b", "sha": "0" * 40}).encode())
    return host


def test_a_hub_that_answers(online: Host) -> None:
    finding = one(services.hub(asked()))
    assert finding.status == "ok" and "a token is set" in finding.what
    assert [path.split("?")[0] for path, _ in online.asked] == [
        "/api/models/Qwen/Qwen2.5-3B",
        "/api/datasets/nvidia/OpenCodeReasoning",
        "/api/datasets/livecodebench/code_generation_lite",
    ]
    assert online.asked[0][1]["authorization"] == f"Bearer {KEY}", "the token is tried, not only looked for"


@pytest.mark.parametrize(
    ("answer", "headers", "status", "said"),
    [
        ((401, b'{"error": "Invalid token"}'), {"X-Error-Code": "RepoNotFound"}, "fail", "does not show"),
        ((404, b"{}"), {"X-Error-Code": "RepoNotFound"}, "fail", "does not show"),
        ((403, b"{}"), {"X-Error-Code": "GatedRepo"}, "fail", "behind its terms"),
        ((500, KEY.encode()), {}, "warn", "does not answer"),
        ((200, b"<html>log in to the hotel's network</html>"), {}, "warn", "does not answer"),
        ((0, b"SSH-2.0-OpenSSH\r\n"), {}, "warn", "does not answer"),
    ],
)
def test_a_hub_that_does_not(online: Host, answer: Answer, headers: dict[str, str], status: str, said: str) -> None:
    online.answer, online.headers = (lambda path: answer), headers
    finding = one(services.hub(asked()))
    assert finding.status == status and said in finding.what and finding.todo
    assert len({path.split("?")[0] for path, _ in online.asked}) == 1, "what is away is not asked three times"


def test_a_name_without_an_owner_is_the_hubs_too_and_one_that_no_hub_has_is_refused(online: Host) -> None:
    assert one(services.hub(asked("smoke", base_model="gpt2"))).status == "ok" and "/models/gpt2" in online.asked[0][0]
    refused = one(services.hub(asked("smoke", base_model="a/b/c")))
    assert refused.status == "fail" and "does not show model a/b/c" in refused.what and len(online.asked) == 1


def test_a_hub_that_is_away_or_slow_takes_seconds(online: Host, monkeypatch: pytest.MonkeyPatch, nowhere: str) -> None:
    online.drip = 0.2  # each byte comes before a socket's time-out
    started = time.monotonic()
    assert "TimeoutError" in one(services.hub(asked())).what
    monkeypatch.setenv("HF_ENDPOINT", nowhere)
    assert one(services.hub(asked())).status == "warn"
    assert time.monotonic() - started < 3


def test_an_offline_hub_is_not_asked(online: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.delenv("HF_TOKEN")
    finding = one(services.hub(asked()))
    assert finding.status == "warn" and "HF_HUB_OFFLINE" in finding.what and "HF_TOKEN is not set" in finding.what
    assert one(services.hub(asked("smoke"))).status == "ok" and not online.asked


# judge


def gemini(url: str, **more: Any) -> Asked:
    return asked(grpo__judge__base_url=url, **more)


def openai(url: str, model: str = "local") -> Asked:
    return asked(grpo__judge__provider="openai", grpo__judge__base_url=f"{url}/v1", grpo__judge__model=model)


def test_without_a_key_no_judge_is_asked(host: Host) -> None:
    finding = one(services.judging(gemini(host.url, grpo__rewards=["format_exact", "execution", "judge"])))
    assert finding.status == "warn" and "GEMINI_API_KEY or GOOGLE_API_KEY not set" in finding.what and finding.todo
    assert not host.asked
    assert one(services.judging(asked("cpu"))).status == "ok", "its recipe asks no judge"


@pytest.mark.parametrize(("profile", "status"), [("a100", "fail"), ("t4", "fail"), (None, "warn")])
def test_a_run_that_is_refused_without_a_judge_is_a_failure(profile: str | None, status: str) -> None:
    """The reference recipe's one correctness reward is the judge."""
    refused = asked(profile)
    with pytest.raises(BadInput):
        rewards.active(refused.config.grpo)
    finding = one(services.judging(refused))
    assert finding.status == status and "GEMINI_API_KEY" in finding.what
    assert "take --recipe recommended, which needs none" in finding.todo
    recommended = Asked(load_config(profile, "recommended"), profile)
    assert one(services.judging(recommended)).status != "fail"


def test_an_unknown_reward_is_told() -> None:
    finding = one(services.judging(asked("cpu", grpo__rewards=["executon"])))
    assert finding.status == "fail" and "did you mean 'execution'?" in finding.what


def test_a_broken_key_is_told_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", f"{KEY} broken")
    finding = one(services.judging(asked()))
    assert finding.status == "fail" and finding.todo


@pytest.mark.parametrize("provider", ["google-genai", "google-generativeai"])
def test_a_gemini_that_answers_is_asked_for_its_model(monkeypatch: pytest.MonkeyPatch, host: Host, provider: str) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    host.answer = lambda path: (200, json.dumps({"name": "models/gemini-3.8-flash"}).encode())
    finding = one(services.judging(gemini(host.url, grpo__judge__provider=provider)))
    assert finding.status == "ok" and "is set" in finding.what
    [(path, headers)] = host.asked
    assert path == "/v1beta/models/gemini-3.8-flash" and headers["x-goog-api-key"] == KEY


INVALID = json.dumps({"error": {"code": 400, "message": f"API key not valid: {KEY}", "status": "INVALID_ARGUMENT"}}).encode()


@pytest.mark.parametrize(
    ("answer", "status", "said"),
    [
        ((400, INVALID), "fail", "refuses the key"),
        ((401, KEY.encode()), "fail", "refuses the key"),
        ((404, b"{}"), "fail", "does not know gemini-3.8-flash"),
        ((503, KEY.encode()), "warn", "busy or failing"),
        ((429, b"{}"), "warn", "busy or failing"),
        ((200, b"<html>"), "warn", "not as such a service"),
        ((200, f'["{KEY}"]'.encode()), "warn", "not as such a service"),
        ((302, b""), "warn", "not as such a service"),
        ((0, b"nonsense\r\n\r\n"), "warn", "not as such a service"),
    ],
)
def test_a_gemini_that_does_not(monkeypatch: pytest.MonkeyPatch, host: Host, answer: Answer, status: str, said: str) -> None:
    monkeypatch.setenv("GOOGLE_API_KEY", KEY)
    host.answer = lambda path: answer
    host.headers = {"Location": f"{host.url}/elsewhere"} if answer[0] == 302 else {}
    finding = one(services.judging(gemini(host.url)))
    assert finding.status == status and said in finding.what and finding.todo
    assert len(host.asked) == 1, "a redirect is not followed with the key"


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"data": [{"id": "other"}, {"id": "local"}]}, "ok", "knows local"),
        ({"data": [{"id": "other"}]}, "fail", "does not know local"),
        ({"data": ["local", 7, None]}, "fail", "does not know local"),
        ({"models": []}, "warn", "not as such a service"),
    ],
)
def test_an_openai_server_lists_its_models(host: Host, body: Any, status: str, said: str) -> None:
    host.answer = lambda path: (200, json.dumps(body).encode())
    finding = one(services.judging(openai(host.url)))
    assert finding.status == status and said in finding.what and "OPENAI_API_KEY is not set" in finding.what
    [(path, headers)] = host.asked
    assert path == "/v1/models" and "authorization" not in headers


def test_an_openai_server_is_sent_the_key_it_may_refuse(monkeypatch: pytest.MonkeyPatch, host: Host) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    host.answer = lambda path: (401, f"bad key {KEY}".encode())
    finding = one(services.judging(openai(host.url)))
    assert finding.status == "fail" and host.asked[0][1]["authorization"] == f"Bearer {KEY}"


def test_a_judge_that_is_away_or_slow_takes_seconds(monkeypatch: pytest.MonkeyPatch, host: Host, nowhere: str) -> None:
    host.drip = 0.2
    host.answer = lambda path: (200, b'{"data": []}')
    started = time.monotonic()
    for url in (host.url, nowhere):
        finding = one(services.judging(openai(url)))
        assert finding.status == "warn" and "does not answer" in finding.what
    assert time.monotonic() - started < 3


def test_a_question_that_hangs_outside_any_socket_is_left() -> None:
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        services.within(0.1, lambda: time.sleep(5))
    assert time.monotonic() - started < 2
    with pytest.raises(ZeroDivisionError):
        services.within(1, lambda: 1 / 0)


# Ollama


@pytest.mark.parametrize(
    ("answer", "status", "said"),
    [
        ((200, b'{"version": "0.33.0"}'), "ok", "Ollama 0.33.0"),
        ((200, b'{"version": "0.33\\u001b[31m"}'), "ok", "Ollama 0.33[31m"),
        ((200, b"{}"), "warn", "no Ollama server"),
        ((200, b"<html>"), "warn", "no Ollama server"),
        ((404, b"nothing here"), "warn", "no Ollama server"),
        ((500, b"broken"), "warn", "no Ollama server"),
    ],
)
def test_ollama(monkeypatch: pytest.MonkeyPatch, host: Host, answer: Answer, status: str, said: str) -> None:
    monkeypatch.setenv("OLLAMA_HOST", host.url)
    host.answer = lambda path: answer
    finding = one(services.ollama(asked()))
    assert finding.status == status and said in finding.what and bool(finding.todo) == (status == "warn")
    assert [path for path, _ in host.asked] == ["/api/version"]


def test_ollama_away_or_slow_takes_a_second(monkeypatch: pytest.MonkeyPatch, host: Host, nowhere: str) -> None:
    host.drip = 0.3
    started = time.monotonic()
    for url in (host.url, nowhere):
        monkeypatch.setenv("OLLAMA_HOST", url)
        assert one(services.ollama(asked())).status == "warn"
    assert time.monotonic() - started < 3


# all of them


def test_no_secret_of_the_environment_is_in_the_report(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], online: Host
) -> None:
    """Every server here sends the key back in whatever it says, and the address of Ollama holds a password."""
    online.answer = lambda path: (500, f"{KEY} {path}".encode())
    for name in ("GEMINI_API_KEY", "OPENAI_API_KEY", "HF_TOKEN"):
        monkeypatch.setenv(name, KEY)
    monkeypatch.setenv("OLLAMA_HOST", f"http://me:{KEY}@127.0.0.1:1")

    def leaks(_: Asked) -> list[Finding]:
        raise ValueError(f"a library says {KEY}")

    checks = {"hub": services.hub, "judge": services.judging, "ollama": services.ollama, "leaks": leaks}
    monkeypatch.setattr(doctor, "CHECKS", checks)
    judge = ["--set", f"grpo.judge.base_url={online.url}"]
    assert cli.main(["doctor", *judge]) == 1 and cli.main(["doctor", "--json", *judge]) == 1
    said = capsys.readouterr()
    assert KEY not in said.out and KEY not in said.err
    for name in checks:
        assert f" {name} " in said.out


def test_without_a_network_the_network_rows_end_within_seconds(monkeypatch: pytest.MonkeyPatch, nowhere: str, online: Host) -> None:
    monkeypatch.setenv("HF_ENDPOINT", nowhere)
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    monkeypatch.setenv("OLLAMA_HOST", nowhere)
    started = time.monotonic()
    wanted = gemini(nowhere)
    found = [one(check(wanted)) for check in (services.hub, services.judging, services.ollama)]
    assert {finding.status for finding in found} == {"warn"} and time.monotonic() - started < 4
