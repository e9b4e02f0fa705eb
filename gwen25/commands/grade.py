"""`gwen25 grade PROBLEMS COMPLETIONS --out VERDICTS`: answers that exist already are judged; no model.

    COMPLETIONS   JSON lines: question_id, output, and "truncated": true where an answer was cut off; .jsonl or .jsonl.gz
    VERDICTS      one JSON line for each, in their order: status by both rules, the test that failed, seconds, memory, stderr

Tests are read a few problems at a time, and programs wait on disk for theirs, so a completion costs some 200 bytes of memory however long
it is. VERDICTS is written whole or not at all, by a new file that takes its place; so it cannot be a device or a pipe.
Not here: rules (`benchmarks.judging`), which text is the program (`benchmarks.prompts`).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from gwen25.benchmarks import livecodebench, report
from gwen25.benchmarks.judging import NO_CODE, PROGRAMS_AT_ONCE, VERSION, Judged, Programs, Rules, in_chunks, judged
from gwen25.benchmarks.problems import digest
from gwen25.benchmarks.prompts import chat_programs
from gwen25.benchmarks.tally import tally
from gwen25.chat import FORMATS
from gwen25.data import Problem, read_jsonl
from gwen25.errors import BadInput


def run(arguments: argparse.Namespace) -> int:
    """Judge, write the verdicts, print the table (or, with `--json`, all counts)."""
    out = _writable(arguments.out, arguments.problems, arguments.completions)
    workers = os.cpu_count() or 1 if arguments.workers is None else arguments.workers
    if workers < 1:
        raise BadInput(f"--workers {workers}: at least 1 is expected")
    problems = {problem.id: problem for problem in livecodebench.load(arguments.problems, tests=False)}
    with tempfile.TemporaryFile() as waiting, tempfile.TemporaryFile() as done:
        completions = _Completions(arguments.completions, problems, _Shelf(waiting))
        verdicts, found, digests = _Shelf(done), dict[str, list[Judged]](), dict[str, str]()
        for chunk in in_chunks(completions.pairs(arguments.problems)):
            for (problem, _), of_problem in zip(chunk, judged(chunk, workers=workers, rules=arguments.rules), strict=True):
                if problem.id not in digests:  # one with many completions comes in several chunks
                    digests[problem.id] = digest(problem)
                for one in of_problem:
                    place, line = completions.next_of(problem)
                    seen = found.setdefault(problem.id, [])
                    verdicts.put(place, _verdict(problem, len(seen), line, one, arguments.rules))
                    seen.append(one._replace(verdict=None))
            _progress(sum(map(len, found.values())), completions.count)
        _write(out, (json.dumps(verdicts.get(place)) for place in range(completions.count)))
    counted = tally([problem for problem in problems.values() if problem.id in found], found, digests)
    _show(arguments, counted, len(problems) - len(found))
    return 0


def _writable(out: Path, *inputs: Path) -> Path:
    """The file that `out` means, links followed. BadInput where it cannot be written, or is no plain file: a device would be replaced."""
    for path in inputs:
        if path.is_dir():
            raise BadInput(f"{path} is a folder; a .jsonl or .jsonl.gz file is expected")
    try:
        file = out.resolve()
        if out.exists() and not out.is_file():
            raise BadInput(f"--out {out}: that is a {'folder' if out.is_dir() else 'device or a pipe'}; the name of a file is expected")
        with tempfile.TemporaryFile(dir=file.parent):
            pass
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        reason = getattr(error, "strerror", None) or error
        raise BadInput(f"--out {out}: a file in a folder that is there, and may be written to, is expected ({reason})") from error
    if file in [path.resolve() for path in inputs]:
        raise BadInput(f"--out {out}: that is the file to be read")
    return file


class _Shelf:
    """JSON values by number, on disk: 8 bytes of memory each."""

    def __init__(self, file: BinaryIO):
        self._file, self._starts = file, array("Q")

    def put(self, number: int, value: Any) -> None:
        self._starts.extend([0] * (number + 1 - len(self._starts)))
        self._starts[number] = self._file.seek(0, os.SEEK_END)
        self._file.write(json.dumps(value).encode() + b"\n")

    def get(self, number: int) -> Any:
        self._file.seek(self._starts[number])
        return json.loads(self._file.readline())


class _Completions:
    """The completions' programs, by problem. BadInput names file and line of what is none."""

    def __init__(self, path: Path, problems: Mapping[str, Problem], shelf: _Shelf):
        self._shelf, self._places, self.count = shelf, dict[str, list[int]](), 0
        for number, row in read_jsonl(path):
            question, programs = _programs(f"{path}, line {number}", row, problems)
            self._places.setdefault(question, []).append(self.count)
            shelf.put(self.count, [number, *programs])
            self.count += 1
        if not self.count:
            raise BadInput(f"{path} holds no completions; JSON lines with question_id and output are expected")
        self._next = {question: iter(places) for question, places in self._places.items()}

    def pairs(self, problems: Path) -> Iterator[tuple[Problem, list[Programs]]]:
        """Each problem that was answered, read again with its tests, and the programs handed in, some at a time."""
        for problem in livecodebench.read([problems]):
            places = self._places.get(problem.id, [])
            for start in range(0, len(places), PROGRAMS_AT_ONCE):
                yield problem, [Programs(*self._shelf.get(place)[1:]) for place in places[start : start + PROGRAMS_AT_ONCE]]

    def next_of(self, problem: Problem) -> tuple[int, int]:
        """Place and line of the problem's next completion, in the order of `pairs`."""
        place = next(self._next[problem.id])
        return place, self._shelf.get(place)[0]


def _programs(where: str, row: Mapping[str, Any], problems: Mapping[str, Problem]) -> tuple[str, Programs]:
    question, output, truncated = row.get("question_id"), row.get("output"), row.get("truncated", False)
    if not isinstance(question, str | int) or not isinstance(output, str) or not isinstance(truncated, bool):
        raise BadInput(f"{where}: question_id and output (text) are expected, and truncated, where it is given, true or false")
    if str(question) not in problems:
        raise BadInput(f"{where}: question_id {str(question)[:80]!r} is none of the problems")
    return str(question), chat_programs(output, FORMATS["chatml-think"], truncated)


def _verdict(problem: Problem, index: int, line: int, one: Judged, rules: Rules) -> dict[str, Any]:
    """A line of VERDICTS. What was not run has no seconds."""
    asked: dict[str, Any] = {name: getattr(one, name) for name in ("strict", "official") if rules in (name, "both")}
    counted = ("test", "passed_tests") if rules != "official" else ()  # a run knows the first test that failed strictly
    measured = (*counted, "total_tests", "cpu_seconds", "wall_seconds", "peak_memory_bytes", "stderr", "isolation")
    return {
        "question_id": problem.id,
        "index": index,
        "line": line,
        "passed": next(iter(asked.values())) == "passed",
        **asked,
        **({"official_with_prelude": True} if one.prelude else {}),
        **{name: getattr(one.verdict, name, None) for name in measured},
    }


def _progress(done: int, count: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{done} of {count} judged", end="\n" if done == count else "", file=sys.stderr, flush=True)


def _write(out: Path, lines: Iterable[str]) -> None:
    part = out.with_name(f".verdicts-{os.urandom(6).hex()}.part")  # a short name of its own: two may write the same file
    try:
        with part.open("x", encoding="utf-8") as file:
            file.writelines(line + "\n" for line in lines)
        part.replace(out)
    except OSError as error:
        raise BadInput(f"cannot write {out}: {error.strerror or error}; make room there, or name another --out") from error
    finally:
        part.unlink(missing_ok=True)


def _show(arguments: argparse.Namespace, counted: dict[str, Any], unanswered: int) -> None:
    ns = sorted({row["n"] for row in counted["rows"]})
    n = ns[0] if len(ns) == 1 else f"{ns[0]} to {ns[-1]}"
    if arguments.json:
        about = {"benchmark": "livecodebench", "rules": VERSION, "n": n}
        print(json.dumps({**about, "problems_without_completion": unanswered, "out": str(arguments.out), **counted}, indent=1))
        return
    no_code = (counted["verdicts"] or counted["verdicts_official"]).get(NO_CODE, 0)
    print(report.table({arguments.completions.name: {**counted, "n": n, "no_code": no_code}}))
    if unanswered:
        print(f"{unanswered} problems of {arguments.problems} have no completion and are left out")
    print(f"{counted['samples']} verdicts written to {arguments.out}")
