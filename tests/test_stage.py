"""Keys, launch, causes: the process boundary, with scripted stages in real child processes."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gwen25 import child, job, stage
from gwen25.artifacts import Artifact, Manifest, Store
from gwen25.config import load_config
from gwen25.errors import BadInput, StageFailed
from gwen25.resolve import Resolved, file_digest
from gwen25.stage import Plan, plan_stage

SCRIPTED = str(Path(__file__).with_name("scripted_stage.py"))


@pytest.fixture
def store() -> Store:
    return Store.default()


def plan(script: str = "", name: str = "dataset", key: str = "a" * 32, **runtime: Any) -> Plan:
    """A plan of a scripted stage, by a key of our own choosing."""
    config = load_config(
        "smoke",
        overrides={
            "runtime.launcher": {name: [sys.executable, SCRIPTED, script]},
            "runtime.retry_delay_seconds": 0.01,
            **{f"runtime.{k}": v for k, v in runtime.items()},
        },
    )
    section = getattr(config, name).model_dump(mode="json")
    return Plan(stage.STAGES[name], key, section, Resolved(), {}, config.runtime)


def key_of(name: str, inputs: dict[str, Artifact] | None = None, **overrides: Any) -> str:
    return plan_stage(
        name, load_config("smoke", overrides={k.replace("__", "."): v for k, v in overrides.items()}), inputs or {}, lambda _: None
    ).key


def artifact(digest: str) -> Artifact:
    return Artifact(stage="dataset", key="0" * 32, digest=digest, path=Path("/nowhere"))


# --- keys ------------------------------------------------------------------------------------------------------------


def test_what_changes_numbers_changes_the_key_and_nothing_else_does() -> None:
    same = key_of("sft", {"dataset": artifact("d1")})
    assert key_of("sft", {"dataset": artifact("d1")}, grpo__max_steps=9, runtime__num_threads=1, sft__save_steps=3) == same
    assert key_of("sft", {"dataset": artifact("d1")}, sft__per_device_train_batch_size=2, sft__gradient_accumulation_steps=4) == same
    others = [
        key_of("sft", {"dataset": artifact("d2")}),
        key_of("sft", {"dataset": artifact("d1")}, sft__learning_rate=1e-3),
        key_of("sft", {"dataset": artifact("d1")}, seed=1),
        key_of("sft", {"dataset": artifact("d1")}, sft__per_device_train_batch_size=4),
    ]
    assert len({same, *others}) == 5


def test_a_local_file_is_keyed_by_its_bytes_not_its_name(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("{}\n")
    (tmp_path / "b.jsonl").write_text("{}\n")
    (tmp_path / "c.jsonl").write_text("{ }\n")
    a, b, c = (key_of("dataset", dataset__source=str(tmp_path / name)) for name in ("a.jsonl", "b.jsonl", "c.jsonl"))
    assert a == b != c


def test_the_judges_key_changes_the_reward_set_and_so_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = {"dataset": artifact("d"), "sft": artifact("s")}
    without = key_of("grpo", inputs)
    monkeypatch.setenv("GEMINI_API_KEY", "not-a-real-key")
    assert key_of("grpo", inputs) != without
    monkeypatch.delenv("GEMINI_API_KEY")
    assert key_of("grpo", inputs) == without


# --- launch ----------------------------------------------------------------------------------------------------------


def test_a_stage_is_made_once_and_found_after(store: Store) -> None:
    lines, progress = list[str](), list[dict[str, Any]]()
    work = plan("job.say('hello'); job.progress(1, 2, loss=0.5); result = Result({'a': 1}, {'m': None})", key="01" * 16)
    made = stage.launch(work, store, lines.append, progress.append)
    manifest = Manifest.read(made.path)
    assert "hello" in lines and progress == [{"stage": "dataset", "step": 1, "total": 2, "loss": 0.5}]
    assert manifest.facts == {"a": 1} and manifest.metrics == {"m": None} and manifest.provenance["attempts"] == 1
    assert stage.obtain(work, store, lines.append) == (made, True)
    assert (made.path / "aside" / "log.txt").read_text() == "hello\n"


@pytest.mark.parametrize(
    ("script", "cause", "retry"),
    [
        ("raise BadInput('row 3 is empty')", "bad_input", False),
        ("raise Unavailable('hub away')", "unavailable", True),
        ("raise MemoryError", "out_of_memory", False),  # a stage that does not train has nothing to make smaller
        (
            "raise RuntimeError('[enforce fail] DefaultCPUAllocator: can\\'t allocate memory: you tried to allocate 9 bytes')",
            "out_of_memory",
            False,
        ),
        ("raise KeyError('x')", "crashed", True),
        ("import os; os.kill(os.getpid(), 9)", "killed", True),
        ("import os; os._exit(3)", "crashed", True),
        ("import time; time.sleep(60)", "timeout", True),
    ],
)
def test_how_a_stage_ended_is_told_by_cause(store: Store, script: str, cause: str, retry: bool) -> None:
    with pytest.raises(StageFailed) as caught:
        stage.launch(
            plan(script, key=os.urandom(16).hex(), timeout_seconds=1.5 if cause == "timeout" else None, grace_seconds=0.5),
            store,
            lambda _: None,
        )
    assert (caught.value.cause, caught.value.retry) == (cause, retry)
    if cause == "bad_input":
        assert caught.value.reason == "row 3 is empty" and not any("Traceback" in line for line in caught.value.tail)


def test_retries_by_cause_and_the_work_folder_survives(store: Store) -> None:
    script = "open(job.aside / 'seen', 'a').write(str(attempt)); attempt < 3 and __import__('os').kill(__import__('os').getpid(), 9)"
    made, cached = stage.obtain(plan(script, key="02" * 16), store, lambda _: None)
    assert not cached and (made.path / "aside" / "seen").read_text() == "123"
    assert Manifest.read(made.path).provenance["attempts"] == 3


def test_a_failed_stage_publishes_nothing(store: Store) -> None:
    with pytest.raises(StageFailed):
        stage.obtain(plan("raise BadInput('no')", key="03" * 16), store, lambda _: None)
    assert store.find("dataset", "03" * 16, lambda _: None) is None and not store.folder("dataset", "03" * 16).exists()


def test_memory_halves_the_micro_batch_down_to_one_and_then_stops(store: Store) -> None:
    seen, script = list[str](), "job.say(f'micro {job.micro_batch}'); raise MemoryError"
    with pytest.raises(StageFailed, match="micro-batch is 1 already"):
        stage.obtain(plan(script, "sft", key="04" * 16, max_retries=1), store, seen.append)
    assert [line for line in seen if line.startswith("micro")] == ["micro 8", "micro 4", "micro 2", "micro 1"]
    with pytest.raises(StageFailed, match="the next attempt has micro-batch 4"):
        stage.obtain(plan(script, "sft", key="4a" * 16, max_retries=0), store, seen.append)
    assert [line for line in seen if line.startswith("micro")][-2:] == ["micro 1", "micro 8"], "no further attempt was asked for"


def test_smaller_parts_take_none_of_the_retries_that_a_death_has(store: Store) -> None:
    script = (
        "import os\njob.say(f'micro {job.micro_batch}')\n"
        "if attempt in (1, 3): raise MemoryError\nif attempt in (2, 4): os.kill(os.getpid(), 9)"
    )
    seen = list[str]()
    made, _ = stage.obtain(plan(script, "sft", key="4b" * 16, max_retries=2, retry_delay_seconds=0), store, seen.append)
    assert Manifest.read(made.path).provenance["attempts"] == 5
    assert [line for line in seen if line.startswith("micro")] == ["micro 8", "micro 4", "micro 4", "micro 2", "micro 2"]


def test_a_death_does_not_halve_the_micro_batch_and_memory_is_remembered_across_processes(store: Store) -> None:
    script = "import os\njob.say(f'micro {job.micro_batch}')\nif attempt == 1: raise MemoryError\nif attempt == 2: os.kill(os.getpid(), 9)"
    for expected in ("out_of_memory", "killed"):
        with pytest.raises(StageFailed) as caught:
            stage.launch(plan(script, "sft", key="05" * 16), store, lambda _: None)
        assert caught.value.cause == expected
    made = stage.launch(plan(script, "sft", key="05" * 16), store, lambda _: None)
    assert Manifest.read(made.path).provenance["micro_batch"] == 4


def test_two_makers_of_one_key_make_it_once(store: Store) -> None:
    work = plan("open(job.aside / 'count', 'a').write('x'); __import__('time').sleep(1)", key="06" * 16)
    made, lines = list[Artifact](), list[str]()
    threads = [threading.Thread(target=lambda: made.append(stage.launch(work, store, lines.append))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made[0] == made[1] and (made[0].path / "aside" / "count").read_text() == "x"
    assert any("another run is making" in line for line in lines)


def test_stop_all_ends_what_runs(store: Store) -> None:
    failures = list[StageFailed]()

    def make() -> None:
        try:
            stage.launch(plan("import time; time.sleep(60)", key="07" * 16, grace_seconds=0.5), store, lambda _: None)
        except StageFailed as failure:
            failures.append(failure)

    thread = threading.Thread(target=make)
    thread.start()
    while not child._RUNNING:
        time.sleep(0.01)
    time.sleep(0.5)
    started = time.monotonic()
    child.stop_all()
    thread.join(10)
    assert time.monotonic() - started < 5 and failures[0].cause == "cancelled" and not failures[0].retry


def test_secrets_never_reach_a_line_or_the_log(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", "sk-very-secret-value")
    lines = list[str]()
    made = stage.launch(plan("import os; print('key is', os.environ['GEMINI_API_KEY'])", key="08" * 16), store, lines.append)
    written = [path.read_text() for path in made.path.rglob("*") if path.is_file()]
    assert "key is [GEMINI_API_KEY]" in lines and not any("sk-very-secret" in text for text in [*lines, *written])


def test_prefects_secrets_do_not_reach_the_child(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "user:password")
    made = stage.launch(
        plan("import os; result = Result({'seen': sorted(n for n in os.environ if n.startswith('PREFECT'))})", key="09" * 16),
        store,
        lambda _: None,
    )
    assert Manifest.read(made.path).facts == {"seen": []}


def test_a_request_holds_no_secret_and_can_be_read_back(store: Store) -> None:
    made = stage.launch(plan(key="0a" * 16), store, lambda _: None)
    request = json.loads((made.path / "aside" / "request.json").read_text())
    assert request["section"]["seed"] == 42 and request["stage"] == "dataset"


def test_a_hit_made_by_another_major_version_warns(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    work, warnings = plan(key="0b" * 16), list[str]()
    stage.launch(work, store, lambda _: None)
    assert stage.find(work, store, warnings.append) is not None and not warnings
    monkeypatch.setattr(stage, "_version", lambda _: "999.0")
    assert stage.find(work, store, warnings.append) is not None
    assert any("was made with torch" in warning for warning in warnings)


@pytest.mark.parametrize(
    ("inherited", "runtime", "seen"),
    [
        (None, {}, "0"),
        ("", {}, ""),
        ("3", {}, "3"),
        ("GPU-8f2a,GPU-77c1", {}, "GPU-8f2a"),
        ("2,3", {"cuda_visible_devices": "1,0"}, "1,0"),
        ("2,3", {"launcher": {"sft": ["torchrun", "--nproc-per-node=2"]}}, "2,3"),
        ("2,3", {"launcher": {"grpo": ["torchrun", "--nproc-per-node=2"]}}, "2"),
        (None, {"launcher": {"sft": ["torchrun", "--nproc-per-node=2"]}}, None),
        ("2,3", {"device": "cpu"}, ""),
    ],
)
def test_a_stage_without_a_launcher_sees_one_gpu(
    monkeypatch: pytest.MonkeyPatch, inherited: str | None, runtime: dict[str, Any], seen: str | None
) -> None:
    """Two would make transformers take nn.DataParallel, which TRL refuses."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if inherited is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", inherited)
    config = load_config("smoke", overrides={"runtime.device": "cuda", **{f"runtime.{name}": value for name, value in runtime.items()}})
    section = config.sft.model_dump(mode="json")
    made = Plan(stage.STAGES["sft"], "a" * 32, section, Resolved(), {}, config.runtime)
    assert child.environment(made).get("CUDA_VISIBLE_DEVICES") == seen


def test_a_stage_finds_its_interpreters_commands_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whether or not an environment is activated: accelerate stands beside the interpreter that has it."""
    other = tmp_path / "python"
    other.symlink_to(sys.executable)  # as a venv's is: the folder of the link counts
    monkeypatch.setenv("PATH", "/usr/bin")
    runtime = load_config("smoke", overrides={"runtime.python": {"grpo": str(other)}}).runtime
    assert child.search_path(runtime, "grpo") == f"{tmp_path}:/usr/bin"
    assert child.search_path(runtime, "sft") == f"{Path(sys.executable).parent}:/usr/bin"
    made = Plan(stage.STAGES["grpo"], "a" * 32, {}, Resolved(), {}, runtime)
    assert child.environment(made)["PATH"] == f"{tmp_path}:/usr/bin"


def test_a_choice_that_came_later_leaves_older_keys_alone() -> None:
    """Who samples and what is taught are keyed; where vLLM lies in memory is not, and the values of before are not there at all."""
    grpo, data = load_config("t4").grpo.model_dump(mode="json"), load_config("t4").dataset.model_dump(mode="json")
    before = stage.keyed_section(grpo)
    assert not [name for name in before if "vllm" in name] and "target" not in stage.keyed_section(data)
    assert stage.keyed_section({**grpo, "vllm_enable_sleep_mode": False}) == before
    assert stage.keyed_section({**grpo, "vllm": "colocate"}) == {**before, "vllm": "colocate"}
    assert stage.keyed_section({**data, "target": "solution"})["target"] == "solution"
    assert stage.keyed_section({**data, "max_samples": None}) == {**stage.keyed_section(data), "max_samples": None}


# --- what must not be lost, and what must not be kept ----------------------------------------------------------------


def test_work_that_is_done_is_published_whatever_ends_the_interpreter(store: Store) -> None:
    """A crash of a CUDA library at exit, after hours of training, costs nothing."""
    script = "import atexit, os; atexit.register(os._exit, 139)"
    made = stage.launch(plan(script, key="0c" * 16), store, lambda _: None)
    assert Manifest.read(made.path).provenance["attempts"] == 1


def test_work_that_is_done_but_was_not_published_is_not_done_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    work = plan("open(job.aside / 'count', 'a').write('x')", key="0d" * 16)
    with monkeypatch.context() as full, pytest.raises(OSError, match="no space"):
        full.setattr(Store, "publish", lambda *_: (_ for _ in ()).throw(OSError("no space")))
        stage.launch(work, store, lambda _: None)
    made = stage.launch(work, store, lambda _: None)
    assert (made.path / "aside" / "count").read_text() == "x"


def test_a_trainers_checkpoints_go_once_the_artifact_is_whole(store: Store) -> None:
    made = stage.launch(plan("(job.aside / 'checkpoints' / 'checkpoint-1').mkdir(parents=True)", key="0e" * 16), store, lambda _: None)
    assert not (made.path / "aside" / "checkpoints").exists()


def test_leftovers_of_a_killed_attempt_are_not_published(store: Store) -> None:
    script = "import os\nif attempt == 1: (job.payload / '.half').touch(); os.kill(os.getpid(), 9)"
    made, _ = stage.obtain(plan(script, key="0f" * 16), store, lambda _: None)
    assert set(Manifest.read(made.path).files) == {"out.txt"}


def test_a_metric_that_is_no_number_is_unmeasured_and_costs_nothing(store: Store) -> None:
    made = stage.launch(plan("result = Result({}, {'loss': float('nan'), 'kl': 0.5})", key="10" * 16), store, lambda _: None)
    assert Manifest.read(made.path).metrics == {"loss": None, "kl": 0.5}


@pytest.mark.parametrize("line", ["@progress {garbled", "@progress []", "@progress {}warning: x"])
def test_a_broken_progress_line_is_only_a_line(store: Store, line: str) -> None:
    lines, progress = list[str](), list[dict[str, Any]]()
    stage.launch(plan(f"print({line!r})", key=os.urandom(16).hex()), store, lines.append, progress.append)
    assert line in lines and not progress


def test_an_error_message_holds_no_secret(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", "sk-very-secret-value")
    work = plan("import os; raise RuntimeError('GET /?key=' + os.environ['GEMINI_API_KEY'])", key="11" * 16)
    with pytest.raises(StageFailed) as caught:
        stage.launch(work, store, lambda _: None)
    kept = [path.read_text() for path in store.work("dataset", "11" * 16).rglob("*") if path.is_file()]
    assert "sk-very" not in str(caught.value) and not any("sk-very" in text for text in [*kept, *caught.value.tail])


@pytest.mark.parametrize(
    "message", ["CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED when calling", "[Errno 12] Cannot allocate memory"]
)
def test_memory_is_known_by_every_librarys_words(message: str) -> None:
    assert job.cause_of(RuntimeError(message)) == "out_of_memory"
    assert job.cause_of(ValueError(message)) == "crashed"


def test_nothing_starts_after_stop_all_until_it_is_allowed(store: Store) -> None:
    child.stop_all()
    with pytest.raises(StageFailed, match="being stopped"):
        stage.launch(plan(key="12" * 16), store, lambda _: None)
    child.allow()
    stage.launch(plan(key="12" * 16), store, lambda _: None)


def test_a_refresh_keeps_the_old_artifact_until_the_new_one_is_whole(store: Store) -> None:
    old, _ = stage.obtain(plan(key="13" * 16), store, lambda _: None)
    with pytest.raises(StageFailed):
        stage.obtain(plan("raise BadInput('no')", key="13" * 16), store, lambda _: None, refresh=True)
    assert store.find("dataset", "13" * 16, lambda _: None) == old
    before = Manifest.read(old.path).made
    (store.work("dataset", "13" * 16) / "attempts.json").unlink()
    new, cached = stage.obtain(plan("(job.payload / 'more').touch()", key="13" * 16), store, lambda _: None, refresh=True)
    assert not cached and new.digest != old.digest and Manifest.read(new.path).made >= before


def test_a_local_input_that_changes_under_the_work_is_refused(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("{}\n")
    resolved = Resolved({"data": {"digest": file_digest(file)}}, {"data": str(file)})
    work = replace(plan(f"open({str(file)!r}, 'a').write('x')", key="14" * 16), resolved=resolved)
    with pytest.raises(BadInput, match=r"rows\.jsonl changed while dataset ran"):
        stage.launch(work, store, lambda _: None)


@pytest.mark.parametrize(
    ("stage_name", "overrides", "same"),
    [
        ("grpo", {"grpo.per_device_train_batch_size": 4, "grpo.gradient_accumulation_steps": 2}, True),
        ("grpo", {"grpo.gradient_checkpointing": True}, True),
        ("grpo", {"grpo.judge.model": "another"}, True),  # no judge will run: there is no key
        ("grpo", {"runtime.device": "cuda"}, False),
        ("evaluate", {"runtime.device": "cuda"}, False),
        ("evaluate", {"evaluate.base_url": "http://127.0.0.1:1/v1"}, True),  # of another backend
        ("sft", {"sft.auto_hparams": True}, False),
    ],
)
def test_what_the_key_holds_and_what_it_does_not(stage_name: str, overrides: dict[str, Any], same: bool) -> None:
    plain = plan_stage(stage_name, load_config("smoke"), {}, lambda _: None).key
    assert (plan_stage(stage_name, load_config("smoke", overrides=overrides), {}, lambda _: None).key == plain) is same
