"""A Hugging Face Hub on a loopback port: as much of its upload API as a push uses. Not here: xet, pull requests, deletion.

    with FakeHub() as hub:
        hub.repositories["me/model"].files      name -> bytes, of the newest commit
        hub.answers["/api/models/me/model/commit/main"] = 500        the next request of that path gets this instead
        hub.cut = True                          the next upload of a large file is broken off

Shaped by huggingface_hub 2.4's own requests: whoami, create, model info, YAML check, preupload, LFS batch, PUT, verify, commit NDJSON.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import yaml

TOKEN = "hf_0123456789abcdef"
LARGE = 1000  # bytes: a file of more goes by LFS here


@dataclass
class Repository:
    private: bool = False
    files: dict[str, bytes] = field(default_factory=lambda: {".gitattributes": b""})
    commits: list[str] = field(default_factory=lambda: ["0" * 40])
    messages: list[str] = field(default_factory=list)


class FakeHub:
    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.answers: dict[str, int] = {}
        self.requests: list[tuple[str, str]] = []
        self.bodies: list[bytes] = []
        self.uploads = 0
        self.cut = False
        self.lose_commit = False  # the commit is made, and its answer is lost
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms for its acknowledgement

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def do_PUT(self) -> None:
        if self.hub.cut:
            self.hub.cut = False
            self.rfile.read(10)
            self.connection.close()
            self.close_connection = True
            return
        self._answer("PUT")

    def _answer(self, method: str) -> None:
        path = urlsplit(self.path).path
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.requests.append((method, path))
        self.hub.bodies.append(body)
        if path in self.hub.answers:
            return self._say(self.hub.answers[path], {"error": "as the test asked"})
        if not path.startswith("/upload/") and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._say(401, {"error": "Invalid credentials in Authorization header"})
        return self._route(method, path, body)

    def _route(self, method: str, path: str, body: bytes) -> None:
        hub = self.hub
        if path == "/api/whoami-v2":
            return self._say(200, {"type": "user", "name": "me", "orgs": []})
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            front = json.loads(body)["content"].split("---")[1]
            return (
                self._say(200, {"warnings": [], "errors": []})
                if isinstance(yaml.safe_load(front), dict)
                else self._say(400, {"errors": []})
            )
        if path.startswith("/upload/"):
            hub.blobs[path.removeprefix("/upload/")] = body
            hub.uploads += 1
            return self._say(200, {})
        if path == "/verify":
            asked = json.loads(body)
            held = hub.blobs.get(asked["oid"], b"")
            whole = len(held) == asked["size"] and hashlib.sha256(held).hexdigest() == asked["oid"]
            return self._say(200 if whole else 400, {})
        if path.endswith(".git/info/lfs/objects/batch"):
            return self._batch(json.loads(body))
        name = "/".join(path.removeprefix("/api/models/").split("/")[:2])
        if name not in hub.repositories:
            return self._say(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        repository, rest = hub.repositories[name], path.removeprefix(f"/api/models/{name}")
        if rest == "" and method == "GET":
            siblings = [{"rfilename": file} for file in repository.files]
            return self._say(200, {"id": name, "sha": repository.commits[-1], "siblings": siblings, "private": repository.private})
        if rest == "/preupload/main":
            files = [
                {"path": one["path"], "uploadMode": "lfs" if one["size"] > LARGE else "regular", "shouldIgnore": False, "oid": None}
                for one in json.loads(body)["files"]
            ]
            return self._say(200, {"files": files})
        if rest == "/commit/main":
            return self._commit(name, repository, body)
        return self._say(404, {"error": f"no such path: {path}"})

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.hub.repositories:
            return self._say(409, {"error": "You already created this model repo", "url": f"{self.hub.url}/{name}"})
        self.hub.repositories[name] = Repository(private=asked.get("visibility") == "private")
        return self._say(200, {"url": f"{self.hub.url}/{name}", "name": name})

    def _batch(self, asked: dict[str, Any]) -> None:
        objects = []
        for one in asked["objects"]:
            known = {"oid": one["oid"], "size": one["size"]}
            if one["oid"] not in self.hub.blobs:
                links = {"upload": {"href": f"{self.hub.url}/upload/{one['oid']}"}, "verify": {"href": f"{self.hub.url}/verify"}}
                known["actions"] = links
            objects.append(known)
        self._say(200, {"transfer": "basic", "objects": objects})

    def _commit(self, name: str, repository: Repository, body: bytes) -> None:
        lines = [json.loads(line) for line in body.splitlines()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        if header.get("parentCommit") not in (None, repository.commits[-1]):
            return self._say(412, {"error": "The parent commit is not the head"})
        files = dict(repository.files)
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.hub.blobs:
                    return self._say(400, {"error": f"no such object: {value['oid']}"})
                files[value["path"]] = self.hub.blobs[value["oid"]]
        repository.files = files
        repository.messages.append(header["summary"])
        repository.commits.append(hashlib.sha1(body).hexdigest())
        if self.hub.lose_commit:
            self.close_connection = True
            return self.connection.close()
        return self._say(200, {"commitUrl": f"{self.hub.url}/{name}/commit/{repository.commits[-1]}", "commitOid": repository.commits[-1]})

    def _say(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        text = json.dumps(value).encode()
        self.send_response(status)
        for key, held in (headers or {}).items():
            self.send_header(key, held)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
