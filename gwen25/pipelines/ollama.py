"""Ollama: a GGUF -> a package that `ollama create` takes, and the model itself where a server answers.

    python -m gwen25.pipelines.ollama WORK_DIR

The payload is the package: Modelfile, the GGUF, README.md. It is the same with and without a server. Where one answers, the
model is uploaded and created over REST, and then held against what was sent: the template and parameters that the server
shows, the prompt that it renders (byte for byte `ChatFormat.render`), and one answer, which lies in `aside`.

Ollama checks little itself: a parameter of a wrong type, a GGUF without token types and a template it will not use all pass
`create`. So they are checked here, before anything is sent.

Not here: quantizing (`pipelines.gguf`; Ollama knows five types), pushing to ollama.com.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from gwen25 import modeling
from gwen25.chat import ChatFormat, problem_messages, prompt_text
from gwen25.config import OllamaConfig
from gwen25.data import Message, Problem
from gwen25.errors import BadInput
from gwen25.gguf_header import read_header
from gwen25.job import Job, Result, main, write_json
from gwen25.ollama_api import Ollama

# Without these Ollama either fails at the first request or, worse, runs with wrong defaults.
_NEEDED: Final = (
    *(f"qwen2.{key}" for key in ("block_count", "context_length", "attention.layer_norm_rms_epsilon", "rope.freq_base")),
    *(f"tokenizer.ggml.{key}" for key in ("model", "pre", "tokens", "token_type", "merges", "eos_token_id")),
    "general.file_type",
)


@dataclass(frozen=True, slots=True)
class Package:
    """What makes the model, for the Modelfile and the REST request alike. `parameters` in Ollama's names."""

    name: str
    gguf: Path
    template: str
    system: str
    parameters: dict[str, Any]
    license: str | None


def run(job: Job) -> Result:
    config: OllamaConfig = job.config
    made = job.inputs["gguf"]
    shape = modeling.chat_format(made.facts, "the GGUF")
    gguf = made.payload / made.facts["file"]
    check_gguf(gguf, shape, config.num_ctx)
    package = Package(
        name=config.name,
        gguf=gguf,
        template=shape.ollama,
        system=prompt_text("system"),
        parameters={"num_ctx": config.num_ctx, "temperature": config.temperature, "top_p": config.top_p, "stop": list(shape.stop)},
        license=made.facts.get("license"),
    )
    write_package(package, job.payload)
    metrics: dict[str, Any] = {}
    url = job.locations.get("ollama")
    if url is None:
        job.say(f"no Ollama server answers: {config.name} is packaged, not created; see README.md in the package")
    else:
        metrics = publish(job, Ollama(url, config.timeout_seconds), package, shape)
    facts = {**made.facts, "name": config.name, "created": url is not None}
    if url is not None:  # a later run looks whether it is still this one
        facts["server_digest"] = Ollama(url, config.timeout_seconds).digest(config.name)
    return Result(facts=facts, metrics=metrics)


def check_gguf(file: Path, shape: ChatFormat, num_ctx: int) -> None:
    """Raises BadInput for a GGUF that Ollama would take and then serve wrongly."""
    fields = read_header(file).fields
    if missing := [key for key in _NEEDED if key not in fields]:
        raise BadInput(f"{file}: the GGUF lacks {', '.join(missing)}; make it again with `gwen25 gguf`")
    if fields.get("tokenizer.chat_template") != shape.jinja:
        raise BadInput(f"{file}: the GGUF holds another chat template than {shape.name}; Ollama might prefer it to the Modelfile's")
    end = fields["tokenizer.ggml.tokens"][fields["tokenizer.ggml.eos_token_id"]]
    if end != shape.eos:
        raise BadInput(f"{file}: the GGUF ends at {end}, the chat format {shape.name} at {shape.eos}; it would never stop")
    context = fields["qwen2.context_length"]
    if num_ctx > context:
        raise BadInput(f"ollama.num_ctx = {num_ctx} is more than the model's context of {context} tokens; set ollama.num_ctx={context}")


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
    lines = [f"FROM ./{package.gguf.name}", f"TEMPLATE {_quoted('template', package.template)}"]
    if package.system:
        lines.append(f"SYSTEM {_quoted('system', package.system)}")
    for name, value in package.parameters.items():
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


_TYPES: Final[dict[str, type | tuple[type, ...]]] = {"num_ctx": int, "temperature": (int, float), "top_p": (int, float), "stop": str}


def _parameter(name: str, value: Any) -> str:
    """A wrong type passes `create` and fails every later request, so it is refused here."""
    if name not in _TYPES or isinstance(value, bool) or not isinstance(value, _TYPES[name]):
        raise BadInput(f"ollama parameter {name} = {value!r} is not known here, or not of its type")
    if isinstance(value, str) and ('"' in value or not value.isprintable()):
        raise BadInput(f"ollama parameter {name} = {value!r}: a Modelfile cannot hold it")
    return f'"{value}"' if isinstance(value, str) else str(value)


# --------------------------------------------------------------------------------------------------------------- the server

_SMOKE: Final = Problem("smoke", "Two integers stand on one line. Print their sum.\n\nExample input:\n2 3\n\nExample output:\n5", ())
_TALK: Final[tuple[Message, ...]] = (
    {"role": "system", "content": "You are terse."},
    {"role": "user", "content": "\nPrint 1. 求和 é\n"},
    {"role": "assistant", "content": "```python\nprint(1)\n```"},
    {"role": "user", "content": "{{ .Content }} <think> Print 2."},
)


def publish(job: Job, server: Ollama, package: Package, shape: ChatFormat) -> dict[str, Any]:
    """Create the model at the server and prove it; returns the metrics. What the model said goes to `aside/smoke.json`."""
    version = server.version()
    if version != (pinned := job.externals["ollama"]["server"]):
        job.warn(f"the Ollama server is now {version}; it was {pinned} when this run began")
    job.say(f"Ollama {version} at {server.url}: sending {package.gguf.name}")
    digest = server.upload(package.gguf)
    told = server.create(
        package.name,
        files={package.gguf.name: digest},
        template=package.template,
        system=package.system,
        parameters=package.parameters,
        license=package.license,
    )
    shown = server.show(package.name)
    _compare(shown, package, version)
    metrics: dict[str, Any] = {}
    if (prompts := _compare_prompts(server, package, shape, version)) is not None:
        metrics["verified_prompts"] = prompts
    else:
        job.warn(f"Ollama {version} does not tell the prompts it renders: template and parameters are compared, prompts are not")
    said = _smoke(server, package, shape, job.config.smoke_tokens)
    smoke = {"version": version, "statuses": told, "capabilities": shown.get("capabilities"), **asdict(said)}
    write_json(job.aside / "smoke.json", smoke)
    job.say(f"{package.name} is created; it answered the smoke prompt with {said.tokens} tokens ({said.done_reason})")
    return {**metrics, "smoke_tokens": said.tokens, "smoke_done_reason": said.done_reason}


def _compare(shown: Mapping[str, Any], package: Package, version: str) -> None:
    """What the server shows is what was sent. It shows the GGUF's jinja where it will not use the TEMPLATE."""
    if shown.get("template") != package.template:
        raise BadInput(
            f"Ollama {version} shows another template for {package.name} than was sent; "
            "it may have chosen one itself: start the server with OLLAMA_GO_TEMPLATE=1"
        )
    parameters = _shown_parameters(str(shown.get("parameters", "")))
    for name, value in package.parameters.items():
        got = parameters.get(name, [])
        if sorted(got, key=str) != sorted(value if isinstance(value, list) else [value], key=str):
            raise BadInput(f"Ollama {version} shows {name} = {got} for {package.name}, not {value!r}")


def _shown_parameters(text: str) -> dict[str, list[Any]]:
    """`show` prints a parameter a line, its value in Go's %#v: a number or a quoted string."""
    values: dict[str, list[Any]] = {}
    for line in text.splitlines():
        name, _, value = line.strip().partition(" ")
        try:
            values.setdefault(name, []).append(json.loads(value))
        except ValueError:
            values.setdefault(name, []).append(value.strip())
    return values


def _compare_prompts(server: Ollama, package: Package, shape: ChatFormat, version: str) -> int | None:
    """How many prompts the server renders byte for byte as we do; None where it does not tell."""
    asked: tuple[list[Message], ...] = (problem_messages(_SMOKE), list(_TALK), list(_TALK[1:]))
    for messages in asked:
        prompt = server.rendered(package.name, messages)
        if prompt is None:
            return None
        # a request without a system turn gets the model's own
        expected = messages if messages[0]["role"] == "system" else [Message(role="system", content=package.system), *messages]
        if prompt != shape.render(expected):
            raise BadInput(
                f"Ollama {version} renders another prompt for {package.name} than the model was trained on: {prompt[:200]!r}; "
                "start the server with OLLAMA_GO_TEMPLATE=1, or use another version"
            )
    return len(asked)


@dataclass(frozen=True, slots=True)
class _Said:
    done_reason: str
    tokens: int | None
    thinking: str
    content: str
    well_formed: bool


def _smoke(server: Ollama, package: Package, shape: ChatFormat, tokens: int) -> _Said:
    """One problem, answered greedily: it ends by itself or at the limit, and no end token shows in the text."""
    answer = server.chat(package.name, problem_messages(_SMOKE), {"num_predict": tokens, "temperature": 0})
    message = answer.get("message") or {}
    thinking, content = str(message.get("thinking") or ""), str(message.get("content") or "")
    reason = str(answer.get("done_reason"))
    if reason not in ("stop", "length"):
        raise BadInput(f"{package.name} ended its first answer with {reason!r} instead of stop or length; see the server's log")
    if shown := [token for token in shape.stop if token in thinking + content]:
        raise BadInput(f"{package.name} shows {shown[0]} in its answer: the server does not stop at it")
    count = answer.get("eval_count")
    parsed = shape.parse(f"{thinking}\n</think>\n{content}" if thinking and content else content)
    return _Said(reason, count if isinstance(count, int) else None, thinking, content, parsed.well_formed)


if __name__ == "__main__":
    main(run)
