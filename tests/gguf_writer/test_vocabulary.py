"""Tokenizer files and configs of which no true GGUF can be made: each is refused by name, and nothing is written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gwen25.errors import BadInput
from gwen25.gguf_writer import write


def edit(name: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        held = json.loads((folder / name).read_text(encoding="utf-8"))
        change(held)
        (folder / name).write_text(json.dumps(held), encoding="utf-8")

    return spoil


def tokens(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    return edit("tokenizer.json", change)


def settings(**changes: Any) -> Callable[[Path], None]:
    return edit("tokenizer_config.json", lambda held: held.update(changes))


def decoder(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    return edit("tokenizer_config.json", lambda held: change(held["added_tokens_decoder"]))


def legacy(decoder: bool = False, **files: Any) -> Callable[[Path], None]:
    """Files of older versions beside tokenizer_config.json, which are read where that has no decoder."""

    def spoil(folder: Path) -> None:
        if not decoder:
            edit("tokenizer_config.json", lambda held: held.pop("added_tokens_decoder"))(folder)
        for name, held in files.items():
            (folder / f"{name}.json").write_text(json.dumps(held), encoding="utf-8")

    return spoil


def empty(held: dict[str, Any]) -> None:
    held["model"]["vocab"], held["added_tokens"] = {}, []


CASES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a token more": (decoder(lambda held: held.update({"645": {"content": "<my_tok>", "special": True}})), "added token '<my_tok>'"),
    "another id": (decoder(lambda held: held.update({"645": held.pop("642")})), r"added token '<\|im_end\|>'"),
    "not special there": (tokens(lambda held: held["added_tokens"][-1].update(content="<x>", special=False)), "names the added token"),
    "a special token more": (settings(additional_special_tokens=["<think>"]), "added token '<think>'"),
    "its newer name": (settings(extra_special_tokens=[{"content": "<think>"}]), "added token '<think>'"),
    "a role's token": (settings(pad_token="<pad>"), "added token '<pad>'.* writes all anew"),
    "legacy: a token more": (legacy(added_tokens={"<my_tok>": 645}), "added_tokens.json names the added token '<my_tok>'"),
    "legacy: another id": (legacy(added_tokens={"<|im_end|>": 645}), r"added_tokens.json names the added token '<\|im_end\|>'"),
    "legacy: a plain token": (legacy(added_tokens={"x": 87}), "added_tokens.json names the added token 'x'"),
    "legacy: a role's token": (legacy(special_tokens_map={"pad_token": {"content": "<pad>"}}), "special_tokens_map.json names .* '<pad>'"),
    "legacy: a special token more": (legacy(special_tokens_map={"additional_special_tokens": ["<think>"]}), "added token '<think>'"),
    "legacy: another end": (
        legacy(special_tokens_map={"eos_token": "<|im_end|>"}),
        r"special_tokens_map.json says that eos_token is '<\|im_end\|>', tokenizer_config.json '<\|endoftext\|>'",
    ),
    "legacy: no mapping": (legacy(added_tokens=["<x>"]), "added_tokens.json cannot be read: it is no mapping"),
    "no row": (tokens(lambda held: held["model"]["vocab"].update(x=-1)), "token id -1 has no row in an embedding of"),
    "id as text": (tokens(lambda held: held["model"]["vocab"].update(x="1")), "the id of token 'x' is '1'"),
    "no special": (tokens(lambda held: held["added_tokens"][0].pop("special")), "cannot be read as a tokenizer: KeyError"),
    "empty": (tokens(empty), "holds no tokens"),
    "activation": (edit("config.json", lambda held: held.update(hidden_act="gelu")), "hidden_act is 'gelu'"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_would_be_written_wrong_is_refused(case: str, tiny_model: Path, tmp_path: Path) -> None:
    spoil, told = CASES[case]
    copy = Path(shutil.copytree(tiny_model, tmp_path / "copy"))
    spoil(copy)
    (tmp_path / "out").mkdir()
    with pytest.raises(BadInput, match=told):
        write(copy, tmp_path / "out" / "m.gguf", "f16")
    assert list((tmp_path / "out").iterdir()) == []


def test_legacy_files_that_nobody_reads_are_not_looked_at(tiny_model: Path, tmp_path: Path) -> None:
    """Beside an added_tokens_decoder: what a later save has left of an earlier one."""
    copy = Path(shutil.copytree(tiny_model, tmp_path / "copy"))
    legacy(decoder=True, added_tokens={"<my_tok>": 645}, special_tokens_map={"pad_token": "<pad>"})(copy)
    write(copy, tmp_path / "m.gguf", "f16")
    write(tiny_model, tmp_path / "plain.gguf", "f16")
    assert (tmp_path / "m.gguf").read_bytes().replace(b"copy", b"") == (tmp_path / "plain.gguf").read_bytes().replace(b"copy", b"")
