"""The store: what was made, from what, and whether it is still intact.

    store = Store.default()
    store.find("sft", key)             an Artifact, or None; a damaged one is set aside with a warning
    with store.lock("sft", key): ...   one maker of a key at a time, on one machine
    store.publish(...)                 work folder -> artifact, whole or not at all

On disk, below GWEN25_HOME/store (default ~/.gwen25/store):

    <stage>/<key>/manifest.json   written last: no manifest, no artifact
    <stage>/<key>/payload/        what downstream reads; the digest is taken over it
    <stage>/<key>/aside/          logs, plots, metrics by step: kept, not digested
    <stage>/<key>.work/           work under way; survives a death, so that trainers resume
    <stage>/<key>.lock            flock, held by the maker's processes and gone with them
    attic/                        refreshed and damaged artifacts, until `gwen25 gc`
    aliases.json                  name -> stage, key, digest

Not here: what a key is made of (`stage`), how work is done (`pipelines`).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from gwen25.errors import BadInput, DamagedArtifact
from gwen25.job import write_json

Warn = Callable[[str], None]
SCHEMA: Final = 1  # of the manifest
CHECKPOINTS: Final = "checkpoints"  # in a trainer's aside: needed until its artifact is whole, and large


class Artifact(BaseModel):
    """A pointer of some 300 bytes: what tasks and flows hand on. Never a model."""

    model_config = ConfigDict(frozen=True)

    stage: str
    key: str
    digest: str
    path: Path

    @property
    def payload(self) -> Path:
        return self.path / "payload"


class FileRecord(BaseModel):
    """One payload file. `mtime_ns` is for the quick check only; `sha256` decides."""

    model_config = ConfigDict(frozen=True)

    sha256: str
    size: int
    mtime_ns: int


class Manifest(BaseModel):
    """All that is known of an artifact. `inputs` (role -> stage, key, digest) is its lineage."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA
    stage: str
    version: int
    key: str
    digest: str
    made: str
    config: dict[str, Any]
    externals: dict[str, Any]
    inputs: dict[str, dict[str, str]]
    files: dict[str, FileRecord]
    facts: dict[str, Any]
    metrics: dict[str, Any]
    provenance: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Raises DamagedArtifact where the manifest is missing or not one of ours."""
        try:
            return cls.model_validate_json((folder / "manifest.json").read_bytes())
        except (OSError, ValidationError) as error:
            raise DamagedArtifact(f"{folder}: no readable manifest ({type(error).__name__})") from error


@dataclass(frozen=True, slots=True)
class Made:
    """What `publish` is told of the work, besides the files themselves."""

    stage: str
    version: int
    key: str
    config: dict[str, Any]
    externals: dict[str, Any]
    inputs: dict[str, Artifact]
    facts: dict[str, Any]
    metrics: dict[str, Any]
    provenance: dict[str, Any]


def home() -> Path:
    """GWEN25_HOME, or ~/.gwen25."""
    return Path(os.environ.get("GWEN25_HOME") or Path.home() / ".gwen25").absolute()


class Store:
    """Artifacts by stage and key, in one folder."""

    def __init__(self, root: Path):
        self.root = root

    @classmethod
    def default(cls) -> Store:
        """The store below GWEN25_HOME. Raises BadInput where the folder cannot be made or written."""
        root = home() / "store"
        try:
            root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=root):
                pass
        except OSError as error:
            raise BadInput(
                f"the store {root} cannot be written ({error.strerror}); set GWEN25_HOME to a folder of yours with room for models"
            ) from error
        return cls(root)

    def folder(self, stage: str, key: str) -> Path:
        return self.root / stage / key

    def work(self, stage: str, key: str) -> Path:
        return self.root / stage / f"{key}.work"

    def find(self, stage: str, key: str, warn: Warn) -> Artifact | None:
        """The artifact of that key if its files are there and intact; a damaged one goes to the attic, with a warning."""
        folder = self.folder(stage, key)
        if not folder.exists():
            return None
        try:
            manifest = Manifest.read(folder)
            check(folder, manifest, thorough=False)
        except DamagedArtifact as damage:
            warn(f"{damage}; it is set aside and will be made again")
            self.set_aside(stage, key)
            return None
        return Artifact(stage=stage, key=key, digest=manifest.digest, path=folder)

    def set_aside(self, stage: str, key: str) -> None:
        """Move an artifact out of the way, to attic/: a refresh or damage never deletes. No matter if another run was first."""
        attic = self.root / "attic"
        attic.mkdir(exist_ok=True)
        with suppress(FileNotFoundError):
            self.folder(stage, key).rename(attic / f"{stage}-{key}-{time.time_ns()}")

    @contextmanager
    def lock(self, stage: str, key: str, wait: Callable[[], None]) -> Iterator[int]:
        """Hold the key's lock; yields its file descriptor, to be inherited by the maker's processes.

        The operating system frees it with the last process that holds it. `wait` is called once a second while another
        maker has it; it may raise to give up.
        """
        path = self.root / stage / f"{key}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    wait()
                    time.sleep(1.0)
            yield descriptor
        finally:
            os.close(descriptor)

    def publish(self, made: Made) -> Artifact:
        """Turn the work folder into an artifact: hash and fsync the payload, write the manifest, rename.

        An artifact of that key which is there already (a refresh) goes to the attic in the moment before. What only the work
        needed goes after the rename: a death in between costs nothing.

        Raises DamagedArtifact for a payload that is empty or holds anything but plain files.
        """
        work, folder = self.work(made.stage, made.key), self.folder(made.stage, made.key)
        files = _records(work / "payload")
        if not files:
            raise DamagedArtifact(f"{made.stage} left no file in {work / 'payload'}")
        digest = digest_of(files)
        manifest = Manifest(
            stage=made.stage,
            version=made.version,
            key=made.key,
            digest=digest,
            made=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            config=made.config,
            externals=made.externals,
            inputs={role: {"stage": a.stage, "key": a.key, "digest": a.digest} for role, a in made.inputs.items()},
            files=files,
            facts=made.facts,
            metrics=made.metrics,
            provenance=made.provenance,
        )
        write_json(work / "manifest.json", manifest.model_dump(mode="json"))
        if folder.exists():
            self.set_aside(made.stage, made.key)
        work.rename(folder)
        flush(folder.parent)
        for name in ("request.json", "attempts.json", "result.json"):
            if (folder / name).exists():
                (folder / name).replace(folder / "aside" / name)
        for name in ("failure.json", "phase.json"):
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(folder / "aside" / CHECKPOINTS, ignore_errors=True)
        return Artifact(stage=made.stage, key=made.key, digest=digest, path=folder)

    def manifests(self) -> list[Manifest]:
        """Every artifact, oldest first; damaged manifests are left out (`verify` names them)."""
        found = []
        for folder in self._folders():
            try:
                found.append(Manifest.read(folder))
            except DamagedArtifact:
                continue
        return sorted(found, key=lambda manifest: (manifest.made, manifest.stage))

    def resolve(self, reference: str) -> Artifact:
        """`stage:key-prefix`, or an alias. Raises BadInput for none or several."""
        aliases = self.aliases()
        alias = aliases.get(reference)
        stage, colon, prefix = (alias["stage"], ":", alias["key"]) if alias else reference.partition(":")
        if reference.partition("@")[0] == "champion" and "champion" not in aliases:
            raise BadInput("no champion yet: `gwen25 promote REF`, or the deployment retrain, names one")
        if not colon:
            raise BadInput(f"{reference!r} is neither a store reference (such as sft:3f2a, see `gwen25 list`) nor an alias")
        keys = self.keys(stage, prefix)
        if len(keys) != 1:
            raise BadInput(
                f"{reference!r} names {len(keys) or 'no'} artifacts; `gwen25 list` shows them" + (", give more of the key" if keys else "")
            )
        folder = self.folder(stage, keys[0])
        return Artifact(stage=stage, key=keys[0], digest=Manifest.read(folder).digest, path=folder)

    def keys(self, stage: str, prefix: str) -> list[str]:
        """The keys of a stage's artifacts that begin so."""
        return [folder.name for folder in self._folders() if folder.parent.name == stage and folder.name.startswith(prefix)]

    def verify(self, artifact: Path) -> None:
        """Read every byte of an artifact. Raises DamagedArtifact."""
        check(artifact, Manifest.read(artifact), thorough=True)

    def aliases(self) -> dict[str, dict[str, str]]:
        """Names of digests, such as `champion`."""
        path = self.root / "aliases.json"
        try:
            value: dict[str, dict[str, str]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        except ValueError as error:
            raise BadInput(f"{path} is damaged ({error}); mend it, or remove it to lose the aliases") from error
        return value

    def gc(self) -> tuple[int, int]:
        """Remove the attic and abandoned work (work that no process holds). Returns (folders, bytes) removed."""
        removed = [_remove(folder) for folder in (self.root / "attic").glob("*")]
        for work in self.root.glob("*/*.work"):
            with (work.parent / f"{work.name.removesuffix('.work')}.lock").open("a") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:  # somebody is at it
                    continue
                removed.append(_remove(work))
        return len(removed), sum(removed)

    def _folders(self) -> list[Path]:
        return sorted(path for path in self.root.glob("*/*") if path.is_dir() and re.fullmatch(r"[0-9a-f]{32}", path.name))


def digest_of(files: dict[str, FileRecord]) -> str:
    """sha256 over the sorted (path, sha256) of the payload."""
    lines = "".join(f"{name}\0{record.sha256}\n" for name, record in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def check(folder: Path, manifest: Manifest, *, thorough: bool) -> None:
    """Hold the files against the manifest. Quick: names, sizes and times, and the bytes of a file whose time is in doubt.

    Raises DamagedArtifact naming the first file that differs.
    """
    payload = folder / "payload"
    present = {str(path.relative_to(payload)) for path in payload.rglob("*") if not path.is_dir()}
    if present != set(manifest.files):
        raise DamagedArtifact(f"{folder}: files differ from the manifest: {', '.join(sorted(present ^ set(manifest.files)))}")
    for name, record in manifest.files.items():
        stat = (payload / name).stat()
        doubtful = stat.st_mtime_ns != record.mtime_ns
        if stat.st_size != record.size or ((thorough or doubtful) and sha256_of(payload / name) != record.sha256):
            raise DamagedArtifact(f"{folder}: {name} is not what was written")


def sha256_of(path: Path) -> str:
    """sha256 of a file's bytes, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _records(payload: Path) -> dict[str, FileRecord]:
    paths = sorted(path for path in payload.rglob("*") if path.is_symlink() or not path.is_dir())
    for path in paths:
        if path.is_symlink() or not path.is_file():
            raise DamagedArtifact(f"{path}: a payload holds plain files only")
    with ThreadPoolExecutor(4) as threads:  # hashing releases the GIL; a 6 GB payload takes seconds, not half a minute
        return dict(zip((str(path.relative_to(payload)) for path in paths), threads.map(_record, paths), strict=True))


def _record(path: Path) -> FileRecord:
    digest = sha256_of(path)
    with path.open("rb") as file:
        os.fsync(file.fileno())
    stat = path.stat()
    return FileRecord(sha256=digest, size=stat.st_size, mtime_ns=stat.st_mtime_ns)


def _remove(folder: Path) -> int:
    """Delete a folder; returns the bytes its files held."""
    size = sum(file.lstat().st_size for file in folder.rglob("*") if not file.is_dir())
    shutil.rmtree(folder)
    return size


def flush(path: Path) -> None:
    """Have the disk hold a file's bytes, or a folder's names, before anything goes on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
