"""GGUF: a merged checkpoint -> one file that llama.cpp and Ollama load.

    python -m gwen25.pipelines.gguf WORK_DIR
    convert(Path("merged"), Path("model.gguf"), "q4_k_m")

f32, f16, bf16 and q8_0 are written straight from the safetensors (`gguf_writer`); K-quants are made by llama.cpp's quantizer
from a file in the checkpoint's own dtype: bf16 has a wider range than f16 and f16 a finer step than bf16, so only the same
dtype hands the quantizer the weights that were trained. The intermediate file lies in `aside` and is deleted.

The file is then held against the checkpoint and its chat format in every engine that is here (`parity`): what agreed is told in
`parity.json` beside it, and where one differs there is no artifact.

Not here: other architectures than Qwen2 and Llama, importance matrices, the Modelfile (`pipelines.ollama`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gwen25 import gguf_writer, llamacpp, modeling, models, parity
from gwen25.chat import ChatFormat
from gwen25.config import GgufConfig
from gwen25.errors import BadInput, unknown
from gwen25.gguf_header import read_header
from gwen25.job import Input, Job, Result, main, write_json
from gwen25.parity import Proof


def run(job: Job) -> Result:
    gguf_writer.keep_freed_memory()
    merged = job.inputs["model"]
    config: GgufConfig = job.config
    shape = modeling.chat_format(merged.facts, "the merged model")
    file = job.payload / f"gwen25-{config.type}.gguf"
    convert(
        merged.payload,
        file,
        config.type,
        chat_format=shape,
        name=_name(merged.facts["base_model"]),
        licence=merged.facts.get("license"),
        lineage=_lineage(merged),
        scratch=job.aside,
        threads=job.runtime.num_threads,
        progress=job.progress,
    )
    held = inspect(file, config.type)
    _report(job, held, config.type)
    metrics: dict[str, Any] = {"bits_per_weight": held.bits_per_weight, "fallback_tensors": len(held.fallbacks)}
    proof = parity.prove(file, merged.payload, shape, threads=job.runtime.num_threads, interpreters=job.runtime.python.values())
    parity.write(proof, job.payload / parity.FILE)
    _tell(job, proof, file.name)
    metrics["engines_agree"] = len(proof.here)
    if (tried := proof.engines["llama.cpp"]).absent is None:
        metrics["verified_token_ids"] = tried.ids
    made = {"file": file.name, "type": config.type, "bytes": file.stat().st_size, "tensor_types": held.types}
    return Result(facts={**merged.facts, **made}, metrics=metrics)


def convert(
    model_dir: Path,
    out_file: Path,
    type: str,
    *,
    chat_format: ChatFormat | None = None,
    name: str | None = None,
    licence: str | None = None,
    lineage: Mapping[str, str] | None = None,
    scratch: Path | None = None,
    threads: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write `model_dir`, a Qwen2 or Llama checkpoint in the Hugging Face layout, as a GGUF of any GgufType.

    `chat_format`, `name`, `licence` and `lineage` are `gguf_writer.write`'s. `scratch` (else the folder of `out_file`) holds a
    K-quant's intermediate file, 2 or 4 bytes a weight; `threads` are the quantizer's (None: all cores). Raises BadInput for an
    unknown type, a model that the writer refuses and a K-quant without a quantizer; Gwen25Error where the quantizer fails.
    """
    if type not in (*gguf_writer.WRITTEN_TYPES, *llamacpp.K_QUANTS):
        raise unknown("gguf type", type, (*gguf_writer.WRITTEN_TYPES, *llamacpp.K_QUANTS))
    if not out_file.parent.is_dir():
        raise BadInput(f"{out_file.parent} is not a directory; make it first")
    labels: dict[str, Any] = {"chat_format": chat_format, "name": name, "licence": licence, "lineage": lineage, "progress": progress}
    if type in gguf_writer.WRITTEN_TYPES:
        gguf_writer.write(model_dir, out_file, type, **labels)
        return
    if llamacpp.quantizer() is None:  # before the intermediate file is written
        raise llamacpp.no_quantizer(type)
    plain = (scratch or out_file.parent) / f".{out_file.stem}-plain.gguf"
    try:
        gguf_writer.write(model_dir, plain, gguf_writer.source_type(model_dir), **labels)
        with gguf_writer.whole(out_file) as part:
            llamacpp.quantize(plain, part, type, threads)
    finally:
        plain.unlink(missing_ok=True)


def _name(base_model: Mapping[str, Any]) -> str:
    """general.name: the hub's short name where the base has one, never a path of this machine."""
    short = str(base_model.get("id", "")).rpartition("/")[2]
    return f"{short} gwen25" if short else "gwen25"


def _lineage(merged: Input) -> dict[str, str]:
    """What the file was made of, as gwen25.* keys: base and revision, the digests of adapter and merged model, the chat format."""
    base, format = merged.facts["base_model"], merged.facts["chat_format"]
    told = {
        "base_model": models.name_of(base),
        "base_revision": base.get("revision"),
        "adapter": merged.facts.get("adapter_digest"),
        "merged": merged.digest,
        "chat_format": f"{format['name']} {format['digest']}",
    }
    return {key: str(value) for key, value in told.items() if value is not None}


# -------------------------------------------------------------------------------------------------- what came out, read back


@dataclass(frozen=True, slots=True)
class Held:
    """A GGUF's tensors by type, and the matrices whose rows the file's type does not divide, with the type they got instead."""

    types: dict[str, int]
    fallbacks: dict[str, str]
    bits_per_weight: float


def inspect(file: Path, type: str) -> Held:
    """Read the tensors' types back from a GGUF of `type`. K-quants come in blocks of 256 weights of a row, q8_0 in blocks of 32."""
    block = 256 if type in llamacpp.K_QUANTS else 32 if type == "q8_0" else 1
    tensors = read_header(file).tensors
    kinds = Counter(tensor.type for tensor in tensors)
    fallbacks = {tensor.name: tensor.type for tensor in tensors if len(tensor.shape) > 1 and tensor.shape[0] % block}
    bits = 8 * sum(tensor.bytes for tensor in tensors) / sum(tensor.elements for tensor in tensors)
    return Held(dict(sorted(kinds.items())), fallbacks, round(bits, 3))


def _report(job: Job, held: Held, type: str) -> None:
    matrices = sum(held.types.values()) - held.types.get("F32", 0)
    if held.fallbacks:
        types = ", ".join(f"{count} in {kind}" for kind, count in sorted(Counter(held.fallbacks.values()).items()))
        job.warn(f"{len(held.fallbacks)} of {matrices} matrices have rows that {type} does not divide and are stored otherwise: {types}")
    write_json(job.aside / "tensors.json", {"types": held.types, "fallbacks": held.fallbacks, "bits_per_weight": held.bits_per_weight})


def _tell(job: Job, proof: Proof, name: str) -> None:
    job.say(f"{name}: prompts, token ids and stop tokens agree in {', '.join(proof.here)}")
    for engine, seen in proof.engines.items():
        if seen.absent is not None:
            (job.warn if engine == "llama.cpp" else job.say)(f"not tried in {engine}: {seen.absent}")


if __name__ == "__main__":
    main(run)
