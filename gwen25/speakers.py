"""Whoever can answer in a chat, behind one call: transformers (adapter, model), llama.cpp (GGUF), an Ollama server.

    with opened(model) as speaker:
        end = speaker.speak(messages, Draw(max_tokens=4096), hear)       hear(Piece) as the words come

The first two are given the prompt that `ChatFormat.render` makes, and stop at its stop tokens; Ollama renders with the model's own
TEMPLATE. Ctrl-C raises KeyboardInterrupt out of `speak`, and the speaker can be asked again.

Not here: sampling many answers (`generate`), the history (`talk`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from gwen25 import llamacpp, modeling, models, ollama_api
from gwen25.chat import THINK_CLOSE, ChatFormat
from gwen25.data import Message
from gwen25.errors import BadInput
from gwen25.gguf_header import read_header
from gwen25.references import Model

LONGEST: Final = 16384  # tokens of context that llama.cpp is given at most: for a 3B model 0.6 GB


class Piece(NamedTuple):
    """Some words of an answer, of its reasoning or of what it says."""

    text: str
    reasoning: bool


Hear = Callable[[Piece], None]


class End(NamedTuple):
    """How an answer ended. `tokens` that were made (None: not told); `truncated`: it was cut off."""

    tokens: int | None
    truncated: bool


@dataclass(frozen=True, slots=True)
class Draw:
    """How to draw: `temperature` 0 is greedy; `max_tokens` bounds one answer, reasoning included."""

    max_tokens: int = 4096
    temperature: float = 0.6
    top_p: float = 0.95


class Speaker(Protocol):
    def speak(self, messages: Sequence[Message], draw: Draw, hear: Hear) -> End: ...


class Splitter:
    """Tells reasoning from answer in a text that comes in parts. It begins in the reasoning, which the prompt has opened."""

    def __init__(self, hear: Hear):
        self._hear, self._held, self._answering = hear, "", False

    def feed(self, text: str) -> None:
        if self._answering:
            self._say(text)
            return
        self._held += text
        before, close, after = self._held.partition(THINK_CLOSE)
        if close:
            self._held = ""
            self._think(before)
            self._answering = True
            self._say(after)
        else:  # what may be the beginning of the tag is held back
            kept = next((n for n in range(len(THINK_CLOSE) - 1, 0, -1) if self._held.endswith(THINK_CLOSE[:n])), 0)
            self._think(self._held[: len(self._held) - kept])
            self._held = self._held[len(self._held) - kept :]

    def close(self) -> None:
        self._think(self._held)
        self._held = ""

    def _think(self, text: str) -> None:
        if text:
            self._hear(Piece(text, reasoning=True))

    def _say(self, text: str) -> None:
        if text:
            self._hear(Piece(text, reasoning=False))


@contextmanager
def opened(model: Model) -> Iterator[Speaker]:
    """Load the model; leaving frees it. Raises BadInput where a package or a fitting tokenizer is missing."""
    if model.kind == "ollama":
        yield Server(model.path)
    elif model.kind == "gguf":
        if not llamacpp.can_load():
            raise BadInput("a GGUF needs llama.cpp: pip install 'gwen25[llamacpp]'; or give it to Ollama, and name it ollama:NAME")
        context = min(_context(Path(model.path)), LONGEST)
        with llamacpp.LlamaCpp(Path(model.path), n_ctx=context, quiet=True) as loaded:
            yield Gguf(loaded, model.format, context)
    else:
        yield Local(model)


def _context(file: Path) -> int:
    fields = read_header(file).fields
    return int(fields.get(f"{fields.get('general.architecture')}.context_length") or LONGEST)


def _allowed(prompt: int, wanted: int, context: int) -> int:
    """Tokens that an answer may take."""
    if context - prompt < 1:
        raise BadInput(f"the conversation has {prompt} tokens, as many as the model's context of {context} or more; begin anew with /reset")
    return min(wanted, context - prompt)


class Local:
    """A model directory, or base + adapter, run here by transformers: in float32 on a CPU, in its own dtype on a GPU."""

    def __init__(self, model: Model):
        import torch

        directory = model.base or Path(model.path)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self._format, self._context = model.format, models.inspect(directory).context
        self._tokenizer = modeling.load_tokenizer(directory, model.format)
        dtype = models.inspect(directory).dtype if device == "cuda" else "float32"  # bfloat16 on a CPU is several times slower
        loaded: Any = modeling.load_base(directory, self._tokenizer, model.format, dtype=dtype, device=device)
        self._model = (loaded if model.base is None else modeling.load_adapter(loaded, Path(model.path))).eval()
        torch.seed()  # else every chat would draw the same

    def speak(self, messages: Sequence[Message], draw: Draw, hear: Hear) -> End:
        import torch

        ids = self._tokenizer(self._format.render(messages), add_special_tokens=False, return_tensors="pt")["input_ids"]
        settings = modeling.generation_config(self._tokenizer, self._format)
        settings.max_new_tokens = _allowed(ids.shape[1], draw.max_tokens, self._context)
        settings.do_sample = draw.temperature > 0
        if settings.do_sample:
            settings.temperature, settings.top_p, settings.top_k = draw.temperature, draw.top_p, 0
        split = Splitter(hear)
        with torch.inference_mode():
            made = self._model.generate(
                input_ids=ids.to(self._model.device),
                attention_mask=torch.ones_like(ids).to(self._model.device),
                generation_config=settings,
                streamer=_streamer(self._tokenizer, split.feed),
            )
        split.close()
        new = made[0, ids.shape[1] :].tolist()
        return End(len(new), truncated=not new or new[-1] not in modeling.stop_ids(self._tokenizer, self._format))


def _streamer(tokenizer: Any, feed: Callable[[str], None]) -> Any:
    """A streamer of transformers that hands on whole words; special tokens are left out, as servers leave them out."""
    from transformers import TextStreamer

    class Words(TextStreamer):  # made here, since importing its base takes seconds
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            feed(text)

    return Words(tokenizer, skip_prompt=True, skip_special_tokens=True, clean_up_tokenization_spaces=False)


class Gguf:
    """A GGUF in llama.cpp, in this process."""

    def __init__(self, model: llamacpp.LlamaCpp, format: ChatFormat, context: int):
        self._model, self._format, self._context = model, format, context

    def speak(self, messages: Sequence[Message], draw: Draw, hear: Hear) -> End:
        ids = self._model.tokenize(self._format.render(messages))
        settings = {
            "n_predict": _allowed(len(ids), draw.max_tokens, self._context),
            "temperature": draw.temperature,
            "top_p": draw.top_p,
            "top_k": 0,  # llama.cpp's own defaults would cut the distribution further
            "min_p": 0,
            "stop": list(self._format.stop),
        }
        split, last = Splitter(hear), dict[str, Any]()
        for last in self._model.stream(ids, settings):
            split.feed(str(last.get("content", "")))
        split.close()
        return End(last.get("tokens_predicted"), truncated=last.get("stop_type") == "limit")


class Server:
    """A model at the Ollama server that OLLAMA_HOST names. The server tells reasoning from answer."""

    def __init__(self, name: str):
        self._server, self._name = ollama_api.Ollama(ollama_api.server_url()), name

    def speak(self, messages: Sequence[Message], draw: Draw, hear: Hear) -> End:
        options = {"num_predict": draw.max_tokens, "temperature": draw.temperature, "top_p": draw.top_p}
        last: dict[str, Any] = {}
        for last in self._server.stream(self._name, messages, options):
            message = last.get("message") or {}
            for text, reasoning in ((message.get("thinking"), True), (message.get("content"), False)):
                if text:
                    hear(Piece(str(text), reasoning))
        count = last.get("eval_count")
        return End(count if isinstance(count, int) else None, truncated=last.get("done_reason") == "length")
