"""Whoever can be scored: a model or an adapter in Transformers, a GGUF in llama.cpp, a name at an Ollama server.

    with opened(model, settings) as form:
        form.answer(questions, max_tokens)      greedy, one each
        form.next(text, top)                    the distribution at each of the text's last positions; None: the form does not tell

Transformers and llama.cpp are given the same token ids; Ollama is given messages and renders them itself. Not here: which form a name
means (`references`), what is made of the answers (`measure`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from gwen25 import llamacpp, modeling, ollama_api
from gwen25.chat import THINK_CLOSE
from gwen25.data import Message
from gwen25.generate import plan
from gwen25.gguf_header import read_header
from gwen25.references import Model
from gwen25.scoring.divergence import Next
from gwen25.slices import in_slices


class Question(NamedTuple):
    """A prompt, as messages and as the token ids of the chat format's rendering."""

    messages: Sequence[Message]
    ids: list[int]


class Answer(NamedTuple):
    """`ids` with the end token, where there is one; [] where the form does not tell them. `truncated`: by the limit."""

    ids: list[int]
    text: str
    truncated: bool


class Text(NamedTuple):
    """Token ids of which the last `positions` are to be foretold, each from all before it."""

    ids: list[int]
    positions: int


@dataclass
class Pace:
    """Tokens and seconds so far. None a second where nothing was measured."""

    tokens: int = 0
    seconds: float = 0.0

    def add(self, tokens: int, seconds: float) -> None:
        self.tokens += tokens
        self.seconds += seconds

    @property
    def rate(self) -> float | None:
        return self.tokens / self.seconds if self.seconds > 0 and self.tokens else None


Progress = Callable[[int, int], None]


class Form(Protocol):
    """`prompts` and `generated`: how fast it read and wrote, over all that `answer` did. `at_once`: sequences in one batch.

    `vocabulary`: how many tokens it knows, padding included; None where it does not tell.
    """

    kind: str
    at_once: int
    prompts: Pace
    generated: Pace

    @property
    def name(self) -> str: ...

    @property
    def vocabulary(self) -> int | None: ...

    def answer(self, questions: Sequence[Question], max_tokens: int, progress: Progress) -> list[Answer]: ...

    def next(self, text: Text, top: int) -> list[Next] | None: ...

    def size(self) -> tuple[int | None, float | None]:
        """Bytes, and bits a weight where they are known."""
        ...


@dataclass(frozen=True, slots=True)
class Settings:
    """How forms are run here. `context` bounds prompt and answer in llama.cpp, in tokens; `batch_size` is Transformers', of which
    `at_once` are in memory together (see `slices`; None: all)."""

    dtype: str = "float32"
    device: str = "cpu"
    batch_size: int = 8
    threads: int | None = None
    context: int = 4096
    at_once: int | None = None


@contextmanager
def opened(model: Model, settings: Settings) -> Iterator[Form]:
    """Load one form; leaving frees its memory."""
    if model.kind == "ollama":
        yield Served(model)
    elif model.kind == "gguf":
        with llamacpp.LlamaCpp(Path(model.path), n_ctx=settings.context, threads=settings.threads, quiet=True) as loaded:
            yield Gguf(model, loaded)
    else:
        local = Local(model, settings)
        try:
            yield local
        finally:
            local.close()


def ended(ids: Sequence[int], stop: Sequence[int]) -> tuple[list[int], bool]:
    """The ids up to their first end token, and whether there was none."""
    end = next((at for at, token in enumerate(ids) if token in stop), None)
    return (list(ids), True) if end is None else (list(ids[: end + 1]), False)


class Local:
    """A model directory, or base + adapter, run by Transformers. Raises what `modeling` raises for what is no such thing."""

    kind = "transformers"

    def __init__(self, model: Model, settings: Settings):
        import torch

        directory = model.base or Path(model.path)
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        self.name, self._path, self._settings, self._format = model.name, Path(model.path), settings, model.format
        self.at_once, self.prompts, self.generated = min(settings.batch_size, settings.at_once or settings.batch_size), Pace(), Pace()
        self._tokenizer = modeling.load_tokenizer(directory, model.format)
        self._stop = modeling.stop_ids(self._tokenizer, model.format)
        loaded: Any = modeling.load_base(directory, self._tokenizer, model.format, dtype=settings.dtype, device=settings.device)
        self._model: Any = (loaded if model.base is None else modeling.load_adapter(loaded, self._path)).eval()
        self.vocabulary: int = self._model.config.vocab_size

    def close(self) -> None:
        import torch

        del self._model
        if self._settings.device != "cpu":
            torch.cuda.empty_cache()

    def answer(self, questions: Sequence[Question], max_tokens: int, progress: Progress) -> list[Answer]:
        made: dict[int, Answer] = {}
        for batch in plan([len(question.ids) for question in questions], 1, self._settings.batch_size):
            started, rows = time.perf_counter(), [questions[index].ids for index, _ in batch]
            answers = [self._answer(ids) for ids in self._generate(rows, max_tokens)]
            self.generated.add(sum(len(answer.ids) for answer in answers), time.perf_counter() - started)
            made |= {index: answer for (index, _), answer in zip(batch, answers, strict=True)}
            progress(len(made), len(questions))
        return [made[index] for index in range(len(questions))]

    def _generate(self, rows: Sequence[list[int]], max_tokens: int) -> list[list[int]]:
        import torch

        width, pad, device = max(map(len, rows)), self._tokenizer.pad_token_id, self._model.device
        ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
        with torch.inference_mode():
            made = in_slices(self._model.generate, self._settings.at_once)(
                input_ids=ids, attention_mask=mask, generation_config=self._greedy(max_tokens)
            )
        return [row.tolist() for row in made[:, width:]]

    def _greedy(self, max_tokens: int) -> Any:
        config = modeling.generation_config(self._tokenizer, self._format)
        config.do_sample, config.max_new_tokens = False, max_tokens
        return config

    def _answer(self, ids: Sequence[int]) -> Answer:
        kept, truncated = ended(ids, self._stop)
        # special tokens in mid-answer are left out, as servers leave them out
        text = self._tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return Answer(kept, str(text), truncated)

    def next(self, text: Text, top: int) -> list[Next]:
        import torch

        ids = torch.tensor([text.ids[:-1]], device=self._model.device)
        with torch.inference_mode():
            logits = self._model(input_ids=ids, use_cache=False, logits_to_keep=text.positions).logits[0].float()
            best = torch.log_softmax(logits, dim=-1).topk(min(top, logits.shape[-1]))
        return [Next(*pair) for pair in zip(best.indices.cpu().numpy(), best.values.cpu().numpy(), strict=True)]

    def size(self) -> tuple[int | None, float | None]:
        return sum(file.stat().st_size for file in self._path.glob("*.safetensors")) or None, None


@dataclass
class _OneByOne:
    """What takes one sequence at a time."""

    model: Model
    at_once: int = field(default=1, init=False)
    prompts: Pace = field(default_factory=Pace, init=False)
    generated: Pace = field(default_factory=Pace, init=False)

    @property
    def name(self) -> str:
        return self.model.name


@dataclass
class Gguf(_OneByOne):
    """A GGUF in llama.cpp, in this process, on the CPU."""

    loaded: llamacpp.LlamaCpp
    kind = "llama.cpp"

    @property
    def vocabulary(self) -> int:
        return len(read_header(Path(self.model.path)).fields["tokenizer.ggml.tokens"])

    def answer(self, questions: Sequence[Question], max_tokens: int, progress: Progress) -> list[Answer]:
        made = []
        for question in questions:
            reply = self.loaded.answer(question.ids, max_tokens)
            self.prompts.add(reply.prompt_tokens, reply.prompt_seconds)
            self.generated.add(len(reply.tokens), reply.seconds)
            made.append(Answer(reply.tokens, reply.text, reply.truncated))
            progress(len(made), len(questions))
        return made

    def next(self, text: Text, top: int) -> list[Next]:
        import numpy as np

        told = [self.loaded.next(text.ids[:at], top) for at in range(len(text.ids) - text.positions, len(text.ids))]
        return [Next(np.asarray(ids), np.asarray(logprobs)) for ids, logprobs in told]

    def size(self) -> tuple[int | None, float | None]:
        file = Path(self.model.path)
        tensors = read_header(file).tensors
        bits = 8 * sum(tensor.bytes for tensor in tensors) / sum(tensor.elements for tensor in tensors)
        return file.stat().st_size, bits


@dataclass
class Served(_OneByOne):
    """A name at the Ollama server that OLLAMA_HOST names. It tells no distributions, and renders the messages itself."""

    kind = "ollama"

    @property
    def vocabulary(self) -> None:
        return None

    def answer(self, questions: Sequence[Question], max_tokens: int, progress: Progress) -> list[Answer]:
        server, made = ollama_api.Ollama(ollama_api.server_url()), []
        for question in questions:
            told = server.chat(self.model.path, question.messages, {"num_predict": max_tokens, "temperature": 0})
            for pace, count in ((self.prompts, "prompt_eval"), (self.generated, "eval")):
                tokens, nanoseconds = told.get(f"{count}_count"), told.get(f"{count}_duration")
                if isinstance(tokens, int) and isinstance(nanoseconds, int):
                    pace.add(tokens, nanoseconds / 1e9)
            made.append(_told(told))
            progress(len(made), len(questions))
        return made

    def next(self, text: Text, top: int) -> None:
        return None

    def size(self) -> tuple[int | None, float | None]:
        return None, None


def _told(answer: Mapping[str, Any]) -> Answer:
    """Ollama's answer as the model wrote it: the reasoning that the server split off is joined back."""
    message = answer.get("message") or {}
    thought, content = str(message.get("thinking") or ""), str(message.get("content") or "")
    truncated = answer.get("done_reason") == "length"
    if thought and (content or not truncated):  # cut off within its reasoning, it has not closed it
        content = f"{thought.rstrip(chr(10))}\n{THINK_CLOSE}\n\n{content.lstrip(chr(10))}"
    return Answer([], content or thought, truncated)
