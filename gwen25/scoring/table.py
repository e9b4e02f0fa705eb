"""Scores as a table: for a terminal, for Markdown, for JSON.

    print(text(scores))         one row a form
    markdown(scores)            the same, with what was measured and how below it

Not here: measuring (`measure`).
"""

from __future__ import annotations

from collections.abc import Sequence

from gwen25.benchmarks.verdict import points
from gwen25.scoring.measure import Score

HEADER = ["form", "mean KL", "top-1", "pass@1", "against merged (95 %)", "bytes", "bits/weight", "tokens/s"]
NONE = "-"


def cells(score: Score) -> list[str]:
    """A row; what was not measured is a dash."""
    against = NONE
    if score.difference is not None and score.low is not None and score.high is not None:
        against = f"{points(score.difference)} points ({points(score.low)} to {points(score.high)})"
    return [
        score.name,
        _kl(score),
        NONE if score.top1_agreement is None else f"{score.top1_agreement:.1%}",
        NONE if score.pass1 is None else f"{score.pass1:.1%}",
        against,
        NONE if score.bytes is None else f"{score.bytes:,}",
        NONE if score.bits_per_weight is None else f"{score.bits_per_weight:.2f}",
        NONE if score.tokens_per_second is None else f"{score.tokens_per_second:.1f}" + _batch(score),
    ]


def _kl(score: Score) -> str:
    if score.mean_kl is None:
        return NONE
    return ("" if score.kl_is == "exact" else ">= ") + f"{score.mean_kl:.2e}"


def _batch(score: Score) -> str:
    return f" ({score.at_once} at once)" if (score.at_once or 1) > 1 else ""


def text(scores: Sequence[Score]) -> str:
    rows = [HEADER, *map(cells, scores)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def markdown(scores: Sequence[Score]) -> str:
    rows = [HEADER, ["---"] * len(HEADER), *map(cells, scores)]
    table = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)
    return table + "\n\n" + "\n".join(notes(scores)) + "\n"


def notes(scores: Sequence[Score]) -> list[str]:
    """What the figures rest on."""
    told = []
    for score in scores:
        if score.positions is not None:
            told.append(
                f"{score.name}: KL from the merged model's next-token distribution to this one's, in nats, mean of {score.positions:,} "
                f"positions of the merged model's own answers ({score.kl_is}; {score.covered:.2%} of its mass told apart), "
                f"largest {score.max_kl:.2e}."
            )
    known = next((score for score in scores if score.problems is not None), None)
    if known is not None:
        told.append(f"pass@1 is greedy, on the same {known.problems} problems for all; the interval is paired, over problems.")
    return told
