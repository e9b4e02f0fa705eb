"""The documentation is true: the site builds without a network, and what it says of commands, keys and messages is in the code."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import pytest
from pydantic import BaseModel

from gwen25 import cli, config
from gwen25.config import Config

ROOT = Path(__file__).parents[1]
RECORDS = ("log.md", "measurements.md")  # of what was done once, by the commands of that day
PAGES = [ROOT / "README.md", ROOT / "deployments" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = [page for page in PAGES if page.name not in RECORDS]
SECTIONS = [name for name in Config.model_fields if isinstance(getattr(Config(), name), BaseModel)]


# -------------------------------------------------------------------------------------------------------------------- the site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site: `--strict`, every way out of the machine closed, and a home of its own so that no store takes part."""
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: pip install 'gwen25[docs]'")
    out, home = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("home")
    nowhere = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")
    ours = {"GWEN25_HOME": str(home), "NO_MKDOCS_2_WARNING": "1", "AUTO_HPARAMS": ""}
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)],
        cwd=ROOT, env={**os.environ, **nowhere, **ours}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert built.returncode == 0, built.stdout + built.stderr
    return out


class Loaded(HTMLParser):
    """The addresses that a page makes its reader's browser load."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        at = {"script": "src", "img": "src", "iframe": "src", "link": "href"}.get(tag)
        if at and given.get("rel") not in ("canonical", "next", "prev") and (address := given.get(at)):
            self.found.append(address)


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        loaded = Loaded()
        loaded.feed(page.read_text(encoding="utf-8"))
        assert loaded.found, page
        assert not [address for address in loaded.found if "//" in address], page
    for sheet in site.rglob("*.css"):
        assert not re.findall(r"(?:url\(|@import\s*)['\"]?(?:https?:)?//", sheet.read_text(encoding="utf-8")), sheet


def test_the_reference_names_every_key_and_every_command(site: Path) -> None:
    keys = (site / "reference" / "config.html").read_text(encoding="utf-8")
    everything = config.flatten(json.loads(Config().model_dump_json()))
    shared = [name for name in Config.model_fields if name not in SECTIONS]
    told = [name for name in everything if name.rpartition(".")[2] not in shared or name in shared]
    assert len(told) > 90
    assert not [name for name in told if f"<code>{name}</code>" not in keys]
    commands = (site / "reference" / "commands.html").read_text(encoding="utf-8")
    assert not [name for name in _commands() if f"usage: gwen25 {name}" not in commands]


# -------------------------------------------------------------------------------------------------------------------- commands


def _commands() -> dict[str, set[str]]:
    """The command line's commands, each with its options."""
    actions = cli._parser()._subparsers._group_actions[0]  # type: ignore[union-attr]
    return {name: set(parser._option_string_actions) for name, parser in actions.choices.items()}  # type: ignore[union-attr, call-overload]


def _code(page: Path) -> Iterator[tuple[str, bool]]:
    """Lines of code blocks (fenced or indented) without their comments, and, marked True, code within a sentence."""
    fenced = False
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            yield re.split(r"\s#\s|\s{3,}\S", line.strip())[0].strip(), False
        else:
            yield from ((code, True) for code in re.findall(r"`([^`]+)`", line))


def _called(code: str) -> list[str] | None:
    """The arguments of a call of gwen25, None where the line is something else."""
    found = re.match(r"(?:\w+=\S+ )*(?:echo .* \| )?(?:\.venv/bin/)?gwen25 (.+)", code)
    # a reference asked of the shell is any reference; what stands in brackets may be left out
    return shlex.split(re.sub(r" \[[^\]]*\]", "", re.sub(r"\$\([^)]*\)", "merge:3f2a", found[1]))) if found else None


def _calls(*, spoken: bool) -> Iterator[tuple[Path, list[str]]]:
    for page in PAGES:
        for code, within in _code(page):
            if within == spoken and (arguments := _called(code)):
                yield page, arguments


def test_every_command_in_a_block_of_code_is_one_that_the_command_line_takes(capsys: pytest.CaptureFixture[str]) -> None:
    count = 0
    for page, arguments in _calls(spoken=False):
        try:
            parsed = cli._parser().parse_args(arguments)
        except SystemExit:
            pytest.fail(f"{page.name}: gwen25 {' '.join(arguments)}: {capsys.readouterr().err}")
        if "set" in parsed:
            overrides = dict(config.parse_override(text) for text in parsed.set)
            config.load_config(parsed.profile, parsed.recipe, overrides=overrides)  # names of profiles and keys, and values
        count += 1
    assert count > 40


def test_every_command_and_option_named_in_a_sentence_exists() -> None:
    known, count = _commands(), 0
    for page, (name, *rest) in _calls(spoken=True):
        assert name in known or name.startswith("--"), f"{page.name}: gwen25 {name}"
        unknown = [word for word in rest if word.startswith("--") and word not in known[name]]
        assert not unknown, f"{page.name}: gwen25 {name} {' '.join(unknown)}"
        count += 1
    assert count > 30


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {code.split()[1] for page in PAGES for code, _ in _code(page) if re.match(r"make [a-z-]+( |$)", code)}
    assert len(named) > 4
    assert named <= targets


def test_every_key_of_the_config_that_is_named_exists() -> None:
    known, count = config.flatten(json.loads(Config().model_dump_json())), 0
    for page in PAGES:
        for code, _ in _code(page):
            found = re.fullmatch(rf"((?:{'|'.join(SECTIONS)})\.[a-z_.0-9]+)(=\S+)?", code)
            if found and not found[1].endswith((".py", ".json", ".jsonl", ".md", ".yaml")):
                assert found[1] in known or any(name.startswith(f"{found[1]}.") for name in known), f"{page.name}: {found[1]}"
                count += 1
    assert count > 60


# -------------------------------------------------------------------------------------------------------------------- messages


@cache
def _texts() -> tuple[str, ...]:
    """Every text in the code, written out as one where it is made of several; what is filled in is a NUL."""
    found = list[str]()
    for file in [path for room in ("gwen25", "flows", "tasks") for path in (ROOT / room).rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return tuple(found)


def _quoted() -> list[str]:
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    return [heading.strip("`").strip() for heading in re.findall(r"^### (.+)$", page, re.MULTILINE)]


def test_every_message_of_the_troubleshooting_page_is_one_that_the_code_says() -> None:
    quoted = _quoted()
    assert len(quoted) > 40
    assert not [message for message in quoted if max(map(len, message.split("…"))) < 9], "too little of it is fixed"
    assert not [message for message in quoted if not _said(message)]


def _said(message: str) -> bool:
    """Whether one text of the code holds a message's fixed parts in their order."""
    parts = message.split("…")
    inner = re.compile(".*?".join(map(re.escape, parts)), re.DOTALL)
    return any(inner.search(text) for text in _texts() if max(parts, key=len) in text)


def test_a_message_that_the_code_does_not_say_would_be_found() -> None:
    assert _said("… needs a GPU and … shows none")
    assert not _said("… needs a GPU and … shows one")
