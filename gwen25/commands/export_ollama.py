"""`gwen25 ollama FILE.gguf NAME`: a GGUF from anywhere into Ollama, or (`--out DIR`) into a folder that `ollama create` takes.

A file whose chat template is one of gwen25's gets that format's TEMPLATE, stops and system turn, and the proof of the flow's node. For any
other template there is no TEMPLATE here that is known to write the same bytes. Without one Ollama chooses by itself: the file's own, or
one of its list that looks alike and may write another prompt. So such a file is refused unless `--own-template` says that this is
wanted; a server's choice is then held against the file's template, as llama.cpp renders it. Both are published alike (`ollama.publish`):
what the server shows, what it renders and three answers are looked at before the name moves.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from gwen25 import llamacpp, ollama_api, outside, parity
from gwen25.chat import FORMATS, ChatFormat, prompt_text
from gwen25.commands import node, outputs
from gwen25.commands.common import say, warn
from gwen25.commands.export import is_node, progress
from gwen25.errors import BadInput, Unavailable
from gwen25.gguf_header import read_header
from gwen25.ollama import Package, Published, check_gguf, expected, modelfile, parameters, publish, write_package
from gwen25.ollama.package import check_keys, check_name, context_length, end_token
from gwen25.ollama_api import Ollama
from gwen25.parity import Proof

LONGEST: Final = 32768  # tokens of context that are asked for where the user says nothing: the node's default
OWN: Final = ("out", "num_ctx", "temperature", "top_p", "system", "own_template", "smoke", "smoke_tokens", "force")
SMOKE_TOKENS: Final = 8192  # the node's default
_PROBES: Final = ("one turn", "a system turn", "several turns")  # dialogues that every template can write


def run(arguments: argparse.Namespace) -> int:
    """Package or publish; or the node."""
    if is_node(arguments, "gguf", "name", OWN):
        return node.run(arguments)
    if arguments.out is not None and (arguments.smoke or arguments.smoke_tokens):
        raise BadInput("--smoke and --smoke-tokens are for a server, which --out does not ask")
    if arguments.smoke_tokens is not None and arguments.smoke_tokens < 1:
        raise BadInput(f"--smoke-tokens {arguments.smoke_tokens}: at least 1")
    file, manifest = outside.gguf_file(arguments.gguf, warn)
    fields = read_header(file).fields
    check_keys(file, fields)
    shape = _shape(file, fields, arguments.own_template)
    package = _package(arguments, file, fields, shape, manifest.facts if manifest else {})
    check_name(package.name)
    check_gguf(file, shape, package.parameters["num_ctx"])
    modelfile(package)  # values that a Modelfile cannot hold are refused before anything is sent or written
    proof = _proof(file, shape) if shape.ollama else None
    return _write(package, arguments, proof) if arguments.out is not None else _send(package, shape, arguments)


def _proof(file: Path, shape: ChatFormat) -> Proof:
    """The proof of this very file: beside it, or in its artifact. Raises BadInput where there is none that holds."""
    own = parity.beside(file)
    found = own if own.is_file() or not (file.parent / parity.FILE).is_file() else file.parent / parity.FILE
    proof = parity.require(found, file, shape)
    say(f"{file.name} is proved in {proof.covers}")
    return proof


def _shape(file: Path, fields: Mapping[str, Any], own_template: bool) -> ChatFormat:
    """The format that the file's template is of; with `--own-template` one of the file's own words, whose TEMPLATE is empty."""
    template = fields.get("tokenizer.chat_template")
    known = next((format for format in FORMATS.values() if format.jinja.rstrip("\n") == str(template or "").rstrip("\n")), None)
    if known is not None:
        return known
    if template is None:
        raise BadInput(
            f"{file} has no chat template: Ollama would make one up; make it of a checkpoint whose tokenizer has one (`gwen25 gguf`)"
        )
    if not own_template:
        raise BadInput(
            f"{file} has a chat template that gwen25 has no TEMPLATE for ({', '.join(FORMATS)} have one). --own-template packages it "
            "without: Ollama then renders with the file's own template, or with one of its own list that looks alike"
        )
    end = end_token(file, fields)
    base = next(iter(FORMATS.values()))
    return replace(base, name="the file's own", jinja=str(template), ollama="", eos=end, stop=(end,))


def _package(arguments: argparse.Namespace, file: Path, fields: Mapping[str, Any], shape: ChatFormat, facts: Mapping[str, Any]) -> Package:
    context = context_length(file, fields)
    num_ctx = min(LONGEST, context) if arguments.num_ctx is None else arguments.num_ctx
    if not 16 <= num_ctx <= context:
        raise BadInput(f"--num-ctx {num_ctx}: between 16 and the model's context of {context} tokens")
    given = {name: value for name in ("temperature", "top_p") if (value := getattr(arguments, name)) is not None}
    if shape.ollama:
        sampling = {**parameters(num_ctx, 0.6, 0.95, shape), **given}
    else:
        sampling = {"num_ctx": num_ctx, **given, "stop": list(shape.stop)}
    system = arguments.system if arguments.system is not None else prompt_text("system") if shape.ollama else ""
    licence = facts.get("license") or fields.get("general.license")
    return Package(arguments.name, file, shape.ollama, system, sampling, None if licence is None else str(licence))


def _write(package: Package, arguments: argparse.Namespace, proof: Proof | None) -> int:
    outputs.room(arguments.out, package.gguf.stat().st_size)
    with outputs.folder(arguments.out, force=arguments.force, mark="Modelfile") as part:
        write_package(package, part)
        if proof is not None:
            parity.write(proof, part / parity.FILE)
    if not package.template:
        warn("no TEMPLATE: which template the server takes is not known before it has the model (`gwen25 ollama` without --out looks)")
    print(f"made  {arguments.out}  `ollama create {package.name} -f Modelfile` there makes the model")
    return 0


def _send(package: Package, shape: ChatFormat, arguments: argparse.Namespace) -> int:
    found = ollama_api.probe_server()
    if found is None:
        raise Unavailable(f"no Ollama server answers at {ollama_api.server_url()} (OLLAMA_HOST); start it, or --out DIR writes a package")
    server = Ollama(found[0])
    say(f"Ollama {found[1]} at {server.url}: making {package.name} of {package.gguf.name}")
    made = publish(
        server,
        package,
        shape,
        prompts=None if package.template else _own_prompts(package),
        smoke=arguments.smoke or "require",
        smoke_tokens=arguments.smoke_tokens or SMOKE_TOKENS,
        warn=warn,
        progress=progress("sent", "MB", 1_000_000),
    )
    print(f"made  {package.name}  {_told(made, shape)}")
    return 0


def _told(made: Published, shape: ChatFormat) -> str:
    prompts = made.metrics.get("verified_prompts")
    asked, ended, ran = (made.metrics[f"smoke_{name}"] for name in ("prompts", "ended", "ran"))
    run = "whether their programs run is not known" if ran is None else f"{ran} hold a program that runs"
    held = "no prompt" if prompts is None else f"{prompts} prompts"
    return f"{held} held against {shape.name} template; of {asked} answers {ended} ended by themselves, {run}"


def _own_prompts(package: Package) -> dict[str, str]:
    """What the file's own template writes, in llama.cpp; nothing where that is not installed."""
    if not llamacpp.can_load():
        warn("which template the server takes is not looked at: that needs llama.cpp (pip install 'gwen25[llamacpp]')")
        return {}
    with llamacpp.LlamaCpp(package.gguf, n_ctx=512, quiet=True) as model:
        return expected(package, model.render, _PROBES)
