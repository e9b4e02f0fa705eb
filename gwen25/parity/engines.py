"""What each engine sees: prompts, token ids, where an answer ends. One function an engine, all in the same nouns, and the reference.

    expected(model_dir, shape)              the reference: the chat format's own render, the checkpoint's tokenizer.json
    by_its_words(file, shape)               the same of a file that is proved: its metadata in the checkpoint's place
    gguf_header(file, reference, shape)     a GGUF's own words, and the ids that they make; needs nothing but the file
    llama_cpp(file, shape)                  llama.cpp, in this process; an answer is made to end, or not to
    transformers([folder], shape)           Transformers, in a process of its own unless this one holds it
    vllm(python, [folder], shape)           vLLM, in an interpreter that holds it

`Seen` maps a kind (prompts, ids, stops ...) to named values; a kind that an engine does not tell is absent, and then is not compared.
Ollama's part is where its server is (`ollama_publish`).
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from gwen25 import llamacpp
from gwen25.chat import ChatFormat
from gwen25.errors import BadInput, Gwen25Error
from gwen25.gguf_header import read_header
from gwen25.gguf_writer.agreement import looks_special
from gwen25.gguf_writer.vocabulary import split_name
from gwen25.parity import hf_child, spelling
from gwen25.parity.dialogues import BARE, DIALOGUES, texts

Seen = dict[str, dict[str, Any]]
_CHILD_SECONDS: Final = 600  # importing vLLM takes 10 s on two idle cores
_OPENING: Final = "<|im_start|>"


def expected(model_dir: Path, shape: ChatFormat) -> Seen:
    """What all engines must say of this checkpoint in this format. Raises BadInput for a tokenizer.json that cannot be read."""
    from tokenizers import Tokenizer

    file = model_dir / "tokenizer.json"
    try:
        tokenizer, parts = Tokenizer.from_file(str(file)), json.loads(file.read_text(encoding="utf-8"))
        merges, types = _merges(parts), _types(parts)
    except Exception as error:  # the library raises bare Exceptions
        raise BadInput(f"{file} cannot be read as a byte-level BPE tokenizer: {error!r}") from error
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    return {
        **_wanted(lambda text: tokenizer.encode(text, add_special_tokens=False).ids, shape),
        "special": dict.fromkeys((_OPENING, *shape.stop), True),
        "model": {"model": spelling.MODEL},
        "split": {"pre": _split(file, parts)},
        "types": {str(row): types.get(token, spelling.NORMAL) for token, row in vocabulary.items()},
        "vocabulary": {str(row): token for token, row in vocabulary.items()},
        "padding": {"in use": []},
        "merges": {"all": _digest(merges)},
    }


def by_its_words(file: Path, shape: ChatFormat) -> Seen:
    """What an engine must say of a GGUF whose metadata are proved to be its checkpoint's. Raises BadInput as `spelling.encoder`."""
    return _wanted(spelling.encoder(read_header(file).fields), shape)


def _wanted(ids: Callable[[str], list[int]], shape: ChatFormat) -> Seen:
    prompts = {name: shape.render(messages) for name, messages in DIALOGUES.items()}
    return {
        "prompts": prompts,
        "histories": {name: shape.render(messages, add_generation_prompt=False) for name, messages in DIALOGUES.items()},
        "ids": {name: ids(text) for name, text in {**prompts, **texts(shape)}.items()},
        "added": {"bos": False, "eos": False, "ids": ids(BARE)},
        "stops": {"eos": shape.eos, "ends": sorted(shape.stop)},
        "template": {"jinja": shape.jinja.rstrip("\n"), "go": shape.ollama},
    }


def _merges(parts: Mapping[str, Any]) -> list[str]:
    return [merge if isinstance(merge, str) else " ".join(merge) for merge in parts["model"]["merges"]]


def _types(parts: Mapping[str, Any]) -> dict[str, int]:
    """Of the added tokens, as llama.cpp types them: one that shows in an answer is user-defined, the others are control tokens."""
    return {
        token["content"]: spelling.CONTROL if token["special"] or looks_special(token["content"]) else spelling.USER_DEFINED
        for token in parts.get("added_tokens") or ()
    }


def _split(file: Path, parts: Mapping[str, Any]) -> str | None:
    """llama.cpp's name of the checkpoint's split; None for one that it has no name for, of which no GGUF is made."""
    try:
        return split_name(file, parts)
    except BadInput:
        return None


def _digest(lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def gguf_header(file: Path, reference: Seen, shape: ChatFormat) -> Seen:
    """A GGUF's metadata, and the ids that a tokenizer made of them gives. Of rows beyond the reference's vocabulary, which are padding of
    the matrix, those are told that a text or an answer could use."""
    fields = read_header(file).fields
    tokens, types = fields.get("tokenizer.ggml.tokens", []), fields.get("tokenizer.ggml.token_type", [])
    eos = fields.get("tokenizer.ggml.eos_token_id")
    control = {token for token, type in zip(tokens, types, strict=False) if type == spelling.CONTROL}
    told: Seen = {
        "template": {"jinja": str(fields.get("tokenizer.chat_template", "")).rstrip("\n")},
        "stops": {"eos": tokens[eos] if isinstance(eos, int) and 0 <= eos < len(tokens) else None},
        "added": {side: bool(fields.get(f"tokenizer.ggml.add_{side}_token", False)) for side in ("bos", "eos")},
        "special": {token: token in control for token in reference["special"]},
        "model": {"model": fields.get("tokenizer.ggml.model")},
        "split": {"pre": fields.get("tokenizer.ggml.pre")},
        "types": {row: types[int(row)] if int(row) < len(types) else None for row in reference["types"]},
        "vocabulary": {row: tokens[int(row)] if int(row) < len(tokens) else None for row in reference["vocabulary"]},
        "padding": {
            "in use": [row for row, type in enumerate(types) if type != spelling.UNUSED and str(row) not in reference["vocabulary"]]
        },
        "merges": {"all": _digest(fields.get("tokenizer.ggml.merges", []))},
    }
    try:
        ids = spelling.encoder(fields)
    except BadInput as error:
        return {**told, "words": {"says": str(error)}}
    return {**told, "ids": {name: ids(text) for name, text in {**reference["prompts"], **texts(shape)}.items()}}


def llama_cpp(file: Path, reference: Seen, shape: ChatFormat, threads: int | None = None) -> Seen:
    """The GGUF loaded. Raises Gwen25Error where it does not load."""
    with llamacpp.LlamaCpp(file, n_ctx=1024, threads=threads, quiet=True) as model:
        properties = model.properties()
        named = {**reference["prompts"], **texts(shape)}
        return {
            "prompts": {name: model.render(messages) for name, messages in DIALOGUES.items()},
            "histories": {name: model.render(messages, add_generation_prompt=False) for name, messages in DIALOGUES.items()},
            "ids": {name: model.tokenize(text) for name, text in named.items()},
            "added": {"ids": model.tokenize(BARE, add_special=True)},
            "stops": {
                "eos": properties.get("eos_token"),
                "ends": sorted(token for token in (*shape.stop, _OPENING) if _ends(model, token, reference["prompts"]["one turn"])),
            },
            "template": {"jinja": str(properties.get("chat_template", "")).rstrip("\n")},
        }


def _ends(model: llamacpp.LlamaCpp, token: str, prompt: str) -> bool:
    """True where an answer in which only this token can come ends at it: generation itself is tried, whatever the weights say."""
    ids = model.tokenize(token)
    settings = {"n_predict": 2, "temperature": 0, "logit_bias": [[ids[0], 10_000.0]]}
    *_, last = model.stream(model.tokenize(prompt), settings)
    return len(ids) == 1 and last.get("stop_type") == "eos"


def version(package: str) -> str | None:
    """An installed package's version, None where there is none."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def interpreter(package: str, others: Sequence[str] = ()) -> str | None:
    """The first interpreter that holds a package: the running one, then `others`. None where none does."""
    if find_spec(package) is not None:
        return sys.executable
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({package!r}) is None)"
    for python in dict.fromkeys(others):
        try:
            if subprocess.run([python, "-c", code], capture_output=True, timeout=60).returncode == 0:
                return python
        except (OSError, subprocess.TimeoutExpired):
            continue
    return None


def transformers(folders: Sequence[Path], shape: ChatFormat) -> tuple[str, list[Seen]]:
    """Transformers' version, and what it sees of each checkpoint; {"error": ...} for one that it does not take.

    It brings torch, 0.3 GB and four seconds: asked in a process of its own, unless this one holds it already.
    """
    asked = _asked("transformers", folders, shape)
    told = hf_child.told(asked) if "transformers" in sys.modules else _in_child(sys.executable, asked)
    return told["version"], told["models"]


def vllm(python: str, folders: Sequence[Path], shape: ChatFormat) -> tuple[str, list[Seen]]:
    """vLLM, in an interpreter that holds it. Raises Gwen25Error where it does not run there."""
    told = _in_child(python, _asked("vllm", folders, shape))
    return told["version"], told["models"]


def _in_child(python: str, asked: dict[str, Any]) -> dict[str, Any]:
    command, failed = [python, str(Path(hf_child.__file__))], f"{asked['engine']} does not run in {python}"
    try:
        done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, errors="replace", timeout=_CHILD_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Gwen25Error(f"{failed}: {error}") from error
    try:
        told: dict[str, Any] = json.loads(done.stdout.rstrip().rpartition("\n")[2])
    except ValueError as error:
        raise Gwen25Error(f"{failed}: {done.stderr.strip().rpartition(chr(10))[2][:300]}") from error
    return told


def _asked(engine: str, folders: Sequence[Path], shape: ChatFormat) -> dict[str, Any]:
    return {"engine": engine, "models": [str(folder) for folder in folders], "dialogues": DIALOGUES, "texts": texts(shape), "bare": BARE}
