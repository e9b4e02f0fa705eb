"""How well an answer keeps the format: reasoning, `</think>`, one closed python block, nothing else.

    format_exact(text, FORMATS["chatml-think"])         1.0 or 0.0
    format_approximate(text, FORMATS["chatml-think"])   0.0, 0.2 ... 1.0

The two never pull against each other: both are 1.0 for a well-formed answer and neither is ever negative. (Two format
rewards that disagree, +1.5 and -0.75 for one completion, teach the policy to avoid what it should do.) `ChatFormat.parse`
decides what is well formed; nothing is decided again here. Pure functions. Not here: whether the program is right.
"""

from __future__ import annotations

import re
from typing import Final

from gwen25.chat import THINK_CLOSE, THINK_OPEN, ChatFormat

_PARTS: Final = 5
_CLOSED_BLOCK: Final = re.compile(r"^```python\n(?:(?!```)[^\n]*\n)*```[ \t]*$", re.MULTILINE)


def format_exact(text: str, format: ChatFormat) -> float:
    """1.0 where `format.parse` calls the answer well formed, else 0.0."""
    return 1.0 if format.parse(text).well_formed else 0.0


def format_approximate(text: str, format: ChatFormat) -> float:
    """The share of five parts that are in place; 1.0 exactly where `format_exact` is 1.0.

    The parts: `</think>` at all; no tag twice; code after it; a closed python block; nothing beside that block. Without
    `</think>` the score is 0.0: there is no answer yet for the other parts to belong to, and a rambling completion must
    not live on the parts it happens to lack.
    """
    answer = format.parse(text)
    if answer.well_formed:
        return 1.0
    thought, close, after = _body(text, format).partition(THINK_CLOSE)
    if not close:
        return 0.0
    tags_once = THINK_OPEN not in thought and THINK_OPEN not in after and THINK_CLOSE not in after
    code = bool(answer.code and answer.code.strip())
    block = _CLOSED_BLOCK.search(after) if code else None  # a blank block is no part of an answer
    alone = block is not None and not (after[: block.start()] + after[block.end() :]).strip()
    parts = (True, tags_once, code, block is not None, alone)
    # all five and still not well formed: an indented fence within the block cuts the program short
    return min(sum(parts), _PARTS - 1) / _PARTS


def _body(text: str, format: ChatFormat) -> str:
    """The text that `parse` reads: up to the first stop token, less the opening `<think>`."""
    for token in format.stop:
        text = text.split(token, 1)[0]
    return text.strip().removeprefix(THINK_OPEN)
