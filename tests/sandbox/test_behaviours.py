"""A program behaves as under plain Python: the same output, the same last line on stderr, the same exit status."""

from __future__ import annotations

import itertools
import subprocess
import sys
import sysconfig
import venv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from gwen25.sandbox import Limits, probe
from gwen25.sandbox.pool import Runner
from gwen25.sandbox.pure import Reader
from tests.sandbox.behaviours import Behaviour, table

BEHAVIOURS = table()

ENVIRONMENT = {"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": sysconfig.get_path("purelib")}


class End(NamedTuple):
    stdout: bytes
    stderr: str  # its last line
    exit_code: int


def bare_python(folder: Path) -> Path:
    """This interpreter without anybody's .pth files: they cost 30 ms at each start, and import what a program should not find."""
    venv.create(folder, symlinks=True)
    return folder / "bin" / "python"


def plainly(behaviour: Behaviour, python: Path, folder: Path) -> End:
    folder.mkdir()
    (folder / "solution.py").write_bytes(behaviour.source)
    (folder / "in").write_bytes(behaviour.stdin)
    with (folder / "in").open("rb") as given, (folder / "out").open("w+b") as out, (folder / "err").open("w+b") as err:
        (folder / "in").unlink()  # the program sees its folder
        (folder / "out").unlink()
        (folder / "err").unlink()
        done = subprocess.run(
            [python, str(folder / "solution.py")], stdin=given, stdout=out, stderr=err, env=ENVIRONMENT, cwd=folder, timeout=60
        )
        out.seek(0)
        err.seek(0)
        return End(out.read(), _last(err.read().decode(errors="replace")), done.returncode)


def boxed(behaviour: Behaviour) -> End:
    with Runner(behaviour.source, Limits(wall_seconds=60), probe(), None) as run:
        outcome = run(behaviour.stdin)
    assert outcome.ended == "exit", outcome
    return End(outcome.answer, _last(outcome.stderr), outcome.exit_code)


def boxed_together(behaviour: Behaviour, inputs: list[bytes]) -> list[End]:
    """In one process, as far as that comes; nothing where the program may leave anything behind."""
    with Runner(behaviour.source, Limits(wall_seconds=60), probe(), None) as run:
        outcomes = run.many(inputs)
    return [End(outcome.answer, _last(outcome.stderr), outcome.exit_code) for outcome in outcomes]


def _last(text: str) -> str:
    return text.rstrip("\n").rpartition("\n")[2]


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[End, End]]:
    folder = tmp_path_factory.mktemp("plain")
    python = bare_python(folder / "venv")

    def both(number: int, behaviour: Behaviour) -> tuple[End, End]:
        return plainly(behaviour, python, folder / str(number)), boxed(behaviour)

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(BEHAVIOURS, pool.map(both, range(len(BEHAVIOURS)), BEHAVIOURS.values()), strict=True))


@pytest.mark.parametrize("name", BEHAVIOURS)
def test_as_under_plain_python(ends: dict[str, tuple[End, End]], name: str) -> None:
    plain, box = ends[name]
    if "No module named 'numpy'" in plain.stderr:
        pytest.skip("this interpreter has no numpy")
    assert (box != plain) if BEHAVIOURS[name].differs else (box == plain), BEHAVIOURS[name].differs


OTHER = [b"3\n4 5\n6", "é ü\r\na\rb\n".encode() * 3, b"\xff\xfe1 2\n"]
PURE = [name for name, behaviour in BEHAVIOURS.items() if not behaviour.differs and Reader(None).pure(behaviour.source)]


@pytest.mark.parametrize("name", PURE)
def test_many_in_one_process_as_under_plain_python(name: str, tmp_path: Path) -> None:
    behaviour, inputs = BEHAVIOURS[name], [BEHAVIOURS[name].stdin, *OTHER, BEHAVIOURS[name].stdin]
    known = [plainly(behaviour._replace(stdin=data), Path(sys.executable), tmp_path / str(n)) for n, data in enumerate(inputs)]
    well = list(itertools.takewhile(lambda end: end.exit_code == 0 and not end.stderr, known))
    assert boxed_together(behaviour, inputs) == well


def test_there_are_many() -> None:
    assert len(PURE) > 40
    assert len(BEHAVIOURS) > 150 and sum(bool(behaviour.differs) for behaviour in BEHAVIOURS.values()) < 15
