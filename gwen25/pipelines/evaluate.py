"""Evaluate: a model -> samples, verdicts, pass@k with intervals. LiveCodeBench, for the merged model and the base alike.

    python -m gwen25.pipelines.evaluate WORK_DIR          (started by `stage.launch`)

    input `model`        a merge artifact; without it, locations["model"] is a model directory or externals["model"] a hub id
    payload/report.json  scores, counts, what was measured and how, and each problem's (n, c, c_official): enough to compare two reports
    payload/report.md    the same for people; results.png: the same as bars
    payload/samples.jsonl   every answer with its verdicts
    payload/base_prompt/    report.json and samples.jsonl of the base-model prompt, where the model is asked in both ways

Answers, then verdicts, are journalled in aside/ as they are made: an evaluation that died goes on after its last batch, and
ends with the same bytes. Greedy decoding makes one answer, counted n times (the report says so). Verdicts come from the
sandbox; where it is not available the stage ends before the first answer. Not here: prompts and which text is the program
(`benchmarks.prompts`), the work itself (`benchmarks.evaluation`), rules (`benchmarks.judging`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from gwen25.benchmarks import livecodebench, prompts, report
from gwen25.benchmarks.evaluation import Evaluation
from gwen25.benchmarks.prompts import Prompt
from gwen25.chat import FORMATS, ChatFormat
from gwen25.config import EvaluateConfig
from gwen25.data import Problem, TestCase
from gwen25.errors import BadInput, SandboxUnavailable, unknown
from gwen25.generate import Generator, OpenAIServer, Transformers
from gwen25.job import Job, Result, main

SECOND: Final = "base_prompt"  # the folder of what the second prompt gave
_FACTS: Final = (
    "benchmark",
    "model",
    "n",
    "temperature",
    "max_tokens",
    "prompt",
    "chat_format",
    "backend",
    "served_model",
    "release",
    "window",
    "problems",
    "rules",
    "isolation",
)


def run(job: Job) -> Result:
    """Answer, judge, report. Raises BadInput, SandboxUnavailable, Unavailable (see `errors`)."""
    config: EvaluateConfig = job.config
    chat_format, files = _chat_format(job), _files(job)
    problems = livecodebench.load(files, config.start_date, config.end_date, config.max_problems, tests=False)
    _sandbox_or_stop()
    model = _Model(job, chat_format)
    reports = []
    for prompt, folder in _prompts(config, chat_format):
        evaluation = Evaluation(job, files, problems, prompt, folder)
        answers = evaluation.answers(model.load)
        verdicts = evaluation.verdicts(answers)
        about = {"model": model.name, "served_model": model.served, "notes": _notes(config, prompt, model)}
        reports.append(about | evaluation.report(answers, verdicts))
        evaluation.write(answers, verdicts, reports[-1])
    (job.payload / "report.md").write_text(report.markdown(reports), encoding="utf-8")
    report.picture(report.columns(reports), job.payload / "results.png")
    facts = {**{name: reports[0][name] for name in _FACTS}, "problems_from": job.externals["problems"]}
    return Result(facts=facts, metrics=_metrics(reports[0]) | {f"{SECOND}/{k}": v for one in reports[1:] for k, v in _metrics(one).items()})


def _metrics(summary: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for rules, scores in (("", summary["scores"]), ("official/", summary["scores_official"])):
        for name, by_k in scores.items():
            for k, value in by_k.items():
                if value is not None:
                    found[f"{rules}pass@{k}" if name == "all" else f"{rules}pass@{k}/{name}"] = value["value"]
    shares = {name: summary[name] / summary["samples"] for name in ("truncated", "no_code", "from_draft") if summary[name] is not None}
    return {**found, **shares, "samples": summary["samples"]}


# ------------------------------------------------------------------------------------------------------- what is evaluated


def _prompts(config: EvaluateConfig, chat_format: ChatFormat) -> list[tuple[Prompt, str]]:
    """Each way of asking, with the folder of what it gives, "" for the payload itself."""
    if config.prompt == "base":
        return [(prompts.base(), "")]
    return [(prompts.chat(chat_format), "")] + ([(prompts.base(), SECOND)] if config.prompt == "both" else [])


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
    return livecodebench.fetch(pinned["id"], pinned["revision"], job.config.release)


def _sandbox_or_stop() -> None:
    """One program through the judge before hours of sampling."""
    proof = Problem("self-test", "print 7", (TestCase("", "7\n"),))
    [[status]] = livecodebench.statuses([(proof, ["```python\nprint(7)\n```"])], workers=1)
    if status != "passed":
        raise SandboxUnavailable(f"the sandbox gives {status!r} for a program that prints 7; its isolation is at fault, not the model")


class _Model:
    """The model to be evaluated: what it is called, and, once it is needed, the model itself."""

    def __init__(self, job: Job, chat_format: ChatFormat):
        self._job, config = job, job.config
        self.merged, pinned = job.inputs.get("model"), job.externals.get("model") or {}
        self._server = self._openai(config, chat_format) if config.backend == "openai" else None
        self.served = _shown(self._server.model) if self._server else None
        own = f"model {str(pinned['digest'])[:8]}" if "digest" in pinned else str(pinned.get("id") or "")
        self.pinned = f"merge:{self.merged.key[:8]}" if self.merged else own
        self.name = self.served or self.pinned or "model of unknown digest"  # a server's word for itself: it alone is certain

    def load(self, chat_format: ChatFormat) -> Generator:
        if self._server:
            return self._server
        job, config = self._job, self._job.config
        if job.runtime.num_threads is not None:
            import torch

            torch.set_num_threads(job.runtime.num_threads)
        where, revision = self._where()
        return Transformers(
            where,
            chat_format,
            dtype=config.dtype,
            device=job.runtime.device,
            batch_size=config.batch_size,
            revision=revision,
            at_once=job.at_once,
        )

    def _openai(self, config: EvaluateConfig, chat_format: ChatFormat) -> OpenAIServer:
        if config.base_url is None:
            raise BadInput("evaluate.backend is openai: set evaluate.base_url, such as http://127.0.0.1:8000/v1")
        return OpenAIServer(config.base_url, chat_format, model=config.served_model, concurrency=config.batch_size)

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


def _notes(config: EvaluateConfig, prompt: Prompt, model: _Model) -> list[str]:
    notes = []
    if config.temperature == 0 and config.n > 1:
        notes.append(f"Temperature 0 is greedy: one answer was made of each problem and counted {config.n} times, so pass@5 equals pass@1.")
    if config.backend == "openai":
        notes.append("The server rendered the prompts with its own chat template, and took its own defaults for what is not named above.")
        if model.pinned:
            notes.append(f"That the server serves {model.pinned} was not checked.")
    elif prompt.name == "base":
        notes.append("The base-model prompt has the benchmark's shape, end mark and limit, and a worked example of our own.")
    elif not model.merged:
        notes.append(f"Prompts were rendered with the chat format {prompt.chat_format.name}, not with the model's own template.")
    return notes


if __name__ == "__main__":
    main(run)
