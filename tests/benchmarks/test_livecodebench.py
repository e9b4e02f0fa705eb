"""Problems: both encodings, hostile rows, windows, the hub. Judging: right, wrong and hostile completions."""

from __future__ import annotations

import base64
import gzip
import json
import pickle
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from gwen25 import samples
from gwen25.benchmarks import livecodebench
from gwen25.benchmarks.livecodebench import fetch, judge, judge_many, load, problem_of, read, statuses
from gwen25.data import Problem, TestCase
from gwen25.errors import BadInput, SandboxUnavailable, Unavailable
from gwen25.sandbox import Verdict, sure

DOUBLE = {"input": "4\n", "output": "8\n", "testtype": "stdin"}


def packed(value: bytes) -> str:
    return base64.b64encode(zlib.compress(value)).decode()


def row(**changes: Any) -> dict[str, Any]:
    values = {
        "question_id": "q1",
        "question_title": "Double",
        "question_content": "Read a number and print twice that number.",
        "starter_code": "",
        "difficulty": "easy",
        "contest_date": "2024-05-04T00:00:00",
        "public_test_cases": json.dumps([{"input": "2\n", "output": "4\n", "testtype": "stdin"}]),
        "private_test_cases": json.dumps([DOUBLE]),
        "metadata": "{}",
    }
    return {**values, **changes}


FUNCTION = row(
    question_id="f1",
    starter_code="class Solution:\n    def double(self, number: int) -> int:\n        ",
    metadata=json.dumps({"func_name": "double"}),
    public_test_cases=json.dumps([{"input": "2", "output": "4", "testtype": "functional"}]),
    private_test_cases=json.dumps([{"input": "-3", "output": "-6", "testtype": "functional"}]),
)


def written(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "problems.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# ---------------------------------------------------------------------------------------------------------------- problems


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_private_tests_in_every_pickle_protocol_are_those_in_plain(protocol: int) -> None:
    text = json.dumps([{**DOUBLE, "input": "4\n" * 200}, {**DOUBLE, "output": "zwölf ∑\n"}])
    official = packed(pickle.dumps(text, protocol=protocol))
    assert problem_of(row(private_test_cases=official)) == problem_of(row(private_test_cases=text))
    assert len(problem_of(row(private_test_cases=official)).tests) == 3


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("executed",))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (pickle.dumps(Evil()), "a pickle with SHORT_BINUNICODE"),
        (pickle.dumps(Evil(), protocol=0), "GLOBAL"),
        (pickle.dumps(["a list", "[]"]), "LIST"),
        (pickle.dumps(b"[]"), "BYTES"),
        (b"\x80\x04\x8c\x02[]" + b"r\xff\xff\xff\x7f" * 3 + b"0.", "POP"),  # would make an unpickler claim gigabytes
        (pickle.dumps("[]") + b"more", "STOP"),
        (pickle.dumps("[]")[:-1], "not a pickle"),
        (b"", "not a pickle"),
        (b"\xff\xfe", "not a pickle"),
    ],
    ids=["global", "global, text", "list", "bytes", "memo bomb", "trailing", "cut", "empty", "noise"],
)
def test_a_pickle_of_anything_but_one_string_is_refused(data: bytes, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BadInput, match=rf"question q1: private_test_cases.*{words}"):
        problem_of(row(private_test_cases=packed(data)))
    assert "executed" not in capsys.readouterr().out


def test_a_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(livecodebench, "MAX_TESTS_BYTES", 1 << 20)
    with pytest.raises(BadInput, match="q1: private_test_cases unpack to more than 1 MiB"):
        problem_of(row(private_test_cases=packed(pickle.dumps("[" + " " * (2 << 20) + "]"))))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"private_test_cases": "no base64!"}, "neither a JSON list nor base64"),
        ({"private_test_cases": base64.b64encode(b"no zlib").decode()}, "zlib"),
        ({"private_test_cases": base64.b64encode(zlib.compress(b"x" * 999)[:-5]).decode()}, "cut off"),
        ({"private_test_cases": "[" * 100_000}, "not JSON"),
        ({"public_test_cases": "{}"}, "JSON list is expected"),
        ({"public_test_cases": json.dumps([{"input": 1, "output": "2", "testtype": "stdin"}])}, "test 1: an object with the texts"),
        ({"public_test_cases": json.dumps([{"input": "1", "output": "2", "testtype": "magic"}])}, "'magic'"),
        ({"public_test_cases": "[]", "private_test_cases": "[]"}, "no tests"),
        ({"public_test_cases": json.dumps([{"input": "1", "output": "True", "testtype": "functional"}])}, "a function's test is JSON"),
        ({"metadata": json.dumps({"func_name": "f"})}, "must be 'functional'"),
        ({"metadata": json.dumps({"func_name": "import os"})}, "not a function's name"),
        ({"metadata": "["}, "metadata is not JSON"),
        ({"question_content": " "}, "empty"),
        ({"question_content": None}, "question_content is missing"),
        ({"question_content": "half \ud800"}, "lone surrogate"),
        ({"contest_date": "yesterday"}, "does not begin with a date"),
    ],
)
def test_nonsense_is_one_line_that_names_the_question(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words) as caught:
        problem_of(row(**changes))
    assert str(caught.value).startswith("question q1: ")
    assert "\n" not in str(caught.value)


def test_a_row_without_an_id_is_refused() -> None:
    with pytest.raises(BadInput, match="question_id"):
        problem_of({"question": "?"})


def test_fields_of_a_problem() -> None:
    problem = problem_of(FUNCTION)
    assert (problem.id, problem.func_name, problem.difficulty, problem.date) == ("f1", "double", "easy", "2024-05-04")
    assert problem.tests == (TestCase("2", "4", "functional"), TestCase("-3", "-6", "functional"))
    assert problem_of(row(metadata=None, difficulty=None, contest_date=None, question_id=7)) == Problem(
        "7", row()["question_content"], (TestCase("2\n", "4\n"), TestCase("4\n", "8\n")), "unknown", title="Double"
    )


def test_load_takes_the_window_in_order_of_ids(tmp_path: Path) -> None:
    path = written(tmp_path, *(row(question_id=f"q{at}", contest_date=f"2024-0{9 - at}-01T00:00:00") for at in (3, 1, 2, 4)))
    assert [problem.id for problem in load(path)] == ["q1", "q2", "q3", "q4"]
    assert [problem.id for problem in load(path, "2024-06-01", "2024-07-01")] == ["q2", "q3"]
    assert [problem.id for problem in load(path, end_date="2024-07-31", max_problems=2)] == ["q2", "q3"]
    assert [problem.tests for problem in load([path], max_problems=1, tests=False)] == [()]
    assert [problem.id for problem in read([path])] == ["q3", "q1", "q2", "q4"]


@pytest.mark.parametrize(
    ("start", "end", "words"),
    [("2025-01-01", None, "no problem from 2025-01-01 to the last"), ("2024-02-01", "2024-01-01", "must not be after")],
)
def test_an_empty_window_is_an_error(tmp_path: Path, start: str, end: str | None, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        load(written(tmp_path, row()), start, end)


def test_a_window_cannot_be_asked_of_the_undated(tmp_path: Path) -> None:
    path = written(tmp_path, row(contest_date=""))
    assert len(load(path)) == 1
    with pytest.raises(BadInput, match="q1 has no contest_date"):
        load(path, start_date="2024-01-01")


def test_errors_name_file_and_line(tmp_path: Path) -> None:
    path = written(tmp_path, row(), row(question_id="q2", public_test_cases="[", private_test_cases="[]"))
    with pytest.raises(BadInput, match=r"problems\.jsonl, line 2: question q2: public_test_cases is not JSON"):
        load(path)
    with pytest.raises(BadInput, match=r"line 2: question q1 was already at .*line 1"):
        load(written(tmp_path, row(), row()))
    with pytest.raises(BadInput, match="no such file"):
        load(tmp_path / "absent.jsonl")


def test_the_samples_are_problems() -> None:
    problems = load(samples.path("problems.jsonl"))
    assert len(problems) >= 10
    assert {problem.func_name is None for problem in problems} == {True, False}


def test_real_problems_load(shared_data: Path) -> None:
    path = shared_data / "problems" / "lcb_after_v1.jsonl.gz"
    problems = load(path)
    assert len(problems) == 479
    with gzip.open(path, "rt") as lines:
        raw = {str(found["question_id"]): found for found in map(json.loads, lines)}
    for problem in problems:
        origins = raw[problem.id]["_private_origin"]
        assert len(problem.tests) == len(json.loads(raw[problem.id]["public_test_cases"])) + len(origins)
    assert {problem.difficulty for problem in problems} == {"easy", "medium", "hard"}
    assert len(load(path, "2024-09-01", "2024-09-30")) == sum("2024-09-01" <= problem.date <= "2024-09-30" for problem in problems) > 0


# ------------------------------------------------------------------------------------------------------------------ the hub


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's REST as a download needs: one data set, two files, at one commit."""

    commit = "a" * 40

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        name = self.path.rsplit("/", 1)[-1]
        number = {"test.jsonl": 1, "test2.jsonl": 2}.get(name)
        known = number is not None and self.path.startswith(f"/datasets/some/benchmark/resolve/{self.commit}/")
        data = json.dumps(row(question_id=f"q{number}")).encode() + b"\n" if known else b""
        self.send_response(200 if known else 404)
        if not known:
            self.send_header("X-Error-Code", "EntryNotFound" if "some/benchmark" in self.path else "RepoNotFound")
        self.send_header("X-Repo-Commit", self.commit)
        self.send_header("ETag", f'"{name}"')
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


FETCH = """
import sys
from gwen25.benchmarks import livecodebench
from gwen25.benchmarks.livecodebench import fetch, read
try:
    print([problem.id for problem in read(fetch(*sys.argv[1:]))])
except Exception as error:
    print(type(error).__name__, error)
"""


def fetched(hub: str, home: Path, *arguments: str) -> str:
    """In a process of its own: huggingface_hub reads its environment once, when it is imported."""
    environment = {"HF_ENDPOINT": hub, "HF_HOME": str(home), "PATH": "/usr/bin:/bin", "HF_HUB_DISABLE_TELEMETRY": "1"}
    done = subprocess.run(
        [sys.executable, "-c", FETCH, *arguments],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.stdout or done.stderr


def test_a_release_is_its_first_files_at_a_revision(hub: str, tmp_path: Path) -> None:
    assert fetched(hub, tmp_path, "some/benchmark", Hub.commit, "release_v2") == "['q1', 'q2']\n"
    assert "BadInput the hub has no release_v3" in fetched(hub, tmp_path, "some/benchmark", Hub.commit, "release_v3")
    assert "BadInput the hub has no release_v1 of some/thing" in fetched(hub, tmp_path, "some/thing", Hub.commit, "release_v1")
    assert fetched("http://127.0.0.1:9", tmp_path, "some/benchmark", Hub.commit, "release_v1") == "['q1']\n"  # from the cache


def test_a_release_that_is_none_is_refused() -> None:
    with pytest.raises(BadInput, match="release_v1"):
        fetch("some/benchmark", "main", "latest")


def test_an_offline_hub_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(Unavailable, match="the hub did not give release_v1"):
        fetch("some/benchmark", Hub.commit, "release_v1")


# ------------------------------------------------------------------------------------------------------------------ judging


def fenced(code: str) -> str:
    return f"Let me see.\n</think>\n\n```python\n{code}\n```"


RIGHT = fenced("print(2 * int(input()))")
COMPLETIONS = {
    RIGHT: "passed",
    fenced("print(2 + int(input()))"): "wrong",  # right on the public test alone
    fenced("print(2 * int(inputs()))"): "error",
    "print(2 * int(input()))": "no_code",
    "```python\nprint(2 * int(input()))\n```\n</think>\nSo that is it.": "no_code",  # a draft is no answer
    "": "no_code",
    fenced("import os\nos._exit(0)"): "wrong",
    fenced("while True: pass"): "timeout",
    fenced("import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\nprint(8)"): None,
}


def test_completions_are_judged_each_for_itself() -> None:
    [found] = statuses([(problem_of(row()), list(COMPLETIONS))], workers=2)
    for text, status in zip(COMPLETIONS, found, strict=True):
        expected = COMPLETIONS[text]
        assert status == expected if expected else status != "passed", text
    assert judge(row(), list(COMPLETIONS)[:6]) == [True] + [False] * 5


def test_a_draft_counts_where_the_model_ended_it_itself() -> None:
    draft = "```python\nprint(2 * int(input()))\n```"
    pair = (problem_of(row()), [draft, draft, RIGHT])
    assert statuses([pair], workers=1, truncated=[[False, True, True]]) == [["passed", "no_code", "passed"]]
    assert judge(row(), [draft]) == [True], "text without any tags is a program as well"


def test_officially_accepted_programs_pass_on_real_tests(shared_data: Path) -> None:
    with gzip.open(shared_data / "problems" / "train_ocr_schema.jsonl.gz", "rt") as lines:
        accepted = {found["question_id"]: found["solution"] for found in map(json.loads, lines) if found["source"] == "atcoder"}
    problems = [problem for problem in load(shared_data / "problems" / "lcb_after_v1.jsonl.gz") if problem.id in accepted][::12]
    assert len(problems) >= 10
    found = statuses([(problem, [fenced(accepted[problem.id]), fenced("print(0)")]) for problem in problems], workers=2)
    assert found == [["passed", "wrong"]] * len(problems)


def test_functions_are_called() -> None:
    right = fenced("class Solution:\n    def double(self, number: int) -> int:\n        return 2 * number")
    wrong = fenced("class Solution:\n    def double(self, number: int) -> int:\n        return 4")
    assert judge_many([(FUNCTION, [wrong, right]), (row(), [RIGHT])]) == [[False, True], [True]]
    assert judge_many([(row(), []), (FUNCTION, [])]) == [[], []]


def test_hostile_completions_fail_and_do_no_harm(tmp_path: Path) -> None:
    target = tmp_path / "mine"
    hostile = [
        fenced("x = 'a' * 10 ** 11"),
        fenced(f"open({str(target)!r}, 'w').write('x')\nprint(2 * int(input()))"),
        fenced("import socket\nsocket.create_connection(('127.0.0.1', 80))\nprint(2 * int(input()))"),
        fenced("class E(str):\n    def __eq__(self, other): return True\nprint(E('?'))"),
    ]
    assert judge(row(), hostile) == [False] * len(hostile)
    assert not target.exists()


def test_equal_programs_are_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []
    real = sure.grade_many
    monkeypatch.setattr(sure, "grade_many", lambda jobs, *more, **named: ran.append(len(jobs)) or real(jobs, *more, **named))
    assert judge(row(), [RIGHT] * 5 + [RIGHT + " "]) == [True] * 6
    assert ran == [1]


def test_a_program_that_waits_for_ever_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sure, "LIMITS", replace(sure.LIMITS, wall_seconds=1))
    monkeypatch.setattr(sure, "PATIENT", replace(sure.LIMITS, wall_seconds=2))
    monkeypatch.setattr(sure.os, "getloadavg", lambda: (0.5, 0.5, 0.5))
    waits = fenced("import threading\nthreading.Lock().acquire()\nthreading.Event().wait()")
    slow = fenced("import time\ntime.sleep(1.2)\nprint(2 * int(input()))")  # in vain the first time
    assert statuses([(problem_of(row()), [waits, slow, RIGHT])], workers=2) == [["stalled", "passed", "passed"]]
    monkeypatch.setattr(sure.os, "getloadavg", lambda: (1000.0, 1000.0, 1000.0))
    with pytest.raises(SandboxUnavailable, match="q1: this machine is too busy"):
        judge(row(), [waits])


def test_a_program_killed_from_outside_is_asked_again_and_is_never_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    killed = Verdict("unknown", 0, 0, 2, 0.1, 0.1, None, "", "")
    asked: list[int] = []

    def flaky(jobs: list[Any], *_: Any, **__: Any) -> list[Verdict]:
        asked.append(len(jobs))
        return [killed if len(asked) == 1 and at == 0 else replace(killed, status="passed") for at in range(len(jobs))]

    monkeypatch.setattr(sure, "grade_many", flaky)
    assert judge(row(), [RIGHT, fenced("print(8)")]) == [True, True]
    assert asked == [2, 1]
    monkeypatch.setattr(sure, "grade_many", lambda jobs, *_, **__: [killed for _ in jobs])
    with pytest.raises(SandboxUnavailable, match="q1: a program was twice killed"):
        judge(row(), [RIGHT])


def test_a_missing_sandbox_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise SandboxUnavailable("no isolation here")

    monkeypatch.setattr(sure, "grade_many", away)
    with pytest.raises(SandboxUnavailable):
        judge(row(), [RIGHT])
    assert judge(row(), ["no program"]) == [False]
