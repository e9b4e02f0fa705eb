"""The model that a run is given by name: which one is meant, and how an adapter becomes a merged one.

    sft:3f2a, grpo:..., adapters:...     an adapter of the store: checked and merged first
    some/adapter, org/adapter            one that gwen25 did not train: taken into the store, and merged first
    merge:..., champion                  a merged model of the store
    base                                 the profile's base model
    some/folder, org/name                a model directory, a hub id
    http://127.0.0.1:8000/v1             whatever an OpenAI-compatible server serves

Not here: which forms of a model a flow takes (`package`: none that is served), what a name means (`gwen25.given`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from prefect.futures import PrefectFuture

from gwen25 import champion, imports, models, resolve
from gwen25.artifacts import Artifact, Manifest, Store, Warn
from gwen25.config import Config, load_config
from gwen25.errors import BadInput
from gwen25.given import Given, served, stored, take
from tasks.adapters import adapters
from tasks.merge import merge
from tasks.node import submit

Nodes = dict[str, PrefectFuture[Artifact]]
ADAPTERS = ("sft", "grpo", "adapters")  # stages that make one


def given(name: str, profile: str, recipe: str, overrides: Mapping[str, Any], warn: Warn) -> Given:
    """What `name` means. Raises BadInput for what is no model, or needs another base than the config's."""
    if name.startswith(("http://", "https://")):
        config = load_config(profile, recipe, overrides={**overrides, "evaluate.backend": "openai", "evaluate.base_url": name})
        return served(config)
    artifact = stored(name, Store.default())
    if artifact is None and imports.is_adapter(name, warn):
        artifact = imports.adapter(name, overrides.get("base_model"), warn)
    if artifact is None or artifact.stage == "merge":
        return take(name, artifact, load_config(profile, recipe, overrides=overrides), warn)
    return _adapter(artifact, profile, recipe, overrides, warn)


def _adapter(artifact: Artifact, profile: str, recipe: str, overrides: Mapping[str, Any], warn: Warn) -> Given:
    """An adapter and the config of the base that it was trained on."""
    if artifact.stage not in ADAPTERS:
        raise BadInput(
            f"{champion.label(artifact)} is no model that can be merged or evaluated here: name an adapter ({', '.join(ADAPTERS)}) "
            "or a merge; a GGUF is evaluated where it is served (llama-server -m FILE), by its address http://HOST:PORT/v1"
        )
    manifest = Manifest.read(artifact.path)
    base = manifest.facts["base_model"]
    # a directory's path is remembered only where it was told for this one adapter; else the profile must name it
    own = {"base_model": base["id"]} if "id" in base else manifest.config if "outside" in manifest.facts else {}
    config = load_config(profile, recipe, overrides={**own, **overrides})
    pinned, _ = resolve.base_model(config, warn)
    if pinned != base:
        raise BadInput(
            f"{champion.label(artifact)} was trained on {models.name_of(base)}, and this config's base_model {config.base_model} is "
            "another, or another revision: choose its profile, or set base_model in the overrides"
        )
    return Given(config, config, artifact)


def needed(artifact: Artifact) -> set[str]:
    """The nodes between an artifact and a merged model."""
    return {"merge": set[str](), "adapters": {"merge"}}.get(artifact.stage, {"adapters", "merge"})


def merged(config: Config, artifact: Artifact, nodes: Nodes, refresh: Collection[str] = ()) -> Artifact | PrefectFuture[Artifact]:
    """Submit the nodes that make an artifact a merged model, into `nodes`; a merge is one already."""
    at: Artifact | PrefectFuture[Artifact] = artifact
    for name, task in (("adapters", adapters), ("merge", merge)):
        if name in needed(artifact):
            at = nodes[name] = submit(task, config, at, refresh=name in refresh)
    return at
