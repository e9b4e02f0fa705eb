"""A hostile program gains nothing: under this interpreter, as an ordinary user, and as root with a user of its own for each program."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import attacks
from .attacks import ATTACKS

REPOSITORY = Path(__file__).parents[2]
SECRET = "the expected output is 42"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, object]]:
    """Things worth attacking that only the sandbox protects, no folder's permissions: a secret in a home, sockets that listen."""
    home = Path("/var/tmp") / f"gwen25-attacked-{os.getpid()}"
    home.mkdir(mode=0o777)
    home.chmod(0o777)
    secret = home / "secret"
    secret.write_text(SECRET)
    secret.chmod(0o644)
    tcp, udp, abstract, path, datagram = socket.socket(), _udp(), _unix(), _unix(), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    tcp.bind(("127.0.0.1", 0))
    udp.bind(tcp.getsockname())
    name = f"gwen25-{os.getpid()}"
    abstract.bind("\0" + name)
    path.bind(str(home / "socket"))
    datagram.bind(str(home / "datagram"))
    for sock in (tcp, abstract, path):
        sock.listen()
    sockets = [tcp, udp, abstract, path, datagram]
    for sock in sockets:
        sock.setblocking(False)
    yield {"home": home, "arguments": [str(secret), str(tcp.getsockname()[1]), name, str(home / "socket")], "sockets": sockets}
    for sock in sockets:
        sock.close()
    shutil.rmtree(home)


def _udp() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def _unix() -> socket.socket:
    return socket.socket(socket.AF_UNIX)


def _run(world: dict[str, object], interpreter: str, user: int | None) -> dict[str, str]:
    """All attacks under another grader, and what is left of the world afterwards."""
    # what the secret belongs to is the grader's own user: its permissions protect nothing
    home = world["home"]
    assert isinstance(home, Path)
    if user is not None:
        os.chown(home / "secret", user, user)
    done = subprocess.run(
        [interpreter, str(Path(attacks.__file__)), *world["arguments"]],  # type: ignore[misc]
        capture_output=True,
        text=True,
        user=user,
        group=user,
        extra_groups=None if user is None else [],
        env={"PYTHONPATH": str(REPOSITORY), "SECRET_KEY": SECRET, "PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"},
        cwd="/",
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, str] = json.loads(done.stdout)
    assert sorted(path.name for path in home.iterdir()) == ["datagram", "secret", "socket"]
    assert (home / "secret").read_text() == SECRET and (home / "secret").stat().st_mode & 0o777 == 0o644
    assert not Path("/tmp/gwen25-attack").exists() and not Path("/dev/shm/gwen25-attack").exists()
    for sock in world["sockets"]:  # type: ignore[attr-defined]
        with pytest.raises(BlockingIOError):  # nobody came
            sock.recv(1) if sock.type == socket.SOCK_DGRAM else sock.accept()
    return result


def _readable_interpreter(user: int) -> str:
    """This interpreter where that user can run it with this repository, else the system's; skips where neither."""
    for candidate in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        with_code = [candidate, "-c", "import sys, gwen25.sandbox; assert sys.version_info >= (3, 11)"]
        try:
            done = subprocess.run(
                with_code, user=user, group=user, extra_groups=[], cwd="/", env={"PYTHONPATH": str(REPOSITORY)}, capture_output=True
            )
        except OSError:
            continue
        if done.returncode == 0:
            return candidate
    pytest.skip(f"no Python 3.11 and copy of this repository that user {user} could read")


def _assert_stopped(result: dict[str, str]) -> None:
    assert {name: result[name] for name in ATTACKS if result[name] != "stopped"} == {}


def test_under_this_interpreter(world: dict[str, object]) -> None:
    result = _run(world, sys.executable, None)
    assert "landlock" in result["isolation"] and "seccomp" in result["isolation"]
    _assert_stopped(result)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("user", [1000, 65534])
def test_as_an_ordinary_user(world: dict[str, object], user: int) -> None:
    result = _run(world, _readable_interpreter(user), user)
    assert "same-user" in result["isolation"]
    _assert_stopped(result)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_as_root_with_a_user_for_each_program(world: dict[str, object]) -> None:
    interpreter = _readable_interpreter(1000)
    os.chown(Path(str(world["home"])) / "secret", 0, 0)
    result = _run(world, interpreter, None)
    assert "own-user" in result["isolation"]
    _assert_stopped(result)
