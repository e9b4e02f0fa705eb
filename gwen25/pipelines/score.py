"""Score: the merged model and its GGUF -> how near the file still is, what it solves, how fast it is. Before it is packaged.

    python -m gwen25.pipelines.score WORK_DIR          (started by `stage.launch`)

    input `model`, `gguf`     the merge artifact, and the file made of it
    payload/score.json        the GGUF's figures beside the merged model's, and how they were measured
    payload/report.md         the same for people
    payload/answers.jsonl     both models' answers with the judge's word on each
    aside/score.json          the figures and the speeds, written before the floors are looked at

A GGUF below a configured floor (`scoring.floors`) ends the stage, so that nothing is packaged. Without xllamacpp nothing is measured,
which is an error where a floor is asked for and `score.require` is not false. Speeds are metrics: another run has others.
Not here: other forms (`gwen25 score`), the whole benchmark (`pipelines.evaluate`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gwen25 import llamacpp, modeling
from gwen25.benchmarks import livecodebench
from gwen25.chat import ChatFormat
from gwen25.config import ScoreConfig
from gwen25.errors import BadInput
from gwen25.job import Job, Result, main, write_json
from gwen25.references import Model
from gwen25.scoring import floors, table
from gwen25.scoring.forms import Local, Settings, opened
from gwen25.scoring.measure import Exam, Measured, Reference, Window, measure, refer


def run(job: Job) -> Result:
    """Measure, write down, then hold against the floors. Raises BadInput for a GGUF below one."""
    config: ScoreConfig = job.config
    merged, gguf = job.inputs["model"], job.inputs["gguf"]
    if not llamacpp.can_load():
        return _not_measured(job)
    shape = modeling.chat_format(gguf.facts, "the GGUF")
    exam = _exam(job, shape)
    settings = Settings(config.dtype, modeling.prepare(job), config.batch_size, job.runtime.num_threads, exam.context, job.at_once)
    with opened(Model("model", f"merge:{merged.key[:8]}", str(merged.payload), shape), settings) as form:
        assert isinstance(form, Local)
        reference = refer(form, exam, positions=config.positions, top=config.top_k, tell=_telling(job))
    with opened(Model("gguf", gguf.facts["file"], str(gguf.payload / gguf.facts["file"]), shape), settings) as form:
        measured = measure(form, exam, reference, _telling(job))
    _write(job, exam, reference, measured)
    if missed := floors.missed(measured.score, config):
        raise BadInput(
            f"{gguf.facts['file']} is not packaged: {'; '.join(missed)}. Take a type that keeps more, such as gguf.type=q8_0, or "
            f"another floor; all figures: {job.aside / 'score.json'}"
        )
    job.say(table.text([measured.score]))
    return Result(facts={"type": gguf.facts["type"], "measured": True}, metrics=_metrics(measured))


def _not_measured(job: Job) -> Result:
    """Without llama.cpp. A floor that nobody checked was not reached."""
    asked = floors.asked(job.config)
    install = "xllamacpp is not installed (pip install 'gwen25[llamacpp]')"
    if asked and job.config.require:
        raise BadInput(
            f"the GGUF cannot be scored here: {install}, and {', '.join(asked)} is asked for; install it, or take "
            "score.require=false, which packages what was not scored"
        )
    job.warn(f"the GGUF is not scored: {install}")
    write_json(job.payload / "score.json", {"measured": False, "why": "xllamacpp is not installed", "unchecked": asked})
    return Result(facts={"type": job.inputs["gguf"].facts["type"], "measured": False})


def _exam(job: Job, shape: ChatFormat) -> Exam:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(job.inputs["model"].payload / "tokenizer.json"))
    window = job.externals["window"]
    return Exam.of(
        problem_files(job),
        Window(window["start_date"], window["end_date"]),
        shape,
        lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids),
        max_problems=job.config.max_problems,
        max_tokens=job.config.max_tokens,
        workers=job.runtime.sandbox_workers,
    )


def problem_files(job: Job) -> list[Path]:
    """A local file, or a release of the hub's data set at its pinned revision."""
    if location := job.locations.get("problems"):
        return [Path(location)]
    pinned = job.externals["problems"]
    return livecodebench.fetch(pinned["id"], pinned["revision"], job.externals["window"]["release"])


def _telling(job: Job) -> Callable[[str, int, int], None]:
    return lambda what, done, total: job.progress(done, total, phase=what)


def _write(job: Job, exam: Exam, reference: Reference, measured: Measured) -> None:
    """First aside, where it survives a floor that is missed."""
    pinned = job.externals["problems"]
    how = {
        "measured": True,
        "problems": [problem.id for problem in exam.problems],
        "source": f"{pinned['id']} at {pinned['revision']}" if "id" in pinned else f"a file, sha256 {pinned['digest'][:12]}",
        "max_tokens": exam.max_tokens,
        "dtype": job.config.dtype,
        "top_k": reference.top,
        "vocabulary": reference.vocabulary,
        "merged_truncated": sum(answer.truncated for answer in reference.answers),
    }
    write_json(job.aside / "score.json", {**how, "score": asdict(measured.score)})
    write_json(job.payload / "score.json", {**how, "score": asdict(measured.score.timeless)})
    (job.payload / "report.md").write_text(table.markdown([measured.score.timeless]), encoding="utf-8")
    with (job.payload / "answers.jsonl").open("w", encoding="utf-8") as out:
        for merged, row, answer, other in zip(reference.answers, reference.rows, measured.answers, measured.rows, strict=True):
            told = {"merged": merged.text, "merged_status": row["status"], "gguf": answer.text, "gguf_status": other["status"]}
            out.write(json.dumps({"question_id": row["question_id"], **told}) + "\n")


_SHOWN = ("mean_kl", "max_kl", "top1_agreement", "positions", "pass1", "merged_pass1", "difference", "low", "high", "problems")
_TIMES = ("bits_per_weight", "prompt_tokens_per_second", "tokens_per_second")


def _metrics(measured: Measured) -> dict[str, Any]:
    return {name: getattr(measured.score, name) for name in (*_SHOWN, *_TIMES)}


if __name__ == "__main__":
    main(run)
