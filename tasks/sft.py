"""sft: rows -> LoRA adapter. On the GPU."""

from __future__ import annotations

from prefect import State, task

from gwen25.artifacts import Artifact
from gwen25.config import Config
from tasks import node


@task(name="sft", task_run_name="sft", **node.OPTIONS)
def sft(config: Config, dataset: Artifact, refresh: bool = False) -> State[Artifact] | Artifact:
    """Supervised fine-tuning; resumes from its newest checkpoint."""
    return node.run("sft", config, {"dataset": dataset}, refresh=refresh)
