"""Other users, and their Python: what the tests compare the sandbox with, and whom they run it as."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
USER = 1000  # an ordinary one; it need not have a name
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@functools.cache
def readable_interpreter(user: int) -> str:
    """This interpreter where that user can run it with this repository, else the system's; skips where neither."""
    for candidate in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        trial = [candidate, "-c", "import sys, gwen25.sandbox; assert sys.version_info >= (3, 11)"]
        environment = {"PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            done = subprocess.run(trial, user=user, group=user, extra_groups=[], cwd="/", env=environment, capture_output=True)
        except OSError:
            continue
        if done.returncode == 0:
            return candidate
    pytest.skip(f"no Python 3.11 and copy of this repository that user {user} could read")
