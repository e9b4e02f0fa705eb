"""What a model at an Ollama server answers to three small problems: does it end, parse, run?

    answers = [ask(server, name, problem, shape, tokens=8192, thinks=True) for problem in PROBLEMS]

Two kinds of fault. The server's (an end token that shows in the text, an end for no reason that a turn ends for) is never right:
`ask` raises. The model's (cut off, no program, one that crashes) is told in `Answer.fault`: what it means is `publish`'s to say.
Answers run in the sandbox and nowhere else; where it gives no verdict, whether they run is unknown: no fault, and no proof either. Which
form a model of others was trained to answer in is unknown too: it must end, and hand in a program that runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from gwen25.chat import THINK_CLOSE, ChatFormat, problem_messages
from gwen25.data import Problem, TestCase
from gwen25.errors import BadInput, SandboxUnavailable
from gwen25.ollama_api import Ollama

PROBLEMS: Final = (
    Problem(
        "sum",
        "Two integers stand on one line. Print their sum.\n\nExample input:\n2 3\n\nExample output:\n5",
        (TestCase("2 3\n", "5\n"), TestCase("-7 7\n", "0\n")),
    ),
    Problem(
        "backwards",
        "One word stands on one line. Print it backwards.\n\nExample input:\nabc\n\nExample output:\ncba",
        (TestCase("abc\n", "cba\n"), TestCase("x\n", "x\n")),
    ),
    Problem(
        "double",
        "Return twice the integer n.",
        (TestCase("4", "8", "functional"), TestCase("-1", "-2", "functional")),
        starter_code="def double(n: int) -> int:\n",
        func_name="double",
    ),
)


_RAN: Final = ("passed", "wrong")  # to its end on each test, or to the first that it answers wrongly


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer. `well_formed` is None for a model of others; `status` is the sandbox's verdict (None: no program; "unknown" also where
    there is no sandbox); `fault` says what the model did not do."""

    problem: str
    done_reason: str
    tokens: int | None
    thinking: str
    content: str
    well_formed: bool | None
    status: str | None
    fault: str | None


def ask(server: Ollama, name: str, problem: Problem, shape: ChatFormat, *, tokens: int, thinks: bool) -> Answer:
    """One problem, answered greedily. `thinks`: the server splits reasoning from answer. A shape without TEMPLATE is a model of others."""
    thinking, content, last = "", "", dict[str, Any]()
    for last in server.stream(name, problem_messages(problem), {"num_predict": tokens, "temperature": 0}):
        message = last.get("message") or {}
        thinking += str(message.get("thinking") or "")
        content += str(message.get("content") or "")
    reason = str(last.get("done_reason"))
    if reason not in ("stop", "length"):
        raise BadInput(f"{name} ended an answer with {reason!r} instead of stop or length; see the server's log")
    if shown := [token for token in shape.stop if token in thinking + content]:
        raise BadInput(f"{name} shows {shown[0]} in its answer: the server does not stop at it")
    # a server that splits has cut the tag away: content is there only where the reasoning was closed
    text = f"{thinking}\n{THINK_CLOSE}\n\n{content}" if thinks and content else thinking + content
    ours = bool(shape.ollama)
    well_formed, program = shape.parse(text).well_formed if ours else None, shape.program(text, unclosed=not ours)
    status = _run(problem, program) if program is not None else None
    count = last.get("eval_count")
    fault = _fault(reason, well_formed, program, status)
    return Answer(problem.id, reason, count if isinstance(count, int) else None, thinking, content, well_formed, status, fault)


def _run(problem: Problem, program: str) -> str:
    from gwen25.sandbox import grade

    try:
        return grade(program, problem.tests, func_name=problem.func_name).status
    except SandboxUnavailable:
        return "unknown"


def _fault(reason: str, well_formed: bool | None, program: str | None, status: str | None) -> str | None:
    if reason == "length":
        return "it was cut off before it ended its turn"
    if program is None:
        return "it hands in no program"
    if well_formed is False:
        return "it is not in the form that was trained"
    return None if status in (*_RAN, "unknown") else f"its program ended in {status}"


def metrics(answers: Sequence[Answer]) -> dict[str, Any]:
    """Counts over the answers. Whether programs run and pass is None where one of them could not be judged, their form where none is
    known."""
    counts = [answer.tokens for answer in answers if answer.tokens is not None]
    statuses, forms = [answer.status for answer in answers], [answer.well_formed for answer in answers if answer.well_formed is not None]
    judged = "unknown" not in statuses
    return {
        "smoke_prompts": len(answers),
        "smoke_ended": sum(answer.done_reason == "stop" for answer in answers),
        "smoke_well_formed": sum(forms) if len(forms) == len(answers) else None,
        "smoke_ran": sum(status in _RAN for status in statuses) if judged else None,
        "smoke_passed": statuses.count("passed") if judged else None,
        "smoke_tokens": sum(counts) if counts else None,
    }
