"""The bench runs, tells judges apart by their verdicts, and counts what it says it counts. Its figures are not tested."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest

from bench import judge
from bench.clock import TreeClock

RIGHT = {"id": "double", "solution": "print(int(input()) * 2)", "tests": [{"input": "2\n", "output": "4\n", "testtype": "stdin"}] * 2}
WRONG = {"id": "not a double", "solution": "print(5)", "tests": [{"input": "2\n", "output": "4\n", "testtype": "stdin"}]}
ADDS = {
    "id": "add",
    "solution": "class Solution:\n    def add(self, a, b):\n        return a + b",
    "func_name": "add",
    "tests": [{"input": "1\n2", "output": "3", "testtype": "functional"}] * 3,
}
# Stands for a checkout of LiveCodeBench, of which it has the one function that the bench calls: all but the last program pass
EVALUATOR = """
def evaluate_generations(samples, generations, debug, num_process_evaluate, timeout):
    print("noise")
    passed = ["return 3" not in g[0] and "print(4)" not in g[0] and "ValueError" not in g[0] and "a - b" not in g[0] for g in generations]
    return {at: [[True, True] if good else [True, -2]] for at, good in enumerate(passed)}, {}
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    module = tmp_path / "lcb" / "lcb_runner" / "evaluation" / "compute_code_generation_metrics.py"
    module.parent.mkdir(parents=True)
    module.write_text(EVALUATOR)
    return tmp_path / "lcb"


def test_every_judge_runs_every_program_and_differences_are_listed(
    tmp_path: Path, checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    problems, found = tmp_path / "problems.jsonl", tmp_path / "found.json"
    problems.write_text("".join(json.dumps(row) + "\n" for row in (RIGHT, WRONG, ADDS)))
    options = ["--rounds", "1", "--workers", "2", "--tests", "3", "--problems", str(problems)]
    assert judge.main([*options, "--lcb-root", str(checkout), "--json", str(found)]) == 0
    printed, runs = capsys.readouterr().out, json.loads(found.read_text())["runs"]
    assert {run["method"] for run in runs} == {"ours", "plain", "plain -S", "plain-whole", "official"}
    first = [run for run in runs if (run["material"], run["kind"]) == ("real", "stdin")]
    wrong = {run["method"]: run["failed"] for run in first if run["size"] == "1-2"}
    assert wrong == {"ours": ["not a double"], "plain": ["not a double"], "plain -S": ["not a double"], "official": []}
    assert not any(run["failed"] for run in runs if run["kind"] == "function")
    ours = [run for run in runs if run["method"] == "ours"]
    assert [(run["material"], run["size"], run["programs"], run["tests"]) for run in ours] == [
        ("real", "1-2", 2, 3),
        ("real", "3", 1, 3),
        ("real, tests repeated", "3", 2, 6),
    ]
    assert "- plain: not a double (real), 1 of 1 rounds" in printed and "| ours |" in printed


def test_the_trivial_programs_are_right(tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    assert judge.main(["--programs", "6", "--rounds", "2", "--methods", "ours", "--json", str(found)]) == 0
    runs = [(run["round"], run["size"], run["programs"], run["tests"], run["failed"]) for run in json.loads(found.read_text())["runs"]]
    assert runs == [(0, "1", 6, 6, []), (0, "20", 2, 40, []), (1, "1", 6, 6, []), (1, "20", 2, 40, [])]


def test_judges_are_chosen_by_their_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = tmp_path / "found.json"
    assert judge.main(["--programs", "1", "--rounds", "1", "--methods", "plain -S,ours", "--json", str(found)]) == 0
    assert {run["method"] for run in json.loads(found.read_text())["runs"]} == {"ours", "plain -S"}
    assert judge.main(["--methods", "theirs"]) == 2
    assert "no theirs; there are ours, plain, plain -S, plain-whole" in capsys.readouterr().err


def test_a_judge_that_passes_everything_is_not_timed(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = checkout / "lcb_runner" / "evaluation" / "compute_code_generation_metrics.py"
    module.write_text("def evaluate_generations(samples, *_, **__):\n    return {at: [[True]] for at in range(len(samples))}, {}\n")
    assert judge.main(["--programs", "1", "--rounds", "1", "--methods", "official", "--lcb-root", str(checkout)]) == 1
    assert "official misjudges wrong at the second test, raises, wrong function, raising function" in capsys.readouterr().err


def test_a_folder_that_is_no_checkout_is_said_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert judge.main(["--lcb-root", str(tmp_path)]) == 2
    assert "is no checkout of LiveCodeBench" in capsys.readouterr().err


def test_the_clock_counts_a_process_that_a_process_started() -> None:
    clock = TreeClock()
    before = clock.seconds()
    if before is None:
        pytest.skip("this kernel refuses the counter")
    spin = "import time\nwhile time.process_time() < 0.2: pass"
    began = time.perf_counter()
    subprocess.run(["sh", "-c", 'python3 -c "$0"; :', spin], check=True)
    after = clock.seconds()
    assert after is not None and 0.19 < after - before < time.perf_counter() - began + 0.05
