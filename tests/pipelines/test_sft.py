"""SFT on the tiny model: what is trained, what is refused, and that no interruption changes the result."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from gwen25 import modeling, models, stop_rate, token_rows, training
from gwen25.config import SftConfig
from gwen25.errors import BadInput
from gwen25.job import Cancelled, Input, Job, terminating
from gwen25.pipelines import adapters, grpo, merge, sft
from gwen25.samples import tiny
from gwen25.stop_rate import Stops
from tests.pipelines import training_jobs as jobs

# 12 rows in batches of 8: two steps an epoch, the second of them smaller. Rank 64: matrices of 4096 numbers and more, since
# bitsandbytes keeps the state of smaller ones in 32 bits.
SIX_STEPS = {"sft__max_steps": 6, "sft__save_steps": 1, "sft__lora_r": 64, "sft__lora_alpha": 128}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Input:
    return jobs.dataset(tmp_path_factory.mktemp("dataset") / "a")


@pytest.fixture
def make(tmp_path: Path, tiny_model: Path, data: Input):
    def make(name: str = "work", micro_batch: int = 8, dataset: Input = data, **overrides: object) -> Job:
        section = jobs.config(**{**SIX_STEPS, **overrides}).sft
        return jobs.job("sft", tmp_path / name, section, tiny_model, {"dataset": dataset}, micro_batch=micro_batch)

    return make


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, data: Input) -> tuple[Job, sft.Result]:
    """Six steps without an interruption."""
    section = jobs.config(**SIX_STEPS).sft
    job = jobs.job("sft", tmp_path_factory.mktemp("straight"), section, tiny_model, {"dataset": data}, micro_batch=8)
    return job, sft.run(job)


def test_loss_is_on_the_answer_and_its_end_token_only(make, tiny_model: Path, data: Input, tmp_path: Path) -> None:
    job = make()
    tokenizer = modeling.load_tokenizer(tiny_model, jobs.FORMAT)
    rows = sft.store(sft.tokens(data.payload / "train.jsonl", tokenizer, jobs.FORMAT, 512), tmp_path / "rows.arrow")
    trainer = sft.make_trainer(job, tiny_model, tokenizer, jobs.FORMAT, rows.dataset, "cpu")
    seen, trained = set(), 0
    for batch in trainer.get_train_dataloader():  # what the model is really given, collator and padding included
        for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
            real = ids[mask.bool()]
            answer = labels[labels != -100]
            prompt = real[: len(real) - len(answer)]
            assert (labels[: len(prompt)] == -100).all() and (labels[mask == 0] == -100).all()
            assert labels[len(prompt) : len(real)].tolist() == real[len(prompt) :].tolist()
            assert tokenizer.decode(prompt).endswith("<|im_start|>assistant\n<think>\n")
            text = tokenizer.decode(answer)
            assert text.endswith("\n```<|im_end|>") and text.count("<|im_end|>") == 1 and "</think>\n\n```python\n" in text
            assert jobs.FORMAT.parse(text).well_formed
            seen.add(tokenizer.decode(prompt))
            trained += len(answer)
    assert len(seen) == 12 and trained == rows.trained


def test_payload_is_a_portable_adapter(straight: tuple[Job, sft.Result], tiny_model: Path) -> None:
    job, _ = straight
    assert sorted(path.name for path in job.payload.iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "chat_template.jinja", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    for name, content in jobs.files(job.payload).items():
        assert str(tiny_model).encode() not in content and str(job.work).encode() not in content, name
    config = json.loads((job.payload / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == f"sha256:{jobs.BASE['digest']}"
    assert config["target_modules"] == sorted(models.LORA_TARGETS["Qwen2ForCausalLM"])
    assert (job.payload / "chat_template.jinja").read_text() == jobs.FORMAT.jinja
    assert not (job.aside / "rows-0").exists()
    assert (job.aside / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_it_learns_and_says_what_it_did(straight: tuple[Job, sft.Result]) -> None:
    job, result = straight
    losses = jobs.losses(job)
    assert len(losses) == 6 and losses[-1] < losses[0] - 1
    assert result.metrics["heldout_loss"] < result.metrics["heldout_loss_base"] - 1
    assert result.facts["sft"]["effective_batch_size"] == 8 and result.facts["sft"]["steps"] == 6
    assert result.facts["chat_format"] == {"name": jobs.FORMAT.name, "digest": jobs.FORMAT.digest}
    assert result.facts["dataset"]["license"] == "CC-BY-4.0" and result.facts["base_model"] == jobs.BASE
    assert "auto_hparams" not in result.facts
    json.dumps([result.facts, result.metrics], allow_nan=False)


def test_chat_tokens_are_trained_where_asked_and_an_interruption_changes_no_bit(
    make, tmp_path: Path, tiny_model: Path, monkeypatch
) -> None:
    from safetensors.torch import load_file

    ask = {"sft__trainable_chat_tokens": True, "sft__max_steps": 3, "sft__gradient_checkpointing": True}
    straight, job = make("straight", **ask), make("interrupted", **ask)
    result = sft.run(straight)
    tensors = modeling.read_adapter(straight.payload)
    rows = tensors[f"base_model.model.model.embed_tokens{token_rows.SUFFIX}"]
    before = load_file(tiny_model / "model.safetensors")["model.embed_tokens.weight"][[641, 642]]
    assert rows.shape == (2, 64) and ((rows - before).abs() > 1e-4).float().mean() > 0.9
    assert result.facts["sft"]["trainable_chat_tokens"] is True

    jobs.die(sft.run, job, 3, tmp_path / "faults", monkeypatch)
    jobs.go_on(sft.run, job, straight, result)


def test_a_head_of_its_own_is_trained_too(tmp_path: Path, data: Input) -> None:
    from safetensors.torch import load_file

    base = tmp_path / "untied"
    tiny.build(base, tie_word_embeddings=False)
    section = jobs.config(**{**SIX_STEPS, "sft__max_steps": 1, "sft__warmup_steps": 0, "sft__trainable_chat_tokens": True}).sft
    job = jobs.job("sft", tmp_path / "work", section, base, {"dataset": data}, micro_batch=8)
    sft.run(job)
    trained, before = modeling.read_adapter(job.payload), load_file(base / "model.safetensors")
    for matrix in ("model.embed_tokens", "lm_head"):
        moved = trained[f"base_model.model.{matrix}{token_rows.SUFFIX}"] - before[f"{matrix}.weight"][[641, 642]]
        assert (moved.abs() > 1e-4).float().mean() > 0.9, matrix


def test_what_the_base_knows_and_how_answers_end_is_told(
    make, straight: tuple[Job, sft.Result], capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_model: Path
) -> None:
    facts = straight[1].facts["chat_tokens"]  # of a base of random numbers
    assert facts["unused_rows"] == 59 and all(token["untrained"] for token in facts["embed_tokens"]["tokens"].values())
    job = make()
    tokenizer = modeling.load_tokenizer(tiny_model, jobs.FORMAT)
    sft.look_at_base(job, tiny_model, tokenizer, jobs.FORMAT)
    told = capsys.readouterr().out
    assert "warning: the base's rows of <|im_start|>, <|im_end|> lie where its 59 unused rows do" in told
    assert "sft.trainable_chat_tokens=true" in told
    sft.look_at_base(make("asked", sft__trainable_chat_tokens=True), tiny_model, tokenizer, jobs.FORMAT)
    assert "warning" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("stops", "told", "metrics"),
    [
        (Stops(20, 19, 3), "19 of 20 held-out answers end with <|im_end|>\n", {"stop_rate": 0.95, "stop_rate_answers": 20}),
        (Stops(20, 18, 0), "warning: 18 of 20 held-out answers end with <|im_end|>", {"stop_rate": 0.9, "stop_rate_answers": 20}),
        (Stops(0, 0, 4), "", {}),
    ],
)
def test_a_stop_rate_below_95_percent_warns(make, capsys, monkeypatch, stops: Stops, told: str, metrics: dict[str, object]) -> None:
    rooms = list[int]()
    monkeypatch.setattr(stop_rate, "measure", lambda *_, room, **__: rooms.append(room) or stops)
    model = SimpleNamespace(unwrap_model=lambda model: model)
    args = SimpleNamespace(per_device_train_batch_size=2)
    trainer = SimpleNamespace(is_fsdp_enabled=False, is_deepspeed_enabled=False, accelerator=model, model=None, args=args)
    assert sft._stops(trainer, make(), None, jobs.FORMAT, 2048) == metrics
    assert rooms == [2 * 512]  # as many sequences as training had at once, however many rows they hold
    out = capsys.readouterr().out
    assert told in out if told else out == ""


@pytest.mark.parametrize("died_before", [4, 5], ids=["within an epoch", "between epochs"])
def test_resuming_changes_no_bit(make, straight: tuple[Job, sft.Result], died_before: int, tmp_path: Path, monkeypatch) -> None:
    job = make()
    jobs.die(sft.run, job, died_before, tmp_path / "faults", monkeypatch)
    with (job.aside / "metrics.jsonl").open("a") as out:
        out.write('{"step": 99, "loss": 1.0}\n{"step": 1')  # logged, and half logged, after the last checkpoint
    jobs.go_on(sft.run, job, *straight)


def test_a_smaller_micro_batch_after_an_oom_gives_the_same_losses(
    make, straight: tuple[Job, sft.Result], tmp_path: Path, monkeypatch
) -> None:
    jobs.die(sft.run, make(micro_batch=8), 4, tmp_path / "faults", monkeypatch)
    job = make(micro_batch=4)
    result = sft.run(job)
    assert jobs.losses(job) == pytest.approx(jobs.losses(straight[0]), abs=1e-4)
    assert result.metrics["heldout_loss"] == pytest.approx(straight[1].metrics["heldout_loss"], abs=1e-4)
    assert result.facts == straight[1].facts


def test_sigterm_saves_stops_and_goes_on(make, straight: tuple[Job, sft.Result], monkeypatch) -> None:
    job = make(sft__save_steps=100)
    monkeypatch.setattr(Job, "progress", lambda self, step, total, **metrics: terminating.set() if step == 2 else None)
    try:
        with pytest.raises(Cancelled):
            sft.run(job)
    finally:
        terminating.clear()
    monkeypatch.undo()
    assert [folder.name for folder in (job.aside / "checkpoints").glob("checkpoint-*")] == ["checkpoint-3"]
    sft.run(job)
    assert jobs.files(job.payload) == jobs.files(straight[0].payload)


def test_a_death_after_the_last_step_trains_no_further(make, straight: tuple[Job, sft.Result], monkeypatch) -> None:
    job = make(sft__max_steps=3)  # ends within an epoch: a trainer that goes on would take a fourth step
    with monkeypatch.context() as patch:
        patch.setattr(sft, "_metrics", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            sft.run(job)
    sft.run(job)
    again = make("again", sft__max_steps=3)
    sft.run(again)
    assert jobs.files(job.payload) == jobs.files(again.payload)
    assert len(jobs.losses(job)) == 3


PACKED = {**SIX_STEPS, "sft__packing": True, "sft__max_steps": 4}


def laid(job: Job, file: Path, folder: Path, base: Path) -> tuple[sft.Rows, sft.Packed]:
    tokenizer = modeling.load_tokenizer(base, jobs.FORMAT)
    rows = sft.store(sft.tokens(file, tokenizer, jobs.FORMAT, 512), folder / "rows.arrow")
    return rows, sft.lay(job, rows)


def test_packed_rows_are_whole_with_their_labels(make, tiny_model: Path, data: Input, tmp_path: Path) -> None:
    job = make(**PACKED)
    rows, packed = laid(job, data.payload / "train.jsonl", tmp_path, tiny_model)
    found = []
    for sequence in packed.dataset:
        assert len(sequence["input_ids"]) == len(sequence["labels"]) == sum(sequence["seq_lengths"]) <= 512
        start = 0
        for length in sequence["seq_lengths"]:
            found.append((sequence["input_ids"][start : start + length], sequence["labels"][start : start + length]))
            start += length
    assert sorted(found) == sorted((row["input_ids"], row["labels"]) for row in rows.dataset) and len(packed.dataset) == 3
    assert packed.facts() == {"sequences": 3, "fill": round(rows.tokens / 3 / 512, 4), "sequences_a_step": 2, "rows_a_step": 8.0}


def test_packed_training_takes_the_steps_of_unpacked_training(make, monkeypatch) -> None:
    """All rows in every step, so that both train on the same rows: losses and adapters agree up to the rounding of sums."""
    import torch

    whole = {"sft__per_device_train_batch_size": 12, "sft__optim": "adamw_torch", "sft__max_steps": 4, "sft__max_grad_norm": 1e30}
    plain, packed = make("plain", 12, **whole), make("packed", 12, **whole, sft__packing=True)
    alone, together = sft.run(plain), sft.run(packed)
    assert jobs.losses(packed) == pytest.approx(jobs.losses(plain), abs=1e-4)
    assert together.metrics["heldout_loss"] == pytest.approx(alone.metrics["heldout_loss"], abs=1e-4)
    before, after = modeling.read_adapter(plain.payload), modeling.read_adapter(packed.payload)
    moved = torch.cat([tensor.flatten() for tensor in before.values()])
    assert (moved - torch.cat([after[name].flatten() for name in before])).norm() < 1e-2 * moved.norm()
    assert together.facts["sft"]["packing"]["rows_a_step"] == 12 and "packing" not in alone.facts["sft"]


def test_packing_resumed_after_a_death_changes_no_bit(make, tmp_path: Path, monkeypatch) -> None:
    straight, job = (make(name, **PACKED, sft__lora_dropout=0.1) for name in ("straight", "interrupted"))
    result = sft.run(straight)
    jobs.die(sft.run, job, 4, tmp_path / "faults", monkeypatch)  # within the second epoch: two steps an epoch
    jobs.go_on(sft.run, job, straight, result)


@pytest.mark.slow
def test_packing_at_a_smaller_micro_batch_gives_the_same_losses(make, tmp_path: Path) -> None:
    large, small = make("large", 8, **PACKED), make("small", 4, **PACKED)
    assert sft.run(small).facts == sft.run(large).facts
    assert jobs.losses(small) == pytest.approx(jobs.losses(large), abs=1e-4)


@pytest.mark.parametrize(
    ("micro", "rows", "sequences", "a_step", "world", "batch"),
    [
        (8, 70, 20, 2, 1, (2, 1, 1)),  # 3.5 rows a sequence: 8 rows a step are 2 sequences, at once
        (4, 70, 20, 2, 1, (1, 2, 1)),  # memory for 4 rows holds one sequence of as many
        (1, 70, 20, 2, 1, (1, 2, 1)),
        (8, 70, 20, 2, 2, (1, 1, 2)),
        (2, 20, 20, 8, 1, (2, 4, 1)),  # every row fills its sequence
    ],
)
def test_a_micro_batch_of_sequences_holds_the_rows_of_one(make, monkeypatch, micro, rows, sequences, a_step, world, batch) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(world))
    packed = sft.Packed(list(range(sequences)), rows, 0.9, a_step)
    assert sft.split(make(micro_batch=micro), packed) == training.Batch(*batch)


def test_sequences_that_processes_cannot_share_are_refused(make, monkeypatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        BadInput, match=r"sft.packing: 3 sequences of 512 tokens make a step of about 9.0 rows, and cannot be divided over 2"
    ):
        sft.split(make(), sft.Packed(list(range(10)), 30, 0.9, 3))


@pytest.mark.parametrize(("max_steps", "warmup"), [(-1, 8), (20, 5)])
def test_warm_up_stays_the_same_share_of_a_packed_run(make, max_steps: int, warmup: int) -> None:
    ask = {"sft__max_steps": max_steps, "sft__warmup_steps": 5, "sft__gradient_accumulation_steps": 5, "sft__num_train_epochs": 2}
    job = make(sft__per_device_train_batch_size=1, **ask)
    packed = sft.Packed(list(range(100)), 350, 0.9, 1)  # 140 steps of 5 rows, 200 of one sequence
    assert sft.replan(job, packed).config.warmup_steps == warmup


def test_auto_hparams_mean_rows_a_step_where_rows_are_packed(make, tmp_path: Path) -> None:
    many = jobs.dataset(tmp_path / "many", rows=120, heldout=0)
    job = make(dataset=many, micro_batch=2, sft__auto_hparams=True, sft__max_steps=1, sft__packing=True, sft__per_device_train_batch_size=2)
    told = sft.run(job).facts["sft"]
    assert told["effective_batch_size"] == 8 and told["packing"]["sequences_a_step"] == 2
    assert told["packing"]["rows_a_step"] == pytest.approx(8, abs=0.6)


def test_auto_hparams_are_applied_and_told(make, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    many = jobs.dataset(tmp_path / "many", rows=120, heldout=0)
    job = make(dataset=many, micro_batch=4, sft__auto_hparams=True, sft__max_steps=1, sft__per_device_train_batch_size=4)
    result = sft.run(job)
    said = capsys.readouterr().out
    assert result.facts["auto_hparams"]["changed"] == {
        "learning_rate": {"given": 0.005, "taken": 0.00417},
        "gradient_accumulation_steps": {"given": 1, "taken": 2},
    }
    assert result.facts["sft"]["effective_batch_size"] == 8 and result.facts["sft"]["learning_rate"] == 0.00417
    assert "auto_hparams: learning_rate" in said
    assert "heldout_loss" not in result.metrics  # nothing was held out: not measured, not zero


@pytest.mark.parametrize(
    ("micro", "accumulation", "max_steps", "rows", "effective", "warmup"),
    [
        (1, 2, -1, 101, 8, 5),
        (8, 1, -1, 136, 8, 5),
        (3, 1, -1, 136, 9, 5),  # 8 rows are no whole number of threes
        (1, 2, -1, 2000, 8, 50),
        (8, 1, 20, 1000, 8, 5),  # a tenth of 20 steps is less than what was given
        (8, 1, 100, 1000, 8, 10),
        (16, 1, -1, 2000, 16, 25),  # half as many steps as the rule reckons with
    ],
)
def test_auto_hparams_mean_rows_a_step_and_the_steps_of_this_run(
    micro: int, accumulation: int, max_steps: int, rows: int, effective: int, warmup: int
) -> None:
    sizes = {"per_device_train_batch_size": micro, "gradient_accumulation_steps": accumulation, "max_steps": max_steps}
    taken, reasons = sft.recommended(SftConfig.model_validate(sizes), rows)
    assert taken["gradient_accumulation_steps"] * micro == effective and taken["warmup_steps"] == warmup
    for name in ("gradient_accumulation_steps", "warmup_steps"):
        last = [reason for reason in reasons if reason.startswith(name)][-1]
        assert last.startswith(f"{name} {taken[name]}:"), "the last word on a value is the value taken"


def test_options_of_peft_and_trl_reach_them(make, tiny_model: Path, data: Input, tmp_path: Path) -> None:
    tokenizer = modeling.load_tokenizer(tiny_model, jobs.FORMAT)
    rows = sft.store(sft.tokens(data.payload / "train.jsonl", tokenizer, jobs.FORMAT, 512), tmp_path / "rows.arrow")

    def built(**asked: object) -> tuple[object, ...]:
        trainer = sft.make_trainer(make(**asked), tiny_model, tokenizer, jobs.FORMAT, rows.dataset, "cpu")
        lora = trainer.model.peft_config["default"]
        magnitudes = sum("lora_magnitude_vector" in name for name, _ in trainer.model.named_parameters())
        return lora.use_rslora, lora.use_dora, magnitudes, trainer.args.neftune_noise_alpha, trainer.padding_free

    assert built() == (False, False, 0, None, False)
    assert built(sft__use_rslora=True) == (True, False, 0, None, False)
    assert built(sft__use_dora=True) == (False, True, 14, None, False)
    assert built(sft__neftune_noise_alpha=5) == (False, False, 0, 5.0, False)


@pytest.mark.slow
def test_noise_magnitudes_and_scale_are_as_they_were_after_a_death(
    make, straight: tuple[Job, sft.Result], tmp_path: Path, monkeypatch
) -> None:
    ask = {"sft__neftune_noise_alpha": 5.0, "sft__use_dora": True, "sft__use_rslora": True, "sft__max_steps": 4, "sft__learning_rate": 1e-3}
    undisturbed, job = make("undisturbed", **ask), make("interrupted", **ask)
    result = sft.run(undisturbed)
    assert result.facts["sft"]["neftune_noise_alpha"] == 5.0 and "neftune_noise_alpha" not in straight[1].facts["sft"]
    assert jobs.losses(undisturbed)[0] != jobs.losses(straight[0])[0]  # B is zero still: nothing but the noise makes the difference
    jobs.die(sft.run, job, 3, tmp_path / "faults", monkeypatch)
    jobs.go_on(sft.run, job, undisturbed, result)


def test_noise_on_packed_rows_is_refused() -> None:
    with pytest.raises(BadInput, match=r"sft.neftune_noise_alpha needs sft.packing=false"):
        jobs.config(sft__packing=True, sft__neftune_noise_alpha=5)


def test_kernels_that_are_not_installed_are_refused_before_anything_is_read(make, monkeypatch) -> None:
    from transformers.utils import import_utils

    monkeypatch.setattr(import_utils, "is_kernels_available", lambda: False)
    with pytest.raises(BadInput, match=r"sft.use_kernels needs the package kernels: pip install 'kernels>=0"):
        sft.run(make(sft__use_kernels=True, dataset=Input("dataset", "k", "d", Path("/nowhere"), {}, {})))


@pytest.mark.slow  # four stages each
@pytest.mark.parametrize("option", ["use_rslora", "use_dora", "use_rslora and use_dora"])
def test_an_adapter_of_another_kind_goes_through_grpo_and_is_merged(
    make, tmp_path: Path, tiny_model: Path, data: Input, option: str
) -> None:
    from safetensors.torch import load_file

    options = option.split(" and ")
    job = make(**{"sft__max_steps": 2, "sft__lora_r": 8, **{f"sft__{name}": True for name in options}})
    facts = sft.run(job).facts
    assert all(facts["sft"][name] is True for name in options)
    started = jobs.artifact(job.work, "sft", facts)
    section = jobs.config(grpo__max_steps=2, grpo__max_completion_length=24, grpo__rewards=["format_exact", "format_approximate"]).grpo
    rewards = {"rewards": {"active": ["format_exact", "format_approximate"], "judge": None}}
    inputs = {"dataset": data, "sft": started}
    walked = jobs.job("grpo", tmp_path / "grpo", section.model_copy(update={"allow_format_only": True}), tiny_model, inputs, rewards, 8)
    moved = grpo.run(walked)
    trained = jobs.artifact(walked.work, "grpo", moved.facts)
    checked = jobs.job("adapters", tmp_path / "adapters", jobs.config().adapters, tiny_model, {"adapter": trained})
    sound = jobs.artifact(checked.work, "adapters", adapters.run(checked).facts)
    merged = jobs.job("merge", tmp_path / "merge", jobs.config(merge__dtype="float32").merge, tiny_model, {"adapter": sound})
    assert merge.run(merged).metrics["kl"] < 1e-9
    tokenizer = modeling.load_tokenizer(tiny_model, jobs.FORMAT)
    whole = modeling.load_adapter(modeling.load_base(tiny_model, tokenizer, jobs.FORMAT, dtype="float32"), sound.payload)
    config = whole.peft_config["default"]
    assert [config.use_rslora, config.use_dora] == ["use_rslora" in options, "use_dora" in options]
    theirs, mine = whole.merge_and_unload().state_dict(), load_file(merged.payload / "model.safetensors")
    assert all(mine[name].equal(theirs[name]) for name in mine)


@pytest.mark.parametrize("kind", ["is_fsdp_enabled", "is_deepspeed_enabled"])
def test_a_launcher_that_shards_the_model_is_refused(make, kind: str) -> None:
    trainer = SimpleNamespace(**{"is_fsdp_enabled": False, "is_deepspeed_enabled": False, kind: True})
    with pytest.raises(BadInput, match="sft: the launcher shards the model"):
        training.train(trainer, make())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"reasoning": "word " * 600}, r"line 2 \(row row-1\).*tokens, more than the 512 that fit"),
        ({"code": "print('<|im_end|>')"}, "line 2.*stop token"),
        ({"reasoning": None}, "line 2.*messages, reasoning and code"),
    ],
)
def test_rows_that_cannot_be_trained_on_are_named(tmp_path: Path, tiny_model: Path, change: dict[str, object], told: str) -> None:
    file = jobs.dataset(tmp_path / "data", rows=3, heldout=0).payload / "train.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[1] |= change
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = modeling.load_tokenizer(tiny_model, jobs.FORMAT)
    with pytest.raises(BadInput, match=told):
        list(sft.tokens(file, tokenizer, jobs.FORMAT, 512))


def test_the_seam_is_held_on_every_row(tmp_path: Path, shared_data: Path, tiny_model: Path) -> None:
    """In Qwen2.5's vocabulary `>` merges with the newlines after it: a target that begins with one is refused."""
    from dataclasses import replace

    from transformers import PreTrainedTokenizerFast

    class Loose(type(jobs.FORMAT)):  # the mistake: the answer keeps its leading newline
        def answer(self, reasoning: str, code: str) -> str:
            return "\n" + super().answer(reasoning, code)

    qwen = next((shared_data / "tokenizer").rglob("tokenizer.json*"))
    import gzip

    text = gzip.decompress(qwen.read_bytes()) if qwen.suffix == ".gz" else qwen.read_bytes()
    (tmp_path / "tokenizer.json").write_bytes(text)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    tokenizer.eos_token = jobs.FORMAT.eos
    file = jobs.dataset(tmp_path / "data", rows=3, heldout=0).payload / "train.jsonl"
    assert len(list(sft.tokens(file, tokenizer, jobs.FORMAT, 512))) == 3
    loose = Loose(**{field: getattr(jobs.FORMAT, field) for field in ("name", "jinja", "ollama", "eos", "pad", "stop")})
    with pytest.raises(BadInput, match=r"line 1 .*tokenise differently together"):
        list(sft.tokens(file, tokenizer, replace(loose), 512))


def test_an_empty_data_set_is_bad_input(make, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no rows to train on"):
        sft.run(make(dataset=jobs.dataset(tmp_path / "none", rows=0, heldout=0)))


def test_a_loss_that_is_not_a_number_ends_the_stage(make) -> None:
    with pytest.raises(BadInput, match=r"the loss is nan at step \d"):
        sft.run(
            make(sft__learning_rate=1.0, sft__warmup_steps=0, sft__max_grad_norm=1e30, sft__optim="adamw_torch", sft__weight_decay=1e30)
        )


@pytest.mark.slow  # two trainings of 12 steps
def test_a_base_that_does_not_know_the_end_token_learns_to_stop_sooner_where_its_row_is_trained(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    base = tmp_path / "base"
    tiny.build(base, pretrained=True)
    tensors = load_file(base / "model.safetensors")
    for token, unused in ((641, 650), (642, 660)):  # as if <|im_start|> and <|im_end|> had never been met
        tensors["model.embed_tokens.weight"][token] = tensors["model.embed_tokens.weight"][unused] * 1.01
    modeling.write_tensors(tensors, base / "model.safetensors")
    rows = jobs.dataset(tmp_path / "data", rows=24, heldout=6)
    made = {}
    for asked in (False, True):
        section = jobs.config(sft__max_steps=12, sft__save_steps=100, sft__trainable_chat_tokens=asked).sft
        made[asked] = sft.run(jobs.job("sft", tmp_path / str(asked), section, base, {"dataset": rows}, micro_batch=8))
        assert all(token["untrained"] for token in made[asked].facts["chat_tokens"]["embed_tokens"]["tokens"].values())
    # measured: 0.336 and 0.372; all of six answers end, none does
    assert made[True].metrics["heldout_loss"] < made[False].metrics["heldout_loss"] - 0.01
    assert made[True].metrics["stop_rate"] == 1.0 != made[False].metrics.get("stop_rate")


@pytest.mark.slow
def test_the_real_child_survives_sigkill(make, straight: tuple[Job, sft.Result], tmp_path: Path) -> None:
    job = make()
    faults = tmp_path / "faults"
    faults.mkdir()
    (faults / "sft-kill-4").touch()
    status, _ = jobs.run_child(job, faults)
    assert status == -9 and not (job.work / "result.json").exists()
    status, output = jobs.run_child(job, faults)
    assert status == 0, output
    assert "resuming after step 3 of 6" in output
    assert jobs.files(job.payload) == jobs.files(straight[0].payload)
    told = json.loads((job.work / "result.json").read_text())
    assert told["facts"] == straight[1].facts and told["metrics"] == straight[1].metrics


@pytest.mark.slow
def test_the_real_child_obeys_sigterm(make, straight: tuple[Job, sft.Result]) -> None:
    job = make(sft__save_steps=100)
    started = jobs.child(job)
    assert started.stdout is not None
    for line in started.stdout:
        if '"step": 2' in line:
            started.terminate()
            break
    output = started.stdout.read()
    assert started.wait(60) == 143, output
    assert json.loads((job.work / "failure.json").read_text())["cause"] == "cancelled"
    status, output = jobs.run_child(job)
    assert status == 0 and "resuming after step" in output
    assert jobs.files(job.payload) == jobs.files(straight[0].payload)


@pytest.mark.slow
def test_two_processes_train_on_the_same_batches(make, tmp_path: Path) -> None:
    even = jobs.dataset(tmp_path / "even", rows=16)  # two whole batches an epoch
    one, two = make("one", dataset=even), make("two", dataset=even)
    result = sft.run(one)
    status, output = jobs.run_child(two, processes=2)
    assert status == 0, output
    assert jobs.losses(two) == pytest.approx(jobs.losses(one), abs=1e-3)
    told = json.loads((two.work / "result.json").read_text())
    assert told["facts"] == result.facts
    assert told["metrics"]["heldout_loss"] == pytest.approx(result.metrics["heldout_loss"], abs=1e-3)


@pytest.mark.slow
def test_two_processes_train_on_the_same_packed_sequences(make, tmp_path: Path) -> None:
    even = jobs.dataset(tmp_path / "even", rows=16)
    ask = {**PACKED, "sft__checkpoint_choice": "heldout_loss", "sft__save_steps": 2}
    one, two = make("one", dataset=even, **ask), make("two", dataset=even, **ask)
    result = sft.run(one)
    assert result.facts["sft"]["packing"]["sequences_a_step"] == 2
    status, output = jobs.run_child(two, processes=2)
    assert status == 0, output
    assert jobs.losses(two) == pytest.approx(jobs.losses(one), abs=1e-3)
    told = json.loads((two.work / "result.json").read_text())["facts"]["sft"]
    assert told["packing"] == result.facts["sft"]["packing"]
    assert told["checkpoint"]["step"] == result.facts["sft"]["checkpoint"]["step"]
