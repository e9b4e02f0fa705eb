"""llama.cpp in this process: load a GGUF, ask what it tokenizes, renders and says; make K-quants of one.

    with LlamaCpp(Path("model.gguf")) as model:
        model.tokenize("<think>\\n")          ids, special tokens parsed
        model.render(messages)                the GGUF's own chat template, run by llama.cpp's engine
        model.complete(ids, n_predict=16)     greedy tokens

    quantize(Path("f16.gguf"), Path("q4.gguf"), "q4_k_m")

Two wheels of the `llamacpp` extra: xllamacpp carries the server (in-process, on a free loopback port), cyllama the quantizer;
a `llama-quantize` on PATH is taken before the latter. Their C++ logs go to standard error; so does the reason of a failure.

Not here: writing a GGUF (`gguf_writer`), serving to others.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self
from urllib.parse import urlsplit

from gwen25.data import Message
from gwen25.errors import BadInput, Gwen25Error

_SMALL: Final = 64 << 20  # bytes of a GGUF; a token of it is read in 5 ms by one core
_WORK: Final = "/completion"  # the one request here that computes
_REQUEST_SECONDS: Final = 600  # one forward pass of a 3B model in f16 on two cores takes under ten


def can_load() -> bool:
    """True where xllamacpp is installed."""
    return find_spec("xllamacpp") is not None


class Reply(NamedTuple):
    """An answer, special tokens in `tokens` only. Seconds are llama.cpp's own: of reading the prompt, and of the answer."""

    tokens: list[int]
    text: str
    truncated: bool
    prompt_tokens: int
    prompt_seconds: float
    seconds: float


class LlamaCpp:
    """One loaded model. Use it as a context: leaving it frees the memory. `quiet` logs nothing but errors.

    As it comes, llama.cpp keeps keys and values in float16 and may take flash attention, which rounds to float16 too: what Ollama
    does. `exact` does neither, so that the file alone is what differs from the checkpoint.

    Raises Gwen25Error where llama.cpp does not load the file.
    """

    def __init__(self, path: Path, n_ctx: int = 2048, threads: int | None = None, *, quiet: bool = False, exact: bool = False):
        import xllamacpp

        if not path.is_file():
            raise BadInput(f"no such GGUF file: {path}")
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx, params.n_parallel = n_ctx, 1
        params.cpuparams.n_threads = threads or _threads(path)
        params.hostnames, params.port = ["127.0.0.1"], 0
        params.warmup = False
        if exact:
            params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type(0)  # GGML_TYPE_F32
            params.flash_attn_type = xllamacpp.llama_flash_attn_type(0)  # disabled
        if quiet:
            params.verbosity = 1
        params.prefill_assistant = False  # else a last assistant turn is left open, without its end token
        try:
            self._server = xllamacpp.Server(params)
        except RuntimeError as error:
            raise Gwen25Error(f"llama.cpp does not load {path.name}: {error} (its reason stands in the log above)") from error
        self.base_url: str = self._server.listening_address
        self._worked = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not self._worked:
            # A server that is ended before its loop began waits for ever. Only work passes through the loop: it answers what it
            # tokenizes, renders and says of itself without. One token, and nothing after it, shows that the loop is there.
            with contextlib.suppress(Gwen25Error, OSError):
                self._post(_WORK, {"prompt": [0], "n_predict": 0})
        del self._server

    def tokenize(self, text: str, *, add_special: bool = False) -> list[int]:
        """Ids of a text in which special tokens count as such; nothing is added, unless what the file says is asked for."""
        tokens: list[int] = self._post("/tokenize", {"content": text, "parse_special": True, "add_special": add_special})["tokens"]
        return tokens

    def properties(self) -> dict[str, Any]:
        """What llama.cpp says of the loaded model: "eos_token", "chat_template" ..."""
        return self._ask("GET", "/props", None)

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> str:
        """The prompt, as the chat template in the file makes it."""
        body = {"messages": list(messages), "add_generation_prompt": add_generation_prompt}
        prompt: str = self._post("/apply-template", body)["prompt"]
        return prompt

    def complete(self, prompt: Sequence[int], n_predict: int) -> list[int]:
        """At most `n_predict` greedy tokens after the prompt's ids; fewer where the model ends its turn."""
        body = {"prompt": list(prompt), "n_predict": n_predict, "temperature": 0, "return_tokens": True, "cache_prompt": False}
        tokens: list[int] = self._post(_WORK, body)["tokens"]
        return tokens

    def answer(self, prompt: Sequence[int], n_predict: int) -> Reply:
        """One greedy answer to the prompt's ids, with how long it took."""
        body = {"prompt": list(prompt), "n_predict": n_predict, "temperature": 0, "return_tokens": True, "cache_prompt": False}
        told = self._post(_WORK, body)
        times = told["timings"]
        return Reply(
            tokens=told["tokens"],
            text=told["content"],
            truncated=told["stop_type"] == "limit",
            prompt_tokens=times["prompt_n"],
            prompt_seconds=times["prompt_ms"] / 1000,
            seconds=times["predicted_ms"] / 1000,
        )

    def next(self, prompt: Sequence[int], top: int) -> tuple[list[int], list[float]]:
        """The `top` likeliest tokens after the prompt's ids, the likeliest first, and the logarithms of their probabilities.

        Of the softmax over the whole vocabulary, which llama.cpp takes before any sampling: temperature, top_k and biases do not
        change it. What the last prompt and this one have in common is not computed again.
        """
        # a token that is half a character is held back, and its distribution with it: so a letter is always drawn
        letter = [[self._letter, 1000]]
        body = {"prompt": list(prompt), "n_predict": 1, "temperature": 0, "n_probs": top, "cache_prompt": True, "logit_bias": letter}
        best = self._post(_WORK, body)["completion_probabilities"][0]["top_logprobs"]
        return [one["id"] for one in best], [one["logprob"] for one in best]

    @cached_property
    def _letter(self) -> int:
        return self.tokenize("a")[0]

    def stream(self, prompt: Sequence[int], settings: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """What comes after the prompt's ids, part by part: {"content", "stop", ...}; the last one tells why it stopped ("stop_type").

        `settings` in the names of llama.cpp's /completion. A reader that leaves ends the work.
        """
        address = urlsplit(self.base_url)
        connection = http.client.HTTPConnection(address.hostname or "127.0.0.1", address.port, timeout=_REQUEST_SECONDS)
        try:
            body = {"prompt": list(prompt), "stream": True, **settings}
            connection.request("POST", _WORK, json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            if response.status != 200:
                raise Gwen25Error(f"llama.cpp answered {response.status} to {_WORK}: {response.read()[:300].decode(errors='replace')}")
            for line in response:
                kind, _, text = line.partition(b": ")
                if kind == b"error":
                    raise Gwen25Error(f"llama.cpp broke off: {text[:300].decode(errors='replace').strip()}")
                if kind == b"data":
                    self._worked = True
                    yield json.loads(text)
        finally:
            connection.close()

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return self._ask("POST", path, json.dumps(body))

    def _ask(self, method: str, path: str, body: str | None) -> dict[str, Any]:
        address = urlsplit(self.base_url)
        connection = http.client.HTTPConnection(address.hostname or "127.0.0.1", address.port, timeout=_REQUEST_SECONDS)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        if response.status != 200:
            raise Gwen25Error(f"llama.cpp answered {response.status} to {path}: {text[:300].decode(errors='replace')}")
        self._worked |= path == _WORK
        answer: dict[str, Any] = json.loads(text)
        return answer


def _threads(file: Path) -> int:
    """All cores, but one for a small file: waiting threads spin, which on a busy machine costs ten times what they save."""
    return 1 if file.stat().st_size < _SMALL else os.cpu_count() or 1


# The numbers of llama.h's enum llama_ftype, which general.file_type holds too.
K_QUANTS: Final = {"q2_k": 10, "q3_k_m": 12, "q4_k_s": 14, "q4_k_m": 15, "q5_k_s": 16, "q5_k_m": 17, "q6_k": 18}


def quantizer() -> str | None:
    """The quantizer that `quantize` would use: the path of llama-quantize, "cyllama", or None."""
    return shutil.which("llama-quantize") or ("cyllama" if find_spec("cyllama") is not None else None)


def no_quantizer(type: str) -> BadInput:
    return BadInput(f"gguf type {type} needs a quantizer: pip install 'gwen25[llamacpp]', or put llama-quantize on PATH, or choose q8_0")


def quantize(source: Path, out: Path, type: str, threads: int | None = None) -> None:
    """Make a K-quant of an f32, f16 or bf16 GGUF.

    The bytes depend on the source and llama.cpp's arithmetic alone, not on the threads. Raises BadInput where there is no
    quantizer, Gwen25Error where it fails.
    """
    threads = threads or os.cpu_count() or 1
    tool = quantizer()
    if tool is None:
        raise no_quantizer(type)
    if tool == "cyllama":
        _by_cyllama(source, out, K_QUANTS[type], threads)
    else:
        done = subprocess.run([tool, str(source), str(out), type.upper(), str(threads)], capture_output=True, text=True, errors="replace")
        if done.returncode != 0:
            last = (done.stderr or done.stdout).strip().rpartition("\n")[2]
            raise Gwen25Error(f"{tool} failed with status {done.returncode}: {last}")


def _by_cyllama(source: Path, out: Path, ftype: int, threads: int) -> None:
    from cyllama.llama import llama_cpp

    params = llama_cpp.LlamaModelQuantizeParams()
    params.nthread, params.ftype = threads, ftype
    try:
        llama_cpp.model_quantize(str(source), str(out), params)
    except RuntimeError as error:
        raise Gwen25Error(f"cyllama: {error} (llama.cpp's reason stands in the log above)") from error
