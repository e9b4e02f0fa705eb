"""Pin what a stage takes from outside, before its key is made.

    resolve("sft", config) -> Resolved(externals={"base_model": {"id": ..., "revision": ...}, ...}, locations={...})

`externals` are part of the key: hub revisions, content digests of local files and folders, of prompts and of the chat
format, the rewards that will really run, whether an Ollama server answers. `locations` say where those things lie here,
and are not. A hub that cannot be reached is answered from its local cache, with a warning, or is an error.

Runs in the flow's process: no torch, no transformers.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from gwen25 import chat, models, ollama_api, rewards, samples
from gwen25.artifacts import Warn, home, sha256_of
from gwen25.config import Config
from gwen25.errors import BadInput, Unavailable, unknown
from gwen25.job import write_json

SAMPLE_PREFIX: Final = "sample:"
_PROMPTS: Final = ("system", "problem_stdin", "problem_function")


@dataclass(frozen=True, slots=True)
class Resolved:
    """`externals` by role (keyed) and `locations` by role (not keyed)."""

    externals: dict[str, Any] = field(default_factory=dict)
    locations: dict[str, str] = field(default_factory=dict)


def resolve(stage: str, config: Config, warn: Warn) -> Resolved:
    """All that `stage` takes from outside. Raises BadInput for what is not there, Unavailable for a hub out of reach."""
    found = Resolved()
    for role, pin in _NEEDS[stage].items():
        external, location = pin(config, warn)
        if external is None:  # not asked for: the key is that of a run from before it could be
            continue
        found.externals[role] = external
        if location is not None:
            found.locations[role] = str(location)
    return found


Pinned = tuple[Any, Path | str | None]


def base_model(config: Config, warn: Warn) -> Pinned:
    """A hub id with its revision, or a directory with its content digest."""
    name = config.base_model
    if name.startswith(SAMPLE_PREFIX):
        folder = _sample_model(name.removeprefix(SAMPLE_PREFIX))
    elif is_path(name):
        folder = Path(name).expanduser().absolute()
        models.inspect(folder)
    else:
        return {"id": name, "revision": _hub_revision("model", name, warn)}, None
    return {"digest": folder_digest(folder)}, folder


def is_path(name: str) -> bool:
    """Whether a name is meant as a local path: it looks like one, or is one."""
    if name.startswith((".", "/", "~")):
        return True
    try:
        return Path(name).exists()
    except OSError:  # too long for a file name
        return False


def _tokenizer(config: Config, warn: Warn) -> Pinned:
    external, folder = base_model(config, warn)
    if folder is None:
        return external, None
    return {"digest": file_digest(Path(folder) / "tokenizer.json")}, folder


def _chat_format(config: Config, warn: Warn) -> Pinned:
    if config.chat_format not in chat.FORMATS:
        raise unknown("chat format", config.chat_format, chat.FORMATS)
    return {"name": config.chat_format, "digest": chat.FORMATS[config.chat_format].digest}, None


def _prompts(config: Config, warn: Warn) -> Pinned:
    return {"digest": chat.prompts_digest(*_PROMPTS)}, None


def _data(config: Config, warn: Warn) -> Pinned:
    return _rows(config.dataset.source, "rows.jsonl", warn)


def _grpo_data(config: Config, warn: Warn) -> Pinned:
    source = config.dataset.grpo_source
    if source is None:
        return None, None
    path = Path(source).expanduser().absolute()
    if not path.is_file():
        raise BadInput(f"dataset.grpo_source: no such file: {path}; a .jsonl or .jsonl.gz file in LiveCodeBench's schema is expected")
    return {"digest": file_digest(path)}, path


def problems(config: Config, warn: Warn) -> Pinned:
    return _rows(config.evaluate.problems, "problems.jsonl", warn)


def _rows(source: str, sample: str, warn: Warn) -> Pinned:
    """A data set: packaged samples, a local file, or a hub data set at a revision."""
    if source == "samples":
        path = samples.path(sample)
    elif source.endswith((".jsonl", ".jsonl.gz")) or is_path(source):
        path = Path(source).expanduser().absolute()
        if not path.is_file():
            raise BadInput(f"no such data file: {path}")
    else:
        return {"id": source, "revision": _hub_revision("dataset", source, warn)}, None
    return {"digest": file_digest(path)}, path


def _window(config: Config, warn: Warn) -> Pinned:
    """Which of the problems may be asked: what `evaluate` says, which is no part of another stage's section."""
    section = config.evaluate
    return {"release": section.release, "start_date": section.start_date, "end_date": section.end_date}, None


def _rewards(config: Config, warn: Warn) -> Pinned:
    """The rewards that will really run: a judge without its key is a different run."""
    return rewards.identities(config.grpo, warn), None


def _ollama(config: Config, warn: Warn) -> Pinned:
    server = ollama_api.probe_server()
    if server is None:
        return {"server": None}, None
    url, version = server
    return {"server": version, "url": url}, url


def _device(config: Config, warn: Warn) -> Pinned:
    """Another device draws other random numbers; which of several alike does not matter."""
    return config.runtime.device, None


_NEEDS: Final[dict[str, dict[str, Callable[[Config, Warn], Pinned]]]] = {
    "dataset": {"data": _data, "grpo_data": _grpo_data, "tokenizer": _tokenizer, "chat_format": _chat_format, "prompts": _prompts},
    "sft": {"base_model": base_model, "chat_format": _chat_format, "device": _device},
    "grpo": {"base_model": base_model, "chat_format": _chat_format, "rewards": _rewards, "device": _device},
    "adapters": {"base_model": base_model, "chat_format": _chat_format},
    "merge": {"base_model": base_model},
    "gguf": {},
    "score": {"problems": problems, "window": _window, "prompts": _prompts, "device": _device},
    "ollama": {"ollama": _ollama, "prompts": _prompts},
    "evaluate": {"problems": problems, "chat_format": _chat_format, "prompts": _prompts, "device": _device},
}


def folder_digest(folder: Path) -> str:
    """sha256 over the sorted (name, sha256) of a model directory's files, hidden ones left out."""
    files = sorted(file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
    lines = "".join(f"{file.name}\0{file_digest(file)}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """sha256 of a local file, remembered by path, size, time and inode so that a large one is read once."""
    memory = home() / "digests.json"
    known = _memory(memory)
    stat = path.stat()
    mark = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
    entry = known.get(str(path))
    if isinstance(entry, list) and entry[:4] == mark:
        return str(entry[4])
    digest = sha256_of(path)
    memory.parent.mkdir(parents=True, exist_ok=True)
    write_json(memory, {**known, str(path): [*mark, digest]})
    return digest


def _memory(file: Path) -> dict[str, Any]:
    """A file of ours that only saves work: lost or damaged, it is made again."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def changed_since(resolved: Resolved) -> str | None:
    """The first local input that is no longer what was pinned, or None: read again after the work, since it was read before."""
    for role, location in resolved.locations.items():
        pinned, path = resolved.externals[role], Path(location)
        if not isinstance(pinned, dict) or "digest" not in pinned:
            continue
        if role == "tokenizer":
            path = path / "tokenizer.json"
        try:
            now = folder_digest(path) if path.is_dir() else file_digest(path)
        except OSError:
            return location
        if now != pinned["digest"]:
            return location
    return None


def sample_model(name: str) -> _MadeBy:
    """What a packaged model is made of, and what makes it. Raises BadInput for an unknown name, and where its package is missing."""
    if name not in _SAMPLE_MODELS:
        raise unknown("sample model", name, _SAMPLE_MODELS)
    return _SAMPLE_MODELS[name]()


def _sample_model(name: str) -> Path:
    """A packaged model's folder below GWEN25_HOME; made once, and again when what it is made of changes."""
    made_of, build = sample_model(name)
    recipe = hashlib.sha256("".join(map(file_digest, made_of)).encode()).hexdigest()
    folder = home() / "models" / f"{name}-{recipe[:8]}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = folder.with_name(f".{folder.name}.{os.getpid()}")
        build(part)
        try:
            part.rename(folder)
        except OSError:  # another process was first, with the same bytes
            if not folder.exists():
                raise
    return folder


def _tiny_qwen2() -> _MadeBy:
    from gwen25.samples import tiny  # numpy, for those who need it

    files = (Path(tiny.__file__), samples.path("tokenizer.json"), samples.path("tiny.safetensors"))
    return files, lambda out: tiny.build(out, pretrained=True)


def _smollm2() -> _MadeBy:
    from gwen25.samples import smollm2

    return (Path(smollm2.__file__), smollm2.package_file()), smollm2.build


_MadeBy = tuple[tuple[Path, ...], Callable[[Path], None]]  # the files that a model is made of, and what makes it in a folder
_SAMPLE_MODELS: Final[dict[str, Callable[[], _MadeBy]]] = {"tiny-qwen2": _tiny_qwen2, "smollm2-135m": _smollm2}


_PINNED: Final[dict[tuple[str, str], str]] = {}  # of this process: a push to the hub in mid-run must not change the run


_away: dict[tuple[str, str], Unavailable] | None = None


@contextmanager
def asking_once() -> Iterator[None]:
    """Within it a hub that did not answer for a name is not asked for that name again: a dry run needs each one many times."""
    global _away
    before, _away = _away, {} if _away is None else _away
    try:
        yield
    finally:
        _away = before


def _hub_revision(kind: str, name: str, warn: Warn) -> str:
    """The commit that a hub id's main branch names, asked once a process; the last one known where the hub is out of reach.

    Raises BadInput for a name that the hub does not know or will not show, or that is not known offline; Unavailable for a hub
    that does not answer and a name never seen here.
    """
    if _away is not None and (kind, name) in _away:
        raise _away[kind, name]
    if (kind, name) not in _PINNED:
        try:
            _PINNED[kind, name] = _ask_revision(kind, name, warn)
        except Unavailable as error:
            if _away is not None:
                _away[kind, name] = error
            raise
    return _PINNED[kind, name]


def _ask_revision(kind: str, name: str, warn: Warn) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HFValidationError, OfflineModeIsEnabled, RepositoryNotFoundError

    memory, slot = home() / "revisions.json", f"{kind} {name}"
    try:
        revision = str(HfApi().repo_info(name, repo_type=kind, timeout=20).sha)
    except GatedRepoError as error:
        raise BadInput(f"{kind} {name!r} is gated: accept its terms on the hub and set HF_TOKEN") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise BadInput(
            f"{kind} {name!r}: neither a local path nor a {kind} on the hub; check the name (private ones need HF_TOKEN)"
        ) from error
    except Exception as error:  # offline mode, httpx's and OS errors have no common root: whatever else it raises is no answer
        if (known := _memory(memory).get(slot)) is not None:
            warn(f"the hub did not answer for {kind} {name} ({type(error).__name__}); its last known revision {known[:8]} is used")
            return str(known)
        if isinstance(error, OfflineModeIsEnabled):
            raise BadInput(
                f"{kind} {name!r} is not a local path, and HF_HUB_OFFLINE=1 keeps the hub away: give a directory, or go online once"
            ) from error
        raise Unavailable(
            f"{kind} {name!r} is not a local path, and the hub did not answer ({type(error).__name__}: {str(error)[:200]})"
        ) from error
    memory.parent.mkdir(parents=True, exist_ok=True)
    write_json(memory, {**_memory(memory), slot: revision})
    return revision


def hub_file(model: str, name: str, revision: str) -> Path:
    """One small file of a hub model at a revision, by way of the hub's cache. Raises BadInput where the model has no such file."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(model, name, revision=revision))
    except LocalEntryNotFoundError as error:
        raise Unavailable(f"{name} of {model} is not in the hub's cache, and the hub did not answer") from error
    except EntryNotFoundError as error:
        raise BadInput(f"{model} has no {name} on the hub: a Transformers checkpoint is expected") from error
    except Exception as error:  # the hub's client raises httpx errors, which have no root of their own
        raise Unavailable(f"{name} of {model} could not be fetched ({type(error).__name__}: {str(error)[:200]})") from error


def base_as_model(config: Config, warn: Warn = lambda _: None) -> Resolved:
    """The base model in the place of the artifact that `evaluate` is usually given."""
    external, location = base_model(config, warn)
    return Resolved({"model": external}, {} if location is None else {"model": str(location)})
