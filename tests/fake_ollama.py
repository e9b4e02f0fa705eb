"""A server that speaks Ollama's REST as v0.33 was seen to, errors included, without a model behind it.

    with FakeOllama() as server:
        os.environ["OLLAMA_HOST"] = server.url

`faults` names what goes wrong: see FAULTS. Uploaded bytes are kept, requests are listed. Which template a model is served with is
chosen as v0.33 chooses: a jinja in the GGUF that can do more than the TEMPLATE wins over it, and without a TEMPLATE one that is near a
known text gives way to the server's own. A Go template is rendered by `go` where the test has a toolchain; else by `render`, and then
only the one that it stands for. No package registry carries an Ollama binary; the same client is held against a real server by the
tests marked `server`.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import NamedTemporaryFile
from types import TracebackType
from typing import Any, Self

from gwen25.chat import FORMATS
from gwen25.data import Message
from gwen25.errors import BadInput
from gwen25.gguf_header import read_header

FAULTS = {
    "breaks off": "the stream of create ends after two lines, that of chat after the thinking",
    "answer fails": "the stream of chat ends in an error, under status 200",
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
    "gone in upload": "the connection ends after half of the bytes, once",
    "sent meanwhile": "another client sends the same blob between HEAD and POST, which then is answered without reading",
    "killed in create": "the server ends, with the stream, after two lines, and stays away",
    "keeps the staging tag": "delete answers 503",
    "another run": "somebody else makes another model under the staging tag while it is tried",
    "loses the system": "show prints another system text",
    "shows no system": "show has no system text at all",
    "loses the license": "show has no license",
    "brings stops": "show prints stops beside those that were sent, as with a template of the server's own list",
    "lists oddly": "tags list what is no list",
    "says a number": "the streams of create and chat hold a line that is no object",
    "does not list": "tags list no model",
    "does not think": "show lists no capability thinking, and the reasoning stands in the content",
    "babbles": "answers end at the limit",
    "draws another answer": "the answer is prose",
    "crashes": "the program of each answer ends in an exception",
}

# what the server takes a GGUF's jinja for, where it is near enough (real ones: 37 texts, Levenshtein distance below 100)
CHATML_JINJA = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
CHATML_GO = """{{- range .Messages }}<|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ end }}<|im_start|>assistant
"""
PROGRAMS = {
    "sum": "print(sum(map(int, input().split())))",
    "backwards": "print(input()[::-1])",
    "twice": "def double(n):\n    return 2 * n",
}
FLOATS = {"temperature", "top_p", "min_p", "typical_p", "repeat_penalty", "presence_penalty", "frequency_penalty"}
Go = Callable[[list[dict[str, Any]]], list[dict[str, Any]]]


class FakeOllama:
    def __init__(
        self,
        *faults: str,
        version: str = "0.33.0",
        render: Callable[[list[Message]], str] = FORMATS["chatml-think"].render,
        go: Go | None = None,
    ):
        assert set(faults) <= set(FAULTS)
        self.faults, self.version, self.render, self.go = set(faults), version, render, go
        self.blobs: dict[str, bytes] = {}
        self.models: dict[str, dict[str, Any]] = {}
        self.requests: list[str] = []
        self.on_request: Callable[[str], None] = lambda line: None
        self.chats: list[dict[str, Any]] = []
        self.end = "<|im_end|>"  # what shows where it "never stops"
        handler = type("Handler", (_Handler,), {"fake": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()

    def stop(self) -> None:
        """End as a killed server does: nothing is taken any more. What it holds stays."""
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
            listed = {} if "does not list" in self.fake.faults else self.fake.models
            tags = [{"name": name, "digest": _digest(model)} for name, model in listed.items()]
            self._json({"models": "none" if "lists oddly" in self.fake.faults else tags or None})  # null where there is none
        else:
            self._error(404, "404 page not found")

    def do_DELETE(self) -> None:
        self._note()
        name = self._body()["model"]
        if "keeps the staging tag" in self.fake.faults:
            self._error(503, "server busy, please try again. maximum pending requests exceeded")
        elif self.fake.models.pop(_tagged(name), None) is None:
            self._error(404, f"model '{name}' not found")
        else:
            self._json({})

    def do_POST(self) -> None:
        self._note()
        if "busy" in self.fake.faults:
            self._error(503, "server busy, please try again. maximum pending requests exceeded")
        elif self.path.startswith("/api/blobs/"):
            self._blob(self.path.removeprefix("/api/blobs/"))
        elif route := {"create": self._create, "show": self._show, "chat": self._chat, "copy": self._copy}.get(self.path[5:]):
            route(self._body())
        else:
            self._error(404, "404 page not found")

    def _blob(self, digest: str) -> None:
        if digest in self.fake.blobs:  # answered without reading the body: a sender still writing loses its connection
            self.send_response(200)
            self.end_headers()
            self.close_connection = True
            return
        length = int(self.headers["Content-Length"])
        if "sent meanwhile" in self.fake.faults:
            self.fake.blobs[digest] = b"GGUF sent by another client"
            self._cut()
            return
        if "gone in upload" in self.fake.faults:
            self.fake.faults.discard("gone in upload")
            self.rfile.read(length // 2)
            self._cut()
            return
        data = self.rfile.read(length)
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
        if "says a number" in self.fake.faults:
            self.wfile.write(b"17\n")
            return
        if "breaks off" in self.fake.faults:
            return
        if "killed in create" in self.fake.faults:
            self.fake.stop()
            self._cut()
            return
        if "half a line" in self.fake.faults:
            self.wfile.write(b'{"status": "creating new')
            return
        if error := self._refusal(asked):
            self._line({"error": error})
            return
        if not asked.get("template") and _near(self._fields(asked).get("tokenizer.chat_template", ""), CHATML_JINJA):
            self._line({"status": "using autodetected template chatml"})
            asked = {**asked, "template": CHATML_GO}
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
            if name == "stop" and "brings stops" in self.fake.faults:
                values = [*values, "<|im_start|>"]
            lines += [f"{name:<30} {json.dumps(one)}" for one in values]
        template = "{%- for message in messages %}" if "jinja wins" in self.fake.faults else self._template(model)
        system = "You are Qwen." if "loses the system" in self.fake.faults else model.get("system", "")
        licence = "" if "loses the license" in self.fake.faults else model.get("license", "")
        told = {"template": template, "parameters": "\n".join(lines), "system": system, "license": licence}
        if "shows no system" in self.fake.faults:
            del told["system"]
        self._json({**told, "capabilities": self._capabilities(template)})

    def _capabilities(self, template: str) -> list[str]:
        thinks = ".Thinking" in template or ("<think>" in template and "</think>" in template and "{%" in template)
        tools = ".Tools" in template or ("tools" in template and "{%" in template)
        shown = ["completion", *["tools"] * tools, *["thinking"] * thinks]
        return [one for one in shown if not (one == "thinking" and "does not think" in self.fake.faults)]

    def _template(self, model: dict[str, Any]) -> str:
        """The TEMPLATE, unless the GGUF's jinja can do more: the stock template of Qwen2.5 knows tools, and wins over one that does not,
        and over one that only mentions .Tools."""
        given, jinja = str(model.get("template", "")), str(self._fields(model).get("tokenizer.chat_template", ""))
        return jinja if not given or "tools" in jinja else given

    def _fields(self, model: dict[str, Any]) -> dict[str, Any]:
        """The header of the model's GGUF; {} for one that only begins like a GGUF."""
        blobs = [self.fake.blobs.get(digest, b"") for digest in model.get("files", {}).values()]
        with NamedTemporaryFile(suffix=".gguf") as file:
            file.write(b"".join(blobs[:1]))
            file.flush()
            try:
                return read_header(Path(file.name)).fields
            except (BadInput, struct.error):
                return {}

    def _copy(self, asked: dict[str, Any]) -> None:
        model = self.fake.models.get(_tagged(asked["source"]))
        if model is None:
            self._error(404, f"model {asked['source']!r} not found")
            return
        self.fake.models[_tagged(asked["destination"])] = model
        self._json({})

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
            prompt = self._rendered(model, messages)
            if "renders otherwise" in self.fake.faults:
                prompt = prompt.removesuffix("\n")
            self._json({"model": asked["model"], "_debug_info": {"rendered_template": prompt}})
            return
        if wrong := [name for name in FLOATS & model["parameters"].keys() if isinstance(model["parameters"][name], str)]:
            self._error(500, f'option "{wrong[0]}" must be of type float32')
            return
        if "another run" in self.fake.faults:
            self.fake.models[_tagged(asked["model"])] = {**model, "system": "another"}
        content = self._answer(messages) + self.fake.end * ("never stops" in self.fake.faults)
        reason = "load" if "odd end" in self.fake.faults else "length" if "babbles" in self.fake.faults else "stop"
        template = self._template(model)
        message = {"role": "assistant", "thinking": "Add them.", "content": content}
        if "thinking" not in self._capabilities(template):  # the prompt opens the reasoning all the same, where it does
            message |= {"thinking": "", "content": f"Add them.\n</think>\n\n{content}" if "<think>" in template else content}
        self.fake.chats.append(asked)
        if asked.get("stream", True):
            self._stream(asked["model"], message, reason)
            return
        self._json({"model": asked["model"], "message": message, "done": True, "done_reason": reason, "eval_count": 23})

    def _stream(self, model: str, message: dict[str, str], reason: str) -> None:
        """The same answer in parts of four characters, thinking first."""
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.end_headers()
        if "says a number" in self.fake.faults:
            self.wfile.write(b"17\n")
            return
        for part in ("thinking", "content"):
            text = message[part]
            for at in range(0, len(text), 4):
                words = {"role": "assistant", "content": "", part: text[at : at + 4]}
                self._line({"model": model, "message": words, "done": False})
            if "breaks off" in self.fake.faults:
                return
            if "answer fails" in self.fake.faults:
                self._line({"error": "an error was encountered while running the model: unexpected EOF"})
                return
        self._line({"model": model, "message": {"role": "assistant", "content": ""}, "done": True, "done_reason": reason, "eval_count": 23})

    def _answer(self, messages: Sequence[Message]) -> str:
        program = next((code for word, code in PROGRAMS.items() if word in messages[-1]["content"]), PROGRAMS["sum"])
        if "draws another answer" in self.fake.faults:
            return "I would add them."
        return f"```python\n{'1 / 0' if 'crashes' in self.fake.faults else program}\n```"

    def _rendered(self, model: dict[str, Any], messages: list[Message]) -> str:
        template = self._template(model)
        if self.fake.go is None or "{%" in template:
            return self.fake.render(messages)
        [answer] = self.fake.go([{"template": template, "messages": messages}])
        return str(answer["prompt"])

    def _cut(self) -> None:
        """End the connection at once, whatever the client is still sending."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def _known(self, asked: dict[str, Any]) -> dict[str, Any] | None:
        model = self.fake.models.get(_tagged(asked["model"]))
        if model is None:
            self._error(404, f"model '{asked['model']}' not found")
        return model

    # --------------------------------------------------------------------------------------------------------------- plumbing

    def _note(self) -> None:
        line = f"{self.command} {self.path}"
        self.fake.requests.append(line)
        self.fake.on_request(line)

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


def _digest(model: dict[str, Any]) -> str:
    """Of what a manifest holds; the name is none of it."""
    return hashlib.sha256(json.dumps({**model, "model": ""}, sort_keys=True).encode()).hexdigest()


def _near(text: str, known: str, distance: int = 100) -> bool:
    """Levenshtein distance below `distance`."""
    row = list(range(len(known) + 1))
    for at, one in enumerate(text, 1):
        previous, row[0] = row[0], at
        for n, other in enumerate(known, 1):
            previous, row[n] = row[n], min(row[n] + 1, row[n - 1] + 1, previous + (one != other))
    return row[-1] < distance
