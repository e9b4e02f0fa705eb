"""The store: whole or not at all, intact or set aside, one maker at a time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gwen25.artifacts import Artifact, Made, Manifest, Store, digest_of
from gwen25.errors import BadInput, DamagedArtifact

KEY = "0123456789abcdef" * 2


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def make(store: Store, files: dict[str, bytes], key: str = KEY, inputs: dict[str, Artifact] | None = None) -> Artifact:
    work = store.work("sft", key)
    (work / "aside").mkdir(parents=True)
    for name, content in files.items():
        path = work / "payload" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (work / "aside" / "log.txt").write_text("1.5 s\n")
    return store.publish(Made("sft", 1, key, {"seed": 1}, {}, inputs or {}, {"rank": 8}, {"loss": None}, {"seconds": 1.5}))


def no_warning(text: str) -> None:
    raise AssertionError(text)


def test_a_published_artifact_is_found_with_its_manifest(store: Store) -> None:
    made = make(store, {"a.bin": b"x", "sub/b.bin": b"yy"})
    assert store.find("sft", KEY, no_warning) == made
    manifest = Manifest.read(made.path)
    assert set(manifest.files) == {"a.bin", "sub/b.bin"} and manifest.facts == {"rank": 8} and manifest.metrics == {"loss": None}
    assert not store.work("sft", KEY).exists()


def test_what_an_attempt_left_of_its_failure_is_not_published(store: Store) -> None:
    for name in ("failure.json", "phase.json"):
        (store.work("sft", KEY)).mkdir(parents=True, exist_ok=True)
        (store.work("sft", KEY) / name).write_text("{}")
    made = make(store, {"a": b"x"})
    assert {file.name for file in made.path.iterdir()} == {"payload", "aside", "manifest.json"}


def test_the_digest_is_of_names_and_bytes_of_the_payload_only(store: Store) -> None:
    one, two = make(store, {"a": b"x"}), make(store, {"a": b"x"}, key=KEY[::-1])
    (two.path / "aside" / "log.txt").write_text("another time")
    renamed, changed = make(store, {"b": b"x"}, key="f" * 32), make(store, {"a": b"y"}, key="e" * 32)
    assert one.digest == two.digest and len({one.digest, renamed.digest, changed.digest}) == 3
    assert digest_of(Manifest.read(one.path).files) == one.digest


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "extra", "manifest"])
def test_a_damaged_artifact_is_set_aside_with_a_warning(store: Store, damage: str) -> None:
    made = make(store, {"a.bin": b"content"})
    target, warnings = made.payload / "a.bin", list[str]()
    match damage:
        case "flip":
            target.write_bytes(b"cOntent")
        case "truncate":
            target.write_bytes(b"con")
        case "delete":
            target.unlink()
        case "extra":
            (made.payload / "more").write_bytes(b"")
        case "manifest":
            (made.path / "manifest.json").write_text("{")
    assert store.find("sft", KEY, warnings.append) is None
    assert len(warnings) == 1 and "will be made again" in warnings[0]
    assert not made.path.exists() and len(list((store.root / "attic").iterdir())) == 1


def test_a_touched_file_with_the_same_bytes_is_a_hit(store: Store) -> None:
    made = make(store, {"a.bin": b"content"})
    os.utime(made.payload / "a.bin", (1, 1))
    assert store.find("sft", KEY, no_warning) == made


def test_verify_reads_every_byte(store: Store) -> None:
    made = make(store, {"a.bin": b"content"})
    stat = (made.payload / "a.bin").stat()
    (made.payload / "a.bin").write_bytes(b"cOntent")
    os.utime(made.payload / "a.bin", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert store.find("sft", KEY, no_warning) is not None  # same size and time: the quick look cannot know
    with pytest.raises(DamagedArtifact, match=r"a\.bin"):
        store.verify(made.path)


def test_a_folder_without_a_manifest_is_no_artifact(store: Store) -> None:
    (store.folder("sft", KEY) / "payload").mkdir(parents=True)
    assert store.find("sft", KEY, lambda _: None) is None


@pytest.mark.parametrize("content", [{}, None])
def test_an_empty_or_linked_payload_is_not_published(store: Store, content: dict[str, bytes] | None) -> None:
    if content is None:
        (store.work("sft", KEY) / "payload").mkdir(parents=True)
        (store.work("sft", KEY) / "payload" / "link").symlink_to("/etc/passwd")
        with pytest.raises(DamagedArtifact, match="plain files"):
            store.publish(Made("sft", 1, KEY, {}, {}, {}, {}, {}, {}))
    else:
        with pytest.raises(DamagedArtifact, match="left no file"):
            make(store, content)
    assert not store.folder("sft", KEY).exists()


def test_references_by_prefix(store: Store) -> None:
    made = make(store, {"a": b"x"})
    other = make(store, {"a": b"y"}, key="0123" + "f" * 28)
    assert store.resolve(f"sft:{KEY[:8]}") == made and store.resolve("sft:0123f") == other
    for reference in ("sft:0123", "sft:9", "grpo:0123", "champion"):
        with pytest.raises(BadInput):
            store.resolve(reference)


def test_no_champion_says_how_one_is_named(store: Store) -> None:
    for reference in ("champion", "champion@1"):
        with pytest.raises(BadInput, match="no champion yet: `gwen25 promote REF`, or the deployment retrain"):
            store.resolve(reference)


def test_the_lock_is_freed_with_its_holder(store: Store) -> None:
    """A maker that is SIGKILLed must not block the next one."""
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time; from pathlib import Path; from gwen25.artifacts import Store\n"
            f"with Store(Path(sys.argv[1])).lock('sft', {KEY!r}, lambda: None): print('held', flush=True); time.sleep(600)",
            str(store.root),
        ],
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
    waited = []

    def wait() -> None:
        waited.append(1)
        holder.kill()

    with store.lock("sft", KEY, wait):
        assert waited
    holder.wait()


def test_gc_removes_the_attic_and_abandoned_work_but_not_work_that_is_held(store: Store) -> None:
    make(store, {"a": b"x"})
    store.set_aside("sft", KEY)
    abandoned, held = store.work("sft", "a" * 32), store.work("sft", "b" * 32)
    for work in (abandoned, held):
        (work / "payload").mkdir(parents=True)
    with store.lock("sft", "b" * 32, lambda: None):
        folders, size = store.gc()
    assert folders == 2 and size > 0 and held.exists() and not abandoned.exists()


def test_a_home_that_cannot_be_written_is_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GWEN25_HOME", str(tmp_path / "file"))
    with pytest.raises(BadInput, match="cannot be written"):
        Store.default()
