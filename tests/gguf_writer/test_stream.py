"""What is written past the page cache is what was given, whatever the disk and the file system do."""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gwen25.gguf_writer import stream
from gwen25.gguf_writer.stream import Direct
from tests.conftest import REPOSITORY

STRIPE = 1 << 16
GIVEN = random.Random(0).randbytes(5 * STRIPE + 4321)
Write = Callable[[int, memoryview], int]


@pytest.fixture(autouse=True)
def _small_stripes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "STRIPE", STRIPE)


def save(out: Path, given: bytes = GIVEN, piece: int = 12_345) -> bytes:
    with out.open("wb", buffering=0) as file, Direct(file) as data:
        assert sum(data.write(given[at : at + piece]) for at in range(0, len(given), piece)) == len(given)
    return out.read_bytes()


def test_malloc_keeps_what_is_freed_where_it_is_glibcs(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own: the setting stays."""
    child = "from gwen25.gguf_writer import keep_freed_memory; print(keep_freed_memory())"
    said = subprocess.run([sys.executable, "-c", child], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    assert said == f"{platform.libc_ver()[0] == 'glibc'}\n"
    monkeypatch.setattr(stream.ctypes, "CDLL", lambda name: object())
    assert not stream.keep_freed_memory()


def is_direct(descriptor: int) -> bool:
    return bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT)


@pytest.mark.parametrize("size", [0, 1, STRIPE - 1, STRIPE, STRIPE + 1, 2 * STRIPE, len(GIVEN)])
@pytest.mark.parametrize("piece", [4096, 12_345, 3 * STRIPE + 7])
def test_what_was_given_is_there(size: int, piece: int, tmp_path: Path) -> None:
    assert save(tmp_path / "out", GIVEN[:size], piece) == GIVEN[:size]


def test_whole_stripes_go_past_the_page_cache_and_the_end_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, write = list[tuple[int, bool]](), os.write

    def watched(descriptor: int, view: memoryview) -> int:
        seen.append((len(view), is_direct(descriptor)))
        return write(descriptor, view)

    with (tmp_path / "probe").open("wb", buffering=0) as file:
        try:
            fcntl.fcntl(file, fcntl.F_SETFL, os.O_DIRECT)
        except OSError:
            pytest.skip(f"the file system of {tmp_path} has no direct writes")
    monkeypatch.setattr(stream.os, "write", watched)
    assert save(tmp_path / "out") == GIVEN
    assert seen == [(STRIPE, True)] * 5 + [(4321, False)]


def test_a_file_system_without_direct_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may refuse the flag, or only the first write."""
    real = fcntl.fcntl

    def refusing(descriptor: int, command: int, flags: int = 0) -> int:
        if command == fcntl.F_SETFL and flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "no")
        return int(real(descriptor, command, flags))

    with monkeypatch.context() as patch:
        patch.setattr(stream.fcntl, "fcntl", refusing)
        assert save(tmp_path / "flag") == GIVEN
    monkeypatch.setattr(stream.os, "write", refused_while_direct(os.write, STRIPE))
    assert save(tmp_path / "write") == GIVEN


def refused_while_direct(write: Write, largest: int) -> Write:
    def refusing(descriptor: int, view: memoryview) -> int:
        if is_direct(descriptor) and len(view) >= largest:
            raise OSError(errno.EINVAL, "Invalid argument")
        return write(descriptor, view)

    return refusing


def test_a_write_that_takes_a_part_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """5,000 bytes end within a block, and the next direct write there is refused."""
    write = os.write

    def short(descriptor: int, view: memoryview) -> int:
        if is_direct(descriptor) and len(view) == STRIPE:
            fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) & ~os.O_DIRECT)
            done = write(descriptor, view[:5000])
            fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) | os.O_DIRECT)
            return done
        return write(descriptor, view[:3000] if len(view) > 3000 else view)

    monkeypatch.setattr(stream.os, "write", short)
    assert save(tmp_path / "out") == GIVEN


def test_a_disk_that_fails_says_so_once_and_no_later_than_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(descriptor: int, view: memoryview) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(stream.os, "write", failing)
    for size in (100, STRIPE, len(GIVEN)):
        with pytest.raises(OSError, match="Input/output error"):
            save(tmp_path / "out", GIVEN[:size])


def test_an_error_of_the_work_is_not_hidden_by_one_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(descriptor: int, view: memoryview) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(stream.os, "write", failing)
    with pytest.raises(KeyError), (tmp_path / "out").open("wb", buffering=0) as file, Direct(file) as data:
        data.write(GIVEN[:STRIPE])
        raise KeyError("the work")
