"""Nothing is left behind: no process, folder or open file, however a program or its grader ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gwen25.data import TestCase
from gwen25.sandbox import Limits, grade, scratch
from gwen25.sandbox.isolate import Child
from gwen25.sandbox.layers import probe

REPOSITORY = Path(__file__).parents[2]
LITTER = """
import os, sys
os.mkdir("a"); os.mkdir("a/b"); open("a/b/c", "w").write("x")
os.mkdir("closed"); open("closed/file", "w"); os.umask(0o777); os.mkdir("sealed"); os.mkdir("sealed2", 0)
for n in range(200): open(f"f{n}", "w") if n < 100 else os.close(os.open(f"f{n}", os.O_CREAT, 0))
"""
ENDINGS = {
    "returns": "",
    "raises": "1 / 0",
    "exits": "os._exit(3)",
    "aborts": "os.abort()",
    "spins": "while True: pass",
    "sleeps": "import time; time.sleep(60)",
    "floods": "while True: print('x' * 10000)",
}


def children(pid: int) -> list[int]:
    """Processes whose parent is `pid`."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == pid:
            found.append(int(folder.name))
    return found


def open_files() -> list[Path]:
    return sorted(Path("/proc/self/fd").iterdir())


def eventually(condition: Callable[[], bool], seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("func_name", [None, "f"])
def test_after_any_ending(ending: str, func_name: str | None) -> None:
    program = LITTER + (ENDINGS[ending] if func_name is None else f"def f():\n    {ENDINGS[ending] or 'return 1'}")
    test = TestCase("", "1", "stdin" if func_name is None else "functional")
    grade("", [TestCase("", "")])  # the grader's own folder and probe are there now
    before = (sorted(scratch.root().iterdir()), children(os.getpid()), open_files())
    verdict = grade(program, [test], Limits(cpu_seconds=0.5, wall_seconds=1.5 if ending == "sleeps" else 30), func_name=func_name)
    assert verdict.total_tests == 1
    assert (sorted(scratch.root().iterdir()), children(os.getpid()), open_files()) == before


def test_after_folders_deeper_than_any_path_and_stack() -> None:
    verdict = grade("import os\nfor n in range(1500): os.mkdir('deep'); os.chdir('deep')", [TestCase("", "")])
    assert verdict.status == "output_limit"
    assert {path.name for path in scratch.root().iterdir()} == {"bootstrap.pyc", "confine.pyc"}


def test_after_an_exception_in_the_grader() -> None:
    with pytest.raises(KeyboardInterrupt), Child(b"while True: pass", Limits(), probe()) as child:
        child.go()
        raise KeyboardInterrupt
    assert child.exit_code == -signal.SIGKILL
    assert not Path(f"/proc/{child.pid}").exists()


@pytest.mark.parametrize(
    "program",
    ["while True: pass", "import time; time.sleep(1000)", "import signal; signal.pthread_sigmask(0, range(1, 64)); signal.pause()"],
)
def test_a_killed_grader_takes_its_program_along_and_the_next_one_tidies_up(program: str, tmp_path: Path) -> None:
    code = f"from gwen25.sandbox import grade; from gwen25.data import TestCase; grade({program!r}, [TestCase('', '')])"
    environment = {"PYTHONPATH": str(REPOSITORY), "TMPDIR": str(tmp_path), "PATH": "/usr/bin:/bin"}
    grader = subprocess.Popen([sys.executable, "-c", code], env=environment)
    assert eventually(lambda: any(_locked_in(pid) for pid in children(grader.pid)))
    [child] = children(grader.pid)
    grader.kill()
    grader.wait()
    assert eventually(lambda: not _alive(child)), "the program outlived its grader"

    [left] = tmp_path.iterdir()
    scratch._sweep(tmp_path)
    assert left.exists(), "a fresh folder may belong to a grader that is just starting"
    os.utime(left, (0, 0))
    scratch._sweep(tmp_path)
    assert not left.exists()


def _locked_in(pid: int) -> bool:
    """Whether the child has its filter, and has had time to reach the program (not the probe's, which is over by then)."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    time.sleep(0.3)
    return "Seccomp:\t2" in status and _alive(pid)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_living_grader_is_not_swept() -> None:
    root = scratch.root()
    os.utime(root, (0, 0))
    subprocess.run(
        [
            sys.executable,
            "-c",
            "from pathlib import Path; import sys; from gwen25.sandbox import scratch; scratch._sweep(Path(sys.argv[1]))",
            root.parent,
        ],
        env={"PYTHONPATH": str(REPOSITORY)},
        check=True,
    )
    assert root.exists()


def test_a_grader_that_ends_well_leaves_no_folder(tmp_path: Path) -> None:
    code = "from gwen25.sandbox import grade; from gwen25.data import TestCase; print(grade('print(1)', [TestCase('', '1')]).status)"
    environment = {"PYTHONPATH": str(REPOSITORY), "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "passed\n"
    assert list(tmp_path.iterdir()) == []


def test_removal_follows_no_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    (folder / "link").symlink_to(outside)
    (folder / "sealed").mkdir()
    (folder / "sealed" / "link").symlink_to(outside / "kept")
    (folder / "sealed").chmod(0)
    scratch.remove_tree(folder)
    assert not folder.exists() and (outside / "kept").exists()
