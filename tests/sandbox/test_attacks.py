"""A hostile program gains nothing: as root and as an ordinary user, with namespaces and on a machine that grants none.

All attacks of one grader run in one process of its own (`attacks`), beside honest programs; each test here looks at one attack's end.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.sandbox.attacks.table import Attack, table
from tests.sandbox.plain import REPOSITORY, USER, as_root, readable_interpreter

ATTACKS = table()
SECRET = "secret-0123456789abcdef"  # looks like what the attacks look for
KEY = str(0x5EED)  # of the shared memory, semaphores and queues that an attack tries to make
PLACES = [Path(path) for path in ("/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue")]


class Grader(NamedTuple):
    user: int | None = None  # None: whoever runs the tests
    namespaces: bool = True
    readable: bool = False  # by an interpreter that any user can read, so that a program can become a user of its own

    def __str__(self) -> str:
        who = "user" if self.user else "tester"
        return f"{who}-{'with' if self.namespaces else 'without'}-namespaces{'-readable' if self.readable else ''}"


WEAKEST = Grader(USER, namespaces=False)


class World:
    """Things worth attacking that only the sandbox protects, no folder's permissions: a secret in a home, sockets that listen."""

    def __init__(self, home: Path):
        self.home, self.secret = home, home / "secret"
        home.mkdir()
        home.chmod(0o777)
        self.secret.write_text(SECRET)
        self.secret.chmod(0o666)
        tcp, udp, abstract, path = socket.socket(), _datagram(socket.AF_INET), socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
        tcp.bind(("127.0.0.1", 0))
        udp.bind(tcp.getsockname())
        name = f"\0gwen25-{secrets.token_hex(4)}"
        abstract.bind(name)
        path.bind(str(home / "socket"))
        self.listening, self.hearing = [tcp, abstract, path], [udp]
        for sock in self.listening:
            sock.listen()
        for sock in [*self.listening, *self.hearing]:
            sock.setblocking(False)
        code = [str(REPOSITORY / "gwen25/sandbox/judge.py"), str(Path(__file__))]
        self.argument = json.dumps([str(self.secret), str(home), tcp.getsockname()[1], name, str(home / "socket"), *code])

    def state(self) -> dict[str, object]:
        facts = self.secret.stat()
        return {
            "home": sorted(path.name for path in self.home.iterdir()),
            "secret": (
                self.secret.read_text(),
                oct(facts.st_mode),
                facts.st_uid,
                facts.st_mtime,
                facts.st_nlink,
                os.listxattr(self.secret),
            ),
            "places": {str(place): sorted(path.name for path in place.iterdir() if _ours(path.name)) for place in PLACES if place.is_dir()},
            "shared memory": [KEY in Path(f"/proc/sysvipc/{kind}").read_text() for kind in ("shm", "sem", "msg")],
            "visitors": [*map(_visited, self.listening), *map(_heard, self.hearing)],
        }

    def close(self) -> None:
        for sock in [*self.listening, *self.hearing]:
            sock.close()
        shutil.rmtree(self.home)


def _datagram(family: int) -> socket.socket:
    return socket.socket(family, socket.SOCK_DGRAM)


def _ours(name: str) -> bool:
    """An attack's, by the names that they use."""
    return "gwen25-attack" in name or name.startswith(("left", "mine", "moved"))


def _visited(sock: socket.socket) -> bool:
    try:
        sock.accept()[0].close()
    except BlockingIOError:
        return False
    return True


def _heard(sock: socket.socket) -> bool:
    try:
        return bool(sock.recv(1))
    except BlockingIOError:
        return False


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    made = World(Path("/var/tmp") / f"gwen25-attacked-{os.getpid()}")
    yield made
    made.close()


def _fight(world: World, grader: Grader, names: list[str]) -> dict[str, Any]:
    """What became of these attacks under this grader, and of the world."""
    interpreter = readable_interpreter(grader.user or USER) if grader.user or grader.readable else sys.executable
    os.chown(world.secret, grader.user or os.getuid(), -1)  # the grader's own, so that its permissions protect nothing
    command = [interpreter, "-m", "tests.sandbox.attacks", world.argument, *names]
    if not grader.namespaces:
        command = [interpreter, "-m", "tests.sandbox.attacks.no_namespaces", *command]
    before = world.state()
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        user=grader.user,
        group=grader.user,
        extra_groups=None if grader.user is None else [],
        env={"PYTHONPATH": str(REPOSITORY), "SECRET_KEY": SECRET, "PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"},
        cwd="/",
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result | {"world": (before, world.state()), "stderr": done.stderr}


@pytest.fixture(scope="module")
def fought(world: World) -> dict[str, Any]:
    """By whoever runs the tests, in the strongest isolation that is to be had."""
    return _fight(world, Grader(), [])


def _gained(attack: Attack, result: dict[str, Any], name: str) -> str:
    """What an attack won, "" where it is nothing."""
    status, stderr, _ = result["attacks"][name]
    if attack.only_in not in result["isolation"] or (status in attack.holds and "BREACH" not in stderr):
        return ""
    return f"it tried to {attack.tries}: {status}\n{stderr}"


def _assert_no_harm(result: dict[str, Any]) -> None:
    assert result["honest"] == {}, "honest programs that ran after them"
    assert result["neighbours"] == [] and result["neighbours_run"] > 5, "honest programs that ran beside them"
    assert result["changed"] == {}, "the grader's own process"
    assert result["open_files"][1] - result["open_files"][0] < len(result["attacks"]) / 4, "files that the grader holds open"
    before, after = result["world"]
    assert after == before
    assert result["stderr"] == ""
    slowest = max(result["attacks"], key=lambda name: float(result["attacks"][name][2]))
    assert result["attacks"][slowest][2] < 20, f"seconds of wall time, where CPU time is limited to 1 a test: {slowest}"


@pytest.mark.parametrize("name", ATTACKS)
def test_gains_nothing(fought: dict[str, Any], name: str) -> None:
    if ATTACKS[name].only_in not in fought["isolation"]:
        pytest.skip(f"promised by {ATTACKS[name].only_in} only; here: {fought['isolation']}")
    assert _gained(ATTACKS[name], fought, name) == ""


def test_no_harm_is_done(fought: dict[str, Any]) -> None:
    _assert_no_harm(fought)


@as_root
def test_what_is_refused_is_refused_to_the_weakest_grader_too(world: World) -> None:
    """The fast part of the next test."""
    _assert_stopped(_fight(world, WEAKEST, [name for name, attack in ATTACKS.items() if attack.is_refused]), WEAKEST)


@pytest.mark.slow  # 10 s of CPU each: all attacks again
@pytest.mark.parametrize("grader", [WEAKEST, Grader(USER), Grader(namespaces=False), Grader(namespaces=False, readable=True)], ids=str)
def test_under_another_grader(world: World, grader: Grader) -> None:
    if (grader.user or grader.readable) and os.geteuid() != 0:
        pytest.skip("only root can become another user")
    _assert_stopped(_fight(world, grader, []), grader)


def _assert_stopped(result: dict[str, Any], grader: Grader) -> None:
    gains = {name: _gained(ATTACKS[name], result, name) for name in result["attacks"]}
    assert {name: gain for name, gain in gains.items() if gain} == {}
    _assert_no_harm(result)
    layers = result["isolation"].split()
    assert "seccomp" in layers and any(layer.startswith("landlock-") for layer in layers)
    assert grader.namespaces or "namespaces" not in layers
    assert not grader.readable or "own-user" in layers


def test_there_are_many() -> None:
    assert len(ATTACKS) > 250 and len({attack[1:] for attack in ATTACKS.values()}) == len(ATTACKS)


# What refuses them is the sandbox: run plainly, each of these does what it tries. Only those that harm nobody where they succeed.
HARMLESS = (
    ("read_passwd", "read_secret_in_a_home", "read_grader_source", "list_folders", "existence", "processes_seen", "own_process_files"),
    ("kernel_files", "write_through_a_link", "append_to_secret", "hard_link_secret", "touch_secret", "chmod_secret", "fifo_and_devices"),
    ("tcp_loopback", "udp", "listen", "unix_abstract", "unix_path", "unix_listen", "netlink", "send_a_descriptor", "every_family"),
    ("fork", "clone", "execve", "subprocess", "system", "popen", "posix_spawn", "multiprocessing", "process_pool", "pidfd", "unshare"),
    ("own_filter", "memory_files", "watch_files", "timer_that_kills", "killed_by_the_cpu_limit", "personality", "asynchronous_io"),
    ("address_space", "sparse_file", "every_byte"),
)


@pytest.mark.parametrize("name", [name for names in HARMLESS for name in names])
def test_without_the_sandbox_it_works(name: str, tmp_path: Path) -> None:
    attack, world = ATTACKS[name], World(tmp_path / "home")
    try:
        secret, home, *rest = json.loads(world.argument)
        program = attack.complete((secret, home, os.getpid(), *rest))
        with (tmp_path / "out").open("w") as out:
            subprocess.run([sys.executable, "-c", program], stdout=out, stderr=out, cwd=tmp_path, timeout=60, env={"SECRET_KEY": SECRET})
    finally:
        world.close()
    assert (tmp_path / "out").read_text().strip() not in ("stopped", "nothing")
