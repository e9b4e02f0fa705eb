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

import http.client
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

from gwen25.data import Message
from gwen25.errors import BadInput, Gwen25Error

_REQUEST_SECONDS: Final = 600  # one forward pass of a 3B model in f16 on two cores takes under ten


def can_load() -> bool:
    """True where xllamacpp is installed."""
    return find_spec("xllamacpp") is not None


class LlamaCpp:
    """One loaded model. Use it as a context: leaving it frees the memory.

    Raises Gwen25Error where llama.cpp does not load the file.
    """

    def __init__(self, path: Path, n_ctx: int = 2048, threads: int | None = None):
        import xllamacpp

        if not path.is_file():
            raise BadInput(f"no such GGUF file: {path}")
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx, params.n_parallel = n_ctx, 1
        params.cpuparams.n_threads = threads or os.cpu_count() or 1
        params.hostnames, params.port = ["127.0.0.1"], 0
        params.warmup = False
        params.prefill_assistant = False  # else a last assistant turn is left open, without its end token
        try:
            self._server = xllamacpp.Server(params)
        except RuntimeError as error:
            raise Gwen25Error(f"llama.cpp does not load {path.name}: {error} (its reason stands in the log above)") from error
        self.base_url: str = self._server.listening_address

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        del self._server

    def tokenize(self, text: str) -> list[int]:
        """Ids of a text in which special tokens count as such; nothing is added."""
        tokens: list[int] = self._post("/tokenize", {"content": text, "parse_special": True, "add_special": False})["tokens"]
        return tokens

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> str:
        """The prompt, as the chat template in the file makes it."""
        body = {"messages": list(messages), "add_generation_prompt": add_generation_prompt}
        prompt: str = self._post("/apply-template", body)["prompt"]
        return prompt

    def complete(self, prompt: Sequence[int], n_predict: int) -> list[int]:
        """At most `n_predict` greedy tokens after the prompt's ids; fewer where the model ends its turn."""
        body = {"prompt": list(prompt), "n_predict": n_predict, "temperature": 0, "return_tokens": True, "cache_prompt": False}
        tokens: list[int] = self._post("/completion", body)["tokens"]
        return tokens

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        address = urlsplit(self.base_url)
        connection = http.client.HTTPConnection(address.hostname or "127.0.0.1", address.port, timeout=_REQUEST_SECONDS)
        try:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        if response.status != 200:
            raise Gwen25Error(f"llama.cpp answered {response.status} to {path}: {text[:300].decode(errors='replace')}")
        answer: dict[str, Any] = json.loads(text)
        return answer


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
