"""Pictures of a run, for `aside/`: never digested, never needed.

curves(folder / "loss.png", rows, ["loss"], title="sft")      rows as in metrics.jsonl
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def curves(out: Path, rows: Sequence[Mapping[str, Any]], names: Sequence[str], title: str) -> None:
    """One panel per name that has any value, over optimizer steps; steps without a value leave a gap. Writes nothing for none."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [name for name in names if any(row.get(name) is not None for row in rows)]
    if not shown:
        return
    figure, panels = pyplot.subplots(len(shown), 1, figsize=(7, 1 + 2.2 * len(shown)), sharex=True, squeeze=False)
    for panel, name in zip(panels[:, 0], shown, strict=True):
        values = [float("nan") if row.get(name) is None else row[name] for row in rows]
        panel.plot([row["step"] for row in rows], values, marker=".", linewidth=1)
        panel.set_ylabel(name)
        panel.grid(alpha=0.3)
    panels[0, 0].set_title(title)
    panels[-1, 0].set_xlabel("optimizer step")
    figure.tight_layout()
    figure.savefig(out, dpi=110)
    pyplot.close(figure)
