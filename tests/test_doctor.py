"""The doctor: what it says is so, each check can fail, and every line says what to do within 100 columns."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gwen25 import cli, doctor, sandbox
from gwen25.checks import Asked, Finding, box, cheats, reference, services
from gwen25.commands.doctor import COLUMNS, lines
from gwen25.config import Config, GrpoConfig, JudgeConfig
from gwen25.data import TestCase
from gwen25.errors import SandboxUnavailable, Unavailable
from gwen25.rewards import canaries
from gwen25.sandbox import layers, sure
from tests.rewards.judging_service import Reply, Service, serve


@pytest.fixture
def isolation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skips where programs cannot be isolated; one second for the canary that spins, in the place of six."""
    try:
        sandbox.probe()
    except SandboxUnavailable as error:
        pytest.skip(f"programs cannot be isolated here: {error}")
    monkeypatch.setattr(sure, "LIMITS", replace(sure.LIMITS, cpu_seconds=1))


@pytest.fixture
def service() -> Iterator[Service]:
    with serve() as running:
        yield running


def statuses(findings: Iterator[Finding]) -> set[str]:
    return {finding.status for finding in findings}


@pytest.mark.usefixtures("isolation")
def test_the_whole_report(capsys: pytest.CaptureFixture[str]) -> None:
    status = cli.main(["doctor"])
    said = capsys.readouterr().out
    for line in said.splitlines():
        assert len(line) <= COLUMNS
    for name in doctor.CHECKS:
        assert f" {name} " in said
    for canary in canaries.HACKS:
        assert canary in said
    assert status == 0, said
    assert "0 failures" in said


def _reports(monkeypatch: pytest.MonkeyPatch, *findings: Finding) -> None:
    monkeypatch.setattr(doctor, "CHECKS", {"one": lambda _: findings})


@pytest.mark.parametrize(("worst", "status"), [("ok", 0), ("warn", 0), ("fail", 1)])
def test_only_a_failure_is_a_failure(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], worst: Any, status: int) -> None:
    _reports(monkeypatch, Finding("ok", "fine"), Finding(worst, "this", "do that"))
    assert cli.main(["doctor"]) == status
    capsys.readouterr()
    assert cli.main(["doctor", "--json"]) == status
    report = json.loads(capsys.readouterr().out)
    assert report["healthy"] is (status == 0)
    assert report["findings"][1] == {"check": "one", "status": worst, "what": "this", "todo": "do that"}


def test_a_check_that_breaks_is_a_failure_and_the_next_one_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(_: Asked) -> list[Finding]:
        raise Unavailable("nobody answers")

    checks = {"broken": lambda _: [1 / 0], "away": away, "well": lambda _: [Finding("ok", "fine")]}
    monkeypatch.setattr(doctor, "CHECKS", checks)
    found = dict(doctor.examine(reference()))
    assert found["broken"].status == found["away"].status == "fail" and found["well"].status == "ok"
    assert "ZeroDivisionError" in found["broken"].what and "nobody answers" in found["away"].what


def test_a_long_finding_is_wrapped_below_itself() -> None:
    text = lines("sandbox", Finding("fail", "word " * 60, "do " * 60))
    assert all(len(line) <= COLUMNS for line in text.splitlines())
    assert all(line.startswith(" " * 22) for line in text.splitlines()[1:]) and text.count("->") == 1


# the sandbox


@pytest.mark.usefixtures("isolation")
@pytest.mark.parametrize("level", ["", "landlock"])
def test_what_the_sandbox_refuses(monkeypatch: pytest.MonkeyPatch, level: str) -> None:
    monkeypatch.setenv(layers.LEVEL, level)
    found = list(box.properties())
    assert [finding.what for finding in found[:-1]] == [refused for _, refused, _ in box.PROPERTIES.values()]
    assert statuses(iter(found[:-1])) == {"ok"}
    seen = "warn" if sandbox.probe().level == "landlock" else "ok"
    assert found[-1].status == seen and bool(found[-1].todo) == (seen == "warn")


def _unconfined(folder: Path, program: str, tests: Sequence[TestCase], limits: Any = None) -> sandbox.Verdict:
    """A grader without a sandbox, for programs of the doctor's own. What they leave running is known by a random word, and ended."""
    ours, out = secrets.token_hex(16), folder / "out"
    with out.open("w") as stdout:
        subprocess.run([sys.executable, "-c", program, ours], input=tests[0].input, stdout=stdout, text=True, cwd=folder, timeout=60)
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if ours.encode() in entry.read_bytes().split(b"\0"):
                os.kill(int(entry.parent.name), signal.SIGKILL)
    for mark in (word for word in tests[0].input.split() if word.startswith("gwen25-doctor-")):
        for place in ("/dev/shm", "/var/tmp", "/tmp"):  # where the one that writes outside writes
            Path(place, mark).unlink(missing_ok=True)
    status = "passed" if out.read_text().split() == tests[0].output.split() else "wrong"
    return sandbox.Verdict(status, None, 0, 1, 0.0, 0.0, None, "", "none")


def test_each_property_fails_without_a_sandbox(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sandbox, "grade", lambda *arguments: _unconfined(tmp_path, *arguments))
    *found, seen = box.properties()
    assert [finding.what for finding in found] == [opened for _, _, opened in box.PROPERTIES.values()]
    assert statuses(iter(found)) == {"fail"} and seen.status == "warn"
    for finding in (*found, seen):
        assert finding.todo


def _is_alive(pid: int) -> bool:
    """A zombie, which waits for a container's first process to look after it, has no command line."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False


def test_a_grader_without_a_sandbox_ends_its_own_processes_only(tmp_path: Path) -> None:
    """It once knew them by the word "none", which it then found in the command line of whoever had started the tests."""
    command = [sys.executable, "-c", "import time; time.sleep(60)", "--network", "none", "gwen25-doctor-bystander"]
    with subprocess.Popen(command) as bystander:
        try:
            _unconfined(tmp_path, "pass", [TestCase("", "")])
            _unconfined(tmp_path, "pass", [TestCase("gwen25-doctor-bystander", "")])
            left = "import os, time\npid = os.fork()\nif pid: print(pid)\nelse: os.setsid(); time.sleep(60)"
            _unconfined(tmp_path, left, [TestCase("", "")])
            until = time.monotonic() + 10
            while _is_alive(int((tmp_path / "out").read_text())) and time.monotonic() < until:
                time.sleep(0.05)
            assert not _is_alive(int((tmp_path / "out").read_text()))
            assert bystander.poll() is None
        finally:
            bystander.kill()


@pytest.mark.usefixtures("isolation")
def test_a_level_that_was_asked_for_and_a_switch_that_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(layers.LEVEL, "landlock")
    monkeypatch.setenv(layers.UNSAFE, "1")
    weaker, needless = box.level()
    assert weaker.status == "warn" and f"unset {layers.LEVEL}" in weaker.todo
    assert needless.status == "warn" and layers.UNSAFE in needless.what


def test_no_isolation_and_unsafe_isolation_are_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> sandbox.Isolation:
        raise SandboxUnavailable("no adequate isolation on this machine")

    monkeypatch.setattr(sandbox, "probe", refuse)
    [finding] = box.level()
    assert finding.status == "fail" and "Landlock" in finding.todo
    monkeypatch.setattr(doctor, "CHECKS", {"canaries": cheats.rewards})
    [(_, finding)] = doctor.examine(reference())
    assert finding.status == "fail" and "sandbox" in finding.todo, "the reason is told once, not by each check that needs programs"
    monkeypatch.setenv(layers.UNSAFE, "1")
    monkeypatch.setattr(sandbox, "probe", lambda: sandbox.Isolation("landlock", "same", "rlimits", unsafe=True))
    [finding] = box.level()
    assert finding.status == "fail" and finding.what.startswith("UNSAFE") and finding.todo


@pytest.mark.parametrize(
    ("found", "setting", "value", "todo"),
    [
        (None, "", "", "apt-get install bubblewrap"),
        ("/usr/bin/bwrap", "user/max_user_namespaces", "0", "sysctl user.max_user_namespaces"),
        ("/usr/bin/bwrap", "kernel/apparmor_restrict_unprivileged_userns", "1", "apparmor_restrict_unprivileged_userns=0"),
        ("/usr/bin/bwrap", "user/max_user_namespaces", "100", "container"),
    ],
)
def test_the_way_to_namespaces(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, found: str | None, setting: str, value: str, todo: str
) -> None:
    monkeypatch.setattr(box, "bubblewrap", lambda: found)
    monkeypatch.setattr(box, "SETTINGS", tmp_path)
    if setting:
        (tmp_path / setting).parent.mkdir()
        (tmp_path / setting).write_text(f"{value}\n")
    assert todo in box.towards_namespaces()


@pytest.mark.usefixtures("isolation")
def test_speed_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    [finding] = box.speed()
    assert int(finding.what.split()[0]) > 0
    monkeypatch.setattr(box, "SLOW", float("inf"))
    [finding] = box.speed()
    assert finding.status == "warn" and finding.todo


# the rewards


def test_a_canary_that_is_paid_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    paid, unknown = canaries.Outcome("a", "runs", 0.5, 0.2, 1.04), canaries.Outcome("b", "runs", None, 0.2, 1.04)
    monkeypatch.setattr(canaries, "sing", lambda *_, **__: [replace(paid, earned=0.2), paid, unknown])
    failed, unclear = cheats.rewards(reference())
    assert failed.status == "fail" and "0.5" in failed.what and failed.todo
    assert unclear.status == "warn" and unclear.todo


def test_a_judges_canary(monkeypatch: pytest.MonkeyPatch, service: Service) -> None:
    section = JudgeConfig(provider="openai", model="local", base_url=f"{service.url}/v1")
    monkeypatch.setattr(services, "ask_judge", lambda _: "answers")  # the service here knows no list of models

    def status(reply: Reply) -> str:
        service.reply = lambda number, prompt: reply
        [finding] = cheats.talking_judge(Asked(Config(grpo=GrpoConfig(judge=section))))
        assert finding.todo
        return finding.status

    assert status(Reply(json.dumps({"score": 1.0}))) == "fail", "a judge that calls everything right"
    assert status(Reply(status=503)) == "warn"


def test_without_a_judge_its_canary_is_not_tried() -> None:
    [finding] = cheats.talking_judge(reference())
    assert finding.status == "ok" and "not tried" in finding.what


def test_a_judge_that_is_away_is_asked_for_no_score() -> None:
    away = JudgeConfig(provider="openai", model="local", base_url="http://127.0.0.1:9/v1")  # the port of discard, where nothing listens
    [finding] = cheats.talking_judge(Asked(Config(grpo=GrpoConfig(judge=away))))
    assert finding.status == "warn" and "not tried" in finding.what
