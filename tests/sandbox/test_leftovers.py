"""Nothing is left behind: no process, folder, shared memory or open file, however a program or its grader ends; and no memory grows."""

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
from gwen25.errors import SandboxUnavailable
from gwen25.sandbox import Limits, grade, probe, scratch
from tests.sandbox.plain import REPOSITORY

LITTER = """
import os, sys
os.mkdir("a"); os.mkdir("a/b"); open("a/b/c", "w").write("x")
os.mkdir("closed"); open("closed/file", "w"); os.umask(0o777); os.mkdir("sealed"); os.mkdir("sealed2", 0)
for n in range(200): open(f"f{n}", "w") if n < 100 else os.close(os.open(f"f{n}", os.O_CREAT, 0))
for place in ("/tmp", "/var/tmp", "/dev/shm"):
    try: open(f"{place}/gwen25-attack-litter", "w")
    except OSError: pass
"""
ENDINGS = {
    "returns": "",
    "raises": "1 / 0",
    "exits": "os._exit(3)",
    "aborts": "os.abort()",
    "spins": "while True: pass",
    "sleeps": "import time; time.sleep(60)",
    "floods": "while True: os.write(2, b'x' * 100000)",
    "fills memory": "x = []\n    while True: x.append(bytearray(10 << 20))",
    "threads": "import threading, time; [threading.Thread(target=time.sleep, args=(60,)).start() for _ in range(9)]; os._exit(0)",
}
LEVELS = ["namespaces", "landlock"]


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each level of isolation; the weaker one is there wherever the tests can run at all."""
    monkeypatch.setenv("GWEN25_SANDBOX_LEVEL", request.param)
    try:
        probe()
    except SandboxUnavailable as error:
        if request.param == LEVELS[-1]:
            raise
        pytest.skip(str(error))
    return str(request.param)


def descendants(pid: int) -> set[int]:
    """Living processes below `pid`."""
    below: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if fields[0] != "Z":
            below.setdefault(int(fields[1]), []).append(int(folder.name))
    found, pending = set[int](), [pid]
    while pending:
        children = below.get(pending.pop(), [])
        found.update(children)
        pending += children
    return found


def traces() -> tuple[set[int], int, list[str], list[Path]]:
    """What a program could leave on this machine: processes, the grader's open files, files in its folders and where anybody may write."""
    own = sorted(str(path.relative_to(scratch.root())) for path in scratch.root().rglob("*"))
    litter = [path for place in ("/tmp", "/var/tmp", "/dev/shm") for path in Path(place).glob("gwen25-attack-litter")]
    return descendants(os.getpid()), open_files(), own, litter


def unchanged(before: object) -> bool:
    try:
        return traces() == before
    except FileNotFoundError:  # it is being cleared away this moment
        return False


def eventually(condition: Callable[[], bool], seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def empty_scratch() -> bool:
    return grade("import os; print(os.listdir('.'))", [TestCase("", "[]")]).passed


@pytest.mark.parametrize("func_name", [None, "f"])
def test_after_any_ending(level: str, func_name: str | None) -> None:
    kind = "stdin" if func_name is None else "functional"
    run_first = "import os\n" if func_name is None else "def f(): return 1"
    tests = (TestCase("", "1", kind),)
    grade(run_first, tests, func_name=func_name), empty_scratch()  # the slots are there now
    before = traces()
    for name, ending in ENDINGS.items():
        program = LITTER + (ending.replace("\n    ", "\n") if func_name is None else f"def f():\n    {ending or 'return 1'}")
        limits = Limits(cpu_seconds=0.1, wall_seconds=0.3 if name == "sleeps" else 30, memory_bytes=128 << 20, output_bytes=1 << 20)
        verdict = grade(program, tests, limits, func_name=func_name)
        assert verdict.status != "passed" or (name, func_name) == ("returns", "f")
        assert eventually(lambda: unchanged(before)), name  # the scratch is cleared after the answer was given
        assert empty_scratch(), name


def test_after_folders_deeper_than_any_path_and_stack(level: str) -> None:
    verdict = grade("import os\nfor n in range(1000): os.mkdir('deep'); os.chdir('deep')", [TestCase("", "x")])
    assert verdict.status in ("output_limit", "wrong")
    assert empty_scratch()


def test_one_program_finds_nothing_of_another() -> None:
    """Neither source nor input nor output of the one before, in all of its memory."""
    from tests.sandbox.attacks.table import table

    mark = "later-0123456789abcdef"
    scan = table()["every_byte"].program
    for _ in range(3):
        assert grade(f"said = input()  # {mark}\nprint(said, '{mark}')", [TestCase(mark, f"{mark} {mark}")]).passed
    assert grade(scan, [TestCase("", "nothing")]).passed
    assert grade(f"planted = '{mark}'\n{scan}", [TestCase("", mark)]).passed, "or the scan would prove nothing"


GROWTH = """
import sys
from tests.sandbox.test_leftovers import open_files, resident
from gwen25.data import TestCase
from gwen25.sandbox import Job, grade_many
jobs = [Job(f"print('x' * {10 << 20})" if n % 10 == 0 else f"x{n} = {n}\\nprint(input())", (TestCase("1\\n", "1\\n"),)) for n in range(60)]
grade_many(jobs, workers=2)
before, files = resident(), open_files()
for _ in range(4):
    grade_many(jobs, workers=2)
print(resident() - before, open_files() - files)
"""


def test_the_grader_does_not_grow_with_the_number_of_programs(level: str) -> None:
    """300 programs, of which every tenth prints 10 MB: memory, its own and the zygotes', and open files stay as after the first 60.

    In a process of its own: what other tests of this one hold, and share with their children, is not the grader's.
    """
    done = subprocess.run([sys.executable, "-c", GROWTH], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    grown, files = map(int, done.stdout.split())
    assert grown < 32 << 20, grown  # the allocator keeps one output of each worker; 240 MB were printed
    assert files <= 8, "one slot more at most: its socket and three files"


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def resident() -> int:
    """Bytes that are this process' and its children's alone."""
    lines = [
        line for pid in (os.getpid(), *descendants(os.getpid())) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    ]
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Private_"))


# Ends of the grader

GRADER = """
from gwen25.data import TestCase
from gwen25.sandbox import grade, grade_many
grade("print(1)", [TestCase("", "1")])
print("up", flush=True)
"""
WAIT = "grade({program!r}, [TestCase('', '')])"
FORKED = """
import os
if (pid := os.fork()): os.waitpid(pid, 0)
else: {child}
assert grade("open('a', 'w').write('x'); print(2)", [TestCase('', '2')]).passed
"""
LIVES = {
    "spins": "while True: pass",
    "sleeps": "import time; time.sleep(1000)",
    "deaf": "import signal; signal.pthread_sigmask(0, range(1, 64)); signal.pause()",
}


def grader(code: str, level: str, tmp_path: Path) -> subprocess.Popen[str]:
    """One that has its slots, and soon its program."""
    environment = {"PYTHONPATH": str(REPOSITORY), "TMPDIR": str(tmp_path), "PATH": "/usr/bin:/bin", "GWEN25_SANDBOX_LEVEL": level}
    started = subprocess.Popen(
        [sys.executable, "-c", GRADER + code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert started.stdout
    assert started.stdout.readline() == "up\n", started.communicate()
    return started


def busy(started: subprocess.Popen[str], depth: int) -> set[int]:
    """Its processes, once the program runs in them."""
    assert eventually(lambda: len(descendants(started.pid)) >= depth)
    time.sleep(0.1)
    return descendants(started.pid)


def alive(pids: set[int]) -> set[int]:
    return {pid for pid in pids if "State:\tZ" not in _status(pid)}


def _status(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return "State:\tZ"


@pytest.mark.parametrize("life", LIVES)
def test_a_killed_grader_takes_its_program_along_and_the_next_one_tidies_up(level: str, life: str, tmp_path: Path) -> None:
    started = grader(WAIT.format(program=LIVES[life]), level, tmp_path)
    with started:
        pids = busy(started, 2)
        started.kill()
    assert eventually(lambda: not alive(pids)), "they outlived their grader"

    [left] = tmp_path.iterdir()
    scratch._sweep(tmp_path)
    assert left.exists(), "a fresh folder may belong to a grader that is just starting"
    os.utime(left, (0, 0))
    scratch._sweep(tmp_path)
    assert not left.exists()


@pytest.mark.parametrize(
    "code",
    [
        WAIT.format(program="import time; time.sleep(1000)"),
        "grade_many([('import time; time.sleep(1000)', [TestCase('', '')], None)] * 9, workers=3)",
    ],
)
def test_an_interrupted_grader_leaves_nothing(level: str, code: str, tmp_path: Path) -> None:
    started = grader(code, level, tmp_path)
    with started:
        pids = busy(started, 2)
        started.send_signal(signal.SIGINT)
        _, said = started.communicate(timeout=30)
    assert "KeyboardInterrupt" in said
    assert eventually(lambda: not alive(pids))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("", ""),
        ("raise ValueError('of the grader')", "of the grader"),
        ("import sys; sys.exit(3)", ""),
        # a forked grader has slots of its own, and leaves its parent's alone, working or idle
        (FORKED.format(child="pass"), ""),
        (FORKED.format(child="raise SystemExit"), ""),
    ],
)
def test_a_grader_that_ends_leaves_nothing(level: str, code: str, words: str, tmp_path: Path) -> None:
    started = grader(code, level, tmp_path)
    with started:
        pids = descendants(started.pid)
        _, said = started.communicate(timeout=30)
    assert words in said and ("Traceback" in said) == bool(words), said
    assert eventually(lambda: not alive(pids))
    assert list(tmp_path.iterdir()) == []


def test_a_living_grader_is_not_swept() -> None:
    root = scratch.root()
    os.utime(root, (0, 0))
    code = "from pathlib import Path; import sys; from gwen25.sandbox import scratch; scratch._sweep(Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, root.parent], env={"PYTHONPATH": str(REPOSITORY)}, check=True)
    assert root.exists()


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
