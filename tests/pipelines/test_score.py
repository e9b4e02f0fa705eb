"""The score stage on the tiny model, its GGUF in the real llama.cpp: near files pass, ruined ones do not, and nothing is made up."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gwen25 import gguf_writer, llamacpp, samples, slices
from gwen25.chat import FORMATS
from gwen25.config import ScoreConfig, load_config
from gwen25.errors import BadInput
from gwen25.job import Input, Job, Result
from gwen25.pipelines import score
from gwen25.scoring import floors
from gwen25.scoring.forms import Answer, Question
from gwen25.scoring.measure import Score, spread, texts_of

FORMAT = FORMATS["chatml-think"]
FACTS = {"chat_format": {"name": FORMAT.name, "digest": FORMAT.digest}, "base_model": {"digest": "b"}}
needs_llamacpp = pytest.mark.skipif(not llamacpp.can_load(), reason="xllamacpp is not installed")


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact's folder with a model that has learnt to answer a little: the one of the smoke profile before training."""
    from gwen25.samples import tiny

    folder = tmp_path_factory.mktemp("merge")
    tiny.build(folder / "payload", pretrained=True)
    return folder


@pytest.fixture(scope="module")
def gguf(merged: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gguf")
    (folder / "payload").mkdir()
    gguf_writer.write(merged / "payload", folder / "payload" / "m-f16.gguf", "f16", chat_format=FORMAT)
    return folder


def make_job(work: Path, merged: Path, gguf: Path, **overrides: Any) -> Job:
    chosen = {"score.max_problems": 3, "score.max_tokens": 24, "score.positions": 40}
    config = load_config("smoke", overrides={**chosen, **{f"score.{name}": value for name, value in overrides.items()}})
    for name in ("payload", "aside"):
        (work / name).mkdir(parents=True, exist_ok=True)
    file = next((gguf / "payload").glob("*.gguf")).name
    return Job(
        stage="score",
        key="key",
        config=config.score,
        inputs={
            "model": Input("merge", "k" * 32, "d" * 64, merged, FACTS, {}),
            "gguf": Input("gguf", "g" * 32, "d" * 64, gguf, {**FACTS, "file": file, "type": "f16"}, {}),
        },
        externals={"problems": {"digest": "e" * 64}, "window": {"release": "release_v1", "start_date": None, "end_date": None}},
        locations={"problems": str(samples.path("problems.jsonl"))},
        runtime=config.runtime,
        micro_batch=None,
        work=work,
    )


@pytest.fixture(scope="module")
def whole(merged: Path, gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, Result]:
    if not llamacpp.can_load():
        pytest.skip("xllamacpp is not installed")
    job = make_job(tmp_path_factory.mktemp("score"), merged, gguf)
    return job, score.run(job)


def test_an_f16_file_of_a_float32_model_is_as_good_as_it(whole: tuple[Job, Result]) -> None:
    job, result = whole
    metrics = result.metrics
    assert metrics["positions"] == 40 and 0 <= metrics["mean_kl"] < 1e-5 and metrics["top1_agreement"] > 0.97
    assert metrics["problems"] == 3 and metrics["difference"] == 0 and metrics["low"] < 0 < metrics["high"]
    assert metrics["tokens_per_second"] > 0 and metrics["prompt_tokens_per_second"] > 0 and 16 <= metrics["bits_per_weight"] < 17
    assert json.loads((job.payload / "score.json").read_text())["score"]["kl_is"] == "exact", "704 words are fewer than top_k"


def test_the_payload_is_the_same_a_second_time_and_the_speeds_stand_aside(
    whole: tuple[Job, Result], merged: Path, gguf: Path, tmp_path: Path
) -> None:
    job, _ = whole
    again = make_job(tmp_path, merged, gguf)
    score.run(again)
    first, second = ({file.name: file.read_bytes() for file in one.payload.iterdir()} for one in (job, again))
    assert first == second and sorted(first) == ["answers.jsonl", "report.md", "score.json"]
    assert json.loads((again.aside / "score.json").read_text())["score"]["tokens_per_second"] > 0


def test_fewer_sequences_at_once_give_the_same_payload(
    whole: tuple[Job, Result], merged: Path, gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes after an attempt that ran out of memory as it sampled: the phase and its rows are what the retry goes by."""
    seen: list[tuple[str, int]] = []

    @contextmanager
    def phase(name: str, rows: int) -> Iterator[None]:
        seen.append((name, rows))
        yield

    monkeypatch.setattr(slices, "phase", phase)
    job, _ = whole
    again = replace(make_job(tmp_path, merged, gguf, batch_size=3), at_once=2)
    score.run(again)
    assert set(seen) == {("sampling", 2)}
    for file in job.payload.iterdir():
        assert (again.payload / file.name).read_bytes() == file.read_bytes(), file.name


@needs_llamacpp
def test_few_tokens_give_a_lower_bound_that_says_so(whole: tuple[Job, Result], merged: Path, gguf: Path, tmp_path: Path) -> None:
    job = make_job(tmp_path, merged, gguf, top_k=16)
    found = score.run(job).metrics
    told = json.loads((job.payload / "score.json").read_text())["score"]
    assert told["kl_is"] == "lower bound, top 16 and the rest as one" and 0.5 < told["covered"] < 1
    assert found["mean_kl"] <= whole[1].metrics["mean_kl"] + 1e-7


@needs_llamacpp
def test_a_file_below_a_floor_is_not_packaged_and_its_figures_stay(merged: Path, gguf: Path, tmp_path: Path) -> None:
    """Noise in the weights stands in for a bad quantization: the tiny model's rows are too short for q2_k."""
    import numpy as np
    from safetensors.numpy import load_file, save_file

    noisy = tmp_path / "noisy"
    shutil.copytree(merged / "payload", noisy)
    random, weights = np.random.default_rng(0), load_file(noisy / "model.safetensors")
    save_file(
        {name: w + random.normal(0, 0.6 * w.std(), w.shape).astype(w.dtype) for name, w in weights.items()}, noisy / "model.safetensors"
    )
    (tmp_path / "gguf" / "payload").mkdir(parents=True)
    gguf_writer.write(noisy, tmp_path / "gguf" / "payload" / "bad.gguf", "f16", chat_format=FORMAT)
    job = make_job(tmp_path / "work", merged, tmp_path / "gguf", max_pass_drop=0)
    with pytest.raises(BadInput, match=r"bad\.gguf is not packaged: .*min_top1_agreement=.*max_kl=.*gguf\.type=q8_0.*score\.json") as error:
        score.run(job)
    named = Path(str(error.value).rpartition(": ")[2])
    figures = json.loads(named.read_text())["score"]
    assert figures["mean_kl"] > job.config.max_kl and figures["top1_agreement"] < job.config.min_top1_agreement


def test_without_llamacpp_a_floor_is_an_error_unless_it_is_waived(
    merged: Path, gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llamacpp, "can_load", lambda: False)
    with pytest.raises(BadInput, match=r"xllamacpp is not installed.*score\.max_kl=.*score\.require=false"):
        score.run(make_job(tmp_path / "a", merged, gguf))
    waived = make_job(tmp_path / "b", merged, gguf, require=False)
    result = score.run(waived)
    assert result.metrics == {} and result.facts["measured"] is False
    assert json.loads((waived.payload / "score.json").read_text())["unchecked"]
    unasked = make_job(tmp_path / "c", merged, gguf, min_top1_agreement=None, max_kl=None)
    assert score.run(unasked).facts["measured"] is False


def test_what_was_not_measured_reaches_no_floor() -> None:
    nothing = Score("m", "ollama")
    assert len(floors.missed(nothing, ScoreConfig(max_pass_drop=0.1))) == 3
    assert not floors.missed(nothing, ScoreConfig(min_top1_agreement=None, max_kl=None))
    at_the_floor = Score("m", "llama.cpp", mean_kl=0.2, top1_agreement=0.8, difference=-0.1, problems=10)
    assert not floors.missed(at_the_floor, ScoreConfig(min_top1_agreement=0.8, max_kl=0.2, max_pass_drop=0.1))


def test_positions_are_spread_over_the_answers_and_short_ones_leave_theirs() -> None:
    questions = [Question([], [1, 2]) for _ in range(3)]
    answers = [Answer(list(range(length)), "", False) for length in (2, 50, 50)]
    found = texts_of(questions, answers, 30)
    assert [text.positions for text in found] == [2, 14, 14] and all(len(text.ids) == 2 + text.positions for text in found)
    assert sum(text.positions for text in texts_of(questions, answers, 1000)) == 102


def test_the_subset_is_even_and_never_a_problem_twice() -> None:
    from gwen25.data import Problem

    problems = [Problem(str(n), "x", ()) for n in range(10)]
    assert [problem.id for problem in spread(problems, 4)] == ["0", "2", "5", "7"]
    assert spread(problems, 99) == problems
