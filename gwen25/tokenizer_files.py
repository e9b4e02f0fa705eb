"""A tokenizer as files: whose a merged model gets, and what it says of templates and ends. Nothing of transformers is loaded.

folder(adapter, base)       the adapter's own where it brings one, else the base's; BadInput where the two disagree
template(directory)         its chat template, if it has one
end_token(directory)        the id of its eos, if it names one
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from gwen25 import models
from gwen25.errors import BadInput

FILES: Final = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)


def folder(adapter: Path, base: Path) -> Path:
    """Whose tokenizer a merged model has: the adapter's own where it brings one (it was trained with that), else the base's.

    Raises BadInput for one that names the base's tokens otherwise, or whose tokens have no row in the base's embedding.
    """
    if not (adapter / "tokenizer.json").is_file():
        return base
    mine, theirs, rows = _ids(adapter), _ids(base), models.inspect(base).vocab_size
    if strange := [token for token, row in theirs.items() if mine.get(token) != row]:
        raise BadInput(
            f"the tokenizer in {adapter.name} is another than the base's: {strange[0]!r} is {mine.get(strange[0], 'unknown')} there and "
            f"{theirs[strange[0]]} in the base; --base names the right one"
        )
    if beyond := [token for token, row in mine.items() if row >= rows]:
        raise BadInput(
            f"the tokenizer in {adapter.name} adds {beyond[0]!r} as {mine[beyond[0]]}, and the base's embedding has {rows} rows: it was "
            "trained on a base that was enlarged (resize_token_embeddings); merge it with PEFT, and give the merged model"
        )
    return adapter


def added_tokens(adapter: Path, base: Path) -> list[str]:
    """Tokens that the adapter's tokenizer has and the base's has not."""
    return sorted(_ids(adapter).keys() - _ids(base).keys()) if (adapter / "tokenizer.json").is_file() else []


def template(directory: Path) -> str | None:
    """The chat template that a tokenizer's folder holds, if it holds one."""
    file, settings = directory / "chat_template.jinja", directory / "tokenizer_config.json"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    try:
        found = json.loads(settings.read_text(encoding="utf-8")).get("chat_template")
    except (OSError, ValueError, AttributeError):
        return None
    return found if isinstance(found, str) else None


def end_token(directory: Path) -> int | None:
    """The id of the eos that a tokenizer's folder names, if it names one."""
    try:
        token = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8")).get("eos_token")
    except (OSError, ValueError, AttributeError):
        return None
    return _ids(directory).get(str(token.get("content") if isinstance(token, dict) else token))


def _ids(directory: Path) -> dict[str, int]:
    """Token -> id, of the vocabulary and of what was added to it."""
    file = directory / "tokenizer.json"
    try:
        parts = json.loads(file.read_text(encoding="utf-8"))
        return {**parts["model"]["vocab"], **{token["content"]: token["id"] for token in parts.get("added_tokens") or []}}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{file} cannot be read as a tokenizer: {error!r}") from error
