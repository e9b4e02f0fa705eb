"""Problems: both encodings of tests, hostile rows, windows."""

from __future__ import annotations

import base64
import gzip
import json
import pickle
import time
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import pytest

from gwen25 import samples
from gwen25.benchmarks import packed as private
from gwen25.benchmarks import problems as schema
from gwen25.benchmarks.problems import digest, load, problem_of, read
from gwen25.data import Problem, TestCase
from gwen25.errors import BadInput
from tests.benchmarks.lcb_rows import DOUBLE, FUNCTION, packed, row, written


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
    monkeypatch.setattr(private, "MAX_BYTES", 1 << 20)
    with pytest.raises(BadInput, match="q1: private_test_cases unpack to more than 1 MiB"):
        problem_of(row(private_test_cases=packed(pickle.dumps("[" + " " * (2 << 20) + "]"))))


HUGE = 5_000_000


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" + "{}," * HUGE + "{}]", "test 1: a JSON list of at most 10000 objects of texts"),
        ("[" + "[]," * HUGE + "[]]", "test 1: a JSON list"),
        ("[" * HUGE, "test 1: a JSON list"),
        ('[{"input": ' + "[" * HUGE + "}]", "test 1: a JSON list"),
        ("[" + json.dumps(DOUBLE) + "," + "0," * HUGE + "0]", "test 2: a JSON list"),
        ("[" + '{"": ""},' * 10_001, "test 10001: a JSON list"),
        ('[{"input": "' + "\\n" * HUGE, "test 1: a JSON list"),
    ],
    ids=["objects", "lists", "depth", "depth within", "numbers", "too many", "escapes without end"],
)
def test_text_that_would_become_far_more_objects_than_it_has_bytes_is_refused(text: str, words: str) -> None:
    value = packed(pickle.dumps(text))
    started = time.process_time()
    tracemalloc.start()
    with pytest.raises(BadInput, match=f"q1: private_test_cases, {words}"):
        problem_of(row(private_test_cases=value))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * len(text) + (64 << 20), "decoded as it stands, it would take 60 times its size"
    assert time.process_time() - started < 5


def test_a_pickle_with_millions_of_opcodes_is_refused_at_once() -> None:
    flood = packed(pickle.dumps("[]")[:-1] + b"\x94" * 20_000_000 + b".")  # MEMOIZE: 1 MB of zlib holds a billion, minutes to read
    started = time.process_time()
    with pytest.raises(BadInput, match="a pickle with MEMOIZE"):
        problem_of(row(private_test_cases=flood))
    assert time.process_time() - started < 2


def test_an_argument_of_a_function_has_a_largest_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "MAX_VALUE", 1 << 20)
    cases = json.dumps([{"input": "[" + "[]," * 400_000 + "[]]", "output": "1", "testtype": "functional"}])
    with pytest.raises(BadInput, match=r"f1: private_test_cases, test 1: a function's test is JSON.* at most 1 MiB"):
        problem_of({**FUNCTION, "private_test_cases": cases})


@pytest.mark.parametrize("text", ["", "{", '"', "\\", '\\"},{"', "[1, 2]\n", "é∑\U0001f40d", "\u2028\0", '{"input": "x"}', "a, b: c]"])
def test_texts_that_look_like_json_come_through_packing(text: str) -> None:
    cases = [{"input": text, "output": text * 3, "testtype": "stdin"}, {"testtype": "stdin", "output": "", "input": text}]
    for blanks in (None, 1):
        for ascii_only in (True, False):
            dumped = json.dumps(cases, indent=blanks, ensure_ascii=ascii_only) + "\n "
            found = problem_of(row(public_test_cases=[], private_test_cases=packed(pickle.dumps(dumped))))
            assert found.tests == (TestCase(text, text * 3), TestCase(text, ""))


def test_no_private_tests_is_an_empty_list_in_either_encoding() -> None:
    for empty in ("[]", packed(pickle.dumps("[]")), packed(pickle.dumps(" [ ]\n")), [], None):
        assert problem_of(row(private_test_cases=empty)).tests == (TestCase("2\n", "4\n"),)


@pytest.mark.parametrize(
    "text", ["", "]", "[", "[,]", '[{"a": "b"}', '[{"a": "b"},]', '[{"a": "b"}] x', '[{"a" "b"}]', '[{"a": "b" "c": "d"}]']
)
def test_packed_text_that_is_no_list_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match=r"q1: private_test_cases, test \d"):
        problem_of(row(private_test_cases=packed(pickle.dumps(text))))


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


def test_both_days_of_a_window_belong_to_it_to_their_last_minute(tmp_path: Path) -> None:
    days = {"q1": "2024-05-03T23:59:00", "q2": "2024-05-04T00:00:00", "q3": "2024-05-05T19:30:00", "q4": "2024-05-06T00:00:00"}
    path = written(tmp_path, *(row(question_id=name, contest_date=date) for name, date in days.items()))
    assert [problem.id for problem in load(path, "2024-05-04", "2024-05-05")] == ["q2", "q3"]


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


def test_a_digest_is_of_all_that_an_answer_is_judged_by() -> None:
    kept = digest(problem_of(row()))
    assert len(kept) == 12 and kept == digest(problem_of(row(question_id="q2", difficulty="hard", contest_date="")))
    weaker, moved = [{**DOUBLE, "output": "8"}], [{**DOUBLE, "input": "4", "output": "\n8\n"}]
    changed = [
        {"question_content": "Print twice it."},
        {"private_test_cases": weaker},
        {"private_test_cases": moved},
        {"private_test_cases": []},
    ]
    assert len({kept, *(digest(problem_of(row(**one))) for one in changed), digest(problem_of(FUNCTION))}) == 6


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
