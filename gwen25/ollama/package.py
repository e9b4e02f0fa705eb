"""What makes a model in Ollama, checked before anything is sent, and the folder that `ollama create -f Modelfile` takes.

    check_keys(file, fields)             what is read below, and by Ollama, is in the file's header
    check_gguf(file, shape, num_ctx)     a GGUF that Ollama would take and then serve wrongly
    check(package, shape)                name, values and template, as its parser and its server read them
    write_package(package, folder)       Modelfile, the GGUF, README.md

Ollama checks little itself: a parameter of a wrong type, a GGUF without token types and a template it will not use all pass
`create`. One decision about thinking stands in the TEMPLATE (`chat.ChatFormat.ollama`): the model thinks, always, and the server
splits reasoning from answer. No PARSER and no RENDERER is named: either would take the prompt out of the TEMPLATE's hands.
"""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gwen25.chat import ChatFormat
from gwen25.errors import BadInput, unknown
from gwen25.gguf_header import read_header

_OF_THE_ARCHITECTURE: Final = ("block_count", "context_length", "attention.layer_norm_rms_epsilon", "rope.freq_base")
# Without these Ollama either fails at the first request or, worse, runs with wrong defaults.
_NEEDED: Final = (
    *(f"tokenizer.ggml.{key}" for key in ("model", "pre", "tokens", "token_type", "merges", "eos_token_id")),
    "general.file_type",
)
_MEND: Final = "make it again with `gwen25 gguf`"


@dataclass(frozen=True, slots=True)
class Package:
    """What makes the model, for the Modelfile and the REST request alike. `parameters` in Ollama's names; `template` is empty where the
    choice is left to Ollama."""

    name: str
    gguf: Path
    template: str
    system: str
    parameters: dict[str, Any]
    license: str | None


def parameters(num_ctx: int, temperature: float, top_p: float, shape: ChatFormat) -> dict[str, Any]:
    """Context, sampling and stops. What evaluation does not do is turned off by name: Ollama's own top_k is 40, and servers of older
    versions punish repetition by 1.1, which programs are full of."""
    sampling = {"temperature": temperature, "top_p": top_p, "top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0}
    return {"num_ctx": num_ctx, **sampling, "stop": list(shape.stop)}


def check_keys(file: Path, fields: Mapping[str, Any]) -> None:
    """Raises BadInput for a header without a key that Ollama needs."""
    needed = (*_NEEDED, *(f"{fields.get('general.architecture')}.{key}" for key in _OF_THE_ARCHITECTURE))
    if missing := [key for key in needed if key not in fields]:
        raise BadInput(f"{file}: the GGUF lacks {', '.join(missing)}; {_MEND}")


def end_token(file: Path, fields: Mapping[str, Any]) -> str:
    """The text of the token that ends a turn. Raises BadInput where the header names none."""
    tokens, row = fields.get("tokenizer.ggml.tokens"), fields.get("tokenizer.ggml.eos_token_id")
    if not isinstance(tokens, list) or isinstance(row, bool) or not isinstance(row, int) or not 0 <= row < len(tokens):
        held = len(tokens) if isinstance(tokens, list) else "no"
        raise BadInput(f"{file}: the GGUF's end token (tokenizer.ggml.eos_token_id = {row!r}) is none of its {held} tokens; {_MEND}")
    return str(tokens[row])


def context_length(file: Path, fields: Mapping[str, Any]) -> int:
    """The model's own context in tokens. Raises BadInput where the header tells none."""
    key = f"{fields.get('general.architecture')}.context_length"
    context = fields.get(key)
    if isinstance(context, bool) or not isinstance(context, int) or context < 1:
        raise BadInput(f"{file}: the GGUF's {key} = {context!r} is no number of tokens; {_MEND}")
    return context


def check_gguf(file: Path, shape: ChatFormat, num_ctx: int) -> None:
    """Raises BadInput for a GGUF that Ollama would take and then serve wrongly."""
    fields = read_header(file).fields
    check_keys(file, fields)
    if str(fields.get("tokenizer.chat_template", "")).rstrip("\n") != shape.jinja.rstrip("\n"):
        raise BadInput(f"{file}: the GGUF holds another chat template than {shape.name}; Ollama might prefer it to the Modelfile's")
    if (end := end_token(file, fields)) != shape.eos:
        raise BadInput(f"{file}: the GGUF ends at {end}, the chat format {shape.name} at {shape.eos}; it would never stop")
    if num_ctx > (context := context_length(file, fields)):
        raise BadInput(f"ollama.num_ctx = {num_ctx} is more than the model's context of {context} tokens; set ollama.num_ctx={context}")


def check(package: Package, shape: ChatFormat) -> None:
    """Raises BadInput for a package that Ollama would refuse, or take and serve in another way than the model was trained."""
    check_name(package.name)
    if package.template != shape.ollama:
        raise BadInput(f"the package of {package.name} holds another TEMPLATE than the chat format {shape.name}")
    if package.parameters.get("stop") != list(shape.stop):
        raise BadInput(f"the package of {package.name} stops at {package.parameters.get('stop')}, {shape.name} at {list(shape.stop)}")
    if not package.gguf.is_file():  # `ollama create` would take a missing file for the name of a model to pull
        raise BadInput(f"no such GGUF file: {package.gguf}")
    modelfile(package)


# [host[:port]/][namespace/]model[:tag], as Ollama reads names: parts begin with a letter, a digit or _; a namespace holds no dot
_PART: Final = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"
_NAME: Final = re.compile(rf"(?:(?:[A-Za-z0-9_][A-Za-z0-9_.:-]{{0,349}}/)?[A-Za-z0-9_][A-Za-z0-9_-]{{0,79}}/)?{_PART}(?::{_PART})?")


def check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise BadInput(
            f"ollama.name = {name!r} is no name that Ollama takes: [namespace/]model[:tag], parts of at most 80 letters, digits, . _ -"
        )


# -------------------------------------------------------------------------------------------------------------- the package


def write_package(package: Package, folder: Path) -> None:
    """Modelfile, the GGUF (a hard link where the file system allows one), README.md."""
    # first, so that values which a Modelfile cannot hold are refused before a file is written
    text = modelfile(package)
    target = folder / package.gguf.name
    target.unlink(missing_ok=True)
    try:
        os.link(package.gguf, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(package.gguf, target)
    (folder / "Modelfile").write_text(text, encoding="utf-8")
    (folder / "README.md").write_text(
        f"    ollama create {package.name} -f Modelfile     # in this folder\n"
        f"    ollama run {package.name}\n"
        f"Licence of the weights: {package.license or 'unknown, see the base model'}.\n",
        encoding="utf-8",
    )


def modelfile(package: Package) -> str:
    """The Modelfile's text. Raises BadInput for a value that its syntax cannot hold."""
    lines = [f"FROM ./{package.gguf.name}"]
    if package.template:  # an empty one would be a template of nothing
        lines.append(f"TEMPLATE {_quoted('template', package.template)}")
    if package.system:
        lines.append(f"SYSTEM {_quoted('system', package.system)}")
    for name, value in package.parameters.items():
        if isinstance(value, list) != (name == "stop"):
            raise BadInput(f"ollama parameter {name} = {value!r}: only stop is a list")
        for one in value if isinstance(value, list) else [value]:
            lines.append(f"PARAMETER {name} {_parameter(name, one)}")
    if package.license:
        lines.append(f"LICENSE {_quoted('license', package.license)}")
    return "\n".join(lines) + "\n"


def _quoted(what: str, text: str) -> str:
    """In three quotes. The syntax knows no escapes, and its reader drops what Go calls unprintable (U+00A0, U+3000, controls)."""
    if '"""' in text:
        raise BadInput(f'the {what} holds """, which a Modelfile cannot hold')
    if lost := next((c for c in text if c not in "\n\t" and not c.isprintable()), None):
        raise BadInput(f"the {what} holds U+{ord(lost):04X}, which a Modelfile's reader drops; replace it")
    return f'"""{text}"""'


_WHOLE: Final = "num_ctx num_predict top_k repeat_last_n seed num_keep num_batch num_gpu main_gpu num_thread draft_num_predict"
_REAL: Final = "temperature top_p min_p typical_p repeat_penalty presence_penalty frequency_penalty"
PARAMETERS: Final[Mapping[str, type]] = {
    **dict.fromkeys(_WHOLE.split(), int),
    **dict.fromkeys(_REAL.split(), float),
    "use_mmap": bool,
    "stop": str,
}


def _parameter(name: str, value: Any) -> str:
    """A parameter that is not known is ignored over REST, and a wrong type fails every later request: both are refused here."""
    if name not in PARAMETERS:
        raise unknown("ollama parameter", name, PARAMETERS)
    wanted = PARAMETERS[name]
    fits = isinstance(value, (int, float) if wanted is float else wanted) and isinstance(value, bool) == (wanted is bool)
    if not fits or (isinstance(value, float) and not math.isfinite(value)):
        raise BadInput(f"ollama parameter {name} = {value!r} is not of its type ({wanted.__name__})")
    if isinstance(value, str) and (not value or '"' in value or not value.isprintable()):
        raise BadInput(f"ollama parameter {name} = {value!r}: a Modelfile cannot hold it")
    return f'"{value}"' if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)
