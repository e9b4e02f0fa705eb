"""Where isolation is missing, nothing runs: the kernel's refusal is real here, made by a seccomp filter around the grader."""

from __future__ import annotations

import py_compile
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import get_args

import pytest

from gwen25.data import TestCase
from gwen25.errors import BadInput, SandboxUnavailable, Unavailable
from gwen25.sandbox import Limits, confine, grade, isolate, pool, probe, scratch, slots
from gwen25.sandbox.isolate import Isolation, Level
from gwen25.sandbox.slots import Kind

REPOSITORY = Path(__file__).parents[2]
GRADER = """
import ctypes, os, struct, sys
from gwen25.data import TestCase
from gwen25.errors import SandboxUnavailable
from gwen25.sandbox import confine, grade, grade_many

def refuse(number, argument=None):
    same = [(0x15, 0, 1, number)] if argument is None else [(0x15, 0, 3, number), (0x20, 0, 0, 16), (0x15, 0, 1, argument)]
    install([(0x20, 0, 0, 0), *same, (0x06, 0, 0, 0x50000 | 38), (0x06, 0, 0, 0x7FFF0000)])  # load the number, compare, ENOSYS, allow

def install(lines):
    code = b"".join(struct.pack("HBBI", *line) for line in lines)
    kept = ctypes.create_string_buffer(code, len(code))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(lines), ctypes.addressof(kept)))
    confine._prctl(confine.PR_SET_NO_NEW_PRIVS, 1)
    confine._prctl(confine.PR_SET_SECCOMP, 2, ctypes.addressof(program))

def refuse_bits(number, bits):
    any_bit = [(0x15, 0, 3, number), (0x20, 0, 0, 16), (0x45, 0, 1, bits)]
    install([(0x20, 0, 0, 0), *any_bit, (0x06, 0, 0, 0x50000 | 1), (0x06, 0, 0, 0x7FFF0000)])

column = {"x86_64": 0, "aarch64": 1}[os.uname().machine]
if sys.argv[1] == "landlock":
    refuse(444)
elif sys.argv[1] == "namespaces":
    refuse((272, 97)[column])  # unshare
    refuse_bits((56, 220)[column], 0x7E020000)  # clone with any CLONE_NEW*
    refuse(435)  # clone3
elif sys.argv[1] == "seccomp":
    refuse(confine.ARGUED["prctl"][column], confine.PR_SET_SECCOMP)
job = ("print(input())", [TestCase("x", "x")], None)
try:
    print(grade(*job[:2]).isolation, grade_many([job], workers=1)[0].status)
except SandboxUnavailable as error:
    print("SandboxUnavailable", error)
"""


def grader(missing: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", GRADER, missing],
        env={"PYTHONPATH": str(REPOSITORY), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_all_layers() -> None:
    said = grader("nothing")
    assert "landlock-" in said and "seccomp" in said and "UNSAFE" not in said and said.endswith("passed\n")


@pytest.mark.parametrize("level", get_args(Level))
def test_a_level_that_was_asked_for(level: Level) -> None:
    """That one or none."""
    if level == "namespaces" and isolate.bubblewrap() is None:
        said = grader("nothing", GWEN25_SANDBOX_LEVEL=level)
        assert said.startswith("SandboxUnavailable") and "bubblewrap is not installed" in said
        return
    said = grader("nothing", GWEN25_SANDBOX_LEVEL=level)
    assert said.endswith("passed\n") and said.startswith("namespaces ") == (level == "namespaces")


def test_a_level_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GWEN25_SANDBOX_LEVEL", "gvisor")
    with pytest.raises(BadInput, match=r"GWEN25_SANDBOX_LEVEL='gvisor': one of namespaces, landlock"):
        probe()


def test_without_namespaces_the_rest_stands() -> None:
    """A container's seccomp profile, or a policy against user namespaces: the next level, and the reason is kept."""
    said = grader("namespaces")
    assert said.startswith("landlock-") and said.endswith("passed\n")


@pytest.mark.parametrize("missing", ["landlock", "seccomp"])
def test_a_missing_layer_is_never_a_verdict(missing: str) -> None:
    said = grader(missing)
    assert said.startswith("SandboxUnavailable no adequate isolation") and missing in said
    assert "GWEN25_UNSAFE_SANDBOX=1" in said, "the way out is named"


@pytest.mark.parametrize("missing", ["landlock", "seccomp"])
def test_unsafe_only_when_asked_for_and_said_so(missing: str) -> None:
    said = grader(missing, GWEN25_UNSAFE_SANDBOX="1")
    assert said.startswith("UNSAFE ") and f"no-{missing}" in said and said.endswith("passed\n")


def test_unsafe_takes_what_there_is() -> None:
    assert grader("nothing", GWEN25_UNSAFE_SANDBOX="1") == grader("nothing")


def test_probe_describes_and_is_asked_once() -> None:
    isolation = probe()
    assert probe() is isolation
    assert "landlock" in str(isolation) and "seccomp" in str(isolation) and isolation.user in ("own", "nobody", "same")


LEVELS = [level for level in get_args(Level) if level == "landlock" or isolate.bubblewrap()]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("interpreter", ["/nonexistent/python", "/bin/false", "/bin/cat"])
def test_an_interpreter_that_does_not_start_is_unavailable(level: Level, interpreter: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolate.sys, "executable", interpreter)
    with pytest.raises(SandboxUnavailable) as caught:
        slots.layers_of(Isolation(level, "same"))
    assert isinstance(caught.value, Unavailable)


@pytest.mark.parametrize("level", LEVELS)
def test_a_zygote_whose_children_cannot_read_never_runs_one(level: Level, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder to be read that does not exist after the change of user."""
    monkeypatch.setattr(slots, "readable", lambda: ([str(tmp_path / "gone")], []))
    with pytest.raises(SandboxUnavailable, match="gone"):
        slots.layers_of(Isolation(level, "same"))


def test_the_filter_has_the_kernels_numbers() -> None:
    """Against the kernel's own headers, where they are installed."""
    headers = {0: Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), 1: Path("/usr/include/asm-generic/unistd.h")}
    checked = 0
    for column, header in headers.items():
        if not header.is_file():
            continue
        lines = (line.split() for line in header.read_text().splitlines() if line.startswith("#define __NR"))
        known = {
            words[1].split("_", 3)[-1] if "3264" in words[1] else words[1][5:]: words[2]
            for words in lines
            if words[2:] and words[2].isdigit()
        }
        for name, pair in {**confine.DENIED, **confine.DENIED_TO_CHILDREN, **confine.DENIED_ON_DISK, **confine.ARGUED}.items():
            number = pair[column]
            assert known.get(name) == (None if number is None else str(number)), (name, header)
            checked += 1
    if not checked:
        pytest.skip("no kernel headers on this machine")


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("assemble", [confine.base_filter, partial(confine.child_filter, on_disk=True)])
def test_the_filter_is_a_program_that_ends(machine: str, assemble: Callable[[str], bytes]) -> None:
    """Every jump lands inside, and the last line returns."""
    code = assemble(machine)
    lines = [code[i : i + 8] for i in range(0, len(code), 8)]
    assert len(lines) < 4096
    for number, line in enumerate(lines):
        kind, if_true, if_false = int.from_bytes(line[:2], "little"), line[2], line[3]
        if kind & 7 == 5:
            assert number + 1 + max(if_true, if_false) < len(lines)
    assert int.from_bytes(lines[-1][:2], "little") == 6


@pytest.mark.parametrize("level", LEVELS)
def test_a_program_holds_no_file_of_a_grader_with_many(level: Level, tmp_path: Path) -> None:
    """The socket's number is then a high one, and goes through the start of a process as it is."""
    said = subprocess.run(
        [sys.executable, "-c", MANY_FILES],
        env={"PYTHONPATH": str(REPOSITORY), "GWEN25_SANDBOX_LEVEL": level},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert said.stdout == "passed\n", said.stdout + said.stderr


MANY_FILES = """
from gwen25.data import TestCase
from gwen25.sandbox import grade
kept = [open("/dev/null") for _ in range(200)]
program = '''
import os
for n in range(3, 2000):
    try: os.fstat(n)
    except OSError: continue
    print(n)
'''
print(grade(program, [TestCase("", "")]).status)
"""


@pytest.mark.parametrize("level", LEVELS)
def test_a_source_that_grows_when_it_is_compiled_grows_in_the_child(level: Level, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each `finally` is emitted twice: 2^14 times 200 statements from 900 bytes."""
    monkeypatch.setenv("GWEN25_SANDBOX_LEVEL", level)
    source = "".join(f"{' ' * d}try: pass\n{' ' * d}finally:\n" for d in range(14)) + " " * 14 + "a;" * 200
    with pool.Runner(source.encode(), Limits(cpu_seconds=1, memory_bytes=128 << 20), probe(), None) as run:
        outcome = run(b"")
        assert outcome.ended == "cpu" or "MemoryError" in outcome.stderr
        with pool._pool().slot(Kind(probe()), threading.Event(), fresh=False) as slot:
            assert not slot.grown


@pytest.mark.parametrize("level", LEVELS)
def test_zygotes_that_died_while_they_waited_cost_nothing(level: Level, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GWEN25_SANDBOX_LEVEL", level)
    test = [TestCase("", "8")]
    assert grade("print(8)", test).passed
    for idle in pool._pool()._idle.values():
        for slot in idle:
            slot._process.kill()
            slot._process.wait()
    verdict = grade("print(8)", test)
    assert verdict.passed, verdict


def test_without_moves_from_folder_to_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Landlock's first version, of kernels 5.13 to 5.18: what a program leaves is cleared away all the same."""
    monkeypatch.setenv("GWEN25_SANDBOX_LEVEL", "landlock")
    old = confine._RIGHTS_BY_ABI
    assert old[1] & (1 << 13) == 0, "no right to move"
    source = Path(confine.__file__).read_text().replace("abi = _syscall(444, None, 0, 1)", "abi = 1")
    code = scratch.root() / scratch.CODE / "confine.pyc"
    kept = code.read_bytes()
    patched = scratch.root() / "confine.py"
    patched.write_text(source)
    try:
        py_compile.compile(str(patched), str(code), doraise=True)
        assert slots.layers_of(probe()).startswith("landlock-1 ")
        program = b"import os; os.makedirs('a/b/c'); open('a/b/c/d', 'w'); print(1)"
        with pool.Runner(program, Limits(), replace(probe(), layers="old"), None) as run:
            for _ in range(3):
                assert run(b"").answer == b"1\n"
    finally:
        code.write_bytes(kept)
        patched.unlink()
