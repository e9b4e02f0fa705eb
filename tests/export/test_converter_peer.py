"""Our GGUF files beside those of llama.cpp's own converter and quantizer, byte for byte.

Needs a checkout of llama.cpp (or the vendor folder of llama-cpp-python's sdist) in GWEN25_LLAMA_CPP; one process converts everything.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bench import converter
from gwen25 import gguf_writer, llamacpp
from gwen25.gguf_header import read_header
from gwen25.gguf_writer import WRITTEN_TYPES
from gwen25.pipelines.gguf import convert
from gwen25.samples import tiny
from tests.conftest import REPOSITORY
from tests.export import checkpoints

pytestmark = pytest.mark.slow  # a minute and a half: the converter imports torch and transformers, and makes 90 files

K_QUANTS = ("q4_k_m", "q5_k_m", "q6_k")
# What a converter reads off a folder's name; ours takes a name and a licence from whoever calls it
KIN = {f"general.{key}" for key in ("name", "basename", "finetune", "version", "organization", "license", "quantized_by")}


class Peer(NamedTuple):
    """A folder with a checkpoint `KIND` and the converter's `KIND-TYPE.gguf`, of each kind."""

    folder: Path

    def model(self, kind: str) -> Path:
        return self.folder / kind

    def file(self, kind: str, type: str) -> Path:
        return self.folder / f"{kind}-{type}.gguf"


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Peer:
    if converter.folder() is None:
        pytest.skip(f"{converter.VARIABLE} names no folder with convert_hf_to_gguf.py: a checkout of llama.cpp has one")
    made = Peer(tmp_path_factory.mktemp("peer"))
    for kind in checkpoints.KINDS:
        checkpoints.build(kind, made.model(kind))
    for name, dtype in (("wide", "float32"), ("wide-bf16", "bfloat16")):
        tiny.build(made.model(name), hidden_size=256, intermediate_size=512)
        checkpoints.dtype(dtype)(made.model(name))
    kinds = [(kind, WRITTEN_TYPES) for kind in checkpoints.KINDS] + [("wide", ("f32",)), ("wide-bf16", ("bf16",))]
    _convert(made, [(kind, type) for kind, types in kinds for type in types])
    return made


def _convert(peer: Peer, wanted: list[tuple[str, str]]) -> None:
    jobs = [
        {"model": str(peer.model(kind)), "out": str(peer.file(kind, type)), "type": type, "pre": checkpoints.SPLITS.get(kind, "qwen2")}
        for kind, type in wanted
    ]
    (peer.folder / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    command = [sys.executable, "-m", "bench.converter", str(peer.folder / "jobs.json")]
    done = subprocess.run(command, cwd=REPOSITORY, env=os.environ | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]


class Contents(NamedTuple):
    keys: dict[str, tuple[list[str], Any]]  # name -> (types, value), in order
    tensors: list[tuple[str, str, list[int], int]]  # name, type, shape, offset in the data
    data: bytes


def contents(file: Path) -> Contents:
    from gguf import GGUFReader

    reader = GGUFReader(file)
    keys = {
        key: ([kind.name for kind in field.types], field.contents())
        for key, field in reader.fields.items()
        if not key.startswith("GGUF.") and key not in KIN
    }
    tensors = [(t.name, t.tensor_type.name, t.shape.tolist(), int(t.data_offset) - reader.data_offset) for t in reader.tensors]
    return Contents(keys, tensors, file.read_bytes()[reader.data_offset :])


@pytest.mark.parametrize("type", WRITTEN_TYPES)
@pytest.mark.parametrize("kind", checkpoints.KINDS)
def test_the_file_is_the_one_that_llama_cpps_converter_writes(kind: str, type: str, peer: Peer, tmp_path: Path) -> None:
    convert(peer.model(kind), tmp_path / "ours.gguf", type)
    ours, theirs = contents(tmp_path / "ours.gguf"), contents(peer.file(kind, type))
    assert list(ours.keys) == list(theirs.keys)
    assert ours.keys == theirs.keys
    assert ours.tensors == theirs.tensors
    assert ours.data == theirs.data


@pytest.mark.parametrize("type", K_QUANTS)
@pytest.mark.parametrize(("kind", "plain"), [("wide", "f32"), ("wide-bf16", "bf16")])
def test_a_k_quant_is_what_llama_cpp_makes_of_its_own_conversion(kind: str, plain: str, type: str, peer: Peer, tmp_path: Path) -> None:
    pytest.importorskip("cyllama")
    convert(peer.model(kind), tmp_path / "ours.gguf", type)
    llamacpp.quantize(peer.file(kind, plain), tmp_path / "theirs.gguf", type)
    ours, theirs = contents(tmp_path / "ours.gguf"), contents(tmp_path / "theirs.gguf")
    assert ours == theirs


def test_lineage_is_under_keys_of_our_own_and_only_where_it_is_given(peer: Peer, tmp_path: Path) -> None:
    gguf_writer.write(peer.model("tied"), tmp_path / "ours.gguf", "f16", lineage={"adapter": "abc", "base_model": "Qwen/Qwen2.5-3B@def"})
    ours = read_header(tmp_path / "ours.gguf").fields
    more = {key: value for key, value in ours.items() if key.startswith("gwen25.")}
    assert more == {"gwen25.adapter": "abc", "gwen25.base_model": "Qwen/Qwen2.5-3B@def"}
    theirs = read_header(peer.file("tied", "f16")).fields
    assert {key for key in ours if key not in more} - KIN == theirs.keys() - KIN


def test_the_real_vocabulary(shared_data: Path, peer: Peer, tmp_path: Path) -> None:
    """151,936 rows of which 271 belong to no token: the converter knows this tokenizer, and names the split by itself."""
    tiny.build(peer.model("qwen"), tokenizer=shared_data / "tokenizer", hidden_size=32, intermediate_size=64)
    _convert(peer, [("qwen", "q8_0")])
    convert(peer.model("qwen"), tmp_path / "ours.gguf", "q8_0")
    assert read_header(tmp_path / "ours.gguf").fields["tokenizer.ggml.pre"] == "qwen2"
    ours, theirs = contents(tmp_path / "ours.gguf"), contents(peer.file("qwen", "q8_0"))
    assert ours == theirs
