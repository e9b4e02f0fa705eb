"""Ollama's REST API, as far as this project speaks it. Standard library only, and quick to import: the parent process probes.

    probe_server()                                  ("http://127.0.0.1:11434", "0.33.0") or None
    server = Ollama("http://127.0.0.1:11434")
    digest = server.upload(Path("model.gguf"))      sends it only where the server lacks it
    server.copy("gwen25:try", "gwen25")             moves a name
    server.create("gwen25", files={"model.gguf": digest}, template=..., system=..., parameters={...})

What the server answers decides the error: a refusal (4xx, or an error line in a stream that said 200) is BadInput with the
server's own words; a server that is away, breaks off, or fails itself (5xx) is Unavailable. No proxy is used: the address is
the user's own, and http_proxy is meant for others.

Seen on v0.33; see github.com/ollama/ollama/blob/main/docs/api.md. Not here: pulling, pushing, embeddings.
"""

from __future__ import annotations

import hashlib
import http.client
import ipaddress
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final
from urllib.parse import quote, urlsplit

from gwen25.data import Message
from gwen25.errors import BadInput, Unavailable

PROBE_SECONDS: Final = 1.0
_PORTS: Final = {"http": 80, "https": 443}
_DEFAULT_PORT: Final = 11434


def server_url(host: str | None = None) -> str:
    """The base URL that `host` (else OLLAMA_HOST) means to Ollama's own client.

    Forms: host, host:port, :port, [v6]:port, http://..., https://..., with or without a path. A scheme without a port means the
    scheme's port; 0.0.0.0 and :: (where a server listens) mean this machine. Raises BadInput for anything else.
    """
    text = (os.environ.get("OLLAMA_HOST", "") if host is None else host).strip().strip("\"'")
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "http", text
    authority, slash, path = rest.partition("/")
    if authority.count(":") > 1 and not authority.startswith("["):
        authority = f"[{authority}]"  # a bare IPv6 address
    try:
        parts = urlsplit(f"//{authority}")
        name, port = parts.hostname or "127.0.0.1", parts.port
        if scheme not in _PORTS or parts.username is not None or any(c.isspace() for c in name):
            raise ValueError("host, host:port or http(s)://host:port is expected")
    except ValueError as error:
        shown = "***" if "@" in text else repr(text)  # what stands before the @ may be a password
        raise BadInput(f"OLLAMA_HOST={shown} is no address ({error}); such as 127.0.0.1:11434") from error
    if port is None:
        port = _PORTS[scheme] if separator else _DEFAULT_PORT
    return f"{scheme}://{_connectable(name)}:{port}{(slash + path).rstrip('/')}"


def _connectable(name: str) -> str:
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return name
    if address.is_unspecified:
        address = ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
    return str(address) if address.version == 4 else f"[{address}]"


def probe_server() -> tuple[str, str] | None:
    """(base URL, version) of the server that OLLAMA_HOST names, or None where none answers within a second."""
    url = server_url()
    try:
        return url, Ollama(url, timeout=PROBE_SECONDS).version()
    except (Unavailable, BadInput):  # nothing there, or something that is no Ollama
        return None


class Ollama:
    """One server. `timeout` is in wall seconds of silence: a stream may take longer as long as it says something."""

    def __init__(self, url: str, timeout: float = 600):
        self.url, self.timeout = url, timeout
        self._parts = urlsplit(url)

    def version(self) -> str:
        version = self._call("GET", "/api/version").get("version")
        if not isinstance(version, str):
            raise BadInput(f"what answers at {self.url} is no Ollama server")
        return version

    def upload(self, file: Path, progress: Callable[[int, int], None] = lambda done, total: None) -> str:
        """Put a file among the server's blobs, unless it is there; returns its digest, "sha256:...". `progress` counts bytes sent.

        Asked first because a server that has the blob answers without reading it, which breaks the sender's connection. Where the
        connection breaks all the same, it is asked again: somebody else may have sent the same bytes meanwhile.
        """
        with file.open("rb") as data:
            digest = f"sha256:{hashlib.file_digest(data, 'sha256').hexdigest()}"
            path, size = f"/api/blobs/{digest}", file.stat().st_size
            if self._has(path):
                return digest
            data.seek(0)
            counted = _Counted(data, size, progress)
            try:
                with self._request("POST", path, counted, {"Content-Length": str(size)}) as response:
                    self._raise_for(response, path, response.read() if response.status >= 400 else b"")
            except Unavailable as error:
                if not self._holds(path):
                    where = f"after {counted.sent:,} of {size:,} bytes of {file.name}"
                    raise Unavailable(f"{error}; {where}: the next attempt sends it again, unless the server has it by then") from error
        return digest

    def _holds(self, path: str) -> bool:
        try:
            return self._has(path)
        except Unavailable:  # gone altogether
            return False

    def create(
        self, model: str, *, files: Mapping[str, str], template: str, system: str, parameters: Mapping[str, Any], license: str | None = None
    ) -> list[str]:
        """Make a model of uploaded files ({name: digest}); returns the statuses that the server told.

        The stream begins with 200 whatever comes; only its last line says "success".
        """
        body = {"model": model, "files": files, "template": template, "system": system, "parameters": parameters, "stream": True}
        if license is not None:
            body["license"] = license
        told: list[str] = []
        for line in self._lines("/api/create", body):
            if "error" in line:
                # a blob that was pruned since it was sent is sent again by another attempt
                kind = Unavailable if "no such file or directory" in str(line["error"]) else BadInput
                raise kind(f"Ollama at {self.url} did not make {model}: {line['error']}")
            told.append(str(line.get("status")))
        if told[-1:] != ["success"]:
            raise Unavailable(f"Ollama at {self.url} broke off while making {model}, after {told[-1:] or 'nothing'}; try again")
        return told

    def digest(self, model: str) -> str | None:
        """The digest that the server lists for a model, or None where it has none of that name."""
        wanted = model if ":" in model.rpartition("/")[2] else f"{model}:latest"
        listed = self._call("GET", "/api/tags").get("models")
        found = [entry.get("digest") for entry in listed or [] if isinstance(entry, dict) and entry.get("name") == wanted]
        return str(found[0]) if found and found[0] else None

    def show(self, model: str) -> dict[str, Any]:
        return self._call("POST", "/api/show", {"model": model})

    def chat(self, model: str, messages: Sequence[Message], options: Mapping[str, Any]) -> dict[str, Any]:
        """One answer, whole: {"message": {"content", "thinking"}, "done_reason", "eval_count", ...}."""
        return self._call("POST", "/api/chat", {"model": model, "messages": list(messages), "options": options, "stream": False})

    def stream(self, model: str, messages: Sequence[Message], options: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """One answer, part by part: `message` holds the next words of "thinking" or "content", the last part "done_reason".

        A reader that leaves ends the work.
        """
        last: dict[str, Any] = {}
        for last in self._lines("/api/chat", {"model": model, "messages": list(messages), "options": options, "stream": True}):
            if "error" in last:
                raise Unavailable(f"Ollama at {self.url} broke off in an answer of {model}: {last['error']}")
            yield last
        if not last.get("done"):
            raise Unavailable(f"Ollama at {self.url} broke off in an answer of {model}; try again")

    def rendered(self, model: str, messages: Sequence[Message]) -> str | None:
        """The prompt that the server would feed the model; None where it does not tell (a debugging field of its API)."""
        body = {"model": model, "messages": list(messages), "stream": False, "_debug_render_only": True, "options": {"num_predict": 1}}
        info = self._call("POST", "/api/chat", body).get("_debug_info")
        prompt = info.get("rendered_template") if isinstance(info, dict) else None
        return prompt if isinstance(prompt, str) else None

    def copy(self, source: str, destination: str) -> None:
        """Let `destination` name what `source` names, whatever it named before."""
        self._call("POST", "/api/copy", {"source": source, "destination": destination})

    def delete(self, model: str) -> None:
        self._call("DELETE", "/api/delete", {"model": model})

    def models(self) -> list[str]:
        """Names that the server lists."""
        listed = self._call("GET", "/api/tags").get("models")
        if not isinstance(listed, list):  # a server without any says [], or null
            if listed is None:
                return []
            raise BadInput(f"what answers at {self.url} is no Ollama server: /api/tags lists {str(listed)[:60]!r}")
        return [str(model["name"]) for model in listed if isinstance(model, dict) and "name" in model]

    # ------------------------------------------------------------------------------------------------------------------ HTTP

    def _has(self, path: str) -> bool:
        with self._request("HEAD", path) as response:
            response.read()
            if response.status not in (200, 404):
                self._raise_for(response, path, b"")
            return response.status == 200

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        with self._request(method, path, None if body is None else json.dumps(body).encode()) as response:
            text = response.read()
        self._raise_for(response, path, text)
        if not text:
            return {}
        try:
            answer = json.loads(text)
        except ValueError as error:
            raise BadInput(f"what answers at {self.url} is no Ollama server: {path} gave {text[:60]!r}") from error
        if not isinstance(answer, dict):
            raise BadInput(f"what answers at {self.url} is no Ollama server: {path} gave {text[:60]!r}")
        return answer

    def _lines(self, path: str, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        with self._request("POST", path, json.dumps(body).encode()) as response:
            if response.status >= 400:
                self._raise_for(response, path, response.read())
            for line in response:
                if line.strip():
                    try:
                        told = json.loads(line)
                    except ValueError as error:
                        raise Unavailable(f"Ollama at {self.url} broke off in the middle of a line of {path}; try again") from error
                    if not isinstance(told, dict):
                        raise BadInput(f"what answers at {self.url} is no Ollama server: {path} gave {line[:60]!r}")
                    yield told

    def _raise_for(self, response: http.client.HTTPResponse, path: str, text: bytes) -> None:
        if response.status < 400:
            return
        try:
            words = str(json.loads(text)["error"])
        except (ValueError, KeyError, TypeError):
            words = text[:200].decode(errors="replace") or response.reason
        message = f"Ollama at {self.url} refused {path} ({response.status}): {words}"
        if words.startswith(("option ", "invalid option")):  # status 500, and no better the next time
            raise BadInput(message)
        # a digest that does not fit was damaged on its way
        if response.status >= 500 or response.status in (408, 429) or "digest mismatch" in words:
            raise Unavailable(message)
        raise BadInput(message)

    @contextmanager
    def _request(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Iterator[http.client.HTTPResponse]:
        secure = self._parts.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = kind(self._parts.hostname or "127.0.0.1", self._parts.port, timeout=self.timeout, blocksize=1 << 20)
        try:
            connection.request(method, self._parts.path + quote(path, safe="/:"), body, dict(headers or {}))
            yield connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            reason = str(error) or type(error).__name__
            raise Unavailable(f"Ollama at {self.url} does not answer {method} {path}: {reason}; is it running? (`ollama serve`)") from error
        finally:
            connection.close()


class _Counted:
    """A file that tells how far it was read, at each 16 MiB and at its end."""

    _STEP: Final = 1 << 24

    def __init__(self, data: BinaryIO, size: int, progress: Callable[[int, int], None]):
        self._data, self._size, self._progress, self.sent = data, size, progress, 0

    def read(self, count: int = -1) -> bytes:
        piece = self._data.read(count)
        before, self.sent = self.sent, self.sent + len(piece)
        if piece and (self.sent // self._STEP > before // self._STEP or self.sent == self._size):
            self._progress(self.sent, self._size)
        return piece
