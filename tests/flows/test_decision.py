"""The rule of a retraining: better than the rival, or nothing moves; and the page that says why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flows.decision import data_of, decide, page
from gwen25.artifacts import Artifact, Made, Store
from tests.benchmarks.test_comparison import report

LOW, HIGH = [1, 0, 2, 0] * 20, [2, 0, 3, 0] * 20
OTHER_PROMPT = {"prompt": "the benchmark's base-model prompt", "max_tokens": 2000}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def made(
    store: Store, stage: str, files: dict[str, Any], inputs: dict[str, Artifact] | None = None, externals: dict[str, Any] | None = None
) -> Artifact:
    """An artifact of these JSON files, under a key of its own."""
    key = f"{len(list(store.root.glob('*/*'))):032x}"
    (store.work(stage, key) / "aside").mkdir(parents=True)
    for name, content in files.items():
        path = store.work(stage, key) / "payload" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    return store.publish(Made(stage, 1, key, {}, externals or {}, inputs or {}, {}, {}, {"seconds": 1.0}))


def model(store: Store, revision: str) -> Artifact:
    """A merged model with its lineage, of data at that revision."""
    data = made(store, "dataset", {"rows": revision}, externals={"data": {"id": "nvidia/OpenCodeReasoning", "revision": revision}})
    sft = made(store, "sft", {"a": revision}, {"dataset": data})
    grpo = made(store, "grpo", {"a": revision}, {"dataset": data, "sft": sft})
    return made(store, "merge", {"a": revision}, {"adapter": made(store, "adapters", {"a": revision}, {"adapter": grpo})})


def evaluation(store: Store, passes: list[int], second: list[int] | None = None, **settings: Any) -> Artifact:
    """A report, and that of the other prompt where the model was asked in both ways."""
    files = {"report.json": report(passes, **settings)}
    if second is not None:
        files["base_prompt/report.json"] = report(second, truncated=0, **OTHER_PROMPT)
    return made(store, "evaluate", files)


@pytest.mark.parametrize(("passes", "name"), [(HIGH, "Promoted"), (LOW, "Kept champion"), ([0] * 80, "Kept champion")])
def test_only_a_better_candidate_is_promoted(store: Store, passes: list[int], name: str) -> None:
    champion = model(store, "a" * 40)
    decision = decide(model(store, "b" * 40), champion, evaluation(store, passes), evaluation(store, LOW))
    assert decision.name == name and (decision.verdict == "better") == (name == "Promoted")
    assert decision.words.startswith(f"A: champion merge:{champion.key[:8]}, B: candidate merge:")


def test_what_cannot_be_told_says_what_would_be_needed(store: Store) -> None:
    slightly = [2, 0, 2, 0, *LOW[4:]]
    decision = decide(model(store, "b" * 40), model(store, "a" * 40), evaluation(store, slightly), evaluation(store, LOW))
    assert decision.verdict == "cannot tell" and decision.name == "Kept champion"
    assert decision.comparisons[0]["problems_needed"] > 80 and "To find one of the size seen: about" in decision.words


def test_reports_that_were_not_measured_alike_move_nothing(store: Store) -> None:
    candidate = evaluation(store, HIGH, temperature=1.0)
    decision = decide(model(store, "b" * 40), model(store, "a" * 40), candidate, evaluation(store, LOW))
    assert decision.name == "Kept champion" and "not measured alike (temperature)" in decision.words


@pytest.mark.parametrize(
    ("with_ours", "with_its_own", "name"),
    [
        (LOW, LOW, "Promoted"),
        (HIGH, LOW, "No champion yet"),  # no better than the base model with the same prompt
        (LOW, [5, 5, 5, 5] * 20, "No champion yet"),  # worse than it with the prompt that suits it
        ([0] * 80, HIGH, "Promoted"),  # as good as it there
    ],
)
def test_the_first_champion_must_beat_the_base_model(store: Store, with_ours: list[int], with_its_own: list[int], name: str) -> None:
    base = evaluation(store, with_ours, with_its_own)
    decision = decide(model(store, "b" * 40), None, evaluation(store, HIGH, truncated=0), base)
    assert decision.name == name and len(decision.comparisons) == 2
    assert ("With the other prompt: B is worse" in decision.words) == (with_its_own == [5, 5, 5, 5] * 20)


def test_the_comparison_with_the_same_prompt_decides_whichever_was_asked_first(store: Store) -> None:
    candidate = made(store, "evaluate", {"report.json": report(HIGH, truncated=0, **OTHER_PROMPT)})
    decision = decide(model(store, "b" * 40), None, candidate, evaluation(store, [0] * 80, HIGH))
    assert decision.comparisons[0]["differs"] == {} and decision.name == "No champion yet"


def test_the_page_has_the_figures_the_data_and_what_a_person_can_do(store: Store) -> None:
    candidate, champion = model(store, "b" * 40), model(store, "a" * 40)
    kept = page(decide(candidate, champion, evaluation(store, LOW), evaluation(store, LOW)), store)
    assert (
        kept.startswith("## Kept champion\n\n- candidate")
        and "Both asked in the same way\n\nCannot tell" in kept
        and "| **all, pass@1** | 80 |" in kept
    )
    assert f"- candidate merge:{candidate.key[:8]}: data nvidia/OpenCodeReasoning at {'b' * 12}" in kept
    assert f"`gwen25 promote merge:{candidate.key[:8]}`" in kept and "rollback" not in kept
    promoted = page(decide(candidate, champion, evaluation(store, HIGH), evaluation(store, LOW)), store)
    assert "`gwen25 rollback`" in promoted and "gwen25 promote" not in promoted


def test_data_is_unknown_where_the_lineage_is_gone(store: Store) -> None:
    whole = model(store, "a" * 40)
    assert data_of(store, whole) == {"id": "nvidia/OpenCodeReasoning", "revision": "a" * 40}
    for folder in store.root.glob("dataset/*"):
        folder.rename(store.root / "elsewhere")
    assert data_of(store, whole) is None
    orphan = made(store, "evaluate", {"report.json": report(LOW)})
    assert "unknown" in page(decide(whole, None, orphan, orphan), store)
