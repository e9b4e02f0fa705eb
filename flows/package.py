"""package: a model that is there already -> GGUF -> Ollama; an adapter is checked and merged first.

prefect deployment run package/package -p model=grpo:3f2a        -p model=champion

adapters -> merge -> gguf -> score -> ollama, from where the given artifact stands. What gwen25 did not
train is taken into the store first. Not here: what is prompted by a chat template of its own (`gwen25 gguf` and `ollama` on files).
"""

from __future__ import annotations

from typing import Any, Literal

from prefect import State, flow, get_run_logger
from prefect.states import Failed
from prefect.task_runners import ThreadPoolTaskRunner

from flows.finetune import Profile, Recipe
from flows.model import Nodes, given, merged, needed
from flows.outcome import Outcome, summarise
from gwen25 import child, imports, preflight
from gwen25.errors import Gwen25Error
from gwen25.given import take
from tasks import ui
from tasks.gguf import gguf
from tasks.node import submit
from tasks.ollama import ollama
from tasks.score import score

Part = Literal["adapters", "merge", "gguf", "score", "ollama"]


@flow(
    name="package",
    task_runner=ThreadPoolTaskRunner(max_workers=2),  # type: ignore[arg-type]  # its class is generic in a type it never uses
    persist_result=False,
)
def package(
    model: str,
    profile: Profile = "smoke",
    recipe: Recipe = "reference",
    overrides: dict[str, Any] | None = None,
    refresh: list[Part] | None = None,
) -> State[Any] | Outcome:
    """A model for the laptop: a GGUF file, and a model in Ollama where its server answers.

    Args:
        model: an adapter or merged model of the store (`sft:3f2a`, `grpo:...`, `adapters:...`, `merge:...`, `champion`), or a directory
            or hub id of either in gwen25's chat format; an adapter's base is the one that it names, or overrides {"base_model": ...}
        profile: the machine: its precision, GGUF type and Ollama name
        recipe: the training recipe; only the sections merge, gguf and ollama are used
        overrides: config values by dotted name, such as {"gguf.type": "q4_k_m", "ollama.name": "coder"}; never secrets
        refresh: nodes to make again though the store holds them
    """
    child.allow()
    logger, nodes = get_run_logger(), Nodes()
    try:
        it = given(model, profile, recipe, overrides or {}, logger.warning)
        if it.artifact is None:
            it = take(model, imports.model(model, logger.warning), it.config, logger.warning)
            assert it.artifact is not None
        wanted = needed(it.artifact) | {"gguf", "score", "ollama"}
        again = preflight.refreshed(refresh or [], wanted)
        preflight.check(it.checked, wanted)
        whole = merged(it.config, it.artifact, nodes, again)
        nodes["gguf"] = submit(gguf, it.config, whole, refresh="gguf" in again)
        nodes["score"] = submit(score, it.config, whole, nodes["gguf"], refresh="score" in again)
        nodes["ollama"] = submit(ollama, it.config, nodes["gguf"], nodes["score"], refresh="ollama" in again)
        outcome = Outcome.of(nodes)
    except Gwen25Error as error:
        return Failed(message=str(error), data=error)
    finally:
        child.stop_all()  # on cancel the tasks' own `finally` does not run
    logger.info("%s: %s\n%s", model, outcome.artifacts["ollama"].path, summarise(outcome))
    ui.summary(summarise(outcome, markdown=True), "package-summary", model)
    return outcome
