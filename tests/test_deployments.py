"""prefect.yaml: each entrypoint is a flow, each parameter one of its own."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import yaml

from gwen25 import config
from tests.conftest import REPOSITORY

DEPLOYMENTS = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())["deployments"]


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda deployment: deployment["name"])
def test_a_deployment_names_a_flow_and_parameters_it_takes(deployment: dict[str, Any]) -> None:
    path, name = deployment["entrypoint"].split(":")
    flow = getattr(importlib.import_module(path.removesuffix(".py").replace("/", ".")), name)
    flow.validate_parameters(deployment["parameters"])
    assert deployment["parameters"]["profile"] in config.profiles()
    assert set(deployment) <= {"name", "entrypoint", "description", "tags", "parameters", "work_pool", "concurrency_limit", "schedules"}
