"""Checks of interpreter, packages, pins, llama.cpp, disk and licence: each way out of them is met."""

from __future__ import annotations

from pathlib import Path

import pytest

from gwen25 import estimate
from gwen25.artifacts import Store
from gwen25.checks import Asked, Finding, machine, reference
from gwen25.config import load_config
from gwen25.errors import BadInput
from gwen25.estimate import work
from gwen25.samples import smollm2


def asked(profile: str | None = None, **overrides: object) -> Asked:
    return Asked(load_config(profile, overrides={name.replace("__", "."): value for name, value in overrides.items()}), profile)


def test_packages_out_of_range_or_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [finding.status for finding in machine.packages(reference())] == ["ok"]
    real = machine.metadata.version

    def version(name: str) -> str:
        if name == "trl":
            raise machine.metadata.PackageNotFoundError(name)
        return "0.1" if name == "peft" else real(name)

    monkeypatch.setattr(machine.metadata, "version", version)
    found = {finding.status: finding for finding in machine.packages(reference())}
    assert "trl" in found["fail"].what and "pip install 'trl" in found["fail"].todo
    assert "peft 0.1" in found["warn"].what and "pip install 'peft" in found["warn"].todo


def test_pins_name_what_differs_and_pass_over_what_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    torch = machine.metadata.version("torch").partition("+")[0]
    pins = tmp_path / "constraints" / "main.txt"
    pins.parent.mkdir()
    monkeypatch.setattr(machine, "PINS", pins)
    [absent] = machine.pins(reference())
    assert absent.status == "ok" and "not compared" in absent.what
    pins.write_text(f"# tested\ntorch=={torch}\nno-such-package-here==1\n")
    [same] = machine.pins(reference())
    assert same.status == "ok" and "all 1 " in same.what, "a build for another device is the same release"
    pins.write_text(f"torch=={torch}\npeft==0.0.1\n")
    [other] = machine.pins(reference())
    assert other.status == "warn" and "1 of 2" in other.what and "(tested: 0.0.1)" in other.what and "torch" not in other.what
    assert str(pins) in other.todo


def test_the_packages_own_pins_hold_here() -> None:
    [finding] = machine.pins(reference())
    assert "constraints/main.txt" in finding.what or "versions that were tested" in finding.what


@pytest.mark.parametrize(("version", "status"), [((3, 11), "ok"), ((3, 13), "ok"), ((3, 15), "warn")])
def test_an_interpreter_that_was_not_tried_is_told(monkeypatch: pytest.MonkeyPatch, version: tuple[int, int], status: str) -> None:
    monkeypatch.setattr(machine.sys, "version_info", version)
    [finding] = machine.python(reference())
    assert finding.status == status and bool(finding.todo) == (status == "warn")


@pytest.mark.parametrize(
    ("loads", "quantizer", "status", "said"),
    [
        (True, "cyllama", "ok", "cyllama"),
        (True, "/usr/bin/llama-quantize", "ok", "/usr/bin/llama-quantize"),
        (False, "cyllama", "warn", "nothing loads a GGUF"),
        (True, None, "warn", "nothing makes K-quants"),
    ],
)
def test_llama_cpp(monkeypatch: pytest.MonkeyPatch, loads: bool, quantizer: str | None, status: str, said: str) -> None:
    monkeypatch.setattr(machine.llamacpp, "can_load", lambda: loads)
    monkeypatch.setattr(machine.llamacpp, "quantizer", lambda: quantizer)
    monkeypatch.setattr(machine.metadata, "version", lambda name: "1.2.3")
    [finding] = machine.llama_cpp(reference())
    assert finding.status == status and said in finding.what and ("gwen25[llamacpp]" in finding.todo) == (status == "warn")


# disk


def _free(monkeypatch: pytest.MonkeyPatch, gigabytes: float) -> None:
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: type("Usage", (), {"free": gigabytes * 1e9}))


def test_disk_is_held_against_the_estimate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GWEN25_HOME", str(tmp_path / "not" / "there" / "yet"))
    monkeypatch.setattr(machine, "_device", lambda _: 1)
    needed = sum(term.bytes for term in work.disk(load_config("a100"), estimate.shape_of(load_config("a100")))) / 1e9

    def free(gigabytes: float, profile: str | None) -> Finding:
        _free(monkeypatch, gigabytes)
        [finding] = machine.disk(asked(profile))
        return finding

    assert free(needed + 0.1, "a100").status == "ok" and f"{needed:.1f}" in free(100, "a100").what
    assert free(needed - 0.1, "a100").status == "warn" and "GWEN25_HOME" in free(1, "a100").todo
    assert free(needed - 0.1, "smoke").status == free(needed - 0.1, "cpu").status == "ok"
    assert "reference recipe" in free(1, None).what
    assert list(tmp_path.iterdir()) == [], "a doctor changes nothing"


@pytest.mark.parametrize("home", ["a-file", "a-file/below", "folder"])
def test_a_store_that_no_run_could_write_is_a_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, home: str) -> None:
    (tmp_path / "a-file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "store").touch()
    monkeypatch.setenv("GWEN25_HOME", str(tmp_path / home))
    with pytest.raises(BadInput):
        Store.default()
    [finding] = machine.disk(asked("smoke"))
    assert finding.status == "fail" and "cannot be written (Not a directory)" in finding.what and "GWEN25_HOME" in finding.todo


def test_a_cache_on_another_disk_is_looked_at_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_device", lambda folder: str(folder))
    _free(monkeypatch, 1)
    store, cache = machine.disk(asked("a100"))
    assert "GWEN25_HOME" in {store.todo.split()[1], cache.todo.split()[1]} and "HF_HOME" in {store.todo.split()[1], cache.todo.split()[1]}
    [smoke] = machine.disk(asked("smoke"))
    assert smoke.status == "ok"
    _, fetched = machine.disk(asked("cpu", evaluate__problems="livecodebench/code_generation_lite"))
    assert "HF_HOME" in fetched.todo, "the benchmark's files go to the hub's cache, the base model does not"


def test_a_base_model_of_unknown_size_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    [finding] = machine.disk(asked(base_model="someone/unknown-model"))
    assert finding.status == "warn" and "not known" in finding.what and "GB free" in finding.what


def test_a_directorys_size_comes_from_its_config(monkeypatch: pytest.MonkeyPatch, tiny_model: Path) -> None:
    [finding] = machine.disk(asked(base_model=str(tiny_model), evaluate__problems="samples"))
    assert finding.status == "ok" and "takes 0.0" in finding.what


# the base model


def one(base_model: str, profile: str | None = "cpu") -> Finding:
    [finding] = machine.base_model(asked(profile, base_model=base_model))
    return finding


def test_a_base_model_that_a_run_would_not_find(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GWEN25_HOME", str(tmp_path / "home"))
    for name, told in (
        ("/nope", "no such model directory: /nope"),
        ("sample:other", "unknown sample model 'other'"),
        ("someone/unknown-model", "HF_HUB_OFFLINE=1 keeps the hub away"),
    ):
        assert one(name).status == "fail" and told in one(name).what and one(name).todo
        assert one(name, None).status == "warn", "without a profile no run was meant"
    monkeypatch.setattr(smollm2, "PACKAGE", "a_package_that_is_not_here")
    assert one("sample:smollm2-135m").status == "fail" and smollm2.INSTALL in one("sample:smollm2-135m").what
    assert list(tmp_path.iterdir()) == [], "a doctor changes nothing"


def test_a_base_model_that_is_here(tiny_model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GWEN25_HOME", str(tmp_path))
    assert one(str(tiny_model)).status == one("sample:tiny-qwen2").status == "ok"
    assert list(tmp_path.iterdir()) == [], "it is not made for the answer"


@pytest.mark.parametrize("name", ["/nope", "a/b/c", "no name at all"])
def test_a_name_that_no_hub_could_have_breaks_no_check(name: str) -> None:
    for check in (machine.disk, machine.licence):
        assert {finding.status for finding in check(asked(base_model=name))} == {"warn"}


# licence


def test_the_reference_models_licence_is_told() -> None:
    [finding] = machine.licence(reference())
    assert finding.status == "warn" and "Qwen Research" in finding.what and "Qwen/Qwen2.5-1.5B" in finding.todo


@pytest.mark.parametrize(
    ("card", "status", "said"), [("apache-2.0", "ok", "apache-2.0"), ("other", "warn", "other"), ("", "warn", "not known")]
)
def test_another_models_licence_is_its_cards(tmp_path: Path, card: str, status: str, said: str) -> None:
    (tmp_path / "README.md").write_text(f"---\nlicense: {card}\n---\n# A model\n")
    [finding] = machine.licence(asked(base_model=str(tmp_path)))
    assert finding.status == status and said in finding.what and bool(finding.todo) == (status == "warn")


def test_without_a_card_the_licence_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "LICENSE").write_text("\n   Some Community License 2.0\nmore\n")
    [finding] = machine.licence(asked(base_model=str(tmp_path)))
    assert finding.status == "warn" and 'LICENSE begins "Some Community License 2.0"' in finding.what


def test_the_packaged_models_are_free_and_an_unseen_one_is_unknown() -> None:
    assert [next(machine.licence(asked(profile))).status for profile in ("smoke", "cpu")] == ["ok", "ok"]
    assert "not known" in next(machine.licence(asked(base_model="someone/unknown-model"))).what
