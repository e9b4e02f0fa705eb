"""retrain: what the schedule runs. New data -> finetune -> candidate against champion -> the name moves, or stays.

prefect deployment run retrain/retrain

1. what a run would make now is looked up by key: where it is the champion already, nothing is new, and the run ends in seconds
2. finetune, up to the evaluation: neither GGUF nor Ollama is touched before the decision
3. the champion on the same problems: a hit where neither changed; without a champion, the base model (see `decision` for the rule)
4. better: packaged, then named champion. Anything else: the champion stays, and the run is no failure

A model rolled back by hand is never promoted by a retraining. Not here: promotion by hand (`gwen25 promote`, `gwen25 rollback`).
"""

from __future__ import annotations

from typing import Any

from prefect import State, flow, get_run_logger
from prefect.states import Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner

from flows.decision import Decision, data_of, decide, named, page
from flows.finetune import Profile, Recipe, finetune
from flows.outcome import Outcome
from flows.package import package
from gwen25 import champion, child, preflight, stage
from gwen25.artifacts import Artifact, Store, Warn
from gwen25.champion import label
from gwen25.config import Config, load_config
from gwen25.errors import BadInput, Gwen25Error
from tasks import ui
from tasks.evaluate import evaluate
from tasks.node import submit


@flow(
    name="retrain",
    task_runner=ThreadPoolTaskRunner(max_workers=2),  # type: ignore[arg-type]  # its class is generic in a type it never uses
    persist_result=False,
)
def retrain(profile: Profile = "smoke", recipe: Recipe = "reference", overrides: dict[str, Any] | None = None) -> State[Any]:
    """Train on the newest data and promote the result if it is better than the champion. Ends in seconds where nothing is new.

    Args:
        profile: the machine: its base model, data, sizes and precision
        recipe: the training recipe
        overrides: config values by dotted name, such as {"dataset.source": "rows.jsonl"}; never secrets
    """
    child.allow()
    try:
        decision = _decide(profile, recipe, overrides or {})
    except Gwen25Error as error:
        return Failed(message=str(error), data=error)
    finally:
        child.stop_all()  # on cancel the tasks' own `finally` does not run
    get_run_logger().info("%s: %s", decision.name, decision.words)
    ui.summary(page(decision, Store.default()), "retrain-decision", decision.name)
    ui.tag(decision.name.lower().replace(" ", "-"))
    # not a state of that name: a deployment's page lists its runs by the names of Prefect's own states, and would leave it out
    return Completed(message=f"{decision.name}: {decision.words}", data=decision)


def _decide(profile: Profile, recipe: Recipe, overrides: dict[str, Any]) -> Decision:
    config, store, warn = load_config(profile, recipe, overrides=overrides), Store.default(), get_run_logger().warning
    reigning = champion.current(store)
    _check(config, reigning)
    if (settled := _settled(foreseen("merge", config, store, warn), reigning, store)) is not None:
        return settled
    made = _outcome(finetune(profile, recipe, overrides, until="evaluate", return_state=True)).artifacts
    child.allow()  # a flow that ends lets nothing start after it
    candidate = made["merge"]
    if (settled := _settled(candidate, reigning, store)) is not None:
        return settled
    rival = made["baseline"] if reigning is None else submit(evaluate, config, reigning).result()
    decision = decide(candidate, reigning, made["evaluate"], rival)
    if decision.name == "Promoted":
        if champion.current(store) != reigning:
            raise BadInput(f"the champion was changed by hand while this ran; run again to hold {label(candidate)} against the new one")
        # packaged first: a run that fails here is done again, one with nothing new would not be
        _outcome(package(f"merge:{candidate.key}", profile, recipe, overrides, return_state=True))
        champion.promote(store, candidate, decision.words)
    return decision


def _check(config: Config, reigning: Artifact | None) -> None:
    """What would stop the run, or leave it without a decision, before its first hour."""
    if config.evaluate.backend == "openai":
        raise BadInput("retrain evaluates the models that it makes: evaluate.backend=openai asks a server that serves another one")
    if reigning is None and not config.evaluate.baseline:
        raise BadInput("there is no champion yet, so the base model is the one to beat: evaluate.baseline=true is needed")
    preflight.check(config, preflight.upto(None))


def foreseen(name: str, config: Config, store: Store, warn: Warn) -> Artifact | None:
    """What a run of this config would end in at that stage, if the store holds it and all below it. Asks the hub for revisions."""
    inputs = {role: foreseen(upstream, config, store, warn) for role, upstream in stage.STAGES[name].inputs.items()}
    known = {role: artifact for role, artifact in inputs.items() if artifact is not None}
    return stage.find(stage.plan_stage(name, config, known, warn), store, warn) if len(known) == len(inputs) else None


def _settled(candidate: Artifact | None, reigning: Artifact | None, store: Store) -> Decision | None:
    """The decision on a candidate that needs no evaluation, if it is one: the champion itself, or one that was rolled back."""
    if candidate is None:
        return None
    data = f"{named(data_of(store, candidate))}, with this configuration"
    if reigning is not None and candidate.digest == reigning.digest:
        return Decision(name="Nothing new", words=f"{data}, is what champion {label(reigning)} was made of.", champion=reigning)
    if candidate.digest in champion.rejected(store):
        words = f"{data}, makes {label(candidate)}, which was rolled back."
        return Decision(name="Nothing new", words=words, candidate=candidate, champion=reigning)
    return None


def _outcome(state: State[Any]) -> Outcome:
    """A subflow's outcome; raises what it ended with."""
    found = state.result(raise_on_failure=False)
    if isinstance(found, BaseException):
        raise found
    assert isinstance(found, Outcome)
    return found
