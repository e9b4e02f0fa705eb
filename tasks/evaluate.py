"""evaluate: any form of the model -> LiveCodeBench report. On the GPU."""

from __future__ import annotations

from prefect import State, task

from gwen25 import resolve
from gwen25.artifacts import Artifact
from gwen25.config import Config
from gwen25.resolve import Resolved
from tasks import node


@task(name="evaluate", task_run_name="evaluate", **node.OPTIONS)
def evaluate(config: Config, model: Artifact, refresh: bool = False) -> State[Artifact] | Artifact:
    """The tuned model's report; sampled answers survive a death."""
    return node.run("evaluate", config, {"model": model}, refresh=refresh)


@task(name="baseline", task_run_name="baseline", **node.OPTIONS)
def baseline(config: Config, refresh: bool = False) -> State[Artifact] | Artifact:
    """The base model's report on the same problems, under both prompts: made once, then a hit until model or problems change."""
    asked = config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"prompt": "both"})})
    return node.run("evaluate", asked, {}, refresh=refresh, extra=resolve.base_as_model(config))


@task(name="evaluate", task_run_name="evaluate", **node.OPTIONS)
def evaluate_outside(config: Config, model: Resolved, refresh: bool = False) -> State[Artifact] | Artifact:
    """The report of a model that is no artifact: a directory, a hub id, one behind a server."""
    return node.run("evaluate", config, {}, refresh=refresh, extra=model)
