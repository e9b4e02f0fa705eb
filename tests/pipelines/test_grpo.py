"""GRPO on the tiny model: it moves the adapter by rewards, no interruption changes the result, and bad input is named."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gwen25 import modeling, token_rows, training
from gwen25.config import load_config
from gwen25.data import read_jsonl
from gwen25.errors import BadInput, Unavailable
from gwen25.job import Input, Job, Result
from gwen25.pipelines import grpo, sft
from tests.conftest import REPOSITORY
from tests.pipelines import training_jobs as jobs

REWARDS = {"rewards": {"active": ["format_exact", "format_approximate", "execution"], "judge": None}}
# 4 prompts, two a step: the second pass over them begins with step 3
FIVE_STEPS = {
    "grpo__max_steps": 5,
    "grpo__save_steps": 1,
    "grpo__max_completion_length": 56,
    "grpo__rewards": ["format_exact", "format_approximate", "execution"],
    "grpo__log_completions_steps": 2,
}

Make = Callable[..., Job]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Input:
    return jobs.dataset(tmp_path_factory.mktemp("dataset") / "a", rows=4, heldout=0)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, data: Input) -> Input:
    """An SFT adapter that has half learned the format, so that some of a group's completions keep it and some do not."""
    section = jobs.config(sft__max_steps=24, sft__save_steps=100, sft__lora_r=32, sft__lora_alpha=64, sft__learning_rate=0.01).sft
    job = jobs.job("sft", tmp_path_factory.mktemp("sft"), section, tiny_model, {"dataset": data}, micro_batch=8)
    return jobs.artifact(job.work, "sft", sft.run(job).facts)


def _job(work: Path, base: Path, data: Input, adapter: Input, micro_batch: int = 8, **overrides: object) -> Job:
    section = jobs.config(**{**FIVE_STEPS, **overrides}).grpo
    return jobs.job("grpo", work, section, base, {"dataset": data, "sft": adapter}, REWARDS, micro_batch)


@pytest.fixture
def make(tmp_path: Path, tiny_model: Path, data: Input, adapter: Input) -> Make:
    def make(micro_batch: int = 8, dataset: Input = data, sft: Input = adapter, **overrides: object) -> Job:
        return _job(tmp_path / "work", tiny_model, dataset, sft, micro_batch, **overrides)

    return make


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, data: Input, adapter: Input) -> tuple[Job, Result]:
    """Five steps without an interruption."""
    job = _job(tmp_path_factory.mktemp("straight"), tiny_model, data, adapter)
    return job, grpo.run(job)


def test_it_trains_the_adapter_by_rewards(straight: tuple[Job, Result], adapter: Input) -> None:
    job, result = straight
    before, after = (modeling.read_adapter(folder) for folder in (adapter.payload, job.payload))
    assert before.keys() == after.keys()
    assert result.metrics["adapter_moved"] == grpo.distance(after, before) > 1e-4
    rows = [row for _, row in read_jsonl(job.aside / "metrics.jsonl")]
    assert any(row["frac_reward_zero_std"] < 1 for row in rows), "no group had a signal: this test would prove nothing"
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-6)  # the reference is the SFT policy itself
    assert rows[-1]["kl"] > 1e-4
    assert 0 < result.metrics["clipped_ratio"] < 1  # some completions end of themselves: the stop tokens work
    assert result.metrics["coverage"] == 1.0
    assert result.metrics["rewards/format_approximate"] > 0
    json.dumps([result.facts, result.metrics], allow_nan=False)


def test_chat_tokens_go_on_being_trained_and_the_reference_keeps_its_own(make: Make, tmp_path: Path, tiny_model: Path) -> None:
    start = jobs.trained_adapter(tmp_path / "sft", tiny_model, chat_tokens=True)
    job = make(sft=start, grpo__max_steps=2)
    trainers, build = [], grpo.make_trainer

    def remembered(*arguments: object) -> object:
        trainers.append(build(*arguments))
        return trainers[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grpo, "make_trainer", remembered)
        grpo.run(job)
    name = f"base_model.model.model.embed_tokens{token_rows.SUFFIX}"
    before, after = (modeling.read_adapter(folder)[name] for folder in (start.payload, job.payload))
    assert not before.equal(after)  # weight decay and the KL move them, whatever the rewards say
    assert modeling.adapter_state(trainers[0].model, "ref")[name].equal(before)
    assert next(read_jsonl(job.aside / "metrics.jsonl"))[1]["kl"] == pytest.approx(0, abs=1e-6)


def test_facts_carry_the_lineage_and_the_recipe(straight: tuple[Job, Result], adapter: Input) -> None:
    facts = straight[1].facts
    assert {name: facts[name] for name in adapter.facts} == dict(adapter.facts)
    assert facts["grpo"]["effective_batch_size"] == 8 and facts["grpo"]["steps"] == 5 and facts["grpo"]["prompts"] == 4
    assert facts["grpo"]["rewards"] == {"format_exact": 0.1, "format_approximate": 0.1, "execution": 1.0}


def test_payload_is_the_policy_alone(straight: tuple[Job, Result], adapter: Input, tiny_model: Path) -> None:
    job, _ = straight
    made = jobs.files(job.payload)
    assert made.keys() == jobs.files(adapter.payload).keys()  # no `ref` folder, no card, no training_args.bin
    for name, content in made.items():
        assert str(tiny_model).encode() not in content and str(job.work).encode() not in content, name
    assert made["adapter_config.json"] == jobs.files(adapter.payload)["adapter_config.json"]


def test_samples_show_whole_groups_with_each_reward(straight: tuple[Job, Result], data: Input) -> None:
    rows = [row for _, row in read_jsonl(straight[0].aside / "completions.jsonl")]
    assert [row["step"] for row in rows] == [1, 3, 5]
    ids = [row["id"] for _, row in read_jsonl(data.payload / "grpo.jsonl")]
    for row in rows:
        assert row["id"] in ids and row["prompt"].endswith("<|im_start|>assistant\n<think>\n")
        assert len(row["completions"]) == straight[0].config.num_generations
        totals = [0.1 * one["rewards"]["format_exact"] + 0.1 * one["rewards"]["format_approximate"] for one in row["completions"]]
        advantages = [one["advantage"] for one in row["completions"]]
        assert sum(advantages) == pytest.approx(0, abs=1e-4)
        for one in row["completions"]:
            assert one["rewards"].keys() == {"format_exact", "format_approximate", "execution"} and one["completion"]
            assert not any(stop in one["completion"] for stop in jobs.FORMAT.stop)
        if not any(one["rewards"]["execution"] for one in row["completions"]):  # form alone tells them apart
            assert sorted(range(4), key=totals.__getitem__) == sorted(range(4), key=advantages.__getitem__)
    assert any(one["advantage"] for row in rows for one in row["completions"]), "a group that compares is shown where there is one"


def test_resuming_in_a_later_pass_changes_no_bit(make: Make, straight: tuple[Job, Result], tmp_path: Path, monkeypatch) -> None:
    job, (undisturbed, expected) = make(), straight
    jobs.die(grpo.run, job, 4, tmp_path / "faults", monkeypatch)
    jobs.go_on(grpo.run, job, undisturbed, expected)
    assert expected.metrics["completions"] == 5 * 8 and expected.metrics["groups"] == 10, "the panel's counts are of the whole run"
    assert (job.aside / "completions.jsonl").read_text() == (undisturbed.aside / "completions.jsonl").read_text()


def test_a_4_bit_base_goes_on_from_the_sft_adapter_in_every_bit(make: Make, tmp_path: Path, tiny_model: Path, monkeypatch) -> None:
    """TRL rounds the policy to bfloat16 there, and not the reference."""
    made = jobs.trained_adapter(tmp_path / "adapter", tiny_model)  # random float32 numbers: rounding moves them by up to 5e-4
    started: list[float] = []
    train = training.train

    def watched(trainer, job: Job) -> int:
        before = modeling.read_adapter(made.payload)
        started.extend(grpo.distance(modeling.adapter_state(trainer.model, name), before) for name in ("default", "ref"))
        return train(trainer, job)

    monkeypatch.setattr(training, "train", watched)
    job = make(sft=made, grpo__load_in_4bit=True, grpo__max_steps=1, grpo__max_completion_length=16)
    grpo.run(job)
    assert started == [0.0, 0.0]
    assert [row["kl"] for row in training.read_metrics(job.aside / "metrics.jsonl")] == [0.0]


def test_answers_are_sampled_with_lora_in_the_type_of_the_loss(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import GenerationMixin

    seen: set[str] = set()
    generate = GenerationMixin.generate

    def watched(model: Any, *arguments: Any, **options: Any) -> Any:
        seen.update(str(parameter.dtype) for name, parameter in model.named_parameters() if name.endswith(".default.weight"))
        return generate(model, *arguments, **options)

    monkeypatch.setattr(GenerationMixin, "generate", watched)
    job = make(grpo__dtype="bfloat16", grpo__max_steps=1)
    grpo.run(job)
    assert seen == {"torch.bfloat16"}
    assert {str(tensor.dtype) for tensor in modeling.read_adapter(job.payload).values()} == {"torch.float32"}


def test_a_smaller_micro_batch_samples_the_same_completions(make: Make, straight: tuple[Job, Result]) -> None:
    job = make(micro_batch=2)
    grpo.run(job)
    for mine, other in zip(
        training.read_metrics(job.aside / "metrics.jsonl"), training.read_metrics(straight[0].aside / "metrics.jsonl"), strict=True
    ):
        assert mine["num_tokens"] == other["num_tokens"]
        assert mine["reward"] == pytest.approx(other["reward"], abs=1e-6)
        assert mine["loss"] == pytest.approx(other["loss"], abs=1e-4)


def test_an_adapter_that_would_not_be_trained_is_refused(make: Make, monkeypatch) -> None:
    from peft import PeftModel

    load = PeftModel.from_pretrained
    monkeypatch.setattr(PeftModel, "from_pretrained", lambda base, folder, is_trainable: load(base, folder))  # TRL itself would say nothing
    with pytest.raises(RuntimeError, match="no parameter of the adapter is trainable"):
        grpo.run(make())


def test_equal_rewards_are_a_loud_warning(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    result = grpo.run(make(grpo__rewards=["execution"], grpo__max_steps=1, grpo__max_completion_length=8) | _only("execution"))
    assert "GRPO LEARNED NOTHING" in capsys.readouterr().out
    assert result.metrics["groups"] == 2 and result.metrics["groups/compared"] == result.metrics["frac_groups_compared"] == 0


def test_a_run_in_which_every_completion_is_cut_off_says_so(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    """TRL's own frac_reward_zero_std is 0 here, as if every group had something to teach."""
    result = grpo.run(make(grpo__max_steps=1, grpo__max_completion_length=8, grpo__mask_truncated_completions=True))
    said = capsys.readouterr()
    assert "GRPO LEARNED NOTHING" in said.out and "8 of 8 completions were left out" in said.out
    assert "All reward functions returned None" not in said.out + said.err
    assert result.metrics["truncated"] == 8 and "coverage" not in result.metrics


class _only:
    """`job | _only(name)`: the job with one active reward."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __ror__(self, job: Job) -> Job:
        return replace(job, externals={**job.externals, "rewards": {"active": [self.name], "judge": None}})


def test_rewards_other_than_the_planned_ones_are_refused(make: Make) -> None:
    with pytest.raises(BadInput, match=r"planned with the rewards execution, and now"):
        grpo.run(make() | _only("execution"))


def test_an_adapter_of_another_base_or_format_is_refused(make: Make, adapter: Input) -> None:
    for change, told in (
        ({"base_model": {"id": "Qwen/Qwen2.5-3B", "revision": "abc"}}, r"trained on Qwen/Qwen2.5-3B, not on sha256:0"),
        ({"chat_format": {"name": "other", "digest": "x"}}, r"speaks other, not chat_format=chatml-think"),
        ({"chat_format": {"name": jobs.FORMAT.name, "digest": "x"}}, r"another version of the chat format"),
    ):
        with pytest.raises(BadInput, match=told):
            grpo.run(make(sft=replace(adapter, facts={**adapter.facts, **change})))


def _without_tests(file: Path, keep: int) -> Path:
    rows = [row for _, row in read_jsonl(file)]
    for row in rows[keep:]:
        row["tests"] = []
    out = file.with_name(f"keep-{keep}.jsonl")
    out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return out


def test_rows_that_nothing_can_judge_are_left_out_and_counted(data: Input) -> None:
    config = jobs.config().grpo
    some, none = (_without_tests(data.payload / "grpo.jsonl", keep) for keep in (1, 0))
    prompts = grpo.read_prompts(some, jobs.FORMAT, judged=False, config=config)
    assert (len(prompts.rows), prompts.untestable) == (1, 3)
    assert json.loads(prompts.rows[0]["tests"])[0].keys() == {"input", "output", "kind"}
    assert len(grpo.read_prompts(some, jobs.FORMAT, judged=True, config=config).rows) == 4
    with pytest.raises(BadInput, match=r"no row to train on: 4 have no tests and no judge"):
        grpo.read_prompts(none, jobs.FORMAT, judged=False, config=config)
    format_only = jobs.config(grpo__allow_format_only=True).grpo
    assert len(grpo.read_prompts(none, jobs.FORMAT, judged=False, config=format_only).rows) == 4


def test_tests_that_a_constant_passes_are_not_used(data: Input, tmp_path: Path) -> None:
    rows = [row for _, row in read_jsonl(data.payload / "grpo.jsonl")]
    for test in rows[0]["tests"]:
        test["output"] = "7 \n" if test is rows[0]["tests"][0] else "7"
    rows[1]["tests"] = rows[1]["tests"][:1]
    file = tmp_path / "grpo.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompts = grpo.read_prompts(file, jobs.FORMAT, judged=False, config=jobs.config().grpo)
    assert [row["id"] for row in prompts.rows] == ["row-2", "row-3"]
    assert (prompts.untestable, prompts.constant_tests) == (2, 2)
    judged = grpo.read_prompts(file, jobs.FORMAT, judged=True, config=jobs.config().grpo)
    assert [bool(json.loads(row["tests"])) for row in judged.rows] == [False, False, True, True], "the judge decides there"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows[:2]))
    with pytest.raises(BadInput, match=r"2 have no tests and no judge .*2 have tests that all expect one output"):
        grpo.read_prompts(file, jobs.FORMAT, judged=False, config=jobs.config().grpo)


def test_too_little_coverage_at_the_end_lets_the_next_attempt_begin_anew(make: Make, monkeypatch) -> None:
    from gwen25.rewards.panel import Panel

    def refuse(panel: Panel, last: bool = False) -> None:
        if last:
            raise Unavailable("too little is known")

    job = make(grpo__max_steps=1)
    with monkeypatch.context() as patch, pytest.raises(Unavailable):
        patch.setattr(Panel, "check", refuse)
        grpo.run(job)
    assert training.newest_checkpoint(job) is None
    assert grpo.run(job).metrics["completions"] == 8


def test_a_row_without_messages_is_named(tmp_path: Path) -> None:
    file = tmp_path / "grpo.jsonl"
    file.write_text('{"id": "x", "tests": []}\n')
    with pytest.raises(BadInput, match=r"line 1 \(row x\): messages and tests are expected"):
        grpo.read_prompts(file, jobs.FORMAT, judged=True, config=jobs.config().grpo)


def test_completions_must_fit_the_context(make: Make) -> None:
    with pytest.raises(BadInput, match=r"grpo.max_completion_length = 2000 and a prompt of \d+ tokens .* context of 2048"):
        grpo.run(make(grpo__max_completion_length=2000))


def test_the_schedule_shows_every_prompt_before_any_again() -> None:
    order = grpo.schedule(rows=5, each_step=2, steps=10, seed=1)
    assert len(order) == 20
    for start in range(0, 20, 5):
        assert sorted(order[start : start + 5]) == [0, 1, 2, 3, 4]
    assert order == grpo.schedule(5, 2, 10, 1) != grpo.schedule(5, 2, 10, 2)
    assert grpo.schedule(5, 2, 20, 1)[:20] == order  # a longer run begins the same way
    assert sorted(grpo.schedule(rows=1, each_step=3, steps=1, seed=0)) == [0, 0, 0]  # fewer prompts than a step takes


@pytest.mark.slow
def test_the_real_child_survives_sigkill(make: Make, straight: tuple[Job, Result], tmp_path: Path) -> None:
    job = make()
    faults = tmp_path / "faults"
    faults.mkdir()
    (faults / "grpo-kill-3").touch()
    status, _ = jobs.run_child(job, faults)
    assert status == -9 and not (job.work / "result.json").exists()
    status, output = jobs.run_child(job, faults)
    assert status == 0, output
    assert "resuming after step 2 of 5" in output
    assert jobs.files(job.payload) == jobs.files(straight[0].payload)
    assert json.loads((job.work / "result.json").read_text())["facts"] == straight[1].facts


# ------------------------------------------------------------------------------------------------------------------------ vLLM


@pytest.mark.slow  # a minute: two processes import torch and train
def test_two_processes_share_the_groups_of_a_step(make: Make) -> None:
    job = make(grpo__max_steps=2)
    status, output = jobs.run_child(job, processes=2)
    assert status == 0, output
    told = json.loads((job.work / "result.json").read_text())
    config = job.config
    a_step = config.per_device_train_batch_size * config.gradient_accumulation_steps
    assert told["metrics"]["completions"] == 2 * a_step, "each step had the config's completions, over both processes"
    assert told["metrics"]["coverage"] == 1.0 and told["facts"]["grpo"]["steps"] == 2
    assert modeling.read_adapter(job.payload).keys() == modeling.read_adapter(job.inputs["sft"].payload).keys()


def test_vllms_arguments_are_those_of_trls_own_config(tmp_path: Path) -> None:
    """Names and values arrive in the real GRPOConfig. None without vLLM: TRL's defaults would stand, and they are off."""
    from trl import GRPOConfig as TrlConfig

    def arguments(stops: list[int], **asked: Any) -> dict[str, Any]:
        section = load_config("a100", overrides={name.replace("__", "."): value for name, value in asked.items()}).grpo
        return grpo.vllm_arguments(section, stops, lambda: 700)

    assert arguments([7, 8], grpo__vllm="off") == {}
    here = arguments([7, 8], grpo__vllm="colocate", grpo__vllm_gpu_memory_utilization=0.25)
    made = TrlConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, **here)
    assert (made.use_vllm, made.vllm_mode, made.vllm_enable_sleep_mode) == (True, "colocate", True)
    assert (made.vllm_gpu_memory_utilization, made.vllm_max_model_length) == (0.25, 700 + 8192)
    assert made.generation_kwargs == {"stop_token_ids": [7, 8]}  # Qwen's own directory stops at <|endoftext|> alone
    assert arguments([7], grpo__vllm="colocate", grpo__vllm_max_model_length=4096)["vllm_max_model_length"] == 4096
    chosen = {"correction": False, "mode": "token_truncate", "clip_max": 2.0, "clip_min": 0.5}
    corrected = {f"vllm_importance_sampling_{name}": value for name, value in chosen.items()}
    assert set(corrected) == set(grpo.VLLMS)
    made = TrlConfig(
        output_dir=str(tmp_path), use_cpu=True, bf16=False,
        **arguments([7], grpo__vllm="colocate", **{f"grpo__{name}": value for name, value in corrected.items()}),
    )  # fmt: skip
    assert {name: getattr(made, name) for name in corrected} == corrected
    far = arguments([7], grpo__vllm="server", grpo__vllm_server_base_url="http://127.0.0.1:8000")
    made = TrlConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, **far)
    assert (made.use_vllm, made.vllm_mode, made.vllm_server_base_url) == (True, "server", "http://127.0.0.1:8000")


VLLM = REPOSITORY / ".venv-vllm" / "bin" / "python"


@pytest.mark.server  # a minute; needs `make vllm-env`
@pytest.mark.skipif(not VLLM.exists(), reason="no vLLM environment: make vllm-env")
def test_vllm_samples_from_the_policy_that_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the other interpreter, on a CPU: at every step vLLM's probabilities are the trainer's up to bfloat16, as far as it has moved."""
    from gwen25.samples import tiny

    tiny.build(tmp_path / "base", pretrained=True)
    data, adapter = jobs.dataset(tmp_path / "data"), jobs.trained_adapter(tmp_path / "sft", tmp_path / "base")
    steps = {"grpo__max_steps": 4, "grpo__warmup_steps": 0, "grpo__learning_rate": 0.02, "grpo__mask_truncated_completions": False}
    asked = {"grpo__max_completion_length": 64, "grpo__vllm": "colocate", "grpo__vllm_enable_sleep_mode": False}
    job = _job(tmp_path / "work", tmp_path / "base", data, adapter, **{**steps, **asked})
    monkeypatch.setattr(sys, "executable", str(VLLM))
    for name, value in (("PYTHONPATH", str(REPOSITORY)), ("VLLM_CPU_KVCACHE_SPACE", "1"), ("DO_NOT_TRACK", "1")):
        monkeypatch.setenv(name, value)
    status, told = jobs.run_child(job)
    assert status == 0, told
    logged = [row for _, row in read_jsonl(job.aside / "metrics.jsonl")]
    assert logged[-1]["kl"] > 0.3  # 1.3 was measured: the policy is another one than SFT's
    assert max(row["sampling/sampling_logp_difference/mean"] for row in logged) < 0.05  # 0.02 at each of four steps
