"""docs/reproduce.md: its commands parse, its arithmetic is run, its hours and costs are what `gwen25 estimate` says."""

from __future__ import annotations

import doctest
import re
import shlex
from datetime import date
from pathlib import Path

import pytest

from gwen25 import cli
from gwen25.commands import common
from gwen25.config import load_config
from gwen25.estimate import estimate
from tests.conftest import REPOSITORY

FILE = REPOSITORY / "docs" / "reproduce.md"
PAGE = FILE.read_text(encoding="utf-8")
PROSE = " ".join(PAGE.split())
COMMANDS = re.findall(r"^ {4}(gwen25 .*)$", PAGE, re.MULTILINE)


def test_the_page_has_commands() -> None:
    assert len(COMMANDS) >= 8 and any("--recipe reference" in command for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_parses_and_its_settings_exist(command: str) -> None:
    arguments = cli._parser().parse_args(shlex.split(command)[1:])
    if hasattr(arguments, "profile"):
        common.configuration(arguments)


def test_a_command_that_does_not_parse_is_found() -> None:
    with pytest.raises(SystemExit):
        cli._parser().parse_args(shlex.split(COMMANDS[0] + " --recpe reference")[1:])


def test_the_arithmetic_holds() -> None:
    found = doctest.testfile(str(FILE), module_relative=False)
    assert found.attempted > 5 and not found.failed


def test_hours_memory_judge_and_disk_are_the_estimate_s() -> None:
    found = estimate(load_config("a100", "reference", overrides={"grpo.vllm": "off"}), today=date(2026, 11, 24))
    hours = {name: (of.seconds or 0) / 3600 for name, of in found.hours.items()}
    for name in ("sft", "grpo", "evaluate", "baseline"):
        assert f"| `{name}` | {hours[name]:.1f} |" in PAGE
    assert f"| in all | {sum(hours.values()):.1f} |" in PAGE
    assert f"at most {max(node.peak.bytes for node in found.nodes.values()) / 1e9:.1f} GB (`evaluate`)" in PROSE
    assert found.judging is not None and found.judging.dollars is not None
    judged = f"{found.judging.requests} requests, {found.judging.tokens_in:,} tokens in and {found.judging.tokens_out:,} out"
    assert f"at most {judged}; ${found.judging.dollars:.2f} at the prices" in PROSE
    assert f"Disk: {sum(term.bytes for term in found.disk) / 1e9:.1f} GB" in PROSE


def test_the_experiment_s_cost_is_its_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten trained models with their evaluations, and the base model's: by the page's own command, on 100 rows and 380 problems."""
    monkeypatch.chdir(tmp_path)
    for name, lines in (("easy.jsonl", 100), ("lcb-medium.jsonl", 380)):
        (tmp_path / name).write_text("{}\n" * lines, encoding="utf-8")
    command = next(command for command in COMMANDS if "dataset.source=easy.jsonl" in command)
    found = estimate(common.configuration(cli._parser().parse_args(shlex.split(command)[1:])), today=date(2026, 11, 24))
    hours = {name: (of.seconds or 0) / 3600 for name, of in found.hours.items()}
    least, most = (10 * (sft + hours["grpo"] + hours["evaluate"]) + hours["evaluate"] for sft in (0.1, hours["sft"]))
    assert f"{hours['grpo']:.1f} of `grpo` and {hours['evaluate']:.1f} of `evaluate`" in PROSE
    assert f"0.1 to {hours['sft']:.1f} hours of `sft`" in PROSE
    assert f"{least:.0f} to {most:.0f} A100 hours" in PROSE, (least, most)
    assert found.judging is not None and found.judging.dollars is not None
    assert f"${10 * found.judging.dollars:.2f}." in PROSE


def test_it_says_that_it_was_not_done() -> None:
    assert "Not reproduced by us" in PROSE
