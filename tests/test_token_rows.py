"""Token rows as PEFT stores them: what is declared is what is there, and what does not fit is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from gwen25 import token_rows
from gwen25.errors import BadInput
from gwen25.token_rows import Rows

INPUT = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"
HEAD = "base_model.model.lm_head.token_adapter.trainable_tokens_delta"
LORA = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


def test_declared_rows_by_weight() -> None:
    assert token_rows.declared({}, [LORA]) == {} == token_rows.declared({"trainable_token_indices": None}, [LORA])
    one = {"model.embed_tokens.weight": Rows(INPUT, (5, 3))}
    assert token_rows.declared({"trainable_token_indices": [5, 3]}, [LORA, INPUT]) == one
    assert token_rows.declared({"trainable_token_indices": {"embed_tokens": [5, 3]}}, [LORA, INPUT]) == one
    both = token_rows.declared({"trainable_token_indices": {"embed_tokens": [5], "lm_head": [5]}}, [INPUT, HEAD])
    assert both == {"model.embed_tokens.weight": Rows(INPUT, (5,)), "lm_head.weight": Rows(HEAD, (5,))}


@pytest.mark.parametrize(
    "given", [{"wte": [1]}, {"embed_tokens": []}, {"embed_tokens": ["1"]}, [1, 1], [True], [[1]], 3, {"embed_tokens": 1}]
)
def test_an_unknown_form_is_refused(given: Any) -> None:
    with pytest.raises(BadInput, match="lists of rows of embed_tokens and lm_head are expected"):
        token_rows.declared({"trainable_token_indices": given}, [INPUT])


@pytest.mark.parametrize(("given", "tensors"), [([1], [LORA]), (None, [LORA, INPUT]), ([1], [INPUT, HEAD])])
def test_config_and_file_must_agree(given: Any, tensors: list[str]) -> None:
    with pytest.raises(BadInput, match=r"config and file disagree on '.*trainable_tokens_delta'"):
        token_rows.declared({"trainable_token_indices": given}, tensors)


def test_rows_that_do_not_fit_are_refused() -> None:
    token_rows.require_fit("w", Rows(INPUT, (9, 0)), (2, 4), (10, 4))
    for rows, shape, told in (
        (Rows(INPUT, (9, 10)), (10, 4), "does not fit rows"),
        (Rows(INPUT, (9, -1)), (10, 4), "does not fit rows"),
        (Rows(INPUT, (9,)), (10, 4), "does not fit rows"),
        (Rows(INPUT, (9, 0)), (10, 5), "does not fit rows"),
        (Rows(INPUT, (9, 0)), None, "which the base model does not have"),
    ):
        with pytest.raises(BadInput, match=told):
            token_rows.require_fit("w", rows, (2, 4), shape)
