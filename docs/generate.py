"""The pages of the site that are made from the code as it is built: configuration, profiles, estimates, commands, dropped rows; and
three texts of the root.

    mkdocs build          calls `on_files`; the pages exist in the site alone

A default, a range or an option that changes is told right by the next build: none of it is typed twice. Not here: anything that
needs words of its own (the other pages of docs/).
"""

from __future__ import annotations

import argparse
import contextlib
import html
import inspect
import io
import json
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from pydantic import BaseModel

from gwen25 import cli
from gwen25.config import Config, flatten, profiles, read_yaml, recipes
from gwen25.pipelines.dataset import REASONS

ROOT = Path(__file__).parents[1]
COPIED = {"deployments.md": "deployments/README.md", "contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
FREE = "text"  # what a field of type string takes
WIDTH = "96"  # columns of a command's help, which fit the page

RANGES = (("minimum", "at least"), ("exclusiveMinimum", "above"), ("maximum", "at most"), ("exclusiveMaximum", "below"))


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """mkdocs calls this once it has found the pages of docs/."""
    made = {
        "reference/config.md": configuration,
        "reference/profiles.md": layers,
        "reference/estimates.md": estimates,
        "reference/commands.md": commands,
        "reference/rows.md": rows,
    }
    for page, text in made.items():
        files.append(File.generated(config, page, content=text()))
    for page, source in COPIED.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


# ------------------------------------------------------------------------------------------------------------- configuration


def configuration() -> str:
    """Every key of the config by section: what it takes, its default, and which profile or recipe sets it otherwise."""
    schema = Config.model_json_schema()
    shared = [name for name in Config.model_fields if not _model(Config, name)]
    parts = [
        "# Configuration",
        "Defaults < `--recipe` < `--profile` < `--config FILE` < `--set section.key=value`; a list is replaced whole. The defaults are the "
        "reference recipe's. Names are TRL's, PEFT's and llama.cpp's own, and mean what they mean there. `null` is a value: none.",
        "## For all sections",
        "Set once at the top of the config (`--set seed=7`), and pushed into each section.",
        _table(Config, schema, schema, "", shared, described_by=schema["$defs"]["DatasetConfig"]),
    ]
    for name in Config.model_fields:
        if model := _model(Config, name):
            parts += _section(model, schema, name, shared)
    return "\n\n".join(parts) + "\n"


def _section(model: type[BaseModel], schema: Mapping[str, Any], name: str, shared: list[str]) -> Iterator[str]:
    """One section's heading, what its class says of itself, its table, and then the sections within it."""
    about, own = schema["$defs"][model.__name__], [field for field in model.model_fields if field not in shared]
    yield f"## {name}"
    if "description" in about:
        yield html.escape(inspect.cleandoc(about["description"]), quote=False)
    if plain := [field for field in own if not _model(model, field)]:
        yield _table(model, schema, about, f"{name}.", plain)
    for field in own:
        if inner := _model(model, field):
            yield from _section(inner, schema, f"{name}.{field}", shared)


def _model(model: type[BaseModel], field: str) -> type[BaseModel] | None:
    """The section that a field is, or None for a value."""
    kind = model.model_fields[field].annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _table(
    model: type[BaseModel],
    schema: Mapping[str, Any],
    about: Mapping[str, Any],
    prefix: str,
    fields: list[str],
    described_by: Mapping[str, Any] | None = None,
) -> str:
    elsewhere = _set_elsewhere()
    lines = ["| key | takes | default | what it is | set by profile or recipe |", "|---|---|---|---|---|"]
    for name in fields:
        field = about["properties"][name]
        text = field.get("description") or (described_by or about)["properties"][name].get("description", "")
        default = json.dumps(model.model_fields[name].get_default(call_default_factory=True))
        others = "<br>".join(f"{layer}: `{json.dumps(value)}`" for layer, value in elsewhere[prefix + name])
        cells = [f"`{prefix}{name}`", _takes(field, schema), f"`{default}`", _cell(text), others]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _takes(field: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """The values of a field, from its JSON schema: a type with its range, or the names to choose from."""
    if "$ref" in field:
        return _takes(schema["$defs"][field["$ref"].rpartition("/")[2]], schema)
    if "anyOf" in field:
        return " or ".join(_takes(one, schema) for one in field["anyOf"])
    if "enum" in field or "const" in field:
        return ", ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    if field["type"] == "array":
        return f"a list of {_takes(field['items'], schema)}"
    if field["type"] == "object":
        return f"a mapping to {_takes(field['additionalProperties'], schema)}"
    kind = {"string": FREE, "boolean": "`true`, `false`", "null": "`null`", "number": "number", "integer": "whole number"}[field["type"]]
    bounds = [f"{words} {_number(field[key])}" for key, words in RANGES if key in field]
    return f"{kind}, {', '.join(bounds)}" if bounds else kind


def _number(value: float) -> str:
    return f"{value:,}" if float(value).is_integer() else f"{value:g}"


def _set_elsewhere() -> dict[str, list[tuple[str, Any]]]:
    """By dotted key: which layers set it, and to what."""
    found = defaultdict(list)
    for package, name in _layers():
        with resources.as_file(resources.files(package).joinpath(f"{name}.yaml")) as file:
            for key, value in flatten(read_yaml(file)).items():
                found[key].append((name, value))
    return found


def _cell(text: str) -> str:
    return html.escape(" ".join(text.split()), quote=False).replace("|", "&#124;")


# ------------------------------------------------------------------------------------------------------ profiles and recipes


def _layers() -> list[tuple[str, str]]:
    return [("gwen25.recipes", name) for name in recipes()] + [("gwen25.profiles", name) for name in profiles()]


def layers() -> str:
    """The files themselves, with their comments."""
    parts = [
        "# Profiles and recipes, as files",
        "Differences from the defaults; each is given by its name, or copied and passed as `--config FILE`.",
    ]
    for package, name in _layers():
        text = resources.files(package).joinpath(f"{name}.yaml").read_text(encoding="utf-8")
        option = "--recipe" if package.endswith("recipes") else "--profile"
        parts.append(f"## `{option} {name}`\n\n```yaml\n{text}```")
    return "\n\n".join(parts) + "\n"


ON_A_GPU = ("t4", "a100", "multi-gpu")  # their memory stands in the profile, so that this machine's is not asked


def estimates() -> str:
    """`gwen25 estimate` for the profiles that name a GPU; their models' shapes are known without the hub."""
    parts = ["# Estimates", "What `gwen25 estimate` says as this site is built. [How to read it](../machines.md#what-an-estimate-says)."]
    for name in ON_A_GPU:
        with contextlib.redirect_stdout(io.StringIO()) as said:
            status = cli.main(["estimate", "--profile", name])
        if status:
            raise PluginError(f"gwen25 estimate --profile {name} ended with status {status}")
        parts.append(f"## `gwen25 estimate --profile {name}`\n\n```text\n{said.getvalue()}```")
    return "\n\n".join(parts) + "\n"


def rows() -> str:
    """The reasons for which the dataset node drops a row, in the order in which they are asked."""
    lines = [
        "# Why a row is dropped",
        "",
        "In the order in which it is asked; a row is counted under the first that holds.",
        "",
        "| reason | what to do |",
    ]
    return "\n".join([*lines, "|---|---|", *(f"| `{reason}` | {_cell(todo)} |" for reason, todo in REASONS.items())]) + "\n"


# ------------------------------------------------------------------------------------------------------------------ commands


def commands() -> str:
    """`gwen25 --help`, and the help of each command."""
    os.environ["COLUMNS"] = WIDTH  # argparse asks it; this process builds a site and nothing else
    parser = cli._parser()
    parts = ["# Commands", "Exit status: 0 done, 1 the work failed, 2 bad input (one line, no traceback).", _help("gwen25", parser)]
    parts += [_help(f"gwen25 {name}", command) for name, command in subcommands(parser).items()]
    return "\n\n".join(parts) + "\n"


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """A parser's commands by name."""
    return next(dict(action.choices) for action in parser._actions if isinstance(action, argparse._SubParsersAction))


def _help(name: str, parser: argparse.ArgumentParser) -> str:
    return f"## `{name}`\n\n```text\n{parser.format_help()}```"
