"""A package -> a model at an Ollama server, proved before its name points to it.

    published = publish(Ollama(url), package, shape, smoke="require", smoke_tokens=8192)

The GGUF is sent unless the server has it. The model is made under a tag of its own, `name:gwen25-staging-...`, and tried there: what
`show` tells against what was sent, the prompts it renders against the chat format over the dialogues of `parity`, three answers.
A package without a TEMPLATE leaves the choice to the server: its prompts are then held against those of the file's own template, which
the caller brings. Only then is the tag copied to its name, and the staging tag deleted. Whatever fails before leaves the name as it was.
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
_MEND_OWN: Final = "start the server with OLLAMA_GO_TEMPLATE=0"


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
    prompts: Mapping[str, str] | None = None,
    smoke: Smoke = "require",
    smoke_tokens: int = 8192,
    keep: Callable[[dict[str, Any]], None] = lambda seen: None,
    warn: Callable[[str], None] = lambda text: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Published:
    """Create, prove, move the tag. `keep` is given what was seen, also where that is then refused.

    `prompts`: what the server must render of dialogues of `parity`, by their names; None means all, as the chat format renders them.
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
        verified = _compare_prompts(server, staging, package, expected(package, shape.render) if prompts is None else prompts, version)
        if verified is None:
            warn(f"Ollama {version} does not tell the prompts it renders: what it shows is compared, prompts are not")
        thinks = _thinks(shown, package, version, warn)
        answers = [ask(server, staging, problem, shape, tokens=smoke_tokens, thinks=thinks) for problem in PROBLEMS]
        keep({"version": version, "statuses": told, "capabilities": shown.get("capabilities"), "answers": [asdict(one) for one in answers]})
        _judge(package.name, answers, smoke, warn)
        listed = move(server, staging, package.name, made)
    finally:
        _discard(server, staging, warn)
    return Published(version, listed, {**({"verified_prompts": verified} if verified else {}), **metrics(answers)})


def expected(package: Package, render: Callable[[Sequence[Message]], str], names: Sequence[str] = tuple(DIALOGUES)) -> dict[str, str]:
    """Prompts of dialogues of `parity`, as `render` writes them where a chat that brings no system turn gets the package's."""
    own: list[Message] = [{"role": "system", "content": package.system}] if package.system else []
    asked = {name: DIALOGUES[name] for name in names}
    return {name: render([*(own if turns[0]["role"] != "system" else []), *turns]) for name, turns in asked.items()}


def _compare(shown: Mapping[str, Any], package: Package, version: str) -> None:
    """What the server shows is what was sent. It shows the GGUF's jinja where it will not use the TEMPLATE."""
    if package.template and (shown.get("template") != package.template or "tools" in (shown.get("capabilities") or ())):
        raise BadInput(f"Ollama {version} shows another template for {package.name} than was sent; it may have chosen one itself: {_MEND}")
    for what, sent in (("system", package.system), ("license", package.license)):
        if (said := str(shown.get(what) or "").strip()) != (sent or "").strip():
            raise BadInput(f"Ollama {version} shows another {what} for {package.name} than was sent: {said[:100]!r}")
    parameters = _shown_parameters(str(shown.get("parameters", "")))
    for name, value in package.parameters.items():
        got, wanted = parameters.get(name, []), value if isinstance(value, list) else [value]
        if not package.template and name == "stop":  # a template of the server's own choice brings stops of its own
            got = [one for one in got if one in wanted]
        if sorted(got, key=str) != sorted(wanted, key=str):
            raise BadInput(f"Ollama {version} shows {name} = {parameters.get(name, [])} for {package.name}, not {value!r}")


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


def _compare_prompts(server: Ollama, name: str, package: Package, wanted: Mapping[str, str], version: str) -> int | None:
    """How many prompts the server renders byte for byte as they are wanted; None where it does not tell."""
    for dialogue, prompt in wanted.items():
        rendered = server.rendered(name, as_clients_send(DIALOGUES[dialogue]))
        if rendered is None:
            return None
        if rendered != prompt and package.template:
            raise BadInput(
                f"Ollama {version} renders another prompt for {package.name} than the model was trained on: {rendered[:200]!r} "
                f"({dialogue}); {_MEND}"
            )
        if rendered != prompt:
            raise BadInput(
                f"Ollama {version} renders another prompt for {package.name} than the file's own template, so its name was not moved: "
                f"{rendered[:120]!r}, not {prompt[:120]!r} ({dialogue}); {_MEND_OWN}"
            )
    return len(wanted)


def _thinks(shown: Mapping[str, Any], package: Package, version: str, warn: Callable[[str], None]) -> bool:
    """Whether the server splits reasoning from answer; one too old to say so does not know thinking either."""
    if "thinking" in (shown.get("capabilities") or ()):
        return True
    if package.template:
        warn(f"Ollama {version} does not take {package.name} for a model that thinks: its reasoning will stand in its answers")
    return False


def _judge(name: str, answers: Sequence[Answer], smoke: Smoke, warn: Callable[[str], None]) -> None:
    """A fault that is seen comes before what is not known. With `require` neither lets the name move."""
    faults = "; ".join(f"{answer.problem}: {answer.fault}" for answer in answers if answer.fault)
    unjudged = ", ".join(answer.problem for answer in answers if answer.status == "unknown")
    if faults and smoke == "require":
        raise BadInput(
            f"{name} fails its smoke prompts ({faults}), so its name was not moved; ollama.smoke=report (--smoke report) makes it all the "
            "same, and ollama.smoke_tokens (--smoke-tokens) gives it more room"
        )
    if unjudged and smoke == "require":
        raise BadInput(
            f"the sandbox gave no verdict on the programs of {name} ({unjudged}), so its name was not moved; `gwen25 doctor` says whether "
            "there is a sandbox, a busy machine may need another try, and `--smoke report` / ollama.smoke=report publishes all the same"
        )
    if unjudged:
        warn(f"whether the programs of {name} run is not known: the sandbox gave no verdict (`gwen25 doctor` says why)")
    if faults:
        warn(f"{name} fails smoke prompts ({faults}); as smoke=report asks, it is made all the same")


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
