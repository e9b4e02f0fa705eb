"""GGUF: a merged checkpoint -> one file that llama.cpp and Ollama load.

    python -m gwen25.pipelines.gguf WORK_DIR
    convert(Path("merged"), Path("model.gguf"), "q4_k_m")

f32, f16, bf16 and q8_0 are written straight from the safetensors (`gguf_writer`); K-quants are made by llama.cpp's quantizer
from a file in the checkpoint's own dtype: bf16 has a wider range than f16 and f16 a finer step than bf16, so only the same
dtype hands the quantizer the weights that were trained. The intermediate file lies in `aside` and is deleted.

The file is then loaded in llama.cpp, where xllamacpp is installed: the ids of a text full of traps, the rendered prompt and
a forward pass must agree with the checkpoint's own tokenizer and chat format.

Not here: other architectures than Qwen2, importance matrices, the Modelfile (`pipelines.ollama`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gwen25 import gguf_writer, llamacpp, modeling
from gwen25.chat import ChatFormat
from gwen25.config import GgufConfig
from gwen25.data import Message
from gwen25.errors import BadInput, Gwen25Error, unknown
from gwen25.gguf_header import read_header
from gwen25.job import Job, Result, main, write_json


def run(job: Job) -> Result:
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
        scratch=job.aside,
        threads=job.runtime.num_threads,
        progress=job.progress,
    )
    held = inspect(file, config.type)
    _report(job, held, config.type)
    metrics: dict[str, Any] = {"bits_per_weight": held.bits_per_weight, "fallback_tensors": len(held.fallbacks)}
    if llamacpp.can_load():
        metrics["verified_token_ids"] = verify(file, merged.payload, shape, job.runtime.num_threads)
        job.say(f"llama.cpp loads {file.name}: token ids, prompt and a forward pass agree with the checkpoint")
    else:
        job.warn("not tried in llama.cpp: xllamacpp is not installed (pip install 'gwen25[llamacpp]')")
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
    scratch: Path | None = None,
    threads: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write `model_dir`, a Qwen2 checkpoint in the Hugging Face layout, as a GGUF of any GgufType.

    `scratch` (else the folder of `out_file`) holds a K-quant's intermediate file, 2 or 4 bytes a weight; `threads` are the
    quantizer's (None: all cores). Raises BadInput for an unknown type, a model that is not Qwen2's and a K-quant without a
    quantizer; Gwen25Error where the quantizer fails.
    """
    if type not in (*gguf_writer.WRITTEN_TYPES, *llamacpp.K_QUANTS):
        raise unknown("gguf type", type, (*gguf_writer.WRITTEN_TYPES, *llamacpp.K_QUANTS))
    if not out_file.parent.is_dir():
        raise BadInput(f"{out_file.parent} is not a directory; make it first")
    if type in gguf_writer.WRITTEN_TYPES:
        gguf_writer.write(model_dir, out_file, type, chat_format=chat_format, name=name, licence=licence, progress=progress)
        return
    if llamacpp.quantizer() is None:  # before the intermediate file is written
        raise llamacpp.no_quantizer(type)
    plain = (scratch or out_file.parent) / f".{out_file.stem}-plain.gguf"
    part = out_file.with_name(f".{out_file.name}.part")
    try:
        exact = gguf_writer.source_type(model_dir)
        gguf_writer.write(model_dir, plain, exact, chat_format=chat_format, name=name, licence=licence, progress=progress)
        llamacpp.quantize(plain, part, type, threads)
        part.replace(out_file)
    finally:
        plain.unlink(missing_ok=True)
        part.unlink(missing_ok=True)


def _name(base_model: Mapping[str, Any]) -> str:
    """general.name: the hub's short name where the base has one, never a path of this machine."""
    short = str(base_model.get("id", "")).rpartition("/")[2]
    return f"{short} gwen25" if short else "gwen25"


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


# Specials, tags that merge with newlines, digits, contractions, CJK, emoji, blanks of every kind; composed, because Qwen's own
# tokenizer composes (NFC) and llama.cpp does not.
TRAPS: Final = (
    "<|im_start|>user\n<think>\n</think>\n\n```python\nx = 1234.5  # it's\n```<|im_end|>\r\n\t求和 é 한 👍🏽 \u3000\u00a0 \n\n <tool_call>"
)
_ASKED: Final[tuple[Message, ...]] = (
    {"role": "system", "content": "You are terse."},
    {"role": "user", "content": "Print 1."},
    {"role": "assistant", "content": "<think>\nHm.\n</think>\n\nprint(1)"},
    {"role": "user", "content": "Print 2.\n"},
)


def verify(file: Path, model_dir: Path, shape: ChatFormat, threads: int | None = None) -> int:
    """Load the GGUF in llama.cpp and hold it against the checkpoint; returns how many token ids were compared.

    Raises Gwen25Error where it does not load, tokenizes or renders otherwise, or cannot take a forward pass.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
    prompt = shape.render(_ASKED)
    compared = 0
    with llamacpp.LlamaCpp(file, n_ctx=512, threads=threads) as model:
        if model.render(_ASKED) != prompt:
            raise Gwen25Error(f"{file.name}: llama.cpp renders another prompt than the chat format {shape.name}: {model.render(_ASKED)!r}")
        for text in (TRAPS, prompt, shape.answer("Hm.", "print(2)")):
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            if (theirs := model.tokenize(text)) != ids:
                at = next((n for n, pair in enumerate(zip(ids, theirs, strict=False)) if pair[0] != pair[1]), min(len(ids), len(theirs)))
                raise Gwen25Error(f"{file.name}: llama.cpp tokenizes otherwise than the checkpoint, from id {at} of {text!r}")
            compared += len(ids)
        model.complete(tokenizer.encode(prompt, add_special_tokens=False).ids, n_predict=1)
    return compared


if __name__ == "__main__":
    main(run)
