"""LiveCodeBench's problems: rows of its schema, checked, one at a time.

    for problem in read([Path("test.jsonl")]): ...        in the files' order; a release holds gigabytes of tests
    load([path], start_date="2024-03-01", max_problems=50)

    digest(problem)                                       "9f2c4e01ab77", of what an answer to it is judged by

The schema is that of huggingface.co/datasets/livecodebench/code_generation_lite (Jain et al. 2024). Rows are foreign, and a wrong one is
named with its file, line and question. Not here: where the files come from (`releases`), how private tests are unpacked (`packed`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar

from gwen25.benchmarks import packed
from gwen25.data import Problem, TestCase, read_jsonl, storable
from gwen25.errors import BadInput

MAX_VALUE: Final = 32 << 20  # characters of a function's argument or result: a million numbers are 11 MB, and 3 bytes of `[],` take 64

_Kind = TypeVar("_Kind", list[Any], dict[str, Any])


def problem_of(row: Mapping[str, Any]) -> Problem:
    """A row of LiveCodeBench's schema as a Problem, its public tests before its private ones.

    Raises BadInput, naming the question, for a row that lacks a field, holds no tests, mixes stdin and function tests, or whose
    private tests are no JSON list in one of the two official encodings (plain, or base64 of zlib of a pickled string).
    """
    name = _name(row)
    try:
        return _problem(name, row)
    except BadInput as error:
        raise BadInput(f"question {name}: {error}") from error


def read(paths: Sequence[Path]) -> Iterator[Problem]:
    """Every problem of the files, in their order, one in memory at a time. BadInput names file and line, and a question met twice."""
    seen: dict[str, str] = {}
    for path in paths:
        for number, row in read_jsonl(path):
            where = f"{path}, line {number}"
            try:
                problem = problem_of(row)
            except BadInput as error:
                raise BadInput(f"{where}: {error}") from error
            if problem.id in seen:
                raise BadInput(f"{where}: question {problem.id} was already at {seen[problem.id]}; each may occur once")
            seen[problem.id] = where
            yield problem


def load(
    paths: Path | Sequence[Path],
    start_date: str | None = None,
    end_date: str | None = None,
    max_problems: int | None = None,
    *,
    tests: bool = True,
) -> list[Problem]:
    """The problems of the window (both days included), ordered by id, the first `max_problems` of them.

    All rows are read and checked whichever are taken. `tests=False` leaves the tests out of what is returned: a statement has
    some 2 kB, the tests of a release several GB. BadInput where no problem is left, or a window is asked of an undated one.
    """
    if start_date and end_date and start_date > end_date:
        raise BadInput(f"the window from {start_date} to {end_date} is empty: start_date must not be after end_date")
    files = [paths] if isinstance(paths, Path) else list(paths)
    problems = [problem if tests else replace(problem, tests=()) for problem in read(files) if _within(problem, start_date, end_date)]
    if not problems:
        window = f" from {start_date or 'the first'} to {end_date or 'the last'}" if start_date or end_date else ""
        raise BadInput(f"{', '.join(map(str, files))}: no problem{window}")
    return sorted(problems, key=lambda problem: problem.id)[:max_problems]


def digest(problem: Problem) -> str:
    """Statement, how it is asked, and tests in 12 hex digits: two scores of one id compare only where these are the same."""
    found = hashlib.sha256()
    tests = (part for test in problem.tests for part in (test.kind, test.input, test.output))
    for part in (problem.statement, problem.starter_code, problem.func_name or "", *tests):
        data = part.encode()
        found.update(b"%d:" % len(data) + data)
    return found.hexdigest()[:12]


def _within(problem: Problem, start: str | None, end: str | None) -> bool:
    if not (start or end):
        return True
    if not problem.date:
        raise BadInput(f"question {problem.id} has no contest_date, so that no window can be asked for; leave start_date and end_date out")
    return (start or "") <= problem.date <= (end or "9999-99-99")


def _name(row: Mapping[str, Any]) -> str:
    name = row.get("question_id")
    if isinstance(name, bool) or not isinstance(name, str | int) or not str(name).strip() or not storable(str(name)):
        raise BadInput(
            "no question_id: a row of LiveCodeBench's schema is expected (question_id, question_content, public_test_cases, ...)"
        )
    return str(name)


def _problem(name: str, row: Mapping[str, Any]) -> Problem:
    metadata = _json("metadata", row.get("metadata") or {}, dict)
    func_name = metadata.get("func_name") or None
    if func_name is not None and not (isinstance(func_name, str) and func_name.isidentifier()):
        raise BadInput(f"metadata.func_name {func_name!r} is not a function's name")
    private = packed.cases(row.get(packed.FIELD) or [])
    tests = (*_tests("public_test_cases", row.get("public_test_cases") or []), *_tests(packed.FIELD, private))
    if not tests:
        raise BadInput("no tests: any program would pass")
    kind = "functional" if func_name else "stdin"
    if any(test.kind != kind for test in tests):
        asked = "a function is to be called (metadata.func_name)" if func_name else "no function is named (metadata.func_name)"
        raise BadInput(f"{asked}, so each test's testtype must be {kind!r}")
    statement = _text(row, "question_content")
    if not statement.strip():
        raise BadInput("question_content is empty")
    return Problem(
        id=name,
        statement=statement,
        tests=tests,
        difficulty=_text(row, "difficulty", "").strip().lower() or "unknown",
        starter_code=_text(row, "starter_code", ""),
        func_name=func_name,
        title=_text(row, "question_title", ""),
        date=_date(_text(row, "contest_date", "")),
    )


def _text(row: Mapping[str, Any], field: str, default: str | None = None) -> str:
    value = row.get(field, default)
    if value is None and default is not None:
        return default
    if not isinstance(value, str):
        raise BadInput(f"{field} is {'missing' if value is None else 'not text'}")
    if not storable(value):
        raise BadInput(f"{field} holds half a character (a lone surrogate)")
    return value


def _date(text: str) -> str:
    if text and not re.match(r"\d{4}-\d{2}-\d{2}(?!\d)", text):
        raise BadInput(f"contest_date {text[:40]!r} does not begin with a date such as 2024-03-09")
    return text[:10]


def _tests(field: str, value: Any) -> list[TestCase]:
    cases = []
    for number, case in enumerate(_json(field, value, list), 1):
        texts = [case.get("input"), case.get("output")] if isinstance(case, dict) else [None]
        if not all(isinstance(text, str) and storable(text) for text in texts):
            raise BadInput(f"{field}, test {number}: an object with the texts input and output is expected")
        kind = case.get("testtype")
        if kind not in ("stdin", "functional"):
            raise BadInput(f"{field}, test {number}: testtype {kind!r} is neither 'stdin' nor 'functional'")
        if kind == "functional" and not _is_json(*filter(str.strip, case["input"].split("\n")), case["output"]):
            raise BadInput(
                f"{field}, test {number}: a function's test is JSON, one value a line and parameter, and one value as output, "
                f"each of at most {MAX_VALUE >> 20} MiB"
            )
        cases.append(TestCase(case["input"], case["output"], kind))
    return cases


def _is_json(*texts: str) -> bool:
    if any(len(text) > MAX_VALUE for text in texts):
        return False
    try:
        for text in texts:
            json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _json(field: str, value: Any, kind: type[_Kind]) -> _Kind:
    """JSON text, or what it already was when somebody decoded it."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise BadInput(f"{field} is not JSON ({error})") from error
    if not isinstance(value, kind):
        raise BadInput(f"{field}: a JSON {'list' if kind is list else 'object'} is expected, not {type(value).__name__}")
    return value
