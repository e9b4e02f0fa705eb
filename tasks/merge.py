"""merge: base + adapter -> one model. On the GPU for its check."""

from __future__ import annotations

from prefect import State, task

from gwen25.artifacts import Artifact
from gwen25.config import Config
from tasks import node


@task(name="merge", task_run_name="merge", **node.OPTIONS)
def merge(config: Config, adapter: Artifact, refresh: bool = False) -> State[Artifact] | Artifact:
    """The merged model, its logits held against base + adapter."""
    return node.run("merge", config, {"adapter": adapter}, refresh=refresh)
