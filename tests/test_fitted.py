"""What an attempt is given after memory ran out, what is kept of it for the next run, and what is said when nothing helps."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import pytest

from gwen25 import advice, fitted, stage
from gwen25.artifacts import Manifest, Store, Warn
from gwen25.child import Child
from gwen25.config import load_config
from gwen25.errors import StageFailed
from gwen25.estimate import fit as fits
from gwen25.fitted import Fit
from gwen25.job import Job
from gwen25.pipelines import sft
from gwen25.resolve import Resolved
from gwen25.stage import Plan

SCRIPTED = str(Path(__file__).with_name("scripted_stage.py"))
BASE = {"base_model": {"digest": "b" * 64}}
SAY = "job.say(f'given {job.micro_batch} {job.at_once}')\n"
SAMPLING = "from gwen25.out_of_memory import phase\nwith phase('sampling', {rows}): raise MemoryError\n"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "store").mkdir()
    return Store(tmp_path / "store")


def plan(script: str, name: str = "sft", key: str = "a", externals: dict[str, Any] = BASE, **overrides: Any) -> Plan:
    """A scripted stage of the smoke profile, whose micro-batch is 8."""
    settings = {"runtime.launcher": {name: [sys.executable, SCRIPTED, script]}, "runtime.retry_delay_seconds": 0.01, **overrides}
    config = load_config("smoke", overrides=settings)
    section = getattr(config, name).model_dump(mode="json")
    return Plan(stage.STAGES[name], key * 32, section, Resolved(externals), {}, config.runtime, config)


def recalled(store: Store, work: Plan, warn: Warn = pytest.fail) -> Fit | None:
    found = fitted.recall(store, work, warn)
    return None if found is None else found[0]


def made(work: Plan, store: Store) -> tuple[dict[str, Any], list[str]]:
    lines = list[str]()
    artifact, _ = stage.obtain(work, store, lines.append)
    return Manifest.read(artifact.path).provenance, lines


def given(lines: list[str]) -> list[str]:
    return [line.removeprefix("given ") for line in lines if line.startswith("given ")]


# --- what is made smaller ---------------------------------------------------------------------------------------------

SECTION = {"per_device_train_batch_size": 6, "gradient_accumulation_steps": 2}
PACKED = {**SECTION, "packing": True}
VLLM = {**SECTION, "vllm": "colocate", "vllm_gpu_memory_utilization": 0.3, "vllm_enable_sleep_mode": False}


def _attempt(phase: str | None, rows: int | None = None, cause: str = "out_of_memory", **given: Any) -> dict[str, Any]:
    return {"cause": cause, "phase": phase, "rows": rows, "micro_batch": 6, **given}


@pytest.mark.parametrize(
    ("section", "attempts", "expected"),
    [
        (SECTION, [], Fit(6)),
        (SECTION, [_attempt("training")], Fit(3)),
        (SECTION, [{"cause": "out_of_memory", "micro_batch": 6}], Fit(3)),  # as earlier versions noted it
        (SECTION, [_attempt("training"), _attempt("training", micro_batch=3)], Fit(1)),
        (SECTION, [_attempt("training", micro_batch=1)], Fit(6)),  # nothing to learn from: that run has failed
        (SECTION, [_attempt("sampling", 12), _attempt(None, cause="killed", at_once=6)], Fit(6, 6)),
        (
            SECTION,
            [_attempt("sampling", 12), _attempt("training", at_once=6), _attempt("sampling", 6, micro_batch=3, at_once=6)],
            Fit(3, 3),
        ),
        (SECTION, [_attempt("loading")], Fit(6)),
        (SECTION, [_attempt("loading", certain=False)], Fit(6)),
        (SECTION, [_attempt("training", 2)], Fit(1)),  # several processes: each had fewer rows than it was allowed
        (PACKED, [_attempt("training", 2)], Fit(6, packed=1)),  # sequences
        (PACKED, [_attempt(None, packed=1)], Fit(3, packed=1)),  # after training: what is written out at once
        (VLLM, [_attempt("share")], Fit(6, None, 0.225)),
        (VLLM, [_attempt("share"), _attempt("share", vllm_share=0.225)], Fit(6, None, 0.169)),
        (VLLM, [_attempt("training", micro_batch=1)], Fit(1, None, 0.225)),  # vLLM stays awake beside it
        (VLLM, [_attempt("share"), _attempt("cache", vllm_share=0.225)], Fit(6)),  # the shortage may have passed
        (VLLM, [_attempt("share"), _attempt("cache", vllm_share=0.225), _attempt("share")], Fit(6)),  # nor did it: that run has failed
        ({**VLLM, "vllm_gpu_memory_utilization": 0.2}, [_attempt("share", vllm_share=0.3)], Fit(6)),  # the user's is smaller by now
    ],
)
def test_the_next_attempt_is_smaller_where_memory_ran_out(section: dict[str, Any], attempts: list[dict[str, Any]], expected: Fit) -> None:
    assert fitted.after(Fit(6), section, attempts) == expected


@pytest.mark.parametrize(
    ("fit", "section", "attempt"),
    [
        (Fit(1), SECTION, _attempt("training")),
        (Fit(6), SECTION, _attempt("sampling", 1)),
        (Fit(6), SECTION, _attempt("loading")),
        (Fit(6), VLLM, _attempt("cache")),
        (Fit(6, None, 0.06), VLLM, _attempt("share")),
        (Fit(1), {**VLLM, "vllm_enable_sleep_mode": True}, _attempt("training")),
        (Fit(None), {"batch_size": 8}, _attempt(None)),
    ],
)
def test_where_nothing_can_be_made_smaller_it_ends(fit: Fit, section: dict[str, Any], attempt: dict[str, Any]) -> None:
    assert fitted.smaller(section, [{**attempt, **asdict(fit)}]) is None


def test_a_share_that_held_no_cache_is_not_tried_again() -> None:
    attempts = [_attempt("share"), _attempt("cache", vllm_share=0.225), _attempt("share")]
    assert [fitted.smaller(VLLM, attempts[:number]) for number in (1, 2, 3)] == [Fit(6, None, 0.225), Fit(6), None]


def test_what_the_kernel_killed_is_tried_once_more_as_it_was() -> None:
    kill, own = _attempt("loading", certain=False), _attempt("loading", certain=True)
    assert fitted.smaller(SECTION, [kill]) == Fit(6)
    assert fitted.smaller(SECTION, [kill, kill]) is fitted.smaller(SECTION, [own]) is None
    assert fitted.smaller(SECTION, [_attempt("training", 6, certain=False)]) == Fit(3)


def _job(tmp_path: Path) -> Job:
    config = load_config("smoke")
    return Job("sft", "k", config.sft, {}, {}, {}, config.runtime, None, tmp_path)


@pytest.mark.parametrize(
    ("rows", "a_step", "expected"),
    [
        (8, 2, [2, 1]),
        (32, 22, [2, 1]),  # memory for 32 rows holds 9 sequences, of which 2 divide the step
        (64, 16, [16, 8, 4, 2, 1]),
    ],
)
def test_no_two_attempts_of_packed_rows_are_alike(tmp_path: Path, rows: int, a_step: int, expected: list[int]) -> None:
    """As the stage splits them: 3.7 rows a sequence."""
    packed, section = sft.Packed(cast(Any, range(100)), 370, 0.9, a_step), {**PACKED, "per_device_train_batch_size": rows}
    job, attempts, tried = _job(tmp_path), list[dict[str, Any]](), list[int]()
    while (fit := fitted.smaller(section, attempts) if attempts else Fit(rows)) is not None:
        assert fit == fitted.after(Fit(rows), section, attempts)
        tried.append(sft.split(replace(job, micro_batch=fit.micro_batch, packed=fit.packed), packed).micro)
        attempts.append({"cause": "out_of_memory", "phase": "training", "rows": tried[-1], "certain": True, **asdict(fit)})
    assert tried == expected


# --- through the stage's process --------------------------------------------------------------------------------------


def test_sampling_takes_fewer_at_once_and_training_keeps_its_micro_batch(store: Store) -> None:
    script = SAY + "if (job.at_once or 8) > 2:\n    " + SAMPLING.format(rows="job.at_once or 8").replace("\n", "\n    ")
    provenance, lines = made(plan(script, "grpo"), store)
    assert given(lines) == ["8 None", "8 4", "8 2"]
    assert (provenance["micro_batch"], provenance["at_once"], provenance["attempts"]) == (8, 2, 3)
    assert any("memory ran out in sampling, and the next attempt has micro-batch 8, sequences at once 4" in line for line in lines)


KILLED = "import os\nfrom gwen25.out_of_memory import phase\nif {when}:\n  with phase({phase}): os.kill(os.getpid(), 9)"


@pytest.fixture
def killed_for_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Child, "host_oom_kills", lambda _: True)


def test_a_kernels_kill_for_memory_is_told_by_the_phase_on_disk_and_not_remembered(store: Store, killed_for_memory: None) -> None:
    provenance, lines = made(plan(SAY + KILLED.format(when="job.at_once is None", phase="'sampling', 8"), "grpo"), store)
    assert given(lines) == ["8 None", "8 4"] and provenance["at_once"] == 4
    assert not (store.root / fitted.FILE).exists()


def test_what_an_error_taught_is_remembered_without_what_a_kill_did(store: Store, killed_for_memory: None) -> None:
    script = SAY + "if job.micro_batch > 4: raise MemoryError\n" + KILLED.format(when="job.micro_batch > 2", phase="'training', 4")
    work = plan(script)
    assert given(made(work, store)[1]) == ["8 None", "4 None", "2 None"]
    assert recalled(store, work) == Fit(4)


def test_vllm_gets_a_smaller_share_where_less_is_free(store: Store) -> None:
    words = (
        "raise ValueError('Free memory on device cuda:0 (3/15 GiB) on startup is less than desired GPU memory utilization (0.3, 4 GiB).')"
    )
    script = "job.say(f'given {job.config.vllm_gpu_memory_utilization:g}')\nif job.config.vllm_gpu_memory_utilization > 0.25: " + words
    provenance, lines = made(plan(script, "grpo", **{"grpo.vllm": "colocate"}), store)
    assert given(lines) == ["0.3", "0.225"] and provenance["vllm_share"] == 0.225


def test_what_nothing_helps_is_not_tried_again(store: Store) -> None:
    script = "from gwen25.out_of_memory import phase\nwith phase('loading'): raise MemoryError"
    with pytest.raises(StageFailed, match=r"the model itself does not fit: set sft.load_in_4bit=true, .*more memory") as caught:
        stage.launch(plan(script), store, lambda _: None)
    assert (caught.value.cause, caught.value.retry) == ("out_of_memory", False)


def test_a_kernels_kill_while_the_model_is_loaded_may_pass(store: Store, killed_for_memory: None) -> None:
    provenance, lines = made(plan(SAY + KILLED.format(when="attempt == 1", phase="'loading'")), store)
    assert given(lines) == ["8 None", "8 None"] and provenance["attempts"] == 2
    assert any("memory ran out in loading, perhaps another process's: it is tried once more as it was" in line for line in lines)
    assert not (store.root / fitted.FILE).exists()


def test_a_share_too_small_for_a_cache_gives_way_to_the_configs(store: Store) -> None:
    """Too little was free at first; by the third attempt that has passed. Nothing of it is kept."""
    script = """
share = job.config.vllm_gpu_memory_utilization
job.say(f'given {share:g}')
if attempt == 1: raise ValueError('Free memory on device cuda:0 (3/15 GiB) on startup is less than desired GPU memory utilization')
if share < 0.3: raise ValueError('No available memory for the cache blocks. Try increasing `gpu_memory_utilization`')
"""
    provenance, lines = made(plan(script, "grpo", **{"grpo.vllm": "colocate"}), store)
    assert given(lines) == ["0.3", "0.225", "0.3"] and provenance["vllm_share"] is None
    assert any("memory ran out in cache, and the next attempt has micro-batch 8, vLLM's share as the config says" in line for line in lines)
    assert not (store.root / fitted.FILE).exists()


# --- what is remembered -----------------------------------------------------------------------------------------------

ABOVE_2 = SAY + "if job.micro_batch > 2: raise MemoryError"


def test_the_next_run_starts_with_what_fitted_and_says_so(store: Store) -> None:
    assert given(made(plan(ABOVE_2), store)[1]) == ["8 None", "4 None", "2 None"]
    _, lines = made(plan(ABOVE_2, key="b", **{"seed": 7, "sft.learning_rate": 1e-3}), store)
    assert given(lines) == ["2 None"]
    [line] = [line for line in lines if "starts with what fitted here" in line]
    assert time.strftime("of %Y-%m-%d, kept for 7 days in ") in line
    assert "micro-batch 2" in line and str(store.root / "fitted.json") in line and "runtime.start_as_fitted=false" in line


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"seed": 7, "sft.learning_rate": 1e-3, "sft.num_train_epochs": 1, "sft.save_steps": 1}, True),
        ({"runtime.start_as_fitted": False}, False),
        ({"sft.max_length": 600}, False),
        ({"sft.lora_r": 16}, False),
        ({"sft.gradient_checkpointing": True}, False),
        ({"sft.gradient_accumulation_steps": 2}, False),
        ({"runtime.launcher": {"sft": ["torchrun", "--nproc-per-node=2"]}}, False),
    ],
)
def test_another_need_or_the_users_word_starts_as_the_config_says(store: Store, change: dict[str, Any], found: bool) -> None:
    fitted.remember(store, plan(""), Fit(2), pytest.fail)
    assert recalled(store, plan("", **change)) == (Fit(2) if found else None)
    assert recalled(store, plan("", externals={"base_model": {"digest": "another"}})) is None


def test_another_machine_starts_as_the_config_says(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted.remember(store, plan(""), Fit(2), pytest.fail)
    monkeypatch.setattr(fitted, "machine", lambda _: "NVIDIA H200, 143771 MiB")
    assert recalled(store, plan("")) is None


def test_a_run_that_never_ran_out_or_never_ended_leaves_nothing(store: Store) -> None:
    made(plan(SAY), store)
    with pytest.raises(StageFailed):
        stage.launch(plan("raise MemoryError", key="b"), store, lambda _: None)
    assert not (store.root / fitted.FILE).exists()


@pytest.mark.parametrize(
    ("name", "setting"),
    [("grpo", {"grpo.loss_type": "bnpo"}), ("sft", {"sft.neftune_noise_alpha": 5.0}), ("sft", {"sft.lora_dropout": 0.1})],
)
def test_where_the_split_decides_the_numbers_nothing_is_remembered(store: Store, name: str, setting: dict[str, Any]) -> None:
    fitted.remember(store, plan("", name, **setting), Fit(2), pytest.fail)
    assert not (store.root / fitted.FILE).exists()


@pytest.mark.parametrize("damage", ["{", "[]", '{"x": 1}', "\xff"])
def test_a_file_that_cannot_be_read_is_ignored_with_a_warning_and_mended(store: Store, damage: str) -> None:
    (store.root / fitted.FILE).write_text(damage, encoding="latin-1")
    lines = list[str]()
    assert recalled(store, plan(""), lines.append) is None
    assert "fitted.json cannot be read" in lines[0] and "delete the file" in lines[0]
    fitted.remember(store, plan(""), Fit(2), lines.append)
    assert recalled(store, plan("")) == Fit(2)


@pytest.mark.parametrize("wrong", [{"micro_batch": 0}, {"micro_batch": "2"}, {"at_once": -1}, {"packed": 0.5}, {"micro_batch": True}])
def test_a_setting_that_cannot_be_one_is_ignored_with_a_warning(store: Store, wrong: dict[str, Any]) -> None:
    fitted.remember(store, plan(""), Fit(2), pytest.fail)
    file, lines = store.root / fitted.FILE, list[str]()
    [(name, entry)] = json.loads(file.read_text()).items()
    file.write_text(json.dumps({name: {**entry, "fit": entry["fit"] | wrong}}))
    assert recalled(store, plan(""), lines.append) is None and "holds what cannot be a setting" in lines[0]


def test_what_fitted_is_forgotten_after_a_week(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted.remember(store, plan(""), Fit(2), pytest.fail)
    now = time.time()
    for days, kept in ((6.9, True), (7.1, False), (-400, False)):  # the last by a clock that was wrong
        monkeypatch.setattr(fitted.time, "time", lambda days=days: now + days * 86400)
        assert recalled(store, plan("")) == (Fit(2) if kept else None)


@pytest.mark.parametrize("at", ['"yesterday"', "null", "[]", "NaN", "1e999", "true"])
def test_an_entry_without_a_time_is_the_oldest_and_fails_nothing(store: Store, at: str) -> None:
    """After hours of training, before its result is published."""
    (store.root / fitted.FILE).write_text(f'{{"x": {{"at": {at}}}}}')
    warnings = list[str]()
    fitted.remember(store, plan(""), Fit(2), warnings.append)
    assert recalled(store, plan("")) == (None if warnings else Fit(2))
    assert all("what fitted cannot be kept in" in line for line in warnings) and bool(warnings) == (at in ("NaN", "1e999"))


def test_a_full_disk_is_a_warning_and_the_artifact_is_published(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fitted, "write_json", full)
    provenance, lines = made(plan(ABOVE_2, **{"sft.per_device_train_batch_size": 4}), store)
    assert provenance["micro_batch"] == 2
    assert any("what fitted cannot be kept in" in line and "No space left on device" in line for line in lines)


def test_vllms_share_is_not_kept(store: Store) -> None:
    work = plan("", "grpo", **{"grpo.vllm": "colocate"})
    fitted.remember(store, work, Fit(8, None, 0.225), pytest.fail)
    assert not (store.root / fitted.FILE).exists()
    fitted.remember(store, work, Fit(4, None, 0.225), pytest.fail)
    assert recalled(store, work) == Fit(4)


def test_the_file_does_not_grow_for_ever(store: Store) -> None:
    work = plan("")
    for number in range(fitted.KEPT + 5):
        fitted.remember(store, replace(work, section={**work.section, "lora_r": number}), Fit(number + 1), lambda _: None)
    kept = json.loads((store.root / fitted.FILE).read_text())
    assert len(kept) == fitted.KEPT
    assert recalled(store, replace(work, section={**work.section, "lora_r": 204})) == Fit(205)
    assert recalled(store, replace(work, section={**work.section, "lora_r": 0})) is None


# --- what is said -----------------------------------------------------------------------------------------------------


def test_the_context_that_would_fit_is_named_and_does_fit_by_the_estimate() -> None:
    config = load_config("a100", overrides={"runtime.gpu_memory_gib": 15, "grpo.vllm": "off"})
    told = advice.stuck("sft", "training", config.sft.model_dump(), config)
    assert "the micro-batch is 1 already: by the estimate it needs" in told and "would fit: --set dataset.max_length=" in told
    length = int(told.partition("dataset.max_length=")[2].split()[0])
    shape = advice.estimate.shape_of(config)
    small = advice._as_small_as_tried(config, "sft")
    needed = [
        fits.peak(fits.changed(small, {"dataset.max_length": n, "sft.max_length": n}), shape, "sft").bytes
        for n in (length, length + advice.GRAIN)
    ]
    assert fits.verdict(needed[0], 15 * 2**30) == "fits" != fits.verdict(needed[1], 15 * 2**30)
    assert "set sft.load_in_4bit=true" in told


def test_an_estimate_that_sees_room_says_so_and_names_half_the_context() -> None:
    config = load_config("a100", overrides={"runtime.gpu_memory_gib": 4000, "grpo.vllm": "off"})
    told = advice.stuck("grpo", "sampling", config.grpo.model_dump(), config)
    assert "so look for what else holds memory" in told
    assert f"--set grpo.max_completion_length={config.grpo.max_completion_length // 2}" in told


def test_a_device_that_holds_no_context_is_told_so() -> None:
    config = load_config("a100", overrides={"runtime.gpu_memory_gib": 1})
    assert "and no context would fit" in advice.stuck("sft", "training", config.sft.model_dump(), config)


@pytest.mark.parametrize(
    ("phase", "told"),
    [
        ("cache", "raise grpo.vllm_gpu_memory_utilization, or lower grpo.vllm_max_model_length"),
        ("share", "end what else runs on it"),
        ("sampling", "one sequence at a time does not fit either: lower grpo.max_completion_length"),
    ],
)
def test_each_phase_has_its_own_advice(phase: str, told: str) -> None:
    assert told in advice.stuck("grpo", phase, load_config("smoke").grpo.model_dump(), None)
