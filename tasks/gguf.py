"""gguf: merged model -> one file for llama.cpp."""

from __future__ import annotations

from prefect import State, task

from gwen25.artifacts import Artifact
from gwen25.config import Config
from tasks import node


@task(name="gguf", task_run_name="gguf", **node.OPTIONS)
def gguf(config: Config, model: Artifact, refresh: bool = False) -> State[Artifact] | Artifact:
    """The GGUF file, checked in llama.cpp where that is installed."""
    return node.run("gguf", config, {"model": model}, refresh=refresh)
