"""`gwen25 chat REF`: talk to any form of a model in the format it was trained in.

On a terminal: a question a line, or between two lines of three double quotes; /reset begins anew, Ctrl-C ends an answer,
Ctrl-D the chat. From a pipe: all of standard input is one question, and the answer alone goes to standard output.
"""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import suppress

from gwen25 import references, speakers
from gwen25.chat import prompt_text
from gwen25.commands.common import warn
from gwen25.errors import BadInput, Gwen25Error
from gwen25.speakers import Draw
from gwen25.talk import Screen, Talk, utf8

PROMPT = ">>> "
QUOTES = '"""'
HELP = '/reset begins anew, Ctrl-C ends an answer, Ctrl-D the chat; a question of several lines stands between lines of """'


def run(arguments: argparse.Namespace) -> int:
    draw = Draw(arguments.max_tokens, arguments.temperature)
    if arguments.max_tokens < 1 or not 0 <= arguments.temperature <= 10:
        raise BadInput("--max-tokens is at least 1, --temperature between 0 (greedy) and 10")
    utf8(arguments.system or "", "--system")
    piped = None if sys.stdin.isatty() else _question()
    model = references.find(arguments.ref, arguments.base, warn)
    _note(f"loading {model.name} ...")
    with speakers.opened(model) as speaker:
        # Ollama's models bring a system turn of their own, ours the one they were trained with
        system = arguments.system or (None if model.kind == "ollama" else prompt_text("system"))
        talk = Talk(speaker, draw, system)
        if piped is not None:
            return _once(talk, piped, arguments)
        _note(HELP)
        _loop(talk, arguments)
    return 0


def _question() -> str:
    """All of standard input, read before the model is: nothing is loaded for an empty one."""
    try:
        text = sys.stdin.read().strip("\n")
    except UnicodeDecodeError as error:
        raise BadInput(f"standard input is not UTF-8 text ({error})") from error
    if not text.strip():
        raise BadInput("standard input holds no question; without a pipe `gwen25 chat` asks for one")
    return utf8(text, "standard input")


def _once(talk: Talk, question: str, arguments: argparse.Namespace) -> int:
    """One question; status 1 where no answer came of it, so that a script can tell."""
    screen = _screen(arguments)
    end = talk.ask(question, screen)
    if screen.folded:
        _note(f"(reasoning of {screen.folded} characters left out)")
    if end is None:
        raise Gwen25Error(f"no answer: the model did not come out of its reasoning in {arguments.max_tokens} tokens; raise --max-tokens")
    if end.truncated:
        warn(f"the answer was cut off after {end.tokens or arguments.max_tokens} tokens; raise --max-tokens")
    return 0


def _loop(talk: Talk, arguments: argparse.Namespace) -> None:
    """Questions until Ctrl-D. Ctrl-C, whenever it comes, ends what is under way and nothing more."""
    with suppress(ImportError):
        import readline  # noqa: F401  (editing and history; a pasted text of several lines comes as one)
    while True:
        try:
            _turn(talk, _read(), arguments)
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            _note("\n(interrupted: a question under way is taken back; Ctrl-D ends the chat)")
        except Gwen25Error as error:  # too long for the context, or a server that broke off: the next question may fare better
            _note(f"gwen25: {error}")
        except UnicodeDecodeError as error:
            _note(f"gwen25: the line is not UTF-8 text ({error.reason})")


def _read() -> str:
    """A line, or the lines between two times three quotes."""
    text = input(PROMPT)
    if text.startswith(QUOTES):
        text = text.removeprefix(QUOTES)
        while not text.rstrip().endswith(QUOTES):
            text += "\n" + input("... ")
        text = text.rstrip().removesuffix(QUOTES)
    return text.strip("\n")


def _turn(talk: Talk, question: str, arguments: argparse.Namespace) -> None:
    if not question.strip():
        return
    if question == "/reset":
        talk.reset()
        _note("(a new conversation)")
    elif question in ("/help", "/?"):
        _note(HELP)
    elif (end := talk.ask(question, _screen(arguments))) is None:
        _note("(no answer came out of its reasoning: the question is taken back; --max-tokens gives it more room)")
    elif end.truncated:
        _note("(cut off; --max-tokens gives it more room)")


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _screen(arguments: argparse.Namespace) -> Screen:
    terminal = sys.stdout.isatty()
    colour = terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return Screen(sys.stdout, colour=colour, fold=arguments.fold or not terminal)
