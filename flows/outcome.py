"""What a flow run made, as a table for a terminal or for Prefect's UI."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Self

from prefect.futures import PrefectFuture
from pydantic import BaseModel, ConfigDict

from gwen25.artifacts import Artifact, Manifest
from gwen25.benchmarks import report
from gwen25.commands.store import seconds


class Outcome(BaseModel):
    """The artifact of each node, and which of them were there already."""

    model_config = ConfigDict(frozen=True)

    artifacts: dict[str, Artifact]
    cached: tuple[str, ...]

    @classmethod
    def of(cls, nodes: Mapping[str, PrefectFuture[Artifact]]) -> Self:
        """Wait for all, since a branch that fails does not end another; then raises what the first in order that failed did."""
        for future in nodes.values():
            future.wait()
        made = {name: future.result() for name, future in nodes.items()}
        return cls(artifacts=made, cached=tuple(name for name, future in nodes.items() if future.state.name == "Cached"))


def summarise(outcome: Outcome, *, markdown: bool = False) -> str:
    """The nodes as a table, what grpo warned of, then the evaluation as a table."""
    rows = [_row(name, artifact, name in outcome.cached) for name, artifact in outcome.artifacts.items()]
    header = ["node", "state", "seconds", "artifact", "what"]
    if markdown:
        table = "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows])
    else:
        widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
        table = "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in [header, *rows])
    reports = {
        label: found
        for name, model in (("baseline", "base"), ("evaluate", "tuned"))
        if name in outcome.artifacts
        for label, found in _reports(outcome.artifacts[name], model).items()
    }
    parts = [table, _warnings(outcome), report.table(reports) if reports else ""]
    return "\n\n".join(part for part in parts if part)


def _warnings(outcome: Outcome) -> str:
    """What GRPO's own log gave cause to warn of: of a node from the store as well, whose log nobody reads again."""
    artifact = outcome.artifacts.get("grpo")
    told = [] if artifact is None else Manifest.read(artifact.path).facts.get("grpo", {}).get("warnings", [])
    return "\n".join(["Warnings of grpo:", "", *(f"- {text}" for text in told)]) if told else ""


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
    "sft": (("loss", "loss"), ("heldout_loss", "held-out loss"), ("stop_rate", "ends")),
    "grpo": (("reward", "reward"), ("frac_programs_passed", "programs pass"), ("kl", "kl"), ("coverage", "coverage")),
    "adapters": (("parameters", "weights"), ("largest", "largest")),
    "merge": (("max_logit_difference", "max |logit difference|"),),
    "gguf": (("type", "type"), ("bytes", "bytes")),
    "score": (("mean_kl", "KL"), ("top1_agreement", "top-1"), ("difference", "pass@1 difference")),
    "ollama": (("name", "name"), ("created", "created")),
    "evaluate": (("problems", "problems"), ("truncated", "truncated"), ("no_code", "without code")),
}


def _reports(artifact: Artifact, model: str) -> dict[str, dict[str, Any]]:
    """An evaluation's report, and the one of the second prompt where the model was asked in both ways."""
    files = {model: artifact.payload / "report.json", f"{model}, base-model prompt": artifact.payload / "base_prompt" / "report.json"}
    return {label: json.loads(file.read_text(encoding="utf-8")) for label, file in files.items() if file.exists()}
