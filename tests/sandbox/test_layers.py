"""Where isolation is missing, nothing runs: the kernel's refusal is real here, made by a seccomp filter around the grader."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gwen25.errors import SandboxUnavailable, Unavailable
from gwen25.sandbox import Limits, confine, grade, isolate, probe
from gwen25.sandbox.isolate import Child, Isolation

REPOSITORY = Path(__file__).parents[2]
GRADER = """
import ctypes, os, struct, sys
from gwen25.data import TestCase
from gwen25.errors import SandboxUnavailable
from gwen25.sandbox import confine, grade, grade_many

def refuse(number, argument=None):
    same = [(0x15, 0, 1, number)] if argument is None else [(0x15, 0, 3, number), (0x20, 0, 0, 16), (0x15, 0, 1, argument)]
    lines = [(0x20, 0, 0, 0), *same, (0x06, 0, 0, 0x50000 | 38), (0x06, 0, 0, 0x7FFF0000)]  # load the number, compare, ENOSYS, allow
    code = b"".join(struct.pack("HBBI", *line) for line in lines)
    kept = ctypes.create_string_buffer(code, len(code))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(lines), ctypes.addressof(kept)))
    confine._prctl(confine.PR_SET_NO_NEW_PRIVS, 1)
    confine._prctl(confine.PR_SET_SECCOMP, 2, ctypes.addressof(program))

column = {"x86_64": 0, "aarch64": 1}[os.uname().machine]
if sys.argv[1] == "landlock":
    refuse(444)
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
    assert said.startswith("landlock-") and "seccomp" in said and "UNSAFE" not in said and said.endswith("passed\n")


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


def test_an_interpreter_that_does_not_start_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    from gwen25.data import TestCase

    probe()
    for interpreter in ("/nonexistent/python", "/bin/false", "/bin/cat"):
        monkeypatch.setattr(isolate.sys, "executable", interpreter)
        with pytest.raises(SandboxUnavailable) as caught:
            grade("print(1)", [TestCase("", "1")])
        assert isinstance(caught.value, Unavailable)


def test_a_child_that_cannot_be_locked_in_never_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder to be read that does not exist after the change of user."""
    monkeypatch.setattr(isolate, "readable", lambda: ([str(tmp_path / "gone")], []))
    with pytest.raises(SandboxUnavailable, match="gone"), Child(b"print(1)", Limits(), Isolation("", "same")):
        pass


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
        for name, pair in {**confine.DENIED, **confine.ARGUED}.items():
            number = pair[column]
            assert known.get(name) == (None if number is None else str(number)), (name, header)
            checked += 1
    if not checked:
        pytest.skip("no kernel headers on this machine")


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_is_a_program_that_ends(machine: str) -> None:
    """Every jump lands inside, and the last line returns."""
    code = confine.assemble(machine, 4711)
    lines = [code[i : i + 8] for i in range(0, len(code), 8)]
    assert len(lines) < 4096
    for number, line in enumerate(lines):
        kind, if_true, if_false = int.from_bytes(line[:2], "little"), line[2], line[3]
        if kind & 7 == 5:
            assert number + 1 + max(if_true, if_false) < len(lines)
    assert int.from_bytes(lines[-1][:2], "little") == 6
