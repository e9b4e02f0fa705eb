"""The run form: its drop-downs are the profiles, recipes and stages that there are, its help texts are there."""

from __future__ import annotations

from typing import get_args

from gwen25 import config
from gwen25.stage import STAGES


def test_drop_downs_list_what_there_is() -> None:
    from flows import finetune

    assert list(get_args(finetune.Profile)) == config.profiles()
    assert list(get_args(finetune.Recipe)) == config.recipes()
    assert list(get_args(finetune.Until)) == list(STAGES) == list(get_args(config.StageName))


def test_every_parameter_of_the_form_is_explained() -> None:
    from flows.finetune import finetune

    properties = finetune.parameters.model_dump()["properties"]
    assert set(properties) == {"profile", "recipe", "overrides", "refresh", "until"}
    assert all(property.get("description") for property in properties.values())
