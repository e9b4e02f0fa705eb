"""A judging service on this machine: it speaks Gemini's generateContent and OpenAI's chat completions, and misbehaves on request."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SECRET = "test-key-that-no-message-may-hold"


@dataclass(frozen=True)
class Reply:
    """What the service does with a request: text of an answer, or a status, or one of the ways to say nothing.

    `finish`: why the answer ended, in Gemini's or OpenAI's words. Without a text there is then a candidate that holds none.
    """

    text: str | None = None
    status: int = 200
    error: str = "as scripted"
    blocked: bool = False
    finish: str | None = None
    raw: bytes | None = None
    delay: float = 0

    def body(self, openai: bool) -> bytes:
        if self.raw is not None:
            return self.raw
        return json.dumps(self._failure() if self.status != 200 else self._openai() if openai else self._gemini()).encode()

    def _failure(self) -> dict[str, Any]:
        return {"error": {"code": self.status, "message": self.error, "status": "AS_SCRIPTED"}}

    def _openai(self) -> dict[str, Any]:
        if self.text is None and self.finish is None:
            return {"choices": []}
        return {"choices": [{"message": {"role": "assistant", "content": self.text}, "finish_reason": self.finish or "stop"}]}

    def _gemini(self) -> dict[str, Any]:
        if self.blocked:
            return {"promptFeedback": {"blockReason": "SAFETY"}}
        if self.text is None:
            return {"candidates": [] if self.finish is None else [{"finishReason": self.finish, "index": 0}]}
        content = {"role": "model", "parts": [{"text": self.text}]}
        return {"candidates": [{"content": content, "finishReason": self.finish or "STOP"}]}


@dataclass
class Service:
    """`reply(number, prompt)` decides; `prompts` and `headers` keep what arrived."""

    url: str = ""
    reply: Callable[[int, str], Reply] = lambda number, prompt: Reply('{"score": 1}')
    prompts: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def serve() -> Iterator[Service]:
    state = Service()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            openai = self.path.endswith("/chat/completions")
            prompt = body["messages"][0]["content"] if openai else body["contents"][0]["parts"][0]["text"]
            with state.lock:
                number = len(state.prompts)
                state.prompts.append(prompt)
                state.headers.append({name.lower(): value for name, value in self.headers.items()})
                state.paths.append(self.path)
                state.bodies.append(body)
                state.in_flight += 1
                state.most_in_flight = max(state.most_in_flight, state.in_flight)
            reply = state.reply(number, prompt)
            time.sleep(reply.delay)
            with state.lock:
                state.in_flight -= 1
            content = reply.body(openai)
            try:
                self.send_response(reply.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
            except (BrokenPipeError, ConnectionResetError):  # the client's time-out
                pass

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
