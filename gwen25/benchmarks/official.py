"""The published benchmark's own way of finding the program in a completion, so that scores can be set beside published ones.

    extract(text)        of a chat model: what lies between the last two lines that hold a fence; "" where there are not two
    extract_base(text)   of a base model, prompted to go on writing: the whole text

Its comparison of outputs is `sandbox.compare.official_text` and `official_value`. Not here: the careful extraction (`chat.extract_code`).
"""

from __future__ import annotations

from typing import Final

FENCE: Final = "```"


def extract(text: str) -> str:
    """The lines between the last two that hold ``` anywhere, whatever they are: prose between two blocks, a block of output too."""
    end = text.rfind("\n", 0, max(text.rfind(FENCE), 0)) + 1  # where the last such line begins
    before = text.rfind(FENCE, 0, end)
    return text[text.index("\n", before) + 1 : end - 1] if before >= 0 else ""


def extract_base(text: str) -> str:
    """All of it, without the blanks around."""
    return text.strip()
