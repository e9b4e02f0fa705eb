"""GRPO's options reach TRL by TRL's names and work there; what a run is warned of is in its log, facts and page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import pytest

from gwen25 import training
from gwen25.config import GrpoConfig, load_config
from gwen25.errors import BadInput
from gwen25.grpo_trainer import Groups
from gwen25.job import Input, Job
from gwen25.pipelines import grpo
from gwen25.rewards import REWARDS, Reward
from gwen25.rewards.sample import Sample, Tools
from tests.pipelines import training_jobs as jobs

STEPS = {
    "grpo__max_steps": 1,
    "grpo__save_steps": 1,
    "grpo__max_completion_length": 12,
    "grpo__rewards": ["format_approximate"],
    "grpo__allow_format_only": True,
    "grpo__beta": 0.0,
}

Make = Callable[..., Job]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> dict[str, Input]:
    folder = tmp_path_factory.mktemp("inputs")
    return {"dataset": jobs.dataset(folder / "data", rows=8, heldout=0), "sft": jobs.trained_adapter(folder / "sft", tiny_model)}


@pytest.fixture
def make(tmp_path: Path, tiny_model: Path, inputs: dict[str, Input]) -> Make:
    def make(name: str = "work", micro_batch: int = 8, **overrides: object) -> Job:
        section = jobs.config(**{**STEPS, **overrides}).grpo
        planned = {"rewards": {"active": list(section.rewards), "judge": None}}
        return jobs.job("grpo", tmp_path / name, section, tiny_model, inputs, planned, micro_batch)

    return make


def pay(monkeypatch: pytest.MonkeyPatch, score: Callable[[Sample], float]) -> None:
    """A reward of form that pays by `score`."""
    monkeypatch.setitem(REWARDS, "format_approximate", Reward(lambda samples, tools: [score(sample) for sample in samples], 0.9, "format"))


@pytest.fixture
def by_length(monkeypatch: pytest.MonkeyPatch) -> None:
    pay(monkeypatch, lambda sample: len(sample.text) / 1000)


def _trained(job: Job, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the job; its trainer."""
    made: list[Any] = []
    build = grpo.make_trainer
    with monkeypatch.context() as patch:
        patch.setattr(grpo, "make_trainer", lambda *arguments: made.append(build(*arguments)) or made[-1])
        grpo.run(job)
    return made[0]


# ------------------------------------------------------------------------------------------------------------------ TRL's options


@pytest.mark.usefixtures("by_length")
def test_every_option_arrives_in_trls_own_config(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = {
        **{"temperature": 0.9, "top_p": 0.95, "mask_truncated_completions": False, "beta": 0.1, "epsilon": 0.1, "epsilon_high": 0.28},
        **{"delta": 2.0, "num_iterations": 2, "importance_sampling_level": "sequence", "loss_type": "luspo", "scale_rewards": "none"},
        **{"multi_objective_aggregation": "normalize_then_sum", "num_generations": 2, "max_completion_length": 10, "max_steps": 1},
    }
    usual = GrpoConfig()
    assert set(chosen) == set(grpo.TRLS) and all(getattr(usual, name) != value for name, value in chosen.items())
    trainer = _trained(make(**{f"grpo__{name}": value for name, value in chosen.items()}), monkeypatch)
    assert {name: getattr(trainer.args, name) for name in chosen} == chosen


def test_our_defaults_are_trls_but_for_the_recipe(tmp_path: Path) -> None:
    from trl import GRPOConfig as TrlConfig

    theirs, ours = TrlConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False), GrpoConfig()
    differ = {name for name in (*grpo.TRLS, *grpo.VLLMS) if getattr(ours, name) != getattr(theirs, name)}
    recipe = {"max_steps", "num_generations", "temperature", "max_completion_length", "beta", "mask_truncated_completions"}
    assert differ == recipe, "an option that nobody set is what TRL would have done"


def test_loss_types_are_the_ones_that_trl_computes() -> None:
    import inspect
    import re

    from trl import GRPOTrainer

    computed = set(re.findall(r'"(\w+)"', " ".join(re.findall(r"loss_type (?:==|in) (.+):", inspect.getsource(GRPOTrainer._compute_loss)))))
    assert computed == set(get_args(GrpoConfig.model_fields["loss_type"].annotation))


@pytest.mark.slow  # a run for each
@pytest.mark.usefixtures("by_length")
@pytest.mark.parametrize("loss", get_args(GrpoConfig.model_fields["loss_type"].annotation))
def test_every_loss_trains(make: Make, loss: str) -> None:
    needed = {"luspo": {"grpo__importance_sampling_level": "sequence"}, "cispo": {"grpo__epsilon_high": 5.0}}
    result = grpo.run(make(grpo__loss_type=loss, grpo__max_steps=2, **needed.get(loss, {})))
    assert result.metrics["adapter_moved"] > 0 and result.facts["grpo"]["loss_type"] == loss


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"loss_type": "luspo"}, "luspo needs grpo.importance_sampling_level=sequence"),
        ({"loss_type": "cispo", "delta": 2.0}, "grpo.delta does nothing under grpo.loss_type=cispo"),
        ({"loss_type": "cispo"}, "grpo.epsilon_high = null under grpo.loss_type=cispo, which bounds the ratio itself .* such as 5.0"),
        ({"loss_type": "cispo", "epsilon_high": 0.28}, "grpo.epsilon_high = 0.28 under grpo.loss_type=cispo"),
        ({"loss_type": "sapo", "epsilon_high": 0.28}, "grpo.epsilon_high does nothing under grpo.loss_type=sapo"),
        ({"loss_type": "vespo", "epsilon_high": 0.28}, "grpo.epsilon_high does nothing under grpo.loss_type=vespo"),
        ({"delta": 1.1}, "grpo.delta = 1.1 must be above 1 \\+ 0.2"),
        ({"delta": 1.25, "epsilon_high": 0.28}, "grpo.delta = 1.25 must be above 1 \\+ 0.28"),
        ({"loss_type": "vespo", "importance_sampling_level": "sequence"}, "grpo.importance_sampling_level=sequence does nothing"),
        ({"soft_punish_cache": 100}, "grpo.soft_punish_cache does nothing without the reward overlong"),
        ({"vllm_importance_sampling_clip_min": 4.0}, "clip_min = 4 must be below .*clip_max = 3"),
        (
            {"vllm_importance_sampling_mode": "token_truncate", "vllm_importance_sampling_clip_max": None},
            "token_truncate cuts weights to a bound: set",
        ),
        ({"soft_punish_cache": 9000}, "soft_punish_cache = 9000 is more than grpo.max_completion_length = 8192"),
        ({"judge_agreement": 2, "rewards": ["execution"]}, "grpo.rewards must hold both execution and judge"),
        ({"loss_type": "gspo"}, "grpo.loss_type"),
    ],
)
def test_what_trl_would_refuse_or_ignore_is_refused_as_the_config_is_read(asked: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInput, match=told):
        load_config("a100", overrides={f"grpo.{name}": value for name, value in asked.items()})


@pytest.mark.parametrize(
    "asked",
    [
        {"loss_type": "cispo", "epsilon_high": 1.0},
        {"delta": 1.25},
        {"delta": 1.5, "epsilon_high": 0.28},
        {"rewards": ["execution", "overlong"], "soft_punish_cache": 100},
    ],
)
def test_what_works_is_taken(asked: dict[str, Any]) -> None:
    section = load_config("a100", overrides={f"grpo.{name}": value for name, value in asked.items()}).grpo
    assert {name: getattr(section, name) for name in asked} == {name: tuple(v) if isinstance(v, list) else v for name, v in asked.items()}


@pytest.mark.usefixtures("by_length")
def test_samples_of_shared_completions_come_as_often_as_asked(make: Make) -> None:
    job = make(grpo__num_iterations=2, grpo__max_steps=6, grpo__save_steps=6, grpo__log_completions_steps=3)
    grpo.run(job)
    assert [row["step"] for row in training.read_metrics(job.aside / "completions.jsonl")] == [1, 5], "the batch of steps 3 and 4 is not"


@pytest.mark.usefixtures("by_length")
@pytest.mark.parametrize(
    ("steps", "options"), [(1, {}), (2, {"grpo__num_iterations": 2}), (1, {"grpo__loss_type": "cispo", "grpo__epsilon_high": 5.0})]
)
def test_a_completion_that_is_masked_takes_nothing_from_the_means(
    make: Make, monkeypatch: pytest.MonkeyPatch, steps: int, options: dict[str, Any]
) -> None:
    """Micro-batches of one, as on a GPU, and every second completion cut off: TRL gives 0.0 for what has no token."""
    _every_second_ends(monkeypatch)
    seen = _micro_batches(monkeypatch)
    job = make(micro_batch=1, grpo__max_steps=steps, grpo__beta=0.04, grpo__mask_truncated_completions=True, **options)
    result = grpo.run(job)
    rows = training.read_metrics(job.aside / "metrics.jsonl")
    assert len(seen) == 8 * steps and sum(tokens > 0 for tokens, _ in seen) == 4 * steps, "in an order that TRL has shuffled"
    for at, row in enumerate(rows):
        known = [measured for tokens, measured in seen[8 * at : 8 * at + 8] if tokens]
        assert known[0].keys() >= {"entropy", "kl"} and len(known[0]) in (3, 5), "clipped ratios are among them"
        for name in known[0]:
            assert row[name] == pytest.approx(sum(one[name] for one in known) / 4), name
    assert rows[0]["entropy"] > 1 and result.metrics["entropy"] == pytest.approx(sum(row["entropy"] for row in rows) / steps)


@pytest.mark.usefixtures("by_length")
def test_a_step_without_any_token_has_no_entropy(make: Make, capsys: Any) -> None:
    job = make(micro_batch=1, grpo__beta=0.04, grpo__mask_truncated_completions=True, grpo__max_completion_length=8)
    result = grpo.run(job)
    [row] = training.read_metrics(job.aside / "metrics.jsonl")
    assert row["completions/clipped_ratio"] == 1.0, "or this would prove nothing"
    assert all(row[name] is None for name in ("kl", "entropy", "clip_ratio/low_mean", "clip_ratio/high_mean", "clip_ratio/region_mean"))
    assert not {"kl", "entropy"} & result.metrics.keys() and "entropy has collapsed" not in capsys.readouterr().out


def _every_second_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the completions, all of which the limit cuts off, each second one ends in the end token."""
    generate = Groups._generate

    def ended(trainer: Groups, prompts: list[str]) -> tuple[Any, ...]:
        prompt_ids, ids, *rest = generate(trainer, prompts)
        ends = [trainer.processing_class.eos_token_id, trainer.processing_class.pad_token_id]
        kept = [[token for token in one if token not in ends] or [0] for one in ids]
        return prompt_ids, [one + ends[:1] if at % 2 == 0 else one for at, one in enumerate(kept)], *rest

    monkeypatch.setattr(Groups, "_generate", ended)


def _micro_batches(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, dict[str, float]]]:
    """Unmasked tokens of each micro-batch, and what TRL itself measured there."""
    from trl import GRPOTrainer

    seen: list[tuple[int, dict[str, float]]] = []
    compute = GRPOTrainer._compute_loss

    def watched(trainer: Any, model: Any, inputs: dict[str, Any]) -> Any:
        loss = compute(trainer, model, inputs)
        names = ("kl", "entropy", "cispo_clip_ratio", "clip_ratio/low_mean", "clip_ratio/high_mean", "clip_ratio/region_mean")
        measured = {name: trainer._metrics["train"][name][-1] for name in names if trainer._metrics["train"].get(name)}
        seen.append((int(inputs["completion_mask"].sum()), measured))
        return loss

    monkeypatch.setattr(GRPOTrainer, "_compute_loss", watched)
    return seen


@pytest.mark.usefixtures("by_length")
def test_two_steps_on_one_batch_are_resumed_with_the_same_one(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TRL forgets the batch with its checkpoint, so a death between the two steps goes back to the one before both."""
    options = {"grpo__num_iterations": 2, "grpo__max_steps": 4, "grpo__beta": 0.04}
    straight, broken = make("straight", **options), make("broken", **options)
    expected = grpo.run(straight)
    rewarded = [row["step"] for row in training.read_metrics(straight.aside / "metrics.jsonl") if row.get("reward") is not None]
    assert rewarded == [1, 3], "completions are sampled for every second step"
    assert expected.metrics["completions"] == 2 * 8
    jobs.die(grpo.run, broken, 4, tmp_path / "faults", monkeypatch)
    jobs.go_on(grpo.run, broken, straight, expected)


# ----------------------------------------------------------------------------------------------------------------------- warnings


def _execution(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every program fails; nothing is run."""

    def fails(samples: Sequence[Sample], tools: Tools) -> list[float | None]:
        tools.counts["verdicts/wrong"] += len(samples)
        return [0.0] * len(samples)

    monkeypatch.setitem(REWARDS, "execution", Reward(fails, 1.0, "correctness"))
    monkeypatch.setattr("gwen25.sandbox.probe", lambda: None)


def test_a_reward_that_rises_without_execution_is_told(make: Make, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """A hole in a reward of form: what it pays rises with the steps, and no program ever passes."""
    seen: list[Sample] = []
    pay(monkeypatch, lambda sample: seen.append(sample) or min(1.0, len(seen) / 128 + 0.001 * len(sample.text)))  # type: ignore[func-returns-value]
    _execution(monkeypatch)
    job = make(grpo__max_steps=16, grpo__save_steps=16, grpo__max_completion_length=8, grpo__rewards=["format_approximate", "execution"])
    result = grpo.run(job)
    said = capsys.readouterr().out
    logged = training.read_metrics(job.aside / "metrics.jsonl")
    assert [row["frac_programs_passed"] for row in logged] == [0.0] * 16 and result.metrics["frac_programs_passed"] == 0.0
    told = [line for line in said.splitlines() if "while the share of programs that pass does not" in line]
    assert len(told) == 1 and told[0].startswith("warning: step 15: the reward rises (")
    assert any("the reward rises" in text for text in result.facts["grpo"]["warnings"])
    assert "- step 15: the reward rises" in (job.aside / "report.md").read_text()


@pytest.mark.slow  # fourteen steps
def test_a_resumed_run_is_warned_of_the_same(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    pay(monkeypatch, lambda sample: len(sample.text) / 1000)
    options = {"grpo__max_steps": 7, "grpo__max_completion_length": 8}
    straight, broken = make("straight", **options), make("broken", **options)
    expected = grpo.run(straight)
    first = capsys.readouterr().out
    jobs.die(grpo.run, broken, 7, tmp_path / "faults", monkeypatch)
    before = capsys.readouterr().out
    result = grpo.run(broken)
    after = capsys.readouterr().out
    line = "warning: step 5: 100% of the completions are cut off by grpo.max_completion_length"
    for said in (first, before, after):
        assert said.count(line) == 1, "once in each attempt: each has a log of its own"
    assert result.facts == expected.facts and len(expected.facts["grpo"]["warnings"]) == 1
    assert (broken.aside / "report.md").read_text() == (straight.aside / "report.md").read_text()


def test_a_run_of_one_step_is_warned_at_its_end(make: Make, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    pay(monkeypatch, lambda sample: len(sample.text) / 1000)
    job = make(grpo__max_completion_length=8)
    told = grpo.run(job).facts["grpo"]["warnings"]
    said = capsys.readouterr().out
    assert told[0].startswith("step 1: 100% of the completions")
    for text in told:  # the run's closing words are said without a step
        closing = "GRPO LE" in text
        assert said.count(f"warning: {text.split(': ', 1)[1] if closing else text}") == 1


def test_a_fraction_of_the_tests_is_warned_of_as_the_stage_begins(make: Make, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from gwen25.rewards.panel import Panel

    _execution(monkeypatch)
    job = make(grpo__execution_reward="fraction", grpo__rewards=["execution"])
    assert isinstance(grpo.make_panel(job, jobs.FORMAT, {1}), Panel)
    assert "warning: grpo.execution_reward=fraction pays wrong programs" in capsys.readouterr().out
