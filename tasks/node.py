"""The one body that all nodes share: hit in the store, or child process; log, progress, UI artifacts, retries by cause.

The store decides what is cached; the task reports it, as a state named Cached. Prefect's own cache and result storage stay
off (`OPTIONS`): two caches would be two truths, and a result store of pickles is code execution for whoever can write it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prefect import State, Task, get_run_logger
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import TaskRun
from prefect.concurrency.sync import concurrency
from prefect.futures import PrefectFuture
from prefect.states import Completed, Failed

from gwen25 import stage
from gwen25.artifacts import Artifact, Store
from gwen25.config import Config
from gwen25.errors import BadInput, StageFailed, Unavailable
from gwen25.resolve import Resolved
from tasks import ui

GPU_SLOT = "gpu"
SLOT_LEASE_SECONDS = 60  # a holder that dies frees the GPU's slot after this; Prefect's default is 300


def transient(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Retry what another attempt may mend: a service that was away, or what `StageFailed.retry` says."""
    failure = state.result(raise_on_failure=False)
    return isinstance(failure, Unavailable) or (isinstance(failure, StageFailed) and failure.retry)


OPTIONS: dict[str, Any] = {"cache_policy": NO_CACHE, "persist_result": False, "retry_condition_fn": transient}


def submit(node: Task[..., Any], config: Config, *inputs: Any, **options: Any) -> PrefectFuture[Artifact]:
    """Submit a node with the run's own retries: exponential pauses, from `runtime.retry_delay_seconds`."""
    first, tries = config.runtime.retry_delay_seconds, config.runtime.max_retries
    wait_for = options.pop("wait_for", None)
    retrying = node.with_options(retries=tries, retry_delay_seconds=[first * 2**n for n in range(tries)] or 0)
    future: PrefectFuture[Artifact] = retrying.submit(config, *inputs, **options, wait_for=wait_for)
    return future


def run(
    name: str, config: Config, inputs: dict[str, Artifact], *, refresh: bool = False, extra: Resolved | None = None
) -> State[Artifact] | Artifact:
    """Look the node up, or make it. Bad input ends the task at once, without a traceback: its message is the help."""
    try:
        return _run(name, config, inputs, refresh, extra)
    except BadInput as error:
        return Failed(message=str(error), data=error)
    except StageFailed as failure:
        if failure.cause == "bad_input":
            return Failed(message=failure.reason, data=failure)
        raise


def _run(name: str, config: Config, inputs: dict[str, Artifact], refresh: bool, extra: Resolved | None) -> State[Artifact] | Artifact:
    logger = get_run_logger()
    store = Store.default()
    plan = stage.plan_stage(name, config, inputs, logger.warning, extra)
    if not refresh and (hit := stage.find(plan, store, logger.warning)) is not None:
        return Completed(name="Cached", message=f"{name}:{plan.key[:8]} from the store", data=hit)
    with _gpu_slot(plan), ui.Progress(name) as progress:
        artifact = stage.fit_and_launch(plan, store, logger.info, progress.update, refresh=refresh)
    ui.publish(artifact)
    return artifact


@contextmanager
def _gpu_slot(plan: stage.Plan) -> Iterator[None]:
    """One stage at a time on the GPU, round the child only: a hit never waits, nor does a stage on the CPU."""
    if not plan.stage.gpu or plan.volatile or plan.runtime.device != "cuda":  # volatile: the model runs on a server
        yield
        return
    _ensure_slot()
    # strict: a missing limit would let two trainings on one GPU; but a server that restarts must not end the one that runs
    with concurrency(GPU_SLOT, occupy=1, strict=True, lease_duration=SLOT_LEASE_SECONDS, raise_on_lease_renewal_failure=False):
        yield


def _ensure_slot() -> None:
    """Create the limit of one where the server has none; a limit that somebody set is left alone."""
    with get_client(sync_client=True) as client:
        if not any(limit.name == GPU_SLOT for limit in client.read_global_concurrency_limits(limit=200)):
            client.upsert_global_concurrency_limit_by_name(GPU_SLOT, 1)
