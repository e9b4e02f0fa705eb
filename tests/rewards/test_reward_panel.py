"""The panel: what an unknown score does to its completion, its group, and, through TRL itself, to the advantages."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gwen25 import sandbox, training
from gwen25.chat import FORMATS
from gwen25.config import GrpoConfig, JudgeConfig
from gwen25.errors import BadInput, JudgeUnavailable, SandboxUnavailable, Unavailable
from gwen25.rewards.judge import Judge
from gwen25.rewards.panel import Panel, _Scored
from tests.rewards.judging_service import Reply, Service

FORMAT = FORMATS["chatml-think"]
TESTS = json.dumps([{"input": "1 2\n", "output": "3\n", "kind": "stdin"}])
RIGHT, WRONG = "print(sum(map(int, input().split())))", "print(4)"
END, OTHER = 640, 5  # ids of the tiny model's end token, and of a token that ends nothing


def answer(code: str) -> str:
    return FORMAT.answer("A thought.", code)


def untidy(code: str) -> str:
    """Right or wrong as `code` is, but not well formed."""
    return answer(code) + "\nThat is all."


def panel(service: Service | None, folder: Path, file: Path | None = None, **settings: Any) -> Panel:
    """A panel whose judge is the local service; every failure is final, so that a test decides which score is unknown."""
    if service is None:
        return Panel(GrpoConfig(**settings), FORMAT, None, 1, {END}, file)
    judge = JudgeConfig(provider="openai", model="local", base_url=f"{service.url}/v1", max_retries=0, timeout_seconds=20)
    config = GrpoConfig(judge=judge, **settings)
    return Panel(config, FORMAT, Judge(judge, folder), 1, {END}, file)


def by_the_code(number: int, prompt: str) -> Reply:
    """The service: down where the program says so, else the score that the program names."""
    code = prompt.split("candidate program ------\n")[1].split("\n------ ")[0]
    return Reply(status=503) if "outage" in code else Reply(json.dumps({"score": float(code.rsplit("#", 1)[1])}))


def call(panel: Panel, completions: list[Any], **columns: Any) -> dict[str, list[float | None]]:
    prompts = columns.pop("prompts", ["a problem"] * len(completions))
    names = [function.__name__ for function in panel.functions()]
    whole = {"statement": ["a problem"] * len(completions), "completion_ids": [[OTHER, END]] * len(completions)}
    scores = [function(prompts=prompts, completions=completions, **whole | columns) for function in panel.functions()]
    return dict(zip(names, scores, strict=True))


def judged(*scores: float | None) -> list[str]:
    """Answers that the service scores so; None is one during its outage."""
    return [answer(f"print()  # {'outage' if score is None else ''} #{score or 0}") for score in scores]


@pytest.fixture
def isolation() -> None:
    try:
        sandbox.probe()
    except SandboxUnavailable as error:
        pytest.skip(f"programs cannot be isolated here: {error}")


@pytest.mark.usefixtures("isolation")
def test_tests_decide_where_a_row_has_them_and_the_judge_elsewhere(service: Service, tmp_path: Path) -> None:
    service.reply = by_the_code
    completions = [answer(RIGHT), answer(WRONG), *judged(0.75, 0.0)]
    table = call(
        panel(service, tmp_path, num_generations=2), completions, tests_json=[TESTS, TESTS, "", None], func_name=[None, "", None, None]
    )
    assert table["execution"] == [1.0, 0.0, None, None]
    assert table["judge"] == [None, None, 0.75, 0.0]
    assert table["format_exact"] == table["format_approximate"] == [1.0] * 4
    assert len(service.prompts) == 2, "a program with tests is not shown to the judge"


@pytest.mark.usefixtures("isolation")
def test_rows_of_tests_strings_and_chats_are_read_alike(tmp_path: Path) -> None:
    texts = [answer(RIGHT), untidy(RIGHT), answer(WRONG), "cut off while think"]
    chats = [[{"role": "assistant", "content": text}] for text in texts]
    plain = call(panel(None, tmp_path), texts, tests_json=[TESTS] * 4)
    assert plain == call(panel(None, tmp_path), chats, tests=[json.loads(TESTS)] * 4)
    assert plain["execution"] == [1.0, 1.0, 0.0, 0.0]
    assert plain["format_exact"] == [1.0, 0.0, 1.0, 0.0]


def test_policy_completion_takes_every_reward_of_an_unknown_completion(service: Service, tmp_path: Path) -> None:
    service.reply = by_the_code
    table = call(panel(service, tmp_path, none_policy="completion"), judged(1.0, None, 0.0, None))
    assert table["judge"] == [1.0, None, 0.0, None]
    assert table["format_exact"] == table["format_approximate"] == [1.0, None, 1.0, None]


def test_policy_group_takes_correctness_from_the_whole_group_and_no_other(service: Service, tmp_path: Path) -> None:
    service.reply = by_the_code
    table = call(panel(service, tmp_path, none_policy="group"), [*judged(1.0, None, 0.0, 1.0), *judged(0.5, 0.0, 1.0, 0.0)])
    assert table["judge"] == [None] * 4 + [0.5, 0.0, 1.0, 0.0]
    assert table["format_exact"] == [1.0] * 8


@pytest.mark.usefixtures("isolation")
def test_shuffled_rewards_stay_in_their_group_and_tell_nothing(service: Service, tmp_path: Path) -> None:
    service.reply = by_the_code
    scores = [0.0, 0.1, 0.2, 0.3, 0.6, 0.7, 0.8, 0.9]

    def dealt(seed: int) -> list[float | None]:
        return call(panel(service, tmp_path, num_generations=4, shuffle_rewards=True, seed=seed), judged(*scores))["judge"]

    seen = [dealt(seed) for seed in range(20)]
    for found in seen:
        assert sorted(map(float, found[:4])) == scores[:4] and sorted(map(float, found[4:])) == scores[4:]
    assert dealt(3) == seen[3], "the same run deals the same way"
    means = [statistics.fmean(float(found[at]) for found in seen) for at in range(4)]
    assert all(0.05 < mean < 0.25 for mean in means), "no place keeps its own reward: the mean of each is 0.15"


@pytest.mark.parametrize("allowed", [False, True])
def test_rows_that_nothing_can_judge_teach_form_only_where_that_is_allowed(tmp_path: Path, allowed: bool) -> None:
    table = call(
        panel(None, tmp_path, num_generations=2, allow_format_only=allowed), [answer(RIGHT)] * 4, tests_json=[TESTS, TESTS, "", ""]
    )
    assert table["execution"] == [1.0, 1.0, None, None]
    assert table["format_exact"] == [1.0, 1.0, *([1.0] * 2 if allowed else [None] * 2)]


def test_a_batch_is_scored_once_and_an_equal_one_again(service: Service, tmp_path: Path) -> None:
    service.reply = lambda number, prompt: Reply(json.dumps({"score": number / 10}))
    this = panel(service, tmp_path, rewards=("format_exact", "format_approximate", "judge"))
    call(this, judged(1.0, 1.0, 0.0, 0.5))
    assert len(service.prompts) == 3 and this.tools.judge is not None
    before = this.tools.judge.counts["cache_hits"]
    call(this, judged(1.0, 1.0, 0.0, 0.5))
    assert this.tools.judge.counts["cache_hits"] == before + 4, "one look at the judge for three functions"
    mixed = this.functions()
    first = mixed[0](prompts=["p"], completions=judged(0.2), completion_ids=[[END]], statement=["s"])
    other = mixed[2](prompts=["p"], completions=judged(0.3), completion_ids=[[END]], statement=["s"])
    assert len(first) == len(other) == 1 and len(service.prompts) == 5, "another batch is never answered from the last one"


def test_metrics_count_what_is_unknown(service: Service, tmp_path: Path) -> None:
    service.reply = by_the_code
    this = panel(service, tmp_path, rewards=("format_exact", "judge"))
    assert this.metrics()["coverage"] is None
    call(this, judged(1.0, None, 0.0, 0.5))
    metrics = this.metrics()
    assert metrics["coverage"] == 0.75
    assert metrics["unknown/judge"] == 1 and metrics["unknown/format_exact"] == 0
    assert metrics["judge/requests"] == 4 and metrics["judge/unknown"] == 1 and metrics["judge/failures/http_503"] == 1
    json.dumps(metrics, allow_nan=False)


@pytest.mark.parametrize("policy", ["completion", "group"])
def test_the_share_without_a_reward_is_of_the_completions_that_ended(service: Service, tmp_path: Path, policy: Any) -> None:
    """What the watch reads: `frac_reward_none`. What is cut off, and what the judge holds for wrong, is not unknown."""
    service.reply = by_the_code
    told: list[tuple[str, float]] = []

    def shares(answers: list[str], **columns: Any) -> dict[str, float]:
        told.clear()
        settings: dict[str, Any] = {"none_policy": policy, "min_reward_coverage": 0, "mask_truncated_completions": True}
        call(panel(service, tmp_path, **settings), answers, log_metric=lambda *measured: told.append(measured), **columns)
        assert len(dict(told)) == len(told), "each is told once, not by every reward"
        return dict(told)

    group = judged(1.0, None, None, 0.0)
    assert shares(group)["frac_reward_none"] == 0.5
    assert shares(judged(0.0, 0.5, 0.0, 0.0))["frac_reward_none"] == 0.0, "wrong is known"
    assert shares([*group, *judged(1.0, 0.0, 0.0, 0.0)])["frac_reward_none"] == 0.25
    whole, cut = [OTHER, END], [OTHER, OTHER]
    assert shares(group, completion_ids=[cut, whole, whole, whole])["frac_reward_none"] == pytest.approx(2 / 3)
    assert "frac_reward_none" not in shares(group, completion_ids=[cut] * 4), "nobody ended: there is no such share"


def test_what_no_reward_applies_to_has_none(tmp_path: Path) -> None:
    """Rows without tests, and no judge: each such completion is without a reward, and the log says what share they are."""
    told: dict[str, float] = {}
    call(panel(None, tmp_path, min_reward_coverage=0), [answer(RIGHT)] * 4, tests_json=[""] * 4, log_metric=told.__setitem__)
    assert told["frac_reward_none"] == 1.0 and "frac_programs_passed" not in told


def test_a_judge_that_stays_down_ends_the_run_as_soon_as_that_is_certain(service: Service, tmp_path: Path) -> None:
    service.reply = by_the_code
    this = panel(service, tmp_path, coverage_window=5, min_reward_coverage=0.6, rewards=("judge",))
    call(this, judged(None, None, None, None))
    call(this, judged(None, None, None, None))  # three good batches could still bring 0.6
    with pytest.raises(JudgeUnavailable, match=r"known for 0 of the last 12 .*HTTP 503"):
        call(this, judged(None, None, None, None))


def test_a_judge_that_breaks_its_answers_off_is_told_as_the_cause(service: Service, tmp_path: Path) -> None:
    service.reply = lambda number, prompt: Reply('{"score": 1}', finish="length")
    this = panel(service, tmp_path, rewards=("judge",))
    with pytest.raises(JudgeUnavailable, match=r"known for 0 of the last 12 completions; .*last failure: .*broken off: length"):
        for _ in range(3):
            assert call(this, judged(1.0, 1.0, 1.0, 1.0))["judge"] == [None] * 4, "no score, and none of 1.0"


def test_an_outage_slides_out_of_the_window(service: Service, tmp_path: Path) -> None:
    service.reply = by_the_code
    this = panel(service, tmp_path, coverage_window=4, min_reward_coverage=0.5, rewards=("judge",))
    for outage in (True, True, False, False, False, True, False, True):
        call(this, judged(*([None] * 4 if outage else [0.1, 0.2, 0.3, 0.4])))
    assert this.coverage() == 0.5
    with pytest.raises(JudgeUnavailable):
        call(this, judged(None, None, None, None))


def test_a_run_shorter_than_the_window_is_checked_at_its_end(service: Service, tmp_path: Path) -> None:
    service.reply = by_the_code
    this = panel(service, tmp_path, coverage_window=10, rewards=("judge",))
    this.check(last=True)  # nothing was scored
    call(this, judged(1.0, None, None, 0.0))
    with pytest.raises(JudgeUnavailable):
        this.check(last=True)


def _gone(*_: Any, **__: Any) -> list[sandbox.Settled]:
    raise SandboxUnavailable("cannot start an isolated interpreter")


@pytest.mark.usefixtures("isolation")
@pytest.mark.parametrize("least", [0.8, 0.0])
def test_a_sandbox_that_stays_away_ends_the_run_even_where_no_coverage_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, least: float
) -> None:
    this = panel(None, tmp_path, coverage_window=4, min_reward_coverage=least)
    answers = [answer(RIGHT), answer(WRONG)]
    call(this, answers, tests_json=[TESTS] * 2)
    monkeypatch.setattr(sandbox, "grade_surely", _gone)
    with pytest.raises(Unavailable, match=r"known for \d of the last \d .*cannot start an isolated interpreter") as caught:
        for _ in range(5):
            assert call(this, answers, tests_json=[TESTS] * 2)["execution"] == [None, None]
    assert not isinstance(caught.value, JudgeUnavailable)
    lost = 2 if least else 8  # of 4 batches, 3 can no longer reach 0.8; a window of nothing needs all 4
    assert this.metrics()["execution/unavailable"] == this.metrics()["unknown/execution"] == lost


@pytest.mark.usefixtures("isolation")
def test_a_run_of_which_nothing_is_known_fails_at_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "grade_surely", _gone)
    this = panel(None, tmp_path, min_reward_coverage=0)
    call(this, [answer(RIGHT)], tests_json=[TESTS])
    with pytest.raises(Unavailable):
        this.check(last=True)


def test_a_row_without_a_statement_cannot_be_judged(service: Service, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="statement"):
        call(panel(service, tmp_path), judged(1.0, 1.0), statement=[None, None])


def test_groups_may_span_processes(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes hold half a group each: the other half's outage drops ours as well."""
    from gwen25.rewards import panel as room

    service.reply = by_the_code
    this = panel(service, tmp_path, none_policy="group", num_generations=4, rewards=("format_exact", "judge"))
    other = [_Scored({"format_exact": 1.0, "judge": 1.0}, True), _Scored({"format_exact": 1.0, "judge": None}, False)]
    monkeypatch.setattr(room, "_gather", lambda mine: ([(other, Counter({"completions": 2})), mine], 1))
    assert call(this, judged(1.0, 0.0))["judge"] == [None, None]
    assert this.coverage() == 0.75 and this.metrics()["completions"] == 4 and this.metrics()["groups"] == 1


def _meet(rank: int, store: str, out: str) -> None:
    import torch

    from gwen25.rewards.panel import _gather

    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    mine = ([_Scored({"judge": 0.5}, True)], Counter(known=1)) if rank == 0 else ([], Counter(known=2))
    parts, here = _gather(mine)
    Path(out, str(rank)).write_text(json.dumps([[len(rows) for rows, _ in parts], [counts["known"] for _, counts in parts], here]))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_real_processes_meet(tmp_path: Path) -> None:
    import torch.multiprocessing as processes

    processes.spawn(_meet, (str(tmp_path / "store"), str(tmp_path)), nprocs=2)
    assert [json.loads((tmp_path / rank).read_text()) for rank in "01"] == [[[1, 0], [1, 2], 0], [[1, 0], [1, 2], 1]]


def _train(
    tiny_model: Path, folder: Path, panel: Panel, scripted: list[list[str]], *, cut_off: tuple[int, ...] = (), **settings: Any
) -> list[list[float]]:
    """Real GRPO steps of TRL with these completions in place of the model's; the advantages of each step.

    `cut_off`: which of a step's completions do not end in the end token.
    """
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    batches, advantages = iter(scripted), []

    class Scripted(GRPOTrainer):  # type: ignore[misc]
        def _generate(self, prompts: Any, *more: Any) -> Any:
            made = super()._generate(prompts, *more)
            ends = [[OTHER, OTHER if at in cut_off else END] for at in range(len(prompts))]
            return made[0], ends, *made[2:]

        def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, ids: Any) -> Any:
            return super()._calculate_rewards(inputs, prompts, next(batches), ids)

        def _generate_and_score_completions(self, inputs: Any) -> Any:
            output = super()._generate_and_score_completions(inputs)
            advantages.append(output["advantages"].tolist())
            return output

    size = len(scripted[0])
    rows = [{"prompt": f"{row} ", "statement": f"problem {row}"} for row in range(size // panel.config.num_generations)]
    args = GRPOConfig(
        output_dir=str(folder / "trainer"), per_device_train_batch_size=size, num_generations=panel.config.num_generations,
        max_completion_length=8, max_steps=len(scripted), use_cpu=True, bf16=False, gradient_checkpointing=False, report_to=[],
        save_strategy="no", logging_steps=1, reward_weights=panel.weights(), seed=1, disable_tqdm=True, beta=0.04, **settings,
    )  # fmt: skip
    trainer = Scripted(
        model=AutoModelForCausalLM.from_pretrained(tiny_model),
        reward_funcs=panel.functions(),
        args=args,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(tiny_model),
    )
    stops = [*trainer.eos_token_ids, trainer.processing_class.pad_token_id]
    assert END in stops and OTHER not in stops
    trainer.train()
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())
    return advantages


def _alone(rewards: list[float]) -> list[float]:
    """TRL's advantages of a group that holds just these rewards."""
    mean, spread = statistics.mean(rewards), statistics.stdev(rewards) if len(rewards) > 1 else 0.0
    return [(reward - mean) / (spread + 1e-4) for reward in rewards]


def close(left: list[float], right: list[float]) -> bool:
    return len(left) == len(right) and all(math.isclose(a, b, abs_tol=1e-3) for a, b in zip(left, right, strict=True))


def test_an_unknown_completion_has_no_advantage_and_its_siblings_their_own(service: Service, tiny_model: Path, tmp_path: Path) -> None:
    service.reply = by_the_code
    this = panel(service, tmp_path, none_policy="completion", min_reward_coverage=0)
    right, lost, wrong, half = judged(1.0, None, 0.0, 0.5)
    steps = _train(tiny_model, tmp_path, this, [[right, lost, wrong, half, *judged(1.0, 0.0, 0.0, 0.0)], judged(*[None] * 7, 1.0)])
    known = _alone([1.2, 0.2, 0.7])
    assert close(steps[0][:4], [known[0], 0.0, known[1], known[2]])
    assert close(steps[0][4:], _alone([1.2, 0.2, 0.2, 0.2])), "another group feels nothing of it"
    assert steps[1] == [0.0] * 8, "nobody is compared with nobody"


def test_a_naive_none_would_have_punished(service: Service, tiny_model: Path, tmp_path: Path) -> None:
    """The same outage, with correctness None beside format rewards, as TRL sees it without the panel's policy."""
    service.reply = by_the_code
    this = panel(service, tmp_path, min_reward_coverage=0)
    this._apply_policy = lambda rows: None  # type: ignore[method-assign]
    steps = _train(tiny_model, tmp_path, this, [judged(1.0, None, 1.0, 1.0)])
    assert steps[0][1] < -1, "the unknown completion counts as wrong: this is what the panel is for"


def test_policy_group_keeps_the_order_of_form_and_shifts_nobody(service: Service, tiny_model: Path, tmp_path: Path) -> None:
    service.reply = by_the_code
    this = panel(service, tmp_path, none_policy="group", min_reward_coverage=0)
    right, lost, wrong = judged(1.0, None, 0.0)
    sloppy = right + "\nThat is all."
    steps = _train(tiny_model, tmp_path, this, [[right, lost, wrong, sloppy, *judged(1.0, 0.0, 0.5, 0.0)]])
    assert close(steps[0][:4], _alone([0.2, 0.2, 0.2, 0.08])), "form alone, the same for known and unknown"
    assert close(steps[0][4:], _alone([1.2, 0.2, 0.7, 0.2]))


@pytest.mark.parametrize("scale", ["batch", "none"])
def test_an_unknown_completion_has_no_advantage_however_rewards_are_scaled(
    service: Service, tiny_model: Path, tmp_path: Path, scale: str
) -> None:
    service.reply = by_the_code
    this = panel(service, tmp_path, min_reward_coverage=0)
    steps = _train(tiny_model, tmp_path, this, [judged(1.0, None, 0.0, None)], scale_rewards=scale)
    spread = 1.0 if scale == "none" else statistics.stdev([1.2, 0.2]) + 1e-4
    assert close(steps[0], [0.5 / spread, 0.0, -0.5 / spread, 0.0])


def test_the_only_finisher_is_not_praised_over_siblings_that_were_cut_off(service: Service, tiny_model: Path, tmp_path: Path) -> None:
    """A wrong but well-formed answer among answers that the limit cut: TRL alone would give it an advantage of 1.5."""
    service.reply = by_the_code
    this, cut = panel(service, tmp_path), "thinking and thinking"
    wrong, first, second = judged(0.0, 1.0, 0.5)
    step = [cut, cut, cut, wrong, cut, first, cut, second]
    [advantages] = _train(tiny_model, tmp_path, this, [step], cut_off=(0, 1, 2, 4, 6), mask_truncated_completions=True)
    assert advantages[:4] == [0.0] * 4
    assert close(advantages[4:], [0.0, _alone([1.2, 0.7])[0], 0.0, _alone([1.2, 0.7])[1]])
    metrics = this.metrics()
    assert metrics["truncated"] == 5 and metrics["coverage"] == 1.0, "what was cut off was never to be judged"
    assert (metrics["groups"], metrics["groups/compared"]) == (2, 1)
    assert len(service.prompts) == 3, "and nobody was asked about it"


def test_a_step_in_which_every_completion_was_cut_off_teaches_nothing(service: Service, tiny_model: Path, tmp_path: Path) -> None:
    this = panel(service, tmp_path, none_policy="group")
    steps = [judged(1.0, 0.0, 1.0, 0.0)]
    assert _train(tiny_model, tmp_path, this, steps, cut_off=(0, 1, 2, 3), mask_truncated_completions=True) == [[0.0] * 4]
    assert this.coverage() is None and this.metrics()["groups/compared"] == 0
    this.check(last=True)


def test_without_the_mask_a_completion_that_was_cut_off_is_scored(service: Service, tmp_path: Path) -> None:
    this = panel(service, tmp_path, mask_truncated_completions=False)
    table = call(this, ["thinking and thinking"] * 2, completion_ids=[[OTHER], [END]])
    assert table["judge"] == table["format_exact"] == [0.0, 0.0] and this.metrics()["truncated"] == 0


@pytest.mark.parametrize("policy", ["completion", "group"])
def test_a_cut_off_sibling_is_no_unknown_one(service: Service, tmp_path: Path, policy: str) -> None:
    service.reply = by_the_code
    table = call(panel(service, tmp_path, none_policy=policy), judged(1.0, 0.0, 1.0, 0.5), completion_ids=[[END], [END], [OTHER], [END]])
    assert table["judge"] == [1.0, 0.0, None, 0.5]
    assert table["format_exact"] == table["format_approximate"] == [1.0, 1.0, None, 1.0]


def test_a_resumed_run_counts_every_step_once(service: Service, tmp_path: Path) -> None:
    """Four steps, the third lost its checkpoint and is done again by another process: the numbers are one process's."""
    service.reply = by_the_code
    batches = [judged(1.0, None, 0.0, 0.5), judged(*[None] * 4), judged(0.1, 0.2, 0.3, None), judged(*[0.7] * 4)]
    settings: dict[str, Any] = {"rewards": ("format_exact", "judge"), "min_reward_coverage": 0.5, "coverage_window": 4}

    def run(folder: Path, steps: range) -> Panel:
        folder.mkdir(exist_ok=True)
        made = panel(service, folder / "judge", folder / "rewards.jsonl", **settings)
        for step in steps:
            call(made, batches[step], trainer_state=SimpleNamespace(global_step=step))
        return made

    straight = run(tmp_path / "straight", range(4))
    run(tmp_path / "resumed", range(3))
    training.keep_until(tmp_path / "resumed" / "rewards.jsonl", 2)
    resumed = run(tmp_path / "resumed", range(2, 4))
    expected = straight.metrics()
    assert expected["completions"] == 16 and expected["unknown/judge"] == 6 and expected["coverage"] == 10 / 16
    # scores of the repeated step come from the judge's cache
    asked = ("judge/requests", "judge/cache_hits")
    assert {**resumed.metrics(), **dict.fromkeys(asked, 0)} == {**expected, **dict.fromkeys(asked, 0)}
    assert panel(service, tmp_path / "judge", tmp_path / "resumed" / "rewards.jsonl", **settings).metrics()["completions"] == 16


def test_the_last_check_sees_what_earlier_attempts_met(service: Service, tmp_path: Path) -> None:
    service.reply = by_the_code
    file, settings = tmp_path / "rewards.jsonl", {"rewards": ("judge",), "coverage_window": 10}
    call(panel(service, tmp_path, file, **settings), judged(*[None] * 4), trainer_state=SimpleNamespace(global_step=0))
    resumed = panel(service, tmp_path, file, **settings)
    call(resumed, judged(*[0.5] * 4), trainer_state=SimpleNamespace(global_step=1))
    with pytest.raises(JudgeUnavailable, match="known for 4 of the last 8"):
        resumed.check(last=True)
