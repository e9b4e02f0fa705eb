"""llama.cpp's own convert_hf_to_gguf.py in a process of its own: the peer that our writer is held against.

    GWEN25_LLAMA_CPP=llama.cpp python -m bench.converter JOBS.json     [{"model": DIR, "out": FILE, "type": "q8_0", "pre": "qwen2"}, ...]

GWEN25_LLAMA_CPP: the folder of convert_hf_to_gguf.py, in a checkout of llama.cpp or the vendor folder of llama-cpp-python's sdist.
The script knows tokenizers by a hash of what they make of a text; `pre` names the split of one that it does not know. Each output is
fsynced, as ours is.
"""

from __future__ import annotations

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

VARIABLE = "GWEN25_LLAMA_CPP"


def folder() -> Path | None:
    """Where the script lies; None where the variable names no such place."""
    named = Path(os.environ.get(VARIABLE, "/nowhere"))
    return named if (named / "convert_hf_to_gguf.py").is_file() else None


def main(jobs_file: str) -> None:
    root = folder()
    if root is None:
        raise SystemExit(f"{VARIABLE} names no folder with convert_hf_to_gguf.py")
    sys.path[:0] = [str(root), str(root / "gguf-py")]
    import convert_hf_to_gguf  # type: ignore[import-not-found]  # noqa: F401

    if find_spec("sentencepiece") is None:  # asked for with every model, used for none of ours; after transformers looked for it
        stub: Any = ModuleType("sentencepiece")
        stub.SentencePieceProcessor = None
        sys.modules["sentencepiece"] = stub
    for job in json.loads(Path(jobs_file).read_text(encoding="utf-8")):
        _convert(**job)


def _convert(model: str, out: str, type: str, pre: str) -> None:
    import convert_hf_to_gguf as script
    from conversion.base import TextModel  # type: ignore[import-not-found]

    known = TextModel.get_vocab_base_pre

    def split(self: Any, tokenizer: Any) -> str:
        try:
            return str(known(self, tokenizer))
        except NotImplementedError:  # a made-up tokenizer: the script knows real ones by a hash of what they say
            return pre

    TextModel.get_vocab_base_pre = split
    try:
        sys.argv = ["convert_hf_to_gguf.py", model, "--outfile", out, "--outtype", type]
        script.main()
    finally:
        TextModel.get_vocab_base_pre = known
    descriptor = os.open(out, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


if __name__ == "__main__":
    main(sys.argv[1])
