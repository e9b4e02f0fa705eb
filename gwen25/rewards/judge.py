"""A model that grades programs for which there are no tests: Gemini by either SDK, or any OpenAI-compatible server.

    available(config.grpo.judge)                 is there a key? (cheap: no SDK is imported)
    judge = Judge(config.grpo.judge, folder)     folder: a cache of scores and the tally of requests, kept over retries
    judge.score([(statement, program), ...])     0.9, 0.0, None (unknown), ...

Unknown is not zero: a service that is busy, down, over its quota, or answers anything but a score gives None, after the
retries that the config allows. A refused key or an unknown model can only stay so and raises JudgeUnavailable.

A candidate program is hostile text. It stands between marks made from the digest of what they enclose, so that no program
can contain its own mark; a reply counts only where the whole of it is `{"score": number}`. What a program says to the
judge in comments still reaches it: prefer tests wherever they can be had.

The key comes from the environment, lives in this process, and is cut out of every message before it is raised.
Not here: what an unknown score does to its group (`panel`).
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http import HTTPStatus
from pathlib import Path
from typing import Final, Literal

from gwen25.chat import prompt_text, prompts_digest
from gwen25.config import JudgeConfig
from gwen25.errors import BadInput, JudgeUnavailable
from gwen25.job import write_json
from gwen25.rewards.providers import PROVIDERS, Unfinished
from gwen25.rewards.sample import Sample, Tools

# GOOGLE_API_KEY first, as both SDKs have it where both are set
_KEYS: Final = {
    "google-genai": ("GOOGLE_API_KEY", "GEMINI_API_KEY"),
    "google-generativeai": ("GOOGLE_API_KEY", "GEMINI_API_KEY"),
    "openai": ("OPENAI_API_KEY",),
}
_TRANSIENT: Final = frozenset({408, 429, 500, 502, 503, 504})
_REFUSED: Final = frozenset({401, 403, 404})
_TRANSPORTS: Final = frozenset({"httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3"})  # all their errors: no answer came
_UNREADABLE_TRIES: Final = 2  # a reply that is no score is asked for once more
_MESSAGE_LENGTH: Final = 300  # characters of a service's own message that are shown
BACKOFF_SECONDS: Final = 1.0  # before the first retry; doubled each time
MAX_BACKOFF_SECONDS: Final = 30.0


_Kind = Literal["busy", "unreadable", "final", "refused"]  # what to do: wait, ask once more, give up this one, give up the run


def available(config: JudgeConfig) -> bool:
    """Whether the judge can be asked: a key is in the environment, or an OpenAI-compatible `base_url` that needs none.

    Raises BadInput where a key is there but the SDK is not, or that no header can hold.
    """
    if secret(config) is None and not (config.provider == "openai" and config.base_url):
        return False
    if config.provider == "google-generativeai" and not _installed("google.generativeai"):
        raise BadInput("grpo.judge.provider=google-generativeai: not installed; pip install 'gwen25[judge-legacy]', or take google-genai")
    if config.provider == "google-genai" and not _installed("google.genai"):
        raise BadInput("grpo.judge.provider=google-genai: not installed; pip install google-genai")
    if not re.fullmatch(r"[!-~]*", secret(config) or ""):  # it goes into a header; an SDK's complaint would show it, escaped
        raise BadInput(f"the key in {key_names(config)} holds a blank or a character that is not ASCII")
    return True


def key_names(config: JudgeConfig) -> str:
    """The environment variables that may hold the key, for messages."""
    return " or ".join(sorted(_KEYS[config.provider]))


def identity(config: JudgeConfig) -> dict[str, str | None]:
    """What decides a score, without the key: part of the key of a GRPO run."""
    return {"provider": config.provider, "model": config.model, "base_url": config.base_url, "prompt": prompts_digest("judge")}


def judge(samples: Sequence[Sample], tools: Tools) -> list[float | None]:
    """The reward: the judge's score of each answer's program. A finished answer without a program scores 0.0 unasked.

    Raises BadInput where a row has no statement, JudgeUnavailable as `Judge.score`.
    """
    assert tools.judge is not None, "the panel activates this reward only with a judge"
    asked: list[tuple[str, str]] = []
    for sample in samples:
        if sample.program is not None:
            if not sample.statement:
                raise BadInput("GRPO rows: the judge needs the column `statement`, and a row has none; make the data set again")
            asked.append((sample.statement, sample.program))
    scores = iter(tools.judge.score(asked))
    return [0.0 if sample.program is None else next(scores) for sample in samples]


class Judge:
    """Scores of (statement, program) pairs from the configured service; safe to use from one thread at a time.

    `counts`: requests, cache_hits, unknown, and `failures/<why>` for each request that gave no score.
    """

    def __init__(self, config: JudgeConfig, folder: Path):
        """Raises BadInput where the judge is not `available`."""
        if not available(config):
            raise BadInput(f"the judge {config.provider} needs a key: set {key_names(config)}")
        folder.mkdir(parents=True, exist_ok=True)
        self.config, self.folder = config, folder
        self.counts: Counter[str] = Counter()
        self.last_failure: str | None = None
        self._secret = secret(config) or ""
        self._ask = PROVIDERS[config.provider](config, self._secret)
        self._lock = threading.Lock()

    def score(self, pairs: Sequence[tuple[str, str]], *, beside: bool = False) -> list[float | None]:
        """One score in [0, 1] for each (statement, program), None where it is unknown. Equal pairs are asked once.

        `beside`: no reward waits for it; it may spend half of `max_calls` over all attempts of the stage.
        Raises JudgeUnavailable where the service refuses the key or does not know the model.
        """
        keys = [self._cache_key(statement, code) for statement, code in pairs]
        scores: dict[str, float | None] = {key: self._cached(key) for key in set(keys)}
        self.counts["cache_hits"] += sum(scores[key] is not None for key in keys)
        missing = {key: pair for key, pair in zip(keys, pairs, strict=True) if scores[key] is None}
        with ThreadPoolExecutor(self.config.max_concurrency, thread_name_prefix="judge") as pool:
            futures = {key: pool.submit(self._score, key, *pair, beside) for key, pair in missing.items()}
            try:
                scores |= {key: future.result() for key, future in futures.items()}
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)  # a refused key is refused for the rest as well
                raise
        self.counts["unknown"] += sum(scores[key] is None for key in keys)
        return [scores[key] for key in keys]

    def _score(self, key: str, statement: str, code: str, beside: bool) -> float | None:
        """Ask until there is a score, or no further try is allowed."""
        prompt = render(statement, code)
        busy = unreadable = 0
        while True:
            if not self._spend(beside):
                if not beside:  # its half may be spent while rewards still ask: no failure of the judge's
                    self._note("budget", f"grpo.judge.max_calls = {self.config.max_calls} requests are spent")
                return None
            outcome = self._attempt(prompt)
            if isinstance(outcome, float):
                write_json(self.folder / f"{key}.json", {"score": outcome})
                return outcome
            kind, why, message = outcome
            self._note(why, message)
            if kind == "refused":
                raise JudgeUnavailable(
                    f"{self._name()}: {message}; check {key_names(self.config)}, grpo.judge.model and grpo.judge.base_url"
                )
            busy, unreadable = busy + (kind == "busy"), unreadable + (kind == "unreadable")
            if kind == "final" or busy > self.config.max_retries or unreadable >= _UNREADABLE_TRIES:
                return None
            if kind == "busy":
                time.sleep(min(BACKOFF_SECONDS * 2 ** (busy - 1), MAX_BACKOFF_SECONDS))

    def _attempt(self, prompt: str) -> float | tuple[_Kind, str, str]:
        """One request: its score, or what came instead as (kind, short reason, message without the key)."""
        try:
            reply = self._ask(prompt)
        except Exception as error:
            kind, why = _classify(error)
            return kind, why, self._clean(error)
        score = parse_score(reply) if reply is not None else None
        if score is not None:
            return score
        # what the service wrote is not repeated: it may be the candidate's words
        return "unreadable", "no_reply" if reply is None else "no_score", "blocked or empty" if reply is None else "not a score"

    def _spend(self, beside: bool) -> bool:
        """Count one request; False where the budget is spent, or the half of it that those `beside` the rewards may take.

        A tally is the size of a file, one byte a request: appends are atomic between threads and processes, and a retry of
        the stage goes on counting where the last one stopped.
        """
        most = self.config.max_calls
        with self._lock, ExitStack() as files:
            tallies = [files.enter_context((self.folder / name).open("ab")) for name in ("requests", *(["beside"] if beside else []))]
            if most is not None and any(tally.tell() >= bound for tally, bound in zip(tallies, (most, most // 2), strict=False)):
                return False
            for tally in tallies:
                tally.write(b".")
            self.counts["requests"] += 1
            return True

    def _note(self, why: str, message: str) -> None:
        with self._lock:
            self.counts[f"failures/{why}"] += 1
            self.last_failure = message

    def _clean(self, error: Exception) -> str:
        """One short line about an SDK's error. The key is cut out: a server may repeat it."""
        code = _status(error)
        said = str(getattr(error, "message", None) or error)
        text = " ".join((f"HTTP {code}: {said}" if code else f"{type(error).__name__}: {said}").split())
        return (text.replace(self._secret, "***") if self._secret else text)[:_MESSAGE_LENGTH]

    def _name(self) -> str:
        return f"judge {self.config.provider} {self.config.model}"

    def _cache_key(self, statement: str, code: str) -> str:
        parts = {**identity(self.config), "statement": statement, "code": code}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def _cached(self, key: str) -> float | None:
        try:
            return parse_score((self.folder / f"{key}.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, UnicodeDecodeError):
            return None


def render(statement: str, code: str) -> str:
    """The judge's prompt. The mark is derived from what it encloses: the same pair always gives the same bytes."""
    statement, code = (text.encode("utf-8", "replace").decode() for text in (statement, code))  # a lone surrogate cannot be sent
    mark = hashlib.sha256(json.dumps([statement, code]).encode()).hexdigest()[:24]
    blanks = {"{statement}": statement, "{code}": code, "{fence}": mark}
    # one pass, so that a blank within the statement or the program is not filled in
    return re.sub("|".join(map(re.escape, blanks)), lambda blank: blanks[blank[0]], prompt_text("judge"))


def parse_score(reply: str) -> float | None:
    """The score of a reply that is one JSON object with the one key `score`, a number from 0 to 1; None for anything else.

    >>> parse_score('{"score": 0.5}'), parse_score('The score is {"score": 0.5}'), parse_score('{"score": 7}')
    (0.5, None, None)
    """
    try:
        pairs = json.loads(reply, object_pairs_hook=tuple)  # a tuple of pairs keeps a key that is written twice
    except (ValueError, RecursionError):
        return None
    if not isinstance(pairs, tuple) or len(pairs) != 1 or pairs[0][0] != "score":
        return None
    score = pairs[0][1]
    if isinstance(score, bool) or not isinstance(score, (int, float)) or not 0 <= score <= 1:
        return None
    return float(score)


def _classify(error: Exception) -> tuple[_Kind, str]:
    """What an SDK's exception means for the request. Re-raises what is no answer of a service but a fault of ours."""
    code = _status(error)
    if code is not None:
        # Gemini answers a key that it does not know with 400
        refused = code in _REFUSED or (code == HTTPStatus.BAD_REQUEST and re.search(r"API_KEY_INVALID|API key", str(error)))
        return ("refused" if refused else "busy" if code in _TRANSIENT else "final"), f"http_{code}"
    if isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _TRANSPORTS:
        timeout = isinstance(error, TimeoutError) or "timeout" in type(error).__name__.lower()
        return "busy", "timeout" if timeout else "no_connection"
    if isinstance(error, Unfinished):
        return "unreadable", f"finish_{error.why}"
    # JSON, schema and decoding errors of what came back; protobuf's are no ValueErrors
    if isinstance(error, ValueError) or type(error).__module__ == "google.protobuf.json_format":
        return "unreadable", "no_reply"
    raise error


def _status(error: Exception) -> int | None:
    """The HTTP status that an error of urllib, google-genai or google-api-core carries."""
    code = getattr(error, "code", None)
    return int(code) if isinstance(code, int) else None


def secret(config: JudgeConfig) -> str | None:
    return next((value for name in _KEYS[config.provider] if (value := os.environ.get(name, "").strip())), None)


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its parent package is missing too
        return False
