"""A conversation with a model, and how it looks: `gwen25 chat`.

    talk = Talk(speaker, Draw(), system)
    talk.ask("Read two integers and print their sum.", Screen(sys.stdout))

The history holds what was said, without the reasoning: that is how the model was trained, and `ChatFormat.render` would drop it. A
question whose answer was interrupted, or never came out of its reasoning, is taken back.

What a model writes is hostile to a terminal too: control characters, which could move the cursor or set a title, are not written.
"""

from __future__ import annotations

import re
from typing import Final, TextIO

from gwen25.data import Message
from gwen25.errors import BadInput
from gwen25.speakers import Draw, End, Piece, Speaker

_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but the tab and the line feed
DIM: Final = "\x1b[2m"
PLAIN: Final = "\x1b[0m"


class Screen:
    """Writes an answer as it comes. Reasoning is dimmed on a terminal with `colour`; `fold` leaves it out."""

    def __init__(self, out: TextIO, *, colour: bool = False, fold: bool = False):
        self._out, self._colour, self._fold = out, colour, fold
        self._part: str | None = None  # what was written last: None, "reasoning" or "answer"
        self.folded = 0  # characters of reasoning that were left out

    def hear(self, piece: Piece) -> None:
        text = _CONTROL.sub("", piece.text)
        part = "reasoning" if piece.reasoning else "answer"
        if part != self._part:
            text = text.lstrip("\n")
        if not text:
            return
        if piece.reasoning and self._fold:
            self.folded += len(text)
            return
        turn = self._turn(part) if part != self._part else ""
        self._part = part  # before the text: Ctrl-C may come between, and `close` must know what to end
        self._out.write(turn + text)
        self._out.flush()

    def _turn(self, part: str) -> str:
        """What stands between the parts."""
        gap = "\n\n" if self._part else ""
        if self._colour:
            return PLAIN + gap + (DIM if part == "reasoning" else "")
        return gap + ("(reasoning)\n" if part == "reasoning" else "(answer)\n" if self._part else "")

    def close(self) -> None:
        """End the answer's last line, and the dimming with it, whatever happened."""
        if self._part:
            self._out.write((PLAIN if self._colour else "") + "\n")
            self._out.flush()


def utf8(text: str, what: str) -> str:
    """The text itself. Raises BadInput where it holds bytes that are no UTF-8: a C.UTF-8 locale reads them as half characters."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadInput(f"{what} is not UTF-8 text (character {error.start + 1}); write it anew in UTF-8") from error
    return text


class Talk:
    """The turns of one conversation. `system` None leaves the system turn out."""

    def __init__(self, speaker: Speaker, draw: Draw, system: str | None):
        self._speaker, self._draw, self._system = speaker, draw, system
        self.messages: list[Message] = []
        self.reset()

    def reset(self) -> None:
        self.messages = [] if self._system is None else [{"role": "system", "content": self._system}]

    def ask(self, question: str, screen: Screen) -> End | None:
        """Write the answer to the screen and keep both turns; None, and neither is kept, where no answer came out of the reasoning.

        KeyboardInterrupt and errors pass through; then neither is kept either. Raises BadInput for a question that is no UTF-8.
        """
        said: list[str] = []

        def hear(piece: Piece) -> None:
            if not piece.reasoning:
                said.append(piece.text)
            screen.hear(piece)

        asked: Message = {"role": "user", "content": utf8(question, "the question")}
        try:
            end = self._speaker.speak([*self.messages, asked], self._draw, hear)
        finally:
            screen.close()
        answer = "".join(said).strip("\n")
        if not answer.strip():
            return None
        self.messages += [asked, {"role": "assistant", "content": answer}]
        return end
