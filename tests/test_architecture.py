"""The arrows between rooms that must never exist, read off the imports. docs/architecture.md says why each."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
MODULES = sorted(path for room in ("gwen25", "flows", "tasks") for path in (REPOSITORY / room).rglob("*.py"))


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path, *, top_level_only: bool = False) -> Iterator[str]:
    """Dotted names that a module imports; those under TYPE_CHECKING do not run and do not count."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    hidden = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for node in ast.walk(block)
    }
    for node in tree.body if top_level_only else ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(name: str, *rooms: str) -> bool:
    return any(name == room or name.startswith(room + ".") for room in rooms)


# (who, never imports what, exceptions as (module, imported))
ARROWS = [
    (("gwen25",), ("prefect", "flows", "tasks"), {("gwen25.cli", "flows")}),
    (("flows", "tasks"), ("torch", "trl", "vllm", "transformers", "peft", "gwen25.pipelines", "gwen25.modeling"), set()),
    (("gwen25.rewards", "gwen25.benchmarks"), ("gwen25.pipelines",), set()),
    (("gwen25.rewards",), ("gwen25.benchmarks",), set()),
    (("gwen25.benchmarks",), ("gwen25.rewards",), set()),
    (("gwen25", "flows", "tasks"), ("gwen25.notebooks",), set()),
]


@pytest.mark.parametrize(("who", "never", "exceptions"), ARROWS)
def test_an_arrow_that_must_not_exist(who: tuple[str, ...], never: tuple[str, ...], exceptions: set[tuple[str, str]]) -> None:
    found = [
        f"{name_of(path)} -> {imported}"
        for path in MODULES
        if within(name_of(path), *who)
        for imported in imports(path)
        if within(imported, *never)
        and not any(name_of(path) == module and within(imported, allowed) for module, allowed in exceptions)
        and not within(name_of(path), *never)
    ]
    assert not found


def test_pipelines_meet_only_through_artifacts() -> None:
    found = [
        f"{name_of(path)} -> {imported}"
        for path in MODULES
        if within(name_of(path), "gwen25.pipelines")
        for imported in imports(path)
        if within(imported, "gwen25.pipelines") and imported != "gwen25.pipelines" and imported != name_of(path)
        if not within(imported, "gwen25.pipelines.hyperparams")
    ]
    assert not found


def test_the_sandbox_stands_alone() -> None:
    found = [
        f"{name_of(path)} -> {imported}"
        for path in MODULES
        if within(name_of(path), "gwen25.sandbox")
        for imported in imports(path)
        if within(imported, "gwen25") and not within(imported, "gwen25.sandbox", "gwen25.errors", "gwen25.data") and imported != "gwen25"
    ]
    assert not found


HEAVY = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "datasets",
    "vllm",
    "bitsandbytes",
    "matplotlib",
    "google",
    "xllamacpp",
    "cyllama",
    "accelerate",
    "gguf",
    "prefect",
)


@pytest.mark.parametrize("path", [path for path in MODULES if within(name_of(path), "gwen25")], ids=name_of)
def test_heavy_imports_stay_inside_functions(path: Path) -> None:
    assert not [imported for imported in imports(path, top_level_only=True) if within(imported, *HEAVY)]


def test_what_the_flow_imports_never_brings_torch() -> None:
    code = "import sys, flows.finetune; sys.exit(bool({'torch', 'trl', 'vllm', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, timeout=120).returncode == 0


def test_help_is_quick() -> None:
    """Half a second of CPU for --help: nothing but argparse is imported."""
    best = min(_seconds([sys.executable, "-m", "gwen25.cli", "--help"]) for _ in range(3))
    assert best < 0.5


def _seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, timeout=60)
    return time.perf_counter() - started
