"""A server that speaks Ollama's REST as v0.33 was seen to, errors included, without a model behind it.

    with FakeOllama() as server:
        os.environ["OLLAMA_HOST"] = server.url

`faults` names what goes wrong: see FAULTS. Uploaded bytes are kept, requests are listed. No package registry carries an Ollama
binary; the same client is held against a real server by the tests marked `server`.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from gwen25.chat import FORMATS
from gwen25.data import Message

FAULTS = {
    "breaks off": "the stream of create ends after two lines",
    "half a line": "the stream of create ends within a line",
    "create fails": "the stream's last line is an error, under status 200",
    "damaged upload": "the blob arrives with another digest",
    "jinja wins": "show prints another template: the server chose one itself",
    "loses a stop": "show prints one stop less",
    "renders otherwise": "the debug prompt lacks a newline",
    "no debug": "the debug field is not known, the model answers instead",
    "fails to run": "chat answers 500",
    "never stops": "the answer holds an end token",
    "odd end": "done_reason is load",
    "busy": "everything but version answers 503",
}


class FakeOllama:
    def __init__(self, *faults: str, version: str = "0.33.0", render: Callable[[list[Message]], str] = FORMATS["chatml-think"].render):
        assert set(faults) <= set(FAULTS)
        self.faults, self.version, self.render = set(faults), version, render
        self.blobs: dict[str, bytes] = {}
        self.models: dict[str, dict[str, Any]] = {}
        self.requests: list[str] = []
        handler = type("Handler", (_Handler,), {"fake": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    fake: FakeOllama

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._note()
        known = self.path.removeprefix("/api/blobs/") in self.fake.blobs
        self.send_response(200 if known else 404)
        self.end_headers()

    def do_GET(self) -> None:
        self._note()
        if self.path == "/api/version":
            self._json({"version": self.fake.version})
        elif self.path == "/api/tags":
            self._json({"models": [{"name": name} for name in self.fake.models]})
        else:
            self._error(404, "404 page not found")

    def do_DELETE(self) -> None:
        self._note()
        name = self._body()["model"]
        if self.fake.models.pop(_tagged(name), None) is None:
            self._error(404, f"model '{name}' not found")
        else:
            self._json({})

    def do_POST(self) -> None:
        self._note()
        if "busy" in self.fake.faults:
            self._error(503, "server busy, please try again. maximum pending requests exceeded")
        elif self.path.startswith("/api/blobs/"):
            self._blob(self.path.removeprefix("/api/blobs/"))
        elif route := {"/api/create": self._create, "/api/show": self._show, "/api/chat": self._chat}.get(self.path):
            route(self._body())
        else:
            self._error(404, "404 page not found")

    def _blob(self, digest: str) -> None:
        if digest in self.fake.blobs:  # answered without reading the body: a sender still writing loses its connection
            self.send_response(200)
            self.end_headers()
            self.close_connection = True
            return
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if "damaged upload" in self.fake.faults:
            data = data[:-1] + bytes([data[-1] ^ 1])
        got = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if got != digest:
            self._error(400, f'digest mismatch, expected "{digest}", got "{got}"')
            return
        self.fake.blobs[digest] = data
        self.send_response(201)
        self.end_headers()

    def _create(self, asked: dict[str, Any]) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][\w./-]*(:[\w.-]+)?", asked["model"]):
            self._error(400, "invalid model name")
            return
        if not asked.get("files") and not asked.get("from"):
            self._error(400, "neither 'from' or 'files' was specified")
            return
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.end_headers()
        self._line({"status": "parsing GGUF"})
        self._line({"status": "verifying conversion"})
        if "breaks off" in self.fake.faults:
            return
        if "half a line" in self.fake.faults:
            self.wfile.write(b'{"status": "creating new')
            return
        if error := self._refusal(asked):
            self._line({"error": error})
            return
        self.fake.models[_tagged(asked["model"])] = asked
        self._line({"status": "writing manifest"})
        self._line({"status": "success"})

    def _refusal(self, asked: dict[str, Any]) -> str | None:
        if "create fails" in self.fake.faults:
            return "failed to validate GGUF with llama-quantize without compatibility patches: llama-quantize failed: exit status 1"
        for digest in asked["files"].values():
            if digest not in self.fake.blobs:
                return f"open /srv/ollama/models/blobs/{digest.replace(':', '-')}: no such file or directory"
            if not self.fake.blobs[digest].startswith(b"GGUF"):
                return "supplied file was not in GGUF format"
        template = asked.get("template", "")
        return "template error: template: :1: unclosed action" if template.count("{{") != template.count("}}") else None

    def _show(self, asked: dict[str, Any]) -> None:
        if (model := self._known(asked)) is None:
            return
        lines = []
        for name, value in model["parameters"].items():
            values = value if isinstance(value, list) else [value]
            if name == "stop" and "loses a stop" in self.fake.faults:
                values = values[1:]
            lines += [f"{name:<30} {json.dumps(one)}" for one in values]
        template = "{%- for message in messages %}" if "jinja wins" in self.fake.faults else model["template"]
        self._json({"template": template, "parameters": "\n".join(lines), "capabilities": ["completion", "thinking"]})

    def _chat(self, asked: dict[str, Any]) -> None:
        if (model := self._known(asked)) is None:
            return
        if "fails to run" in self.fake.faults:
            self._error(500, "llama-server process has terminated: key not found in model: tokenizer.ggml.model")
            return
        messages = asked["messages"]
        if messages[0]["role"] != "system" and model.get("system"):
            messages = [{"role": "system", "content": model["system"]}, *messages]
        if asked.get("_debug_render_only") and "no debug" not in self.fake.faults:
            prompt = self.fake.render(messages)
            if "renders otherwise" in self.fake.faults:
                prompt = prompt.removesuffix("\n")
            self._json({"model": asked["model"], "_debug_info": {"rendered_template": prompt}})
            return
        content = "```python\nprint(sum(map(int, input().split())))\n```" + "<|im_end|>" * ("never stops" in self.fake.faults)
        reason = "load" if "odd end" in self.fake.faults else "stop"
        message = {"role": "assistant", "thinking": "Add them.", "content": content}
        self._json({"model": asked["model"], "message": message, "done": True, "done_reason": reason, "eval_count": 23})

    def _known(self, asked: dict[str, Any]) -> dict[str, Any] | None:
        model = self.fake.models.get(_tagged(asked["model"]))
        if model is None:
            self._error(404, f"model '{asked['model']}' not found")
        return model

    # --------------------------------------------------------------------------------------------------------------- plumbing

    def _note(self) -> None:
        self.fake.requests.append(f"{self.command} {self.path}")

    def _body(self) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        return body

    def _json(self, value: dict[str, Any], status: int = 200) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _error(self, status: int, text: str) -> None:
        self._json({"error": text}, status)

    def _line(self, value: dict[str, Any]) -> None:
        self.wfile.write(json.dumps(value).encode() + b"\n")
        self.wfile.flush()


def _tagged(name: str) -> str:
    return name if ":" in name else f"{name}:latest"
