"""What a user means by REF in `gwen25 chat REF`: which kind of model, where it lies, and the chat format it was trained in.

    find("merge:3f2a") -> Model(kind="model", path=..., ...)

    merge:3f2a, ollama:3f2a, champion   the store's artifacts and aliases; a path that `gwen25 list` prints
    models/my-model, my-adapter         a directory in the Hugging Face layout, or PEFT's
    model.gguf                          a file, or a directory that holds one
    ollama:gwen25                       a name at the Ollama server; one that begins a key of the store is written with its tag
    sample:tiny-qwen2                   a packaged base model
    owner/name                          a model or an adapter on the hub

The format is a fact of an artifact; elsewhere it is known by its template. A model whose template is none of ours was not trained in
our format: it is spoken to in it all the same, with a warning. Nothing is loaded here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from gwen25 import modeling, models, ollama_api, resolve
from gwen25.artifacts import Artifact, Manifest, Store, Warn, home
from gwen25.chat import FORMATS, ChatFormat
from gwen25.config import Config
from gwen25.errors import BadInput
from gwen25.gguf_header import read_header
from gwen25.ollama_api import Ollama
from gwen25.stage import STAGES
from gwen25.tokenizer_files import template as template_of

OLLAMA: Final = "ollama:"
DEFAULT: Final = FORMATS[Config.model_fields["chat_format"].default]


@dataclass(frozen=True, slots=True)
class Model:
    """One form of a model. `path`: its directory or file ("ollama": its name at the server); `base`: an adapter's base model."""

    kind: Literal["adapter", "model", "gguf", "ollama"]
    name: str
    path: str
    format: ChatFormat
    base: Path | None = None


def find(reference: str, base: str | None = None, warn: Warn = lambda _: None) -> Model:
    """What `reference` names. `base` names the base model of an adapter that does not say where its own is.

    Raises BadInput for a name of nothing, Unavailable where a hub or a server must be asked and does not answer.
    """
    for name, what in ((reference, "the model's name"), (base, "--base")):
        if name is not None and not name.strip():  # Path("") would be the current folder
            raise BadInput(f"{what} is empty; `gwen25 list` shows what the store holds")
    if reference.startswith(OLLAMA):
        return _packaged(reference, base, warn) or _ollama(reference.removeprefix(OLLAMA), warn)
    if reference.startswith(resolve.SAMPLE_PREFIX):
        return _directory(_base_folder(reference, None, warn), reference, None, warn)
    path, store = Path(reference).expanduser(), Store.default()
    if reference in store.aliases() or reference.partition(":")[0] in STAGES:
        return _artifact(store.resolve(reference), base, warn)
    if _exists(path):
        return _path(path, reference, base, warn)
    if reference.partition("@")[0] == "champion":
        store.resolve(reference)  # says how one is named
    if reference.endswith(".gguf") or reference.startswith((".", "/", "~")):
        raise BadInput(f"no such file or directory: {reference}")
    if reference.count("/") != 1:
        raise BadInput(
            f"{reference!r} is no path, no alias, no store reference such as merge:3f2a (`gwen25 list` shows them), no hub id such as "
            "owner/name, and no Ollama name, which is written ollama:NAME"
        )
    external, _ = resolve.base_model(_config(reference), warn)
    return _directory(modeling.fetch(reference, external["revision"]), reference, base, warn)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # too long for a file name
        return False


def _config(base_model: str) -> Config:
    return Config().model_copy(update={"base_model": base_model})


def _path(path: Path, name: str, base: str | None, warn: Warn) -> Model:
    """A file or directory: an artifact's own folder (or the payload in it) keeps what its manifest says."""
    if path.is_file():
        return _gguf(path, name, warn)
    folder = path.parent if path.name == "payload" else path
    if (folder / "manifest.json").is_file() and (folder / "payload").is_dir():
        manifest = Manifest.read(folder)
        return _artifact(Artifact(stage=manifest.stage, key=manifest.key, digest=manifest.digest, path=folder), base, warn)
    return _directory(path, name, base, warn)


def _artifact(artifact: Artifact, base: str | None, warn: Warn) -> Model:
    name, manifest = f"{artifact.stage}:{artifact.key[:8]}", Manifest.read(artifact.path)
    if artifact.stage in ("dataset", "score", "evaluate"):
        raise BadInput(f"{name} is no model; `gwen25 list` shows what the store holds: sft, grpo, adapters, merge, gguf or ollama can talk")
    format = modeling.chat_format(manifest.facts, name)
    if artifact.stage == "merge":
        return Model("model", name, str(artifact.payload), format)
    if artifact.stage in ("gguf", "ollama"):
        return Model("gguf", name, str(artifact.payload / manifest.facts["file"]), format)
    folder = _base_folder(base or manifest.config["base_model"], manifest.facts["base_model"], warn)
    return Model("adapter", name, str(artifact.payload), format, folder)


def _directory(path: Path, name: str, base: str | None, warn: Warn) -> Model:
    if (path / modeling.ADAPTER_CONFIG).is_file():
        folder = _base_of(path, base, warn)
        return Model("adapter", name, str(path), _format(template_of(path) or template_of(folder), name, warn), folder)
    if (path / "config.json").is_file():
        models.inspect(path)
        return Model("model", name, str(path), _format(template_of(path), name, warn))
    files = sorted(path.glob("*.gguf"))
    if len(files) == 1:
        return _gguf(files[0], name, warn)
    raise BadInput(
        f"{name} holds {len(files)} GGUF files: name one"
        if files
        else f"{name} holds no model: neither config.json, nor {modeling.ADAPTER_CONFIG}, nor a .gguf file"
    )


def _gguf(file: Path, name: str, warn: Warn) -> Model:
    return Model("gguf", name, str(file), _format(read_header(file).fields.get("tokenizer.chat_template"), name, warn))


def _packaged(reference: str, base: str | None, warn: Warn) -> Model | None:
    """The store's ollama artifact whose key begins so, if there is one: the GGUF in the package needs no server."""
    store, prefix = Store(home() / "store"), reference.removeprefix(OLLAMA)  # read only: a server's name needs no store
    return _artifact(store.resolve(reference), base, warn) if prefix and store.keys("ollama", prefix) else None


def _ollama(name: str, warn: Warn) -> Model:
    if not name:
        raise BadInput("ollama: needs a name, such as ollama:gwen25; `ollama list` shows the server's")
    server = Ollama(ollama_api.server_url())
    server.version()  # says so where something else answers
    try:
        template = server.show(name).get("template")
    except BadInput as error:
        raise BadInput(f"{error}; the server has: {', '.join(server.models()) or 'no model'}") from error
    format = next((format for format in FORMATS.values() if format.ollama == template), None)
    if format is None:
        warn(f"{name} has another template than {DEFAULT.name}: the server renders with that")
    return Model("ollama", f"{OLLAMA}{name}", name, format or DEFAULT)


# ------------------------------------------------------------------------------------------------------------ bases and formats


def _base_of(adapter: Path, base: str | None, warn: Warn) -> Path:
    """The base of an adapter directory: `base`, else what its config names; held against a digest where the config has one."""
    config: Mapping[str, Any] = modeling.read_adapter_config(adapter)
    named = str(config.get("base_model_name_or_path") or "")
    pinned = {"digest": named.removeprefix("sha256:")} if named.startswith("sha256:") else None
    if base is None and (pinned or not named):
        raise BadInput(f"{adapter} does not say where its base model is ({named or 'none named'}): give it with --base")
    if base is None and not _exists(Path(named)) and config.get("revision"):
        return modeling.fetch(named, str(config["revision"]))
    return _base_folder(base or named, pinned, warn)


def _base_folder(named: str, pinned: Mapping[str, Any] | None, warn: Warn) -> Path:
    """A base model's directory, fetched where it is the hub's. Raises BadInput for another one than the `pinned`."""
    if pinned is not None and pinned.get("id") == named:
        return modeling.fetch(named, pinned["revision"])
    external, folder = resolve.base_model(_config(named), warn)
    if pinned is not None and pinned != external:
        raise BadInput(f"{named} is not the base that the adapter was trained on, {models.name_of(pinned)}: give that one with --base")
    return modeling.fetch(external["id"], external["revision"]) if folder is None else Path(folder)


def _format(template: str | None, name: str, warn: Warn) -> ChatFormat:
    for format in FORMATS.values():
        if format.jinja == template:
            return format
    warn(f"{name} has {'another' if template else 'no'} chat template: it was not trained in {DEFAULT.name}, in which it is spoken to")
    return DEFAULT
