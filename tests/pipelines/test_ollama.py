"""The Ollama package, and the model at a server: a fake one that speaks its REST, and a real one where OLLAMA_HOST names it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gwen25 import gguf_writer, llamacpp, parity, sandbox
from gwen25.chat import FORMATS, prompt_text
from gwen25.config import load_config
from gwen25.errors import BadInput, SandboxUnavailable, Unavailable
from gwen25.job import Input, Job, main
from gwen25.ollama import Package, check, modelfile, parameters, publish, staging_name
from gwen25.ollama_api import Ollama, probe_server
from gwen25.parity.dialogues import DIALOGUES
from gwen25.pipelines.ollama import run
from tests.fake_ollama import FakeOllama
from tests.formatted import in_format

FORMAT = FORMATS["chatml-think"]
REAL_HOST = os.environ.get("OLLAMA_HOST")  # before the tests' clean environment drops it


@pytest.fixture(scope="module")
def gguf(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF and, beside it, the proof that the stage gguf makes."""
    file = tmp_path_factory.mktemp("gguf") / "gwen25-f16.gguf"
    merged = in_format(tiny_model, file.parent / "merged")
    gguf_writer.write(merged, file, "f16", chat_format=FORMAT)
    parity.write(parity.prove(file, merged, FORMAT, threads=1), file.parent / parity.FILE)
    return file


def stage_job(gguf: Path, work: Path, url: str | None = None, version: str = "0.33.0", **overrides: Any) -> Job:
    """A job whose input holds `gguf` and the proof that lies beside it, if one does."""
    artifact = work / "gguf"
    (artifact / "payload").mkdir(parents=True)
    (artifact / "payload" / gguf.name).write_bytes(gguf.read_bytes())
    if (gguf.parent / parity.FILE).is_file():
        shutil.copyfile(gguf.parent / parity.FILE, artifact / "payload" / parity.FILE)
    (work / "payload").mkdir()
    (work / "aside").mkdir()
    facts = {
        "chat_format": {"name": FORMAT.name, "digest": FORMAT.digest},
        "base_model": {"id": "Qwen/Qwen2.5-0.5B", "revision": "abc"},
        "license": "Apache-2.0",
        "file": gguf.name,
    }
    settings = load_config("smoke", overrides={f"ollama.{key}": value for key, value in overrides.items()})
    externals = {"ollama": {"server": version if url else None}}
    locations = {"ollama": url} if url else {}
    made = Input("gguf", "k", "d", artifact, facts, {})
    return Job("ollama", "k", settings.ollama, {"gguf": made}, externals, locations, settings.runtime, None, work)


def payload(job: Job) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in job.payload.iterdir()}


# ---------------------------------------------------------------------------------------------------------------- the package


def parse_modelfile(text: str) -> list[tuple[str, str]]:
    """Commands and values, character by character as Ollama's parser.ParseFile reads them (one word, blanks, a value that ends
    at the first blank or line end where its quotes are closed; of other characters only printable ones are kept)."""
    commands, at = [], 0
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        start = at
        while text[at].isalpha():
            at += 1
        name, value = text[start:at].lower(), ""
        if name == "parameter":
            start = at = at + 1
            while text[at] not in " \t":
                at += 1
            name = text[start:at]
        at += 1
        while at <= len(text):
            ended = at == len(text) or text[at] in " \t\n\r"
            held = _unquoted(value.strip())
            if ended and held is not None and (at == len(text) or text[at] not in " \t"):
                commands.append((name, held))
                break
            assert at < len(text), "unexpected EOF"
            if ended or text[at].isprintable():
                value += text[at]
            at += 1
    return commands


def _unquoted(text: str) -> str | None:
    if text.startswith('"""'):
        return text[3:-3] if len(text) >= 6 and text.endswith('"""') else None
    if text.startswith('"'):
        return text[1:-1] if len(text) >= 2 and text.endswith('"') else None
    return text


def test_the_package_without_a_server(gguf: Path, tmp_path: Path) -> None:
    job = stage_job(gguf, tmp_path)
    result = run(job)
    assert sorted(payload(job)) == ["Modelfile", "README.md", gguf.name, "parity.json"]
    assert parse_modelfile((job.payload / "Modelfile").read_text(encoding="utf-8")) == [
        ("from", f"./{gguf.name}"),
        ("template", FORMAT.ollama),
        ("system", prompt_text("system")),
        ("num_ctx", "512"),
        ("temperature", "0.6"),
        ("top_p", "0.95"),
        ("top_k", "0"),
        ("min_p", "0.0"),
        ("repeat_penalty", "1.0"),
        ("stop", "<|im_end|>"),
        ("stop", "<|endoftext|>"),
        ("license", "Apache-2.0"),
    ]
    readme = (job.payload / "README.md").read_text(encoding="utf-8")
    assert "ollama create gwen25-smoke -f Modelfile" in readme
    assert len(readme.splitlines()) == 3
    assert (result.facts["created"], result.facts["name"], result.metrics) == (False, "gwen25-smoke", {})
    assert result.facts["license"] == "Apache-2.0"
    assert (job.payload / gguf.name).stat().st_ino == (job.inputs["gguf"].payload / gguf.name).stat().st_ino, "linked, not copied"
    assert not list(job.aside.iterdir())


def test_the_package_is_the_same_with_and_without_a_server(gguf: Path, tmp_path: Path) -> None:
    alone = stage_job(gguf, tmp_path / "a")
    run(alone)
    with FakeOllama() as server:
        served = stage_job(gguf, tmp_path / "b", server.url)
        run(served)
    assert payload(alone) == payload(served)
    run(dataclasses.replace(alone))  # a second attempt in the same folder
    assert payload(alone) == payload(served)


def test_copied_where_no_link_can_be(gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    job = stage_job(gguf, tmp_path)
    run(job)
    assert payload(job)[gguf.name] == hashlib.sha256(gguf.read_bytes()).hexdigest()


PACKAGE = Package("n", Path("m.gguf"), FORMAT.ollama, "S", {"num_ctx": 512, "stop": ["<|im_end|>"]}, None)


@pytest.mark.parametrize(
    "system", ['ends in "', '"quoted"', '" a', "two\n\nlines\n", " blanks ", '"" x ""', "# no comment", "FROM x", "é 求和 👍"]
)
def test_a_modelfile_holds_what_it_was_given(system: str) -> None:
    commands = dict(parse_modelfile(modelfile(dataclasses.replace(PACKAGE, system=system))))
    assert commands["system"] == system
    assert commands["template"] == FORMAT.ollama


def test_no_licence_and_no_system_are_no_lines() -> None:
    names = [name for name, _ in parse_modelfile(modelfile(dataclasses.replace(PACKAGE, system="")))]
    assert names == ["from", "template", "num_ctx", "stop"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"template": 'a """ b'}, 'the template holds """'),
        ({"system": "a\u00a0b"}, r"the system holds U\+00A0"),
        ({"license": "a\rb"}, r"the license holds U\+000D"),
        ({"parameters": {"temprature": 1.0}}, "unknown ollama parameter 'temprature'; did you mean 'temperature'"),
        ({"parameters": {"mirostat": 1}}, "unknown ollama parameter 'mirostat'"),
        ({"parameters": {"temperature": "hot"}}, r"temperature = 'hot' is not of its type \(float\)"),
        ({"parameters": {"temperature": float("nan")}}, "temperature = nan"),
        ({"parameters": {"num_ctx": True}}, "num_ctx = True"),
        ({"parameters": {"use_mmap": 1}}, "use_mmap = 1"),
        ({"parameters": {"stop": "<|im_end|>"}}, "only stop is a list"),
        ({"parameters": {"top_p": [0.5]}}, "only stop is a list"),
        ({"parameters": {"stop": [""]}}, "a Modelfile cannot hold it"),
        ({"parameters": {"num_ctx": 4096.5}}, "num_ctx = 4096.5"),
        ({"parameters": {"stop": ['"']}}, "a Modelfile cannot hold it"),
    ],
)
def test_values_refused_before_anything_is_written(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        modelfile(dataclasses.replace(PACKAGE, **change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "a b"}, "is no name that Ollama takes"),
        ({"name": "name:tag:tag"}, "is no name that Ollama takes"),
        ({"name": "a.b/name"}, "is no name that Ollama takes"),
        ({"name": "x" * 81}, "is no name that Ollama takes"),
        ({"template": FORMAT.ollama.replace("<think>", "", 1)}, "another TEMPLATE than the chat format"),
        ({"parameters": {"stop": ["<|im_end|>"]}}, r"stops at \['<\|im_end\|>'\], chatml-think at"),
        ({"gguf": Path("nowhere.gguf")}, r"no such GGUF file: nowhere\.gguf"),
    ],
)
def test_a_package_that_would_be_served_otherwise_is_refused(change: dict[str, Any], message: str, gguf: Path) -> None:
    right = dataclasses.replace(PACKAGE, gguf=gguf, parameters=parameters(512, 0.6, 0.95, FORMAT))
    check(right, FORMAT)
    check(dataclasses.replace(right, name="example.org:5000/me/name:Tag-1.0"), FORMAT)
    with pytest.raises(BadInput, match=message):
        check(dataclasses.replace(right, **change), FORMAT)


@pytest.mark.parametrize("name", ["gwen25", "gwen25:q4", "me/gwen25:" + "x" * 80, "example.org:5000/me/gwen25"])
def test_the_staging_tag_is_a_name_of_the_same_model(name: str, gguf: Path) -> None:
    staging = staging_name(name, "content")
    check(dataclasses.replace(PACKAGE, name=staging, gguf=gguf, parameters=parameters(512, 0.6, 0.95, FORMAT)), FORMAT)
    assert staging != name
    assert staging.rpartition(":")[0] in (name, name.rpartition(":")[0])
    assert staging.startswith(staging_name(name))
    assert not staging.startswith(staging_name(f"{name}x"))
    assert staging_name(name, "other content") != staging


# ------------------------------------------------------------------------------------------------------------------ the proof


def test_no_package_without_a_proof_of_this_very_file(gguf: Path, tmp_path: Path) -> None:
    def spoiled(name: str, **changes: Any) -> Job:
        job = stage_job(gguf, tmp_path / name)
        proof = job.inputs["gguf"].payload / parity.FILE
        value = json.loads(proof.read_text(encoding="utf-8"))
        proof.write_text(json.dumps({**value, **changes}), encoding="utf-8")
        return job

    bare = stage_job(gguf, tmp_path / "bare")
    (bare.inputs["gguf"].payload / parity.FILE).unlink()
    jobs = {
        "is missing, the proof that engines see what was trained; `gwen25 gguf` makes it": bare,
        "proves another file than gwen25-f16.gguf": spoiled("file", gguf="0" * 64),
        "proves another chat format": spoiled("format", chat_format={"name": FORMAT.name, "digest": "0" * 64}),
        "proves nothing of transformers": spoiled("engine", engines={"gguf": {"version": None}}),
        "is no proof": spoiled("version", version=0),
    }
    for message, job in jobs.items():
        with pytest.raises(BadInput, match=message):
            run(job)
        assert not list(job.payload.iterdir()), message


def test_a_proof_made_without_llama_cpp_is_made_whole_before_it_is_packaged(
    gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("xllamacpp")
    job = stage_job(gguf, tmp_path / "a")
    proof = job.inputs["gguf"].payload / parity.FILE
    value = json.loads(proof.read_text(encoding="utf-8"))
    absent = dict.fromkeys(value["engines"]["llama.cpp"]) | {"absent": "xllamacpp is not installed"}
    proof.write_text(json.dumps({**value, "engines": {**value["engines"], "llama.cpp": absent}}), encoding="utf-8")
    run(job)
    assert json.loads((job.payload / parity.FILE).read_text(encoding="utf-8")) == value
    assert f"{gguf.name} is proved in gguf, llama.cpp, transformers (not: vllm)" in capsys.readouterr().out
    monkeypatch.setattr(llamacpp, "can_load", lambda: False)
    again = dataclasses.replace(job, work=tmp_path / "b")
    again.payload.mkdir(parents=True)
    run(again)
    assert "is proved in gguf, transformers (not: llama.cpp, vllm)" in capsys.readouterr().out


def test_a_gguf_that_ollama_would_serve_wrongly(gguf: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="num_ctx = 4096 is more than the model's context of 2048"):
        run(stage_job(gguf, tmp_path / "a", num_ctx=4096))
    own = tmp_path / "own.gguf"
    gguf_writer.write(tiny_model, own, "f16")
    with pytest.raises(BadInput, match="another chat template than chatml-think"):
        run(stage_job(own, tmp_path / "b"))
    endless = dataclasses.replace(FORMAT, eos="<|endoftext|>")
    gguf_writer.write(tiny_model, own, "f16", chat_format=endless)
    with pytest.raises(BadInput, match=r"the GGUF ends at <\|endoftext\|>"):
        run(stage_job(own, tmp_path / "c"))
    bare = tmp_path / "bare.gguf"
    bare.write_bytes(gguf.read_bytes().replace(b"tokenizer.ggml.token_type", b"tokenizer.ggml.tokenXtype"))
    with pytest.raises(BadInput, match=r"the GGUF lacks tokenizer\.ggml\.token_type"):
        run(stage_job(bare, tmp_path / "d"))
    beyond, key = tmp_path / "beyond.gguf", b"tokenizer.ggml.eos_token_id"
    data = gguf.read_bytes()
    at = data.index(key) + len(key) + 4  # behind the value's kind
    beyond.write_bytes(data[:at] + struct.pack("<I", 10**6) + data[at + 4 :])
    with pytest.raises(BadInput, match=r"end token \(tokenizer\.ggml\.eos_token_id = 1000000\) is none of its \d+ tokens"):
        run(stage_job(beyond, tmp_path / "f"))
    (tmp_path / "junk.gguf").write_bytes(b"PK")
    with pytest.raises(BadInput, match="not a whole GGUF"):
        run(stage_job(tmp_path / "junk.gguf", tmp_path / "e"))
    assert not any(list((tmp_path / name / "payload").iterdir()) for name in "abcdef")


def test_a_template_that_differs_in_its_last_newline_is_the_same(tiny_model: Path, tmp_path: Path) -> None:
    """To the server's check as to the proof; jinja leaves one out by itself."""
    merged, file = in_format(tiny_model, tmp_path / "merged"), tmp_path / "m.gguf"
    end = "" if FORMAT.jinja.endswith("\n") else "\n"
    gguf_writer.write(merged, file, "f16", chat_format=dataclasses.replace(FORMAT, jinja=FORMAT.jinja.rstrip("\n") + end))
    parity.write(parity.prove(file, merged, FORMAT, threads=1), tmp_path / parity.FILE)
    job = stage_job(file, tmp_path / "job")
    run(job)
    assert (job.payload / "Modelfile").is_file()


# ----------------------------------------------------------------------------------------------------------------- the server


EARLIER = {"model": "gwen25-smoke", "template": "t", "system": "earlier", "parameters": {}}


def test_created_and_proved(gguf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with FakeOllama() as server:
        server.models["gwen25-smoke:latest"] = EARLIER
        job = stage_job(gguf, tmp_path, server.url, smoke="require")
        result = run(job)
        [(name, model)] = server.models.items()
        digest = f"sha256:{hashlib.sha256(gguf.read_bytes()).hexdigest()}"
        assert name == "gwen25-smoke:latest"
        assert server.blobs == {digest: gguf.read_bytes()}
        assert model["files"] == {gguf.name: digest}
        assert (model["template"], model["system"], model["license"]) == (FORMAT.ollama, prompt_text("system"), "Apache-2.0")
        assert model["parameters"] == parameters(512, 0.6, 0.95, FORMAT)
        assert result.facts["created"] is True
        assert result.facts["server_digest"] == Ollama(server.url).digest("gwen25-smoke")
        assert result.metrics == {
            **{"verified_prompts": len(DIALOGUES), "smoke_prompts": 3, "smoke_ended": 3, "smoke_well_formed": 3},
            **{"smoke_ran": 3, "smoke_passed": 3, "smoke_tokens": 69},
        }
        smoke = json.loads((job.aside / "smoke.json").read_text(encoding="utf-8"))
        assert [answer["thinking"] for answer in smoke["answers"]] == ["Add them."] * 3
        assert smoke["statuses"][-1] == "success"
        out = capsys.readouterr().out
        assert "warning" not in out
        assert f'"step": {gguf.stat().st_size}, "total": {gguf.stat().st_size}' in out, "progress, in bytes"
        order = [line for line in server.requests if "/blobs/" not in line and "tags" not in line and "chat" not in line]
        assert order == ["GET /api/version", *(f"POST /api/{verb}" for verb in ("create", "show", "copy")), "DELETE /api/delete"]
        run(stage_job(gguf, tmp_path / "again", server.url))
        assert [asked.split()[0] for asked in server.requests if "/blobs/" in asked] == ["HEAD", "POST", "HEAD"], "uploaded once"


WRONG_AT_THE_SERVER = [
    ("breaks off", Unavailable, "broke off while making gwen25-smoke:gwen25-staging-.*, after .'verifying conversion'."),
    ("killed in create", Unavailable, "broke off while making|does not answer"),
    ("half a line", Unavailable, "broke off in the middle of a line"),
    ("create fails", BadInput, "did not make gwen25-smoke:gwen25-staging-.*: failed to validate GGUF"),
    ("damaged upload", Unavailable, "digest mismatch"),
    ("gone in upload", Unavailable, "does not answer POST /api/blobs/.*bytes of gwen25-f16.gguf: the next attempt sends it again"),
    ("jinja wins", BadInput, "shows another template .* OLLAMA_GO_TEMPLATE=1"),
    ("loses a stop", BadInput, "shows stop = "),
    ("loses the system", BadInput, "shows another system for gwen25-smoke than was sent: 'You are Qwen.'"),
    ("shows no system", BadInput, "shows another system for gwen25-smoke than was sent: ''"),
    ("loses the license", BadInput, "shows another license for gwen25-smoke than was sent: ''"),
    ("brings stops", BadInput, "shows stop = .*im_start"),
    ("lists oddly", BadInput, "is no Ollama server: /api/tags lists 'none'"),
    ("says a number", BadInput, "is no Ollama server: /api/create gave b'17"),
    ("does not list", Unavailable, "does not list gwen25-smoke:gwen25-staging-"),
    ("renders otherwise", BadInput, "renders another prompt"),
    ("fails to run", Unavailable, "llama-server process has terminated"),
    ("never stops", BadInput, r"shows <\|im_end\|> in its answer"),
    ("odd end", BadInput, "ended an answer with 'load'"),
    ("busy", Unavailable, "server busy"),
    ("another run", Unavailable, "is not what was tried: another run makes gwen25-smoke"),
    ("babbles", BadInput, "fails its smoke prompts .sum: it was cut off before it ended its turn.*ollama.smoke=report"),
    ("draws another answer", BadInput, "sum: it hands in no program; backwards: it hands in no program"),
    ("crashes", BadInput, "sum: its program ended in error"),
]


@pytest.mark.parametrize(("fault", "error", "message"), WRONG_AT_THE_SERVER, ids=[fault for fault, *_ in WRONG_AT_THE_SERVER])
def test_whatever_goes_wrong_leaves_the_name_as_it_was(
    fault: str, error: type[Exception], message: str, gguf: Path, tmp_path: Path
) -> None:
    with FakeOllama(fault) as server:
        server.models["gwen25-smoke:latest"] = EARLIER
        with pytest.raises(error, match=message):
            run(stage_job(gguf, tmp_path, server.url, smoke="require"))
    assert server.models == {"gwen25-smoke:latest": EARLIER}, "untouched, and no staging tag beside it"


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("babbles", {"smoke_ended": 0, "smoke_well_formed": 3, "smoke_passed": 3}),
        ("draws another answer", {"smoke_ended": 3, "smoke_well_formed": 0, "smoke_ran": 0, "smoke_passed": 0}),
        ("crashes", {"smoke_ended": 3, "smoke_well_formed": 3, "smoke_ran": 0, "smoke_passed": 0}),
    ],
)
def test_a_model_too_weak_for_the_smoke_prompts_is_made_where_that_is_asked(
    fault: str, told: dict[str, int], gguf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with FakeOllama(fault) as server:
        job = stage_job(gguf, tmp_path, server.url, smoke="report")
        result = run(job)
        assert list(server.models) == ["gwen25-smoke:latest"]
    assert {name: result.metrics[name] for name in told} == told
    assert "warning: gwen25-smoke fails smoke prompts (sum: " in capsys.readouterr().out
    assert len(json.loads((job.aside / "smoke.json").read_text(encoding="utf-8"))["answers"]) == 3


def test_what_was_answered_is_kept_where_it_is_refused(gguf: Path, tmp_path: Path) -> None:
    with FakeOllama("crashes") as server, pytest.raises(BadInput):
        run(stage_job(gguf, tmp_path, server.url, smoke="require"))
    answers = json.loads((tmp_path / "aside" / "smoke.json").read_text(encoding="utf-8"))["answers"]
    assert [answer["status"] for answer in answers] == ["error"] * 3


def test_where_the_sandbox_gives_no_verdict_no_name_is_moved_unless_that_is_asked(
    gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none(*_: object, **__: object) -> None:
        raise SandboxUnavailable("no adequate isolation on this machine")

    monkeypatch.setattr(sandbox, "grade", none)
    with FakeOllama() as server:
        server.models["gwen25-smoke:latest"] = EARLIER
        refused = r"no verdict on the programs of gwen25-smoke \(sum, backwards, double\), so .* ollama\.smoke=report publishes"
        with pytest.raises(BadInput, match=refused):
            run(stage_job(gguf, tmp_path / "a", server.url, smoke="require"))
        assert server.models == {"gwen25-smoke:latest": EARLIER}, "untouched, and no staging tag beside it"
        assert "warning" not in capsys.readouterr().out
        result = run(stage_job(gguf, tmp_path / "b", server.url, smoke="report"))
        assert server.models["gwen25-smoke:latest"] != EARLIER
    assert (result.metrics["smoke_ran"], result.metrics["smoke_passed"]) == (None, None)
    out = capsys.readouterr().out
    assert "whether the programs of gwen25-smoke run is not known" in out and "3 ended by themselves, an unknown number passed" in out


def test_an_upload_that_broke_is_made_good_by_the_next_attempt(gguf: Path, tmp_path: Path) -> None:
    with FakeOllama("gone in upload") as server:
        with pytest.raises(Unavailable):  # which the stage's retries answer
            run(stage_job(gguf, tmp_path / "a", server.url))
        assert (server.blobs, server.models) == ({}, {})
        run(stage_job(gguf, tmp_path / "b", server.url))
        assert list(server.models) == ["gwen25-smoke:latest"]


def test_the_stage_asks_for_another_attempt_which_goes_on(gguf: Path, tmp_path: Path) -> None:
    job = stage_job(gguf, tmp_path, smoke="require")
    with FakeOllama("gone in upload") as server:
        write_request(dataclasses.replace(job, externals={"ollama": {"server": "0.33.0"}}, locations={"ollama": server.url}))
        with pytest.raises(SystemExit) as ended:
            main(run, [str(tmp_path)])
        failure = json.loads((tmp_path / "failure.json").read_text(encoding="utf-8"))
        assert (ended.value.code, failure["cause"], failure["retry"]) == (75, "unavailable", True)
        main(run, [str(tmp_path)])
        assert json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))["facts"]["created"] is True


def test_staging_tags_that_killed_runs_left_are_deleted(gguf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with FakeOllama("keeps the staging tag") as server:
        run(stage_job(gguf, tmp_path / "a", server.url))
        [staging, _] = server.models
        assert staging.startswith(staging_name("gwen25-smoke"))
        assert "may be left at the server, the next run deletes it" in capsys.readouterr().out
        server.faults.clear()
        server.models |= {staging_name("gwen25-smoke", "of another GGUF"): EARLIER, staging_name("gwen25-smoke:q4", "x"): EARLIER}
        run(stage_job(gguf, tmp_path / "b", server.url))
        assert list(server.models) == ["gwen25-smoke:latest", staging_name("gwen25-smoke:q4", "x")], "another name's is not ours"


KILLED_AT = [
    *(("HEAD /api/blobs", 1), ("POST /api/blobs", 1), ("POST /api/create", 1), ("POST /api/show", 1), ("POST /api/chat", 1)),
    *(("POST /api/chat", len(DIALOGUES) + 3), ("GET /api/tags", 2), ("POST /api/copy", 1), ("DELETE /api/delete", 1)),
]


@pytest.mark.slow  # nine processes of a second or two each
def test_killed_at_any_request_the_name_holds_one_whole_model_and_the_next_run_makes_all_good(gguf: Path, tmp_path: Path) -> None:
    for at, (line, count) in enumerate(KILLED_AT):
        with FakeOllama() as server:
            server.models["gwen25-smoke:latest"] = EARLIER
            kill_stage_at(server, stage_job(gguf, tmp_path / f"{at}", server.url, smoke="require"), line, count)
            named = server.models["gwen25-smoke:latest"]
            assert named == EARLIER or line in ("POST /api/copy", "DELETE /api/delete"), line
            assert named.keys() in (EARLIER.keys(), {*EARLIER, "files", "license", "stream"}), line
            server.on_request = lambda line: None
            run(stage_job(gguf, tmp_path / f"{at}-again", server.url, smoke="require"))
            assert list(server.models) == ["gwen25-smoke:latest"], line
            assert server.models["gwen25-smoke:latest"]["parameters"] == parameters(512, 0.6, 0.95, FORMAT), line


def write_request(job: Job) -> None:
    """What `stage.launch` leaves for the stage's own process."""
    made = job.inputs["gguf"]
    manifest = {"stage": "gguf", "key": "k", "digest": "d", "facts": dict(made.facts), "metrics": {}}
    (made.path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    request = {
        **{"stage": "ollama", "section_name": "ollama", "key": "k", "section": job.config.model_dump(mode="json"), "micro_batch": None},
        **{"inputs": {"gguf": {"path": str(made.path)}}, "externals": job.externals, "locations": job.locations},
        "runtime": job.runtime.model_dump(mode="json"),
    }
    (job.work / "request.json").write_text(json.dumps(request), encoding="utf-8")


def kill_stage_at(server: FakeOllama, job: Job, line: str, count: int) -> None:
    """Run the stage in a process of its own, and kill that as the server is asked `line` for the `count`th time."""
    write_request(job)
    seen = 0

    def kill(asked: str) -> None:
        nonlocal seen
        seen += asked.startswith(line)
        if seen == count and child.poll() is None:
            child.kill()
            child.wait()

    server.on_request = kill
    child = subprocess.Popen([sys.executable, "-m", "gwen25.pipelines.ollama", str(job.work)], stdout=subprocess.DEVNULL)
    assert child.wait(timeout=120) == -signal.SIGKILL, line


def test_the_server_prefers_a_jinja_that_knows_tools(tiny_model: Path, tmp_path: Path) -> None:
    """What Ollama does with a stock template in the GGUF, and that it does not get past us."""
    tools = dataclasses.replace(FORMAT, jinja="{%- if tools %}{{ tools }}{% endif %}" + FORMAT.jinja)
    file = tmp_path / "tools.gguf"
    gguf_writer.write(tiny_model, file, "f16", chat_format=tools)
    package = dataclasses.replace(PACKAGE, gguf=file, parameters=parameters(512, 0.6, 0.95, FORMAT))
    with FakeOllama() as server, pytest.raises(BadInput, match="shows another template"):
        publish(Ollama(server.url), package, FORMAT)
    assert server.models == {}


def test_a_server_that_does_not_tell_its_prompts(gguf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with FakeOllama("no debug", "does not think", version="0.8.0") as server:
        result = run(stage_job(gguf, tmp_path, server.url, smoke="require"))
    assert "verified_prompts" not in result.metrics
    assert result.metrics["smoke_passed"] == 3
    out = capsys.readouterr().out
    assert "warning: the Ollama server is now 0.8.0; it was 0.33.0" in out
    assert "warning: Ollama 0.8.0 does not tell the prompts it renders" in out
    assert "warning: Ollama 0.8.0 does not take gwen25-smoke for a model that thinks" in out


def test_a_server_that_went_away(gguf: Path, tmp_path: Path) -> None:
    with FakeOllama() as server:
        url = server.url
    with pytest.raises(Unavailable, match="does not answer GET /api/version"):
        run(stage_job(gguf, tmp_path, url))


# ------------------------------------------------------------------------------------------------------------- a real server


@pytest.mark.server
def test_a_real_server(gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that the fake claims, from upload to prompt, at the server that OLLAMA_HOST names; its model is deleted again."""
    if REAL_HOST is None:
        pytest.skip("OLLAMA_HOST is not set: no real Ollama server")
    monkeypatch.setenv("OLLAMA_HOST", REAL_HOST)
    found = probe_server()
    assert found is not None, f"no Ollama server answers at {REAL_HOST}"
    url, version = found
    name = f"gwen25-test-{os.getpid()}"
    try:
        result = run(stage_job(gguf, tmp_path, url, version, name=name, smoke_tokens=16))
        assert result.facts["created"] is True
        assert result.facts["server_digest"] == Ollama(url).digest(name)
        assert result.metrics["smoke_prompts"] == 3
        assert result.metrics.get("verified_prompts") == len(DIALOGUES)
        assert "thinking" in Ollama(url).show(name)["capabilities"]
        assert not [model for model in Ollama(url).models() if model.startswith(staging_name(name))]
    finally:
        Ollama(url).delete(name)
