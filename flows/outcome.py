"""What a flow run made, as a table for a terminal or for Prefect's UI."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict

from gwen25.artifacts import Artifact, Manifest
from gwen25.benchmarks import report
from gwen25.commands.store import seconds


class Outcome(BaseModel):
    """The artifact of each node, and which of them were there already."""

    model_config = ConfigDict(frozen=True)

    artifacts: dict[str, Artifact]
    cached: tuple[str, ...]


def summarise(outcome: Outcome, *, markdown: bool = False) -> str:
    """The nodes as a table, then the evaluation as one."""
    rows = [_row(name, artifact, name in outcome.cached) for name, artifact in outcome.artifacts.items()]
    header = ["node", "state", "seconds", "artifact", "what"]
    if markdown:
        table = "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows])
    else:
        widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
        table = "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in [header, *rows])
    reports = {
        label: _report(outcome.artifacts[name])
        for name, label in (("baseline", "base"), ("evaluate", "tuned"))
        if name in outcome.artifacts
    }
    return table + ("\n\n" + report.table(reports) if reports else "")


def _row(name: str, artifact: Artifact, cached: bool) -> list[str]:
    manifest = Manifest.read(artifact.path)
    return [
        name,
        "Cached" if cached else "made",
        seconds(manifest.provenance["seconds"]),
        f"{artifact.stage}:{artifact.key[:8]}",
        _headline(artifact.stage, manifest),
    ]


def _headline(stage: str, manifest: Manifest) -> str:
    """The one or two numbers that a reader looks for first; what was not measured is left out."""
    wanted = HEADLINES.get(stage, ())
    known = {**manifest.facts, **manifest.metrics}
    return ", ".join(f"{label} {_short(known[key])}" for key, label in wanted if known.get(key) is not None)


def _short(value: Any) -> str:
    if isinstance(value, dict):  # counts by difficulty
        return str(value.get("all", value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


HEADLINES = {
    "dataset": (("rows_read", "read"), ("rows_kept", "kept"), ("rows_train", "train"), ("rows_grpo", "grpo")),
    "sft": (("loss", "loss"), ("heldout_loss", "held-out loss")),
    "grpo": (("reward", "reward"), ("kl", "kl"), ("coverage", "coverage")),
    "adapters": (("parameters", "weights"), ("largest", "largest")),
    "merge": (("max_logit_difference", "max |logit difference|"),),
    "gguf": (("type", "type"), ("bytes", "bytes")),
    "ollama": (("name", "name"), ("created", "created")),
    "evaluate": (("problems", "problems"), ("truncated", "truncated"), ("no_code", "without code")),
}


def _report(artifact: Artifact) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((artifact.payload / "report.json").read_text(encoding="utf-8"))
    return value
