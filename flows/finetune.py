"""finetune: the whole DAG, in reading order.

dataset -> sft -> grpo -> adapters -> merge -> gguf -> score -> ollama
                                      merge -> evaluate, and the base model beside it

gwen25 run --profile smoke            prefect deployment run finetune/smoke
"""

from __future__ import annotations

from typing import Any, Literal

from prefect import State, Task, flow
from prefect.futures import PrefectFuture
from prefect.states import Failed
from prefect.task_runners import ThreadPoolTaskRunner

from flows.outcome import Outcome, summarise
from gwen25 import child, preflight
from gwen25.artifacts import Artifact
from gwen25.config import load_config
from gwen25.errors import BadInput, StageFailed
from tasks import ui
from tasks.adapters import adapters
from tasks.dataset import dataset
from tasks.evaluate import baseline, evaluate
from tasks.gguf import gguf
from tasks.grpo import grpo
from tasks.merge import merge
from tasks.node import submit
from tasks.ollama import ollama
from tasks.score import score
from tasks.sft import sft

Profile = Literal["a100", "cpu", "multi-gpu", "smoke", "t4"]
Recipe = Literal["recommended", "reference"]
Until = Literal["dataset", "sft", "grpo", "adapters", "merge", "gguf", "score", "ollama", "evaluate"]


# 4 threads: gguf -> score -> ollama beside the two evaluations; the GPU's slot keeps those apart
@flow(
    name="finetune",
    task_runner=ThreadPoolTaskRunner(max_workers=4),  # type: ignore[arg-type]  # its class is generic in a type it never uses
    persist_result=False,
)
def finetune(
    profile: Profile = "smoke",
    recipe: Recipe = "reference",
    overrides: dict[str, Any] | None = None,
    refresh: list[Until] | None = None,
    until: Until | None = None,
) -> State[Any] | Outcome:
    """From data to a served and evaluated model. Whatever the store holds already is taken from it.

    Args:
        profile: the machine: its base model, sizes and precision
        recipe: the training recipe
        overrides: config values by dotted name, such as {"grpo.max_steps": 20}; never secrets
        refresh: nodes to make again though the store holds them
        until: the last node to run; empty runs all
    """
    child.allow()
    nodes: dict[str, PrefectFuture[Artifact]] = {}
    try:
        config = load_config(profile, recipe, overrides=overrides)
        wanted = preflight.upto(until)
        again = preflight.refreshed(refresh or [], wanted)
        preflight.check(config, wanted)

        def node(task: Task[..., Any], *inputs: str, after: str = "") -> None:
            """Submit a node unless the run ends before it."""
            name = "evaluate" if task is baseline else task.name  # the same stage on another model
            if name in wanted:
                fresh = name in again
                nodes[task.name] = submit(
                    task, config, *(nodes[name] for name in inputs), refresh=fresh, wait_for=[nodes[after]] if after else None
                )

        node(dataset)
        node(sft, "dataset")
        node(grpo, "dataset", "sft")
        node(adapters, "grpo")
        node(merge, "adapters")
        node(gguf, "merge")
        node(score, "merge", "gguf")
        node(ollama, "gguf", "score")
        node(evaluate, "merge")
        if config.evaluate.baseline:
            node(baseline, after="merge")
        for future in nodes.values():  # one branch that fails does not end the other
            future.wait()
        made = {name: future.result() for name, future in nodes.items()}
        outcome = Outcome(artifacts=made, cached=tuple(name for name, future in nodes.items() if future.state.name == "Cached"))
    except BadInput as error:
        return Failed(message=str(error), data=error)
    except StageFailed as failure:
        return Failed(message=str(failure), data=failure)
    finally:
        child.stop_all()  # on cancel the tasks' own `finally` does not run
    ui.summary(summarise(outcome, markdown=True))
    return outcome
