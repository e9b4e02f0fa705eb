"""What is published tells nothing of this machine: paths that loaders note are taken out, and whatever else tells one is refused.

    text, names = cleaned(file, "Qwen/Qwen2.5-3B")     a config's text without paths in its bookkeeping keys; None where it has none
    require_clean(files)                               BadInput for a path of this machine or a secret of its environment

Read are all texts, a GGUF's keys and a safetensors file's `__metadata__`. Not searched for paths: vocabularies, whose entries are
pieces of anybody's text, "/root" among them. Not here: how files are sent (`send`).
"""

from __future__ import annotations

import json
import os
import pwd
import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from gwen25.artifacts import home
from gwen25.errors import BadInput
from gwen25.gguf_header import read_header
from gwen25.job import Redactor

_LARGE: Final = 64 << 20  # bytes: a larger file is no text
# /x/y, ~/x, C:\x, \\server\x: a whole value, from its start. A single "/" or "/think" is a token or a switch.
_ABSOLUTE: Final = re.compile(r"(?:file://)?(?:/[^/\s]+/[^/\s]|~[/\\][^/\s]|[A-Za-z]:[\\/][^/\s]|\\\\[^\\\s])")
_NOTED: Final = ("_name_or_path", "name_or_path", "base_model_name_or_path")  # where a loader notes what it was given
_BASE: Final = "base_model_name_or_path"
_VOCABULARIES: Final = ("vocab.json", "vocab.txt", "merges.txt", "added_tokens.json", "special_tokens_map.json")
_ENTRIES: Final = ("model", "added_tokens", "added_tokens_decoder")  # keys of tokenizer files that hold entries of a vocabulary


def cleaned(file: Path, base: str) -> tuple[str | None, list[str]]:
    """The text of a config whose bookkeeping keys held a path, without it, and these keys. An adapter then names `base`."""
    config = _json(file)
    if config is None or file.name in (*_VOCABULARIES, "tokenizer.json"):
        return None, []
    taken: list[str] = []
    kept = _without_paths(config, base, taken)
    return (json.dumps(kept, ensure_ascii=False, indent=2) + "\n", taken) if taken else (None, [])


def _without_paths(value: Any, base: str, taken: list[str]) -> Any:
    if isinstance(value, list):
        return [_without_paths(one, base, taken) for one in value]
    if not isinstance(value, dict):
        return value
    kept = {}
    for key, inner in value.items():
        if key in _NOTED and isinstance(inner, str) and _ABSOLUTE.match(inner):
            taken.append(key)
            if key == _BASE:  # PEFT finds the base by it
                kept[key] = base
        else:
            kept[key] = _without_paths(inner, base, taken)
    return kept


def require_clean(files: Mapping[str, Path | str]) -> None:
    """Raises BadInput by the name of the first file that would tell a path of this machine or a secret."""
    places, redact = _places(), Redactor()
    for name, file in files.items():
        text, values = _read(name, file)
        if redact(text) != text or any(redact(one) != one for one in values):
            raise BadInput(f"{name} holds a secret of this environment (the value of a variable such as HF_TOKEN): nothing is sent")
        searched = [*values, "" if _is_vocabulary(file) else text]
        found = next((match[0] for one in searched if (match := places.search(one))), None)
        found = found or next((one for one in values if _ABSOLUTE.match(one)), None)
        if found:
            raise BadInput(
                f"{name} would tell the path {found[:200]} of this machine: nothing is sent; make the artifact again (--refresh) without it"
            )


def _places() -> re.Pattern[str]:
    """The folders of this machine that tell of its user, each as a whole path or the start of one: "/root" is not in "/rootfs"."""
    homes = (Path.home(), Path(pwd.getpwuid(os.getuid()).pw_dir), home())
    here = (Path.cwd(),) if len(Path.cwd().parts) > 2 else ()  # "/app" or "/tmp" tell nothing
    places = sorted({str(path) for path in (*homes, *here) if path.is_absolute() and path != Path("/")}, key=len, reverse=True)
    return re.compile(rf"(?<![\w.-])(?:{'|'.join(map(re.escape, places))})(?![\w-]|\.\w)")


def _is_vocabulary(file: Path | str) -> bool:
    return isinstance(file, Path) and file.name in (*_VOCABULARIES, "tokenizer.json")


def _read(name: str, file: Path | str) -> tuple[str, list[str]]:
    """The text that a reader of the file could read, and the values in it that stand alone (of JSON, and of a GGUF's keys)."""
    if isinstance(file, str):
        return file, list(_strings(json.loads(file))) if name.endswith(".json") else []
    if file.suffix == ".gguf":
        lists = ("tokenizer.ggml.tokens", "tokenizer.ggml.merges")
        return "", list(_strings({key: value for key, value in read_header(file).fields.items() if key not in lists}))
    if file.suffix == ".safetensors":
        return "", list(_strings(_safetensors_metadata(file)))
    if file.stat().st_size > _LARGE:
        return "", []
    text = file.read_text(encoding="utf-8", errors="replace")
    return text, [] if file.name in _VOCABULARIES else list(_strings(_less_entries(file, _json(file))))


def _less_entries(file: Path, value: Any) -> Any:
    if not file.name.startswith("tokenizer") or not isinstance(value, dict):
        return value
    return {name: one for name, one in value.items() if name not in _ENTRIES}


def _json(file: Path) -> Any:
    """None for what is no JSON."""
    if file.suffix != ".json" or file.stat().st_size > _LARGE:
        return None
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return None


def _safetensors_metadata(file: Path) -> Any:
    """What a trainer wrote into the header. Empty for a file without a header: that it is whole is another's question."""
    try:
        with file.open("rb") as data:
            (length,) = struct.unpack("<Q", data.read(8))
            header = json.loads(data.read(length)) if length <= file.stat().st_size - 8 else {}
    except (ValueError, struct.error):
        return {}
    return header.get("__metadata__", {}) if isinstance(header, dict) else {}


def _strings(value: Any) -> Iterator[str]:
    """Every string value in it."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _strings(one)
