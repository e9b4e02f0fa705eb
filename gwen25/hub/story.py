"""All that the store knows of an artifact that shall be published: what it was made from, what was measured, what was made of it.

    story = tell(store, store.resolve("gguf:3f2a"))
    story.lineage       manifests, the artifact's own first, back to the data set
    story.reports       evaluations of the merged model, each with the base model's on the same problems where there is one

Read from manifests and reports; nothing is computed here. A measurement counts where it was made on the same bytes (the digest of
the merged model). Not here: words (`card`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from gwen25 import parity
from gwen25.artifacts import Artifact, Manifest, Store
from gwen25.errors import BadInput
from gwen25.parity import Proof

FORMS: Final = ("adapters", "merge", "gguf")  # stages whose artifacts can be published
# what an evaluation must share with the base model's, so that the two stand in one table
_SETTINGS: Final = ("problems_from", "n", "temperature", "max_tokens", "prompt", "chat_format", "window")

Report = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Link:
    """One step of the lineage. `manifest` is None for what the store no longer holds."""

    stage: str
    key: str
    digest: str
    manifest: Manifest | None


@dataclass(frozen=True, slots=True)
class Story:
    """`reports` are pairs (of this model, of its base or None); `score_pages` tell of the shipped forms, `ggufs` are the same model's."""

    manifest: Manifest
    lineage: list[Link]
    reports: list[tuple[Report, Report | None]]
    score_pages: list[str]
    ggufs: list[Manifest]
    package: Artifact | None
    proof: Proof | None

    @property
    def foreign(self) -> bool:
        """Whether gwen25 did not train it."""
        return "outside" in self.facts

    @property
    def whole(self) -> bool:
        """Whether it came from outside as a whole model: then its base is itself."""
        return self.foreign and all(link.stage not in ("sft", "grpo", "adapters") for link in self.lineage)

    @property
    def facts(self) -> dict[str, Any]:
        return self.manifest.facts

    @property
    def package_name(self) -> str:
        """What the Ollama package calls the model."""
        return str(Manifest.read(self.package.path).facts["name"]) if self.package else ""

    @property
    def data(self) -> Manifest | None:
        """The data set's manifest, if the store still holds it."""
        return next((link.manifest for link in self.lineage if link.stage == "dataset"), None)


def tell(store: Store, artifact: Artifact) -> Story:
    """Raises BadInput for an artifact that is no form of a model that others can use."""
    if artifact.stage not in FORMS:
        hint = {"sft": "adapters", "grpo": "adapters", "ollama": "gguf"}.get(artifact.stage, "merge")
        raise BadInput(
            f"{artifact.stage}:{artifact.key[:8]} is of the stage {artifact.stage}; {', '.join(FORMS)} can be pushed: "
            f"name the {hint} artifact of the same run (`gwen25 list` shows it, `gwen25 {hint}` makes it)"
        )
    manifest, held = Manifest.read(artifact.path), store.manifests()
    if manifest.stage == "merge" and not manifest.inputs and "outside" in manifest.facts:
        raise BadInput(f"merge:{artifact.key[:8]} was taken from outside as it is: nothing was made of it that could be published")
    merges = _merges(manifest, held)
    return Story(
        manifest=manifest,
        lineage=_lineage(store, manifest),
        reports=_reports(store, held, merges, manifest.facts["base_model"]),
        score_pages=_pages(store, [one for one in held if one.stage == "score" and _stands_on(one, merges | {manifest.digest})]),
        ggufs=[one for one in held if one.stage == "gguf" and _stands_on(one, merges)],
        package=_package(store, manifest, held),
        proof=parity.read(proof) if (proof := artifact.payload / parity.FILE).is_file() else None,
    )


def _merges(manifest: Manifest, held: list[Manifest]) -> set[str]:
    """Digests of the merged models that are this one: itself, what it was made from, or what was made of it."""
    if manifest.stage == "merge":
        return {manifest.digest}
    if manifest.stage == "gguf":
        return {manifest.inputs["model"]["digest"]} if "model" in manifest.inputs else set()
    return {one.digest for one in held if one.stage == "merge" and _stands_on(one, {manifest.digest})}


def _stands_on(manifest: Manifest, digests: set[str]) -> bool:
    return any(one["digest"] in digests for one in manifest.inputs.values())


def _lineage(store: Store, manifest: Manifest) -> list[Link]:
    """Nearest first, each once."""
    found = {manifest.digest: Link(manifest.stage, manifest.key, manifest.digest, manifest)}
    queue = [manifest]
    while queue:
        for one in queue.pop(0).inputs.values():
            if one["digest"] in found:
                continue
            folder = store.folder(one["stage"], one["key"])
            above = Manifest.read(folder) if folder.exists() else None
            if above is not None and above.digest != one["digest"]:  # made again since, with other bytes
                above = None
            found[one["digest"]] = Link(one["stage"], one["key"], one["digest"], above)
            queue += [above] if above else []
    return list(found.values())


def _reports(store: Store, held: list[Manifest], merges: set[str], base: Mapping[str, Any]) -> list[tuple[Report, Report | None]]:
    evaluations = [one for one in held if one.stage == "evaluate"]
    mine = [one for one in evaluations if _stands_on(one, merges)]
    bases = [one for one in evaluations if one.externals.get("model") == base]
    pairs = []
    for one in mine:
        alike = next((other for other in reversed(bases) if _comparable(other, one)), None)
        pairs.append((_report(store, one), _report(store, alike) if alike else None))
    return pairs


def _comparable(one: Manifest, other: Manifest) -> bool:
    return all(one.facts.get(name) == other.facts.get(name) for name in _SETTINGS)


def _report(store: Store, manifest: Manifest) -> Report:
    file = store.folder(manifest.stage, manifest.key) / "payload" / "report.json"
    report: Report = json.loads(file.read_text(encoding="utf-8"))
    return report


def _pages(store: Store, scores: list[Manifest]) -> list[str]:
    """What the score stage says of the forms of this model, in its own words: the newest page for each set of forms."""
    pages = {tuple(sorted(one["digest"] for one in score.inputs.values())): score for score in scores}
    files = [store.folder(score.stage, score.key) / "payload" for score in pages.values()]
    return [file.read_text(encoding="utf-8") for folder in files for file in sorted(folder.glob("*.md"))]


def _package(store: Store, manifest: Manifest, held: list[Manifest]) -> Artifact | None:
    """The newest Ollama package of this very GGUF."""
    made = [one for one in held if one.stage == "ollama" and _stands_on(one, {manifest.digest})]
    if not made:
        return None
    return Artifact(stage="ollama", key=made[-1].key, digest=made[-1].digest, path=store.folder("ollama", made[-1].key))
