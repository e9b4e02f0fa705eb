"""`gwen25 grade`: a verdict for each completion, whole or not at all; a table; one clear line for what is no input."""

from __future__ import annotations

import gzip
import json
import os
import resource
import stat
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gwen25 import cli
from gwen25.benchmarks import judging
from gwen25.commands import grade
from gwen25.errors import BadInput, SandboxUnavailable
from tests.benchmarks.lcb_rows import FUNCTION, fenced, row, written

RIGHT, WRONG = fenced("print(2 * int(input()))"), fenced("print(2 + int(input()))")
SOLUTION = fenced("class Solution:\n    def double(self, number: int) -> int:\n        return 2 * number")
Grade = Callable[..., tuple[int, str, str]]


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    return written(tmp_path, row(), FUNCTION, row(question_id="abc343_a", difficulty="hard"), row(question_id="unanswered"))


@pytest.fixture
def run(problems: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Grade:
    """Grade rows (or a file), and give the status, stdout and stderr."""

    def graded(completions: list[Any] | Path, *options: str, out: Path = tmp_path / "verdicts.jsonl") -> tuple[int, str, str]:
        path = completions if isinstance(completions, Path) else tmp_path / "completions.jsonl"
        if not isinstance(completions, Path):
            path.write_text("".join(json.dumps(line) + "\n" for line in completions))
        status = cli.main(["grade", str(problems), str(path), "--out", str(out), "--workers", "2", *options])
        return status, *capsys.readouterr()

    return graded


def completion(question: Any, output: str, **more: Any) -> dict[str, Any]:
    return {"question_id": question, "output": output, **more}


def verdicts(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "verdicts.jsonl").read_text().splitlines()]


MIXED = [
    completion("f1", SOLUTION),
    completion("q1", RIGHT),
    completion("abc343_a", f"{RIGHT}\n```\n4\n```"),
    completion("q1", WRONG),
    completion("q1", "no program"),
    completion("q1", fenced("print(gcd(0, 2 * int(input())))")),
]


def test_each_completion_has_a_line_in_its_place(run: Grade, tmp_path: Path) -> None:
    status, out, _ = run(MIXED)
    found = verdicts(tmp_path)
    assert status == 0
    assert [(one["question_id"], one["index"], one["line"], one["strict"], one["official"], one["test"]) for one in found] == [
        ("f1", 0, 1, "passed", "passed", None),
        ("q1", 0, 2, "passed", "passed", None),
        ("abc343_a", 0, 3, "passed", "wrong", None),
        ("q1", 1, 4, "wrong", "wrong", 1),
        ("q1", 2, 5, "no_code", "no_code", None),
        ("q1", 3, 6, "error", "passed", 0),
    ]
    assert [one["passed"] for one in found] == [one["strict"] == "passed" for one in found]
    assert found[5]["official_with_prelude"] and "NameError" in found[5]["stderr"]
    assert all(one["cpu_seconds"] >= 0 and one["total_tests"] == 2 and one["isolation"] for one in found if one["strict"] != "no_code")
    assert found[4]["cpu_seconds"] is None, "what was not run took no time that is known"
    assert "| **pass@1** | 75.0% (" in out and "| **pass@1, official rules** | 50.0% (" in out and "| samples each (n) | 1 to 4 |" in out
    assert "pass@1 without problems that accept several answers" in out and "1 problems of" in out and "6 verdicts written" in out


@pytest.mark.parametrize(
    ("rules", "keys"), [("strict", {"strict", "test"}), ("official", {"official"}), ("both", {"strict", "official", "test"})]
)
def test_rules_decide_what_a_verdict_holds(run: Grade, tmp_path: Path, rules: str, keys: set[str]) -> None:
    _, out, _ = run([completion("abc343_a", f"{RIGHT}\n```\n4\n```"), completion("q1", RIGHT)], "--rules", rules)
    first, second = verdicts(tmp_path)
    assert keys == {"strict", "official", "test"} & first.keys()
    assert first["passed"] is (rules != "official") and second["passed"] is True
    assert ("**pass@1**" in out, "official rules" in out) == (rules != "official", rules != "strict")


def test_json_on_stdout_is_all_that_was_counted(run: Grade, tmp_path: Path) -> None:
    _, out, _ = run(MIXED, "--json")
    counted = json.loads(out)
    assert {row["question_id"]: (row["n"], row["c"], row["c_official"]) for row in counted["rows"]} == {
        "abc343_a": (1, 1, 0),
        "f1": (1, 1, 1),
        "q1": (4, 1, 2),
    }
    assert counted["scores"]["all"]["1"]["value"] == 0.75 and counted["problems_without_completion"] == 1 and counted["n"] == "1 to 4"


def test_gzip_on_both_sides_and_numbers_as_ids(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in (("p", row(question_id=7)), ("c", completion("7", RIGHT)), ("d", completion(7, RIGHT))):
        (tmp_path / f"{name}.jsonl.gz").write_bytes(gzip.compress(json.dumps(value).encode()))
    for name in "cd":
        out = tmp_path / "verdicts.jsonl"
        assert cli.main(["grade", str(tmp_path / "p.jsonl.gz"), str(tmp_path / f"{name}.jsonl.gz"), "--out", str(out)]) == 0
        assert verdicts(tmp_path)[0]["passed"] is True


def test_an_answer_that_was_cut_off_is_a_draft(run: Grade, tmp_path: Path) -> None:
    draft = RIGHT.replace("</think>", "")
    run([completion("q1", draft), completion("q1", draft, truncated=True)])
    assert [(one["strict"], one["official"]) for one in verdicts(tmp_path)] == [("passed", "passed"), ("no_code", "passed")]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([completion("q1", RIGHT), completion("q2", RIGHT)], r"completions.jsonl, line 2: question_id 'q2' is none of the problems"),
        ([completion("q1", RIGHT), {"question_id": "q1"}], "completions.jsonl, line 2: question_id and output"),
        ([{"output": RIGHT}], "line 1: question_id and output"),
        ([completion(["q1"], RIGHT)], "line 1: question_id and output"),
        ([completion("q1", RIGHT, truncated="no")], "line 1: .*true or false"),
        ([[1]], "line 1: a JSON object"),
        ([], "holds no completions"),
    ],
)
def test_completions_that_are_none_are_named_by_file_and_line(run: Grade, tmp_path: Path, lines: list[Any], words: str) -> None:
    status, _, err = run(lines)
    assert status == 2 and err.count("\n") == 1 and not (tmp_path / "verdicts.jsonl").exists()
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(err)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([row(), row()], "line 2: question q1 was already at"),
        ([row(public_test_cases="[")], "line 1: question q1: public_test_cases is not JSON"),
    ],
)
def test_problems_that_are_none_are_named_by_file_and_line(
    run: Grade, problems: Path, tmp_path: Path, rows: list[dict[str, Any]], words: str
) -> None:
    written(tmp_path, *rows)
    status, _, err = run([completion("q1", RIGHT)])
    assert status == 2 and words in err and "problems.jsonl" in err and not (tmp_path / "verdicts.jsonl").exists()


@pytest.mark.parametrize("options", [["--workers", "0"], ["--workers", "-1"]])
def test_workers_that_cannot_be(run: Grade, options: list[str]) -> None:
    status, _, err = run([completion("q1", RIGHT)], *options)
    assert status == 2 and "--workers" in err


def test_a_folder_that_is_not_there(run: Grade, tmp_path: Path) -> None:
    for out in (tmp_path / "none" / "v.jsonl", tmp_path):
        status, _, err = run([completion("q1", RIGHT)], out=out)
        assert status == 2 and "--out" in err


def test_what_is_read_is_not_overwritten(run: Grade, problems: Path, tmp_path: Path) -> None:
    for out in (problems, tmp_path / "completions.jsonl"):
        status, _, err = run([completion("q1", RIGHT)], out=out)
        assert status == 2 and "the file to be read" in err and out.stat().st_size


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_is_no_plain_file_is_refused_and_stays(run: Grade, tmp_path: Path, kind: str) -> None:
    """As root a device's name could be taken from it: `--out /dev/null`."""
    out, link = tmp_path / "out", tmp_path / "link"
    if kind == "device" and os.geteuid():
        pytest.skip("only root can make a device")
    os.mkfifo(out) if kind == "pipe" else os.mknod(out, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    link.symlink_to(out)
    before = out.stat()
    for name in (out, link):
        status, _, err = run([completion("q1", RIGHT)], out=name)
        assert status == 2 and "that is a device or a pipe" in err and err.count("\n") == 1
    assert (out.stat().st_ino, out.stat().st_mode, link.is_symlink()) == (before.st_ino, before.st_mode, True)


def test_a_link_is_followed(run: Grade, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    link, target = tmp_path / "link", tmp_path / "elsewhere" / "verdicts.jsonl"
    link.symlink_to(target)
    for _ in range(2):  # a link to nothing yet, then to a file
        assert run([completion("q1", RIGHT)], out=link)[0] == 0
        assert link.is_symlink() and json.loads(target.read_text())["passed"] is True
    link.unlink()
    link.symlink_to(link)
    status, _, err = run([completion("q1", RIGHT)], out=link)
    assert status == 2 and "--out" in err


def test_a_disk_that_is_full_is_said_and_the_old_file_stays(tmp_path: Path) -> None:
    out, limits = tmp_path / "verdicts.jsonl", resource.getrlimit(resource.RLIMIT_FSIZE)
    out.write_text("old\n")
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(BadInput, match=r"cannot write .*verdicts\.jsonl: File too large; make room"):
            grade._write(out, ["x" * 1000] * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert out.read_text() == "old\n" and list(tmp_path.iterdir()) == [out]


def test_a_folder_is_no_completions(problems: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["grade", str(problems), str(tmp_path), "--out", str(tmp_path / "v")]) == 2
    assert f"{tmp_path} is a folder; a .jsonl or .jsonl.gz file is expected" in capsys.readouterr().err


def test_what_is_graded_on_other_tests_is_not_compared(run: Grade, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--json` is a report to `gwen25 compare`, which knows by the digests that the second was judged on weaker tests."""
    problems = {"strong": [row(), row(question_id="q2")], "weak": [row(private_test_cases="[]"), row(question_id="q2")]}
    for name, rows in problems.items():
        written(tmp_path, *rows)
        (tmp_path / f"{name}.json").write_text(run([completion("q1", WRONG), completion("q2", RIGHT)], "--json")[1])
    assert cli.main(["compare", str(tmp_path / "strong.json"), str(tmp_path / "weak.json"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["problems"], found["other_tests"], found["tests_unknown"], found["differs"]) == (1, 1, 0, {})
    assert found["unstated"] == ["temperature", "top_p", "max_tokens"]


def test_text_that_no_file_can_hold_is_a_program_that_fails(run: Grade, tmp_path: Path) -> None:
    status, _, _ = run([completion("q1", fenced("print('\ud800')")), completion("q1", "\ud800\0"), completion("q1", RIGHT + "\ud800")])
    assert status == 0 and [one["passed"] for one in verdicts(tmp_path)] == [False, False, True]


def test_without_a_sandbox_there_is_no_verdict_and_the_old_file_stays(run: Grade, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise SandboxUnavailable("no isolation here")

    (tmp_path / "verdicts.jsonl").write_text("old\n")
    monkeypatch.setattr(judging, "grade_surely", away)
    status, out, err = run([completion("q1", RIGHT)])
    assert (status, out) == (1, "") and "no isolation here" in err
    assert (tmp_path / "verdicts.jsonl").read_text() == "old\n" and not list(tmp_path.glob(".*.part"))


def test_memory_does_not_grow_with_the_answers(run: Grade, tmp_path: Path) -> None:
    """1,000 answers of 40 kB are 40 MB of text, of which little is ever in memory at once."""
    line = json.dumps(completion("q1", "thought " * 5000 + RIGHT)) + "\n"
    peaks = []
    for count in (1, 10, 1000):  # the first brings imports
        path = tmp_path / f"{count}.jsonl.gz"
        with gzip.open(path, "wt", compresslevel=1) as file:
            file.writelines(line for _ in range(count))
        tracemalloc.start()
        status, _, _ = run(path)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert status == 0 and [one["passed"] for one in verdicts(tmp_path)] == [True] * count
    assert peaks[2] < peaks[1] + 2e6


def test_many_answers_to_one_problem_keep_their_order(run: Grade, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grade, "PROGRAMS_AT_ONCE", 4)
    monkeypatch.setattr(judging, "PROGRAMS_AT_ONCE", 4)
    asked = [completion("q1" if at % 3 else "abc343_a", RIGHT if at % 2 else WRONG) for at in range(23)]
    run(asked)
    found = verdicts(tmp_path)
    assert [(one["question_id"], one["passed"], one["line"]) for one in found] == [
        (line["question_id"], line["output"] == RIGHT, at + 1) for at, line in enumerate(asked)
    ]
    assert [one["index"] for one in found if one["question_id"] == "abc343_a"] == list(range(8))
