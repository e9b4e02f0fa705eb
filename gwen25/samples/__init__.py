"""The small files the smoke profile runs on, written for this project (Apache-2.0).

    rows.jsonl       rows in nvidia/OpenCodeReasoning's schema; a few are deliberately bad, one for each reason to drop a row
    problems.jsonl   problems in LiveCodeBench's schema: stdin and functional, private tests in the official encoding and as JSON
    tiny.safetensors the smoke profile's base weights, made by `samples.pretrain`
    tokenizer.json   a byte-level BPE of Qwen2's kind, trained on the rows by `samples.train_tokenizer`

`samples.tiny` builds the base model. Not here: anything copied from the data sets whose schemas these are.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from gwen25.errors import unknown


def path(name: str) -> Path:
    """Where a packaged sample file lies. Raises BadInput for a name that is not packaged."""
    folder = Path(str(resources.files("gwen25.samples")))
    names = sorted(entry.name for entry in folder.iterdir() if entry.suffix in (".jsonl", ".json", ".safetensors"))
    if name not in names:
        raise unknown("sample file", name, names)
    return folder / name
