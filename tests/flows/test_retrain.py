"""A retraining, for real: on data that teach the smoke profile's model one kind of problem, then on data that do not."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from gwen25 import champion, samples
from gwen25.artifacts import Store
from gwen25.errors import BadInput
from tests.benchmarks.lcb_rows import row, written

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]  # two candidates are trained: a minute on two idle cores
STATEMENT = "Print the word that is read, such as {0}.\n\nInput\n\nOne line holds a word.\n\nOutput\n\nPrint the word."
EXAMPLES = "\n\nExamples\n\nInput\n\n{0}\n\n\nOutput\n\n{0}\n\n\nInput\n\n{1}\n\n\nOutput\n\n{1}"
WORDS = [first + second for first in ("ka", "lo", "mi", "ne", "ru") for second in ("ba", "de", "fi", "go", "su")]
OTHER_WORDS = [first + second for first in ("ta", "ve") for second in ("bi", "do", "fe", "gu")]
SHORT = {  # what is not looked at here is kept small; greedy and at most 64 tokens, so the two models are judged in a second
    **{"sft.num_train_epochs": 10, "grpo.max_steps": 1, "grpo.warmup_steps": 0, "grpo.learning_rate": 1e-6},
    **{"grpo.max_completion_length": 64, "evaluate.n": 1, "evaluate.temperature": 0, "evaluate.max_tokens": 64},
}


def lesson(word: str, other: str) -> dict[str, Any]:
    """A row whose program prints what it reads."""
    answer = "<think>\nIt is printed as it is.\n</think>\n\n```python\nprint(input())\n```"
    about = {"source": "x", "license": "apache-2.0", "dataset": "words", "split": "train", "difficulty": "easy"}
    statement = (STATEMENT + EXAMPLES).format(word, other)
    return {"id": word, "input": statement, "output": answer, "solution": "print(input())", **about}


def problem(word: str) -> dict[str, Any]:
    tests = [{"input": f"{given}\n", "output": f"{given}\n", "testtype": "stdin"} for given in (word, word[::-1])]
    hidden = {"public_test_cases": json.dumps(tests[:1]), "private_test_cases": json.dumps(tests[1:])}
    return row(question_id=word, question_content=STATEMENT.format(word), **hidden)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GWEN25_HOME", str(tmp_path / "home"))
    written(tmp_path, *map(problem, OTHER_WORDS))
    (tmp_path / "good.jsonl").write_text("".join(json.dumps(lesson(*pair)) + "\n" for pair in zip(WORDS, WORDS[::-1], strict=True)))
    (tmp_path / "bad.jsonl").write_text("".join(samples.path("rows.jsonl").read_text().splitlines(keepends=True)[:24]))
    return tmp_path


def retrain(home: Path, rows: str, **overrides: Any) -> tuple[Any, float]:
    """The flow's final state, and its wall seconds."""
    from flows.retrain import retrain as flow

    data = {"dataset.source": str(home / rows), "evaluate.problems": str(home / "problems.jsonl")}
    started = time.monotonic()
    return flow(profile="smoke", overrides={**SHORT, **data, **overrides}, return_state=True), time.monotonic() - started


def page() -> str:
    """The newest decision as Prefect's UI shows it."""
    from prefect.artifacts import Artifact

    found = Artifact.get("retrain-decision")
    assert found is not None and isinstance(found.data, str)
    return found.data


def tags(state: Any) -> list[str]:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return list(client.read_flow_run(state.state_details.flow_run_id).tags)


def made(store: Store) -> list[str]:
    return sorted(manifest.stage for manifest in store.manifests())


def test_the_name_moves_to_a_better_model_and_to_no_other(home: Path) -> None:
    store = Store.default()

    # no champion: better than the base model, asked in both ways, so the first candidate is packaged and named
    first, _ = retrain(home, "good.jsonl")
    assert first.is_completed() and first.name == "Completed", first.message
    best = champion.current(store)
    assert best is not None and best == first.result().candidate and first.result().verdict == "better"
    assert first.message.startswith(
        f"Promoted: A: the base model, B: candidate {champion.label(best)}. B is better than A: pass@1 +100.00 points"
    )
    assert made(store).count("evaluate") == 2 and made(store).count("ollama") == 1
    assert page().startswith("## Promoted") and page().count("Rules: strict") == 2
    assert champion.history(store)[0]["why"] in first.message and tags(first) == ["promoted"]

    # the same data: no node runs
    before = made(store)
    second, seconds = retrain(home, "good.jsonl")
    assert second.is_completed() and seconds < 30 and made(store) == before  # 2 s on an idle machine
    assert second.message.startswith("Nothing new: a file, sha256 ") and champion.label(best) in second.message

    # other data: the candidate is worse. No failure; the champion stays, its evaluation was a hit, and nothing is packaged
    third, _ = retrain(home, "bad.jsonl", **{"sft.max_steps": 2})
    assert third.is_completed() and third.message.startswith("Kept champion: ") and third.result().verdict == "worse", third.message
    assert champion.current(store) == best and page().startswith("## Kept champion")
    assert made(store) == sorted([*before, "dataset", "sft", "grpo", "adapters", "merge", "evaluate"])

    # a person may promote it all the same, and go back; then no retraining names it again, were it better or not
    worse = third.result().candidate
    champion.promote(store, worse, "by hand")
    champion.rollback(store)
    fourth, seconds = retrain(home, "bad.jsonl", **{"sft.max_steps": 2})
    assert fourth.message.startswith("Nothing new: ") and fourth.message.endswith(f"makes {champion.label(worse)}, which was rolled back.")
    assert seconds < 30 and champion.current(store) == best


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"evaluate.baseline": False}, "the base model is the one to beat"),
        ({"evaluate.backend": "openai", "evaluate.base_url": "http://127.0.0.1:1/v1"}, "serves another one"),
        ({"gguf.typ": "f16"}, "did you mean gguf.type"),
    ],
)
def test_what_would_leave_it_without_a_decision_is_refused_before_anything_runs(
    home: Path, overrides: dict[str, Any], expected: str
) -> None:
    state, _ = retrain(home, "good.jsonl", **overrides)
    failure = state.result(raise_on_failure=False)
    assert state.is_failed() and isinstance(failure, BadInput) and expected in str(failure)
    assert not made(Store.default())
