"""dataset: OpenCodeReasoning -> neutral rows."""

from __future__ import annotations

from prefect import State, task

from gwen25.artifacts import Artifact
from gwen25.config import Config
from tasks import node


@task(name="dataset", task_run_name="dataset", **node.OPTIONS)
def dataset(config: Config, refresh: bool = False) -> State[Artifact] | Artifact:
    """Rows for SFT, held-out rows and prompts for GRPO."""
    return node.run("dataset", config, {}, refresh=refresh)
