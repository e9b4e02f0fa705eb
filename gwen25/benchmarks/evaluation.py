"""The problems of LiveCodeBench put to a model in one way: answers, verdicts, report.

    evaluation = Evaluation(job, files, problems, prompts.chat(chat_format), "")
    answers = evaluation.answers(load)                 journalled as they are made
    verdicts = evaluation.verdicts(answers)            so are these
    evaluation.write(answers, verdicts, {"model": ..., **evaluation.report(answers, verdicts)})

Not here: which model it is, and how it is loaded (`pipelines.evaluate`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from gwen25 import sandbox
from gwen25.benchmarks import problems as schema
from gwen25.benchmarks.judging import NO_CODE, VERSION, Judged, Programs, in_chunks, judged
from gwen25.benchmarks.prompts import Prompt
from gwen25.benchmarks.tally import tally
from gwen25.chat import ChatFormat
from gwen25.config import EvaluateConfig
from gwen25.data import Problem
from gwen25.generate import Generator, Sample, Sampling
from gwen25.job import Job, write_json
from gwen25.journal import Journal

Answers = Mapping[str, Sequence[Sample]]


class Graded(NamedTuple):
    """A problem's verdicts, and the digest of the statement and tests that they rest on."""

    digest: str
    found: Sequence[Judged]


Verdicts = Mapping[str, Graded]


@dataclass(frozen=True)
class Evaluation:
    """The problems, asked in one way. `folder`: of what this way gives, below payload and aside; "" for those themselves."""

    job: Job
    files: Sequence[Path]
    problems: Sequence[Problem]
    prompt: Prompt
    folder: str

    @property
    def max_tokens(self) -> int:
        """Tokens of an answer: what the config allows, and the prompt."""
        limit: int = self.job.config.max_tokens
        return limit if self.prompt.max_tokens is None else min(limit, self.prompt.max_tokens)

    def answers(self, load: Callable[[ChatFormat], Generator]) -> Answers:
        """n samples of every problem, by id; `load` gives the model where one is needed."""
        job, config = self.job, self.job.config
        places = {problem.id: place for place, problem in enumerate(self.problems)}
        journal = Journal(
            self._aside("samples.jsonl"), lambda row: row.get("question_id") in places and len(row.get("samples", ())) == config.n
        )
        done, total = len(journal.rows), len(self.problems)
        if done:
            job.say(f"{done} of {total} problems were answered by an earlier attempt")
        if done < total:
            sampling = Sampling(config.n, config.temperature, config.top_p, self.max_tokens, config.seed)
            asked = [self.prompt.messages(problem) for problem in self.problems]
            skip = {places[name] for name in journal.rows}
            for place, samples in load(self.prompt.chat_format).generate(asked, sampling, skip):
                journal.add([{"question_id": self.problems[place].id, "samples": [self.prompt.ended(sample) for sample in samples]}])
                job.progress(len(journal.rows), total, phase="sampling")
        return {name: [Sample(*sample) for sample in row["samples"]] for name, row in journal.rows.items()}

    def verdicts(self, answers: Answers) -> Verdicts:
        """The verdict on every sample, by id. Tests are read again, a few problems at a time."""
        digests = {name: hashlib.sha256(json.dumps(samples).encode()).hexdigest() for name, samples in answers.items()}
        journal = Journal(self._aside("verdicts.jsonl"), lambda row: row.get("answers") == digests.get(row.get("question_id", ""), ""))
        for chunk in in_chunks(self._left(answers, journal.rows)):
            graded = judged(chunk, workers=self.job.runtime.sandbox_workers)
            journal.add(
                [
                    {
                        "question_id": problem.id,
                        "answers": digests[problem.id],
                        "digest": schema.digest(problem),
                        "found": [one._replace(verdict=None) for one in found],
                    }
                    for (problem, _), found in zip(chunk, graded, strict=True)
                ]
            )
            self.job.progress(len(journal.rows), len(self.problems), phase="judging")
        return {name: Graded(row["digest"], [Judged(*one) for one in row["found"]]) for name, row in journal.rows.items()}

    def _left(self, answers: Answers, done: Mapping[str, Any]) -> Iterator[tuple[Problem, Sequence[Programs]]]:
        for problem in schema.read(self.files):
            if problem.id in answers and problem.id not in done:
                yield problem, [self.prompt.programs(sample.text, sample.truncated) for sample in answers[problem.id]]

    def _aside(self, name: str) -> Path:
        (self.job.aside / self.folder).mkdir(exist_ok=True)
        return self.job.aside / self.folder / name

    def report(self, answers: Answers, verdicts: Verdicts) -> dict[str, Any]:
        """Scores and counts, and how they were measured; all but what the model is called."""
        config: EvaluateConfig = self.job.config
        pinned = self.job.externals["problems"]
        dates = sorted(problem.date for problem in self.problems if problem.date)
        return {
            "benchmark": config.benchmark,
            "backend": config.backend,
            "prompt": self.prompt.title,
            "chat_format": self.prompt.chat_format.name,
            "n": config.n,
            "temperature": config.temperature,
            "top_p": config.top_p,
            "max_tokens": self.max_tokens,
            "seed": config.seed,
            "rules": VERSION,  # of `c` and `scores`; `c_official` and `scores_official` are by the benchmark's own
            "isolation": str(sandbox.probe()),
            "source": f"{pinned['id']} at {pinned['revision']}" if "id" in pinned else f"a file, sha256 {pinned['digest'][:12]}",
            "release": config.release if "id" in pinned else None,
            "window": {
                "start_date": config.start_date,
                "end_date": config.end_date,
                "first": dates[0] if dates else None,
                "last": dates[-1] if dates else None,
            },
            "truncated": sum(sample.truncated for samples in answers.values() for sample in samples),
            **tally(
                self.problems,
                {name: graded.found for name, graded in verdicts.items()},
                {name: graded.digest for name, graded in verdicts.items()},
            ),
            **self._texts(answers, verdicts),
        }

    def _texts(self, answers: Answers, verdicts: Verdicts) -> dict[str, int | None]:
        """How many answers hold no program, and how many programs stand in reasoning that never closed; None where none is asked for."""
        found = [pair for problem in self.problems for pair in zip(answers[problem.id], verdicts[problem.id].found, strict=True)]
        no_code = sum(one.strict == NO_CODE for _, one in found)
        if self.prompt.name == "base":
            return {"no_code": no_code, "from_draft": None, "from_draft_passed": None}
        drafts = [one for sample, one in found if one.strict != NO_CODE and self.prompt.chat_format.program(sample.text) is None]
        return {"no_code": no_code, "from_draft": len(drafts), "from_draft_passed": sum(one.strict == "passed" for one in drafts)}

    def write(self, answers: Answers, verdicts: Verdicts, summary: Mapping[str, Any]) -> None:
        """report.json and samples.jsonl."""
        folder = self.job.payload / self.folder
        folder.mkdir(exist_ok=True)
        with (folder / "samples.jsonl").open("w", encoding="utf-8") as file:
            for problem in self.problems:
                samples, found = answers[problem.id], verdicts[problem.id].found
                row = {
                    "question_id": problem.id,
                    "difficulty": problem.difficulty,
                    "outputs": [sample.text for sample in samples],
                    "statuses": [one.strict for one in found],
                    "official": [one.official for one in found],
                    "truncated": [sample.truncated for sample in samples],
                    "tokens": [sample.tokens for sample in samples],
                }
                file.write(json.dumps(row) + "\n")
        write_json(folder / "report.json", summary)
