"""ollama: a scored GGUF -> a package, and a model where a server answers."""

from __future__ import annotations

from prefect import State, task

from gwen25.artifacts import Artifact
from gwen25.config import Config
from tasks import node


@task(name="ollama", task_run_name="ollama", **node.OPTIONS)
def ollama(config: Config, gguf: Artifact, score: Artifact, refresh: bool = False) -> State[Artifact] | Artifact:
    """Modelfile and package; created over REST where an Ollama server answers."""
    return node.run("ollama", config, {"gguf": gguf, "score": score}, refresh=refresh)
