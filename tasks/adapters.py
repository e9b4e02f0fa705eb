"""adapters: checked and made portable."""

from __future__ import annotations

from prefect import State, task

from gwen25.artifacts import Artifact
from gwen25.config import Config
from tasks import node


@task(name="adapters", task_run_name="adapters", **node.OPTIONS)
def adapters(config: Config, adapter: Artifact, refresh: bool = False) -> State[Artifact] | Artifact:
    """The trained adapter as a PEFT directory that stands alone."""
    return node.run("adapters", config, {"adapter": adapter}, refresh=refresh)
