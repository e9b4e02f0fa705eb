"""`gwen25 promote | rollback`: the name moves whole or not at all, and what stood behind it is not forgotten."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from gwen25 import champion, cli
from gwen25.artifacts import Artifact, Made, Store
from gwen25.errors import BadInput, DamagedArtifact

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("GWEN25_HOME", str(tmp_path / "home"))
    return Store.default()


@pytest.fixture
def run(store: Store, capsys: pytest.CaptureFixture[str]) -> Run:
    def ran(*arguments: str) -> tuple[int, str, str]:
        status = cli.main(arguments)
        return status, *capsys.readouterr()

    return ran


def made(store: Store, letter: str, stage: str = "merge", content: str = "") -> Artifact:
    """An artifact whose key is that letter over and over."""
    work = store.work(stage, letter * 32)
    for folder in ("payload", "aside"):
        (work / folder).mkdir(parents=True)
    (work / "payload" / "weights").write_text(content or letter)
    return store.publish(Made(stage, 1, letter * 32, {}, {}, {}, {}, {}, {"seconds": 1.0}))


def test_the_name_is_a_reference_and_so_is_each_champion_before(run: Run, store: Store) -> None:
    first, second = made(store, "a"), made(store, "b")
    assert champion.current(store) is None
    assert run("promote", "merge:aa")[:2] == (0, "merge:aaaaaaaa is the champion\n")
    assert run("promote", "merge:bb", "--why", "reads better")[0] == 0
    assert champion.current(store) == store.resolve("champion") == second and store.resolve("champion@1") == first
    status, out, _ = run("promote")
    assert status == 0 and [line.split()[0] for line in out.splitlines()] == ["merge:bbbbbbbb", "merge:aaaaaaaa"] and "reads better" in out
    status, out, _ = run("show", "champion", "--json")
    assert json.loads(out)["digest"] == second.digest


def test_rollbacks_go_further_back_each_and_are_remembered(run: Run, store: Store) -> None:
    for letter in "abc":
        made(store, letter)
        run("promote", f"merge:{letter}")
    assert run("rollback")[1].startswith("merge:bbbbbbbb is the champion again; merge:cccccccc was rolled back")
    assert run("rollback", "--why", "too long-winded")[1].startswith("merge:aaaaaaaa is the champion again; merge:bbbbbbbb")
    status, _, err = run("rollback")
    assert status == 2 and "none before merge:aaaaaaaa" in err and err.count("\n") == 1
    assert champion.rejected(store) == {store.resolve(f"merge:{letter}").digest for letter in "bc"}
    assert "too long-winded" in run("promote")[1]
    run("promote", "merge:c")  # by hand, in the end
    assert champion.rejected(store) == {store.resolve("merge:b").digest} and store.resolve("champion").key == "c" * 32
    assert len(champion.history(store)) == 6


def test_promoting_the_champion_again_changes_nothing(run: Run, store: Store) -> None:
    made(store, "a")
    run("promote", "merge:a")
    before = (store.root / "aliases.json").read_bytes()
    assert run("promote", "champion")[1] == "merge:aaaaaaaa is the champion already\n"
    assert (store.root / "aliases.json").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["promote", "merge:00"], "names no artifacts"),
        (["promote", "champion"], "no champion yet"),
        (["promote", "sft:5"], "is of the stage sft; a champion is a merged model"),
        (["rollback"], "no champion at all"),
    ],
)
def test_what_cannot_be_champion_is_refused_in_one_line(run: Run, store: Store, arguments: list[str], expected: str) -> None:
    for letter, stage in (("a", "merge"), ("5", "sft")):
        made(store, letter, stage)
    status, _, err = run(*arguments)
    assert status == 2 and expected in err and err.count("\n") == 1
    assert not (store.root / "aliases.json").exists()


def test_a_damaged_model_does_not_become_champion(store: Store) -> None:
    artifact = made(store, "a")
    (artifact.payload / "weights").write_text("other")
    with pytest.raises(DamagedArtifact, match="weights"):
        champion.promote(store, artifact, "")
    assert champion.current(store) is None


def test_a_champion_that_is_gone_or_another_is_an_error_and_rollback_still_works(run: Run, store: Store) -> None:
    for letter in "ab":
        champion.promote(store, made(store, letter), "")
    made(store, "b", content="other bytes")  # a refresh
    with pytest.raises(BadInput, match="made again since"):
        champion.current(store)
    shutil.rmtree(store.folder("merge", "b" * 32))
    with pytest.raises(BadInput, match="no longer in the store"):
        champion.current(store)
    assert run("rollback")[0] == 0 and store.resolve("champion").key == "a" * 32


def test_other_aliases_stay_and_writers_at_once_lose_nothing(store: Store) -> None:
    models = [made(store, letter) for letter in "abcdef"]
    (store.root / "aliases.json").write_text(json.dumps({"mine": {"stage": "merge", "key": "a" * 32, "digest": models[0].digest}}))
    threads = [threading.Thread(target=champion.promote, args=(store, model, "")) for model in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {entry["digest"] for entry in champion.history(store)} == {model.digest for model in models}
    assert store.resolve("mine") == models[0] and set(store.aliases()) == {"mine", "champion", *(f"champion@{n}" for n in range(1, 6))}
