"""The file itself: header, keys, tensors in the checkpoint's order; whole and on the disk, or not there.

    write(Path("merged"), Path("model.gguf"), "q8_0")

Not here: what is written (`architecture`, `vocabulary`, `header`, `numbers`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, Final

from gwen25.artifacts import flush
from gwen25.chat import ChatFormat
from gwen25.errors import BadInput
from gwen25.gguf_writer import architecture, header, numbers
from gwen25.gguf_writer.architecture import EMBEDDING, HEAD, Labels
from gwen25.gguf_writer.header import Placed
from gwen25.gguf_writer.numbers import Piece
from gwen25.gguf_writer.source import Stored, read_tensors, stamps
from gwen25.gguf_writer.stream import Ahead, Direct
from gwen25.gguf_writer.vocabulary import add_tokenizer

WRITTEN_TYPES: Final = ("f32", "f16", "bf16", "q8_0")
_FILE_TYPES: Final = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}
Progress = Callable[[int, int], None]


def write(
    model_dir: Path,
    out: Path,
    type: str,
    *,
    chat_format: ChatFormat | None = None,
    name: str | None = None,
    licence: str | None = None,
    lineage: Mapping[str, str] | None = None,
    progress: Progress = lambda done, total: None,
) -> None:
    """Write the checkpoint as GGUF; `out` appears whole or not at all. The same checkpoint and arguments give the same bytes.

    `chat_format`: its template and its end and padding tokens; None takes the checkpoint's own. `name` and `licence` become
    general.name and general.license, `lineage` keys of our own (gwen25.*). `progress` is told the tensors written and their
    total. Raises BadInput for another architecture or tokenizer, tensors that are missing, not known or of another shape than
    the config says, weights that are not finite (or not in the type's range), a file that changes meanwhile, a full disk.
    """
    if type not in WRITTEN_TYPES:
        raise BadInput(f"gguf type {type!r} cannot be written directly; choose from: {', '.join(WRITTEN_TYPES)}")
    config = architecture.supported(model_dir)
    stored = read_tensors(model_dir)
    before = stamps(stored)
    tensors = architecture.mapped(config, stored, model_dir)
    _require_true_tie(tensors, stored, model_dir)
    start, size = _start(model_dir, type, config, tensors, chat_format, Labels(name, licence, lineage))
    _require_space(out.parent, len(start) + size)
    with whole(out) as part:
        with part.open("wb", buffering=0) as file, Direct(file) as data:
            data.write(start)
            _append(data, type, config, tensors, progress)
        if changed := [file for file, stamp in stamps(stored).items() if stamp != before[file]]:
            raise BadInput(f"{changed[0]} changed while it was read; start again once nothing writes to it")


@contextmanager
def whole(out: Path) -> Iterator[Path]:
    """A place beside `out` to write to, which becomes `out` once its bytes are on the disk; gone where the work fails."""
    part = out.with_name(f".{out.name}.part")
    try:
        yield part
        flush(part)
        part.replace(out)
        flush(out.parent)
    except OSError as error:
        raise BadInput(f"{out} was not written: {error}; free some space or choose another folder, and start again") from error
    finally:
        part.unlink(missing_ok=True)


def source_type(model_dir: Path) -> str:
    """The GGUF type that holds every matrix of a checkpoint exactly: f32, f16 or bf16."""
    kinds = {tensor.dtype for tensor in read_tensors(model_dir) if len(tensor.shape) == 2}
    return kinds.pop().lower() if len(kinds) == 1 else "f32"


def _require_true_tie(tensors: list[tuple[str, Stored]], stored: list[Stored], model_dir: Path) -> None:
    """A head that was left out because config.json calls it tied must be the embedding: readers would disagree on the model."""
    ends = {tensor.name: tensor for tensor in stored if tensor.name in (EMBEDDING, HEAD)}
    if len(ends) < 2 or HEAD in {tensor.name for _, tensor in tensors}:
        return
    head, embedding = ends[HEAD], ends[EMBEDDING]
    same = (head.shape, head.dtype) == (embedding.shape, embedding.dtype)
    with ExitStack() as stack:
        first, second = (_opened(tensor.file, stack) for tensor in (head, embedding))
        walk = numbers.pieces(head, first) if same else ()
        same = same and all((numbers.read(head, first, at) == numbers.read(embedding, second, at)).all() for at in walk)
    if not same:
        raise BadInput(f"{model_dir}/config.json says tie_word_embeddings, and {HEAD} differs from {EMBEDDING}; set it to false")


def _opened(file: Path, stack: ExitStack) -> int:
    descriptor = os.open(file, os.O_RDONLY)
    stack.callback(os.close, descriptor)
    return descriptor


def _start(
    model_dir: Path,
    type: str,
    config: Mapping[str, Any],
    tensors: list[tuple[str, Stored]],
    chat_format: ChatFormat | None,
    labels: Labels,
) -> tuple[bytes, int]:
    """The header, and the bytes of the data behind it."""
    import gguf

    placed = [_placed(name, tensor, _target(tensor, type)) for name, tensor in tensors]
    writer = gguf.GGUFWriter(None, architecture.name_of(config))  # collects keys; it never writes
    weights = sum(prod(tensor.shape) for _, tensor in tensors)
    architecture.add_model(writer, config, model_dir, gguf.LlamaFileType[_FILE_TYPES[type]], weights, labels)
    add_tokenizer(writer, model_dir, config, chat_format)
    return header.packed(writer.kv_data[0], placed), sum(tensor.size + len(header.padding(tensor.size)) for tensor in placed)


def _placed(name: str, tensor: Stored, target: str) -> Placed:
    import gguf

    kind = gguf.GGMLQuantizationType[target.upper()]
    block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    return Placed(name, tensor.shape, int(kind), prod(tensor.shape) // block * block_bytes)


def _target(tensor: Stored, type: str) -> str:
    """llama.cpp keeps vectors (norms, biases) in f32, and rows that q8_0's blocks do not divide in f16."""
    if len(tensor.shape) == 1:
        return "f32"
    if type == "q8_0" and tensor.shape[-1] % numbers.BLOCK:
        return "f16"
    return type


def _require_space(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < size:
        raise BadInput(f"{folder} has {free / 1e9:.1f} GB free; the file takes {size / 1e9:.1f} GB")


def _append(out: Direct, type: str, config: Mapping[str, Any], tensors: list[tuple[str, Stored]], progress: Progress) -> None:
    """The tensors' data, in order."""
    with ExitStack() as stack:
        descriptors = {file: _opened(file, stack) for file in {tensor.file for _, tensor in tensors}}
        ahead = stack.enter_context(Ahead())
        for done, (_, tensor) in enumerate(tensors, 1):
            heads = architecture.turned_heads(config, tensor.name)
            made = partial(_made, tensor, descriptors[tensor.file], _target(tensor, type))
            size = sum(out.write(data) for data in ahead.map(made, numbers.pieces(tensor, descriptors[tensor.file], heads)))
            out.write(header.padding(size))
            progress(done, len(tensors))


def _made(tensor: Stored, descriptor: int, target: str, piece: Piece) -> memoryview:
    return numbers.converted(numbers.read(tensor, descriptor, piece), tensor, target)
