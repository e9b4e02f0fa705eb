"""grpo: adapter -> better adapter, by reward. On the GPU."""

from __future__ import annotations

from prefect import State, task

from gwen25.artifacts import Artifact
from gwen25.config import Config
from tasks import node


@task(name="grpo", task_run_name="grpo", **node.OPTIONS)
def grpo(config: Config, dataset: Artifact, sft: Artifact, refresh: bool = False) -> State[Artifact] | Artifact:
    """Group relative policy optimisation from the SFT adapter; resumes from its newest checkpoint."""
    return node.run("grpo", config, {"dataset": dataset, "sft": sft}, refresh=refresh)
