"""The penalty near the limit: TRL's own numbers, and unknown where a length is."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gwen25.chat import FORMATS
from gwen25.config import GrpoConfig
from gwen25.errors import BadInput
from gwen25.rewards import active, weights
from gwen25.rewards.length import overlong
from gwen25.rewards.panel import Panel
from gwen25.rewards.sample import Sample, Tools

FORMAT = FORMATS["chatml-think"]


def scores(lengths: list[int | None], limit: int, cache: int | None) -> list[float | None]:
    tools = Tools(FORMAT, max_completion_length=limit, soft_punish_cache=cache)
    return overlong([Sample("text", FORMAT, tokens=length) for length in lengths], tools)


@settings(deadline=None, max_examples=60)
@given(limit=st.integers(1, 400), data=st.data())
def test_it_is_trls_soft_overlong_punishment(limit: int, data: st.DataObject) -> None:
    from trl.rewards import get_soft_overlong_punishment

    cache = data.draw(st.integers(1, limit))
    lengths = data.draw(st.lists(st.integers(1, limit + 20), min_size=1, max_size=20))
    theirs = get_soft_overlong_punishment(max_completion_len=limit, soft_punish_cache=cache)([[0] * length for length in lengths])
    assert scores(list(lengths), limit, cache) == pytest.approx(theirs)


def test_without_a_cache_it_is_a_fifth_of_the_limit() -> None:
    assert scores([80, 90, 100], 100, None) == [0.0, -0.5, -1.0]
    assert scores([1, 2, 3], 3, None) == [0.0, 0.0, -1.0], "at least one token"


def test_an_unknown_length_has_no_score() -> None:
    assert scores([None, 100], 100, 20) == [None, -1.0]


def test_the_panel_pays_it_beside_the_others_and_not_to_what_was_cut_off() -> None:
    config = GrpoConfig(rewards=("format_exact", "overlong"), allow_format_only=True, max_completion_length=10, soft_punish_cache=5)
    panel = Panel(config, FORMAT, None, 1, ends={7})
    assert panel.weights() == [0.1, 0.5]
    ids = [[1] * 4 + [7], [1] * 7 + [7], [1] * 9 + [7], [1] * 10]
    table = [function(prompts=["p"] * 4, completions=["x"] * 4, completion_ids=ids) for function in panel.functions()]
    assert table[1] == [0.0, pytest.approx(-0.6), -1.0, None], "masked completions have no reward at all"
    whole = Panel(config.model_copy(update={"mask_truncated_completions": False}), FORMAT, None, 1, ends={7})
    assert [function(prompts=["p"] * 4, completions=["x"] * 4, completion_ids=ids) for function in whole.functions()][1][3] == -1.0


def test_it_is_off_by_default_and_may_not_outweigh_a_program() -> None:
    assert "overlong" not in active(GrpoConfig())
    rewards = ("format_exact", "format_approximate", "execution", "overlong")
    assert weights(GrpoConfig(rewards=rewards)) == (0.1, 0.1, 1.0, 0.5)
    with pytest.raises(BadInput, match="form and length weigh 1 together, execution 1"):
        active(GrpoConfig(rewards=rewards, reward_weights={"overlong": 0.8}))
