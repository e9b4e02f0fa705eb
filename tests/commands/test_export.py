"""One step on files of anybody's: plain PEFT adapters, Qwen2 and Llama checkpoints, GGUFs; whole outputs or none; errors that help."""

from __future__ import annotations

import errno
import fcntl
import json
import shutil
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from gwen25 import cli, config, llamacpp, modeling, models, parity, resolve, sandbox
from gwen25.artifacts import Made, Store
from gwen25.chat import FORMATS
from gwen25.commands import outputs
from gwen25.errors import BadInput, SandboxUnavailable
from gwen25.gguf_header import read_header
from gwen25.job import write_json
from gwen25.ollama import staging_name
from gwen25.pipelines import gguf
from tests.fake_ollama import FakeOllama
from tests.formatted import in_format

FORMAT = FORMATS["chatml-think"]
Spoil = Callable[[bytes], bytes]


@pytest.fixture(autouse=True)
def _own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GWEN25_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """An adapter as PEFT saves it, on two of the seven projections, and beside it what PEFT itself merges of it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("plain") / "adapter"
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    model = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(0, 0.1)
    model.save_pretrained(folder)
    state = {name: tensor.contiguous() for name, tensor in model.merge_and_unload().state_dict().items() if name != "lm_head.weight"}
    save_file(state, folder.parent / "peft.safetensors")
    return folder


@pytest.fixture
def adapter(plain: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(plain, tmp_path / "adapter"))


@pytest.fixture
def base(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "base"))


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A GGUF with a template that is none of ours."""
    file = tmp_path_factory.mktemp("stock") / "stock.gguf"
    gguf.convert(tiny_model, file, "f16")
    return file


@pytest.fixture(scope="module")
def licensed(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """The same, with a licence."""
    file = tmp_path_factory.mktemp("licensed") / "licensed.gguf"
    gguf.convert(tiny_model, file, "f16", licence="MIT")
    return file


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    file = tmp_path_factory.mktemp("ours") / "ours.gguf"
    merged = in_format(tiny_model, file.parent / "merged")
    gguf.convert(merged, file, "f16", chat_format=FORMAT)
    parity.write(parity.prove(file, merged, FORMAT, threads=1), parity.beside(file))
    return file


def run(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


def edit(file: Path, **values: Any) -> None:
    write_json(file, {**json.loads(file.read_text(encoding="utf-8")), **values})


def tensors(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return {name: tensor for file in models.weight_files(folder) for name, tensor in load_file(file).items()}


# --------------------------------------------------------------------------------------------------------------------- merge


def test_a_plain_adapter_is_merged_as_peft_merges_it(plain: Path, tiny_model: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    assert run("merge", plain, tmp_path / "out") == 0
    mine, theirs = tensors(tmp_path / "out"), load_file(plain.parent / "peft.safetensors")
    assert mine.keys() == theirs.keys() and all(mine[name].equal(theirs[name]) for name in mine)


def test_a_foreign_model_keeps_tokenizer_template_and_ends(plain: Path, tiny_model: Path, tmp_path: Path) -> None:
    assert run("merge", plain, tmp_path / "out", "--dtype", "float16") == 0
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tiny_model / name).read_bytes()
    before, after = models.read_config(tiny_model), models.read_config(tmp_path / "out")
    assert after["eos_token_id"] == before["eos_token_id"] and after["dtype"] == after["torch_dtype"] == "float16"
    assert {name: value for name, value in after.items() if "dtype" not in name} == {
        name: value for name, value in before.items() if "dtype" not in name and name != "transformers_version"
    }
    text = b"".join(file.read_bytes() for file in (tmp_path / "out").iterdir() if file.suffix != ".safetensors")
    assert str(tiny_model).encode() not in text and str(tmp_path).encode() not in text


def test_the_licence_of_the_base_goes_into_the_gguf(adapter: Path, base: Path, tmp_path: Path) -> None:
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    assert run("merge", adapter, tmp_path / "out", "--base", base) == 0 and run("gguf", tmp_path / "out", tmp_path / "m.gguf") == 0
    assert read_header(tmp_path / "m.gguf").fields["general.license"] == "apache-2.0"


def test_an_adapter_that_ends_its_turns_otherwise_makes_a_model_that_stops_there(adapter: Path, tiny_model: Path, tmp_path: Path) -> None:
    modeling.save_tokenizer(modeling.load_tokenizer(tiny_model, FORMAT), adapter)
    assert run("merge", adapter, tmp_path / "out") == 0
    ends = {token["content"]: token["id"] for token in json.loads((tmp_path / "out" / "tokenizer.json").read_text())["added_tokens"]}
    stops = json.loads((tmp_path / "out" / "generation_config.json").read_text())["eos_token_id"]
    assert models.read_config(tmp_path / "out")["eos_token_id"] == ends[FORMAT.eos] and stops == [ends[FORMAT.eos], ends["<|endoftext|>"]]
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == FORMAT.jinja


def _other_ids(adapter: Path, base: Path) -> None:
    parts = json.loads((base / "tokenizer.json").read_text())
    vocabulary = parts["model"]["vocab"]
    one, two = list(vocabulary)[:2]
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
    write_json(adapter / "tokenizer.json", parts)


def _enlarged(adapter: Path, base: Path) -> None:
    parts = json.loads((base / "tokenizer.json").read_text())
    parts["added_tokens"].append({**parts["added_tokens"][-1], "content": "<new>", "id": models.inspect(base).vocab_size})
    write_json(adapter / "tokenizer.json", parts)


def _pickled(adapter: Path, base: Path) -> None:
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")


def _nan(adapter: Path, base: Path) -> None:
    from safetensors.torch import load_file, save_file

    held = load_file(adapter / "adapter_model.safetensors")
    held[min(held)][0, 0] = float("nan")
    save_file(held, adapter / "adapter_model.safetensors")


def _quantized(adapter: Path, base: Path) -> None:
    edit(base / "config.json", quantization_config={"quant_method": "bitsandbytes"})


BREAKS = {
    "another tokenizer": (_other_ids, "is another than the base's"),
    "an enlarged vocabulary": (_enlarged, "resize_token_embeddings"),
    "a pickle": (_pickled, "save_pretrained"),
    "no weights": (lambda adapter, base: (adapter / "adapter_model.safetensors").unlink(), "has no adapter_model.safetensors"),
    "no number": (_nan, "not finite"),
    "another kind": (lambda adapter, base: edit(adapter / "adapter_config.json", peft_type="IA3"), "only LORA can be merged"),
    "a base that is gone": (lambda adapter, base: edit(adapter / "adapter_config.json", base_model_name_or_path="/gone"), "--base"),
    "a base of gwen25's": (lambda adapter, base: edit(adapter / "adapter_config.json", base_model_name_or_path="sha256:00"), "--base"),
    "a 4-bit base": (_quantized, "is quantized (bitsandbytes)"),
    "a base without tokenizer": (lambda adapter, base: (base / "tokenizer.json").unlink(), "AutoTokenizer.from_pretrained"),
    "a base of another architecture": (
        lambda adapter, base: edit(base / "config.json", architectures=["GPT2LMHeadModel"]),
        "GPT2LMHeadModel",
    ),
    "a base in pickles": (lambda adapter, base: (base / "model.safetensors").rename(base / "pytorch_model.bin"), "writes safetensors"),
}


@pytest.mark.parametrize("broken", BREAKS)
def test_what_cannot_be_merged_is_told_and_leaves_nothing(broken: str, adapter: Path, base: Path, tmp_path: Path, capsys: Any) -> None:
    edit(adapter / "adapter_config.json", base_model_name_or_path=str(base))
    breaks, words = BREAKS[broken]
    breaks(adapter, base)
    before = sorted(tmp_path.iterdir())
    assert run("merge", adapter, tmp_path / "out") == 2
    shown = capsys.readouterr()
    assert words in shown.err and "Traceback" not in shown.err and len(shown.err.strip().splitlines()) == 1
    assert {path.name for path in tmp_path.iterdir()} - {"home"} == {path.name for path in before} - {"home"}


# ------------------------------------------------------------------------------------------------------------------- outputs


def test_nothing_that_is_there_is_replaced_unasked(plain: Path, tmp_path: Path, capsys: Any) -> None:
    assert run("merge", plain, tmp_path / "out") == 0
    first = (tmp_path / "out" / "model.safetensors").read_bytes()
    assert run("merge", plain, tmp_path / "out", "--dtype", "float16") == 2 and "--force" in capsys.readouterr().err
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == first
    assert run("merge", plain, tmp_path / "out", "--dtype", "float16", "--force") == 0
    assert (tmp_path / "out" / "model.safetensors").read_bytes() != first


def test_force_never_removes_what_no_merge_wrote(plain: Path, tmp_path: Path, capsys: Any) -> None:
    home = tmp_path / "user"
    (home / "photos").mkdir(parents=True)
    (home / "config.json").write_text("{}")
    assert run("merge", plain, home, "--force") == 2 and "not even --force" in capsys.readouterr().err
    assert (home / "photos").is_dir() and run("merge", plain, tmp_path / "nowhere" / "out") == 2


def test_what_a_killed_run_left_is_cleared_and_what_another_writes_is_not(tmp_path: Path) -> None:
    left = tmp_path / ".out.part"
    left.mkdir()
    (left / "model.safetensors.part").write_text("half")
    with outputs.folder(tmp_path / "out", force=False, mark="a") as part:
        assert not list(part.iterdir())
        (part / "a").write_text("whole")
        with pytest.raises(BadInput, match="another run is writing out"), outputs.folder(tmp_path / "out", force=False, mark="a"):
            pass
    assert (tmp_path / "out" / "a").read_text() == "whole" and not left.exists()


def test_folders_in_what_a_killed_run_left_are_cleared_too(tmp_path: Path) -> None:
    (tmp_path / ".out.part" / "deep" / "er").mkdir(parents=True)
    with outputs.folder(tmp_path / "out", force=False, mark="a") as part:
        assert not list(part.iterdir())


def test_what_stepped_aside_for_a_killed_run_is_put_back(tmp_path: Path) -> None:
    old = tmp_path / ".out.old"
    old.mkdir()
    (old / "a").write_text("mine")
    with pytest.raises(BadInput, match="--force replaces it"), outputs.folder(tmp_path / "out", force=False, mark="a"):
        pass
    assert (tmp_path / "out" / "a").read_text() == "mine" and not old.exists()
    old.mkdir()
    with outputs.folder(tmp_path / "out", force=True, mark="a") as part:
        (part / "a").write_text("new")
    assert (tmp_path / "out" / "a").read_text() == "new" and not old.exists()


def test_a_lock_on_a_folder_that_another_run_took_away_is_none(tmp_path: Path, monkeypatch: Any) -> None:
    real, calls = fcntl.flock, []

    def late(descriptor: int, how: int) -> None:
        if not calls:  # the other run ends between our open and our lock
            (tmp_path / ".out.part").rmdir()
        calls.append(descriptor)
        real(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with outputs.folder(tmp_path / "out", force=False, mark="a") as part:
        (part / "a").write_text("whole")
    assert (tmp_path / "out" / "a").read_text() == "whole" and len(calls) == 2


def test_an_adapter_of_a_4bit_base_is_the_nodes_and_an_outside_one_is_told_of(
    plain: Path, tmp_path: Path, tiny_model: Path, capsys: Any
) -> None:
    assert run("merge", plain, tmp_path / "out") == 0 and "merged into the plain base" in capsys.readouterr().out
    store = Store.default()
    for number, four in enumerate((True, False)):
        work = store.work("adapters", f"{number}" * 32)
        work.mkdir(parents=True)
        shutil.copytree(plain, work / "payload")
        (work / "aside").mkdir()
        facts = {"base_model": {"digest": resolve.folder_digest(tiny_model)}, "sft": {"load_in_4bit": four, "dtype": "float32"}}
        store.publish(Made("adapters", 1, f"{number}" * 32, {}, {"base_model": str(tiny_model)}, {}, facts, {}, {"seconds": 1.0}))
    assert run("merge", "adapters:000", tmp_path / "four") == 2 and "trained on a 4-bit base" in capsys.readouterr().err
    assert not (tmp_path / "four").exists()
    assert run("merge", "adapters:111", tmp_path / "full") == 0 and "plain base" not in capsys.readouterr().out


def test_a_full_disk_leaves_what_was_there(plain: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    assert run("merge", plain, tmp_path / "out") == 0
    before = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    assert run("merge", plain, tmp_path / "out", "--force") == 1 and "No space left" in capsys.readouterr().err
    assert {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()} == before and not (tmp_path / ".out.part").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("merge", "adapter"), "takes ADAPTER and OUT_DIR, or neither"),
        (("gguf", "model"), "takes MODEL and OUT_FILE, or neither"),
        (("merge", "--base", "x"), "--base belongs to `gwen25 merge ADAPTER OUT_DIR`"),
        (("gguf", "--type", "f16"), "--type belongs to"),
        (("ollama", "--num-ctx", "512"), "--num-ctx belongs to"),
        (("ollama", "--smoke", "report"), "--smoke belongs to"),
        (("merge", "a", "b", "--set", "merge.dtype=float32"), "--set is for the node"),
    ],
)
def test_the_two_meanings_of_a_command_are_not_mixed(arguments: tuple[str, ...], words: str, capsys: Any) -> None:
    assert run(*arguments) == 2 and words in capsys.readouterr().err


def test_without_files_a_command_is_the_flows_node(capsys: Any) -> None:
    for stage in ("merge", "gguf", "ollama"):
        assert run(stage, "--profile", "smoke") == 2
        assert "which the store does not hold for this config" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------------------- gguf


def test_the_types_are_those_of_the_config() -> None:
    offered = next(action for action in _options("gguf") if action.dest == "type").choices
    assert tuple(offered) == get_args(config.GgufType)
    assert set(next(action for action in _options("merge") if action.dest == "dtype").choices) == set(get_args(config.Dtype))


def _options(command: str) -> list[Any]:
    commands = next(action for action in cli._parser()._actions if action.dest == "command")
    actions: list[Any] = commands.choices[command]._actions  # type: ignore[index, call-overload]
    return actions


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A Llama-shaped checkpoint of the same sizes."""
    from safetensors.numpy import load_file, save_file

    folder = Path(shutil.copytree(tiny_model, tmp_path_factory.mktemp("llama") / "llama"))
    held = {name: tensor for name, tensor in load_file(folder / "model.safetensors").items() if not name.endswith(".bias")}
    save_file(held, folder / "model.safetensors")
    edit(folder / "config.json", architectures=["LlamaForCausalLM"], model_type="llama")
    return folder


@pytest.mark.parametrize("type", ["f16", "q8_0"])
@pytest.mark.parametrize("shape", ["qwen2", "llama"])
def test_a_checkpoint_becomes_a_file_that_llama_cpp_reads(
    type: str, shape: str, tiny_model: Path, llama: Path, tmp_path: Path, capsys: Any
) -> None:
    source = {"qwen2": tiny_model, "llama": llama}[shape]
    assert run("gguf", source, tmp_path / "m.gguf", "--type", type) == 0
    assert "token ids agree in llama.cpp" in capsys.readouterr().out
    fields = read_header(tmp_path / "m.gguf").fields
    assert fields["general.architecture"] == shape and str(tmp_path) not in str(fields["general.name"])
    own = json.loads((source / "tokenizer_config.json").read_text())["chat_template"]
    assert fields["tokenizer.chat_template"] == own != FORMAT.jinja


def test_a_merge_of_the_store_is_proved_in_its_format(tiny_model: Path, tmp_path: Path, capsys: Any) -> None:
    store = Store.default()
    work = store.work("merge", "a" * 32)
    work.mkdir(parents=True)
    shutil.copytree(tiny_model, work / "payload")
    modeling.save_tokenizer(modeling.load_tokenizer(tiny_model, FORMAT), work / "payload")
    tokenizer = modeling.load_tokenizer(tiny_model, FORMAT)
    edit(work / "payload" / "config.json", eos_token_id=tokenizer.eos_token_id)
    edit(work / "payload" / "generation_config.json", eos_token_id=modeling.stop_ids(tokenizer, FORMAT))
    facts = {"base_model": {"id": "me/base"}, "license": "MIT", "chat_format": {"name": FORMAT.name, "digest": FORMAT.digest}}
    artifact = store.publish(Made("merge", 1, "a" * 32, {}, {}, {}, facts, {}, {"seconds": 1.0}))
    for number, name in enumerate(("merge:aaa", artifact.path, artifact.payload)):
        assert run("gguf", name, tmp_path / f"{number}.gguf") == 0
        assert "prompts and token ids agree in gguf, transformers" in capsys.readouterr().out
        parity.require(parity.beside(tmp_path / f"{number}.gguf"), tmp_path / f"{number}.gguf", FORMAT)
    fields = read_header(tmp_path / "0.gguf").fields
    assert fields["tokenizer.chat_template"] == FORMAT.jinja and fields["general.license"] == "MIT"


def test_a_proof_comes_by_way_of_the_scratch_folder_and_goes_with_its_file(
    tiny_model: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    merged, out, written = in_format(tiny_model, tmp_path / "merged"), tmp_path / "m.gguf", list[Path]()

    def full(file: Path, value: Any) -> None:
        written.append(file)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(parity, "write_json", full)
        assert run("gguf", merged, out) == 1 and "No space left" in capsys.readouterr().err
    assert [file.parent.name for file in written] == [".m.gguf.part"], "where a killed run's file is cleared by the next"
    assert {path.name for path in tmp_path.iterdir()} - {"home"} == {"merged"}, "no file without its proof"
    assert run("gguf", merged, out) == 0
    parity.require(parity.beside(out), out, FORMAT)
    assert run("gguf", tiny_model, out, "--force") == 0
    assert not parity.beside(out).exists(), "the proof of the file that was replaced"


def test_another_form_is_told_who_makes_the_right_one(plain: Path, tiny_model: Path, stock: Path, tmp_path: Path, capsys: Any) -> None:
    for arguments, words in (
        (("gguf", plain, tmp_path / "m.gguf"), f"is an adapter; `gwen25 merge {plain} OUT_DIR` makes a model of it"),
        (("gguf", stock, tmp_path / "m.gguf"), "is a GGUF file; a model directory is expected"),
        (("gguf", tiny_model, tmp_path / "m.bin"), "ends in .gguf"),
        (("gguf", tmp_path / "nothing", tmp_path / "m.gguf"), "no such file or directory"),
        (("gguf", "nothing", tmp_path / "m.gguf"), "is no path, alias"),
        (("merge", tiny_model, tmp_path / "out"), "is a whole model, no adapter"),
        (("merge", stock, tmp_path / "out"), "is a GGUF file; an adapter directory"),
        (("ollama", tiny_model, "coder"), f"`gwen25 gguf {tiny_model} FILE.gguf` makes it"),
        (("ollama", plain, "coder"), "makes a model of it, and `gwen25 gguf OUT_DIR FILE.gguf` the file"),
        (("ollama", tmp_path / "no.gguf", "coder"), "no such file"),
    ):
        assert run(*arguments) == 2
        assert words in capsys.readouterr().err, arguments
    assert not list(tmp_path.glob("*.gguf")) and not (tmp_path / "out").exists()


def test_a_gguf_whose_tokens_differ_is_not_written(tiny_model: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    from gwen25.llamacpp import LlamaCpp

    tokenize = LlamaCpp.tokenize  # asked all the same: a server that is ended before its first request may never end
    monkeypatch.setattr(LlamaCpp, "tokenize", lambda self, text: [*tokenize(self, text), 1])
    assert run("gguf", tiny_model, tmp_path / "m.gguf") == 1 and "otherwise than the checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "m.gguf").exists() and not list(tmp_path.glob(".*"))


# -------------------------------------------------------------------------------------------------------------------- ollama


@pytest.fixture
def server(monkeypatch: Any) -> Iterator[FakeOllama]:
    with FakeOllama() as running:
        monkeypatch.setenv("OLLAMA_HOST", running.url)
        yield running


def test_a_file_in_our_format_gets_its_template_and_is_proved(ours: Path, server: FakeOllama, capsys: Any) -> None:
    assert run("ollama", ours, "coder", "--num-ctx", 512, "--temperature", 0.2) == 0
    made = server.models["coder:latest"]
    assert made["template"] == FORMAT.ollama and made["parameters"]["num_ctx"] == 512 and made["parameters"]["temperature"] == 0.2
    assert made["parameters"]["stop"] == list(FORMAT.stop) and "prompts held against chatml-think" in capsys.readouterr().out
    assert set(server.models) == {"coder:latest"}


def test_the_name_moves_only_where_the_smoke_prompts_hold_or_are_to_be_told_only(ours: Path, server: FakeOllama, capsys: Any) -> None:
    server.faults = {"crashes"}
    assert run("ollama", ours, "coder", "--num-ctx", 512) == 2
    told = capsys.readouterr().err
    assert "coder fails its smoke prompts (sum: its program ended in error" in told and "--smoke report" in told
    assert not server.models, "no name, and no staging tag"
    assert run("ollama", ours, "coder", "--num-ctx", 512, "--smoke", "report", "--smoke-tokens", 16) == 0
    shown = capsys.readouterr()
    assert "of 3 answers 3 ended by themselves, 0 hold a program that runs" in shown.out and "made all the same" in shown.err
    assert set(server.models) == {"coder:latest"} and {chat["options"]["num_predict"] for chat in server.chats[-3:]} == {16}


def test_an_upload_tells_its_progress_on_a_terminal(ours: Path, server: FakeOllama, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    size = f"{ours.stat().st_size / 1e6:,.0f}"
    assert run("ollama", ours, "coder") == 0 and f"\rsent {size} of {size} MB\n" in capsys.readouterr().err


def test_what_is_for_a_server_is_refused_where_none_is_asked(ours: Path, tmp_path: Path, capsys: Any) -> None:
    assert run("ollama", ours, "coder", "--out", tmp_path / "p", "--smoke", "report") == 2 and "--out" in capsys.readouterr().err
    assert run("ollama", ours, "coder", "--smoke-tokens", 0) == 2 and "at least 1" in capsys.readouterr().err
    assert not (tmp_path / "p").exists()


def test_a_file_in_our_format_without_a_proof_of_its_own_is_refused(ours: Path, server: FakeOllama, tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(ours.read_bytes() + b"\0")
    assert run("ollama", file, "coder") == 2 and "`gwen25 gguf`" in capsys.readouterr().err
    shutil.copyfile(parity.beside(ours), parity.beside(file))
    assert run("ollama", file, "coder") == 2 and "proves another file than m.gguf" in capsys.readouterr().err
    assert not server.models and not server.blobs


def test_a_template_of_others_is_refused_until_that_is_wanted(stock: Path, server: FakeOllama, capsys: Any) -> None:
    assert run("ollama", stock, "coder") == 2 and "--own-template" in capsys.readouterr().err
    assert not server.models and not server.blobs


def test_with_its_own_template_the_servers_prompts_are_held_against_the_files(stock: Path, server: FakeOllama, capsys: Any) -> None:
    pytest.importorskip("xllamacpp")
    from gwen25.llamacpp import LlamaCpp

    with LlamaCpp(stock, n_ctx=512) as model:
        server.render = model.render
        assert run("ollama", stock, "coder", "--own-template") == 0
        assert set(server.models) == {"coder:latest"} and "3 prompts held against the file's own template" in capsys.readouterr().out
        assert run("ollama", stock, "coder", "--own-template", "--system", "You are terse.") == 0
        server.render = FORMAT.render  # a server that takes a near match of its own list
        assert run("ollama", stock, "other", "--own-template") == 2
    assert set(server.models) == {"coder:latest"} and "another prompt for other than the file's own template" in capsys.readouterr().err


def _number(key: str, kind: int, value: bytes) -> Spoil:
    """Another kind and value behind a key that holds four bytes."""

    def spoil(data: bytes) -> bytes:
        at = data.index(key.encode()) + len(key)
        return data[:at] + struct.pack("<I", kind) + value + data[at + 8 :]

    return spoil


FOREIGN: dict[str, tuple[Spoil, str]] = {
    "no end token": (lambda data: data.replace(b"eos_token_id", b"eos_token_iX"), "lacks tokenizer.ggml.eos_token_id"),
    "no tokens": (lambda data: data.replace(b"tokenizer.ggml.tokens", b"tokenizer.ggml.tokenX"), "lacks tokenizer.ggml.tokens"),
    "an end beyond the tokens": (_number("ggml.eos_token_id", 4, struct.pack("<I", 10**6)), "eos_token_id = 1000000) is none of its"),
    "an end before the tokens": (_number("ggml.eos_token_id", 5, struct.pack("<i", -1)), "eos_token_id = -1) is none of its"),
    "an end in words": (_number("ggml.eos_token_id", 8, struct.pack("<Q", 3) + b"end"), "eos_token_id = 'end') is none of its"),
    "a context in words": (_number("qwen2.context_length", 8, struct.pack("<Q", 2) + b"2k"), "= '2k' is no number of tokens"),
    "a context of nothing": (_number("qwen2.context_length", 4, struct.pack("<I", 0)), "context_length = 0 is no number of tokens"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_file_whose_header_does_not_hold_is_told(name: str, stock: Path, server: FakeOllama, tmp_path: Path, capsys: Any) -> None:
    spoil, words = FOREIGN[name]
    file = tmp_path / "m.gguf"
    file.write_bytes(spoil(stock.read_bytes()))
    assert run("ollama", file, "coder", "--own-template") == 2
    shown = capsys.readouterr().err
    assert words in shown and "Traceback" not in shown and len(shown.strip().splitlines()) == 1
    assert not server.models and not server.blobs


def test_a_name_whose_programs_were_not_run_is_moved_only_where_that_is_asked(
    ours: Path, server: FakeOllama, monkeypatch: Any, capsys: Any
) -> None:
    def none(*_: object, **__: object) -> None:
        raise SandboxUnavailable("no adequate isolation on this machine")

    monkeypatch.setattr(sandbox, "grade", none)
    assert run("ollama", ours, "coder", "--num-ctx", 512) == 2
    shown = capsys.readouterr().err.strip().splitlines()[-1]
    assert "the sandbox gave no verdict on the programs of coder (sum, backwards, double)" in shown and "`--smoke report`" in shown
    assert not server.models
    assert run("ollama", ours, "coder", "--num-ctx", 512, "--smoke", "report") == 0
    assert "whether their programs run is not known" in capsys.readouterr().out and set(server.models) == {"coder:latest"}


@pytest.fixture
def unseen(monkeypatch: Any) -> None:
    """No llama.cpp: what the file's own template writes is not known."""
    monkeypatch.setattr(llamacpp, "can_load", lambda: False)


OWN_AT_THE_SERVER = {
    "loses the system": "shows another system for coder than was sent: 'You are Qwen.'",
    "loses the license": "shows another license for coder than was sent: ''",
    "loses a stop": "shows stop = [] for coder",
    "never stops": "shows <|endoftext|> in its answer: the server does not stop at it",
    "babbles": "coder fails its smoke prompts (sum: it was cut off",
    "draws another answer": "coder fails its smoke prompts (sum: it hands in no program",
    "crashes": "coder fails its smoke prompts (sum: its program ended in error",
    "create fails": "failed to validate GGUF",
}


@pytest.mark.parametrize("fault", OWN_AT_THE_SERVER)
def test_with_its_own_template_the_name_moves_no_sooner(fault: str, licensed: Path, server: FakeOllama, unseen: None, capsys: Any) -> None:
    server.models["coder:latest"] = earlier = {"model": "coder", "template": "t", "system": "earlier", "parameters": {}}
    server.faults, server.end = {fault}, "<|endoftext|>"
    assert run("ollama", licensed, "coder", "--own-template", "--system", "S") == 2
    assert OWN_AT_THE_SERVER[fault] in capsys.readouterr().err
    assert server.models == {"coder:latest": earlier}, "untouched, and no staging tag beside it"


def test_with_its_own_template_leftovers_go_and_stops_of_the_servers_stay(
    licensed: Path, server: FakeOllama, unseen: None, capsys: Any
) -> None:
    left = {"model": "coder", "template": "t", "parameters": {}}
    server.models |= {staging_name("coder", "of a killed run"): left, staging_name("other", "x"): left}
    server.faults = {"brings stops"}
    assert run("ollama", licensed, "coder", "--own-template") == 0
    assert set(server.models) == {"coder:latest", staging_name("other", "x")}
    shown = capsys.readouterr()
    assert "no prompt held against the file's own template; of 3 answers 3 ended by themselves, 3 hold a program" in shown.out
    assert "which template the server takes is not looked at" in shown.err and server.models["coder:latest"]["license"] == "MIT"


def test_without_a_server_a_package_is_written(ours: Path, stock: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "http://127.0.0.1:1")
    assert run("ollama", ours, "coder") == 1 and "--out DIR writes a package" in capsys.readouterr().err
    assert run("ollama", ours, "coder", "--out", tmp_path / "package") == 0
    text = (tmp_path / "package" / "Modelfile").read_text()
    assert text.startswith(f"FROM ./{ours.name}\n") and FORMAT.ollama in text and 'PARAMETER stop "<|im_end|>"' in text
    assert (tmp_path / "package" / "parity.json").read_bytes() == parity.beside(ours).read_bytes()
    assert (tmp_path / "package" / ours.name).read_bytes() == ours.read_bytes()
    assert run("ollama", stock, "coder", "--out", tmp_path / "own", "--own-template") == 0
    text = (tmp_path / "own" / "Modelfile").read_text()
    assert "TEMPLATE" not in text and "SYSTEM" not in text and "PARAMETER num_ctx 2048" in text
    assert "is not known before it has the model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--num-ctx", 10**6), "the model's context of 2048"),
        (("--num-ctx", 1), "between 16 and"),
        (("--system", 'say """'), "a Modelfile cannot hold"),
    ],
)
def test_values_that_ollama_would_take_and_serve_wrongly_are_refused(
    options: tuple[object, ...], words: str, ours: Path, server: FakeOllama, capsys: Any
) -> None:
    assert run("ollama", ours, "coder", *options) == 2 and words in capsys.readouterr().err and not server.blobs
