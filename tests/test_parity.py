"""The proof of `gwen25.parity`: it holds for what was trained, and whatever is broken in a template, a vocabulary or a stop is caught, each
time, in every engine that this machine can run."""

from __future__ import annotations

import dataclasses
import json
import re
import struct
import sys
import unicodedata
from collections.abc import Callable
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from gwen25 import gguf_writer, llamacpp, parity
from gwen25.chat import FORMATS
from gwen25.errors import BadInput, Gwen25Error
from gwen25.gguf_header import read_header
from gwen25.ollama import Package, parameters, publish
from gwen25.ollama_api import Ollama
from gwen25.parity import engines, spelling
from gwen25.parity.dialogues import DIALOGUES, TRAPS, as_clients_send, texts
from gwen25.parity.engines import Seen
from gwen25.samples import tiny
from tests import go_engine
from tests.export import checkpoints
from tests.fake_ollama import FakeOllama
from tests.formatted import in_format

FORMAT = FORMATS["chatml-think"]
VLLM = Path(__file__).parent.parent / ".venv-vllm" / "bin" / "python"
needs_llama_cpp = pytest.mark.skipif(find_spec("xllamacpp") is None, reason="no llama.cpp: pip install 'gwen25[llamacpp]'")
needs_vllm = pytest.mark.skipif(not VLLM.exists(), reason="no vLLM environment: make vllm-env")


@pytest.fixture(scope="module")
def merged(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return in_format(tiny_model, tmp_path_factory.mktemp("parity") / "merged")


@pytest.fixture(scope="module")
def gguf(merged: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("gguf") / "m.gguf"
    gguf_writer.write(merged, file, "f16", chat_format=FORMAT)
    return file


@pytest.fixture(scope="module")
def reference(merged: Path) -> Seen:
    return engines.expected(merged, FORMAT)


@pytest.fixture(scope="session")
def go_render(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> go_engine.Render:
    return go_engine.build(request, tmp_path_factory.mktemp("go-work"))


# ------------------------------------------------------------------------------------------------------------ broken templates


@dataclasses.dataclass(frozen=True)
class Broken:
    """One change of the jinja and the same in Ollama's TEMPLATE: (text, what takes its place). None: that template cannot have it."""

    jinja: tuple[str, str]
    go: tuple[str, str] | None
    renders: bool = True  # False: every prompt comes out as before, and only the text tells


_INVENTED = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
_GO_END = "<think>\n{{ end }}{{ end }}"
_GO_TURN = "{{ .Content }}<|im_end|>\n"
TEMPLATES = {
    "one newline less at the end": Broken(("<think>\\n'", "<think>'"), (_GO_END, "<think>{{ end }}{{ end }}")),
    "one newline more at the end": Broken(("<think>\\n'", "<think>\\n\\n'"), (_GO_END, "<think>\n\n{{ end }}{{ end }}")),
    "one newline less between turns": Broken(("'<|im_end|>\\n'", "'<|im_end|>'"), (_GO_TURN, _GO_TURN.rstrip("\n"))),
    "no <think>": Broken(("assistant\\n<think>\\n'", "assistant\\n'"), (_GO_END, "{{ end }}{{ end }}")),
    "another eos": Broken(("<|im_end|>", "<|endoftext|>"), ("<|im_end|>", "<|endoftext|>")),
    "a tool branch": Broken(
        ("{%- for", "{%- if tools -%}{{- '# Tools' -}}{%- endif -%}\n{%- for"),
        ("{{- range", "{{- if .Tools }}# Tools{{ end }}\n{{- range"),
        renders=False,
    ),
    "a system turn invented": Broken(
        ("{%- for", "{%- if messages[0]['role'] != 'system' -%}{{- " + repr(_INVENTED) + " -}}{%- endif -%}\n{%- for"),
        ("{{- range", "{{- if not .System }}" + _INVENTED + "{{ end }}\n{{- range"),
    ),
    "reasoning kept in the history": Broken(("and '</think>' in content", "and '</never>' in content"), None),
    "blanks trimmed": Broken(("message['content'] -%}", "message['content'] | trim -%}"), None),
}


def broken(text: str, change: tuple[str, str]) -> str:
    assert change[0] in text, "the change must apply"
    return text.replace(*change, 1) if len(change[0]) > 12 else text.replace(*change)


def in_files(change: Broken, merged: Path, folder: Path) -> Path:
    """The checkpoint with a broken chat_template.jinja."""
    copied(merged, folder)
    (folder / "chat_template.jinja").write_text(broken(FORMAT.jinja, change.jinja), encoding="utf-8")
    return folder


def copied(merged: Path, folder: Path) -> None:
    folder.mkdir()
    for file in merged.iterdir():
        if file.is_symlink():
            (folder / file.name).symlink_to(file.resolve())
        else:
            (folder / file.name).write_bytes(file.read_bytes())


def assert_caught(found: str | None, change: Broken) -> None:
    assert found is not None, "not noticed"
    assert ("renders another" in found) if change.renders else ("holds another chat template" in found), found


@pytest.mark.parametrize("name", TEMPLATES)
def test_transformers_catches(name: str, merged: Path, reference: Seen, tmp_path: Path) -> None:
    _, [seen] = engines.transformers([in_files(TEMPLATES[name], merged, tmp_path / "m")], FORMAT)
    assert_caught(parity.difference(seen, reference), TEMPLATES[name])


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_ggufs_metadata_and_llama_cpp_catch(name: str, merged: Path, reference: Seen, tmp_path: Path) -> None:
    change, file = TEMPLATES[name], tmp_path / "m.gguf"
    gguf_writer.write(merged, file, "f16", chat_format=dataclasses.replace(FORMAT, jinja=broken(FORMAT.jinja, change.jinja)))
    found = parity.difference(engines.gguf_header(file, reference, FORMAT), reference)
    assert found is not None
    assert "holds another chat template" in found
    if llamacpp.can_load():
        assert_caught(parity.difference(engines.llama_cpp(file, reference, FORMAT, threads=1), reference), change)


def go_sees(template: str, render: go_engine.Render) -> Seen:
    told = render([{"template": template, "messages": as_clients_send(messages)} for messages in DIALOGUES.values()])
    return {
        "prompts": dict(zip(DIALOGUES, (answer.get("prompt", answer.get("error")) for answer in told), strict=True)),
        "template": {"go": template},
    }


GO_TEMPLATES = [name for name, change in TEMPLATES.items() if change.go is not None]


@pytest.mark.parametrize("name", GO_TEMPLATES)
def test_gos_template_catches(name: str, go_render: go_engine.Render, reference: Seen) -> None:
    change = TEMPLATES[name]
    assert change.go is not None
    assert_caught(parity.difference(go_sees(broken(FORMAT.ollama, change.go), go_render), reference), change)


@pytest.mark.parametrize("name", GO_TEMPLATES)
def test_an_ollama_server_that_renders_by_go_catches(name: str, gguf: Path, go_render: go_engine.Render) -> None:
    """Where the broken TEMPLATE got as far as the server: the format itself is broken, so that the check before sending agrees with it."""
    change = TEMPLATES[name]
    assert change.go is not None
    shape = dataclasses.replace(FORMAT, ollama=broken(FORMAT.ollama, change.go))
    package = Package("n", gguf, shape.ollama, "", parameters(512, 0.6, 0.95, shape), None)
    with FakeOllama(go=go_render) as server:
        with pytest.raises(BadInput, match="renders another prompt" if change.renders else "shows another template"):
            publish(Ollama(server.url), package, shape)
        assert server.models == {}
        publish(Ollama(server.url), dataclasses.replace(package, template=FORMAT.ollama), FORMAT)
        assert list(server.models) == ["n:latest"], "the right one is made"


# --------------------------------------------------------------------------------------------- broken stops, vocabularies, extras

Spoil = Callable[[Path], None]


def _edit(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    value = json.loads(file.read_text(encoding="utf-8"))
    change(value)
    file.write_text(json.dumps(value), encoding="utf-8")


def _adds_bos(folder: Path) -> None:
    def change(tokenizer: dict[str, Any]) -> None:
        bos = next(token for token in tokenizer["added_tokens"] if token["content"] == "<|endoftext|>")
        tokenizer["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": bos["content"], "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {bos["content"]: {"id": bos["content"], "ids": [bos["id"]], "tokens": [bos["content"]]}},
        }

    _edit(folder / "tokenizer.json", change)


def _without_split(folder: Path) -> None:
    """Transformers 5 makes a Qwen2 tokenizer's split by itself, whatever the file says; what reads the file does otherwise."""
    _edit(folder / "tokenizer.json", lambda tokenizer: tokenizer["pre_tokenizer"]["pretokenizers"].pop(0))


CHECKPOINTS: dict[str, tuple[Spoil, str]] = {
    "another eos token": (
        lambda folder: _edit(folder / "tokenizer_config.json", lambda config: config.update(eos_token="<|endoftext|>")),
        r"ends an answer otherwise .*\(eos\)",
    ),
    "a dropped stop": (
        lambda folder: _edit(folder / "generation_config.json", lambda config: config.update(eos_token_id=config["eos_token_id"][0])),
        r"ends an answer otherwise .*\(ends\)",
    ),
    "a bos before every text": (_adds_bos, "adds tokens of its own"),
    "no split before the merges": (_without_split, "tokenizes otherwise"),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_transformers_catches_a_broken_checkpoint(name: str, merged: Path, tmp_path: Path) -> None:
    spoil, message = CHECKPOINTS[name]
    copied(merged, tmp_path / "m")
    spoil(tmp_path / "m")
    _, [seen] = engines.transformers([tmp_path / "m"], FORMAT)
    assert re.match(message, parity.difference(seen, engines.expected(tmp_path / "m", FORMAT)) or "not noticed")


def test_a_tokenizer_that_cannot_be_read_is_an_error_of_the_user(merged: Path, gguf: Path, tmp_path: Path) -> None:
    copied(merged, tmp_path / "m")
    (tmp_path / "m" / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(BadInput, match=r"tokenizer\.json cannot be read as a byte-level BPE tokenizer"):
        parity.prove(gguf, tmp_path / "m", FORMAT)
    (tmp_path / "m" / "config.json").write_text("{", encoding="utf-8")
    _, [seen] = engines.transformers([tmp_path / "m"], FORMAT)
    assert "does not read the checkpoint" in (parity.difference(seen, {}) or "not noticed")


@needs_vllm
@pytest.mark.slow  # importing vLLM takes 10 to 25 s; all checkpoints are read in one process
@pytest.mark.timeout(600)
def test_vllm_catches_each_of_them(merged: Path, tmp_path: Path) -> None:
    folders = {"right": merged}
    for at, (name, change) in enumerate(TEMPLATES.items()):
        folders[name] = in_files(change, merged, tmp_path / f"t{at}")
    for at, (name, (spoil, _)) in enumerate(CHECKPOINTS.items()):
        copied(merged, folders.setdefault(name, tmp_path / f"c{at}"))
        spoil(folders[name])
    version, told = engines.vllm(str(VLLM), list(folders.values()), FORMAT)
    found = {
        name: parity.difference(seen, engines.expected(folder, FORMAT)) for (name, folder), seen in zip(folders.items(), told, strict=True)
    }
    assert version
    assert found.pop("right") is None
    for name, difference in found.items():
        assert difference is not None, f"vLLM does not notice {name}"
    for name, change in TEMPLATES.items():
        assert_caught(found[name], change)


def _patched(file: Path, key: str, offset: int, value: bytes) -> None:
    """Change bytes behind a key of a GGUF's header."""
    data = bytearray(file.read_bytes())
    at = data.index(key.encode()) + len(key) + offset
    assert data[at : at + len(value)] != value
    data[at : at + len(value)] = value
    file.write_bytes(data)


def _token(file: Path, token: str) -> int:
    row: int = read_header(file).fields["tokenizer.ggml.tokens"].index(token)
    return row


def _padding(file: Path) -> int:
    """The last row, which only pads the matrix."""
    row = len(tokens := read_header(file).fields["tokenizer.ggml.tokens"]) - 1
    assert tokens[row] == f"[PAD{row}]"
    return row


GGUFS: dict[str, tuple[Spoil, str, str | None]] = {
    "another eos": (
        lambda file: _patched(file, "tokenizer.ggml.eos_token_id", 4, struct.pack("<I", _token(file, "<|endoftext|>"))),
        "ends an answer otherwise",
        "ends an answer otherwise",
    ),
    "a bos before every prompt": (
        lambda file: _patched(file, "tokenizer.ggml.add_bos_token", 4, b"\1"),
        "adds tokens of its own",
        "adds tokens of its own",
    ),
    "a stop that is spelled in pieces": (  # an array: its kind, its length, then a type of 4 bytes a token
        lambda file: _patched(file, "tokenizer.ggml.token_type", 16 + 4 * _token(file, "<|im_start|>"), struct.pack("<i", 1)),
        "spells a special token in pieces",
        None,  # llama.cpp mends this one by the token's name
    ),
    "another kind of tokenizer": (  # WordPiece; a string, as the next
        lambda file: _patched(file, "tokenizer.ggml.model", 4 + 8, b"bert"),
        "holds a tokenizer of another kind than the checkpoint (model): from 0 on 'bert', not 'gpt2'",
        "tokenizes otherwise",
    ),
    "a row of padding typed as control": (
        lambda file: _patched(file, "tokenizer.ggml.token_type", 16 + 4 * _padding(file), struct.pack("<i", 3)),
        "holds tokens in rows that the checkpoint has none for",
        None,  # no text of the proof names it
    ),
    "a row of padding typed as user-defined": (
        lambda file: _patched(file, "tokenizer.ggml.token_type", 16 + 4 * _padding(file), struct.pack("<i", 4)),
        "holds tokens in rows that the checkpoint has none for",
        None,
    ),
    "the split of another tokenizer": (  # a string: its kind, its length of 8 bytes; GPT-2's name is as long
        lambda file: _patched(file, "tokenizer.ggml.pre", 4 + 8, b"gpt-2"),
        "splits a text by another rule than the checkpoint (pre): from 0 on 'gpt-2', not 'qwen2'",
        "tokenizes otherwise",
    ),
    "an added token typed as a plain one": (
        lambda file: _patched(file, "tokenizer.ggml.token_type", 16 + 4 * _token(file, "<tool_call>"), struct.pack("<i", 1)),
        "holds a token of another type than the checkpoint",
        "tokenizes otherwise",
    ),
    "a tag that answers show typed as control": (
        lambda file: _patched(file, "tokenizer.ggml.token_type", 16 + 4 * _token(file, "</tool_call>"), struct.pack("<i", 3)),
        "holds a token of another type than the checkpoint",
        None,  # the ids are the same: llama.cpp leaves its text out of answers
    ),
    "a plain token typed as control": (
        lambda file: _patched(file, "tokenizer.ggml.token_type", 16 + 4 * _token(file, "x"), struct.pack("<i", 3)),
        "holds a token of another type than the checkpoint",
        None,
    ),
    "two tokens exchanged": (
        lambda file: file.write_bytes(
            file.read_bytes().replace(b"\1\0\0\0\0\0\0\0x\1\0\0\0\0\0\0\0y", b"\1\0\0\0\0\0\0\0y\1\0\0\0\0\0\0\0x")
        ),  # type: ignore[list-item, return-value]
        "holds another vocabulary",
        "tokenizes otherwise",
    ),
}


@pytest.mark.parametrize("name", GGUFS)
def test_a_broken_gguf_is_caught_by_its_metadata_and_by_llama_cpp(name: str, gguf: Path, reference: Seen, tmp_path: Path) -> None:
    spoil, by_header, by_llama_cpp = GGUFS[name]
    file = tmp_path / "m.gguf"
    file.write_bytes(gguf.read_bytes())
    spoil(file)
    assert by_header in (parity.difference(engines.gguf_header(file, reference, FORMAT), reference) or "not noticed")
    if llamacpp.can_load() and by_llama_cpp is not None:
        assert by_llama_cpp in (parity.difference(engines.llama_cpp(file, reference, FORMAT, threads=1), reference) or "not noticed")


def ids_of(folder: Path) -> Callable[[str], list[int]]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids)


ASKED = {**{name: FORMAT.render(messages) for name, messages in DIALOGUES.items()}, **texts(FORMAT)}


@pytest.mark.parametrize("kind", ["tied", "llama", "padded"])
def test_a_tokenizer_made_of_a_ggufs_words_is_the_checkpoints(kind: str, tmp_path: Path) -> None:
    """Both splits; and under the other's name each gives other ids, as an added token does that is typed as a plain one."""
    folder = checkpoints.build(kind, tmp_path / "m")
    gguf_writer.write(folder, tmp_path / "m.gguf", "f16", chat_format=FORMAT)
    fields, right = read_header(tmp_path / "m.gguf").fields, ids_of(folder)
    made = spelling.encoder(fields)
    assert {name: made(text) for name, text in ASKED.items()} == {name: right(text) for name, text in ASKED.items()}
    other = spelling.encoder({**fields, "tokenizer.ggml.pre": {"qwen2": "smollm", "smollm": "qwen2"}[checkpoints.SPLITS[kind]]})
    assert any(other(text) != right(text) for text in ASKED.values())
    types = list(fields["tokenizer.ggml.token_type"])
    types[_token(tmp_path / "m.gguf", "<tool_call>")] = spelling.NORMAL
    assert spelling.encoder({**fields, "tokenizer.ggml.token_type": types})(TRAPS) != right(TRAPS)


def test_the_real_vocabulary_made_of_a_ggufs_words(shared_data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    tiny.build(folder, tokenizer=shared_data / "tokenizer", hidden_size=32, intermediate_size=64)
    gguf_writer.write(folder, tmp_path / "m.gguf", "q8_0", chat_format=FORMAT)
    made, right = spelling.encoder(read_header(tmp_path / "m.gguf").fields), ids_of(folder)
    assert [made(text) for text in ASKED.values()] == [right(text) for text in ASKED.values()]


@pytest.mark.parametrize("key", ["tokenizer.ggml.model", "tokenizer.ggml.pre", "tokenizer.ggml.token_type", "tokenizer.ggml.merges"])
def test_metadata_that_make_no_tokenizer_are_caught(key: str, gguf: Path, merged: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="the GGUF's metadata make no tokenizer"):
        spelling.encoder({name: value for name, value in read_header(gguf).fields.items() if name != key})
    with pytest.raises(BadInput, match="make no tokenizer: it is a 'bert'; only 'gpt2' is known here"):
        spelling.encoder({**read_header(gguf).fields, "tokenizer.ggml.model": "bert"})
    file = tmp_path / "m.gguf"
    file.write_bytes(gguf.read_bytes().replace(key.encode(), key.upper().encode()))
    with pytest.raises(Gwen25Error, match=r"m\.gguf: its metadata (splits|spells|holds)"):
        parity.prove(file, merged, FORMAT, threads=1)


@needs_llama_cpp
def test_llama_cpp_ends_at_the_stops_and_at_no_other_token(gguf: Path, reference: Seen) -> None:
    """The weights are random: an answer is made to consist of one token, and either ends there or goes on."""
    assert engines.llama_cpp(gguf, reference, FORMAT, threads=1)["stops"]["ends"] == sorted(FORMAT.stop)


# ----------------------------------------------------------------------------------------------------------------- the proof


def test_every_engine_agrees_on_what_was_trained(gguf: Path, merged: Path, tmp_path: Path) -> None:
    proof = parity.prove(gguf, merged, FORMAT, threads=1)
    assert proof.here == ["gguf", "transformers", *["llama.cpp"] * llamacpp.can_load()]
    assert (proof.engines["gguf"].ids or 0) > 500, "of the metadata alone"
    for name in proof.here[1:]:
        engine = proof.engines[name]
        assert (engine.prompts, engine.stops) == (len(DIALOGUES), sorted(FORMAT.stop))
        assert (engine.ids or 0) > 500
    assert proof.engines["vllm"] == parity.Engine(absent="no interpreter holds vllm; runtime.python may name one")
    parity.write(proof, tmp_path / parity.FILE)
    assert parity.require(tmp_path / parity.FILE, gguf, FORMAT) == proof


@pytest.mark.slow  # importing torch in another process takes 4 to 12 s
def test_transformers_says_the_same_in_a_process_of_its_own(merged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the stage, whose own process stays without torch."""
    here = engines.transformers([merged], FORMAT)
    monkeypatch.delitem(sys.modules, "transformers")
    assert engines.transformers([merged], FORMAT) == here


@needs_vllm
@pytest.mark.slow  # importing vLLM takes 10 to 25 s
@pytest.mark.timeout(600)
def test_vllm_is_found_where_runtime_python_names_it(gguf: Path, merged: Path) -> None:
    proof = parity.prove(gguf, merged, FORMAT, threads=1, interpreters=[str(VLLM)])
    engine = proof.engines["vllm"]
    assert (engine.absent, engine.prompts, engine.stops) == (None, len(DIALOGUES), sorted(FORMAT.stop))


def test_without_llama_cpp_the_rest_is_proved_and_llama_cpp_is_absent(
    gguf: Path, merged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llamacpp, "can_load", lambda: False)
    proof = parity.prove(gguf, merged, FORMAT)
    absent = proof.engines["llama.cpp"]
    assert (absent.prompts, absent.ids, absent.version) == (None, None, None), "unknown is not zero"
    assert "xllamacpp is not installed" in str(absent.absent)
    assert proof.covers == "gguf, transformers (not: vllm, llama.cpp)"
    parity.write(proof, tmp_path / parity.FILE)
    assert parity.require(tmp_path / parity.FILE, gguf, FORMAT) == proof


@needs_llama_cpp
def test_a_proof_made_without_llama_cpp_is_made_whole_where_it_is(
    gguf: Path, merged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(llamacpp, "can_load", lambda: False)
        parity.write(parity.prove(gguf, merged, FORMAT), tmp_path / parity.FILE)
    whole = parity.prove(gguf, merged, FORMAT, threads=1)
    assert parity.require(tmp_path / parity.FILE, gguf, FORMAT, threads=1) == whole
    asked = engines.llama_cpp

    def another(*arguments: Any) -> Seen:
        seen = asked(*arguments)
        return {**seen, "prompts": {**seen["prompts"], "one turn": "another"}}

    monkeypatch.setattr(engines, "llama_cpp", another)
    with pytest.raises(Gwen25Error, match=r"m\.gguf: llama\.cpp renders another prompt than the chat format \(one turn\)"):
        parity.require(tmp_path / parity.FILE, gguf, FORMAT, threads=1)
    parity.write(whole, tmp_path / parity.FILE)
    assert parity.require(tmp_path / parity.FILE, gguf, FORMAT) == whole, "which is not tried anew"


def test_without_a_generation_config_the_stops_are_those_of_the_config(merged: Path, reference: Seen, tmp_path: Path) -> None:
    stops = json.loads((merged / "generation_config.json").read_text(encoding="utf-8"))["eos_token_id"]
    folders = []
    for name, eos in (("both", stops), ("one", stops[0])):
        folders.append(tmp_path / name)
        folders[-1].mkdir()
        for file in merged.iterdir():
            if file.name not in ("config.json", "generation_config.json"):
                (folders[-1] / file.name).symlink_to(file)
        config = {**json.loads((merged / "config.json").read_text(encoding="utf-8")), "eos_token_id": eos}
        (folders[-1] / "config.json").write_text(json.dumps(config), encoding="utf-8")
    _, [both, one] = engines.transformers(folders, FORMAT)
    assert parity.difference(both, reference) is None
    assert str(parity.difference(one, reference)).startswith("ends an answer otherwise than the chat format")


def test_an_interpreter_that_does_not_run_vllm_is_told_and_fails_nothing(gguf: Path, merged: Path, tmp_path: Path) -> None:
    """It says that it holds the package, and then does not run: an installation's fault, not the model's."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\ntest \"$1\" = -c && exit 0\necho 'ImportError: libcudart.so.12' >&2\nexit 1\n", encoding="utf-8")
    python.chmod(0o755)
    proof = parity.prove(gguf, merged, FORMAT, threads=1, interpreters=[str(tmp_path / "nothing"), str(python)])
    assert proof.engines["vllm"].absent == "vllm does not run in <path> ImportError: libcudart.so.12"


def test_a_template_that_adds_nothing_is_proved_like_none(merged: Path, tmp_path: Path) -> None:
    """Transformers 5 writes one where it saves a tokenizer without a post-processor, such as SmolLM2's."""
    copied(merged, tmp_path / "m")
    single = [{"Sequence": {"id": "A", "type_id": 0}}]
    nothing = {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {},
    }
    _edit(tmp_path / "m" / "tokenizer.json", lambda tokenizer: tokenizer.update(post_processor=nothing))
    gguf_writer.write(tmp_path / "m", tmp_path / "m.gguf", "f16", chat_format=FORMAT)
    assert parity.prove(tmp_path / "m.gguf", tmp_path / "m", FORMAT, threads=1).here


def test_a_difference_names_the_engine_the_dialogue_and_the_place(gguf: Path, merged: Path, tmp_path: Path) -> None:
    folder = in_files(TEMPLATES["no <think>"], merged, tmp_path / "m")
    with pytest.raises(Gwen25Error, match=r"m: Transformers renders another prompt than the chat format \(one turn\): from \d+ on "):
        parity.prove(gguf, folder, FORMAT, threads=1)


def test_the_dialogues_are_composed_and_end_with_the_user() -> None:
    """Qwen's tokenizer composes, llama.cpp does not; Ollama joins consecutive turns of one role. Neither is to be compared."""
    for name, messages in DIALOGUES.items():
        assert messages[-1]["role"] == "user", name
        assert all(unicodedata.is_normalized("NFC", message["content"]) for message in messages), name
        assert all(one["role"] != other["role"] for one, other in pairwise(messages)), name
