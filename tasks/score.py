"""score: merged model + GGUF -> figures of the file that would be packaged, held against the floors. On the GPU and the CPU."""

from __future__ import annotations

from prefect import State, task

from gwen25.artifacts import Artifact
from gwen25.config import Config
from tasks import node


@task(name="score", task_run_name="score", **node.OPTIONS)
def score(config: Config, model: Artifact, gguf: Artifact, refresh: bool = False) -> State[Artifact] | Artifact:
    """KL, agreement and pass@1 of the GGUF beside the merged model; below a floor it fails, and nothing is packaged."""
    return node.run("score", config, {"model": model, "gguf": gguf}, refresh=refresh)
