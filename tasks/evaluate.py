"""evaluate: any form of the model -> LiveCodeBench report. On the GPU."""

from __future__ import annotations

from prefect import State, task

from gwen25 import resolve
from gwen25.artifacts import Artifact
from gwen25.config import Config
from tasks import node


@task(name="evaluate", task_run_name="evaluate", **node.OPTIONS)
def evaluate(config: Config, model: Artifact, refresh: bool = False) -> State[Artifact] | Artifact:
    """The tuned model's report; sampled answers survive a death."""
    return node.run("evaluate", config, {"model": model}, refresh=refresh)


@task(name="baseline", task_run_name="baseline", **node.OPTIONS)
def baseline(config: Config, refresh: bool = False) -> State[Artifact] | Artifact:
    """The base model's report on the same problems: made once, then a hit until model or problems change."""
    return node.run("evaluate", config, {}, refresh=refresh, extra=resolve.base_as_model(config))
