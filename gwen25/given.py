"""A model that is there already, by the name that a user gives it: what `gwen25 evaluate MODEL` and the flows mean by it.

    merge:..., champion          a merged model of the store
    base                         the config's base model
    some/folder, org/name        a model directory, a hub id
    (served)                     whatever the OpenAI-compatible server of evaluate.base_url serves

    stored(name, store)          the artifact that a name means, None for a name of another kind
    take(name, artifact, ...)    the model, and the config that preflight should look at

Not here: how an adapter becomes a merged model (`flows.model`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gwen25 import champion, resolve
from gwen25.artifacts import Artifact, Store, Warn
from gwen25.config import Config
from gwen25.errors import BadInput
from gwen25.resolve import Resolved


@dataclass(frozen=True)
class Given:
    """A model and the config to use it by. One of `artifact` and `outside` is set.

    `checked` is the config that preflight should look at: a model that stands for itself is its base model there.
    """

    config: Config
    checked: Config
    artifact: Artifact | None = None
    outside: Resolved | None = None


def stored(name: str, store: Store) -> Artifact | None:
    """The artifact that a reference or an alias names; None for a name of another kind."""
    reference = ":" in name and not name.startswith(resolve.SAMPLE_PREFIX)
    if reference or name in store.aliases() or name.partition("@")[0] == champion.NAME:
        return store.resolve(name)
    return None


def served(config: Config) -> Given:
    """What the server of `evaluate.base_url` answers with."""
    return Given(config, config, outside=Resolved({"model": {"served": config.evaluate.base_url, "name": config.evaluate.served_model}}))


def take(name: str, artifact: Artifact | None, config: Config, warn: Warn) -> Given:
    """A merge of the store, or what `name` is outside of it. Raises BadInput for what looks like a model and cannot be used as one."""
    if artifact is not None:
        return Given(config, config.model_copy(update={"base_model": str(artifact.payload)}), artifact)
    _refuse(name)
    other = config if name == "base" else config.model_copy(update={"base_model": name})
    return Given(config, other, outside=resolve.base_as_model(other, warn))


def _refuse(name: str) -> None:
    """What looks like a model and cannot be used as one."""
    if not name.strip():  # Path("") would be the current folder
        raise BadInput("the model's name is empty; a merge such as merge:3f2a, a directory or a hub id is expected")
    if (Path(name) / "adapter_config.json").is_file():
        raise BadInput(
            f"{name} is an adapter from outside the store. What is missing is what gwen25 records of its own: the base model's revision, "
            "and the chat format it was trained in. Name it as the store does (`gwen25 list`: sft:..., grpo:..., adapters:...), "
            f"or merge it (`gwen25 merge {name} OUT_DIR`) and name the merged directory to evaluate it"
        )
    if name.endswith(".gguf"):
        raise BadInput(f"{name}: a GGUF is evaluated where it is served (llama-server -m FILE), by its address http://HOST:PORT/v1")
