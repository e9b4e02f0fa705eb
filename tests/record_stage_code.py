"""The digest of a stage's code, and the command that records it.

    python -m tests.record_stage_code        (make golden)

A stage's code is its pipeline module and every gwen25 module that it imports, directly or not, less the machinery that
cannot change what is computed. It is digested as a syntax tree without docstrings, comments and layout.
"""

from __future__ import annotations

import ast
import hashlib
import json
from pathlib import Path

from gwen25.stage import STAGES

REPOSITORY = Path(__file__).parent.parent
GOLDEN = Path(__file__).parent / "golden" / "stage_code.json"
# config's values are keyed themselves; the rest moves bytes about, draws, or words errors
MACHINERY = {"gwen25", "gwen25.config", "gwen25.job", "gwen25.errors", "gwen25.plots", "gwen25.artifacts"}


def modules(name: str, seen: dict[str, Path] | None = None) -> dict[str, Path]:
    """The gwen25 modules a module stands on, by name."""
    seen = {} if seen is None else seen
    path = REPOSITORY / (name.replace(".", "/") + ".py")
    path = path if path.exists() else REPOSITORY / name.replace(".", "/") / "__init__.py"
    if name in MACHINERY or name in seen or not path.exists():
        return seen
    seen[name] = path
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for imported in names:
            if imported.startswith("gwen25"):
                modules(imported, seen)
    return seen


def code_digest(stage: str) -> str:
    """sha256 over the stage's modules, each as a tree without docstrings."""
    parts = [f"{name}\n{_normalised(path)}" for name, path in sorted(modules(STAGES[stage].module).items())]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _normalised(path: Path) -> str:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if (
            isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
            and ast.get_docstring(node, clean=False) is not None
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.dump(tree)


def recorded() -> dict[str, dict[str, object]]:
    """What is recorded: by stage its version, its code's digest, and `same_output`, notes of changes that kept the version."""
    value: dict[str, dict[str, object]] = json.loads(GOLDEN.read_text(encoding="utf-8")) if GOLDEN.exists() else {}
    return value


def main() -> None:
    before = recorded()
    after = {
        name: {"version": stage.version, "code": code_digest(name), "same_output": before.get(name, {}).get("same_output", [])}
        for name, stage in STAGES.items()
    }
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(json.dumps(after, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
