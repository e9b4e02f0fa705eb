"""`gwen25 run --dry-run`: what the store holds of a run, what would be made, and what would stop it on this machine."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from gwen25 import preflight, resolve, stage
from gwen25.artifacts import Artifact, Store
from gwen25.commands.common import warn
from gwen25.config import Config
from gwen25.errors import Gwen25Error

_UNTOLD: Final = "would run; its key cannot be told here"  # `problems` says why


def run(config: Config, wanted: Collection[str]) -> int:
    """A line for each node, one for the base model's evaluation, one for each thing that is missing. Status 0: nothing was to be done."""
    store, made = Store.default(), dict[str, Artifact]()
    with resolve.asking_once():
        for name in [name for name in stage.STAGES if name in wanted]:
            print(f"{name:10} {_fate(name, config, store, made)}{_chosen(name, config)}", flush=True)
        if "evaluate" in wanted and config.evaluate.baseline:
            print(f"{'baseline':10} {_baseline(config, store)}; evaluate of {config.base_model} (evaluate.baseline)", flush=True)
        stopping = preflight.problems(config, wanted)
    if stopping:
        print("\nOn this machine it would not start:")
        for problem in stopping:
            print(f"  {problem}")
    return 0


def _chosen(name: str, config: Config) -> str:
    """What decides what a node is about, where it is not the recipe's own."""
    return f"; target {config.dataset.target}" if name == "dataset" and config.dataset.target != "reasoning" else ""


def _fate(name: str, config: Config, store: Store, made: dict[str, Artifact]) -> str:
    """What would become of a node; a hit joins `made`. Below a missing node there is no key yet."""
    upstream: Mapping[str, str] = stage.STAGES[name].inputs
    if missing := [above for above in upstream.values() if above not in made]:
        return f"would run, after {', '.join(missing)}"
    try:
        plan = stage.plan_stage(name, config, {role: made[above] for role, above in upstream.items()}, warn)
    except Gwen25Error:
        return _UNTOLD
    if (hit := stage.find(plan, store, warn)) is not None:
        made[name] = hit
    return _told(plan, hit)


def _baseline(config: Config, store: Store) -> str:
    """The stage `evaluate` on the base model, as the flow asks it: under both prompts, and after no other node's artifact."""
    asked = config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"prompt": "both"})})
    try:
        plan = stage.plan_stage("evaluate", asked, {}, warn, resolve.base_as_model(config))
    except Gwen25Error:
        return _UNTOLD
    return _told(plan, stage.find(plan, store, warn))


def _told(plan: stage.Plan, hit: Artifact | None) -> str:
    return f"{'Cached' if hit else 'would run'}  {plan.stage.name}:{plan.key[:8]}"
