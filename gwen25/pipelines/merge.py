"""Merge: base + adapter -> one model in the Hugging Face layout.

    python -m gwen25.pipelines.merge WORK_DIR          (started by `gwen25 merge`)

Each adapted weight becomes W + scale B A, taken in float32 and rounded once to the wanted dtype. (PEFT's own merge on a
bfloat16 base rounds twice, B A first.) Tensors pass one at a time from the base's files to the new ones, so memory holds a
weight and not a model. Then the model is read back and held against base + adapter on a few prompts, both in float32: what
differs is the rounding of the weights alone, and more than that is an error.

    payload/   config.json, generation_config.json, model*.safetensors (with an index where there are several), tokenizer

The chat format of the adapter is in tokenizer, config and generation config. Not here: quantization (`gguf`).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from gwen25 import modeling, models
from gwen25.chat import ChatFormat, problem_messages
from gwen25.config import MergeConfig
from gwen25.data import Problem
from gwen25.errors import BadInput, Gwen25Error
from gwen25.job import Job, Result, main, write_json

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

# torch's name -> safetensors' name and bytes of a number
_STORED: Final = {"float32": ("F32", 4), "float16": ("F16", 2), "bfloat16": ("BF16", 2)}
HEAD: Final = "lm_head.weight"
EMBEDDING: Final = "model.embed_tokens.weight"
_UNITS: Final = {"MB": 10**6, "GB": 10**9}
# Mean KL, in nats, of the next-token distribution that weights rounded to this dtype may cost. Measured with 2 layers of 64
# and 12 layers of 256, from a float32 base: 3e-13 and 1e-12 (float32), 5e-7 and 2e-6 (float16), 3e-5 and 9e-5 (bfloat16).
TOLERANCE: Final = {"float32": 1e-6, "float16": 1e-3, "bfloat16": 1e-2}

LOST: Final = 0.2  # share of the adapter's own KL that a merge may differ by


@dataclass(frozen=True, slots=True)
class Agreement:
    """Merged against base + adapter over all positions of the check prompts. `adapter_kl`: base alone against base + adapter."""

    kl: float
    max_logit_difference: float
    top1_agreement: float
    adapter_kl: float


def run(job: Job) -> Result:
    """Merge and check. Raises BadInput for an adapter that does not fit, Gwen25Error where the merged model disagrees."""
    config: MergeConfig = job.config
    device = modeling.prepare(job)
    source = job.inputs["adapter"]
    if source.facts["base_model"] != job.externals["base_model"]:
        raise BadInput(
            f"an adapter of another base: it was trained on {models.name_of(source.facts['base_model'])}; set base_model to that"
        )
    format = modeling.chat_format(source.facts, "the adapter")
    directory = modeling.base_dir(job)
    tokenizer = modeling.load_tokenizer(directory, format)

    size = write_model(directory, source.payload, job.payload, tokenizer, format, config, job)
    found = compare(directory, source.payload, job.payload, tokenizer, format, config.check_prompts, device)
    job.say(
        f"KL to base + adapter: {found.kl:.3g} nats, of base alone: {found.adapter_kl:.3g}; top token equal at {found.top1_agreement:.1%}"
    )
    require_agreement(found, config.dtype)
    facts = {**source.facts, "dtype": config.dtype, "bytes": size, "adapter_digest": source.digest}
    metrics = {
        "kl": found.kl,
        "max_logit_difference": found.max_logit_difference,
        "top1_agreement": found.top1_agreement,
        "adapter_kl": found.adapter_kl,
    }
    return Result(facts, metrics)


def write_model(
    base: Path, adapter: Path, out: Path, tokenizer: PreTrainedTokenizerBase, format: ChatFormat, config: MergeConfig, job: Job
) -> int:
    """Write the whole model directory; returns the bytes of its weights. What an earlier attempt left is replaced."""
    for old in out.glob("model*"):
        old.unlink()
    size = write_weights(base, adapter, out, dtype=config.dtype, max_shard=shard_bytes(config.max_shard_size), job=job)
    settings = models.read_config(base)
    for name in ("_name_or_path", "transformers_version", "quantization_config"):
        settings.pop(name, None)
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    # transformers 5 writes dtype; readers older than it, and llama.cpp's, look for torch_dtype
    write_json(out / "config.json", {**settings, **ids, "dtype": config.dtype, "torch_dtype": config.dtype})
    stops = {"eos_token_id": modeling.stop_ids(tokenizer, format), "pad_token_id": tokenizer.pad_token_id}
    write_json(out / "generation_config.json", stops)
    modeling.save_tokenizer(tokenizer, out)
    return size


def shard_bytes(text: str) -> int:
    """Bytes of "5GB" or "300MB": decimal units, as the hub's."""
    return int(text[:-2]) * _UNITS[text[-2:]]


def write_weights(base: Path, adapter: Path, out: Path, *, dtype: str, max_shard: int, job: Job) -> int:
    """Merge tensor by tensor into safetensors files of at most `max_shard` bytes (a larger tensor has a file of its own)."""
    lora = modeling.read_adapter(adapter)
    shards = plan_shards(_kept(base), dtype, max_shard)
    total, done = sum(map(len, shards)), 0
    sources, pairs = _sources(base), modeling.lora_pairs(sorted(lora))
    if unknown := sorted(pairs.keys() - sources.keys()):
        raise BadInput(f"the adapter holds {unknown[0]!r}, which the base model does not have: an adapter of another base")
    scale = modeling.scaling(modeling.read_adapter_config(adapter))
    places: dict[str, str] = {}
    for number, shapes in enumerate(shards, 1):
        file = out / ("model.safetensors" if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors")
        with file.open("wb") as data:
            write_header(data, shapes, dtype)
            for name in shapes:
                data.write(_bytes(merged(sources[name], name, lora, pairs, scale, dtype)))
                places[name] = file.name
                done += 1
                job.progress(done, total)
    size = sum(_size(shape, dtype) for shapes in shards for shape in shapes.values())
    if len(shards) > 1:
        write_json(out / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": places})
    return size


def _kept(base: Path) -> dict[str, tuple[int, ...]]:
    """The base's tensors by name. A head that is tied to the embedding is left out: it is the embedding.

    Raises BadInput where the config says tied and the file holds another head: readers would disagree on what the model is.
    """
    shapes = models.tensor_shapes(base)
    if models.inspect(base).tied and HEAD in shapes:
        sources = _sources(base)
        if not _tensor(sources[HEAD], HEAD).equal(_tensor(sources[EMBEDDING], EMBEDDING)):
            raise BadInput(f"{base}/config.json says tie_word_embeddings, and {HEAD} differs from {EMBEDDING}; set it to false")
        del shapes[HEAD]
    return shapes


def _tensor(file: Path, name: str) -> torch.Tensor:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as tensors:
        tensor: torch.Tensor = tensors.get_tensor(name)
    return tensor


def _sources(base: Path) -> dict[str, Path]:
    return {name: file for file in models.weight_files(base) for name in models.read_header(file)}


def plan_shards(shapes: Mapping[str, tuple[int, ...]], dtype: str, max_shard: int) -> list[dict[str, tuple[int, ...]]]:
    """Divide tensors, in the order of their names, over files of at most `max_shard` bytes."""
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    filled = 0
    for name in sorted(shapes):
        size = _size(shapes[name], dtype)
        if filled and filled + size > max_shard:
            shards.append({})
            filled = 0
        shards[-1][name] = shapes[name]
        filled += size
    return shards


def _size(shape: tuple[int, ...], dtype: str) -> int:
    size = _STORED[dtype][1]
    for length in shape:
        size *= length
    return size


def write_header(out: BinaryIO, shapes: Mapping[str, tuple[int, ...]], dtype: str) -> None:
    """The header of a safetensors file whose data follows in the order of `shapes`; padded so that the data is aligned to 8 bytes."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, shape in shapes.items():
        end = at + _size(shape, dtype)
        header[name] = {"dtype": _STORED[dtype][0], "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    out.write(struct.pack("<Q", len(text)) + text)


def merged(
    source: Path, name: str, lora: Mapping[str, torch.Tensor], pairs: Mapping[str, tuple[str, str]], scale: float, dtype: str
) -> torch.Tensor:
    """One tensor of the merged model: W, or W + scale B A, in float32 and then rounded once."""
    import torch

    weight = _tensor(source, name).float()
    if name in pairs:
        down, up = (lora[half].float() for half in pairs[name])
        weight = weight + (up @ down) * scale
    return weight.to(getattr(torch, dtype))


def _bytes(tensor: torch.Tensor) -> bytes:
    import torch

    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


def compare(
    base: Path, adapter: Path, out: Path, tokenizer: PreTrainedTokenizerBase, format: ChatFormat, count: int, device: str
) -> Agreement:
    """Hold the merged model against base + adapter on `count` prompts, in float32; one model is in memory at a time."""
    import torch

    device = _with_room(device, base)
    prompts = [torch.tensor([tokenizer(text)["input_ids"]], device=device) for text in check_prompts(format, count)]

    def logits(model: Any) -> list[torch.Tensor]:
        model.eval()
        with torch.no_grad():
            return [model(input_ids=ids).logits[0].float().cpu() for ids in prompts]

    def load(directory: Path) -> Any:
        return modeling.load_base(directory, tokenizer, format, dtype="float32", device=device)

    together = modeling.load_adapter(load(base), adapter)
    wanted = logits(together)
    with together.disable_adapter():
        alone = logits(together)
    del together
    given = logits(load(out))
    return agreement(wanted, given, alone)


def agreement(wanted: list[torch.Tensor], given: list[torch.Tensor], alone: list[torch.Tensor]) -> Agreement:
    """Of logits (positions, vocabulary) of base + adapter, merged, and base alone. A NaN anywhere comes out as NaN."""
    import torch

    target, mine, bare = torch.cat(wanted), torch.cat(given), torch.cat(alone)
    return Agreement(
        kl=_kl(target, mine),
        max_logit_difference=float((target - mine).abs().max()),
        top1_agreement=float((target.argmax(-1) == mine.argmax(-1)).float().mean()),
        adapter_kl=_kl(target, bare),
    )


def _kl(target: torch.Tensor, other: torch.Tensor) -> float:
    """Mean over positions of KL(target || other), in nats; in float64, where the sums of a whole vocabulary do not drown it."""
    p, q = target.double().log_softmax(-1), other.double().log_softmax(-1)
    return float((p.exp() * (p - q)).sum(-1).mean())


def require_agreement(found: Agreement, dtype: str) -> None:
    """Raises Gwen25Error where the merged model is not base + adapter up to the rounding of `dtype`.

    A weak adapter could be half lost and still pass a fixed bound, so the difference must be small beside the adapter's own
    effect too (half of it missing is a quarter of its KL); an effect below the bound cannot be told from rounding.
    """
    bound = TOLERANCE[dtype]
    if not found.kl <= bound:  # NaN is no agreement
        raise Gwen25Error(
            f"the merged model is not base + adapter: KL {found.kl:.3g} nats on the check prompts, more than the {bound:g} that rounding "
            f"to {dtype} may cost (largest logit difference {found.max_logit_difference:.3g}); the merge is not published"
        )
    if found.adapter_kl > bound and found.kl > LOST * found.adapter_kl:
        raise Gwen25Error(
            f"the merged model has lost part of the adapter: KL {found.kl:.3g} nats to base + adapter, where the base itself is at "
            f"{found.adapter_kl:.3g}; merge to a finer dtype than {dtype}"
        )


def check_prompts(format: ChatFormat, count: int) -> Iterator[str]:
    """`count` different prompts in the format that the model was trained in."""
    for number in range(2, count + 2):
        statement = f"Read {number} integers, one per line, and print their sum."
        yield format.render(problem_messages(Problem(f"check-{number}", statement, ())))


def _with_room(device: str, base: Path) -> str:
    """The CPU where the GPU has no room for the base in float32 (a 7B model takes 31 GB)."""
    if device == "cpu":
        return device
    import torch

    need = sum(_size(shape, "float32") for shape in models.tensor_shapes(base).values())
    free, _ = torch.cuda.mem_get_info()
    return device if need * 1.1 < free else "cpu"


if __name__ == "__main__":
    main(run)
