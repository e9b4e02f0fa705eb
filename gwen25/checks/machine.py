"""Checks of the machine that take milliseconds: interpreter, packages and pins, llama.cpp, disk, the base model and its licence."""

from __future__ import annotations

import importlib.metadata as metadata
import os
import platform
import re
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from gwen25 import estimate, llamacpp, models, resolve
from gwen25.artifacts import home
from gwen25.checks import Asked, Finding
from gwen25.errors import Gwen25Error
from gwen25.estimate import work

PINS: Final = Path(__file__).parents[2] / "constraints" / "main.txt"  # in a checkout
TINY_RUN: Final = 0.02e9  # bytes of the smoke profile's store: some 17 MB; the tiny model's shape is known only once it is made
SHOWN: Final = 8  # packages that are named
TESTED: Final = ((3, 11), (3, 13))  # interpreters: the first is the pins', up to the last one there are wheels of all packages


def python(_: Asked) -> Iterator[Finding]:
    said = f"Python {platform.python_version()}, {sys.executable}"
    if TESTED[0] <= sys.version_info[:2] <= TESTED[1]:
        yield Finding("ok", said)
    else:
        yield Finding("warn", f"{said}: not tried, 3.11 is what was tested", "make the environment with python3.11")


def packages(_: Asked) -> Iterator[Finding]:
    """The installed packages against the ranges that gwen25 asks for."""
    from packaging.requirements import Requirement

    wanted = [Requirement(text) for text in metadata.requires("gwen25") or ()]
    wanted = [one for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
    good = 0
    for one in wanted:
        try:
            version = metadata.version(one.name)
        except metadata.PackageNotFoundError:
            yield Finding("fail", f"{one.name} is not installed", f"pip install '{one.name}{one.specifier}'")
            continue
        good += (fits := one.specifier.contains(version, prereleases=True))
        if not fits:
            yield Finding("warn", f"{one.name} {version} was not tested, {one.specifier} was", f"pip install '{one.name}{one.specifier}'")
    yield Finding("ok", f"{good} of {len(wanted)} packages are within the ranges that were tested")


def pins(_: Asked) -> Iterator[Finding]:
    """The installed packages against the very versions that were tested together; those that are not installed are no matter."""
    if not PINS.is_file():
        yield Finding("ok", "not compared: constraints/main.txt comes with the checkout")
        return
    tested = dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", PINS.read_text(encoding="utf-8"), re.MULTILINE))
    others, there = [], 0
    for name, version in tested.items():
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        there += 1
        if found.partition("+")[0] != version.partition("+")[0]:  # +cpu, +cu130: the same release for another device
            others.append(f"{name} {found} (tested: {version})")
    if not others:
        yield Finding("ok", f"all {there} packages of constraints/main.txt that are installed have its versions")
        return
    more = f", and {len(others) - SHOWN} more" if len(others) > SHOWN else ""
    said = f"{len(others)} of {there} are not the versions that were tested: {', '.join(others[:SHOWN])}{more}"
    yield Finding("warn", said, f"pip install -c {PINS} -e {PINS.parents[1]}")


def llama_cpp(_: Asked) -> Iterator[Finding]:
    """What loads a GGUF here, and what makes K-quants of one."""
    quantizer = llamacpp.quantizer()
    parts = [f"xllamacpp {metadata.version('xllamacpp')} loads a GGUF" if llamacpp.can_load() else "nothing loads a GGUF"]
    if quantizer == "cyllama":
        parts.append(f"cyllama {metadata.version('cyllama')} makes K-quants")
    else:
        parts.append(f"{quantizer} makes K-quants" if quantizer else "nothing makes K-quants")
    if llamacpp.can_load() and quantizer:
        yield Finding("ok", ", ".join(parts))
    else:
        yield Finding("warn", f"{', '.join(parts)}: a GGUF is made, with less to try or choose", "pip install 'gwen25[llamacpp]'")


# -------------------------------------------------------------------------------------------------------------------- disk


def disk(asked: Asked) -> Iterator[Finding]:
    """Room for a whole run below GWEN25_HOME, or where that will be made, and for the base model in the hub's cache."""
    try:
        needs = _needs(asked)
    except Gwen25Error:  # a base model that is not here, or whose config.json is not whole
        needs = None
    for folder, need in (needs or {home(): 0.0}).items():
        setting = "GWEN25_HOME" if folder == home() else "HF_HOME"
        if (refusal := _refusal(folder / "store" if folder == home() else folder)) is not None:
            yield Finding("fail", refusal, f"set {setting} to a folder of yours")
            continue
        free = shutil.disk_usage(_nearest(folder)).free
        told = f"{free / 1e9:.1f} GB free at {folder}"
        if needs is None:
            yield Finding("warn", f"{told}; what a run on {asked.config.base_model} takes is not known here", "ask `gwen25 estimate`")
        elif free < need:
            said = f"{told}; {_run(asked)} takes {need / 1e9:.1f} there"
            yield Finding("warn", said, f"set {setting} to a larger disk, or take a smaller base_model")
        else:
            yield Finding("ok", f"{told}; {_run(asked)} takes {need / 1e9:.1f} there")


def _refusal(folder: Path) -> str | None:
    """Why nothing can be written in a folder, or where it will be made. A file is opened there that has no name and is gone at once."""
    there = _nearest(folder)
    try:
        with tempfile.TemporaryFile(dir=there):
            return None
    except OSError as error:
        return f"{there} cannot be written ({error.strerror})"


def _nearest(folder: Path) -> Path:
    """The folder, or the first above it that is there; what may not be looked at counts as not there."""
    return next(path for path in (folder, *folder.absolute().parents) if os.access(path, os.F_OK))


def _run(asked: Asked) -> str:
    return f"the profile {asked.profile}" if asked.profile else "the reference recipe"


def _needs(asked: Asked) -> dict[Path, float]:
    """Bytes by folder; one folder where store and cache share a disk. Raises BadInput where the base model is not here."""
    config = asked.config
    if config.base_model == "sample:tiny-qwen2":
        return {home(): TINY_RUN}
    from huggingface_hub.constants import HF_HUB_CACHE

    needs: dict[Path, float] = defaultdict(float)
    cache = Path(HF_HUB_CACHE)
    for term in work.disk(config, shape(config.base_model)):
        made = config.base_model.startswith(resolve.SAMPLE_PREFIX)
        fetched = term.name == "benchmark" or (term.name == "base model" and not made)
        needs[home() if not fetched or _device(cache) == _device(home()) else cache] += term.bytes
    return dict(needs)


def shape(name: str) -> models.Shape:
    """From the tables, or a config.json that is on this machine: a check neither downloads nor reads weights.

    Raises BadInput where there is none.
    """
    if name in models.BASE_MODELS:
        return models.BASE_MODELS[name].shape
    return estimate.SHAPES.get(name) or models.shape_of(models.read_config(_folder(name)), name)


def _folder(name: str) -> Path:
    """A model's directory, or what the hub's cache holds of it; where it holds nothing, a folder that is not there."""
    folder = Path(name).expanduser()
    if resolve.is_path(name):
        return folder
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        held = [try_to_load_from_cache(name, file) for file in ("README.md", "config.json")]
    except HFValidationError:  # no name that the hub could have
        return folder
    return next((Path(file).parent for file in held if isinstance(file, str)), folder)


def _device(folder: Path) -> int:
    return _nearest(folder).stat().st_dev


# ------------------------------------------------------------------------------------------------- the base model, its licence


def base_model(asked: Asked) -> Iterator[Finding]:
    """Whether a run would find its base model. Nothing is made, fetched or hashed for it: that takes half a minute and more."""
    from huggingface_hub import constants

    name = asked.config.base_model
    try:
        if name.startswith(resolve.SAMPLE_PREFIX):
            resolve.sample_model(name.removeprefix(resolve.SAMPLE_PREFIX))
            said = "a packaged one, made below GWEN25_HOME where it is first used"
        elif resolve.is_path(name):
            found = models.inspect(Path(name).expanduser())
            said = f"a directory, {found.architecture}"
        elif constants.is_offline_mode():
            resolve.base_model(asked.config, lambda _: None)  # a revision that was seen before
            said = "a name of the hub's, whose last known revision is used"
        else:
            said = "a name of the hub's; whether it answers for it stands at `hub`"
    except Gwen25Error as error:
        yield Finding(asked.stops, str(error), "set base_model to one that is here, or mend that")
    else:
        yield Finding("ok", f"{name}: {said}")


def licence(asked: Asked) -> Iterator[Finding]:
    """The base model's licence, which what is tuned from it is under too."""
    name = asked.config.base_model
    found = _licence(name)
    if found is None:
        yield Finding("warn", f"{name}: its licence is not known here", "read its card and licence file before you pass on a model")
    elif found.lower() in ("apache-2.0", "mit", "bsd-3-clause"):
        yield Finding("ok", f"{name}: {found}")
    elif "research" in found.lower():
        free = (model.hub_id for model in models.BASE_MODELS.values() if model.licence == "Apache-2.0" and "Coder" not in model.hub_id)
        yield Finding(
            "warn",
            f"{name}: {found} licence, for research and not for commerce",
            f"for commerce set base_model to one under Apache-2.0: {', '.join(free)}",
        )
    else:
        yield Finding("warn", f"{name}: {found}", "read its terms before you pass on a model")


def _licence(name: str) -> str | None:
    """From the table, the packaged samples, the directory's card or licence file, or the card in the hub's cache."""
    if name in models.BASE_MODELS:
        return models.BASE_MODELS[name].licence
    if name.startswith(resolve.SAMPLE_PREFIX):
        return "Apache-2.0"  # ours, and SmolLM2's
    folder = _folder(name)
    return models.licence({"id": name}, folder) or _first_line(folder)


def _first_line(folder: Path) -> str | None:
    """The title of a licence file, such as "Apache License"."""
    for file in sorted(folder.glob("LICENSE*")):
        lines = (line.strip() for line in file.read_text(encoding="utf-8", errors="replace")[:2000].splitlines())
        if title := next((line for line in lines if line), None):
            return f'{file.name} begins "{title[:60]}"'
    return None
