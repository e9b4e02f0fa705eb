"""Base models on disk, tokenizers in their format, adapters as files."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from gwen25 import modeling, models
from gwen25.chat import FORMATS
from gwen25.errors import BadInput, Unavailable
from gwen25.grpo_trainer import lora_as
from gwen25.job import Job
from gwen25.samples import tiny
from tests.pipelines import training_jobs as jobs

FORMAT = FORMATS["chatml-think"]


def test_inspect_tells_what_a_checkpoint_is(tiny_model: Path) -> None:
    assert models.inspect(tiny_model) == models.Checkpoint("Qwen2ForCausalLM", 2048, "float32", 704, True, None)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda folder: shutil.rmtree(folder), "no such model directory"),
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json cannot be read"),
        (lambda folder: (folder / "config.json").write_text("[]"), "a JSON object is expected"),
        (
            lambda folder: _config(folder, architectures=["MistralForCausalLM"]),
            "MistralForCausalLM; supported: LlamaForCausalLM, Qwen2ForCausalLM",
        ),
        (lambda folder: _config(folder, architectures=None), "none named; supported"),
        (lambda folder: _config(folder, max_position_embeddings=None), "must be whole numbers"),
        (lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"), r"no weights \(\*.safetensors\)"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer.json"),
    ],
)
def test_inspect_refuses_what_cannot_be_trained(tmp_path: Path, spoil, told: str) -> None:
    tiny.build(tmp_path / "base")
    spoil(tmp_path / "base")
    with pytest.raises(BadInput, match=told):
        models.inspect(tmp_path / "base")


def _config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def test_headers_give_the_shapes_and_tell_a_cut_off_file(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    tiny.build(tmp_path)
    file = tmp_path / "model.safetensors"
    assert models.tensor_shapes(tmp_path) == {name: tensor.shape for name, tensor in load_file(file).items()}
    whole = file.read_bytes()
    for cut in (4, 100, len(whole) - 1):
        file.write_bytes(whole[:cut])
        with pytest.raises(BadInput, match="not a whole safetensors file"):
            models.tensor_shapes(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00001-of-00002.safetensors"}}')
    with pytest.raises(BadInput, match="names files that are not there: model-00001"):
        models.tensor_shapes(tmp_path)


def test_licences_come_from_the_table_then_the_card_then_are_unknown(tmp_path: Path) -> None:
    assert models.licence({"id": "Qwen/Qwen2.5-3B", "revision": "x"}, tmp_path) == "Qwen Research"
    assert models.licence({"id": "Qwen/Qwen2.5-7B", "revision": "x"}, tmp_path) == "Apache-2.0"
    assert models.licence({"id": "me/mine", "revision": "x"}, tmp_path) is None
    (tmp_path / "README.md").write_text("---\nlicense: other\nlicense_name: qwen-research\n---\nlicense: not this one\n")
    assert models.licence({"digest": "d"}, tmp_path) == "qwen-research"
    (tmp_path / "README.md").write_text("license: mit\n")  # prose, not front matter
    assert models.licence({"digest": "d"}, tmp_path) is None


def test_the_model_table_is_without_torch() -> None:
    rooms = [
        "models",
        "modeling",
        "training",
        "plots",
        *(f"pipelines.{name}" for name in ("sft", "grpo", "adapters", "merge", "hyperparams")),
    ]
    heavy = {"torch", "transformers", "trl", "peft", "datasets", "matplotlib"}
    code = f"import sys, {', '.join(f'gwen25.{room}' for room in rooms)}; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_tokenizer_takes_the_format_whatever_the_base_ships(tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    shipped = AutoTokenizer.from_pretrained(tiny_model)
    assert shipped.eos_token == "<|endoftext|>" and shipped.chat_template != FORMAT.jinja  # the traps are there
    tokenizer = modeling.load_tokenizer(tiny_model, FORMAT)
    assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.chat_template) == ("<|im_end|>", "<|endoftext|>", FORMAT.jinja)
    assert tokenizer.convert_ids_to_tokens(modeling.stop_ids(tokenizer, FORMAT)) == ["<|im_end|>", "<|endoftext|>"]


def test_a_tokenizer_that_lacks_the_tokens_is_refused(tmp_path: Path) -> None:
    tiny.build(tmp_path)
    text = (tmp_path / "tokenizer.json").read_text()
    (tmp_path / "tokenizer.json").write_text(text.replace("<|im_end|>", "<|im_fin|>"))
    settings = tmp_path / "tokenizer_config.json"
    settings.write_text(settings.read_text().replace("<|im_end|>", "<|im_fin|>"))
    with pytest.raises(BadInput, match=r"lacks <\|im_end\|>"):
        modeling.load_tokenizer(tmp_path, FORMAT)


def test_what_is_saved_has_the_same_bytes_wherever_it_was_loaded_from(tmp_path: Path) -> None:
    for name in ("a", "b"):
        tiny.build(tmp_path / name)
        modeling.save_tokenizer(modeling.load_tokenizer(tmp_path / name, FORMAT), tmp_path / f"{name}-saved")
    assert jobs.files(tmp_path / "a-saved") == jobs.files(tmp_path / "b-saved")
    assert modeling.load_tokenizer(tmp_path / "a-saved", FORMAT).get_vocab() == modeling.load_tokenizer(tmp_path / "a", FORMAT).get_vocab()


def test_the_base_stops_at_both_tokens_and_has_no_limit_of_its_own(tiny_model: Path) -> None:
    import torch

    tokenizer = modeling.load_tokenizer(tiny_model, FORMAT)
    model = modeling.load_base(tiny_model, tokenizer, FORMAT, dtype="bfloat16")
    assert model.dtype == torch.bfloat16 and model.config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.eos_token_id == modeling.stop_ids(tokenizer, FORMAT)
    assert model.generation_config.max_new_tokens is None  # the base ships 2048


def test_sampling_in_sixteen_bits_multiplies_one_matrix(tiny_model: Path) -> None:
    """The hidden states that `generate` hands to the head are a slice of the prompts': torch would copy a frozen head once a prompt."""
    import torch

    tokenizer = modeling.load_tokenizer(tiny_model, FORMAT)
    model = modeling.load_base(tiny_model, tokenizer, FORMAT, dtype="bfloat16").requires_grad_(False)
    states = torch.randn(4, 9, model.config.hidden_size, dtype=torch.bfloat16)[:, -1:, :]
    head = model.get_output_embeddings()
    with torch.no_grad(), torch.profiler.profile() as found:
        logits = head(states)
    assert not states.is_contiguous() and "aten::bmm" not in {event.name for event in found.events()}
    torch.testing.assert_close(logits, states @ head.weight.T)


@pytest.mark.parametrize("load_in_4bit", [False, True], ids=["16bit", "4bit"])
def test_grpo_samples_with_the_bits_that_its_loss_is_computed_with(tmp_path: Path, tiny_model: Path, load_in_4bit: bool) -> None:
    """The loss is computed under autocast, TRL's sampling is not."""
    import torch

    made = jobs.trained_adapter(tmp_path / "adapter", tiny_model)
    tokenizer = modeling.load_tokenizer(tiny_model, FORMAT)
    base = modeling.load_base(tiny_model, tokenizer, FORMAT, dtype="bfloat16", load_in_4bit=load_in_4bit)
    model = modeling.load_adapter(base, made.payload, trainable=True)
    own = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    hooks = [parameter.view_as(parameter).grad_fn.next_functions[0][0] for parameter in own.values()]  # where DDP hangs its own
    ids = tokenizer(["print the sum", "print the first"], return_tensors="pt", padding=True)
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(**ids).logits
        with model.disable_adapter():
            bare = model(**ids).logits
        with lora_as(model, torch.bfloat16):
            sampling = model(**ids).logits
            assert not any(parameter.dtype == torch.float32 for name, parameter in model.named_parameters() if "lora_" in name)
        alone = model(**ids).logits
        with lora_as(model, None):
            unchanged = model(**ids).logits
        model.peft_config["default"].use_dora = True  # DoRA's norms are computed with the matrices too
        with lora_as(model, torch.bfloat16):
            assert all(parameter.dtype == torch.float32 for name, parameter in model.named_parameters() if "lora_" in name)
    assert not torch.equal(alone, loss), "or there would be nothing to do"
    assert torch.equal(sampling, loss) and not torch.equal(sampling, bare) and torch.equal(alone, unchanged)
    now = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert list(now) == list(own) and all(now[name] is own[name] for name in own)
    assert [parameter.view_as(parameter).grad_fn.next_functions[0][0] for parameter in now.values()] == hooks


def test_nf4_weights_train_lora_in_float32(tmp_path: Path, tiny_model: Path) -> None:
    """QLoRA on a CPU; TRL alone would leave the LoRA matrices in bfloat16."""
    import torch

    from gwen25.pipelines import sft

    section = jobs.config(sft__load_in_4bit=True, sft__max_steps=2).sft
    data = jobs.dataset(tmp_path / "data", rows=8, heldout=0)
    job = jobs.job("sft", tmp_path / "work", section, tiny_model, {"dataset": data}, micro_batch=4)
    sft.run(job)
    tensors = modeling.read_adapter(job.payload)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    assert any(bool(tensor.any()) for name, tensor in tensors.items() if "lora_B" in name)


def test_an_adapter_survives_the_disk_and_is_trainable_only_when_asked(tmp_path: Path, tiny_model: Path) -> None:
    made = jobs.trained_adapter(tmp_path / "adapter", tiny_model)
    tokenizer = modeling.load_tokenizer(tiny_model, FORMAT)
    model = modeling.load_adapter(modeling.load_base(tiny_model, tokenizer, FORMAT, dtype="float32"), made.payload, trainable=True)
    state, stored = modeling.adapter_state(model), modeling.read_adapter(made.payload)
    assert state.keys() == stored.keys() and all(state[name].equal(stored[name]) for name in state)
    assert modeling.require_trainable(model) == sum(tensor.numel() for tensor in stored.values())
    frozen = modeling.load_adapter(modeling.load_base(tiny_model, tokenizer, FORMAT, dtype="float32"), made.payload)
    with pytest.raises(RuntimeError, match="no parameter of the adapter is trainable"):
        modeling.require_trainable(frozen)
    with pytest.raises(BadInput, match=r"no adapter_config.json"):
        modeling.load_adapter(frozen, tmp_path)


def test_a_hub_that_is_away_is_unavailable_and_not_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    pinned = {"base_model": {"id": "Qwen/Qwen2.5-3B", "revision": "0" * 40}}
    made = replace(jobs.job("merge", tmp_path / "work", jobs.config().merge, tmp_path, {}), externals=pinned, locations={})
    with pytest.raises(Unavailable, match=r"Qwen2.5-3B' at revision 000000000000 could not be fetched") as caught:
        modeling.base_dir(made)
    assert "\n" not in str(caught.value)


def test_cuda_is_asked_for_by_name(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    made = jobs.job("merge", tmp_path / "work", jobs.config().merge, tmp_path, {})
    with pytest.raises(BadInput, match=r"runtime.device=cuda, but torch finds no GPU"):
        modeling.prepare(replace(made, runtime=made.runtime.model_copy(update={"device": "cuda"})))


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deterministic: None) -> Callable[..., Job]:
    """A machine that seems to have a GPU of some compute capability; jobs for it, by stage and dtype."""
    import torch

    def job(stage: str, dtype: str, capability: tuple[int, int]) -> Job:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "set_device", lambda rank: None)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda rank: capability)
        section = getattr(jobs.config(**{f"{stage}__dtype": dtype}), stage)
        made = jobs.job(stage, tmp_path / "work", section, tmp_path, {})
        return replace(made, runtime=made.runtime.model_copy(update={"device": "cuda"}))

    return job


def test_on_cuda_torch_is_deterministic_where_it_can_be(gpu: Callable[..., Job]) -> None:
    import torch

    torch.backends.cudnn.benchmark = True
    assert modeling.prepare(gpu("sft", "bfloat16", (8, 0))) == "cuda:0"
    assert torch.is_deterministic_algorithms_warn_only_enabled() and not torch.backends.cudnn.benchmark


@pytest.mark.parametrize("stage", ["sft", "grpo", "merge"])
def test_bfloat16_needs_ampere(gpu: Callable[..., Job], stage: str) -> None:
    with pytest.raises(BadInput, match=rf"{stage}.dtype=bfloat16, but .* 7\.5\) .* evaluate.dtype to float16, and sft.load_in_4bit=true"):
        modeling.prepare(gpu(stage, "bfloat16", (7, 5)))
    for dtype in ("float16", "float32"):
        assert modeling.prepare(gpu(stage, dtype, (7, 5))) == "cuda:0"


def test_an_adapter_that_does_not_take_its_numbers_is_an_error(tmp_path: Path, tiny_model: Path) -> None:
    import torch

    made = jobs.trained_adapter(tmp_path / "adapter", tiny_model)
    base = modeling.load_base(tiny_model, modeling.load_tokenizer(tiny_model, FORMAT), FORMAT, dtype="float32")
    model = modeling.load_adapter(base, made.payload, trainable=True)
    lora = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with torch.no_grad():
        lora[0].add_(1)
    modeling.restore_adapter(model, made.payload)
    assert modeling.adapter_state(model).popitem()[1].dtype == torch.float32
    for parameter in lora:
        parameter.data = parameter.data.bfloat16()
    with pytest.raises(RuntimeError, match="'default' does not hold the numbers"):
        modeling.restore_adapter(model, made.payload)
