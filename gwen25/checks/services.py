"""Checks of what answers over a network: the hub, the judge, Ollama. A key is said to be set or not, and never shown.

Each question costs nothing and has PATIENCE seconds, name look-up included, so that without a network the report is as quick.
What a stranger's server writes is not repeated: it may hold the key that it was sent. Not here: asking for scores (`cheats`).
"""

from __future__ import annotations

import json
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any, Final, Literal, TypeVar
from urllib.parse import quote

from gwen25 import ollama_api, resolve, rewards
from gwen25.checks import Asked, Finding
from gwen25.config import Config, JudgeConfig
from gwen25.errors import BadInput, Unavailable
from gwen25.rewards import judge

PATIENCE: Final = 3.0  # seconds of one question
OLLAMA_SECONDS: Final = 1.0  # it is on this machine or near it, and its client asks for as long
_BYTES: Final = 1 << 20  # a list of models is some 100 kB
_GEMINI: Final = "https://generativelanguage.googleapis.com/"
_OPENAI: Final = "https://api.openai.com/v1"
Answer = Literal["answers", "refused", "unknown model", "another service", "failing", "silent"]
T = TypeVar("T")


def within(seconds: float, ask: Callable[[], T]) -> T:
    """What `ask` gives, or TimeoutError. In a thread: no time-out of a socket ends a look-up of a name, or a server that drips."""
    given: list[T] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            given.append(ask())
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if raised:
        raise raised[0]
    if not given:
        raise TimeoutError(f"no answer in {seconds:g} seconds")
    return given[0]


# --------------------------------------------------------------------------------------------------------------------- hub


def wanted(config: Config) -> list[tuple[str, str]]:
    """(kind, hub id) of what a run would take from the hub."""
    data = [name for name in (config.dataset.source, config.evaluate.problems) if name != "samples"]
    named = [("model", config.base_model), *(("dataset", name) for name in data if not name.endswith((".jsonl", ".jsonl.gz")))]
    return [(kind, name) for kind, name in named if not name.startswith(resolve.SAMPLE_PREFIX) and not resolve.is_path(name)]


def hub(asked: Asked) -> Iterator[Finding]:
    """Whether the hub answers for what a run takes from it."""
    from huggingface_hub import constants, get_token

    token = "a token is set" if get_token() else "HF_TOKEN is not set"
    names = wanted(asked.config)
    if not names:
        yield Finding("ok", f"nothing is taken from the hub; {token}")
        return
    if constants.is_offline_mode():
        yield Finding(
            "warn", f"not asked: HF_HUB_OFFLINE is set, and only what its cache holds can be used; {token}", "unset it to fetch more"
        )
        return
    for kind, name in names:
        finding = _ask_hub(kind, name)
        if finding.status != "ok":
            yield Finding(finding.status, f"{finding.what}; {token}", finding.todo)
            return
    yield Finding("ok", f"the hub answers for {', '.join(name for _, name in names)}; {token}")


def _ask_hub(kind: str, name: str) -> Finding:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    endpoint = os.environ.get("HF_ENDPOINT") or None
    try:
        within(PATIENCE, lambda: HfApi(endpoint=endpoint).repo_info(name, repo_type=kind, timeout=PATIENCE))
    except GatedRepoError:
        return Finding("fail", f"the hub keeps {kind} {name} behind its terms", "accept them on the hub's page of it, and set HF_TOKEN")
    except (RepositoryNotFoundError, HFValidationError):
        return Finding("fail", f"the hub does not show {kind} {name}", "check the name, and HF_TOKEN where it is private or expired")
    except Exception as error:  # httpx's, the OS's and JSON's errors have no common root: no answer that can be used came
        away = "the network, a proxy, HF_ENDPOINT; where there is none: HF_HUB_OFFLINE=1 and what the cache holds"
        return Finding("warn", f"the hub does not answer for {kind} {name} ({type(error).__name__})", f"look at {away}")
    return Finding("ok", "")


# ------------------------------------------------------------------------------------------------------------------- judge


def judging(asked: Asked) -> Iterator[Finding]:
    """The judge: whether its key is there, or the run goes without, and whether the service takes it and knows the model."""
    section, wanted = asked.config.grpo.judge, "judge" in asked.config.grpo.rewards
    names = judge.key_names(section)
    try:
        there = wanted and judge.available(section)
    except BadInput as error:
        yield Finding("fail", str(error), f"mend it, or unset {names}: the judge is then left out")
        return
    try:
        rewards.active(asked.config.grpo)
    except BadInput as error:
        without = f"set {names}, or take --recipe recommended, which needs none" if wanted and not there else "mend that"
        yield Finding(asked.stops, str(error), without)
        return
    if not wanted:
        yield Finding("ok", "no reward of this run asks a judge")
        return
    if not there:
        yield Finding("warn", f"no judge, {names} not set: rows without tests are left out of GRPO", "set it, or take data with tests")
        return
    key = f"{names} is set" if judge.secret(section) else f"{names} is not set, which a server of yours may not need"
    said, status, todo = _JUDGE[ask_judge(section)]
    yield Finding(status, f"{_at(section)} {said.format(model=section.model, seconds=PATIENCE)}; {key}", todo.format(names=names))


_JUDGE: Final[dict[Answer, tuple[str, Literal["ok", "warn", "fail"], str]]] = {
    "answers": ("answers, and knows {model}", "ok", ""),
    "refused": ("refuses the key", "fail", "set a key of this service in {names}"),
    "unknown model": ("does not know {model}", "fail", "set grpo.judge.model to one that it lists"),
    "another service": ("answers, but not as such a service does", "warn", "check grpo.judge.base_url and grpo.judge.provider"),
    "failing": ("answers that it is busy or failing", "warn", "try again later"),
    "silent": ("does not answer within {seconds:g} s", "warn", "look at the network, a proxy, grpo.judge.base_url; is the server up?"),
}


def judge_answers(section: JudgeConfig) -> bool:
    return ask_judge(section) == "answers"


def _at(section: JudgeConfig) -> str:
    return f"{section.provider} at {section.base_url}" if section.base_url else section.provider


def ask_judge(section: JudgeConfig) -> Answer:
    """The model's own entry (Gemini), or the list of models (OpenAI): neither is charged."""
    key = judge.secret(section) or ""
    if section.provider == "openai":
        url, headers = (section.base_url or _OPENAI).rstrip("/") + "/models", {"Authorization": f"Bearer {key}"} if key else {}
    else:
        name = section.model.removeprefix("models/")
        url = f"{(section.base_url or _GEMINI).rstrip('/')}/v1beta/models/{quote(name)}"
        headers = {"x-goog-api-key": key}
    try:
        body = json.loads(within(PATIENCE, lambda: _get(url, headers)))
    except urllib.error.HTTPError as error:
        return _refusal(error, section)
    except OSError:
        return "silent"
    except Exception:  # http.client's errors on a garbled answer, JSON's
        return "another service"
    return _knows(body, section)


def _knows(body: Any, section: JudgeConfig) -> Answer:
    if not isinstance(body, dict):
        return "another service"
    if section.provider != "openai":
        return "answers" if str(body.get("name", "")).startswith("models/") else "another service"
    listed = body.get("data")
    if not isinstance(listed, list):
        return "another service"
    known = {entry.get("id") for entry in listed if isinstance(entry, dict)}
    return "answers" if section.model in known else "unknown model"


def _refusal(error: urllib.error.HTTPError, section: JudgeConfig) -> Answer:
    if error.code in (401, 403):
        return "refused"
    if error.code == 400 and section.provider != "openai":
        return "refused"  # Gemini's answer to a key that it does not know
    if error.code == 404 and section.provider != "openai":
        return "unknown model"
    return "failing" if error.code in (408, 429) or error.code >= 500 else "another service"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another host: it is an HTTP error instead."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _get(url: str, headers: dict[str, str]) -> bytes:
    opener = urllib.request.build_opener(_NoRedirect)
    with opener.open(urllib.request.Request(url, headers=headers), timeout=PATIENCE) as response:
        return bytes(response.read(_BYTES))


# ------------------------------------------------------------------------------------------------------------------ Ollama


def ollama(asked: Asked) -> Iterator[Finding]:
    """The server that OLLAMA_HOST names. Without one the package is made all the same, and no model is created from it."""
    url = ollama_api.server_url()
    whose = "OLLAMA_HOST" if os.environ.get("OLLAMA_HOST") else "Ollama's own address"
    try:
        version = within(OLLAMA_SECONDS, lambda: ollama_api.Ollama(url, timeout=OLLAMA_SECONDS).version())
    except BadInput:
        yield Finding("warn", f"what answers at {url} ({whose}) is no Ollama server", "set OLLAMA_HOST to one, such as 127.0.0.1:11434")
    except (Unavailable, TimeoutError):
        said = f"no Ollama server at {url} ({whose}): the package is made, and not tried"
        yield Finding("warn", said, "`ollama serve`, or set OLLAMA_HOST")
    else:
        yield Finding("ok", f"Ollama {''.join(filter(str.isprintable, version))[:40]} at {url}")
