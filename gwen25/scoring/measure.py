"""The exam, the merged model's answers to it, and the score of any other form beside them.

    exam = Exam.of(files, window, chat_format, encode, max_problems=20, max_tokens=2048, workers=2)
    with opened(merged, settings) as form:
        reference = refer(form, exam, positions=2000, top=1024)
    with opened(gguf, settings) as form:
        score = measure(form, exam, reference)

The subset is spread evenly over the problems by id, so that the same problems make the same subset. The positions are the first of each
answer, as evenly as the answers' lengths allow. Not here: what is good enough (`floors`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gwen25.benchmarks import livecodebench, paired
from gwen25.chat import ChatFormat, problem_messages
from gwen25.data import Problem
from gwen25.errors import BadInput
from gwen25.scoring.divergence import Next, compare
from gwen25.scoring.forms import Answer, Form, Local, Question, Text

Tell = Callable[[str, int, int], None]  # (what is done, how much of it, of how much)


def silent(what: str, done: int, total: int) -> None:
    pass


@dataclass(frozen=True)
class Window:
    """Which of the problems may be asked: contests of these days, both included."""

    start_date: str | None = None
    end_date: str | None = None


@dataclass(frozen=True)
class Exam:
    """What every form is asked, and how its answers are judged."""

    problems: Sequence[Problem]
    questions: Sequence[Question]
    chat_format: ChatFormat
    max_tokens: int
    workers: int

    @classmethod
    def of(
        cls,
        files: Sequence[Path],
        window: Window,
        chat_format: ChatFormat,
        encode: Callable[[str], list[int]],
        *,
        max_problems: int,
        max_tokens: int,
        workers: int,
    ) -> Exam:
        known = livecodebench.load(files, window.start_date, window.end_date, tests=False)
        wanted = {problem.id: problem for problem in spread(known, max_problems)}
        found = {problem.id: problem for problem in livecodebench.read(files) if problem.id in wanted}  # with their tests
        problems = [found[name] for name in wanted]
        questions = [Question(asked, encode(chat_format.render(asked))) for asked in map(problem_messages, problems)]
        return cls(problems, questions, chat_format, max_tokens, workers)

    @property
    def context(self) -> int:
        """Tokens of the longest question and an answer to it."""
        return max(len(question.ids) for question in self.questions) + self.max_tokens

    def grade(self, answers: Sequence[Answer]) -> list[dict[str, Any]]:
        """A row for each problem: did the answer solve it (c), and the judge's word for it (status)."""
        statuses = livecodebench.statuses(
            [(problem, [answer.text]) for problem, answer in zip(self.problems, answers, strict=True)],
            workers=self.workers,
            chat_format=self.chat_format,
            truncated=[[answer.truncated] for answer in answers],
        )
        return [
            {"question_id": problem.id, "difficulty": problem.difficulty, "n": 1, "c": int(status == "passed"), "status": status}
            for problem, [status] in zip(self.problems, statuses, strict=True)
        ]


def spread(problems: Sequence[Problem], wanted: int) -> list[Problem]:
    """At most `wanted` of them, evenly spaced: ids sort by contest, and the first would all be of one."""
    count = min(wanted, len(problems))
    return [problems[at * len(problems) // count] for at in range(count)]


@dataclass(frozen=True)
class Reference:
    """What the merged model said: its answers, their marks, and its distributions at the positions of `texts`."""

    answers: Sequence[Answer]
    rows: Sequence[Mapping[str, Any]]
    texts: Sequence[Text]
    distributions: Sequence[Next]
    top: int
    vocabulary: int


def refer(form: Local, exam: Exam, *, positions: int, top: int, tell: Tell = silent) -> Reference:
    answers = form.answer(exam.questions, exam.max_tokens, lambda done, total: tell("answers of the merged model", done, total))
    texts = texts_of(exam.questions, answers, positions)
    distributions = [one for text in texts for one in form.next(text, top)]
    return Reference(answers, exam.grade(answers), texts, distributions, top, form.vocabulary)


def texts_of(questions: Sequence[Question], answers: Sequence[Answer], positions: int) -> list[Text]:
    """The answers' beginnings behind their prompts, together at most `positions` tokens: short answers leave theirs to longer ones."""
    left, quota = positions, dict[int, int]()
    order = sorted(range(len(answers)), key=lambda at: len(answers[at].ids))
    for number, at in enumerate(order):
        quota[at] = min(len(answers[at].ids), left // (len(order) - number))
        left -= quota[at]
    return [
        Text(question.ids + answer.ids[: quota[at]], quota[at])
        for at, (question, answer) in enumerate(zip(questions, answers, strict=True))
        if quota[at]
    ]


@dataclass(frozen=True, slots=True)
class Score:
    """One form beside the merged model. None: not measured. `kl_is` says whether the KL is exact or a lower bound, and of what K.

    `difference` of pass@1 is this form's less the merged model's on the same problems, with its 95 % interval and p. Speeds are in
    tokens a second, of `at_once` sequences together.
    """

    name: str
    kind: str
    positions: int | None = None
    mean_kl: float | None = None
    max_kl: float | None = None
    kl_is: str | None = None
    covered: float | None = None
    top1_agreement: float | None = None
    problems: int | None = None
    pass1: float | None = None
    merged_pass1: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    truncated: int | None = None
    bytes: int | None = None
    bits_per_weight: float | None = None
    prompt_tokens_per_second: float | None = None
    tokens_per_second: float | None = None
    at_once: int | None = None

    @property
    def timeless(self) -> Score:
        """Without what another run on the same machine would measure otherwise."""
        return replace(self, prompt_tokens_per_second=None, tokens_per_second=None, at_once=None)


def merged_score(form: Form, reference: Reference) -> Score:
    """The merged model's own row: nothing lies between it and itself."""
    solved = sum(row["c"] for row in reference.rows) / len(reference.rows)
    size, bits = form.size()
    return Score(
        name=form.name,
        kind=form.kind,
        problems=len(reference.rows),
        pass1=solved,
        truncated=sum(answer.truncated for answer in reference.answers),
        bytes=size,
        bits_per_weight=bits,
        tokens_per_second=form.generated.rate,
        at_once=form.at_once,
    )


@dataclass(frozen=True)
class Measured:
    """A score, and the answers and marks behind it."""

    score: Score
    answers: Sequence[Answer]
    rows: Sequence[Mapping[str, Any]]


def measure(form: Form, exam: Exam, reference: Reference, tell: Tell = silent) -> Measured:
    """Answers, marks and distributions of one form. Raises BadInput for one of another vocabulary."""
    near = _nearness(form, reference, tell)
    answers = form.answer(exam.questions, exam.max_tokens, lambda done, total: tell(f"answers of {form.name}", done, total))
    rows = exam.grade(answers)
    found = paired.of(paired.common(reference.rows, rows), 1)
    if found is None:
        raise BadInput("no problem to score on: set score.max_problems, or another data set as evaluate.problems")
    size, bits = form.size()
    score = Score(
        name=form.name,
        kind=form.kind,
        problems=found.problems,
        pass1=found.b,
        merged_pass1=found.a,
        difference=found.difference,
        low=found.low,
        high=found.high,
        p=found.p,
        truncated=sum(answer.truncated for answer in answers),
        bytes=size,
        bits_per_weight=bits,
        prompt_tokens_per_second=form.prompts.rate,
        tokens_per_second=form.generated.rate,
        at_once=form.at_once,
    )
    return Measured(replace(score, **near), answers, rows)


def _nearness(form: Form, reference: Reference, tell: Tell) -> dict[str, Any]:
    """The fields of a score that come of distributions; {} where the form tells none."""
    if form.vocabulary not in (None, reference.vocabulary):
        raise BadInput(f"{form.name} knows {form.vocabulary:,} tokens, the merged model {reference.vocabulary:,}: it was made of another")
    theirs: list[Next] = []
    for number, text in enumerate(reference.texts, 1):
        told = form.next(text, reference.top)
        if told is None:
            return {}
        theirs += told
        tell(f"distributions of {form.name}", number, len(reference.texts))
    found = compare(reference.distributions, theirs, reference.vocabulary)
    if found is None:
        return {}
    kl_is = "exact" if found.exact else f"lower bound, top {reference.top:,} and the rest as one"
    known = {"positions": found.positions, "mean_kl": found.mean_kl, "max_kl": found.max_kl}
    return {**known, "kl_is": kl_is, "covered": found.covered, "top1_agreement": found.top1_agreement}
