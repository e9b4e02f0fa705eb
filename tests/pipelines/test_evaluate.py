"""The evaluation stage on the tiny model: what it writes, that it goes on where it died, and what its page says."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from gwen25 import cli, samples
from gwen25.benchmarks import livecodebench
from gwen25.benchmarks.judging import VERSION
from gwen25.benchmarks.problems import digest
from gwen25.chat import ChatFormat
from gwen25.config import load_config
from gwen25.errors import BadInput, SandboxUnavailable
from gwen25.generate import Sample, Sampling
from gwen25.job import Input, Job, Result
from gwen25.pipelines import evaluate
from gwen25.sandbox import sure

FIXED = {"evaluate.n": 5, "evaluate.max_tokens": 12, "evaluate.batch_size": 8, "evaluate.temperature": 1.0}


def make_job(work: Path, model: Path | None = None, merged: Path | None = None, problems_at: Path | None = None, **overrides: Any) -> Job:
    settings = {**FIXED, **{f"evaluate.{name}": value for name, value in overrides.items()}}
    config = load_config("smoke", overrides=settings)
    for name in ("payload", "aside"):
        (work / name).mkdir(parents=True, exist_ok=True)
    inputs = {"model": Input("merge", "k" * 32, "d" * 64, merged, {"chat_format": "chatml-think"}, {})} if merged else {}
    return Job(
        stage="evaluate",
        key="key",
        config=config.evaluate,
        inputs=inputs,
        externals={"problems": {"digest": "e" * 64}, **({} if merged else {"model": {"digest": "f" * 64}})},
        locations={"problems": str(problems_at or samples.path("problems.jsonl")), **({"model": str(model)} if model else {})},
        runtime=config.runtime,
        micro_batch=None,
        work=work,
    )


def payload(job: Job) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in job.payload.iterdir()}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def cells(page: str) -> dict[str, list[str]]:
    """The cells of the page's tables by the first of each row."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("| ")]
    return {row[0]: row[1:] for row in rows}


@pytest.fixture(scope="module")
def whole(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, Result]:
    """One evaluation of the tiny model from beginning to end."""
    job = make_job(tmp_path_factory.mktemp("whole"), tiny_model)
    return job, evaluate.run(job)


def test_the_payload_is_a_report_and_every_sample(whole: tuple[Job, Result]) -> None:
    job, result = whole
    assert sorted(payload(job)) == ["report.json", "report.md", "results.png", "samples.jsonl"]
    summary = json.loads((job.payload / "report.json").read_text())
    problems = livecodebench.load(samples.path("problems.jsonl"))
    rows = lines(job.payload / "samples.jsonl")
    assert [row["question_id"] for row in rows] == [problem.id for problem in problems]
    assert all(len(row[name]) == 5 for row in rows for name in ("outputs", "statuses", "truncated", "tokens"))
    assert summary["samples"] == 5 * len(problems) == sum(summary["verdicts"].values())
    assert summary["truncated"] == sum(sum(row["truncated"]) for row in rows)
    assert summary["no_code"] == sum(row["statuses"].count("no_code") for row in rows) == summary["verdicts"].get("no_code", 0)
    assert summary["problems"]["all"] == len(problems) == sum(count for name, count in summary["problems"].items() if name != "all")
    assert result.metrics["pass@1"] == summary["scores"]["all"]["1"]["value"]
    assert result.facts["n"] == 5 and result.facts["problems_from"] == {"digest": "e" * 64}
    page = (job.payload / "report.md").read_text()
    assert "not with the model's own template" in page and "strict" in page
    assert (job.payload / "results.png").read_bytes().startswith(b"\x89PNG")
    assert not any(str(job.work).encode() in data for data in payload(job).values())


@pytest.mark.parametrize("kept", [0, 1, 5])
def test_an_evaluation_that_died_ends_with_the_same_bytes(
    whole: tuple[Job, Result], tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    done, _ = whole
    job = make_job(tmp_path, tiny_model)
    journal = (done.aside / "samples.jsonl").read_bytes().splitlines(keepends=True)
    (job.aside / "samples.jsonl").write_bytes(b"".join(journal[:kept]) + journal[kept][: len(journal[kept]) // 2])
    (job.aside / "verdicts.jsonl").write_bytes((done.aside / "verdicts.jsonl").read_bytes().splitlines(keepends=True)[0][:-1])
    asked: list[set[int]] = []
    real = evaluate.Transformers.generate

    def watched(self: Any, prompts: Sequence[Any], sampling: Sampling, skip: set[int]) -> Iterator[tuple[int, list[Sample]]]:
        asked.append(skip)
        return real(self, prompts, sampling, skip)

    monkeypatch.setattr(evaluate.Transformers, "generate", watched)
    evaluate.run(job)
    assert [len(skip) for skip in asked] == [kept]
    assert payload(job) == payload(done)
    assert sorted((job.aside / "samples.jsonl").read_bytes().splitlines()) == sorted(line.strip() for line in journal)


def test_death_in_the_middle_of_sampling_loses_one_batch(
    whole: tuple[Job, Result], tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, real = make_job(tmp_path, tiny_model), evaluate.Transformers.generate

    def dying(self: Any, *arguments: Any) -> Iterator[tuple[int, list[Sample]]]:
        for count, made in enumerate(real(self, *arguments)):
            if count == 3:
                raise MemoryError
            yield made

    with monkeypatch.context() as patch:
        patch.setattr(evaluate.Transformers, "generate", dying)
        with pytest.raises(MemoryError):
            evaluate.run(job)
    assert len(lines(job.aside / "samples.jsonl")) == 3
    assert payload(job) == {}
    evaluate.run(job)
    assert payload(job) == payload(whole[0])


@pytest.mark.slow
@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_child_is_taken_up_by_the_next(tiny_model: Path, tmp_path: Path, sig: signal.Signals) -> None:
    longer = {"max_tokens": 60, "batch_size": 5, "max_problems": 8}  # eight batches, long enough to be hit between two
    job, straight = make_job(tmp_path / "killed", tiny_model, **longer), make_job(tmp_path / "straight", tiny_model, **longer)
    request = {
        "stage": "evaluate",
        "key": job.key,
        "section_name": "evaluate",
        "section": job.config.model_dump(mode="json"),
        "inputs": {},
        "externals": job.externals,
        "locations": job.locations,
        "runtime": job.runtime.model_dump(mode="json"),
        "micro_batch": None,
    }
    (job.work / "request.json").write_text(json.dumps(request))
    command = [sys.executable, "-m", "gwen25.pipelines.evaluate", str(job.work)]
    journal = job.aside / "samples.jsonl"
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while child.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") >= 2):
        time.sleep(0.01)
    child.send_signal(sig)
    assert child.wait(5) == -sig  # it has nothing to save: what was answered is on disk
    assert 2 <= journal.read_bytes().count(b"\n") < 8
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "answered by an earlier attempt" in done.stdout, done.stdout + done.stderr
    result = json.loads((job.work / "result.json").read_text())
    assert result["metrics"] == evaluate.run(straight).metrics
    assert payload(job) == payload(straight)


def test_nothing_is_loaded_where_all_is_answered(whole: tuple[Job, Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job(tmp_path, tmp_path / "no model here")
    (job.aside / "samples.jsonl").write_bytes((whole[0].aside / "samples.jsonl").read_bytes())
    evaluate.run(job)
    assert payload(job) == payload(whole[0])


def test_a_merged_model_is_evaluated_in_its_own_format(whole: tuple[Job, Result], tiny_model: Path, tmp_path: Path) -> None:
    merged = tmp_path / "merged"
    merged.mkdir()
    (merged / "payload").symlink_to(tiny_model)
    job = make_job(tmp_path / "work", merged=merged)
    result = evaluate.run(job)
    assert result.metrics == whole[1].metrics
    assert result.facts["model"] == "merge:kkkkkkkk"
    assert "own template" not in (job.payload / "report.md").read_text()


def test_a_model_of_another_version_of_its_format_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    job = make_job(tmp_path, merged=tiny_model)
    stale = Input("merge", "k" * 32, "d" * 64, tiny_model, {"chat_format": {"name": "chatml-think", "digest": "0" * 64}}, {})
    with pytest.raises(BadInput, match="another version of the chat format"):
        evaluate.run(Job(**{**vars(job), "inputs": {"model": stale}}))


class Recited:
    """A model that knows the samples' first answer by heart and gives another text for the rest: what is judged is real."""

    def __init__(self, texts: list[list[str]]):
        self.texts = texts

    def generate(self, prompts: Sequence[Any], sampling: Sampling, skip: Any = ()) -> Iterator[tuple[int, list[Sample]]]:
        for index in range(len(prompts)):
            yield index, [Sample(text, 1, False) for text in self.texts[index]]


def test_scores_count_what_the_sandbox_passed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    problems = tmp_path / "problems.jsonl"
    test = {"input": "4\n", "output": "8\n", "testtype": "stdin"}
    row = {"question_content": "Print twice the number.", "starter_code": "", "contest_date": "2024-01-01", "metadata": "{}"}
    asked = {"a": "hard", "b": "easy"}
    rows = [
        {**row, "question_id": name, "difficulty": kind, "public_test_cases": [test], "private_test_cases": []}
        for name, kind in asked.items()
    ]
    problems.write_text("".join(json.dumps(found) + "\n" for found in rows))
    right, wrong = "x\n</think>\n\n```python\nprint(2 * int(input()))\n```", "x\n</think>\n\n```python\nprint(4)\n```"
    monkeypatch.setattr(evaluate._Model, "load", lambda self, _: Recited([[right, wrong], [wrong, "no code"]]))
    job = make_job(tmp_path / "work", tmp_path, problems_at=problems, n=2)
    result = evaluate.run(job)
    summary = json.loads((job.payload / "report.json").read_text())
    assert [(row["question_id"], row["c"], row["c_official"]) for row in summary["rows"]] == [("a", 1, 1), ("b", 0, 0)]
    assert summary["verdicts"] == summary["verdicts_official"] == {"no_code": 1, "passed": 1, "wrong": 2}
    passed = {"pass@1": 0.25, "pass@1/easy": 0.0, "pass@1/hard": 0.5}
    assert result.metrics == {
        **passed,
        **{f"official/{name}": value for name, value in passed.items()},
        "truncated": 0.0,
        "no_code": 0.25,
        "from_draft": 0.0,
        "samples": 4,
    }
    assert summary["scores"]["all"]["5"] is None  # two samples say nothing about five
    page = (job.payload / "report.md").read_text()
    assert "| **pass@1** |" in page and "pass@5" not in page
    assert [row["digest"] for row in summary["rows"]] == [digest(problem) for problem in livecodebench.load(problems)]
    assert summary["window"] == {"start_date": None, "end_date": None, "first": "2024-01-01", "last": "2024-01-01"}


class ByPrompt(Recited):
    """Knows one problem, and answers each of its prompts in its own way."""

    def __init__(self, chat: list[Sample], base: list[Sample]):
        self.samples, self.asked = {"chatml-think": chat, "plain": base}, list[str]()

    def load(self, _: Any, chat_format: ChatFormat) -> Recited:
        model = Recited([])
        samples, asked = self.samples[chat_format.name], self.asked

        def generate(prompts: Sequence[Any], sampling: Sampling, skip: Any = ()) -> Iterator[tuple[int, list[Sample]]]:
            asked.append(f"{sampling.max_tokens} tokens after {chat_format.render(prompts[0])[-12:]!r}")
            yield 0, samples

        model.generate = generate  # type: ignore[method-assign]
        return model


TWICE = {
    "question_id": "abc343_a",
    "question_content": "Print twice the number.",
    "contest_date": "2024-02-17T00:00:00",
    "public_test_cases": [{"input": "4\n", "output": "8\n", "testtype": "stdin"}],
    "private_test_cases": [],
}


def test_a_base_model_is_asked_in_both_ways_and_its_page_shows_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "problems.jsonl").write_text(json.dumps(TWICE) + "\n")
    right = "print(2 * int(input()))"
    model = ByPrompt(
        chat=[Sample("no idea", 1, False), Sample(f"</think>\n```python\n{right}\n```", 1, False)],
        base=[Sample(f"{right}\n\n### Question\nAnother one", 2000, True), Sample(f"{right}\nand that is it", 1, False)],
    )
    monkeypatch.setattr(evaluate._Model, "load", lambda self, chat_format: model.load(self, chat_format))
    job = make_job(tmp_path / "work", tmp_path, problems_at=tmp_path / "problems.jsonl", n=2, prompt="both", max_tokens=9999)
    result = evaluate.run(job)
    ours, theirs = (json.loads((job.payload / name / "report.json").read_text()) for name in ("", "base_prompt"))
    assert (ours["verdicts"], theirs["verdicts"]) == ({"no_code": 1, "passed": 1}, {"error": 1, "passed": 1})
    assert (ours["max_tokens"], theirs["max_tokens"], theirs["from_draft"]) == (9999, 2000, None)
    assert model.asked == ["9999 tokens after 'ant\\n<think>\\n'", "2000 tokens after '### Answer\\n\\n'"]
    [judged] = lines(job.payload / "base_prompt" / "samples.jsonl")
    assert judged["outputs"][0] == f"{right}\n\n" and judged["truncated"] == [False, False], "cut at the end mark, and so not cut off"
    assert (result.metrics["pass@1"], result.metrics["base_prompt/official/pass@1"]) == (0.5, 0.5)
    found = cells((job.payload / "report.md").read_text())
    assert found["**pass@1**"] == found["**pass@1, official rules**"] and len(found["**pass@1**"]) == 2
    assert found["max_tokens"] == ["9999", "2000"] and found["programs from unclosed reasoning"] == ["0 of 2, 0 passed", "–"]


def test_the_tiny_model_goes_on_after_the_base_prompt(tiny_model: Path, tmp_path: Path) -> None:
    job = make_job(tmp_path, tiny_model, prompt="base", max_problems=1, n=2, max_tokens=3)
    result = evaluate.run(job)
    assert sorted(payload(job)) == ["report.json", "report.md", "results.png", "samples.jsonl"]
    assert result.facts["prompt"] == "the benchmark's base-model prompt" and result.metrics["samples"] == 2
    assert "worked example of our own" in (job.payload / "report.md").read_text()


def test_a_report_states_both_rules_and_what_flawed_problems_do_to_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = "print(2 * int(input()))"
    texts = [
        f"</think>\n```python\n{right}\n```\nFor example\n```\n4\n```",  # officially the last two fences hold the example
        f"</think>\n```python\nprint(gcd(0, {right[6:-1]}))\n```",  # officially gcd is imported
        f"```python\n{right}\n```\n</think>\nDone.",  # strictly a draft
        f"</think>\n```python\n{right}\n```",
    ]
    rows = [TWICE, {**TWICE, "question_id": "abc337_e"}, {**TWICE, "question_id": "b"}]
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(evaluate._Model, "load", lambda self, _: Recited([texts[3:] * 4, texts[:1] * 4, texts]))
    job = make_job(tmp_path / "work", tmp_path, problems_at=tmp_path / "problems.jsonl", n=4)
    evaluate.run(job)
    summary = json.loads((job.payload / "report.json").read_text())
    assert [(row["question_id"], row["c"], row["c_official"]) for row in summary["rows"]] == [
        ("abc337_e", 4, 4),
        ("abc343_a", 4, 0),
        ("b", 2, 3),
    ]
    assert summary["with_prelude"] == 1 and summary["rules"] == VERSION
    errata = summary["errata"]
    assert (list(errata["several_answers"]), list(errata["unsolvable"])) == (["abc343_a"], ["abc337_e"])
    assert (errata["without"]["problems"], errata["without"]["scores"]["all"]["1"]["value"]) == (2, 0.75)
    page = (job.payload / "report.md").read_text()
    found = cells(page)
    label = "pass@1 without problems that accept several answers"
    assert [found[name][0].split()[0] for name in ("**pass@1**", "**pass@1, official rules**", label, f"{label}, official rules")] == [
        "83.3%",
        "58.3%",
        "75.0%",
        "87.5%",
    ]
    assert "- abc337_e is interactive" in page and f"{VERSION}, official" in page and "isolation of programs" in page


def test_programs_from_reasoning_that_never_closed_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test = {"input": "4\n", "output": "8\n", "testtype": "stdin"}
    row = {"question_id": "a", "question_content": "Print twice the number.", "public_test_cases": [test], "private_test_cases": []}
    problems = tmp_path / "problems.jsonl"
    problems.write_text(json.dumps(row) + "\n")
    draft = "```python\nprint(2 * int(input()))\n```"
    made = [
        Sample(draft, 1, False),
        Sample(draft, 1, True),
        Sample(draft.replace("2", "3"), 1, False),
        Sample(f"</think>\n{draft}", 1, True),
    ]

    class Drafts(Recited):
        def generate(self, prompts: Sequence[Any], sampling: Sampling, skip: Any = ()) -> Iterator[tuple[int, list[Sample]]]:
            yield 0, made

    monkeypatch.setattr(evaluate._Model, "load", lambda self, _: Drafts([]))
    job = make_job(tmp_path / "work", tmp_path, problems_at=problems, n=4)
    result = evaluate.run(job)
    [judged] = lines(job.payload / "samples.jsonl")
    assert judged["statuses"] == ["passed", "no_code", "wrong", "passed"]
    summary = json.loads((job.payload / "report.json").read_text())
    assert (summary["from_draft"], summary["from_draft_passed"], result.metrics["from_draft"]) == (2, 1, 0.5)
    assert "| programs from unclosed reasoning | 2 of 4, 1 passed |" in (job.payload / "report.md").read_text()


def test_greedy_says_that_its_samples_are_copies(tiny_model: Path, tmp_path: Path) -> None:
    job = make_job(tmp_path, tiny_model, temperature=0, max_problems=2, max_tokens=4)
    evaluate.run(job)
    assert all(len(set(row["outputs"])) == 1 and len(row["outputs"]) == 5 for row in lines(job.payload / "samples.jsonl"))
    assert "counted 5 times" in (job.payload / "report.md").read_text()


def test_without_a_sandbox_nothing_is_sampled(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise SandboxUnavailable("no isolation here")

    monkeypatch.setattr(sure, "grade_many", away)
    job = make_job(tmp_path, tiny_model)
    with pytest.raises(SandboxUnavailable):
        evaluate.run(job)
    assert not (job.aside / "samples.jsonl").exists()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"backend": "openai"}, r"set evaluate\.base_url"),
        ({"chat_format": "other"}, "unknown chat format 'other'"),
        ({"max_tokens": 4096}, "exceed the model's context"),
        ({"start_date": "2099-01-01"}, "no problem from 2099-01-01"),
    ],
)
def test_bad_input_is_said_before_the_work(tiny_model: Path, tmp_path: Path, overrides: dict[str, Any], words: str) -> None:
    job = make_job(tmp_path, tiny_model, **{name: value for name, value in overrides.items() if name != "chat_format"})
    if "chat_format" in overrides:
        job = Job(**{**vars(job), "config": job.config.model_copy(update=overrides)})
    with pytest.raises(BadInput, match=words):
        evaluate.run(job)
    assert payload(job) == {}


def test_a_chat_server_cannot_be_asked_with_the_base_prompt() -> None:
    asked = {"evaluate.backend": "openai", "evaluate.base_url": "http://127.0.0.1:1/v1"}
    for prompt in ("base", "both"):
        with pytest.raises(BadInput, match=rf"evaluate\.prompt={prompt} needs evaluate\.backend=transformers"):
            load_config("smoke", overrides={**asked, "evaluate.prompt": prompt})


def test_without_a_merged_model_a_model_is_to_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GWEN25_HOME", str(tmp_path))
    assert cli.main(["evaluate", "--profile", "smoke"]) == 2
    assert "no merged model for this config: name a MODEL (a merge such as merge:3f2a, a directory, a hub id)" in capsys.readouterr().err


def test_a_day_that_is_none_is_named_with_an_example() -> None:
    with pytest.raises(BadInput, match=r"evaluate\.start_date: a day such as 2024-03-01 is expected, not 'foo'"):
        load_config("smoke", overrides={"evaluate.start_date": "foo"})


def test_no_model_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no model to evaluate"):
        evaluate.run(make_job(tmp_path))
