"""Peak memory of each node: which terms lie in memory together, at the moments that can be the largest.

    for phase in sft(config, shape): print(phase.name, phase.bytes, phase.terms)

A node's peak is its largest phase. A launcher's processes hold all of this each, on a device of their own: gwen25 shards
nothing. What a CPU stage takes beside its tensors (HEAP) was measured on small models; what a GPU does was not measured.

Not here: the terms' own arithmetic (`terms`), what to do about a peak (`fit`). Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gwen25 import llamacpp
from gwen25.config import Config, GrpoConfig, SftConfig
from gwen25.estimate.terms import (
    ADAM,
    FLOAT,
    GGUF,
    K_QUANT,
    PROCESS,
    SIZE,
    Phase,
    Term,
    adapter_terms,
    dora,
    layer,
    logits,
    on_gpu,
    process,
    weights,
)
from gwen25.models import Shape

ANSWER_PROMPT: Final = 2048  # tokens of an evaluation prompt: the longest of 479 LiveCodeBench problems has 1,742, the frame 150
# The longest packaged row, prompt of a row, and problem with its frame, in tokens of the packaged tokenizer.
SAMPLE_ROW, SAMPLE_PROMPT, SAMPLE_PROBLEM = 454, 217, 302
CHAT_TOKENS: Final = 2  # <|im_start|> and <|im_end|>: `token_rows.chat_tokens`
HUB: Final = 0.35e9  # the `datasets` library and a shuffle buffer of a thousand rows, where the rows come from the hub: not measured
# Beside what autograd holds, malloc keeps freed blocks below 32 MB, which do not fit the next tensor. Measured on two shapes.
HEAP: Final = 0.8  # of the activations held at once
HEAP_LAYER: Final = 4.8  # tensors of a layer's inner size that each checkpointed layer leaves unusable
WORD: Final = {
    "dataset": 700,
    "adapters": 2200,
    "evaluate": 2200,
    "gguf": 1800,
    "score": 2200,
    "ollama": 200,
}  # bytes of a word, as tokenizer, or in a GGUF's header
UNFUSED: Final = 16  # bytes of a score in unfused attention, forward (9.6 were measured by others on fp16) and backward: assumed
KEPT_BACK: Final = 0.1  # of what grows and is copied (the KV cache): blocks of the allocator that no longer fit: assumed
CHECKED: Final = 150  # tokens of a prompt on which a merge is checked


def processes(config: Config, stage: str) -> int:
    """How many processes a stage's launcher starts, as far as its words say; 1 without one."""
    words = " ".join(config.runtime.launcher.get(stage, ()))  # type: ignore[call-overload]
    found = re.search(r"--(?:nproc[-_]per[-_]node|num[-_]processes)[= ](\d+)", words)
    return int(found.group(1)) if found else 1


def micro_batch(section: SftConfig | GrpoConfig, world: int) -> int:
    """Rows of a micro-batch of one process, divided as `training.split` does."""
    share = max(1, section.per_device_train_batch_size * section.gradient_accumulation_steps // world)
    largest = min(share, section.per_device_train_batch_size)
    return next(rows for rows in range(largest, 0, -1) if share % rows == 0)


# ---------------------------------------------------------------------------------------------------------------- training


@dataclass(frozen=True, slots=True)
class _Step:
    """One micro-batch: `rows` of `length` tokens, of which `scored` bear loss; `padded`: rows of unequal length have a mask.

    `longest`: tokens of its longest row, where packed sequences are the `rows`; 0 where nothing is packed.
    """

    rows: int
    length: int
    scored: int
    padded: bool
    longest: int = 0

    @property
    def tokens(self) -> int:
        return self.rows * self.length


def surely(config: Config) -> Config:
    """With the smallest micro-batch that a packed run of this config may have: one sequence.

    `sft` counts as many sequences as a micro-batch has rows, which is the most: how many rows share a sequence, only the rows tell.
    """
    section = config.sft
    if not section.packing:
        return config
    rows = section.per_device_train_batch_size * section.gradient_accumulation_steps
    one = section.model_copy(update={"per_device_train_batch_size": 1, "gradient_accumulation_steps": rows})
    return config.model_copy(update={"sft": one})


def sft(config: Config, shape: Shape) -> tuple[Phase, ...]:
    section, world = config.sft, processes(config, "sft")
    rows, length = micro_batch(section, world), min(config.dataset.max_length, section.max_length)
    if config.dataset.source == "samples":
        length = min(length, SAMPLE_ROW)
    longest = length if section.packing else 0
    length = section.max_length if section.packing else length  # sequences are filled up to it, however short the rows
    base = weights(shape, section.dtype, section.load_in_4bit)
    held = [process(config, "sft"), base, *adapter_terms(shape, section.lora_r, section.optim, world), *_rows(config, shape, section.optim)]
    return _training(config, shape, section, held, _Step(rows, length, rows * length, rows > 1 and not longest, longest))


def grpo(config: Config, shape: Shape) -> tuple[Phase, ...]:
    section, world = config.grpo, processes(config, "grpo")
    rows, prompt = micro_batch(section, world), min(config.dataset.max_prompt_length, config.dataset.max_length)
    if config.dataset.source == "samples":
        prompt = min(prompt, SAMPLE_PROMPT)
    sampled = section.per_device_train_batch_size * section.gradient_accumulation_steps // world
    copies = 2 if section.beta > 0 else 1
    trained = [*adapter_terms(shape, config.sft.lora_r, section.optim, world, copies), *_rows(config, shape, section.optim, copies)]
    held = [process(config, "grpo"), weights(shape, section.dtype, section.load_in_4bit), *trained]
    answer = section.max_completion_length
    if section.vllm == "off":
        none = Term("second copy", 0.0, "none: Transformers samples with the weights above; grpo.vllm=colocate would hold its own")
        sampler = [*held, *_head(config, shape, section.dtype, trained=False), none]
        sampling = _sampling(shape, sampler, sampled, prompt, answer, section.dtype, sorts=section.top_p < 1)
    else:
        there = _vllm(config, shape, sampled, prompt + answer)
        sampling = (Phase(f"sampling {sampled} answers", (*held, *there)),)
        held += [] if section.vllm_enable_sleep_mode or section.vllm == "server" else there
    return *sampling, *_training(config, shape, section, held, _Step(rows, prompt + answer, rows * answer, padded=True))


def _rows(config: Config, shape: Shape, optim: str, copies: int = 1) -> list[Term]:
    """The embedding rows of sft.trainable_chat_tokens: small themselves. What they cost is `_head`, at each use of the matrix."""
    if not config.sft.trainable_chat_tokens:
        return []
    matrices = 1 if shape.tie_word_embeddings else 2
    count = CHAT_TOKENS * matrices * shape.hidden_size
    where = "the embedding, which is the head too" if matrices == 1 else "embedding and head"
    how = f"{CHAT_TOKENS} rows of {where}: {count:,} numbers, as they were, as they are, gradients and optimiser"
    return [Term("token rows", count * (2 * FLOAT * copies + FLOAT + ADAM[optim]), how)]


def _head(config: Config, shape: Shape, dtype: str, *, trained: bool) -> list[Term]:
    """PEFT puts trained rows into a copy of the whole matrix wherever it is used, and the loss makes a gradient of all of it."""
    if not config.sft.trainable_chat_tokens:
        return []
    count = shape.embedding
    copied = Term("copied head", float(count * SIZE[dtype]), f"{count:,} x {SIZE[dtype]} bytes: the head with its trained rows in place")
    gradient = Term("head's gradient", float(count * FLOAT), f"{count:,} x {FLOAT} bytes, of which {CHAT_TOKENS} rows are kept")
    return [copied, gradient] if trained else [copied]


def _training(config: Config, shape: Shape, section: SftConfig | GrpoConfig, held: Sequence[Term], step: _Step) -> tuple[Phase, ...]:
    """The two moments that can be the largest: the loss, above all kept activations, and the backward pass of one layer."""
    gpu, size, layers = on_gpu(config), SIZE[section.dtype], shape.num_hidden_layers
    masked = step.length if step.padded else 0
    rank = config.sft.lora_r
    one = layer(shape, rank, section.dtype, step.tokens, masked=masked, packed=step.longest > 0) + step.tokens * _eager(
        shape, section, step
    )
    one += dora(shape, rank, section.dtype, step.tokens) if config.sft.use_dora else 0
    every, boundary = layers * one, layers * step.tokens * shape.hidden_size * size
    kept = Term("activations", every, f"{layers} layers x {step.tokens:,} tokens; {_gb(boundary)} with gradient_checkpointing")
    work = [Term("gradients of a layer", step.tokens * size * 4 * (shape.intermediate_size + shape.hidden_size), "on their way back")]
    if section.gradient_checkpointing:
        kept = Term("activations", boundary, f"inputs of {layers} layers x {step.tokens:,} tokens; {_gb(every)} without checkpointing")
        work.append(Term("one layer", one, "its activations, made again"))
    work += _scores(shape, section, step)
    scoring = [logits(shape, step.scored, step.tokens, section.dtype, gpu), *_head(config, shape, section.dtype, trained=True)]
    if gpu:
        return Phase("loss", (*held, kept, *scoring)), Phase("backward pass", (*held, kept, *work))
    return (Phase("loss", (*held, kept, *scoring, _heap(shape, section, kept, one, step))),)


def _gb(count: float) -> str:
    return f"{count / 1e9:.3g} GB"


def _eager(shape: Shape, section: SftConfig | GrpoConfig, step: _Step) -> float:
    """Scores that unfused attention saves for one token: softmax in float32 and its cast, for each head. Packed, over the whole batch."""
    attended = step.tokens if step.longest else step.length
    return shape.num_attention_heads * attended * (FLOAT + SIZE[section.dtype]) if section.attn_implementation == "eager" else 0.0


def _scores(shape: Shape, section: SftConfig | GrpoConfig, step: _Step) -> list[Term]:
    """A row without padding keeps its grouped heads, which without flash attention no fused kernel of torch 2.13 takes.

    float16 is what one chooses below compute capability 8.0, where there is no flash attention (transformers issue 48633).
    """
    grouped = shape.num_key_value_heads < shape.num_attention_heads
    if section.dtype != "float16" or (step.rows > 1 and not step.longest) or section.attn_implementation != "sdpa" or not grouped:
        return []
    alone = step.longest or step.length  # packed rows are attended one after the other
    scores = shape.num_attention_heads * alone**2
    return [Term("attention scores", scores * UNFUSED, f"{shape.num_attention_heads} heads x {alone:,}^2 x {UNFUSED} bytes (assumed)")]


def _heap(shape: Shape, section: SftConfig | GrpoConfig, kept: Term, one: float, step: _Step) -> Term:
    if not section.gradient_checkpointing:
        return Term("heap", HEAP * kept.bytes, f"{HEAP:g} x activations: freed blocks that malloc keeps (measured)")
    torn = HEAP_LAYER * shape.num_hidden_layers * step.tokens * shape.intermediate_size * SIZE[section.dtype]
    return Term("heap", HEAP * kept.bytes + (1 + HEAP) * one + torn, "one layer made again, and freed blocks that malloc keeps (measured)")


# ---------------------------------------------------------------------------------------------------------------- sampling


def cache_bytes(shape: Shape, dtype: str) -> int:
    """Keys and values of one token in all layers."""
    return 2 * shape.num_hidden_layers * shape.kv_size * SIZE[dtype]


def _sampling(shape: Shape, held: Sequence[Term], rows: int, prompt: int, answer: int, dtype: str, *, sorts: bool) -> tuple[Phase, ...]:
    """Prompts are read all at once, then each answer grows by a token a step, as long as the longest."""
    size, tokens = SIZE[dtype], rows * prompt
    read = Term(
        "reading", tokens * size * (3 * shape.intermediate_size + 6 * shape.hidden_size), f"one layer's tensors of {tokens:,} tokens"
    )
    first = Term("KV cache", tokens * cache_bytes(shape, dtype), f"{tokens:,} tokens x {cache_bytes(shape, dtype):,} bytes")
    length = prompt + answer
    grown = rows * length * cache_bytes(shape, dtype)
    last = Term("KV cache", grown, f"{rows} x {length:,} tokens x {cache_bytes(shape, dtype):,} bytes")
    moved = Term("cache moved", KEPT_BACK * grown, f"{KEPT_BACK:.0%} of it: it is copied as it grows (assumed)")
    chosen = Term("next tokens", rows * shape.vocab_size * FLOAT * (7 if sorts else 4), f"{rows} x {shape.vocab_size:,} scores, in copies")
    return Phase(f"reading {rows} prompts", (*held, read, first)), Phase(f"sampling {rows} answers", (*held, last, moved, chosen))


def _vllm(config: Config, shape: Shape, rows: int, length: int) -> list[Term]:
    """vLLM beside the trainer: its own copy of the weights, and the rest of its share of the GPU for keys and values.

    Where the GPU's size is not known, the cache is what all answers take at once; vLLM makes answers wait where it is less.
    """
    section, one = config.grpo, cache_bytes(shape, config.grpo.dtype)
    if section.vllm == "server":
        return [Term("second copy", 0.0, f"none here: it is the server's, {section.vllm_server_base_url}")]
    copy, wanted = weights(shape, section.dtype).bytes, float(rows * length * one)
    second = Term("second copy", copy, f"vLLM's own weights, {shape.parameters:,} x {SIZE[section.dtype]} bytes")
    all_at_once = f"{rows} answers of {length:,} tokens x {one:,} bytes are {_gb(wanted)}"
    if config.runtime.gpu_memory_gib is None:
        return [second, Term("KV cache", wanted, f"{all_at_once}; vLLM takes its whole share of the GPU, which is not known here")]
    share = section.vllm_gpu_memory_utilization * config.runtime.gpu_memory_gib * 2**30
    how = f"{section.vllm_gpu_memory_utilization:g} of {config.runtime.gpu_memory_gib:g} GiB less the copy; {all_at_once}"
    asleep = "; both are given back in training" if section.vllm_enable_sleep_mode else "; both stay in training"
    return [second, Term("KV cache", max(0.0, share - copy), how + asleep)]


def evaluate(config: Config, shape: Shape) -> tuple[Phase, ...]:
    section = config.evaluate
    held = [process(config, "evaluate"), weights(shape, section.dtype), *([] if on_gpu(config) else [_words(shape, "evaluate")])]
    prompt = SAMPLE_PROBLEM if section.problems == "samples" else ANSWER_PROMPT
    return _sampling(shape, held, section.batch_size, prompt, section.max_tokens, section.dtype, sorts=section.top_p < 1)


# ------------------------------------------------------------------------------------------------------------ the other nodes


def merge(config: Config, shape: Shape) -> tuple[Phase, ...]:
    """The check loads base and merged model in float32, one after the other, and compares what they said when both are gone."""
    each = CHECKED * shape.vocab_size * FLOAT
    held = (process(config, "merge"), weights(shape, "float32"), Term("adapter", shape.lora(config.sft.lora_r) * FLOAT))
    if on_gpu(config):
        return (Phase("check in float32", (*held, Term("logits", 2.0 * each, f"{CHECKED} x {shape.vocab_size:,}, in two copies"))),)
    how = f"{config.merge.check_prompts} x {CHECKED} x {shape.vocab_size:,}, of three models"
    kept = Term("logits", 3.0 * each * config.merge.check_prompts, how)
    exact = Term("in float64", kept.bytes * 8 / 3, "four copies of twice the size")
    return Phase("check in float32", (*held, kept)), Phase("comparison", (held[0], kept, exact))


def dataset(config: Config, shape: Shape) -> tuple[Phase, ...]:
    far = not config.dataset.source.endswith((".jsonl", ".jsonl.gz")) and config.dataset.source != "samples"
    rows = Term("rows", HUB if far else 0.0, "the hub's stream and its shuffle buffer (assumed)" if far else "64 at a time")
    return (Phase("rows", (_host("dataset"), _words(shape, "dataset"), rows)),)


def adapters(config: Config, shape: Shape) -> tuple[Phase, ...]:
    read = Term("adapter", 2.0 * FLOAT * shape.lora(config.sft.lora_r), "read and written")
    return (Phase("files", (_host("adapters"), _words(shape, "adapters"), read)),)


def gguf(config: Config, shape: Shape) -> tuple[Phase, ...]:
    """The writer holds a piece at a time; llama.cpp, which then tries the file, maps all of it where it is installed."""
    size = shape.parameters * GGUF.get(config.gguf.type, K_QUANT)
    mapped = Term("GGUF", size if llamacpp.can_load() else 0.0, "mapped by llama.cpp, which can be dropped from memory at any time")
    return (Phase("trial in llama.cpp", (_host("gguf"), _words(shape, "gguf"), mapped)),)


def score(config: Config, shape: Shape) -> tuple[Phase, ...]:
    """The merged model answers in Transformers and is freed; then llama.cpp maps the file, in the host's memory."""
    section = config.score
    held = [process(config, "score"), weights(shape, section.dtype), *([] if on_gpu(config) else [_words(shape, "score")])]
    prompt = SAMPLE_PROBLEM if config.evaluate.problems == "samples" else ANSWER_PROMPT
    sampled = _sampling(shape, held, section.batch_size, prompt, section.max_tokens, section.dtype, sorts=False)
    if on_gpu(config):
        return sampled
    size = shape.parameters * GGUF.get(config.gguf.type, K_QUANT)
    return *sampled, Phase("llama.cpp", (held[0], held[2], Term("GGUF", size, "mapped")))


def ollama(config: Config, shape: Shape) -> tuple[Phase, ...]:
    return (Phase("files", (_host("ollama"), _words(shape, "ollama"))),)


def _host(stage: str) -> Term:
    return Term("process", PROCESS[stage], "Python and its libraries (measured)")


def _words(shape: Shape, stage: str) -> Term:
    return Term("tokenizer", float(WORD[stage] * shape.vocab_size), f"{shape.vocab_size:,} words x {WORD[stage]:,} bytes (measured)")
