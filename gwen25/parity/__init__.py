"""The proof that what ships sees what was trained: one comparison over every engine that is there, kept as a file beside the GGUF.

    proof = prove(Path("model.gguf"), Path("merged"), FORMATS["chatml-think"])     Gwen25Error where an engine differs
    write(proof, Path("parity.json"))
    require(Path("parity.json"), Path("model.gguf"), FORMATS["chatml-think"])      BadInput unless it is this file's and holds

The reference is the chat format's own render and the checkpoint's tokenizer.json. Held against it: the GGUF's metadata and Transformers,
always; llama.cpp, where xllamacpp is installed; vLLM, where the running interpreter or one of `runtime.python` holds it. Each is
asked for prompts (with and without the opened turn), ids, what it adds to a bare text, and the tokens that end an answer. Of the
metadata the tokenizer's kind, the split's name, every token's text and type, the merges, and that rows of padding are unused are
compared, and a tokenizer made of them alone is asked for ids (`spelling`). An engine that is not here is in the file as absent, with
the reason. Ollama is held against the same dialogues once its server has the model.

The file names the GGUF and the format by digest, so a proof of another file is no proof. One made where llama.cpp was absent is made
whole by `require` where it is present: the metadata, which are proved, stand for the checkpoint. vLLM reads the checkpoint, never the
GGUF, and is asked with the GGUF's making alone. It is no signature: who can write the file can write the proof.
Not here: weights (`score` compares what the forms say).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from gwen25 import llamacpp
from gwen25.artifacts import sha256_of
from gwen25.chat import ChatFormat
from gwen25.errors import BadInput, Gwen25Error
from gwen25.job import write_json
from gwen25.parity import engines
from gwen25.parity.engines import Seen

FILE: Final = "parity.json"
_VERSION: Final = 2  # of what is compared: an older proof proves less
_ALWAYS: Final = ("gguf", "transformers")
_LLAMA_CPP: Final = "llama.cpp"


@dataclass(frozen=True, slots=True)
class Engine:
    """What was compared in one engine, all of it equal; or why it was not asked (`absent`, the counts unknown)."""

    version: str | None = None
    prompts: int | None = None
    ids: int | None = None
    stops: list[str] | None = None
    absent: str | None = None


@dataclass(frozen=True, slots=True)
class Proof:
    """Which file and format, by sha256, and the engines that agree."""

    gguf: str
    chat_format: dict[str, str]
    engines: dict[str, Engine]

    @property
    def here(self) -> list[str]:
        return [name for name, engine in self.engines.items() if engine.absent is None]

    @property
    def covers(self) -> str:
        """The engines by name, and those that it proves nothing of: "gguf, transformers (not: llama.cpp)"."""
        absent = [name for name in self.engines if name not in self.here]
        return ", ".join(self.here) + (f" (not: {', '.join(absent)})" if absent else "")


def prove(file: Path, model_dir: Path, shape: ChatFormat, *, threads: int | None = None, interpreters: Iterable[str] = ()) -> Proof:
    """Ask every engine. Raises Gwen25Error at the first that differs or does not load the file, naming what differs."""
    reference = engines.expected(model_dir, shape)
    found = {"gguf": _held(f"{file.name}: its metadata", None, engines.gguf_header(file, reference, shape), reference)}
    version, [seen] = engines.transformers([model_dir], shape)
    found["transformers"] = _held(f"{model_dir.name}: Transformers", version, seen, reference)
    found["vllm"] = _vllm(engines.interpreter("vllm", tuple(interpreters)), model_dir, shape, reference)
    found[_LLAMA_CPP] = _llama_cpp(file, reference, shape, threads)
    return Proof(sha256_of(file), {"name": shape.name, "digest": shape.digest}, found)


def verify(file: Path, model_dir: Path, shape: ChatFormat, threads: int | None = None) -> int:
    """llama.cpp alone; returns how many token ids were compared. Raises Gwen25Error as `prove`, BadInput where it is not installed."""
    seen = _llama_cpp(file, engines.expected(model_dir, shape), shape, threads)
    if seen.ids is None:
        raise BadInput(f"{file.name} cannot be tried in llama.cpp: {seen.absent}")
    return seen.ids


def _llama_cpp(file: Path, reference: Seen, shape: ChatFormat, threads: int | None) -> Engine:
    if not llamacpp.can_load():
        return Engine(absent="xllamacpp is not installed (pip install 'gwen25[llamacpp]')")
    seen = engines.llama_cpp(file, reference, shape, threads)
    return _held(f"{file.name}: llama.cpp", engines.version("xllamacpp"), seen, reference)


def _vllm(python: str | None, model_dir: Path, shape: ChatFormat, reference: Seen) -> Engine:
    if python is None:
        return Engine(absent="no interpreter holds vllm; runtime.python may name one")
    try:
        version, [seen] = engines.vllm(python, [model_dir], shape)
    except Gwen25Error as error:  # an installation that does not work tells nothing of the model
        return Engine(absent=re.sub(r"\S*/\S+", "<path>", str(error)))  # the proof is published, and no path of this machine with it
    return _held(f"{model_dir.name}: vLLM", version, seen, reference)


def _held(who: str, version: str | None, seen: Seen, reference: Seen) -> Engine:
    if (found := difference(seen, reference)) is not None:
        raise Gwen25Error(f"{who} {found}")
    ids = sum(len(values) for values in seen["ids"].values()) if "ids" in seen else None
    prompts = len(seen["prompts"]) if "prompts" in seen else None
    return Engine(version, prompts, ids, seen["stops"].get("ends") or [seen["stops"]["eos"]])


# ---------------------------------------------------------------------------------------------------------------- comparing

_SAYS: Final = {
    "error": "does not read the checkpoint",
    "prompts": "renders another prompt than the chat format",
    "histories": "renders another history than the chat format",
    "special": "spells a special token in pieces",
    "model": "holds a tokenizer of another kind than the checkpoint",
    "split": "splits a text by another rule than the checkpoint",
    "types": "holds a token of another type than the checkpoint",
    "vocabulary": "holds another vocabulary than the checkpoint",
    "padding": "holds tokens in rows that the checkpoint has none for",
    "merges": "holds other merges than the checkpoint",
    "words": "holds no whole tokenizer",
    "ids": "tokenizes otherwise than the checkpoint",
    "added": "adds tokens of its own to a text, or loses some",
    "stops": "ends an answer otherwise than the chat format",
    "template": "holds another chat template than the chat format's",
}


def difference(seen: Seen, reference: Seen) -> str | None:
    """The first thing that an engine sees otherwise, in words; None where all that it tells is equal."""
    for kind, says in _SAYS.items():
        for name, value in seen.get(kind, {}).items():
            wanted = reference.get(kind, {}).get(name)
            if value != wanted:
                return f"{says} ({name}): {_around(value, wanted)}"
    return None


def _around(value: Any, wanted: Any) -> str:
    """Both, from a little before the first difference."""
    if not (isinstance(value, (str, list)) and isinstance(wanted, (str, list))):
        return f"{value!r}, not {wanted!r}"
    at = next((n for n, pair in enumerate(zip(value, wanted, strict=False)) if pair[0] != pair[1]), min(len(value), len(wanted)))
    start = max(0, at - 12)
    return f"from {at} on {value[start : at + 24]!r}, not {wanted[start : at + 24]!r}"


# ----------------------------------------------------------------------------------------------------------------- the file


def write(proof: Proof, file: Path) -> None:
    write_json(file, {"version": _VERSION, **asdict(proof)})


def read(file: Path) -> Proof:
    """Raises BadInput for a file that is missing or no proof of this version."""
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        if told.pop("version") != _VERSION:
            raise ValueError("it is of another version")
        return Proof(told["gguf"], dict(told["chat_format"]), {name: Engine(**engine) for name, engine in told["engines"].items()})
    except FileNotFoundError as error:
        raise BadInput(f"{file} is missing, the proof that engines see what was trained; `gwen25 gguf` makes it with the GGUF") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{file} is no proof ({error}); make the GGUF again with `gwen25 gguf`") from error


def beside(gguf: Path) -> Path:
    """Where a GGUF outside the store has its proof: FILE.parity.json, several files to a folder."""
    return gguf.with_name(f"{gguf.name}.{FILE}")


def require(proof_file: Path, gguf: Path, shape: ChatFormat, threads: int | None = None) -> Proof:
    """The proof of this very GGUF in this format, or BadInput that says what it is instead and who makes the right one.

    Where it was made without llama.cpp and this machine has it, the file is tried there too: Gwen25Error where it differs.
    """
    proof, mend = read(proof_file), "make the GGUF again with `gwen25 gguf`"
    if proof.chat_format != {"name": shape.name, "digest": shape.digest}:
        raise BadInput(f"{proof_file} proves another chat format ({proof.chat_format.get('name')}) than {shape.name} as it is now; {mend}")
    if proof.gguf != sha256_of(gguf):
        raise BadInput(f"{proof_file} proves another file than {gguf.name}, which was changed since; {mend}")
    if missing := [name for name in _ALWAYS if name not in proof.here]:
        raise BadInput(f"{proof_file} proves nothing of {missing[0]}; {mend}")
    if _LLAMA_CPP in proof.here or not llamacpp.can_load():
        return proof
    return replace(proof, engines={**proof.engines, _LLAMA_CPP: _llama_cpp(gguf, engines.by_its_words(gguf, shape), shape, threads)})
