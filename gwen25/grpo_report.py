"""A page about a GRPO run for people: its warnings, and groups of completions with what each earned.

    (job.aside / "report.md").write_text(page(cautions, samples))      samples: lines of completions.jsonl

What the model wrote, and what the data set asks, is hostile text: it stands in fences longer than any run of backticks in it, so
that it closes none and is nowhere read as Markdown or HTML. Long texts are cut in their middle; the file has them whole.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from gwen25.grpo_watch import Caution

SHOWN: Final = 1500  # characters of a text; a page of several thousand lines is opened by nobody


def page(cautions: Sequence[Caution], samples: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: the warnings, then the first and the last group that was kept."""
    parts = ["## Warnings", warnings(cautions) or "None."]
    for sample in dict.fromkeys((0, len(samples) - 1)) if samples else ():
        parts += _group(samples[sample])
    return "\n\n".join(parts) + "\n"


def warnings(cautions: Sequence[Caution]) -> str:
    """A list, one line each; empty where there are none."""
    return "\n".join(f"- step {caution.step}: {caution.text}" for caution in cautions)


def fenced(text: str) -> str:
    """The text as a block of code that nothing in it can close, cut in its middle where it is long."""
    if len(text) > SHOWN:
        text = f"{text[: SHOWN // 2]}\n[... {len(text) - SHOWN} characters ...]\n{text[-(SHOWN // 2) :]}"
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}text\n{text}\n{fence}"


def _group(sample: Mapping[str, Any]) -> list[str]:
    parts = [
        f"## Step {sample['step']}: one prompt, {len(sample['completions'])} completions",
        fenced(f"{sample['id']}\n{sample['prompt']}"),
    ]
    names = list(sample["completions"][0]["rewards"])
    rows = [
        [number, one["advantage"], *(one["rewards"][name] for name in names)] for number, one in enumerate(sample["completions"], start=1)
    ]
    parts.append(_table(["completion", "advantage", *names], rows))
    for number, one in enumerate(sample["completions"], start=1):
        parts += [f"Completion {number}:", fenced(one["completion"])]
    return parts


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Names of our own and numbers; unknown is a dash."""
    lines = [header, ["---"] * len(header), *([_number(value) for value in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _number(value: float | int | None) -> str:
    return "-" if value is None else f"{value:.3g}"
