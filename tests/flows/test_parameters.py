"""The run form: its drop-downs are the profiles, recipes and stages that there are, its help texts are there."""

from __future__ import annotations

import importlib
from typing import get_args

import pytest

from gwen25 import config
from gwen25.stage import STAGES


def test_drop_downs_list_what_there_is() -> None:
    from flows import finetune

    assert list(get_args(finetune.Profile)) == config.profiles()
    assert list(get_args(finetune.Recipe)) == config.recipes()
    assert list(get_args(finetune.Until)) == list(STAGES) == list(get_args(config.StageName))


FORMS = {
    "finetune": {"profile", "recipe", "overrides", "refresh", "until"},
    "evaluate": {"model", "profile", "recipe", "overrides", "refresh"},
    "package": {"model", "profile", "recipe", "overrides", "refresh"},
    "retrain": {"profile", "recipe", "overrides"},
}


@pytest.mark.parametrize("name", FORMS)
def test_every_parameter_of_a_form_is_explained(name: str) -> None:
    flow = getattr(importlib.import_module(f"flows.{name}"), name)
    properties = flow.parameters.model_dump()["properties"]
    assert set(properties) == FORMS[name]
    assert all(property.get("description") for property in properties.values())
