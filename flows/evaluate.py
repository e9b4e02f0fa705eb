"""evaluate: any model on the benchmark; an adapter is merged first.

prefect deployment run evaluate/evaluate -p model=grpo:3f2a        -p model=base        -p model=http://127.0.0.1:8000/v1

The same stage as in `finetune`: what was evaluated there on the same problems is a hit. Not here: two reports against each other
(`gwen25 compare`, and `retrain`).
"""

from __future__ import annotations

from typing import Any

from prefect import State, flow, get_run_logger
from prefect.states import Failed
from prefect.task_runners import ThreadPoolTaskRunner

from flows.finetune import Profile, Recipe
from flows.model import Nodes, given, merged, needed
from flows.outcome import Outcome
from gwen25 import child, preflight
from gwen25.errors import Gwen25Error
from tasks import evaluate as evaluation
from tasks import ui
from tasks.node import submit


@flow(
    name="evaluate",
    task_runner=ThreadPoolTaskRunner(max_workers=2),  # type: ignore[arg-type]  # its class is generic in a type it never uses
    persist_result=False,
)
def evaluate(
    model: str, profile: Profile = "smoke", recipe: Recipe = "reference", overrides: dict[str, Any] | None = None, refresh: bool = False
) -> State[Any] | Outcome:
    """How many problems a model solves: pass@1 and pass@5 by difficulty, with intervals. The report is a page of the run.

    Args:
        model: an adapter or merged model of the store (`grpo:3f2a`, `champion`), `base`, a directory, a hub id, or the address of an
            OpenAI-compatible server (`http://127.0.0.1:8000/v1`)
        profile: the machine: its base model, problems, sampling and precision
        recipe: the training recipe; an evaluation takes its sampling from it
        overrides: config values by dotted name, such as {"evaluate.n": 10, "evaluate.problems": "my.jsonl"}; never secrets
        refresh: evaluate again though the store holds the report
    """
    child.allow()
    logger, nodes = get_run_logger(), Nodes()
    try:
        # one report of one model: the base model's own is asked for by its name
        it = given(model, profile, recipe, {**(overrides or {}), "evaluate.baseline": False}, logger.warning)
        preflight.check(it.checked, {"evaluate"} | (needed(it.artifact) if it.artifact else set()))
        if it.artifact is not None:
            nodes["evaluate"] = submit(evaluation.evaluate, it.config, merged(it.config, it.artifact, nodes), refresh=refresh)
        else:
            nodes["evaluate"] = submit(evaluation.evaluate_outside, it.config, it.outside, refresh=refresh)
        outcome = Outcome.of(nodes)
    except Gwen25Error as error:
        return Failed(message=str(error), data=error)
    finally:
        child.stop_all()  # on cancel the tasks' own `finally` does not run
    report = (outcome.artifacts["evaluate"].payload / "report.md").read_text(encoding="utf-8")
    logger.info("%s: %s\n%s", model, outcome.artifacts["evaluate"].path, report)
    ui.summary(report, "evaluate-report", model)
    return outcome
