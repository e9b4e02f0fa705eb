"""Warnings from a run's log: each where it is true, once, the same after a resumption; never of what was not measured."""

from __future__ import annotations

import inspect
import json
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from gwen25 import fences, grpo_report, grpo_watch, training
from gwen25.grpo_watch import CHECKS, Caution, Watch, read
from gwen25.rewards import REWARDS, Reward
from gwen25.rewards.sample import Sample, Tools
from tests.pipelines import training_jobs as jobs

Row = dict[str, Any]


def run(
    logs: int, *, passing: Callable[[float], float], form: Callable[[float], float], seed: int = 0, completions: int = 32, group: int = 8
) -> list[Row]:
    """Logs of a run whose policy passes and keeps the form with these probabilities, as functions of the time from 0 to 1.

    Prompts differ: half of them are hopeless, so that a step's pass rate swings with the prompts drawn, as in a real run.
    """
    draw, rows = random.Random(seed), []
    for at in range(logs):
        time = at / (logs - 1)
        chances = [min(1.0, 2 * passing(time)) * draw.randint(0, 1) for _ in range(completions // group)]
        passed = [draw.random() < chance for chance in chances for _ in range(group)]
        kept = [draw.random() < form(time) for _ in passed]
        reward = sum(map(float, passed)) / completions + 0.2 * sum(kept) / completions
        rows.append({"step": at + 1, "reward": reward, "frac_programs_passed": sum(passed) / completions, "entropy": 0.3})
    return rows


def names(rows: list[Row], **options: bool) -> list[str]:
    return [caution.name for caution in read(rows, **options)]


def logs(count: int, **values: Any) -> list[Row]:
    """Logs with these values; a function gives them by its place from 0."""
    return [{"step": at + 1, **{name: value(at) if callable(value) else value for name, value in values.items()}} for at in range(count)]


# --------------------------------------------------------------------------------------------- the reward rises, execution does not


def test_form_that_is_learnt_without_any_program_is_told() -> None:
    found = [read(run(40, passing=lambda time: 0.1, form=lambda time: 0.1 + 0.9 * time, seed=seed)) for seed in range(20)]
    told = [cautions for cautions in found if [caution.name for caution in cautions] == ["hack"]]
    assert len(told) >= 16, "reward 0.12 to 0.30 at a pass rate of 0.1: seen in most runs of 40 steps"
    assert all(caution.step >= 15 for cautions in told for caution in cautions)
    assert "first and last third of" in told[0][0].text and "does not" in told[0][0].text


def test_a_fraction_that_is_paid_for_constants_is_told() -> None:
    """The reward that is paid goes from 0.3 to 0.5; the share of programs that pass all tests falls."""
    draw = random.Random(1)
    rows = logs(30, reward=lambda at: 0.3 + 0.2 * at / 29 + draw.gauss(0, 0.03), frac_programs_passed=lambda at: 0.2 - 0.1 * at / 29)
    assert names(rows) == ["hack"]


def test_a_run_that_learns_to_solve_is_not_accused() -> None:
    accused = [
        seed
        for seed in range(60)
        if "hack" in names(run(60, passing=lambda time: 0.1 + 0.3 * time, form=lambda time: min(1.0, 0.3 + time), seed=seed))
    ]
    assert len(accused) <= 3, "form comes first and programs follow: at most one run in twenty is told of the first part"


@pytest.mark.parametrize("length", [20, 100])
def test_a_run_in_which_nothing_changes_is_hardly_ever_accused(length: int) -> None:
    """The check is made at every log of a run: the whole run's rate of false alarms is what counts."""
    accused = [seed for seed in range(100) if "hack" in names(run(length, passing=lambda time: 0.25, form=lambda time: 0.8, seed=seed))]
    assert len(accused) <= 3


def test_a_jump_of_one_step_is_no_rise() -> None:
    rows = logs(30, reward=lambda at: 1.0 if at == 29 else 0.2 + 0.01 * (at % 2), frac_programs_passed=0.1)
    assert names(rows) == []


def test_less_than_fifteen_logs_tell_nothing() -> None:
    rows = logs(14, reward=lambda at: 0.2 + 0.05 * at, frac_programs_passed=0.1)
    assert names(rows) == []
    assert names(logs(15, reward=lambda at: 0.2 + 0.05 * at, frac_programs_passed=0.1)) == ["hack"]


def test_the_reward_before_a_redraw_is_the_one_that_is_compared() -> None:
    chosen = logs(20, reward=lambda at: 0.2 + 0.02 * at, frac_programs_passed=0.1, **{"redraw/reward_before": 0.2})
    assert names(chosen) == []


# --------------------------------------------------------------------------------------------------------------------- levels


@pytest.mark.parametrize(
    ("name", "bad", "good"),
    [
        ("entropy", {"entropy": lambda at: 0.5 if at < 10 else 0.1}, {"entropy": lambda at: 0.5 if at < 10 else 0.2}),
        ("entropy", {"entropy": lambda at: 0.015 if at < 10 else 0.008}, {"entropy": lambda at: 0.04 if at < 10 else 0.02}),
        ("entropy", {"entropy": 0.005}, {"entropy": 0.05}),
        ("cut_off", {"completions/clipped_ratio": 0.6}, {"completions/clipped_ratio": 0.5}),
        ("clipped", {"clip_ratio/region_mean": 0.6}, {"clip_ratio/region_mean": 0.2}),
        ("clipped", {"cispo_clip_ratio": 0.6}, {"cispo_clip_ratio": 0.2}),
        ("unrewarded", {"frac_reward_none": 0.7}, {"frac_reward_none": 0.4}),
        ("kl", {"kl": lambda at: 0.1 * at}, {"kl": 0.03}),
        ("mismatch", {"sampling/sampling_logp_difference/mean": 0.2}, {"sampling/sampling_logp_difference/mean": 0.02}),
        ("mismatch", {"sampling/importance_sampling_ratio/mean": 0.3}, {"sampling/importance_sampling_ratio/mean": 0.98}),
    ],
)
def test_a_level_is_told_once_and_only_where_it_is_bad(name: str, bad: Row, good: Row) -> None:
    found = read(logs(30, **bad))
    assert [caution.name for caution in found] == [name]
    assert 5 <= found[0].step <= 20 and found[0].text
    assert read(logs(30, **good)) == []


@pytest.mark.parametrize("field", ["completions/clipped_ratio", "frac_reward_none", "kl", "sampling/sampling_logp_difference/mean"])
def test_one_bad_log_is_no_level(field: str) -> None:
    assert read(logs(30, **{field: lambda at: 1.2 if at == 12 else 0.0})) == []


@pytest.mark.parametrize("unknown", [None, math.nan, math.inf])
def test_what_was_not_measured_fires_nothing(unknown: float | None) -> None:
    """Neither None nor NaN is a zero: an entropy of 0 would be a collapse, a pass rate of 0 a hack."""
    fields = [
        *("entropy", "kl", "completions/clipped_ratio", "frac_reward_none", "frac_programs_passed"),
        *("sampling/sampling_logp_difference/mean", "sampling/importance_sampling_ratio/mean"),
    ]
    rising = {"reward": lambda at: 0.1 * at}
    assert read(logs(40, **rising, **dict.fromkeys(fields, unknown))) == []
    assert read(logs(40, **rising)) == [] and read([]) == []


def test_what_is_cut_off_teaches_nothing_only_where_it_is_masked() -> None:
    rows = logs(9, **{"completions/clipped_ratio": 0.8})
    [masked], [kept] = read(rows), read(rows, masked=False)
    assert masked.text.startswith("80% of the completions are cut off") and kept.text.startswith("80% of the completions are cut off")
    assert "the short ones alone" in masked.text and "the short ones alone" not in kept.text


def test_an_entropy_is_taken_as_it_was_measured() -> None:
    """A collapse among completions that are kept though they were cut off is one."""
    rows = logs(30, entropy=lambda at: 0.4 if at < 10 else 0.005, **{"completions/clipped_ratio": 1.0})
    assert names(rows) == ["cut_off", "entropy"]


def test_gaps_are_passed_over() -> None:
    rows = logs(30, entropy=lambda at: None if at % 2 else (0.5 if at < 10 else 0.05))
    assert names(rows) == ["entropy"]


def test_a_run_that_is_over_is_told_of_its_few_logs() -> None:
    rows = logs(2, **{"completions/clipped_ratio": 0.9})
    assert read(rows, ended=False) == []
    assert read(rows) == [Caution("cut_off", 2, read(rows)[0].text)]


@pytest.mark.parametrize("cut", [1, 7, 17, 29])
def test_a_resumed_run_says_the_same(cut: int) -> None:
    rows = run(30, passing=lambda time: 0.1, form=lambda time: time, seed=3)
    for row in rows[12:]:
        row |= {"entropy": 0.001, "completions/clipped_ratio": 0.8}
    whole = read(rows)
    assert {"entropy", "cut_off"} <= {caution.name for caution in whole}
    resumed = Watch()
    for row in json.loads(json.dumps(rows[:cut])) + rows[cut:]:
        resumed.see(row)
    resumed.end()
    assert resumed.cautions == whole
    assert len({caution.name for caution in whole}) == len(whole), "each once"


def test_every_check_can_fire() -> None:
    """The table and this file go together."""
    assert set(CHECKS) == {"hack", "entropy", "cut_off", "clipped", "unrewarded", "kl", "mismatch"}
    assert all(getattr(grpo_watch, f"_{name}") is check for name, check in CHECKS.items())


# ------------------------------------------------------------------------------------------------------------- real runs


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Callable[..., tuple[list[Row], dict[str, Any]]]:
    """`real(steps, unknown, section__option=value)`: the log and the facts of a run of TRL's in which no program passes.

    `unknown`: of the eight completions of a step, counted from 1, how many have no verdict.
    """
    folder = tmp_path_factory.mktemp("inputs")
    inputs = {"dataset": jobs.dataset(folder / "data", rows=8, heldout=0), "sft": jobs.trained_adapter(folder / "sft", tiny_model)}

    def real(steps: int, unknown: Callable[[int], int] = lambda step: 0, **options: Any) -> tuple[list[Row], dict[str, Any]]:
        from gwen25.pipelines import grpo

        asked: list[int] = []

        def verdicts(samples: Sequence[Sample], tools: Tools) -> list[float | None]:
            asked.append(len(samples))
            none = min(len(samples), unknown(len(asked)))
            tools.counts.update({"verdicts/wrong": len(samples) - none, "verdicts/unknown": none})
            return [None if at < none else 0.0 for at in range(len(samples))]

        names = ["format_approximate", "execution"]
        small = {"grpo__max_steps": steps, "grpo__save_steps": steps, "grpo__max_completion_length": 8, "grpo__rewards": names}
        section = jobs.config(**{**small, **options}).grpo
        planned = {"rewards": {"active": names, "judge": None}}
        job = jobs.job("grpo", tmp_path_factory.mktemp("run") / "work", section, tiny_model, inputs, planned, 8)
        with pytest.MonkeyPatch.context() as patch:
            by_length = Reward(lambda samples, tools: [len(sample.text) / 1000 for sample in samples], 0.1, "format")
            patch.setitem(REWARDS, "format_approximate", by_length)
            patch.setitem(REWARDS, "execution", Reward(verdicts, 1.0, "correctness"))
            patch.setattr("gwen25.sandbox.probe", lambda: None)
            result = grpo.run(job)
        return training.read_metrics(job.aside / "metrics.jsonl"), dict(result.facts["grpo"])

    return real


Real = Callable[..., tuple[list[Row], dict[str, Any]]]


@pytest.fixture(scope="module")
def outage(real: Real) -> tuple[list[Row], dict[str, Any]]:
    """Ten steps; in the fourth to sixth five of eight have no verdict, which `min_reward_coverage` as it is by default just allows."""
    return real(10, lambda step: 5 if 4 <= step <= 6 else 0)


def test_most_rewards_unknown_is_told_of_a_real_run(outage: tuple[list[Row], dict[str, Any]]) -> None:
    rows, facts = outage
    assert [row["frac_reward_none"] for row in rows] == [0.0] * 3 + [0.625] * 3 + [0.0] * 4
    found = [caution for caution in read(rows) if caution.name == "unrewarded"]
    assert [caution.step for caution in found] == [6] and found[0].text.startswith("62% of the completions that ended have no reward")
    assert f"step 6: {found[0].text}" in facts["warnings"]


def test_most_rewards_unknown_is_told_where_no_coverage_is_asked_for(real: Real) -> None:
    rows, facts = real(5, lambda step: 7, grpo__min_reward_coverage=0.0)
    assert [row["frac_reward_none"] for row in rows] == [0.875] * 5
    assert any(text.startswith("step 5: 88% of the completions that ended have no reward") for text in facts["warnings"])


def test_what_the_watch_reads_is_what_trl_and_the_panel_log(outage: tuple[list[Row], dict[str, Any]], real: Real) -> None:
    """A name that is spelt otherwise in the log would be a check that never fires."""
    from trl import GRPOTrainer

    asked: set[str] = set()

    class Asked(dict[str, Any]):
        def get(self, name: str, default: Any = None) -> Any:
            asked.add(name)
            return super().get(name, default)

    redrawn, _ = real(1, grpo__loss_type="cispo", grpo__epsilon_high=5.0, grpo__redraw_zero_spread=1)
    rows = [*outage[0], *redrawn]
    read([Asked(row) for row in rows])
    assert len(asked) >= 10, "every check has asked"
    measured = {name for row in rows for name, value in row.items() if value is not None}
    of_vllm = {"sampling/sampling_logp_difference/mean", "sampling/importance_sampling_ratio/mean"}
    assert asked - measured == of_vllm
    source = inspect.getsource(GRPOTrainer)
    assert all(f'["{name}"]' in source for name in of_vllm), "a test of test_grpo.py reads them of a real vLLM"
    levels = ("entropy", "kl", "completions/clipped_ratio", "clip_ratio/region_mean", "frac_reward_none", "frac_programs_passed")
    assert all(isinstance(row[name], float) for row in outage[0] for name in levels), "at every step"


# ---------------------------------------------------------------------------------------------------------------- the page

HOSTILE = [
    "``` \n</textarea><script>alert(1)</script>",
    "```\n# no longer code\n````\n`````python\n" + "`" * 60,
    "~~~\n~~~~~~~~\n| a | b |",
    "\r```\r\u2028```\x0b```\x0c```",
    "![x](http://evil.example/x.png)\n[a]: javascript:alert(1)",
    "a" * 5000 + "\n```\n" + "b" * 5000,
    "",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_closes_its_fence(text: str) -> None:
    block = grpo_report.fenced(text).split("\n")
    fence = block[0].removesuffix("text")
    assert set(fence) == {"`"} and len(fence) >= 3 and block[-1] == fence
    inner = "\n".join(block[1:-1])
    assert not any(fences.closing(fence, line) for line in [*inner.splitlines(), *inner.split("\n")])
    assert len(inner) <= grpo_report.SHOWN + 60
    if len(text) <= grpo_report.SHOWN:
        assert inner == text


def test_a_page_shows_a_group_beside_its_rewards() -> None:
    completions = [
        {"completion": text, "rewards": {"execution": None if at == 0 else 1.0}, "advantage": 0.0 if at == 0 else 1.5}
        for at, text in enumerate(HOSTILE[:2])
    ]
    sample = {"step": 6, "id": "row`|1\n# id", "prompt": "Add ```two``` numbers.", "completions": completions}
    page = grpo_report.page([Caution("kl", 4, "far away")], [sample, {**sample, "step": 11}, {**sample, "step": 16}])
    assert "- step 4: far away" in page
    assert "## Step 6: one prompt, 2 completions" in page and "## Step 16" in page and "## Step 11" not in page
    assert "| completion | advantage | execution |" in page and "| 1 | 0 | - |" in page and "| 2 | 1.5 | 1 |" in page
    assert _outside(page).count("script") == 0 and "no longer code" not in _outside(page) and "# id" not in _outside(page)
    assert grpo_report.page([], []) == "## Warnings\n\nNone.\n"


def _outside(page: str) -> str:
    """What of a page stands in no block, as CommonMark reads it."""
    fence, kept = "", []
    for line in page.split("\n"):
        if fence:
            fence = "" if fences.closing(fence, line) and fences.closing(fence, line)["rest"] == "" else fence  # type: ignore[index]
        elif line.startswith("```"):
            fence = line.removesuffix("text")
        else:
            kept.append(line)
    return "\n".join(kept)
