"""Models and adapters that gwen25 did not train: where a name leads, what they lack, and who makes it.

    adapter("my-adapter", base=None, warn=print)      -> Adapter: its folder, and its base's
    model("Qwen/Qwen2.5-0.5B", warn=print)            -> Model: its folder
    gguf_file("model.gguf", warn=print)               -> the file

A name is a directory, a hub id, a store reference (an alias too), a packaged `sample:` model. What is none, or is another form of a
model than the one asked for, is a BadInput that says which command makes the right one. Nothing is loaded, and no code of a
checkpoint ever runs. Not here: the chat format in which `gwen25 chat` speaks to them (`references`), how they enter the store (`imports`),
their tokenizers (`tokenizer_files`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gwen25 import given, lora, modeling, models, resolve
from gwen25.artifacts import Artifact, Manifest, Store, Warn
from gwen25.config import Config
from gwen25.errors import BadInput

ADAPTERS: Final = ("sft", "grpo", "adapters")  # stages that make one


@dataclass(frozen=True, slots=True)
class Place:
    """Where a name leads: a file or folder, and the artifact's manifest where it is the store's. `hub`: id and revision."""

    name: str
    path: Path
    manifest: Manifest | None = None
    hub: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter and its base's folder. `hub`: the base's id and revision, None where it is a folder of this machine."""

    place: Place
    base: Path
    hub: Mapping[str, str] | None

    @property
    def path(self) -> Path:
        return self.place.path


@dataclass(frozen=True, slots=True)
class Model:
    place: Place

    @property
    def path(self) -> Path:
        return self.place.path


def adapter(name: str, base: str | None, warn: Warn) -> Adapter:
    """An adapter and its base. `base` stands over what the adapter's config names."""
    place = find(name, warn)
    _require_stage(place, ADAPTERS, "an adapter")
    _require_adapter(place)
    config = lora.read_config(place.path)
    return Adapter(place, *_base(place, config, base, warn))


def model(name: str, warn: Warn) -> Model:
    """A whole model's directory, complete and of an architecture that is known here."""
    place = find(name, warn)
    _require_stage(place, ("merge",), "a whole model")
    require_model(place.path, name)
    return Model(place)


def gguf_file(name: str, warn: Warn) -> tuple[Path, Manifest | None]:
    """A GGUF: a file, a folder that holds one, or an artifact of the stages gguf and ollama."""
    place = find(name, warn)
    _require_stage(place, ("gguf", "ollama"), "a GGUF")
    if place.manifest is not None:
        return place.path / place.manifest.facts["file"], place.manifest
    if place.path.is_file():
        return place.path, None
    files = sorted(place.path.glob("*.gguf"))
    if len(files) == 1:
        return files[0], None
    if files:
        raise BadInput(f"{name} holds {len(files)} GGUF files: name one")
    raise BadInput(f"{name} is {_kind(place.path)}, no GGUF file; {_made_by(place.path, name)}")


# --------------------------------------------------------------------------------------------------------- where a name leads


def find(name: str, warn: Warn) -> Place:
    """Raises BadInput for a name of nothing, Unavailable where the hub must be asked and does not answer."""
    if name.startswith(("http://", "https://")):
        raise BadInput(f"{name} is an address; what a server serves is not given away: name the model's files")
    path = Path(name).expanduser()
    if resolve.is_path(name):
        return _on_disk(path.absolute(), name)
    if name.endswith(".gguf"):
        raise BadInput(f"no such file: {name}")
    if (artifact := given.stored(name, Store.default())) is not None:
        return _stored(artifact)
    if not name.startswith(resolve.SAMPLE_PREFIX) and name.count("/") != 1:
        raise BadInput(
            f"{name!r} is no path, alias, store reference such as merge:3f2a (`gwen25 list` shows them) or hub id such as owner/name"
        )
    folder, hub = base_folder(name, warn)
    return Place(name, folder, hub=hub)


def _on_disk(path: Path, name: str) -> Place:
    """A path of the user's. An artifact's own folder, or the payload in it, keeps what its manifest says."""
    if not path.exists():
        raise BadInput(f"no such file or directory: {name}")
    folder = path.parent if path.name == "payload" else path
    if (folder / "manifest.json").is_file() and (folder / "payload").is_dir():
        return Place(name, folder / "payload", Manifest.read(folder))
    return Place(name, path)


def _stored(artifact: Artifact) -> Place:
    return Place(f"{artifact.stage}:{artifact.key[:8]}", artifact.payload, Manifest.read(artifact.path))


def base_folder(name: str, warn: Warn) -> tuple[Path, Mapping[str, str] | None]:
    """The folder of a model by its path, hub id or sample name; and id and revision where it is the hub's."""
    if resolve.is_path(name):
        return Path(name).expanduser().absolute(), None
    external, folder = resolve.base_model(Config().model_copy(update={"base_model": name}), warn)
    if folder is not None:
        return Path(folder), None
    return modeling.fetch(external["id"], external["revision"]), external


def _base(place: Place, config: Mapping[str, Any], base: str | None, warn: Warn) -> tuple[Path, Mapping[str, str] | None]:
    """The folder of an adapter's base; and id and revision where it is the hub's."""
    named = str(config.get("base_model_name_or_path") or "")
    if place.manifest is not None:  # the store knows the base's path, which no file of the adapter tells
        named = str(place.manifest.config.get("base_model") or named)
    if base is None and (not named or named.startswith("sha256:")):
        raise BadInput(f"{place.name} does not say where its base model is ({named or 'none named'}): give it with --base")
    if base is None and named.startswith((".", "/", "~")) and not Path(named).expanduser().exists():
        raise BadInput(f"{place.name} was trained on {named}, which is not here: give its base model with --base")
    try:
        folder, hub = base_folder(base or named, warn)
        require_model(folder, base or named)
    except BadInput as error:
        raise BadInput(f"the base model of {place.name}: {error}" + ("" if base else "; --base names another")) from error
    if place.manifest is not None and (pinned := place.manifest.facts["base_model"]) != (hub or {"digest": resolve.folder_digest(folder)}):
        raise BadInput(f"{base or named} is not the base that {place.name} was trained on, {models.name_of(pinned)}; --base names another")
    return folder, hub


# ----------------------------------------------------------------------------------------------------- what it is, what it lacks


def _kind(path: Path) -> str:
    if path.is_file():
        return "a GGUF file" if path.suffix == ".gguf" else "a file"
    if (path / lora.CONFIG).is_file():
        return "an adapter"
    if (path / "config.json").is_file():
        return "a model directory"
    return "no model: it has neither config.json nor adapter_config.json"


def _made_by(path: Path, name: str) -> str:
    """Which command makes a GGUF of what is there."""
    if (path / lora.CONFIG).is_file():
        return f"`gwen25 merge {name} OUT_DIR` makes a model of it, and `gwen25 gguf OUT_DIR FILE.gguf` the file"
    return f"`gwen25 gguf {name} FILE.gguf` makes it"


def _require_stage(place: Place, stages: tuple[str, ...], what: str) -> None:
    """Raises BadInput for an artifact of another kind than is asked for."""
    if place.manifest is None or place.manifest.stage in stages:
        return
    stage, label = place.manifest.stage, f"{place.manifest.stage}:{place.manifest.key[:8]}"
    if what == "a whole model" and stage in ADAPTERS:
        raise BadInput(f"{label} is an adapter; `gwen25 merge {label} OUT_DIR` makes a model of it")
    if what == "a GGUF" and stage in (*ADAPTERS, "merge"):
        raise BadInput(f"{label} is no GGUF; {_made_by(place.path, label)}")
    raise BadInput(f"{label} is of the stage {stage}; {what} is expected, such as {stages[-1]}:3f2a (`gwen25 list` shows them)")


def _require_adapter(place: Place) -> None:
    path, name = place.path, place.name
    if not (path / lora.CONFIG).is_file():
        if path.is_dir() and (path / "config.json").is_file():
            raise BadInput(f"{name} is a whole model, no adapter: there is nothing to merge; `gwen25 gguf {name} FILE.gguf` packs it")
        raise BadInput(f"{name} is {_kind(path)}; an adapter directory in PEFT's layout (adapter_config.json) is expected")
    if (path / lora.WEIGHTS).is_file():
        return
    if (path / lora.PICKLE).is_file():
        raise BadInput(
            f"{name} holds {lora.PICKLE}, a pickle, which can run code as it is read, and is not read here; where you trust it, "
            "PeftModel.from_pretrained(base, FOLDER).save_pretrained(NEW_FOLDER) writes safetensors"
        )
    raise BadInput(f"{name} has no {lora.WEIGHTS}; fetch or save the adapter again")


def require_model(path: Path, name: str) -> models.Checkpoint:
    """Raises BadInput for a model directory that is not whole, quantized, or of another architecture; says what makes what it lacks."""
    if path.is_file():
        raise BadInput(
            f"{name} is {_kind(path)}; a model directory is expected" + (", of which a GGUF is made" if path.suffix == ".gguf" else "")
        )
    if (path / lora.CONFIG).is_file() and not (path / "config.json").is_file():
        raise BadInput(f"{name} is an adapter; `gwen25 merge {name} OUT_DIR` makes a model of it")
    config = models.read_config(path)
    if kind := (config.get("quantization_config") or {}).get("quant_method"):
        raise BadInput(f"{name} is quantized ({kind}); the plain checkpoint that it was made from is needed")
    if not any(path.glob("*.safetensors")) and any(path.glob("*.bin")):
        raise BadInput(
            f"{name} holds its weights as pickles (.bin), which are not read here; where you trust them, "
            "AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER) writes safetensors"
        )
    if not (path / "tokenizer.json").is_file():
        raise BadInput(
            f"{name} has no tokenizer.json; AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) writes it, "
            "FOLDER being the base model's where this one has no tokenizer at all"
        )
    return models.inspect(path)
