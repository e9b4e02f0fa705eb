"""The Prefect server of a run from the command line: the user's own, or one that lives as long as the run.

Prefect starts a temporary server by itself too, but that one outlives a flow that is killed: nothing tells it to end. This
one runs under `gwen25.supervise`, and goes with the flow whatever ends it. Same database, same settings.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_URL, temporary_settings

from gwen25 import supervise
from gwen25.artifacts import home
from gwen25.errors import Unavailable

START_SECONDS = 90  # its first start migrates a database: 13 s on an idle small machine, three times that on a busy one


@contextmanager
def running() -> Iterator[None]:
    """Within, flows find a server: PREFECT_API_URL's (environment or Prefect profile), else one of our own.

    Raises Unavailable where ours does not answer within 90 s.
    """
    if theirs := PREFECT_API_URL.value():
        if not _answers(theirs):
            raise Unavailable(f"no Prefect server answers at {theirs} (PREFECT_API_URL or Prefect's profile); start it, or unset the URL")
        yield
        return
    port, log = _free_port(), home() / "prefect-server.log"
    url = f"http://127.0.0.1:{port}/api"
    process = _start(port, url, log)
    try:
        _wait(process, url, log)
        with temporary_settings({PREFECT_API_URL: url}):
            try:
                yield
            finally:  # the last lines, before their reader goes: sent to nobody, they hold up the exit for a minute
                APILogWorker.drain_all(timeout=5)
    finally:
        process.terminate()
        process.wait()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _start(port: int, url: str, log: Path) -> subprocess.Popen[bytes]:
    log.parent.mkdir(parents=True, exist_ok=True)
    supervisor = [sys.executable, "-I", "-S", str(supervise.__file__), str(os.getpid()), "2"]
    server = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    # the UI of a server on another port than 4200 still asks 4200 for its data, unless told
    environment = {**os.environ, "PREFECT_SERVER_UI_API_URL": url}
    with log.open("wb") as out:
        return subprocess.Popen(
            [*supervisor, *server], stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True, env=environment
        )


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5):
            return True
    except (OSError, ValueError):  # nothing there, or no URL at all
        return False


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        if _answers(url):
            return
        time.sleep(0.1)
    raise Unavailable(
        f"Prefect's server did not start within {START_SECONDS} s; its log is {log}. "
        "A server of yours is used where PREFECT_API_URL names it"
    )
