"""Prompts in, answers out: a model directory on this machine, or any OpenAI-compatible server.

    model = Transformers(Path("merged"), FORMATS["chatml-think"], dtype="bfloat16", device="cuda", batch_size=8)
    model = OpenAIServer("http://127.0.0.1:8000/v1", FORMATS["chatml-think"], concurrency=32)      (vLLM, llama.cpp, Ollama)
    for index, samples in model.generate(prompts, Sampling(n=5, temperature=0.2)): ...

Both yield (index of the prompt, its n samples) as they are made, in an order of their own. `skip` names prompts that are
already answered: the others come out as if nothing had been skipped, which is what makes an evaluation resumable.

Transformers renders with the ChatFormat, whatever template the model directory holds; a server applies its own (ours, where it
serves a model of ours), and its own defaults for what `Sampling` does not name (llama.cpp: top_k 40, min_p 0.05).
Not here: extracting programs (`chat`), judging them (`benchmarks`).
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeVar
from urllib.parse import urlsplit

from gwen25.chat import THINK_CLOSE, ChatFormat
from gwen25.data import Message
from gwen25.errors import BadInput, Unavailable
from gwen25.out_of_memory import phase, recognise
from gwen25.slices import in_slices

if TYPE_CHECKING:
    import torch

Prompt = Sequence[Message]
Row = tuple[int, int]  # (index of the prompt, number of the sample)
_T = TypeVar("_T")
_R = TypeVar("_R")

TRIES: Final = 5  # of one request: with pauses of 1, 2, 4, 8 s a server may take 15 s to come back
MAX_PAUSE: Final = 60.0  # seconds; what a Retry-After may ask for
TIMEOUT: Final = 3600.0  # seconds of silence: an answer comes whole, and 16k tokens at 5 a second take 55 minutes
MAX_RESPONSE_BYTES: Final = 64 << 20
_LATER: Final = frozenset({408, 409, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to draw. `temperature` 0 is greedy: one answer is made, and counts n times. `max_tokens` bounds one answer."""

    n: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 16384
    seed: int = 42

    @property
    def draws(self) -> int:
        """Answers that are really made of one prompt."""
        return self.n if self.temperature > 0 else 1


class Sample(NamedTuple):
    """One answer, without prompt and stop token. `tokens` were generated (None: the server did not say); `truncated`: by `max_tokens`."""

    text: str
    tokens: int | None
    truncated: bool


class Generator(Protocol):
    """What both backends are."""

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, skip: Collection[int] = ()) -> Iterator[tuple[int, list[Sample]]]:
        """Yield (index of the prompt, its `sampling.n` samples) for every prompt not in `skip`."""
        ...


def answers(model: Generator, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Sample]]:
    """All samples of all prompts, in the order of the prompts."""
    made = dict(model.generate(prompts, sampling))
    return [made[index] for index in range(len(prompts))]


class _Collector:
    """Gathers samples, and gives a prompt's when the last of them is there."""

    def __init__(self, sampling: Sampling):
        self._sampling, self._parts = sampling, defaultdict[int, dict[int, Sample]](dict)

    def add(self, row: Row, sample: Sample) -> Iterator[tuple[int, list[Sample]]]:
        index, number = row
        parts = self._parts[index]
        parts[number] = sample
        if len(parts) == self._sampling.draws:
            drawn = [parts[number] for number in sorted(parts)]
            yield index, drawn * (self._sampling.n // len(drawn))
            del self._parts[index]


def _seed(*parts: object) -> int:
    """31 bits from what names a draw: llama.cpp takes no more than 32."""
    return int.from_bytes(hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).digest()[:4]) >> 1


# ------------------------------------------------------------------------------------------------------------ transformers


class Transformers:
    """A model directory (or a hub id at a revision), run here by transformers. `batch_size` is part of the random numbers; with
    `at_once` a batch is made in slices of so many rows, to the same answers.

    Raises BadInput for what is no model, for a model that lacks the format's end token, and for a GPU that is not there.
    """

    def __init__(
        self,
        model: Path | str,
        chat_format: ChatFormat,
        *,
        dtype: str = "bfloat16",
        device: str = "cuda",
        batch_size: int = 8,
        revision: str | None = None,
        at_once: int | None = None,
    ):
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        if device == "cuda" and not torch.cuda.is_available():
            raise BadInput("no CUDA device here: take a profile for the CPU, or --set runtime.device=cpu")
        if isinstance(model, Path) and not (model / "config.json").is_file():
            raise BadInput(f"{model} is not a model directory: it holds no config.json")
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(model, revision=revision, trust_remote_code=False)
            with phase("loading"):
                loaded: Any = AutoModelForCausalLM.from_pretrained(
                    model,
                    revision=revision,
                    dtype=getattr(torch, dtype),
                    device_map=None if device == "cpu" else {"": device},  # straight there: host memory need not hold the model
                    trust_remote_code=False,
                    use_safetensors=True,
                )
        except (OSError, ValueError) as error:  # transformers' words for files that are missing or no model
            if recognise(error) is not None:
                raise
            raise BadInput(f"{model} cannot be loaded: {' '.join(str(error).split())[:400]}") from error
        self._model = loaded.eval()
        self._format, self._batch_size, self._at_once = chat_format, batch_size, at_once
        self._stop = self._stop_ids()
        self._pad: int = self._tokenizer.get_vocab().get(chat_format.pad, self._stop[0])

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, skip: Collection[int] = ()) -> Iterator[tuple[int, list[Sample]]]:
        """See the module. Batches and their seeds are planned over *all* prompts, so that `skip` changes no answer: a batch of
        which one row is wanted is made whole. BadInput where a prompt and max_tokens exceed the model's context."""
        encoded = [self._tokenizer(self._format.render(prompt), add_special_tokens=False).input_ids for prompt in prompts]
        self._refuse_too_long(encoded, sampling.max_tokens)
        collector = _Collector(sampling)
        for number, batch in enumerate(plan([len(ids) for ids in encoded], sampling.draws, self._batch_size)):
            if all(index in skip for index, _ in batch):
                continue
            made = self._batch([encoded[index] for index, _ in batch], sampling, _seed(sampling.seed, number))
            for row, sample in zip(batch, made, strict=True):
                if row[0] not in skip:
                    yield from collector.add(row, sample)

    def _stop_ids(self) -> list[int]:
        """Ids of the format's stop tokens, and of the eos that the model came with (a foreign base model's own)."""
        vocabulary = self._tokenizer.get_vocab()
        if self._format.eos not in vocabulary:
            raise BadInput(f"the model's tokenizer has no {self._format.eos}: the chat format {self._format.name} does not fit it")
        own = self._model.generation_config.eos_token_id
        ids = [vocabulary[token] for token in self._format.stop if token in vocabulary]
        ids += [] if own is None else [own] if isinstance(own, int) else list(own)
        return sorted(set(ids))

    def _refuse_too_long(self, encoded: Sequence[Sequence[int]], max_tokens: int) -> None:
        context = getattr(self._model.config, "max_position_embeddings", None)
        longest = max(map(len, encoded), default=0)
        if context is not None and longest + max_tokens > context:
            raise BadInput(
                f"a prompt of {longest} tokens and an answer of {max_tokens} exceed the model's context of {context}; "
                f"set max_tokens to at most {max(context - longest, 0)}, or leave that problem out"
            )

    def _batch(self, encoded: Sequence[Sequence[int]], sampling: Sampling, seed: int) -> list[Sample]:
        import torch

        width = max(map(len, encoded))
        ids = torch.tensor([[self._pad] * (width - len(row)) + list(row) for row in encoded], device=self._model.device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in encoded], device=self._model.device)
        self._model.generation_config = self._settings(sampling)  # the directory's own would fill in top_k and penalties
        torch.manual_seed(seed)
        with torch.inference_mode():
            made = in_slices(self._model.generate, self._at_once)(
                input_ids=ids, attention_mask=mask, generation_config=self._model.generation_config
            )
        return [self._sample(row) for row in made[:, width:]]

    def _settings(self, sampling: Sampling) -> Any:
        from transformers import GenerationConfig

        drawing = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
        chosen: dict[str, Any] = drawing if sampling.temperature > 0 else {"do_sample": False}
        made: Any = GenerationConfig  # not annotated upstream
        return made(max_new_tokens=sampling.max_tokens, eos_token_id=self._stop, pad_token_id=self._pad, **chosen)

    def _sample(self, row: torch.Tensor) -> Sample:
        ids = row.tolist()
        end = next((at for at, token in enumerate(ids) if token in self._stop), None)
        # special tokens in mid-answer are left out, as servers and TRL's rewards leave them out: scores stay comparable
        text = self._tokenizer.decode(ids[:end], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return Sample(text, len(ids) if end is None else end + 1, truncated=end is None)


def plan(lengths: Sequence[int], draws: int, batch_size: int) -> list[list[Row]]:
    """All rows (prompt, sample) in batches of equals: longest prompts first, so that memory runs out in the first minute or never."""
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    rows = [(index, number) for index in order for number in range(draws)]
    return [rows[at : at + batch_size] for at in range(0, len(rows), batch_size)]


# ----------------------------------------------------------------------------------------------------- OpenAI-compatible server


class OpenAIServer:
    """A server that speaks POST {base_url}/chat/completions. Standard library only, so that it runs in any environment.

    `model` None asks the server, which must serve one. OPENAI_API_KEY is sent where it is set; it is never logged, and
    redirects, which would carry it elsewhere, are not followed. `pause`: seconds before the second try, doubled each time.
    """

    def __init__(
        self,
        base_url: str,
        chat_format: ChatFormat,
        *,
        model: str | None = None,
        concurrency: int = 8,
        timeout: float = TIMEOUT,
        pause: float = 1.0,
    ):
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise BadInput(f"base_url {base_url!r}: an address such as http://127.0.0.1:8000/v1 is expected")
        if parts.username or parts.password:
            raise BadInput("base_url holds a user or a password, which would reach logs: set OPENAI_API_KEY instead")
        self._url, self._format, self._wanted = base_url.rstrip("/"), chat_format, model
        self._concurrency, self._timeout, self._pause = concurrency, timeout, pause
        self._opener = urllib.request.build_opener(_NoRedirect)

    @cached_property
    def model(self) -> str:
        """The served model's name. BadInput where none is named and the server serves none, or several."""
        if self._wanted is not None:
            return self._wanted
        names = [str(entry.get("id")) for entry in self._request("/models").get("data") or [] if isinstance(entry, dict)]
        if len(names) != 1:
            raise BadInput(f"{self._url} serves {len(names)} models ({', '.join(names[:20]) or 'none'}): name one as evaluate.served_model")
        return names[0]

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, skip: Collection[int] = ()) -> Iterator[tuple[int, list[Sample]]]:
        """See the module. One request for each sample, with a seed of its own: `n` is ignored by some servers, and refused by vLLM
        at temperature 0. Raises BadInput for what the server refuses, Unavailable where it does not answer in TRIES tries."""
        model, collector = self.model, _Collector(sampling)
        rows = [(index, number) for index in range(len(prompts)) if index not in skip for number in range(sampling.draws)]

        def ask(row: Row) -> Sample:
            return self._ask(model, prompts[row[0]], sampling, row[1])

        for row, sample in _at_once(rows, ask, self._concurrency):
            yield from collector.add(row, sample)

    def _ask(self, model: str, prompt: Prompt, sampling: Sampling, number: int) -> Sample:
        body = {
            "model": model,
            "messages": list(prompt),
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": _seed(sampling.seed, list(prompt), number),
            "stop": list(self._format.stop),
        }
        sample: Sample = self._request("/chat/completions", body, _sample_of)
        return sample

    def _request(
        self, path: str, body: Mapping[str, Any] | None = None, read: Callable[[dict[str, Any]], Any] = lambda answer: answer
    ) -> Any:
        """The answer's JSON through `read`, with further tries where the server may answer later."""
        pause = self._pause
        for attempt in range(1, TRIES + 1):
            asked, problem = None, ""
            try:
                return read(self._once(path, body))
            except urllib.error.HTTPError as error:
                problem = self._said(error)
                if error.code not in _LATER:
                    raise BadInput(problem + _HINTS.get(error.code, "")) from error
                asked = error.headers.get("Retry-After")
            except (OSError, http.client.HTTPException, _Interrupted) as error:
                problem = f"{self._url} did not answer ({error or type(error).__name__})"
            if attempt < TRIES:
                time.sleep(min(float(asked), MAX_PAUSE) if asked and asked.isdigit() else pause)
                pause *= 2
        raise Unavailable(f"{problem}, in {TRIES} tries; is the server up?")

    def _once(self, path: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key := _api_key():
            headers["Authorization"] = f"Bearer {key}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data=data, headers=headers)
        with self._opener.open(request, timeout=self._timeout) as response:
            text = response.read(MAX_RESPONSE_BYTES + 1)
        if len(text) > MAX_RESPONSE_BYTES:
            raise BadInput(f"{self._url}{path} answered more than {MAX_RESPONSE_BYTES >> 20} MiB")
        try:
            answer = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BadInput(
                f"{self._url}{path} did not answer JSON: is it the address of an OpenAI-compatible server, with its /v1?"
            ) from error
        if not isinstance(answer, dict):
            raise BadInput(f"{self._url}{path} did not answer a JSON object: is it an OpenAI-compatible server?")
        return answer

    def _said(self, error: urllib.error.HTTPError) -> str:
        """One line on a refusal, with the server's own words, without the key they may repeat."""
        try:
            text = error.read(10_000).decode("utf-8", "replace")
        except (OSError, http.client.HTTPException):
            text = ""
        try:
            answer = json.loads(text)
            inner = answer.get("error", answer)
            text = str(inner.get("message", inner) if isinstance(inner, dict) else inner)
        except (ValueError, AttributeError, RecursionError):
            pass  # not JSON: the text itself is quoted
        text = " ".join(text.split())[:300]
        if key := _api_key():
            text = text.replace(key, "***")
        return f"{self._url} answered {error.code}{f' ({text})' if text else ''}"


_HINTS: Final = {
    400: "; a context too short for max_tokens is the usual reason: see evaluate.max_tokens, or the server's context length",
    401: "; set OPENAI_API_KEY to a key the server takes",
    403: "; set OPENAI_API_KEY to a key the server takes",
    404: "; check evaluate.served_model, and that evaluate.base_url ends in /v1 where the server's does",
    **dict.fromkeys((301, 302, 303, 307, 308), "; redirects are not followed: set evaluate.base_url to where it leads"),
}


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


class _Interrupted(Exception):
    """An answer that the server itself broke off (vLLM: finish_reason "abort" when it shuts down)."""


def _api_key() -> str:
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    if not (key.isascii() and key.isprintable()):  # http.client would quote it in its own error
        raise BadInput("OPENAI_API_KEY holds characters that no HTTP header may hold")
    return key


def _sample_of(answer: dict[str, Any]) -> Sample:
    """A chat completion as a Sample; the reasoning that a server split off is joined back as the model wrote it."""
    try:
        choice = answer["choices"][0]
        message, reason = choice["message"], choice.get("finish_reason")
        reasoning = message.get("reasoning_content") or message.get("reasoning") or ""
        content = message.get("content") or ""
        tokens = (answer.get("usage") or {}).get("completion_tokens")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise BadInput(f"the server's answer is no chat completion ({type(error).__name__}: {error})") from error
    if reason in ("abort", "error"):
        raise _Interrupted(f"finish_reason {reason}")
    truncated = reason == "length"
    if reasoning and (content or not truncated):  # cut off within its reasoning, it has not closed it
        content = f"{reasoning.rstrip(chr(10))}\n{THINK_CLOSE}\n\n{content.lstrip(chr(10))}"
    text = (content or reasoning).encode("utf-8", "replace").decode()  # a lone surrogate can be neither stored nor run
    return Sample(text, tokens if isinstance(tokens, int) else None, truncated)


def _at_once(items: Sequence[_T], call: Callable[[_T], _R], workers: int) -> Iterator[tuple[_T, _R]]:
    """Yield (item, call(item)) as they are done, `workers` at a time; the first error ends it.

    Daemon threads: an executor's would hold the process back until the last request, up to an hour, is answered.
    """
    todo: SimpleQueue[_T] = SimpleQueue()
    done: SimpleQueue[tuple[_T, _R | None, BaseException | None]] = SimpleQueue()
    stop = threading.Event()
    for item in items:
        todo.put(item)

    def work() -> None:
        while not stop.is_set():
            try:
                item = todo.get_nowait()
            except Empty:
                return
            try:
                done.put((item, call(item), None))
            except BaseException as error:  # carried to the caller's thread, which raises it
                done.put((item, None, error))

    for _ in range(min(workers, len(items))):
        threading.Thread(target=work, daemon=True).start()
    try:
        for _ in items:
            item, result, error = done.get()
            if error is not None:
                raise error
            yield item, result  # type: ignore[misc]  # no error: there is a result
    finally:
        stop.set()
