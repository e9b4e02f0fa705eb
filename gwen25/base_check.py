"""What the base model knows of the chat format's own tokens, read off its embedding before it is trained.

    found = inspect(directory, tokenizer, format)
    found.facts()           for the manifest
    found.untrained()       tokens that look as if no training had met them

Rows that no token of the vocabulary uses (Qwen2.5: 271) met no text. Where the embedding is the head too, the loss pushes all of
them the same way; where it is not, they keep their first values. Either way they lie in a shell round their own centre, and a
row that training has met lies elsewhere. So a token looks untrained where its row is as far from that centre as they are. A
vocabulary that uses every row leaves it unknown. Norms alone do not tell: in the tiny sample model trained and unused rows overlap.

Reads some thousand rows of the files. Not here: what to do about it (`token_rows`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gwen25 import models
from gwen25.chat import ChatFormat
from gwen25.token_rows import MATRICES, chat_tokens

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

ENOUGH: Final = 16  # unused rows from which their spread can be told
SLACK: Final = 0.1  # share by which a row may leave the unused rows' range and still count as one of them
SAMPLED: Final = 4096  # used rows of which the median norm is taken


@dataclass(frozen=True, slots=True)
class Token:
    """A token's row: its length, its distance from the centre of the unused rows, and whether it looks like one of them."""

    norm: float
    distance: float | None
    untrained: bool | None


@dataclass(frozen=True, slots=True)
class Matrix:
    """One embedding matrix. `shell`: the least and the largest distance of unused rows from their centre; None for too few rows."""

    used_norm: float
    unused_norm: float | None
    shell: tuple[float, float] | None
    tokens: dict[str, Token]


@dataclass(frozen=True, slots=True)
class Found:
    """By matrix (`embed_tokens`; `lm_head` where it is another), and how many rows no token uses."""

    unused_rows: int
    matrices: dict[str, Matrix]

    def untrained(self) -> list[str]:
        """Tokens that look untrained in any matrix, in order."""
        return list(dict.fromkeys(name for matrix in self.matrices.values() for name, token in matrix.tokens.items() if token.untrained))

    def facts(self) -> dict[str, Any]:
        """JSON for the manifest; what is unknown is None."""
        return {"unused_rows": self.unused_rows, **{name: _facts(matrix) for name, matrix in self.matrices.items()}}

    def lines(self) -> list[str]:
        """One line a matrix, for the log."""
        return [f"{name}: {_line(matrix, self.unused_rows)}" for name, matrix in self.matrices.items()]


def inspect(directory: Path, tokenizer: PreTrainedTokenizerBase, format: ChatFormat) -> Found:
    """Look at the rows of the format's own tokens. The tokenizer holds them (`modeling.load_tokenizer`)."""
    vocabulary = tokenizer.get_vocab()
    ids = {token: vocabulary[token] for token in chat_tokens(format)}
    shapes, tied = models.tensor_shapes(directory), models.inspect(directory).tied
    names = {short: f"{module}.weight" for short, module in MATRICES.items() if short == "embed_tokens" or not tied}
    count = shapes[names["embed_tokens"]][0]
    used = sorted(row for row in set(vocabulary.values()) if row < count)
    unused = sorted(set(range(count)) - set(used))
    matrices = {short: _matrix(directory, name, ids, used, unused) for short, name in names.items() if name in shapes}
    return Found(len(unused), matrices)


def _matrix(directory: Path, name: str, ids: dict[str, int], used: Sequence[int], unused: Sequence[int]) -> Matrix:
    weight = _weight(directory, name)
    tokens = weight[list(ids.values())].float()
    typical = weight[list(used[:: max(1, len(used) // SAMPLED)])].float().norm(dim=1).median()
    if len(unused) < ENOUGH:
        return Matrix(
            float(typical), None, None, {token: Token(float(row.norm()), None, None) for token, row in zip(ids, tokens, strict=True)}
        )
    rows = weight[list(unused)].float()
    centre = rows.mean(0)
    apart = (rows - centre).norm(dim=1)
    shell = float(apart.min()), float(apart.max())
    found = {token: _token(row, centre, shell) for token, row in zip(ids, tokens, strict=True)}
    return Matrix(float(typical), float(rows.norm(dim=1).median()), shell, found)


def _token(row: torch.Tensor, centre: torch.Tensor, shell: tuple[float, float]) -> Token:
    distance = float((row - centre).norm())
    return Token(float(row.norm()), distance, shell[0] * (1 - SLACK) <= distance <= shell[1] * (1 + SLACK))


def _weight(directory: Path, name: str) -> torch.Tensor:
    """A tensor as it lies in its file: mapped, so that only the rows that are asked for are read."""
    from safetensors import safe_open

    file = next(file for file in models.weight_files(directory) if name in models.read_header(file))
    with safe_open(file, framework="pt") as tensors:
        weight: torch.Tensor = tensors.get_tensor(name)
    return weight


def _facts(matrix: Matrix) -> dict[str, Any]:
    return {
        "used_norm": matrix.used_norm,
        "unused_norm": matrix.unused_norm,
        "unused_distance": None if matrix.shell is None else list(matrix.shell),
        "tokens": {
            name: {"norm": token.norm, "distance": token.distance, "untrained": token.untrained} for name, token in matrix.tokens.items()
        },
    }


def _line(matrix: Matrix, unused: int) -> str:
    norms = ", ".join(f"{name} {token.norm:.3g}" for name, token in matrix.tokens.items())
    text = f"row norms {norms}; median of used rows {matrix.used_norm:.3g}"
    if matrix.shell is None:
        return f"{text}; {unused} rows are unused, too few to tell whether these were trained"
    apart = ", ".join(f"{name} {token.distance:.3g}" for name, token in matrix.tokens.items())
    low, high = matrix.shell
    return (
        f"{text}, of {unused} unused rows {matrix.unused_norm:.3g}; from the centre of the unused: {apart}, these {low:.3g} to {high:.3g}"
    )
