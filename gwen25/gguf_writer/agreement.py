"""tokenizer.json and the files beside it must name the same added tokens: transformers gives ids to those it lacks, and a GGUF lacks them.

    require_agreement(model_dir, Held(ids, added, controls))

tokenizer_config.json counts always. Its two elders, special_tokens_map.json and added_tokens.json, count where it has no
added_tokens_decoder: only then transformers, and llama.cpp's converter by it, reads them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from gwen25.errors import BadInput

_MEND: Final = "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) writes all anew"


class Held(NamedTuple):
    """What tokenizer.json holds: every token's id, the added ones, and of these the ones that are special, or look so to llama.cpp."""

    ids: Mapping[str, int]
    added: set[str]
    controls: set[str]


def looks_special(token: str) -> bool:
    """llama.cpp's opinion of an added token that is not marked as special."""
    return token in ("<pad>", "<mask>") or (token.startswith(("<|", "<｜", "<unused")) and token.endswith(("|>", "｜>", ">")))


def require_agreement(model_dir: Path, held: Held) -> None:
    """Raises BadInput, naming file and token, where a file that transformers reads names an added token otherwise."""
    settings = _read(model_dir / "tokenizer_config.json")
    _refuse(model_dir / "tokenizer_config.json", settings, held)
    if "added_tokens_decoder" in settings:
        return
    roles = _read(file := model_dir / "special_tokens_map.json")
    _refuse(file, roles, held)
    for role in sorted(settings.keys() & roles.keys()):
        if role.endswith("_token") and settings[role] is not None and (one := _content(settings[role])) != (other := _content(roles[role])):
            raise BadInput(f"{file} says that {role} is {other!r}, tokenizer_config.json {one!r}; {_MEND}")
    added = _read(file := model_dir / "added_tokens.json")
    if wrong := [token for token, row in added.items() if token not in held.added or held.ids.get(token) != row]:
        raise _differs(file, wrong[0])


def _refuse(file: Path, told: Mapping[str, Any], held: Held) -> None:
    try:
        decoder = {int(row): token for row, token in (told.get("added_tokens_decoder") or {}).items()}
        wrong = [token["content"] for row, token in decoder.items() if not _agrees(held, row, token)]
        wrong += [token for token in _named(told) if token not in held.controls]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{file} cannot be read: {error!r}") from error
    if wrong:
        raise _differs(file, wrong[0])


def _differs(file: Path, token: str) -> BadInput:
    return BadInput(
        f"{file} names the added token {token!r}, which tokenizer.json does not hold, or holds with another id or as not special; {_MEND}"
    )


def _read(file: Path) -> dict[str, Any]:
    """{} for a file that is not there."""
    if not file.is_file():
        return {}
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{file} cannot be read: {error!r}") from error
    if not isinstance(told, dict):
        raise BadInput(f"{file} cannot be read: it is no mapping")
    return told


def _agrees(held: Held, row: int, token: Mapping[str, Any]) -> bool:
    content = token["content"]
    special = bool(token.get("special", False)) or looks_special(content)
    return held.ids.get(content) == row and special == (content in held.controls)


def _named(told: Mapping[str, Any]) -> list[str]:
    """The tokens that have a part to play: eos_token, pad_token ..., and those of the lists."""
    named = [value for key, value in told.items() if key.endswith("_token") and not isinstance(value, bool)]
    for key in ("additional_special_tokens", "extra_special_tokens", "model_specific_special_tokens"):
        more = told.get(key) or []
        named += more.values() if isinstance(more, dict) else more
    return [_content(token) for token in named if token is not None]


def _content(token: Any) -> str:
    """A token's text: itself, or the `content` of a mapping."""
    return str(token["content"] if isinstance(token, dict) else token)
