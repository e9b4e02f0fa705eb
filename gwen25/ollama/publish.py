"""A package -> a model at an Ollama server, proved before its name points to it.

    published = publish(Ollama(url), package, shape, smoke="require", smoke_tokens=8192)

The GGUF is sent unless the server has it. The model is made under a tag of its own, `name:gwen25-staging-...`, and tried there: what
`show` tells against what was sent, the prompts it renders against the chat format over the dialogues of `parity`, three answers.
Only then is the tag copied to its name, and the staging tag deleted. Whatever fails before leaves the name as it was.
A run that was killed leaves at most its staging tag; the next one of that name deletes it. Two runs of one name at one time do not mix:
each tries its own tag, the later to begin deletes the other's, which then fails.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from gwen25.chat import ChatFormat
from gwen25.data import Message
from gwen25.errors import BadInput, Unavailable
from gwen25.ollama.package import Package, check, modelfile
from gwen25.ollama.smoke import PROBLEMS, Answer, ask, metrics
from gwen25.ollama_api import Ollama
from gwen25.parity.dialogues import DIALOGUES, as_clients_send

Smoke = Literal["require", "report"]
_MEND: Final = "start the server with OLLAMA_GO_TEMPLATE=1, or use another version"


@dataclass(frozen=True, slots=True)
class Published:
    """`version`: the server's; `digest`: what it lists for the name now."""

    version: str
    digest: str | None
    metrics: dict[str, Any]


def staging_name(name: str, content: str = "") -> str:
    """The tag under which `name` is tried: of its own for each name and content, so that no run can take another's model for its own.

    Without `content`, the beginning of all staging tags of the name.
    """
    folder, slash, last = name.rpartition("/")
    model, of_name = f"{folder}{slash}{last.partition(':')[0]}", hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{model}:gwen25-staging-{of_name}-{hashlib.sha256(content.encode()).hexdigest()[:12] if content else ''}"


def publish(
    server: Ollama,
    package: Package,
    shape: ChatFormat,
    *,
    smoke: Smoke = "require",
    smoke_tokens: int = 8192,
    keep: Callable[[dict[str, Any]], None] = lambda seen: None,
    warn: Callable[[str], None] = lambda text: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Published:
    """Create, prove, move the tag. `keep` is given what was seen, also where that is then refused.

    Raises BadInput for what the server or the model did wrong, Unavailable for a server that is away or breaks off.
    """
    check(package, shape)
    version = server.version()
    digest = server.upload(package.gguf, progress)
    staging = staging_name(package.name, digest + modelfile(package))
    for leftover in server.models():
        if leftover.startswith(staging_name(package.name)):
            _discard(server, leftover, warn)
    try:
        told = server.create(
            staging,
            files={package.gguf.name: digest},
            template=package.template,
            system=package.system,
            parameters=package.parameters,
            license=package.license,
        )
        made = server.digest(staging)
        shown = server.show(staging)
        _compare(shown, package, version)
        prompts = _compare_prompts(server, staging, package, shape, version)
        if prompts is None:
            warn(f"Ollama {version} does not tell the prompts it renders: template and parameters are compared, prompts are not")
        thinks = _thinks(shown, package.name, version, warn)
        answers = [ask(server, staging, problem, shape, tokens=smoke_tokens, thinks=thinks) for problem in PROBLEMS]
        keep({"version": version, "statuses": told, "capabilities": shown.get("capabilities"), "answers": [asdict(one) for one in answers]})
        _judge(package.name, answers, smoke, warn)
        listed = move(server, staging, package.name, made)
    finally:
        _discard(server, staging, warn)
    verified = {} if prompts is None else {"verified_prompts": prompts}
    return Published(version, listed, {**verified, **metrics(answers)})


def _compare(shown: Mapping[str, Any], package: Package, version: str) -> None:
    """What the server shows is what was sent. It shows the GGUF's jinja where it will not use the TEMPLATE."""
    if shown.get("template") != package.template or "tools" in (shown.get("capabilities") or ()):
        raise BadInput(f"Ollama {version} shows another template for {package.name} than was sent; it may have chosen one itself: {_MEND}")
    for what, sent in (("system", package.system), ("license", package.license)):
        if (said := str(shown.get(what) or "").strip()) != (sent or "").strip():
            raise BadInput(f"Ollama {version} shows another {what} for {package.name} than was sent: {said[:100]!r}")
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


def _compare_prompts(server: Ollama, name: str, package: Package, shape: ChatFormat, version: str) -> int | None:
    """How many prompts the server renders byte for byte as we do; None where it does not tell."""
    for messages in DIALOGUES.values():
        prompt = server.rendered(name, as_clients_send(messages))
        if prompt is None:
            return None
        # a request without a system turn gets the model's own
        own: list[Message] = (
            [] if messages[0]["role"] == "system" or not package.system else [{"role": "system", "content": package.system}]
        )
        if prompt != shape.render([*own, *messages]):
            raise BadInput(
                f"Ollama {version} renders another prompt for {package.name} than the model was trained on: {prompt[:200]!r}; {_MEND}"
            )
    return len(DIALOGUES)


def _thinks(shown: Mapping[str, Any], name: str, version: str, warn: Callable[[str], None]) -> bool:
    """Whether the server splits reasoning from answer; one too old to say so does not know thinking either."""
    if "thinking" in (shown.get("capabilities") or ()):
        return True
    warn(f"Ollama {version} does not take {name} for a model that thinks: its reasoning will stand in its answers")
    return False


def _judge(name: str, answers: Sequence[Answer], smoke: Smoke, warn: Callable[[str], None]) -> None:
    faults = "; ".join(f"{answer.problem}: {answer.fault}" for answer in answers if answer.fault)
    if any(answer.status == "unknown" for answer in answers):
        warn(f"whether the programs of {name} run is not known: the sandbox gave no verdict (`gwen25 doctor` says why)")
    if faults and smoke == "require":
        raise BadInput(
            f"{name} fails its smoke prompts ({faults}), so its name was not moved; ollama.smoke=report makes it all the same, "
            "and ollama.smoke_tokens gives it more room"
        )
    if faults:
        warn(f"{name} fails smoke prompts ({faults}); ollama.smoke=report: it is made all the same")


def move(server: Ollama, staging: str, name: str, made: str | None) -> str | None:
    """Point `name` to what was proved. Raises Unavailable where another run meddled with either tag."""
    if made is None:  # nothing to hold the tags against: two unknown digests are not equal ones
        raise Unavailable(f"Ollama at {server.url} does not list {staging}, which it made; {name} was not moved, try again")
    if server.digest(staging) != made:
        raise Unavailable(f"{staging} is not what was tried: another run makes {name} at the same server; try again when it is done")
    server.copy(staging, name)
    if (listed := server.digest(name)) != made:
        raise Unavailable(f"Ollama at {server.url} lists another model as {name} than was tried ({listed}, not {made}); try again")
    return listed


def _discard(server: Ollama, staging: str, warn: Callable[[str], None]) -> None:
    """Delete the staging tag; that it is not there, or that the server is gone, must not hide why the work ended."""
    try:
        server.delete(staging)
    except BadInput:  # never made
        pass
    except Unavailable as error:
        warn(f"{staging} may be left at the server, the next run deletes it ({error})")
