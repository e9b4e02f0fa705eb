"""Checks of the rewards: every canary sings, and none may be paid for it. Seven seconds, six of them for one that spins.

The judge's canary asks the judge nine times, where its key is there; it is the one check that uses the network.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from gwen25.chat import FORMATS
from gwen25.checks import Asked, Finding, services
from gwen25.rewards import canaries, judge


def rewards(asked: Asked) -> Iterator[Finding]:
    """Each hack against the rewards of the reference recipe; the worst of the problems that it was tried on."""
    sung = canaries.sing(FORMATS[asked.config.chat_format], workers=os.cpu_count() or 1)
    for name in dict.fromkeys(outcome.canary for outcome in sung):
        mine = [outcome for outcome in sung if outcome.canary == name]
        yield _heard(
            name,
            mine,
            "do not train with `execution` here: it would teach the wrong thing; report it",
            "try again when this machine is idle",
        )


def talking_judge(asked: Asked) -> Iterator[Finding]:
    section = asked.config.grpo.judge
    if not judge.available(section) or "judge" not in asked.config.grpo.rewards:
        yield Finding("ok", "not tried: there is no judge")
        return
    if not services.judge_answers(section):
        yield Finding("warn", "not tried: the judge does not answer", "see `judge` above")
        return
    with tempfile.TemporaryDirectory() as folder:
        sung = canaries.spoken_to(judge.Judge(section.model_copy(update={"max_retries": 0}), Path(folder)))
    yield _heard(sung[0].canary, sung, "take another grpo.judge.model, or rows with tests", "try again when the judge answers")


def _heard(name: str, outcomes: list[canaries.Outcome], if_broken: str, if_unknown: str) -> Finding:
    """The finding on one canary: a failure if it was paid on any problem, or nothing can be said for it since no right program was."""
    for outcome in outcomes:
        if outcome.holds is False:
            return Finding("fail", f"{name}: {_broken(outcome)}", if_broken)
    if unknown := [outcome.challenge for outcome in outcomes if outcome.holds is None]:
        return Finding("warn", f"{name}: no score could be had on {', '.join(unknown)}", if_unknown)
    most = max(outcome.earned or 0.0 for outcome in outcomes)
    return Finding("ok", f"{name}: {most:g} at most, honest failure {outcomes[0].honest:g}")


def _broken(outcome: canaries.Outcome) -> str:
    """Which half of what should hold did not."""
    assert outcome.earned is not None and outcome.honest is not None
    if outcome.earned > outcome.honest:
        return f"earns {outcome.earned:g} on {outcome.challenge}, honest failure {outcome.honest:g}"
    return f"not paid, but neither is a right program: it earns {outcome.right:g} on {outcome.challenge}, honest failure {outcome.honest:g}"
