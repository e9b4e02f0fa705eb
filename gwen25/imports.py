"""What gwen25 did not train, taken into the store, so that the flows' nodes can stand on it.

    artifact = adapter("my-adapter", base=None, warn=print)      an artifact of the stage `adapters`
    artifact = model("my-model", warn=print)                     an artifact of the stage `merge`

Its files are copied: what the user does to the folder later changes no artifact. The key is made of what was found: hub id and revision or
the files' digest, the base's, the chat format. The fact `outside` says where the lineage ends; data, recipe and what else nobody
told are unknown. The one thing that must be known is the chat format, by its template: every node after these proves prompts in it.
Not here: what a name means (`outside`), packaging with a template of one's own (`gwen25 merge`, `gguf` and `ollama` on files).
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from gwen25 import job, lora, modeling, models, outside, resolve, stage, tokenizer_files
from gwen25.artifacts import Artifact, Made, Manifest, Store, Warn
from gwen25.chat import FORMATS
from gwen25.config import Config
from gwen25.errors import BadInput, Unavailable
from gwen25.outside import Place

_MODEL_FILES: Final = ("config.json", "generation_config.json", "README.md", *tokenizer_files.FILES)


def is_adapter(name: str, warn: Warn) -> bool:
    """Whether a name that is none of the store's leads to an adapter, on this machine or on the hub."""
    if resolve.is_path(name):
        return (Path(name).expanduser() / lora.CONFIG).is_file()
    if name.startswith(resolve.SAMPLE_PREFIX) or name.count("/") != 1:
        return False
    try:
        external, _ = resolve.base_model(Config().model_copy(update={"base_model": name}), warn)
        resolve.hub_file(name, lora.CONFIG, external["revision"])
    except (BadInput, Unavailable):  # not there, or not to be had: whoever takes it for a model will say so
        return False
    return True


def adapter(name: str, base: str | None, warn: Warn) -> Artifact:
    """Raises BadInput for an adapter that lacks something, or that nobody can tell how to prompt."""
    found = outside.adapter(name, base, warn)
    identity = {"digest": resolve.folder_digest(found.base)} if found.hub is None else dict(found.hub)
    tokenizer = tokenizer_files.folder(found.path, found.base)
    if added := tokenizer_files.added_tokens(found.path, found.base):
        raise BadInput(f"{name} adds tokens to its base's ({', '.join(added)}), which the flow's merge does not keep; `gwen25 merge` does")
    config = lora.read_config(found.path)
    facts = {
        "base_model": identity,
        "chat_format": _chat_format(tokenizer, name),
        "license": models.licence(identity, found.base),
        "context": models.inspect(found.base).context,
        "adapter": {"rank": config["r"]},
    }
    files = _pinned(found.path, [lora.WEIGHTS, *(file for file in tokenizer_files.FILES if (found.path / file).is_file())])

    def write(payload: Path) -> None:
        _copy(found.path, payload, files)
        job.write_json(payload / lora.CONFIG, modeling.portable_config(config, identity))

    settings = {"base_model": str(found.base) if found.hub is None else found.hub["id"]}
    return _enter("adapters", found.place, files | {lora.CONFIG: _digest(config)}, facts, settings, write, warn)


def model(name: str, warn: Warn) -> Artifact:
    """Raises BadInput for a model that lacks something, or that nobody can tell how to prompt."""
    place = outside.model(name, warn).place
    checkpoint, weights = models.inspect(place.path), models.weight_files(place.path)
    index = ["model.safetensors.index.json"] if len(weights) > 1 else []
    names = [file.name for file in weights] + index + [file for file in _MODEL_FILES if (place.path / file).is_file()]
    files = _pinned(place.path, names)
    identity = dict(place.hub) if place.hub else {"digest": _digest(files)}
    facts = {
        "base_model": identity,
        "chat_format": _chat_format(place.path, name),
        "license": models.licence(identity, place.path),
        "context": checkpoint.context,
        "dtype": checkpoint.dtype,
        "bytes": sum(file.stat().st_size for file in weights),
    }
    return _enter("merge", place, files, facts, {}, lambda payload: _copy(place.path, payload, files), warn)


def _chat_format(tokenizer: Path, name: str) -> dict[str, str]:
    """The format whose template the tokenizer holds."""
    template = (tokenizer_files.template(tokenizer) or "").rstrip("\n")
    for format in FORMATS.values():
        if format.jinja.rstrip("\n") == template:
            return {"name": format.name, "digest": format.digest}
    raise BadInput(
        f"{name} is prompted by {'a chat template that is none' if template else 'no chat template, so by none'} of gwen25's "
        f"({', '.join(FORMATS)}), and this flow proves every prompt in one. `gwen25 merge`, `gwen25 gguf` and `gwen25 ollama` take it "
        "with its own. If it was trained in one of gwen25's, save the tokenizer with that template beside it (chat_template.jinja)"
    )


# ----------------------------------------------------------------------------------------------------------- into the store


def _enter(
    name: str,
    place: Place,
    files: Mapping[str, str],
    facts: dict[str, Any],
    settings: dict[str, Any],
    write: Callable[[Path], None],
    warn: Warn,
) -> Artifact:
    """The artifact of these files: found, or copied under the key's lock."""
    if place.manifest is not None:
        raise BadInput(f"{place.name} is an artifact of a store; name it as `gwen25 list` does")
    source = dict(place.hub) if place.hub else {"digest": _digest(files)}
    parts = ["outside", name, source, _digest(files), facts["base_model"], facts["chat_format"]]
    store, key = Store.default(), _digest(parts)[:32]
    with store.lock(name, key, lambda: None):
        if (found := store.find(name, key, warn)) is not None:
            return found
        started, work = time.time(), store.work(name, key)
        shutil.rmtree(work, ignore_errors=True)
        for folder in (work / "payload", work / "aside"):
            folder.mkdir(parents=True)
        _require_room(store, place.path, files)
        write(work / "payload")
        warn(f"{place.name} is taken into the store as {name}:{key[:8]}: gwen25 did not train it, so its data and recipe are unknown")
        made = Made(
            stage=name,
            version=stage.STAGES[name].version,
            key=key,
            config=settings,
            externals={"outside": source},
            inputs={},
            facts={**facts, "outside": source},
            metrics={},
            provenance={**job.provenance(), "seconds": round(time.time() - started, 3), "micro_batch": None, "attempts": 1},
        )
        artifact = store.publish(made)
    copied = Manifest.read(artifact.path).files
    if changed := [file for file, digest in files.items() if file != lora.CONFIG and copied[file].sha256 != digest]:
        store.set_aside(name, key)
        raise BadInput(f"{place.path / changed[0]} changed while it was copied; leave it alone and run again")
    return artifact


def _pinned(folder: Path, names: list[str]) -> dict[str, str]:
    return {name: resolve.file_digest((folder / name).resolve()) for name in sorted(names)}


def _copy(source: Path, payload: Path, files: Mapping[str, str]) -> None:
    for name in files:
        shutil.copyfile(source / name, payload / name)


def _require_room(store: Store, source: Path, files: Mapping[str, str]) -> None:
    need = sum((source / name).stat().st_size for name in files)
    if need > (free := shutil.disk_usage(store.root).free):
        raise BadInput(
            f"the store takes a copy of {need / 1e9:.1f} GB, and its disk has {free / 1e9:.1f} GB free; set GWEN25_HOME to a larger one"
        )


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":"), default=sorted).encode()).hexdigest()
