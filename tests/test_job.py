"""JSON that a stage writes: whole or not there, and no temporary file beside it."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from gwen25.job import Redactor, write_json


def test_what_cannot_be_written_leaves_what_was_there_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "facts.json"
    write_json(file, {"a": 1})
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(file, {"a": float("nan")})

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_json(file, {"a": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["facts.json"]
    assert json.loads(file.read_text(encoding="utf-8")) == {"a": 1}


def test_names_and_passwords_in_addresses_are_taken_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "0123456789")
    redact = Redactor()
    assert redact("GET https://me:pa55@host:80/x?t=0123456789: refused") == "GET https://[userinfo]@host:80/x?t=[SOME_TOKEN]: refused"
    assert redact("postgresql+psycopg://:only@db and //a:b@c") == "postgresql+psycopg://[userinfo]@db and //[userinfo]@c"
    for line in ("see http://host:80/@scope, mail me@host", "7 // 2: 3 @ x", "http://host:80 and a@b"):
        assert redact(line) == line
