"""Evaluate: a model -> samples, verdicts, pass@k with intervals. LiveCodeBench, for the merged model and the base alike.

    python -m gwen25.pipelines.evaluate WORK_DIR          (started by `stage.launch`)

    input `model`        a merge artifact; without it, locations["model"] is a model directory or externals["model"] a hub id
    payload/report.json  scores, counts, what was measured and how, and each problem's (n, c): enough to compare two reports
    payload/report.md    the same for people; results.png: the same as bars
    payload/samples.jsonl   every answer with its verdict

Answers, then verdicts, are journalled in aside/ as they are made: an evaluation that died goes on after its last batch, and
ends with the same bytes. Greedy decoding makes one answer, counted n times (the report says so). Verdicts come from the
sandbox; where it is not available the stage ends before the first answer. Not here: prompts (`chat`), rules (`livecodebench`).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from gwen25.benchmarks import livecodebench, report
from gwen25.chat import FORMATS, ChatFormat, problem_messages
from gwen25.config import EvaluateConfig
from gwen25.data import Problem, TestCase
from gwen25.errors import BadInput, SandboxUnavailable, unknown
from gwen25.generate import Generator, OpenAIServer, Sample, Sampling, Transformers
from gwen25.job import Job, Result, main, write_json

JUDGED_AT_ONCE: Final = 16  # problems whose tests are in memory together: some 100 MB of a large release


def run(job: Job) -> Result:
    """Answer, judge, report. Raises BadInput, SandboxUnavailable, Unavailable (see `errors`)."""
    config: EvaluateConfig = job.config
    chat_format, files = _chat_format(job), _files(job)
    problems = livecodebench.load(files, config.start_date, config.end_date, config.max_problems, tests=False)
    _sandbox_or_stop()
    model = _Model(job, chat_format)
    answers = _answer(job, problems, model)
    verdicts = _judge(job, files, problems, answers, chat_format)
    summary = _report(job, problems, answers, verdicts, chat_format, model)
    _write(job, problems, answers, verdicts, summary)
    scored = {(name, k): value for name, by_k in summary["scores"].items() for k, value in by_k.items() if value is not None}
    metrics = {f"pass@{k}" if name == "all" else f"pass@{k}/{name}": value["value"] for (name, k), value in scored.items()}
    shares = {name: summary[name] / summary["samples"] for name in ("truncated", "no_code", "from_draft")}
    kept = (
        "benchmark",
        "model",
        "n",
        "temperature",
        "max_tokens",
        "chat_format",
        "backend",
        "served_model",
        "release",
        "window",
        "problems",
        "rules",
    )
    facts = {**{name: summary[name] for name in kept}, "problems_from": job.externals["problems"]}
    return Result(facts=facts, metrics={**metrics, **shares, "samples": summary["samples"]})


# ------------------------------------------------------------------------------------------------------- what is evaluated


def _chat_format(job: Job) -> ChatFormat:
    """The format is a fact of a merged model; a base model takes the config's. BadInput where it changed since the training."""
    merged = job.inputs.get("model")
    named = merged.facts["chat_format"] if merged else job.config.chat_format
    name, digest = (named["name"], named.get("digest")) if isinstance(named, Mapping) else (named, None)
    if name not in FORMATS:
        raise unknown("chat format", str(name), FORMATS)
    if digest not in (None, FORMATS[name].digest):
        raise BadInput(f"the model was trained in another version of the chat format {name}; train it again, or evaluate with that version")
    return FORMATS[name]


def _files(job: Job) -> list[Path]:
    if location := job.locations.get("problems"):
        return [Path(location)]
    pinned = job.externals["problems"]
    return livecodebench.fetch(pinned["id"], pinned["revision"], pinned.get("release", job.config.release))


def _sandbox_or_stop() -> None:
    """One program through the judge before hours of sampling."""
    proof = Problem("self-test", "print 7", (TestCase("", "7\n"),))
    [[status]] = livecodebench.statuses([(proof, ["```python\nprint(7)\n```"])], workers=1)
    if status != "passed":
        raise SandboxUnavailable(f"the sandbox gives {status!r} for a program that prints 7; its isolation is at fault, not the model")


class _Model:
    """The model to be evaluated: what it is called, and, once it is needed, the model itself."""

    def __init__(self, job: Job, chat_format: ChatFormat):
        self._job, self._format, config = job, chat_format, job.config
        self.merged, pinned = job.inputs.get("model"), job.externals.get("model") or {}
        self._server = self._openai(config) if config.backend == "openai" else None
        self.served = _shown(self._server.model) if self._server else None
        own = f"model {str(pinned['digest'])[:8]}" if "digest" in pinned else str(pinned.get("id") or "")
        self.pinned = f"merge:{self.merged.key[:8]}" if self.merged else own
        self.name = self.served or self.pinned or "model of unknown digest"  # a server's word for itself: it alone is certain

    def load(self) -> Generator:
        if self._server:
            return self._server
        job, config = self._job, self._job.config
        if job.runtime.num_threads is not None:
            import torch

            torch.set_num_threads(job.runtime.num_threads)
        where, revision = self._where()
        return Transformers(
            where, self._format, dtype=config.dtype, device=job.runtime.device, batch_size=config.batch_size, revision=revision
        )

    def _openai(self, config: EvaluateConfig) -> OpenAIServer:
        if config.base_url is None:
            raise BadInput("evaluate.backend is openai: set evaluate.base_url, such as http://127.0.0.1:8000/v1")
        return OpenAIServer(config.base_url, self._format, model=config.served_model, concurrency=config.batch_size)

    def _where(self) -> tuple[Path | str, str | None]:
        if self.merged:
            return self.merged.payload, None
        if location := self._job.locations.get("model"):
            return Path(location), None
        pinned = self._job.externals.get("model") or {}
        if "id" not in pinned:
            raise BadInput("evaluate: no model to evaluate: a merged one, a directory or a hub id is expected")
        return pinned["id"], pinned["revision"]


def _shown(model: str) -> str:
    """A served model's name for the report: llama.cpp's is a path of this machine, of which the file's name will do."""
    return Path(model).name if model.startswith("/") else model


# ----------------------------------------------------------------------------------------------------- answers and verdicts


class _Journal:
    """JSON lines that survive a kill: appended whole and fsynced; on opening, what follows the last good line is cut off."""

    def __init__(self, path: Path, good: Callable[[dict[str, Any]], bool]):
        self._path, self.rows = path, dict[str, dict[str, Any]]()
        end = 0
        with path.open("ab+") as file:
            file.seek(0)
            for line in file:
                row = _row(line)
                if row is None or not good(row):
                    break
                self.rows[row["question_id"]] = row
                end += len(line)
            file.truncate(end)

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        with self._path.open("ab") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows).encode())
            file.flush()
            os.fsync(file.fileno())
        self.rows.update((row["question_id"], row) for row in rows)


def _row(line: bytes) -> dict[str, Any] | None:
    """A journal's line, None where it was not written to its end."""
    try:
        row = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _answer(job: Job, problems: Sequence[Problem], model: _Model) -> dict[str, list[Sample]]:
    """n samples of every problem, by id."""
    config: EvaluateConfig = job.config
    places = {problem.id: place for place, problem in enumerate(problems)}
    journal = _Journal(
        job.aside / "samples.jsonl", lambda row: row.get("question_id") in places and len(row.get("samples", ())) == config.n
    )
    done, total = len(journal.rows), len(problems)
    if done:
        job.say(f"{done} of {total} problems were answered by an earlier attempt")
    if done < total:
        sampling = Sampling(config.n, config.temperature, config.top_p, config.max_tokens, config.seed)
        prompts = [problem_messages(problem) for problem in problems]
        skip = {places[name] for name in journal.rows}
        for place, samples in model.load().generate(prompts, sampling, skip):
            journal.add([{"question_id": problems[place].id, "samples": samples}])
            job.progress(len(journal.rows), total, phase="sampling")
    return {name: [Sample(*sample) for sample in row["samples"]] for name, row in journal.rows.items()}


def _judge(
    job: Job, files: Sequence[Path], problems: Sequence[Problem], answers: Mapping[str, Sequence[Sample]], chat_format: ChatFormat
) -> dict[str, list[str]]:
    """The status of every sample, by id. Tests are read again, a few problems at a time."""
    digests = {name: hashlib.sha256(json.dumps(samples).encode()).hexdigest() for name, samples in answers.items()}
    journal = _Journal(job.aside / "verdicts.jsonl", lambda row: row.get("answers") == digests.get(row.get("question_id", ""), ""))
    left = (problem for problem in livecodebench.read(files) if problem.id in answers and problem.id not in journal.rows)
    for chunk in _chunks(left, JUDGED_AT_ONCE):
        pairs = [(problem, [sample.text for sample in answers[problem.id]]) for problem in chunk]
        cut = [[sample.truncated for sample in answers[problem.id]] for problem in chunk]
        graded = livecodebench.statuses(pairs, workers=job.runtime.sandbox_workers, chat_format=chat_format, truncated=cut)
        journal.add(
            [
                {"question_id": problem.id, "answers": digests[problem.id], "statuses": found}
                for problem, found in zip(chunk, graded, strict=True)
            ]
        )
        job.progress(len(journal.rows), len(problems), phase="judging")
    return {name: row["statuses"] for name, row in journal.rows.items()}


def _chunks(problems: Iterator[Problem], size: int) -> Iterator[list[Problem]]:
    chunk = []
    for problem in problems:
        chunk.append(problem)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


# ------------------------------------------------------------------------------------------------------------------- report


def _report(
    job: Job,
    problems: Sequence[Problem],
    answers: Mapping[str, Sequence[Sample]],
    verdicts: Mapping[str, Sequence[str]],
    chat_format: ChatFormat,
    model: _Model,
) -> dict[str, Any]:
    config: EvaluateConfig = job.config
    rows = [
        {"question_id": problem.id, "difficulty": problem.difficulty, "n": config.n, "c": list(verdicts[problem.id]).count("passed")}
        for problem in problems
    ]
    counts = Counter(status for problem in problems for status in verdicts[problem.id])
    drafts = [
        status
        for problem in problems
        for sample, status in zip(answers[problem.id], verdicts[problem.id], strict=True)
        if status != livecodebench.NO_CODE and chat_format.program(sample.text) is None
    ]
    scores = report.score(rows)
    dates = sorted(problem.date for problem in problems if problem.date)
    pinned = job.externals["problems"]
    return {
        "benchmark": config.benchmark,
        "model": model.name,
        "backend": config.backend,
        "served_model": model.served,
        "chat_format": chat_format.name,
        "n": config.n,
        "temperature": config.temperature,
        "top_p": config.top_p,
        "max_tokens": config.max_tokens,
        "seed": config.seed,
        "rules": "strict",
        "source": f"{pinned['id']} at {pinned['revision']}" if "id" in pinned else f"a file, sha256 {pinned['digest'][:12]}",
        "release": pinned.get("release", config.release) if "id" in pinned else None,
        "window": {
            "start_date": config.start_date,
            "end_date": config.end_date,
            "first": dates[0] if dates else None,
            "last": dates[-1] if dates else None,
        },
        "problems": {name: sum(row["difficulty"] == name for row in rows) if name != "all" else len(rows) for name in scores},
        "samples": config.n * len(rows),
        "truncated": sum(sample.truncated for problem in problems for sample in answers[problem.id]),
        "no_code": counts[livecodebench.NO_CODE],
        "from_draft": len(drafts),
        "from_draft_passed": drafts.count("passed"),
        "verdicts": dict(sorted(counts.items())),
        "scores": scores,
        "rows": rows,
        "notes": _notes(config, chat_format, model),
    }


def _notes(config: EvaluateConfig, chat_format: ChatFormat, model: _Model) -> list[str]:
    notes = []
    if config.temperature == 0 and config.n > 1:
        notes.append(f"Temperature 0 is greedy: one answer was made of each problem and counted {config.n} times, so pass@5 equals pass@1.")
    if config.backend == "openai":
        notes.append("The server rendered the prompts with its own chat template, and took its own defaults for what is not named above.")
        if model.pinned:
            notes.append(f"That the server serves {model.pinned} was not checked.")
    elif not model.merged:
        notes.append(f"Prompts were rendered with the chat format {chat_format.name}, not with the model's own template.")
    return notes


def _write(
    job: Job,
    problems: Sequence[Problem],
    answers: Mapping[str, Sequence[Sample]],
    verdicts: Mapping[str, Sequence[str]],
    summary: Mapping[str, Any],
) -> None:
    with (job.payload / "samples.jsonl").open("w", encoding="utf-8") as file:
        for problem in problems:
            samples = answers[problem.id]
            row = {
                "question_id": problem.id,
                "difficulty": problem.difficulty,
                "outputs": [sample.text for sample in samples],
                "statuses": list(verdicts[problem.id]),
                "truncated": [sample.truncated for sample in samples],
                "tokens": [sample.tokens for sample in samples],
            }
            file.write(json.dumps(row) + "\n")
    write_json(job.payload / "report.json", summary)
    (job.payload / "report.md").write_text(report.markdown(summary), encoding="utf-8")
    report.picture({summary["model"]: summary}, job.payload / "results.png")


if __name__ == "__main__":
    main(run)
