"""Merge: base + adapter -> one model in the Hugging Face layout.

    python -m gwen25.pipelines.merge WORK_DIR                                      (started by `gwen25 merge`)
    write_model(base, adapter, out, tokenizer, format, dtype=..., max_shard=...)    the directory alone, without a job

The weights are W + scale B A, rounded once and written piece by piece (`merging`). Then the model is read back and held against
base + adapter on a few prompts, both in float32: what differs is the rounding of the weights alone, and more than that is an error.
An adapter that was trained on a 4-bit base has learned to correct what 4 bits got wrong. So both are merged, the base as it is and the
base as its 4 bits say, each is held against the 4-bit base + adapter, and the nearer one is kept; both distances are in the metrics.

    payload/   config.json, generation_config.json, model*.safetensors (with an index where there are several), tokenizer

The chat format of the adapter is in tokenizer, config and generation config. Not here: quantization (`gguf`).
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gwen25 import modeling, models, weights
from gwen25.chat import ChatFormat, problem_messages
from gwen25.config import MergeConfig
from gwen25.data import Problem
from gwen25.errors import BadInput, Gwen25Error
from gwen25.job import Job, Result, main, write_json
from gwen25.merging import Progress, merge_adapter

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

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


@dataclass(frozen=True, slots=True)
class Trained:
    """Logits of the model that was trained, base + adapter, and of its base alone: one tensor (positions, vocabulary) a prompt."""

    together: list[torch.Tensor]
    alone: list[torch.Tensor]


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
    device = _with_room(device, directory)
    prompts = list(check_prompts(format, config.check_prompts))
    quantized_from = trained_in_4bit(source.facts)

    def write(base: str) -> int:
        return write_model(
            directory,
            source.payload,
            job.payload,
            tokenizer,
            format,
            dtype=config.dtype,
            max_shard=shard_bytes(config.max_shard_size),
            quantized_from=quantized_from if base == "dequantized" else None,
            progress=job.progress,
        )

    trained: Trained | None = None
    found: dict[str, Agreement] = {}
    for base in ("plain",) if quantized_from is None else ("plain", "dequantized"):
        size = write(base)
        if trained is None:  # read after the first merge: an adapter that does not fit is told of in seconds
            trained = trained_logits(directory, source.payload, tokenizer, format, prompts, device, load_in_4bit=quantized_from is not None)
        found[base] = agreement(trained.together, merged_logits(job.payload, tokenizer, format, prompts, device), trained.alone)
    best = min(found, key=lambda base: (math.isnan(found[base].kl), found[base].kl))
    if best != base:
        size = write(best)
    roundings = [
        config.dtype,
        quantized_from or config.dtype,
        "bfloat16" if quantized_from and _multiplies_in_bf16(device) else config.dtype,
    ]
    require_agreement(found[best], max(roundings, key=lambda dtype: TOLERANCE[dtype]))
    return _result(job, found, best, size)


def _result(job: Job, found: Mapping[str, Agreement], best: str, size: int) -> Result:
    source, kept = job.inputs["adapter"], found[best]
    job.say(f"KL to base + adapter: {kept.kl:.3g} nats, of base alone: {kept.adapter_kl:.3g}; top token equal at {kept.top1_agreement:.1%}")
    facts = {**source.facts, "dtype": job.config.dtype, "bytes": size, "adapter_digest": source.digest}
    metrics = {
        "kl": kept.kl,
        "max_logit_difference": kept.max_logit_difference,
        "top1_agreement": kept.top1_agreement,
        "adapter_kl": kept.adapter_kl,
    }
    if len(found) > 1:
        metrics |= {f"kl_{base}_base": one.kl for base, one in found.items()}
        facts["merged_base"] = best
        job.say(f"trained on a 4-bit base: the {best} base is kept, " + ", ".join(f"{base} {one.kl:.3g}" for base, one in found.items()))
    return Result(facts, metrics)


def _multiplies_in_bf16(device: str) -> bool:
    """Whether bitsandbytes multiplies 4-bit weights in bfloat16 whatever they were made of: its kernel for CPUs with AVX512-BF16 does."""
    from bitsandbytes import functional

    return device == "cpu" and bool(functional.has_avx512bf16())


def trained_in_4bit(facts: Mapping[str, Any]) -> str | None:
    """The dtype that the base had before it was made 4-bit for the adapter's last training; None where it was not, or is not told."""
    last = facts.get("grpo") or facts.get("sft") or {}
    return str(last.get("dtype") or "bfloat16") if last.get("load_in_4bit") else None


def write_model(
    base: Path,
    adapter: Path,
    out: Path,
    tokenizer: PreTrainedTokenizerBase,
    format: ChatFormat | None,
    *,
    dtype: str,
    max_shard: int,
    quantized_from: str | None = None,
    progress: Progress | None = None,
) -> int:
    """Write the whole model directory; returns the bytes of its weights. What an earlier attempt left is replaced.

    `format` None: the tokenizer is saved as it is, and what ends an answer stays what the base says. `quantized_from` as in
    `merge_adapter`. config.json is taken away first and written last: without it no reader takes a folder for a model.
    """
    (out / "config.json").unlink(missing_ok=True)
    size = merge_adapter(base, adapter, out, dtype=dtype, max_shard=max_shard, quantized_from=quantized_from, progress=progress)
    modeling.save_tokenizer(tokenizer, out)
    settings = models.read_config(base)
    for name in ("_name_or_path", "transformers_version", "quantization_config"):
        settings.pop(name, None)
    if format is not None:
        settings |= {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
        stops = {"eos_token_id": modeling.stop_ids(tokenizer, format), "pad_token_id": tokenizer.pad_token_id}
        write_json(out / "generation_config.json", stops)
    elif (generation := base / "generation_config.json").is_file():
        shutil.copyfile(generation, out / generation.name)
    # transformers 5 writes dtype; readers older than it, and llama.cpp's, look for torch_dtype
    write_json(out / "config.json", {**settings, "dtype": dtype, "torch_dtype": dtype})
    return size


def shard_bytes(text: str) -> int:
    """Bytes of "5GB" or "300MB": decimal units, as the hub's."""
    return int(text[:-2]) * _UNITS[text[-2:]]


def trained_logits(
    base: Path,
    adapter: Path,
    tokenizer: PreTrainedTokenizerBase,
    format: ChatFormat,
    prompts: list[str],
    device: str,
    *,
    load_in_4bit: bool = False,
) -> Trained:
    """Of base + adapter on the prompts, computed in float32; the base in 4 bits where it was trained so."""
    model = modeling.load_base(base, tokenizer, format, dtype="float32", device=device, load_in_4bit=load_in_4bit)
    together = modeling.load_adapter(model, adapter)
    wanted = _logits(together, tokenizer, prompts, device)
    with together.disable_adapter():
        return Trained(wanted, _logits(together, tokenizer, prompts, device))


def merged_logits(out: Path, tokenizer: PreTrainedTokenizerBase, format: ChatFormat, prompts: list[str], device: str) -> list[torch.Tensor]:
    """Of the merged model, read back from its files, computed in float32."""
    return _logits(modeling.load_base(out, tokenizer, format, dtype="float32", device=device), tokenizer, prompts, device)


def _logits(model: Any, tokenizer: PreTrainedTokenizerBase, prompts: list[str], device: str) -> list[torch.Tensor]:
    import torch

    model.eval()
    ids = [torch.tensor([tokenizer(text)["input_ids"]], device=device) for text in prompts]
    with torch.no_grad():
        return [model(input_ids=one).logits[0].float().cpu() for one in ids]


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

    need = sum(weights.size_of(shape, "float32") for shape in models.tensor_shapes(base).values())
    free, _ = torch.cuda.mem_get_info()
    return device if need * 1.1 < free else "cpu"


if __name__ == "__main__":
    main(run)
