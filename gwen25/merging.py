"""Base + adapter -> merged weights, a few rows at a time.

    merge_adapter(base, adapter, out, dtype="bfloat16", max_shard=5 * 10**9)      bytes of the weights written

Each adapted weight becomes W + scale B A, taken in float32 and rounded once to the wanted dtype: bit for bit what PEFT 0.21's
`merge_and_unload()` gives for a base of that dtype (its `safe_merge=True` rounds B A first, and so twice). DoRA then scales each row to
its magnitude, and trained rows of the embedding take the place of the base's. Rows pass in pieces of about a megabyte from the
base's files to the new ones, so memory is the same for every size of model: a piece, and A and B of one weight.

New files have another name until all are whole and on the disk; a merge that is killed leaves `.part` files, which the next one
removes, and never a model. With `quantized_from` the base's linear layers are what bitsandbytes makes of them in 4 bits (`nf4`).
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, NamedTuple

from gwen25 import lora, models, nf4, token_rows, weights
from gwen25.artifacts import flush
from gwen25.errors import BadInput
from gwen25.job import write_json
from gwen25.weights import Reader, Stored

if TYPE_CHECKING:
    import torch

HEAD: Final = "lm_head.weight"
EMBEDDING: Final = "model.embed_tokens.weight"
Progress = Callable[[int, int], None]  # tensors done, tensors in all
_ROOM: Final = "free some, or merge to another disk"
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, slots=True)
class Adapter:
    """What an adapter directory does to which weight of the base."""

    tensors: dict[str, Stored]
    pairs: dict[str, lora.Pair]
    rows: dict[str, token_rows.Rows]


class Change(NamedTuple):
    """The adapter's numbers for one weight, in float32. All None: the weight stays."""

    down: torch.Tensor | None = None
    up: torch.Tensor | None = None
    scale: float = 1.0
    magnitude: torch.Tensor | None = None
    rows: tuple[int, ...] = ()
    replaced: torch.Tensor | None = None


def merge_adapter(
    base: Path,
    adapter: Path,
    out: Path,
    *,
    dtype: str,
    max_shard: int,
    progress: Progress | None = None,
    quantized_from: str | None = None,
) -> int:
    """Write model*.safetensors, with an index where there are several, into the folder `out`; returns the bytes of the weights.

    `quantized_from`: None for the base as it is, else the dtype it was loaded in before its linear layers were made 4-bit.
    Raises BadInput for files that do not fit together or are damaged, numbers that are not finite, and a full disk; `out` then holds
    what it held before.
    """
    if out.resolve() in (base.resolve(), adapter.resolve()):
        raise BadInput(f"{out}: the merged model would replace what it is made of; name another folder")
    tensors, change = kept(base), read_adapter(adapter)
    require_fit(change, tensors, tied=models.inspect(base).tied)
    shards = weights.plan_shards({name: tensor.shape for name, tensor in tensors.items()}, dtype, max_shard)
    size = sum(weights.size_of(tensor.shape, dtype) for tensor in tensors.values())
    with _parts(out, weights.shard_names(len(shards)), size) as parts:
        write = _Writer(change, dtype, quantized_from, _packed(base) if quantized_from else ())
        _write_files(parts, shards, tensors, write, progress)
    _publish(out, parts, shards, size)
    return size


def _packed(base: Path) -> tuple[str, ...]:
    """How the names of the weights end that 4-bit loading packs: every linear layer of the blocks."""
    return tuple(f".{target}.weight" for target in models.LORA_TARGETS[models.inspect(base).architecture])


def _write_files(
    parts: list[Path], shards: list[dict[str, tuple[int, ...]]], tensors: dict[str, Stored], write: _Writer, progress: Progress | None
) -> None:
    done = 0
    with Reader() as reader, _one_thread():
        for part, shapes in zip(parts, shards, strict=True):
            with part.open("wb") as data:
                weights.write_header(data, shapes, write.dtype)
                for name in shapes:
                    write.tensor(data, reader, name, tensors[name])
                    done += 1
                    if progress is not None:
                        progress(done, len(tensors))
                data.flush()
                os.fsync(data.fileno())


@contextmanager
def _parts(out: Path, names: list[str], size: int) -> Iterator[list[Path]]:
    """Files to be written, by their first names. Whatever goes wrong, none is left; a full disk is told as such."""
    _remove(out, "*.safetensors.part")
    _remove(out, ".*.json.[0-9]*")  # what `write_json` leaves where it is killed
    if (free := shutil.disk_usage(out).free) < size:
        raise BadInput(f"{out}: the merged weights take {size / 1e9:.2f} GB and the disk has {free / 1e9:.2f} GB free; {_ROOM}")
    try:
        yield [out / f"{name}.part" for name in names]
    except BaseException as error:
        _remove(out, "*.safetensors.part")
        if isinstance(error, OSError) and error.errno in _FULL:
            raise BadInput(f"{out}: no room for the {size / 1e9:.2f} GB of merged weights ({error.strerror}); {_ROOM}") from error
        raise


@contextmanager
def _one_thread() -> Iterator[None]:
    """Pieces are too small for two: torch's threads waited for each other and took 40 s in place of 10 on 2 busy cores.

    The numbers do not depend on it (checked for every rank and shape that `weights.ROWS` was).
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _remove(out: Path, pattern: str) -> None:
    for old in out.glob(pattern):
        old.unlink()


def _publish(out: Path, parts: list[Path], shards: list[dict[str, tuple[int, ...]]], size: int) -> None:
    """Give whole files their names. An index comes before its files: killed in between, every reader says that one is missing."""
    _remove(out, "model*.safetensors.index.json")
    _remove(out, "model*.safetensors")
    if len(shards) > 1:
        places = {name: part.stem for part, shapes in zip(parts, shards, strict=True) for name in shapes}
        write_json(out / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": places})
    for part in parts:
        part.rename(part.with_suffix(""))
    flush(out)


def kept(base: Path) -> dict[str, Stored]:
    """The base's tensors by name. A head that is tied to the embedding is left out: it is the embedding.

    Raises BadInput where the config says tied and the file holds another head (readers would disagree on what the model is), and
    where weights that the config tells of are in no file.
    """
    checkpoint, tensors = models.inspect(base), weights.stored(base)
    needed = {
        EMBEDDING,
        *(() if checkpoint.tied else (HEAD,)),
        *_blocks(models.read_config(base), models.LORA_TARGETS[checkpoint.architecture]),
    }
    if missing := sorted(needed - tensors.keys()):
        raise BadInput(
            f"{base}: {len(missing)} weights that config.json tells of are in no file, such as {missing[0]}; fetch the model again"
        )
    if checkpoint.tied and HEAD in tensors and not _equal(tensors.pop(HEAD), tensors[EMBEDDING]):
        raise BadInput(f"{base}/config.json says tie_word_embeddings, and {HEAD} differs from {EMBEDDING}; set it to false")
    return tensors


def _blocks(config: Mapping[str, Any], targets: tuple[str, ...]) -> Iterator[str]:
    for layer in range(int(config.get("num_hidden_layers") or 0)):
        for target in targets:
            room = "self_attn" if target in ("q_proj", "k_proj", "v_proj", "o_proj") else "mlp"
            yield f"model.layers.{layer}.{room}.{target}.weight"


def _equal(one: Stored, other: Stored) -> bool:
    with Reader() as reader:
        return one.shape == other.shape and all(
            reader.rows(one, start, stop).float().equal(reader.rows(other, start, stop).float())
            for start, stop in weights.pieces(one.rows, one.columns)
        )


def read_adapter(folder: Path) -> Adapter:
    """What the directory says, without its numbers. Raises BadInput for what cannot be merged."""
    config = lora.read_config(folder)
    file = folder / lora.WEIGHTS
    if not file.is_file():
        raise BadInput(lora.no_weights(folder))
    tensors = weights.of_file(file)
    return Adapter(tensors, lora.pairs(config, tensors), token_rows.declared(config, tensors))


def require_fit(adapter: Adapter, base: Mapping[str, Stored], *, tied: bool) -> None:
    """Raises BadInput for an adapter of another base, or one that changes nothing."""
    shapes = {name: tensor.shape for name, tensor in base.items()}
    if not adapter.pairs and not adapter.rows:
        raise BadInput("the adapter's file holds no LoRA matrices: nothing to merge")
    lora.require_fit(adapter.pairs, {name: tensor.shape for name, tensor in adapter.tensors.items()}, shapes, tied=tied)
    for name, rows in adapter.rows.items():
        token_rows.require_fit(name, rows, adapter.tensors[rows.tensor].shape, shapes.get(name))


def read_change(reader: Reader, adapter: Adapter, name: str) -> Change:
    """The adapter's numbers for the weight `name`. Raises BadInput where one is not finite."""

    def number(tensor: str) -> torch.Tensor:
        given = reader.whole(adapter.tensors[tensor]).float()
        if not finite(given):
            raise BadInput(f"{tensor} holds a number that is not finite: the training diverged or the file is damaged; train again")
        return given

    change = Change()
    if (pair := adapter.pairs.get(name)) is not None:
        magnitude = number(pair.magnitude) if pair.magnitude else None
        change = Change(number(pair.down), number(pair.up), pair.scale, magnitude)
    if (rows := adapter.rows.get(name)) is not None:
        change = change._replace(rows=rows.indices, replaced=number(rows.tensor))
    return change


@dataclass(frozen=True, slots=True)
class _Writer:
    """What is the same for every tensor of a merge."""

    adapter: Adapter
    dtype: str
    quantized_from: str | None
    packed: tuple[str, ...]

    def tensor(self, out: BinaryIO, reader: Reader, name: str, tensor: Stored) -> None:
        """One tensor of the merged model, piece by piece. Raises BadInput where a number of it is not finite."""
        import torch

        kind: torch.dtype = getattr(torch, self.dtype)
        change = read_change(reader, self.adapter, name)
        read: Callable[[int, int], torch.Tensor] = partial(reader.rows, tensor)
        if self.quantized_from is not None and name.endswith(self.packed):
            read = nf4.dequantized(reader, tensor, self.quantized_from)
        for start, stop in weights.pieces(tensor.rows, tensor.columns):
            rows = read(start, stop)
            made = merged(rows, change, start, stop).to(kind)
            if not finite(made):
                raise BadInput(_not_finite(name, rows, self.dtype, tensor.file))
            out.write(made.view(torch.uint8).numpy().data)


def merged(weight: torch.Tensor, change: Change, start: int, stop: int) -> torch.Tensor:
    """Rows `start` to `stop` of a weight, changed, in float32; as they are where nothing changes them."""
    import torch

    if change.down is not None and change.up is not None:
        delta = (change.up[start:stop] @ change.down).mul_(change.scale)
        weight = delta.add_(weight)  # W is widened to float32 as it is added
        if change.magnitude is not None:
            factor = change.magnitude[start:stop] / torch.linalg.norm(weight, dim=1)
            weight = factor.view(-1, 1) * weight
    if change.replaced is not None:
        weight = weight.float()
        for place, row in enumerate(change.rows):
            if start <= row < stop:
                weight[row - start] = change.replaced[place]
    return weight


def finite(tensor: torch.Tensor) -> bool:
    """Whether every number is; by their sum where that is finite, as it nearly always is: one pass in place of three."""
    import torch

    return bool(tensor.sum(dtype=torch.float32).isfinite()) or bool(tensor.isfinite().all())


def _not_finite(name: str, base: torch.Tensor, dtype: str, file: Path) -> str:
    if not finite(base):
        return f"{file}: {name} holds a number that is not finite; fetch the base model again"
    return f"{name}: a merged weight is too large for {dtype}, or a row has no length; merge to float32 or bfloat16, or train again"
