"""The summands of a peak: what one of them is, and the arithmetic of those that several nodes share.

    weights(shape, "bfloat16")          Term(name="weights", bytes=6171877376, how="3,085,938,688 parameters x 2 bytes")
    layer(shape, 32, "float32", 1024)   bytes that autograd keeps of 1,024 tokens in one layer

The activations are what autograd saves of transformers' Qwen2 under PEFT, counted tensor by tensor; the tests hold them against
autograd's own count, on a CPU in float32 and under bfloat16 autocast. PROCESS was measured on a CPU; nothing was measured on a GPU.

Not here: which of them lie in memory together (`memory`). Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gwen25.config import Config
from gwen25.models import Shape

SIZE: Final = {"bfloat16": 2, "float16": 2, "float32": 4}  # bytes of a number
NF4: Final = 0.516  # bytes of a 4-bit weight: 4 bits, and 0.127 for scales that are quantized too (QLoRA, arXiv:2305.14314, section 3)
# bytes of a trained number's two moments; those of 8 bits have a scale for 256 of them
ADAM: Final = {"adamw_torch": 8.0, "adamw_8bit": 2.03, "paged_adamw_8bit": 2.03}
GGUF: Final = {"f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 1.07}  # bytes of a weight
K_QUANT: Final = 0.9  # bytes of a weight at most, and 2 of the file it is made from while it is made
FLOAT: Final = 4  # bytes of a LoRA weight and of its gradient: `training.widen` keeps them in float32
TILE_TOKENS: Final = 4096  # TRL's chunked log-probabilities: TOKEN_CHUNK_SIZE and _CHUNKED_LOGPROB_CHUNK_SIZE of TRL 1.16
TILE_WORDS: Final = 32768
CPU_TILES: Final = 8.25  # tiles alive at once in TRL's backward pass without Triton; the eighth and a quarter is a mask
PAGE: Final = 4096

# Resident bytes of a stage's interpreter and libraries beside the model, on a CPU (smoke profile, the tested versions).
PROCESS: Final = {
    "dataset": 0.047e9,
    "sft": 0.60e9,
    "grpo": 0.60e9,
    "adapters": 0.28e9,
    "merge": 0.45e9,
    "gguf": 0.08e9,
    "score": 0.50e9,
    "ollama": 0.052e9,
    "evaluate": 0.44e9,
}
CONTEXT: Final = 0.8e9  # CUDA context, kernels and cuBLAS workspaces in a process: assumed


@dataclass(frozen=True, slots=True)
class Term:
    """One summand; `how` says what it is made of."""

    name: str
    bytes: float
    how: str = ""


@dataclass(frozen=True, slots=True)
class Phase:
    """What lies in memory at one time of a node's work."""

    name: str
    terms: tuple[Term, ...]

    @property
    def bytes(self) -> float:
        return sum(term.bytes for term in self.terms)


def on_gpu(config: Config) -> bool:
    return config.runtime.device == "cuda"


def weights(shape: Shape, dtype: str, load_in_4bit: bool = False) -> Term:
    size, count = SIZE[dtype], shape.parameters
    if not load_in_4bit:
        return Term("weights", count * size, f"{count:,} parameters x {size} bytes")
    rest = count - shape.linear
    return Term("weights", shape.linear * NF4 + rest * size, f"{shape.linear:,} in 4 bits with their scales, {rest:,} x {size} bytes")


def layer(shape: Shape, rank: int, dtype: str, tokens: int, *, masked: int = 0, packed: bool = False) -> float:
    """Bytes that autograd saves in one layer of a LoRA model with fused attention.

    `masked`: tokens of a padded row, 0 where no row is padded; a mask makes each layer save one of its own, in full, and
    spreads keys and values over all heads. `packed`: in float32 what each row attended to is kept once more, beside the others'.
    """
    hidden, inner, queries, keys = shape.hidden_size, shape.intermediate_size, shape.hidden_size, shape.kv_size
    attended = 2 * queries + 2 * (queries if masked else keys) + masked
    statistics = FLOAT * (2 + shape.num_attention_heads)  # of two norms, and of each head's softmax
    if dtype == "float32":
        return tokens * (FLOAT * (4 * hidden + attended + packed * queries + 4 * inner + 7 * rank) + statistics)
    # 16 bits under autocast: the two norms save float32, each LoRA input is cast anew, and so are the LoRA weights
    of_token = 2 * (6 * hidden + attended + 4 * inner + 7 * rank) + 2 * FLOAT * hidden + statistics
    return tokens * of_token + 2 * shape.lora(rank) / shape.num_hidden_layers


def dora(shape: Shape, rank: int, dtype: str, tokens: int) -> float:
    """Bytes that autograd saves in one layer beside `layer`'s where PEFT 0.21 trains DoRA.

    Each projection's output twice; and, to know the norms of its rows, PEFT sends an identity matrix as wide as its input through A.
    """
    ins, outs = ([side[at] for side in shape.projections] for at in (0, 1))
    identity = sum(width**2 + rank * width for width in ins)
    return SIZE[dtype] * (2 * tokens * sum(outs) + identity) + 3 * FLOAT * sum(outs)


def adapter_terms(shape: Shape, rank: int, optim: str, world: int, copies: int = 1) -> list[Term]:
    count = shape.lora(rank)
    how = f"{count:,} numbers of rank {rank} x {FLOAT} bytes" + (", and the frozen copy that the KL holds on to" if copies > 1 else "")
    return [
        Term("adapter", count * FLOAT * copies, how),
        Term(
            "gradients", count * FLOAT * (2 if world > 1 else 1), f"{count:,} x {FLOAT} bytes" + (", and in buckets" if world > 1 else "")
        ),
        Term("optimiser", count * ADAM[optim], f"{count:,} x {ADAM[optim]:g} bytes ({optim})"),
    ]


def logits(shape: Shape, scored: int, tokens: int, dtype: str, gpu: bool) -> Term:
    """TRL's log-probabilities in tiles. On a GPU only scored tokens are projected, elsewhere all."""
    rows, words = min(tokens if not gpu else scored, TILE_TOKENS), min(shape.vocab_size, TILE_WORDS)
    full = scored * shape.vocab_size * FLOAT
    how = f"tiles of {rows:,} tokens x {words:,} words; all {scored:,} x {shape.vocab_size:,} at once would take {full / 1e9:.3g} GB a copy"
    if gpu:
        tile = rows * TILE_WORDS * SIZE[dtype]
        return Term("logits", tile + scored * shape.hidden_size * (FLOAT + SIZE[dtype]), how)
    strided = 0 if words == TILE_WORDS else rows * PAGE  # a small vocabulary's tile has rows a page apart
    return Term("logits", CPU_TILES * rows * words * FLOAT + strided, how)


def process(config: Config, stage: str) -> Term:
    if on_gpu(config):
        return Term("process", CONTEXT, "CUDA context and workspaces (assumed)")
    return Term("process", PROCESS[stage], "Python and its libraries (measured)")
