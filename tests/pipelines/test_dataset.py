"""The data set stage: every row accounted for, nothing on both sides, the same bytes each time, and errors that help."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models

from gwen25 import chat, samples, sandbox
from gwen25.config import DatasetConfig, load_config
from gwen25.data import read_jsonl
from gwen25.errors import BadInput, Unavailable
from gwen25.job import Job, Result
from gwen25.pipelines import dataset
from gwen25.pipelines.dataset import REASONS, Filters, Raw, Row, Tally, choose_heldout, local_rows
from tests.benchmarks import lcb_rows

FORMAT = chat.FORMATS["chatml-think"]
FILES = ("train", "heldout", "grpo")


def section(**overrides: Any) -> DatasetConfig:
    """The smoke profile's section with other values."""
    return DatasetConfig.model_validate({**load_config("smoke").dataset.model_dump(), **overrides})


@pytest.fixture
def make_job(tmp_path: Path, tiny_model: Path):
    """Builds a Job of the smoke profile; keywords override the data set's section."""
    count = iter(range(99))

    def make(data: Path | None = None, tokenizer: Path | None = None, **overrides: Any) -> Job:
        work = tmp_path / f"work{next(count)}"
        (work / "payload").mkdir(parents=True)
        (work / "aside").mkdir()
        return Job(
            stage="dataset",
            key="k",
            config=section(**overrides),
            inputs={},
            externals={"data": {"digest": "d"}, "tokenizer": {"digest": "t"}},
            locations={"data": str(data or samples.path("rows.jsonl")), "tokenizer": str(tokenizer or tiny_model)},
            runtime=load_config("smoke").runtime,
            micro_batch=None,
            work=work,
        )

    return make


def row(number: int = 0, **columns: Any) -> dict[str, Any]:
    """A row that is kept; its statement and program differ by number."""
    code = f"print(int(input()) + {number})"
    statement = f"Add {number} to n.\n\nInput\n\nn\n\nOutput\n\nn + {number}\n\nExample\n\nInput\n\n1\n\nOutput\n\n{1 + number}"
    return {
        "id": f"r{number}",
        "input": statement,
        "output": output(f"We add {number}.", code),
        "source": "s",
        "license": "l",
        "difficulty": "easy",
    } | columns


def output(reasoning: str, code: str) -> str:
    return f"<think>\n{reasoning}\n</think>\n\nHere it is.\n\n```python\n{code}\n```\n"


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def lines(job: Job, name: str) -> list[dict[str, Any]]:
    return [row for _, row in read_jsonl(job.payload / f"{name}.jsonl")]


def accounted(result: Result) -> dict[str, int]:
    """The reasons that took rows, after checking the sum that must always hold."""
    metrics = result.metrics
    assert metrics["rows_read"] == metrics["rows_kept"] + sum(metrics["dropped"].values())
    assert metrics["rows_kept"] == result.facts["rows_train"] + result.facts["rows_heldout"]
    assert set(metrics["dropped"]) == set(REASONS)
    return {reason: count for reason, count in metrics["dropped"].items() if count}


# the packaged rows


def test_samples_show_what_is_kept_and_what_is_not(make_job) -> None:
    job = make_job()
    result = dataset.run(job)
    reasons = (
        "no_statement",
        "no_output",
        "special_token",
        "unfinished_reasoning",
        "no_code",
        "not_python",
        "duplicate",
        "too_long",
        "fails_examples",
    )
    assert accounted(result) == dict.fromkeys(reasons, 1)
    assert sorted(path.name for path in job.payload.iterdir()) == ["grpo.jsonl", "heldout.jsonl", "train.jsonl"]
    assert [len(lines(job, name)) for name in FILES] == [result.facts[f"rows_{name}"] for name in FILES]
    assert result.facts["licenses"] == {"apache-2.0": result.metrics["rows_kept"]}
    assert result.facts["chat_format"] == {"name": FORMAT.name, "digest": FORMAT.digest}
    assert result.metrics["without_examples"] == 2
    assert result.metrics["examples_passed"] == result.metrics["rows_kept"] - 2
    tokens = result.metrics["tokens"]
    assert tokens["min"] <= tokens["median"] <= tokens["p90"] <= tokens["max"] <= job.config.max_length


def test_rows_hold_what_downstream_reads(make_job) -> None:
    job = make_job()
    dataset.run(job)
    for made in lines(job, "train") + lines(job, "heldout"):
        assert set(made) == {"id", "messages", "reasoning", "code", "source", "difficulty", "license", "tokens"}
        assert [message["role"] for message in made["messages"]] == ["system", "user"]
        assert FORMAT.parse(FORMAT.answer(made["reasoning"], made["code"])).well_formed
    for made in lines(job, "grpo"):
        assert set(made) == {"id", "messages", "tests", "func_name", "starter_code", "difficulty"}
        assert all(set(test) == {"input", "output", "kind"} for test in made["tests"])


def test_token_counts_are_those_of_the_trained_ids(make_job, tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    job = make_job()
    dataset.run(job)
    for made in lines(job, "train"):
        prompt, target = FORMAT.render(made["messages"]), FORMAT.answer(made["reasoning"], made["code"])
        apart = tokenizer(prompt)["input_ids"] + tokenizer(target + FORMAT.eos)["input_ids"]
        assert apart == tokenizer(prompt + target + FORMAT.eos)["input_ids"]
        assert len(apart) == made["tokens"]


def test_two_runs_give_the_same_bytes(make_job) -> None:
    first, second = make_job(max_samples=40), make_job(max_samples=40)
    assert dataset.run(first) == dataset.run(second)
    assert all((first.payload / f"{name}.jsonl").read_bytes() == (second.payload / f"{name}.jsonl").read_bytes() for name in FILES)


def test_nothing_depends_on_the_chunks(make_job, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = make_job(), make_job()
    result = dataset.run(first)
    monkeypatch.setattr(dataset, "CHUNK", 5)
    assert dataset.run(second) == result
    assert all((first.payload / f"{name}.jsonl").read_bytes() == (second.payload / f"{name}.jsonl").read_bytes() for name in FILES)


# the filters

LOST: dict[str, dict[str, Any]] = {
    "no_statement": row(1, input=" - "),
    "no_output": row(1, output=None),
    "special_token": row(1, output=output("Then <|im_start|> follows.", "print(2)")),
    "unfinished_reasoning": row(1, output="<think>\nWe add and add and"),
    "no_reasoning": row(1, output=output("", "print(2)")),
    "no_code": row(1, output="<think>\nWe add.\n</think>\n\nAdd one to the number."),
    "unfinished_code": row(1, output="<think>\nWe add.\n</think>\n\n```python\nn = int(input())"),
    "not_python": row(1, output=output("We add.", "print 2")),
    "ambiguous_format": row(1, output=output("First <think> again.", "print(int(input()) + 1)")),
    "not_text": row(1, input="Half a character: \ud800"),
    "duplicate": row(0, id="other", source="other"),
    "too_long": row(1, output=output("word " * 600, "print(int(input()) + 1)")),
    "fails_examples": row(1, output=output("We add.", "print(int(input()))")),
}


@pytest.mark.parametrize("reason", [reason for reason in REASONS if reason not in ("not_sampled", "seam")])
def test_each_reason(make_job, tmp_path: Path, reason: str) -> None:
    job = make_job(write(tmp_path / "rows.jsonl", [row(0), LOST[reason]]), heldout_fraction=0)
    assert accounted(dataset.run(job)) == {reason: 1}
    assert [made["id"] for made in lines(job, "train")] == ["r0"]


@pytest.mark.parametrize(
    ("reason", "broken"),
    [
        *(("not_text", {column: "half \udc00"}) for column in dataset.TEXTS if column != "output"),
        ("not_text", {"output": output("Half \ud83d a face.", "print(1)")}),
        ("no_statement", {"input": None}),
        ("no_statement", {"input": ""}),
        ("no_output", {"output": "  \n"}),
        ("special_token", {"input": "Tell what <|endoftext|> does."}),
        ("special_token", {"output": output("A <tool_call> is added, not special.", "print(1)")}),
        ("special_token", {"output": output("Text.", "print('<|im_end|>')")}),
        ("no_code", {"output": output("We print.", "  ")}),
        ("no_code", {"output": "<think>\nA draft:\n```python\nprint(1)\n```\n</think>\n\nDone."}),
        ("unfinished_code", {"output": output("We add.", "print(int(input()) + 7)") + "\nOr shorter:\n\n```python\nprint(7"}),
        ("not_python", {"output": output("Deep.", "x = " + "(" * 5000 + ")" * 5000)}),
        ("not_python", {"output": output("Null.", "x = '\0'")}),
        ("fails_examples", {"output": output("It crashes.", "1 / 0")}),
        ("fails_examples", {"output": output("It prints too much.", "while True: print('x' * 10**6)")}),
    ],
)
def test_more_that_is_dropped(tiny_model: Path, reason: str, broken: dict[str, Any]) -> None:
    assert judge(tiny_model, [row(7), row(7, **broken)])[1:] == [reason]


def judge(tiny_model: Path, rows: list[dict[str, Any]], **overrides: Any) -> list[Row | str]:
    filters = Filters(section(**overrides), dataset.load_tokenizer(tiny_model / "tokenizer.json"), workers=2)
    return filters.judge([Raw(f"row {number}", row) for number, row in enumerate(rows)])


def test_a_solution_alone_stands_behind_a_think_block_that_is_closed_at_once(make_job) -> None:
    """The prompt of every engine is the same; nothing of the reasoning is taught, and the answer is whole by the format's own rules."""
    full, bare = ({}, {})
    for target, made_rows in (("reasoning", full), ("solution", bare)):
        job = make_job(target=target)
        assert dataset.run(job).facts["target"] == target
        made_rows.update({made["id"]: made for made in lines(job, "train") + lines(job, "heldout")})
    for made in bare.values():
        answer = FORMAT.answer(made["reasoning"], made["code"])
        assert answer == f"</think>\n\n```python\n{made['code'].strip(chr(10)).rstrip()}\n```"
        assert FORMAT.parse(answer) == chat.Answer("", made["code"], well_formed=True, finished=True)
        if made["id"] in full:
            assert (made["messages"], made["code"]) == (full[made["id"]]["messages"], full[made["id"]]["code"])
            assert made["tokens"] < full[made["id"]]["tokens"]
    assert full.keys() <= bare.keys()


def test_a_solution_needs_no_reasoning_and_none_that_is_tidy(tiny_model: Path) -> None:
    rows = [LOST["no_reasoning"], row(2, output=output("First <think> again.", "print(int(input()) + 2)"))]
    kept = judge(tiny_model, [{**rows[0], "output": output("", "print(int(input()) + 1)")}, rows[1]], target="solution")
    assert [made.reasoning for made in kept if isinstance(made, Row)] == ["", ""]


def test_a_broken_seam_is_found() -> None:
    """Qwen's pre-tokenizer splits before any letter, so that the rule holds there; without one, `\\nW` becomes a token."""
    letters = [chr(number) for number in range(10, 127)]
    vocabulary = {letter: number for number, letter in enumerate(letters)} | {"\nW": len(letters)}
    merging = Tokenizer(models.BPE(vocab=vocabulary, merges=[("\n", "W")], fuse_unk=False))
    filters = Filters(section(max_length=4096), merging, workers=1)
    whole, broken = filters.judge([Raw("", row(0, output=output("Maybe.", "print(int(input()))"))), Raw("", row(1))])
    assert isinstance(whole, Row)
    assert broken == "seam"


def test_the_same_statement_with_another_program_stays(tiny_model: Path) -> None:
    other = row(3, output=output("We add.", "n = int(input())\nprint(n + 3)"))
    same, layout = row(3), row(3, input=row(3)["input"].replace("Add 3 to n.", "Add  3 to n. "))
    judged = judge(tiny_model, [row(3), other, same, layout])
    assert [isinstance(made, Row) for made in judged] == [True, True, False, False]
    assert judged[2:] == ["duplicate"] * 2


def test_a_program_that_cannot_be_judged_is_kept_without_tests(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset.sandbox, "grade_many", partial(sandbox.grade_many, limits=sandbox.Limits(wall_seconds=0.5)))
    config = section()
    filters = Filters(config, dataset.load_tokenizer(tiny_model / "tokenizer.json"), workers=2)
    sleeps = row(1, output=output("We wait.", "import time\ntime.sleep(60)"))
    (kept,) = filters.judge([Raw("", sleeps)])
    assert isinstance(kept, Row) and not kept.verified
    assert filters.tally.noted["examples_unknown"] == 1
    assert dataset._record(kept, config)["grpo"]["tests"] == []


def test_another_answer_may_be_right_where_several_are_accepted(make_job, tmp_path: Path) -> None:
    several = row(1)["input"].replace("n + 1\n", "n + 1. If there are several answers, print any of them.\n")
    other = row(1, input=several, output=output("Another.", "print(99)"))
    crash = row(2, input=several, output=output("It crashes.", "1 / 0"))
    job = make_job(write(tmp_path / "rows.jsonl", [other, crash]), heldout_fraction=0)
    result = dataset.run(job)
    assert accounted(result) == {"fails_examples": 1}
    assert result.metrics["examples_undecided"] == 1
    assert [made["tests"] for made in lines(job, "grpo")] == [[]]  # equality would punish a right answer


def test_without_verification_nothing_is_run(make_job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset.sandbox, "grade_many", None)
    job = make_job(write(tmp_path / "rows.jsonl", [row(0), LOST["fails_examples"]]), heldout_fraction=0, verify_solutions=False)
    result = dataset.run(job)
    assert accounted(result) == {}
    assert result.facts["solutions_verified"] is False
    assert not result.metrics.keys() & {"examples_passed", "examples_unknown", "examples_undecided"}  # not measured is not zero
    assert [made["tests"] for made in lines(job, "grpo")] == [[{"input": "1\n", "output": f"{1 + n}\n", "kind": "stdin"}] for n in (0, 1)]


def test_a_function_is_asked_for_as_one(make_job, tmp_path: Path) -> None:
    starter = "class Solution:\n    def add(self, n: int) -> int:\n        "
    called = row(
        1, starter_code=starter, func_name="add", output=output("We add.", "class Solution:\n    def add(self, n):\n        return n + 1")
    )
    job = make_job(write(tmp_path / "rows.jsonl", [called]))
    result = dataset.run(job)
    (made,) = lines(job, "grpo")
    assert (made["func_name"], made["starter_code"], made["tests"]) == ("add", starter, [])
    assert "def add(self, n: int)" in made["messages"][1]["content"]
    assert result.metrics["without_examples"] == 1


def test_grpo_rows_have_short_prompts_few_tests_and_each_statement_once(make_job, tmp_path: Path) -> None:
    long = row(1, input="A long story. " * 30 + row(1)["input"])
    again = row(2, id="again", output=output("We add.", "n = int(input())\nprint(n + 2)"))
    many = row(3)["input"] + "".join(f"\n\nInput\n\n{n}\n\nOutput\n\n{n + 3}" for n in range(2, 6))
    job = make_job(
        write(tmp_path / "rows.jsonl", [long, row(2), again, row(3, input=many)]), heldout_fraction=0, max_prompt_length=200, max_tests=2
    )
    result = dataset.run(job)
    made = lines(job, "grpo")
    assert [made["id"] for made in made] == ["r2", "r3"]
    assert [len(made["tests"]) for made in made] == [1, 2]
    assert result.metrics["grpo_prompt_too_long"] == 1
    assert result.facts["rows_train"] == 4


def problems_job(make_job, tmp_path: Path, rows: list[dict[str, Any]], problems: list[dict[str, Any]], **overrides: Any) -> Job:
    job = make_job(write(tmp_path / "rows.jsonl", rows), **overrides)
    file = write(tmp_path / "problems.jsonl", problems)
    return replace(job, externals={**job.externals, "grpo_data": {"digest": "p"}}, locations={**job.locations, "grpo_data": str(file)})


def test_grpo_takes_its_problems_from_a_file_of_their_own(make_job, tmp_path: Path) -> None:
    known = [{**lcb_rows.row(question_id=f"r{n}"), "question_content": row(n)["input"]} for n in (0, 1)]
    long = {**lcb_rows.row(question_id="long"), "question_content": "A long story. " * 1000}
    problems = [lcb_rows.row(), lcb_rows.FUNCTION, *known, long]
    job = problems_job(make_job, tmp_path, [row(0), row(1)], problems, heldout_fraction=0.5, max_tests=1)
    result = dataset.run(job)
    (trained,), made = lines(job, "train"), {each["id"]: each for each in lines(job, "grpo")}
    assert list(made) == ["q1", "f1", trained["id"]]  # the other statement is held out
    assert made["q1"]["tests"] == [{"input": "2\n", "output": "4\n", "kind": "stdin"}]
    assert made["f1"]["func_name"] == "double" and "def double" in made["f1"]["messages"][1]["content"]
    assert result.facts["rows_grpo"] == result.facts["rows_grpo_with_tests"] == 3
    assert result.facts["grpo_data"] == {"digest": "p"}
    assert result.metrics["grpo_prompt_too_long"] == 1


def test_a_problem_with_a_special_token_is_named(make_job, tmp_path: Path) -> None:
    job = problems_job(make_job, tmp_path, [row(0)], [{**lcb_rows.row(), "question_content": "Say <|im_end|>."}])
    with pytest.raises(BadInput, match=re.escape("question q1 holds '<|im_end|>'")):
        dataset.run(job)


# the held-out side


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 0.9])
def test_no_statement_is_on_both_sides(make_job, tmp_path: Path, seed: int, fraction: float) -> None:
    rows = [
        row(number, id=f"{number}-{copy}", output=output(f"Copy {copy}.", f"print(int(input()) + {number})  # {copy}"))
        for number in range(10)
        for copy in range(3)
    ]
    job = make_job(write(tmp_path / f"rows{seed}{fraction}.jsonl", rows), heldout_fraction=fraction, seed=seed, verify_solutions=False)
    dataset.run(job)
    train, heldout, grpo = ({made["messages"][1]["content"] for made in lines(job, name)} for name in FILES)
    assert not train & heldout
    assert grpo == train
    assert len(heldout) == round(10 * fraction)


def test_heldout_is_decided_by_seed_and_never_takes_all() -> None:
    names = [str(number) for number in range(100)]
    assert choose_heldout(names, 0.2, 1) == choose_heldout(reversed(names), 0.2, 1) != choose_heldout(names, 0.2, 2)
    assert len(choose_heldout(names, 0.2, 1)) == 20
    assert len(choose_heldout(names[:2], 0.99, 1)) == 1
    assert len(choose_heldout(names[:3], 0.01, 1)) == 1
    assert choose_heldout(names[:1], 0.5, 1) == set()
    assert choose_heldout(names, 0, 1) == set()


# reading


def test_a_sample_is_drawn_by_seed_and_a_larger_one_holds_it(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl.gz", [row(number) for number in range(50)])

    def drawn(size: int | None, seed: int) -> list[str]:
        tally = Tally()
        names = [raw.columns["id"] for raw in local_rows(file, size, seed, tally)]
        assert tally.read == 50 == len(names) + tally.dropped["not_sampled"]
        assert names == sorted(names, key=lambda name: int(name[1:]))  # the file's order
        return names

    assert set(drawn(5, 1)) < set(drawn(20, 1)) < set(drawn(None, 1))
    assert drawn(20, 1) != drawn(20, 2)
    assert len(drawn(500, 1)) == 50


def test_rows_not_sampled_are_accounted_for(make_job) -> None:
    result = dataset.run(make_job(max_samples=10))
    assert accounted(result)["not_sampled"] == len(list(read_jsonl(samples.path("rows.jsonl")))) - 10


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.jsonl", None, r"no such file: .*gone\.jsonl"),
        ("empty.jsonl", b"", r"empty\.jsonl holds no rows; .*id, input, output"),
        ("blank.jsonl", b"\n \n", r"blank\.jsonl holds no rows"),
        ("bad.jsonl", json.dumps(row(0)).encode() + b"\n{'id': 1}\n", r"bad\.jsonl, line 2: not JSON"),
        ("list.jsonl", b"\n[1, 2]\n", r"list\.jsonl, line 2: a JSON object is expected, not list"),
        ("cut.jsonl.gz", gzip.compress(json.dumps(row(0)).encode() * 400)[:-40], r"cut\.jsonl\.gz, after line \d+: not a complete gzip"),
        ("plain.jsonl.gz", json.dumps(row(0)).encode(), r"plain\.jsonl\.gz, after line 0: not a complete gzip file"),
        ("latin.jsonl", b'{"id": "\xe9"}\n', r"latin\.jsonl, line 1"),
        ("column.jsonl", json.dumps(row(0)).encode() + b'\n{"id": "x", "input": ""}', r"line 2: no column 'output'; .*found: id, input"),
        ("type.jsonl", json.dumps(row(0, input=7)).encode(), r"type\.jsonl, line 1: column 'input' holds int"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_is_named_with_its_line(
    make_job, tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    job = make_job(tmp_path / name)
    with pytest.raises(BadInput, match=message):
        dataset.run(job)
    assert list(job.payload.iterdir()) == []


def test_when_nothing_is_left_the_error_says_why(make_job, tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", [row(0, input="-"), row(1, input="-"), row(2, output=None)])
    job = make_job(file)
    with pytest.raises(BadInput, match=r"of 3 rows none is left \(dropped: 2 no_statement, 1 no_output\); mostly no_statement: .*split_0"):
        dataset.run(job)
    assert list(job.payload.iterdir()) == []


def test_check_file_gives_each_line_its_reason(tmp_path: Path, tiny_model: Path) -> None:
    file = write(tmp_path / "rows.jsonl", [row(0), LOST["not_python"], row(2), LOST["duplicate"]])
    found = list(dataset.check_file(file, section(), tiny_model / "tokenizer.json"))
    assert [(line.where, line.reason) for line in found] == [
        (f"{file}, line 1", None),
        (f"{file}, line 2", "not_python"),
        (f"{file}, line 3", None),
        (f"{file}, line 4", "duplicate"),
    ]


def test_check_file_goes_on_after_lines_that_are_no_rows(tmp_path: Path, tiny_model: Path) -> None:
    file = tmp_path / "rows.jsonl"
    lines = [
        json.dumps(row(0)),
        "{not json",
        "",
        "[1]",
        json.dumps({"id": "x", "input": ""}),
        json.dumps(row(1, output=7)),
        json.dumps(row(2)),
    ]
    file.write_text("\n".join(lines))
    found = list(dataset.check_file(file, section(), tiny_model / "tokenizer.json"))
    assert [(line.where.rpartition(" ")[2], line.reason) for line in found] == [
        ("1", None),
        *((number, dataset.MALFORMED) for number in "2456"),
        ("7", None),
    ]
    for line, told in zip(
        found[1:-1], ("not JSON", "a JSON object is expected, not list", "no column 'output'", "'output' holds int"), strict=True
    ):
        assert told in line.detail and str(file) not in line.detail


def test_check_file_of_a_file_that_breaks_off_or_is_none(tmp_path: Path, tiny_model: Path) -> None:
    whole = gzip.compress("".join(json.dumps(row(at)) + "\n" for at in range(3)).encode())
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[:-4])
    (tmp_path / "empty.jsonl").write_text("\n")
    *rows, last = dataset.check_file(tmp_path / "cut.jsonl.gz", section(), tiny_model / "tokenizer.json")
    assert [line.reason for line in rows] == [None] * 3 and last.reason == dataset.MALFORMED and "not a complete gzip" in last.detail
    for name, told in (("empty.jsonl", "holds no rows"), ("gone.jsonl", "no such file"), (".", "is a folder; a file is expected")):
        with pytest.raises(BadInput, match=told):
            list(dataset.check_file(tmp_path / name, section(), tiny_model / "tokenizer.json"))


def test_no_tokenizer_is_an_error(make_job, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"holds no tokenizer\.json"):
        dataset.run(make_job(tokenizer=tmp_path))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(BadInput, match=r"tokenizer\.json is not a tokenizer"):
        dataset.run(make_job(tokenizer=tmp_path))


# the hub's side: `datasets` streams from a folder just as it does from the hub


@pytest.fixture
def hub_job(make_job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A Job whose source is a data set folder with a configuration `split_0` of 40 rows."""
    folder = tmp_path / "folder"
    folder.mkdir()
    write(folder / "part.jsonl", [row(number) for number in range(40)])
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: split_0\n  data_files:\n  - split: split_0\n    path: part.jsonl\n---\n"
    )
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))

    def make(**overrides: Any) -> Job:
        job = make_job(**{"source": str(folder), "verify_solutions": False, **overrides})
        del job.locations["data"]
        job.externals["data"].update(revision=None)
        return job

    return make


def test_the_hubs_stream_is_shuffled_by_seed(hub_job) -> None:
    first, second = hub_job(max_samples=10), hub_job(max_samples=10)
    result = dataset.run(first)
    assert accounted(result) == {}
    assert result.metrics["rows_read"] == 10
    assert dataset.run(second) == result
    assert (first.payload / "train.jsonl").read_bytes() == (second.payload / "train.jsonl").read_bytes()
    ids = [made["id"] for made in lines(first, "train")]
    assert ids != [f"r{number}" for number in range(len(ids))]
    assert dataset.run(hub_job(max_samples=None)).metrics["rows_read"] == 40


def test_a_configuration_that_is_not_there(hub_job) -> None:
    with pytest.raises(BadInput, match=r"split_9"):
        dataset.run(hub_job(name="split_9"))
    with pytest.raises(BadInput, match=r"split_9"):
        dataset.run(hub_job(split="split_9"))


def test_a_hub_that_is_away_is_no_fault_of_the_user(hub_job) -> None:
    with pytest.raises(Unavailable, match="nvidia/OpenCodeReasoning"):
        dataset.run(hub_job(source="nvidia/OpenCodeReasoning"))


def test_a_tokenizer_that_cannot_be_fetched(hub_job, tmp_path: Path) -> None:
    job = hub_job(base_model="Qwen/Qwen2.5-3B")
    del job.locations["tokenizer"]
    job.externals["tokenizer"].update(revision="0" * 40)
    with pytest.raises(Unavailable, match=r"the tokenizer of Qwen/Qwen2\.5-3B"):
        dataset.run(job)


# real rows


@pytest.fixture(scope="session")
def qwen_tokenizer(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qwen")
    (folder / "tokenizer.json").write_bytes(gzip.decompress((shared_data / "tokenizer" / "tokenizer.json.gz").read_bytes()))
    return folder


def real(shared_data: Path) -> Path:
    return shared_data / "ocr_rows" / "r1_codeforces_rows.jsonl.gz"


def test_real_rows_are_accounted_for(make_job, shared_data: Path, qwen_tokenizer: Path) -> None:
    job = make_job(real(shared_data), qwen_tokenizer, max_samples=60, max_length=8192, max_prompt_length=700)
    result = dataset.run(job)
    assert set(accounted(result)) == {"not_sampled", "too_long"}
    assert result.metrics["rows_read"] == 738
    assert result.metrics["examples_passed"] == result.metrics["rows_kept"]
    assert result.facts["rows_grpo_with_tests"] > 0.9 * result.facts["rows_grpo"]


def test_real_solutions_fit_where_their_reasoning_does_not(shared_data: Path, qwen_tokenizer: Path) -> None:
    """The table of docs/recipes.md, on a tenth of its rows: 0.3 and 3.9 % with the reasoning, 77.2 and 99.6 % without. The seam holds."""
    rows = [Raw(f"row {number}", made) for number, made in read_jsonl(real(shared_data))][:74]
    tokenizer = dataset.load_tokenizer(qwen_tokenizer / "tokenizer.json")
    kept = {}
    for target, length in (("reasoning", 2048), ("solution", 1024), ("solution", 2048)):
        filters = Filters(section(target=target, max_length=length, verify_solutions=False), tokenizer, workers=1)
        filters.judge(rows)
        kept[target, length] = filters.tally.kept / 74
        assert set(filters.tally.dropped) <= {"too_long"}
    assert kept["reasoning", 2048] < 0.1 and 0.6 < kept["solution", 1024] < 0.9 and kept["solution", 2048] > 0.98


@pytest.mark.slow
def test_all_real_rows_are_kept(make_job, shared_data: Path, qwen_tokenizer: Path) -> None:
    """All 738 pass their statements' examples by another grader's word; here too, and the seam holds on every one."""
    result = dataset.run(make_job(real(shared_data), qwen_tokenizer, max_length=32768, max_prompt_length=2048))
    assert accounted(result) == {}
    assert result.metrics["examples_passed"] == 738


@pytest.mark.slow
def test_real_cut_off_traces(shared_data: Path, tiny_model: Path) -> None:
    """Ten of 509 traces have no `</think>`, five stop in the middle of their program (three of which still parse), one has none."""
    file = shared_data / "ocr_rows" / "r1_codeforces_traces_without_statement.jsonl.gz"
    traces = [made for _, made in read_jsonl(file)]
    rows = [{"id": str(number), "input": f"Statement {number}", "output": trace["output"]} for number, trace in enumerate(traces)]
    judged = judge(tiny_model, rows, max_length=10**6)
    counts = Counter("kept" if isinstance(made, Row) else made for made in judged)
    assert counts == {"kept": 493, "unfinished_reasoning": 10, "unfinished_code": 5, "no_code": 1}


def test_a_real_wrong_program_is_found(shared_data: Path, tiny_model: Path) -> None:
    """A published pair of statement and program, which prints `inf` on its own sample."""
    (pair,) = (made for _, made in read_jsonl(shared_data / "ocr_rows" / "ocr_problem_solution_pairs.jsonl"))
    made = {"id": "p", "input": pair["input"], "output": output("See the program.", pair["solution"])}
    assert judge(tiny_model, [made], max_length=10**5) == ["fails_examples"]
