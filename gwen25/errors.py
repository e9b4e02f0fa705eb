"""What can go wrong, as a tree. Nothing else lives here, so that every room may import it.

    Gwen25Error
    ├── BadInput              the user's config, file, model or option: one line, exit status 2, never retried
    ├── Unavailable           something outside did not answer (hub, judge, server): worth another try
    │   ├── SandboxUnavailable    no adequate isolation, or a sandbox that would not start: never a verdict
    │   └── JudgeUnavailable      a judge that could not score: an unknown reward, never a zero
    ├── DamagedArtifact       files of the store that no longer match their manifest
    └── StageFailed           a stage's child process ended badly; `cause` says how (see `Cause`)

A message is a short help page: what is wrong, where, what to do next.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Literal

Cause = Literal["bad_input", "out_of_memory", "killed", "timeout", "unavailable", "cancelled", "crashed"]


class Gwen25Error(Exception):
    """Root of every error that gwen25 raises on purpose."""


class BadInput(Gwen25Error):
    """The user can mend this: the message names what, where, and what to do next."""


class Unavailable(Gwen25Error):
    """A service outside the process did not answer, or would not; another try may succeed."""


class SandboxUnavailable(Unavailable):
    """A program could not be run in isolation. Never presented as a verdict on the program."""


class JudgeUnavailable(Unavailable):
    """A judge could not score an answer. The score is unknown, which is not zero."""


class DamagedArtifact(Gwen25Error):
    """An artifact's files differ from its manifest."""


class StageFailed(Gwen25Error):
    """A stage's child process ended without a result.

    `retry` tells whether another attempt could end otherwise: never for bad input, nor for memory once nothing can be made
    smaller. `shrinks`: the next attempt is given smaller parts than this one was. `tail` holds the child's last lines, secrets
    already removed.
    """

    def __init__(
        self,
        stage: str,
        cause: Cause,
        exit_code: int | None,
        message: str,
        tail: Iterable[str] = (),
        *,
        retry: bool = False,
        shrinks: bool = False,
    ):
        self.stage, self.cause, self.exit_code, self.tail = stage, cause, exit_code, tuple(tail)
        self.reason, self.retry, self.shrinks = message, retry, shrinks
        super().__init__(f"{stage} failed ({cause.replace('_', ' ')}): {message}")


def unknown(kind: str, name: str, known: Iterable[str]) -> BadInput:
    """The error for a name that is not in a table: lists the right ones, suggests the nearest."""
    names = sorted(known)
    near = get_close_matches(name, names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return BadInput(f"unknown {kind} {name!r}{hint} (choose from: {', '.join(names)})")
