"""How to ask each judging service: a table of factories, `(config, key) -> ask`, and `ask(prompt) -> reply or None`.

None is an answer without text: blocked, or empty. One that the service broke off raises Unfinished, whatever there is of it: a
`{"score": 1}` that was cut may be the beginning of more. A service that fails raises what its SDK raises; `judge` knows what each
means. None of them retries by itself, and none is sent temperature or top_p, which Gemini has deprecated.
"""

from __future__ import annotations

import json
import re
import urllib.request
import warnings
from collections.abc import Callable
from typing import Any, Final

from gwen25.config import JudgeConfig

Ask = Callable[[str], str | None]

_GEMINI: Final = "https://generativelanguage.googleapis.com/"
_OPENAI: Final = "https://api.openai.com/v1"
_REPLY_BYTES: Final = 1 << 20  # a score is some 20 bytes; a server that sends more than 1 MiB is not read to its end
_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"score": {"type": "number"}},
    "required": ["score"],
    "additionalProperties": False,
}
# Gemini's for a whole answer; some proxies give none. google-generativeai takes a reason that it does not know for unspecified
_ENDED: Final = frozenset({"", "stop"})
# OpenAI's, then those of Mistral, DeepSeek and vLLM; other servers have words of their own for a whole answer too
_BROKEN_OFF: Final = frozenset({"length", "content_filter", "model_length", "error", "insufficient_system_resource", "abort"})


class Unfinished(ValueError):
    """The answer was cut off, or filtered. `why`: the service's own word, as a name."""

    def __init__(self, why: str):
        self.why = re.sub(r"\W+", "_", why, flags=re.ASCII)[:40]
        super().__init__(f"the answer was broken off: {self.why}")


def _google_genai(config: JudgeConfig, key: str) -> Ask:
    """Gemini by google-genai, its supported SDK."""
    from google import genai
    from google.genai import types

    # the endpoint is given even where it is the default: GOOGLE_GEMINI_BASE_URL would change it behind the run's key
    http = types.HttpOptions(base_url=config.base_url or _GEMINI, timeout=round(config.timeout_seconds * 1000))
    client = genai.Client(api_key=key, vertexai=False, http_options=http)  # `ask` keeps it: a collected client closes its transport
    settings = types.GenerateContentConfig(response_mime_type="application/json", response_json_schema=_SCHEMA)

    def ask(prompt: str) -> str | None:
        response = client.models.generate_content(model=config.model, contents=prompt, config=settings)
        finish = response.candidates[0].finish_reason if response.candidates else None
        _require_end(finish.name if finish else "")
        return response.text

    return ask


def _google_generativeai(config: JudgeConfig, key: str) -> Ask:
    """Gemini by google-generativeai, at its end of life. Over REST: gRPC would go round proxies and the time-out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # it says at each import that its support has ended; docs say so once
        import google.generativeai as legacy

    endpoint = {"api_endpoint": config.base_url} if config.base_url else None
    legacy.configure(api_key=key, transport="rest", client_options=endpoint)
    model = legacy.GenerativeModel(config.model, generation_config={"response_mime_type": "application/json"})

    def ask(prompt: str) -> str | None:
        # retry None: by itself it would try a 503 for 600 s, whatever the time-out
        response = model.generate_content(prompt, request_options={"timeout": config.timeout_seconds, "retry": None})
        if not response.candidates:
            return None
        finish = response.candidates[0].finish_reason
        _require_end(getattr(finish, "name", str(finish)))
        # not `response.text`, which raises where a candidate has no part
        return "".join(part.text for part in response.candidates[0].content.parts) or None

    return ask


def _require_end(reason: str) -> None:
    """Raises Unfinished for any reason of Gemini's but a whole answer."""
    if reason.lower() not in _ENDED:
        raise Unfinished(reason.lower())


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another host: it is an HTTP error instead."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _openai(config: JudgeConfig, key: str) -> Ask:
    """Any server that speaks OpenAI's chat completions: vLLM, llama.cpp, Ollama. The key is optional."""
    url = (config.base_url or _OPENAI).rstrip("/") + "/chat/completions"
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    shape = {"type": "json_schema", "json_schema": {"name": "score", "strict": True, "schema": _SCHEMA}}
    opener = urllib.request.build_opener(_NoRedirect)

    def ask(prompt: str) -> str | None:
        body = {"model": config.model, "messages": [{"role": "user", "content": prompt}], "response_format": shape}
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)
        with opener.open(request, timeout=config.timeout_seconds) as response:
            reply = json.loads(response.read(_REPLY_BYTES))
        try:
            choice = reply["choices"][0]
            finish, text = choice.get("finish_reason"), (choice.get("message") or {}).get("content")
        except (AttributeError, KeyError, IndexError, TypeError):
            return None
        if isinstance(finish, str) and finish in _BROKEN_OFF:
            raise Unfinished(finish)
        return text if isinstance(text, str) and text else None

    return ask


PROVIDERS: Final[dict[str, Callable[[JudgeConfig, str], Ask]]] = {
    "google-genai": _google_genai,
    "google-generativeai": _google_generativeai,
    "openai": _openai,
}
