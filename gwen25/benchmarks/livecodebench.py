"""LiveCodeBench: its problems, and a judge of answers to them.

    for problem in read([Path("test.jsonl")]): ...        one at a time; a release holds gigabytes of tests
    load([path], start_date="2024-03-01", max_problems=50)
    judge(row, completions)                               [True, False, ...]: is it a program, and does it pass every test

Problems in LiveCodeBench's own schema (Jain et al. 2024, huggingface.co/datasets/livecodebench/code_generation_lite), of the hub
or of a file. Its rows are foreign: `private_test_cases` is a pickle, of which nothing is executed here (see `_unpickled`).
Judging is `gwen25.sandbox`'s: a real process for each test, every test must pass. docs/livecodebench.md says where that differs
from the official evaluator. Prompts are `chat.problem_messages`, as in training; not here: the arithmetic of pass@k (`passk`).
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import pickletools
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any, Final, TypeVar

from gwen25.chat import FORMATS, ChatFormat
from gwen25.data import Problem, TestCase, read_jsonl, storable
from gwen25.errors import BadInput, SandboxUnavailable, Unavailable
from gwen25.sandbox import grade_surely

REPO: Final = "livecodebench/code_generation_lite"
MAX_TESTS_BYTES: Final = 1 << 30  # of one problem, unpacked; a bomb of 1 MB unpacks to as much
NO_CODE: Final = "no_code"  # the status that the sandbox does not know: a completion without a program

_Kind = TypeVar("_Kind", list[Any], dict[str, Any])


# ---------------------------------------------------------------------------------------------------------------- problems


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


def fetch(repo: str, revision: str, release: str) -> list[Path]:
    """The files of a release, from the hub or its cache: release_vN is test.jsonl, test2.jsonl ... testN.jsonl.

    The data set's loading script is not run (`datasets` 4 refuses it, and so do we). `revision` is a commit, which pins the
    bytes. Raises BadInput where the hub has no such thing, Unavailable where it does not answer.
    """
    from huggingface_hub import errors as hub
    from huggingface_hub import hf_hub_download

    number = re.fullmatch(r"release_v([1-9])", release)
    if number is None:
        raise BadInput(f"unknown release {release!r}: release_v1, release_v2 ... are expected")
    names = ["test.jsonl", *(f"test{part}.jsonl" for part in range(2, int(number[1]) + 1))]
    try:
        return [Path(hf_hub_download(repo, name, repo_type="dataset", revision=revision)) for name in names]
    except (hub.RepositoryNotFoundError, hub.RevisionNotFoundError, hub.RemoteEntryNotFoundError, hub.HFValidationError) as error:
        raise BadInput(f"the hub has no {release} of {repo} at {revision}: {_first_line(error)}") from error
    except Exception as error:  # offline mode, a missing cache entry, httpx's and OS errors have no common root
        raise Unavailable(f"the hub did not give {release} of {repo}: {_first_line(error)}; try again, or name a local file") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


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
    tests = (*_tests("public_test_cases", row.get("public_test_cases") or []), *_tests("private_test_cases", _private(row)))
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


def _within(problem: Problem, start: str | None, end: str | None) -> bool:
    if not (start or end):
        return True
    if not problem.date:
        raise BadInput(f"question {problem.id} has no contest_date, so that no window can be asked for; leave start_date and end_date out")
    return (start or "") <= problem.date <= (end or "9999-99-99")


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
            raise BadInput(f"{field}, test {number}: a function's test is JSON, one value a line and parameter, and one value as output")
        cases.append(TestCase(case["input"], case["output"], kind))
    return cases


def _is_json(*texts: str) -> bool:
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


# ------------------------------------------------------------------------------------------------------- private test cases


def _private(row: Mapping[str, Any]) -> Any:
    """The private tests in either official encoding, decoded as far as JSON."""
    value = row.get("private_test_cases") or []
    if not isinstance(value, str) or value.lstrip().startswith("["):
        return value
    try:
        packed = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadInput(f"private_test_cases is neither a JSON list nor base64 ({error})") from error
    return _unpickled(_inflated(packed))


def _inflated(packed: bytes) -> bytes:
    inflate = zlib.decompressobj()
    try:
        data = inflate.decompress(packed, MAX_TESTS_BYTES)
    except zlib.error as error:
        raise BadInput(f"private_test_cases: not zlib data ({error})") from error
    if inflate.unconsumed_tail:
        raise BadInput(f"private_test_cases unpack to more than {MAX_TESTS_BYTES >> 20} MiB")
    if not inflate.eof:
        raise BadInput("private_test_cases: zlib data that is cut off")
    return data


# what `pickle.dumps(text)` writes, in every protocol: a frame, one string, a note of it, the end
_TEXT: Final = frozenset({"UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"})
_NOTES: Final = frozenset({"PROTO", "FRAME", "MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"})


def _unpickled(data: bytes) -> str:
    """The string that a pickle of a single string holds.

    The pickle is read, not run: an unpickler, even one that refuses every global, still obeys opcodes that claim memory
    without bound (LONG_BINPUT with a large index). Anything but one string is refused.
    """
    texts: list[str] = []
    try:
        for opcode, argument, position in pickletools.genops(BytesIO(data)):
            if opcode.name in _TEXT and not texts:
                texts.append(str(argument))
            elif opcode.name == "STOP" and texts and position == len(data) - 1:
                return texts[0]
            elif opcode.name not in _NOTES:
                raise BadInput(f"private_test_cases: a pickle with {opcode.name}; a pickled string and nothing else is accepted")
    except (ValueError, AttributeError, OverflowError) as error:  # what genops raises for bytes that are no pickle
        raise BadInput(f"private_test_cases: not a pickle ({_first_line(error)})") from error
    raise BadInput("private_test_cases: a pickle without an end")


# ------------------------------------------------------------------------------------------------------------------ judging


def judge(problem: dict[str, Any], completions: list[str]) -> list[bool]:
    """Which completions solve the problem (a row of LiveCodeBench's schema): they hold a program, and it passes every test.

    Raises BadInput for a row that is none, SandboxUnavailable where a program could not be run, or not be judged.
    """
    return judge_many([(problem, completions)])[0]


def judge_many(pairs: list[tuple[dict[str, Any], list[str]]]) -> list[list[bool]]:
    """`judge` for many problems at once, one worker for each processor."""
    problems = {id(row): problem_of(row) for row in {id(row): row for row, _ in pairs}.values()}  # a row given often is decoded once
    graded = statuses([(problems[id(row)], completions) for row, completions in pairs], workers=os.cpu_count() or 1)
    return [[status == "passed" for status in of_problem] for of_problem in graded]


def statuses(
    pairs: Sequence[tuple[Problem, Sequence[str]]],
    *,
    workers: int,
    chat_format: ChatFormat = FORMATS["chatml-think"],
    truncated: Sequence[Sequence[bool]] | None = None,
) -> list[list[str]]:
    """The verdict on each completion of each problem: `passed`, or why it failed: NO_CODE, or `sandbox.grade_surely`'s word.

    The program is what `ChatFormat.program` finds. One in an answer that never closed its reasoning counts too, if the model
    ended that answer itself: a base model may not know `</think>`. In an answer that `truncated` (shaped as the completions;
    None: none of them) says was cut off, it is a draft, and no program. Equal programs for one problem are run once.

    Raises SandboxUnavailable where a verdict stays unknown even for `sandbox.grade_surely`.
    """
    cut = truncated if truncated is not None else [[False] * len(completions) for _, completions in pairs]
    programs = [
        [chat_format.program(text, unclosed=not was_cut) for text, was_cut in zip(completions, of_problem, strict=True)]
        for (_, completions), of_problem in zip(pairs, cut, strict=True)
    ]
    wanted = list(dict.fromkeys((at, code) for at, codes in enumerate(programs) for code in codes if code is not None))
    settled = grade_surely([(code, pairs[at][0].tests, pairs[at][0].func_name) for at, code in wanted], workers=workers)
    found: dict[tuple[int, str], str] = {}
    for (at, code), verdict in zip(wanted, settled, strict=True):
        if verdict.status == "unknown":
            raise SandboxUnavailable(f"question {pairs[at][0].id}: {verdict.doubt}; start it again to go on")
        found[at, code] = verdict.status
    return [[NO_CODE if code is None else found[at, code] for code in codes] for at, codes in enumerate(programs)]
