"""Whether the base has learned the chat format's tokens: seen where it is so, seen where it is not, unknown where nothing tells."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gwen25 import base_check, modeling, models
from gwen25.chat import FORMATS
from gwen25.samples import tiny

FORMAT = FORMATS["chatml-think"]
START, END = 641, 642  # <|im_start|> and <|im_end|> in the packaged vocabulary of 645 tokens, 704 rows


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretrained")
    tiny.build(folder, pretrained=True)
    return folder


def _found(folder: Path) -> base_check.Found:
    return base_check.inspect(folder, modeling.load_tokenizer(folder, FORMAT), FORMAT)


def _with(folder: Path, out: Path, rows: dict[int, int], tensor: str = "model.embed_tokens.weight") -> Path:
    """A copy of a model in which rows are near copies of others."""
    import shutil

    import torch
    from safetensors.torch import load_file

    shutil.copytree(folder, out)
    tensors = load_file(out / "model.safetensors")
    draw = torch.Generator().manual_seed(1)
    for to, source in rows.items():
        tensors[tensor][to] = tensors[tensor][source] * (1 + 0.02 * torch.randn(1, generator=draw))
    modeling.write_tensors(tensors, out / "model.safetensors")
    return out


def test_a_base_that_has_seen_chats_knows_both_tokens(pretrained: Path) -> None:
    found = _found(pretrained)
    matrix = found.matrices["embed_tokens"]
    assert found.untrained() == [] and found.unused_rows == 59 and set(found.matrices) == {"embed_tokens"}
    assert matrix.shell is not None and all(token.distance > 1.5 * matrix.shell[1] for token in matrix.tokens.values())


def test_a_row_like_the_unused_ones_is_untrained(pretrained: Path, tmp_path: Path) -> None:
    assert _found(_with(pretrained, tmp_path / "end", {END: 650})).untrained() == ["<|im_end|>"]
    assert _found(_with(pretrained, tmp_path / "both", {END: 660, START: 700})).untrained() == ["<|im_start|>", "<|im_end|>"]


def test_rows_that_hold_their_first_values_are_untrained(tiny_model: Path) -> None:
    assert _found(tiny_model).untrained() == ["<|im_start|>", "<|im_end|>"]  # random numbers throughout: no row was ever trained


def test_a_head_of_its_own_is_looked_at_too(tmp_path: Path) -> None:
    """Trained as input and not as output: the model reads the token and never writes it."""
    from safetensors.torch import load_file

    base = tmp_path / "base"
    tiny.build(base, tie_word_embeddings=False)
    tensors = load_file(base / "model.safetensors")
    for row in (START, END):
        tensors["model.embed_tokens.weight"][row] *= 2
    tensors["lm_head.weight"][START] *= 2
    modeling.write_tensors(tensors, base / "model.safetensors")
    found = _found(base)
    assert [token.untrained for token in found.matrices["embed_tokens"].tokens.values()] == [False, False]
    assert [token.untrained for token in found.matrices["lm_head"].tokens.values()] == [False, True]
    assert found.untrained() == ["<|im_end|>"]


def test_a_vocabulary_without_unused_rows_leaves_it_unknown(pretrained: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    tiny.build(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"][:650].clone()  # 5 unused rows
    modeling.write_tensors(tensors, tmp_path / "model.safetensors")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "vocab_size": 650}))
    found = _found(tmp_path)
    assert found.untrained() == [] and found.facts()["embed_tokens"]["tokens"]["<|im_end|>"]["untrained"] is None
    assert "5 rows are unused, too few to tell" in found.lines()[0]
    json.dumps(found.facts(), allow_nan=False)


def test_the_numbers_are_those_of_the_file(pretrained: Path) -> None:
    import torch
    from safetensors.torch import load_file

    weight = load_file(pretrained / "model.safetensors")["model.embed_tokens.weight"].double()
    told = _found(pretrained).facts()["embed_tokens"]
    centre = weight[645:].mean(0)
    assert told["tokens"]["<|im_end|>"]["norm"] == pytest.approx(float(weight[END].norm()), rel=1e-5)
    assert told["tokens"]["<|im_end|>"]["distance"] == pytest.approx(float((weight[END] - centre).norm()), rel=1e-5)
    assert told["unused_distance"][1] == pytest.approx(float((weight[645:] - centre).norm(dim=1).max()), rel=1e-5)
    assert told["used_norm"] == pytest.approx(float(torch.linalg.vector_norm(weight[:645], dim=1).median()), rel=1e-5)
    assert models.tensor_shapes(pretrained)["model.embed_tokens.weight"] == (704, 64)
