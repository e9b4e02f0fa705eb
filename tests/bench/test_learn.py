"""The experiment's tasks: what is held out is not trained on, constants fail, and the tables say what was measured."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from bench.learn import __main__ as learn
from bench.learn import table, tasks
from bench.learn.families import FAMILIES, GROUPS
from gwen25 import sandbox
from gwen25.benchmarks.problems import problem_of
from gwen25.errors import BadInput, SandboxUnavailable


def test_there_are_enough_families_of_each_group_and_no_task_twice() -> None:
    counts = Counter(family.group for family in FAMILIES.values())
    assert counts["sft"] >= 40 and counts["grpo"] >= 40 and counts["new"] >= 20
    asked = [(family.shape, what) for family in FAMILIES.values() for what in family.what]
    assert len(set(asked)) == len(asked)
    programs = [(family.shape, family.program) for family in FAMILIES.values()]
    assert len(set(programs)) == len(programs)


def test_no_held_out_wording_is_trained_on_whatever_the_seed() -> None:
    heldout = {row["question_content"] for group in GROUPS for row in tasks.heldout_problems(group)}
    for seed in range(3):
        taught = {row["input"] for row in tasks.sft_rows(seed)}
        asked, again = ([row["question_content"] for row in rows(seed)] for rows in (tasks.grpo_problems, tasks.replay_problems))
        assert not heldout & (taught | {*asked, *again})
        assert len(again) == len(asked) and sum(each in taught for each in again) < len(again) / 5  # few by heart
        families = {row["question_title"] for row in tasks.grpo_problems(seed)} | {
            row["id"].rpartition("-")[0] for row in tasks.sft_rows(seed)
        }
        assert not families & {name for name, family in FAMILIES.items() if family.group == "new"}


def test_the_same_seed_gives_the_same_bytes_and_another_one_others() -> None:
    once, again, other = (json.dumps([*tasks.sft_rows(seed), *tasks.grpo_problems(seed)]) for seed in (1, 1, 2))
    assert once == again != other


@pytest.mark.parametrize("group", GROUPS)
def test_shortcuts_fail_and_no_output_fills_most_tests(group: str) -> None:
    for row in tasks.heldout_problems(group):  # type: ignore[arg-type]
        problem = problem_of(row)
        cases = {test.input: test.output for test in problem.tests}
        assert len(cases) == tasks.TESTS
        assert Counter(cases.values()).most_common(1)[0][1] <= tasks.TESTS // 2 + 1
        for output in set(cases.values()):
            assert not tasks.passes(f"print({output.rstrip()!r})", cases), f"{problem.id}: a constant passes"


def test_reference_programs_pass_in_the_sandbox() -> None:
    try:
        sandbox.probe()
    except SandboxUnavailable as error:
        pytest.skip(f"programs cannot be isolated here: {error}")
    jobs = []
    for row in tasks.heldout_problems("sft"):
        problem, family = problem_of(row), FAMILIES[row["question_title"]]
        # the constant is told from the statement by trying all: one of the family's programs must pass
        jobs.append([sandbox.Job(tasks.solution(family, constant), problem.tests) for constant in family.constants])
    verdicts = iter(sandbox.grade_many([job for some in jobs for job in some], workers=2))
    passed = [sum(next(verdicts).passed for _ in some) for some in jobs]
    assert all(count == 1 for count in passed), "exactly one constant fits a problem's tests"


def test_differences_are_over_families_and_a_missing_model_is_not_measured(tmp_path: Path) -> None:
    names = [name for name, family in FAMILIES.items() if family.group == "grpo"][:12]

    def step(model: str, c: int) -> dict[str, object]:
        return {
            "seed": 0,
            "model": model,
            "sampling": "sampled",
            "seconds": 1.0,
            "passes": {f"{name}-h0": [c + n % 2, 4] for n, name in enumerate(names)},
        }

    steps = [step("sft", 1), step("grpo", 3)]
    before, after = (table.rates(steps, model, "sampled", "grpo") for model in ("sft", "grpo"))
    found = table.difference(before, after)
    assert found is not None and found[0] == pytest.approx(0.5) and found[1] < 0.5 < found[2] and found[3] == 12
    assert table.difference({}, after) is None
    page = table.markdown({"steps": steps, "machines": [{"cpu": "x"}], "profile": "cpu", "settings": {}})
    assert "| sft -> grpo | not measured | +50.0 (" in page
    assert "| control | not measured | not measured | not measured |" in page
    alone = {**step("sft", 0), "seed": 1}  # no GRPO of this seed: it is no part of the difference
    assert _differences(page) == _differences(table.markdown({"steps": [*steps, alone], "machines": [], "profile": "cpu", "settings": {}}))


def _differences(page: str) -> list[str]:
    return [line for line in page.splitlines() if line.startswith("| sft -> grpo |")]


def test_seeds_of_another_day_are_added_where_they_can_stand_beside(tmp_path: Path) -> None:
    told = {"settings": {**learn.SETTINGS}, "profile": "cpu", "tasks": "a digest"}
    steps = [{"seed": 0, "model": model} for model in ("base", "sft")]
    file = tmp_path / "results.json"
    file.write_text(json.dumps({**told, "machines": [{"seeds": "0"}], "steps": steps}))
    other = tmp_path / "other.json"
    other.write_text(
        json.dumps({**told, "machines": [{"seeds": "1"}], "steps": [{"seed": 1, "model": "base"}, {"seed": 1, "model": "sft"}]})
    )
    assert learn._known([file], told, [1, 2]) == ([{"seeds": "0"}], steps) and learn._known([], told, [0]) == ([], [])
    both = learn._known([file, other], told, [2])
    assert both == ([{"seeds": "0"}, {"seeds": "1"}], [*steps, {"seed": 1, "model": "sft"}])  # one base is enough
    with pytest.raises(BadInput, match="holds seed 0, which comes twice"):
        learn._known([file], told, [0, 1])
    with pytest.raises(BadInput, match="holds seed 0, which comes twice"):
        learn._known([other, file, file], told, [])
    with pytest.raises(BadInput, match=r"other settings \(grpo.beta\)"):
        learn._known([file], {**told, "settings": {**learn.SETTINGS, "grpo.beta": 0.5}}, [1])
    with pytest.raises(BadInput, match="other families, wordings or tests"):
        learn._known([file], {**told, "tasks": "another"}, [1])
    file.write_text("[]")
    with pytest.raises(BadInput, match=r"not a results\.json"):
        learn._known([file], told, [1])


def test_what_was_seen_can_be_told_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The runs behind docs/measurements.md are of the settings that `make learn` has, and give its table."""
    seen = sorted(Path(learn.__file__).with_name("seen").glob("*.json"))
    assert learn.main(["--seeds", "--known", *map(str, seen), "--out", str(tmp_path)]) == 0
    page = capsys.readouterr().out
    document = (Path(learn.__file__).parents[2] / "docs" / "measurements.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("|") and ("%" in line or " to +" in line)]
    assert len(rows) >= 10 and [row for row in rows if row not in document] == []
