"""prefect.yaml in a server: what was deployed is read back, and a worker's process runs one of them."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]  # each of Prefect's commands takes 4 s to start
NAMES = {"finetune/smoke", "finetune/finetune", "evaluate/evaluate", "package/package", "retrain/retrain"}


def environment(home: Path) -> dict[str, str]:
    """A shell's on the worker's machine."""
    from prefect.settings import PREFECT_API_URL

    own = {"PREFECT_API_URL": str(PREFECT_API_URL.value()), "GWEN25_CHECKOUT": str(REPOSITORY), "GWEN25_HOME": str(home)}
    return {**os.environ, **own, "PREFECT_HOME": str(home / "prefect"), "PREFECT_WORKER_QUERY_SECONDS": "2"}


def prefect(home: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "prefect", "--no-prompt", *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment(home), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The worker's GWEN25_HOME."""
    return tmp_path_factory.mktemp("worker")


@pytest.fixture(scope="module")
def deployed(home: Path, prefect_server: None) -> dict[str, Any]:
    """The deployments as the server has them, by flow/name."""
    prefect(home, "work-pool", "create", "gpu", "--type", "process")
    prefect(home, "deploy", "--all")
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        flows = {flow.id: flow.name for flow in client.read_flows()}
        return {f"{flows[found.flow_id]}/{found.name}": found for found in client.read_deployments()}


def test_all_are_there_and_take_turns(deployed: dict[str, Any]) -> None:
    assert set(deployed) == NAMES
    for name, found in deployed.items():
        strategy = "CANCEL_NEW" if name == "retrain/retrain" else "ENQUEUE"
        assert found.global_concurrency_limit.limit == 1 and found.concurrency_options.collision_strategy == strategy, name
        assert found.work_pool_name == "gpu" and found.description
        assert found.pull_steps == [{"prefect.deployments.steps.set_working_directory": {"directory": str(REPOSITORY)}}]


def test_only_the_retraining_has_a_schedule(deployed: dict[str, Any]) -> None:
    schedules = {name: found.schedules for name, found in deployed.items() if found.schedules}
    (weekly,) = schedules.pop("retrain/retrain")
    assert not schedules and weekly.active
    assert (weekly.slug, weekly.schedule.cron, weekly.schedule.timezone) == ("weekly", "0 3 * * 0", "Etc/UTC")


def test_every_field_of_every_form_is_explained(deployed: dict[str, Any]) -> None:
    for name, found in deployed.items():
        fields = found.parameter_openapi_schema["properties"]
        assert {"profile", "recipe", "overrides"} <= set(fields), name
        assert all(len(field["description"]) > 10 for field in fields.values()), name
        assert {"smoke", "a100"} <= set(fields["profile"]["enum"]) and "reference" in fields["recipe"]["enum"], "no drop-down"
        assert set(found.parameters) <= set(fields) and set(found.parameter_openapi_schema.get("required", [])) <= set(found.parameters)


def test_the_automations_can_be_made(home: Path, prefect_server: None) -> None:
    prefect(home, "automation", "create", "--from-file", "deployments/automations.yaml")
    assert "gwen25-zombies" in prefect(home, "automation", "ls")


@pytest.fixture
def worker(smoke: Any, smoke_home: Path, home: Path) -> Iterator[None]:
    """A worker whose store holds what the smoke run made."""
    shutil.copytree(smoke_home, home, dirs_exist_ok=True)
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "gpu", "--type", "process"]
    log = (home / "worker.log").open("wb")
    process = subprocess.Popen(command, cwd=home, env=environment(home), stdout=log, stderr=log, start_new_session=True)
    yield
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:  # it waits for its server's answers, and for the run's process to be gone
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    log.close()


@pytest.mark.usefixtures("worker")
def test_a_workers_process_runs_the_smoke_deployment(deployed: dict[str, Any], home: Path) -> None:
    watched = prefect(home, "deployment", "run", "finetune/smoke", "--watch", "--params", '{"refresh": ["dataset"]}')
    assert re.search(r"finished successfully|Completed", watched), watched
    assert len(list((home / "store" / "attic").glob("dataset-*"))) == 1, "the data set was not made again by the worker's process"
    log = (home / "worker.log").read_text()
    assert "Finished in state Cached" in log or "Cached(" in log, log[-4000:]
