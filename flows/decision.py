"""Is the candidate to be the champion? Two evaluations in, a decision out; its page for Prefect's UI.

The rule: better (p < 0.05 on pass@1 over all problems, see `benchmarks.verdict`) than its rival, which is the champion, or the base
model where there is no champion yet. A base model is asked in two ways: the candidate must be better than what it does with the
same prompt, and not worse than what it does with the other. "Cannot tell" is not better.
Not here: who the champion is (`gwen25.champion`), the order of a retraining (`retrain`).
"""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from gwen25.artifacts import Artifact, Manifest, Store
from gwen25.benchmarks import comparison
from gwen25.benchmarks.verdict import BETTER, WORSE
from gwen25.champion import label

Name = Literal["Promoted", "Kept champion", "No champion yet", "Nothing new"]


class Decision(BaseModel):
    """What a retraining came to. `comparisons` has the one that decided first; the rival is A, the candidate B."""

    model_config = ConfigDict(frozen=True)

    name: Name
    words: str
    candidate: Artifact | None = None  # merged models
    champion: Artifact | None = None  # the one held against; None: the base model was
    comparisons: tuple[dict[str, Any], ...] = ()

    @property
    def verdict(self) -> str | None:
        """better, worse or cannot tell; None where nothing was compared."""
        return self.comparisons[0]["verdict"] if self.comparisons else None

    @property
    def rival(self) -> str:
        return f"champion {label(self.champion)}" if self.champion else "the base model"


def decide(candidate: Artifact, champion: Artifact | None, evaluation: Artifact, rival: Artifact) -> Decision:
    """By the rule above: `evaluation` is the candidate's, `rival` the champion's, or the base model's where there is none."""
    own = _reports(evaluation)[0]
    same_prompt_first = sorted(_reports(rival), key=lambda report: bool(report.get("prompt") != own.get("prompt")))
    found = tuple(comparison.compare(report, own) for report in same_prompt_first)
    worse = [other["words"] for other in found[1:] if other["verdict"] == WORSE]
    better = found[0]["verdict"] == BETTER and not worse
    decision = Decision(name="Kept champion", words="", candidate=candidate, champion=champion, comparisons=found)
    words = f"A: {decision.rival}, B: candidate {label(candidate)}. " + " With the other prompt: ".join([found[0]["words"], *worse])
    name: Name = "Promoted" if better else "Kept champion" if champion else "No champion yet"
    return decision.model_copy(update={"name": name, "words": words})


def _reports(evaluation: Artifact) -> list[dict[str, Any]]:
    files = (evaluation.payload / "report.json", evaluation.payload / "base_prompt" / "report.json")
    return [json.loads(file.read_text(encoding="utf-8")) for file in files if file.exists()]


def data_of(store: Store, artifact: Artifact) -> dict[str, str] | None:
    """The data that a model goes back to: hub id and revision, or a file's digest; None where its lineage is no longer in the store."""
    folder, stage = artifact.path, artifact.stage
    while stage != "dataset":
        inputs = Manifest.read(folder).inputs
        above = inputs.get("dataset") or next(iter(inputs.values()))
        stage, folder = above["stage"], store.folder(above["stage"], above["key"])
        if not (folder / "manifest.json").exists():
            return None
    data: dict[str, str] = Manifest.read(folder).externals["data"]
    return data


def named(data: dict[str, str] | None) -> str:
    """A data set in a word."""
    if data is None:
        return "unknown: its lineage is no longer in the store"
    return f"{data['id']} at {data['revision'][:12]}" if "id" in data else f"a file, sha256 {data['digest'][:12]}"


def page(decision: Decision, store: Store) -> str:
    """The decision for people: what was decided, why, with all figures, and how to decide otherwise."""
    parts = [f"## {decision.name}", "" if decision.comparisons else decision.words]
    models = [("candidate", decision.candidate), ("champion", decision.champion)]
    parts.append("\n".join(f"- {role} {label(model)}: data {named(data_of(store, model))}" for role, model in models if model))
    candidate = f"candidate {label(decision.candidate)}" if decision.candidate else "candidate"
    for found in decision.comparisons:
        title = "### The rival asked in its own way" if "prompt" in found["differs"] else "### Both asked in the same way"
        parts += [title, comparison.text(found, decision.rival, candidate)]
    if decision.candidate and decision.name != "Promoted":
        parts.append(f"By hand: `gwen25 promote {label(decision.candidate)}` makes it the champion all the same.")
    if decision.name == "Promoted":
        parts.append("By hand: `gwen25 rollback` goes back to the champion before.")
    return "\n\n".join(part for part in parts if part)
