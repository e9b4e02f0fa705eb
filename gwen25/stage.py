"""Stages from the outside: which there are, what makes one's key, how one is run.

    plan = plan_stage("sft", config, {"dataset": artifact}, warn)     resolve what is outside, make the key
    store.find(plan.stage.name, plan.key, warn)                       a hit?
    launch(plan, store, on_line)                                      no: a child process makes it, once

`launch` starts the stage in a process of its own (see `supervise`), so that its memory, the GPU's included, is free when
it ends, and so that the flow's process needs neither torch nor the stage's interpreter. What it was doing survives in the
work folder; the number of attempts, and what each was given and ran out of memory with, are kept there too, because an
orchestrator's own counts die with its process.

Not here: retries and waiting (`tasks`, or `obtain` below for a single try), order (`flows`).
"""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from gwen25 import advice, fitted, job, ollama_api, out_of_memory
from gwen25.artifacts import Artifact, Made, Manifest, Store, Warn
from gwen25.child import Child, OnLine, OnProgress, stop_if_asked, stopping
from gwen25.config import Config, RuntimeConfig
from gwen25.errors import BadInput, Cause, StageFailed
from gwen25.fitted import Fit
from gwen25.resolve import Resolved, changed_since, resolve


@dataclass(frozen=True, slots=True)
class Stage:
    """One node. `inputs` maps the role an artifact plays to the stage that makes it; `version` changes with its results."""

    name: str
    version: int
    inputs: Mapping[str, str]
    gpu: bool = False
    trains: bool = False

    @property
    def module(self) -> str:
        return f"gwen25.pipelines.{self.name}"


STAGES: Final[dict[str, Stage]] = {
    stage.name: stage
    for stage in (
        Stage("dataset", 2, {}),
        Stage("sft", 2, {"dataset": "dataset"}, gpu=True, trains=True),
        Stage("grpo", 3, {"dataset": "dataset", "sft": "sft"}, gpu=True, trains=True),
        Stage("adapters", 2, {"adapter": "grpo"}),
        Stage("merge", 2, {"adapter": "adapters"}, gpu=True),
        Stage("gguf", 3, {"model": "merge"}),
        Stage("score", 1, {"model": "merge", "gguf": "gguf"}, gpu=True),
        Stage("ollama", 4, {"gguf": "gguf", "score": "score"}),
        Stage("evaluate", 2, {"model": "merge"}, gpu=True),
    )
}

# fields that stand in `externals` (by content, or as the rewards that will really run), and fields that change how long a stage
# takes but not what it computes
_BY_CONTENT: Final = frozenset({"base_model", "chat_format", "source", "problems", "rewards", "judge"})
_UNKEYED: Final = frozenset(
    {
        *("save_steps", "logging_steps", "smoke_tokens", "timeout_seconds", "gradient_checkpointing", "baseline"),
        *("vllm_gpu_memory_utilization", "vllm_enable_sleep_mode", "vllm_max_model_length", "vllm_server_base_url"),
        "log_completions_steps",
    }
)
# fields that came later, with the value that says what was done before them: keys from before them still hold
_CAME_LATER: Final = {
    **{"target": "reasoning", "vllm": "off", "grpo_source": None, "shuffle_rewards": False, "smoke": "report"},
    **{"packing": False, "use_rslora": False, "use_dora": False, "neftune_noise_alpha": None, "use_kernels": False},
    **{"checkpoint_choice": "last", "choice_max_tokens": 2048},
    **{"epsilon_high": None, "delta": None, "num_iterations": 1, "importance_sampling_level": "token", "redraw_zero_spread": 0},
    **{"multi_objective_aggregation": "sum_then_normalize", "soft_punish_cache": None, "judge_agreement": 0},
    **{"vllm_importance_sampling_correction": True, "vllm_importance_sampling_mode": "sequence_mask"},
    **{"vllm_importance_sampling_clip_max": 3.0, "vllm_importance_sampling_clip_min": None},
}
AUTO_HPARAMS_RULE: Final = "effective batch"  # which rule planned: the first one took any micro-batch for one row
# majors that may change results without a change of ours: a hit made by another one warns
_WATCHED: Final = ("gwen25", "torch", "transformers", "trl", "peft")


@dataclass(frozen=True, slots=True)
class Plan:
    """A stage, its key and all that the child will be told."""

    stage: Stage
    key: str
    section: dict[str, Any]
    resolved: Resolved
    inputs: dict[str, Artifact]
    runtime: RuntimeConfig
    config: Config | None = None  # whole, for advice where memory does not suffice

    @property
    def volatile(self) -> bool:
        """Never a hit: what a server serves under a name can change without a sign."""
        return bool(self.section.get("backend") == "openai")


def plan_stage(name: str, config: Config, inputs: dict[str, Artifact], warn: Warn, extra: Resolved | None = None) -> Plan:
    """Resolve and key one stage. `extra` adds things from outside, such as a model directory in the place of an artifact.

    Key = sha256 of (stage, VERSION, keyed section, externals, input digests), cut to 32 hexadecimal digits.
    """
    stage = STAGES[name]
    resolved = resolve(name, config, warn)
    if extra is not None:
        resolved = Resolved({**resolved.externals, **extra.externals}, {**resolved.locations, **extra.locations})
    section = getattr(config, name).model_dump(mode="json")
    parts = [name, stage.version, keyed_section(section), resolved.externals, {role: artifact.digest for role, artifact in inputs.items()}]
    key = hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:32]
    return Plan(stage, key, section, resolved, inputs, config.runtime, config)


def keyed_section(section: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a section that changes numbers.

    The micro-batch counts as its product with the accumulation only, unless the split itself decides: where the accumulation
    is to be recommended, under loss_type bnpo, which averages over each micro-batch, and with neftune_noise_alpha, whose noise
    is drawn in the micro-batch's padded shape and scaled by its padded length.
    """
    keyed = {name: value for name, value in section.items() if name not in _BY_CONTENT | _UNKEYED}
    keyed = {name: value for name, value in keyed.items() if name not in _CAME_LATER or _CAME_LATER[name] != value}
    if "checkpoint_choice" in keyed:
        keyed["save_steps"] = section["save_steps"]  # which steps there are to choose from
    if keyed.get("checkpoint_choice") != "heldout_execution":
        keyed.pop("choice_max_tokens", None)  # nothing is written out
    if keyed.get("auto_hparams"):
        keyed["auto_hparams"] = AUTO_HPARAMS_RULE
    if keyed.get("backend") == "transformers":
        keyed = {name: value for name, value in keyed.items() if name not in ("base_url", "served_model")}
    split_decides = keyed.get("auto_hparams") or keyed.get("loss_type") == "bnpo" or "neftune_noise_alpha" in keyed
    if "gradient_accumulation_steps" in keyed and not split_decides:
        keyed["effective_batch_size"] = keyed.pop("per_device_train_batch_size") * keyed.pop("gradient_accumulation_steps")
    return keyed


def find(plan: Plan, store: Store, warn: Warn) -> Artifact | None:
    """The plan's artifact, if the store holds it intact and it still tells the truth; says so where another major version made it."""
    if plan.volatile or (artifact := store.find(plan.stage.name, plan.key, warn)) is None:
        return None
    manifest = Manifest.read(artifact.path)
    if not _still_served(plan, manifest):
        warn(f"the Ollama server no longer holds {manifest.facts['name']} as it was made; it is created again")
        return None
    for package in _WATCHED:
        then, now = manifest.provenance.get("packages", {}).get(package), _version(package)
        if then and now and then.split(".")[0] != now.split(".")[0]:
            warn(
                f"{plan.stage.name}:{plan.key[:8]} was made with {package} {then}, this is {now}; "
                f"`--refresh {plan.stage.name}` makes it again"
            )
    return artifact


def _still_served(plan: Plan, manifest: Manifest) -> bool:
    """False where a model was created on an Ollama server that holds another one, or none, under that name now."""
    url = plan.resolved.locations.get("ollama")
    return url is None or ollama_api.Ollama(url, timeout=10).digest(manifest.facts["name"]) == manifest.facts.get("server_digest")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def launch(plan: Plan, store: Store, on_line: OnLine, on_progress: OnProgress = lambda _: None, *, refresh: bool = False) -> Artifact:
    """Run the stage in a child process and publish what it made. One attempt; the work folder survives a failure.

    Waits where another run is making the same key, and then takes that run's artifact. With `refresh` an artifact that is
    there already stays until the new one is whole. Raises StageFailed.
    """
    waited = False

    def wait() -> None:
        nonlocal waited
        if not waited:
            on_line(f"waiting: another run is making {plan.stage.name}:{plan.key[:8]}")
            waited = True
        stop_if_asked(plan)

    stop_if_asked(plan)
    with store.lock(plan.stage.name, plan.key, wait) as lock:
        if (not refresh or waited) and (made := find(plan, store, on_line)) is not None:
            return made
        work = store.work(plan.stage.name, plan.key)
        for folder in (work, work / "payload", work / "aside"):
            folder.mkdir(exist_ok=True)
        if not (work / "result.json").exists():  # else an earlier attempt did the work and died before it was published
            _attempt(plan, store, work, lock, on_line, on_progress)
        return _publish(plan, store, work)


def _attempt(plan: Plan, store: Store, work: Path, lock: int, on_line: OnLine, on_progress: OnProgress) -> None:
    """One child process: afterwards the work folder holds a result, or StageFailed says why not."""
    attempts = _read(work / "attempts.json").get("attempts", [])
    fit = _fit(plan, store, attempts, on_line)
    shutil.rmtree(work / "payload")  # leftovers of a killed attempt would be published
    (work / "payload").mkdir()
    for name in ("failure.json", out_of_memory.FILE):
        (work / name).unlink(missing_ok=True)
    job.write_json(work / "request.json", _request(plan, fit))
    if attempts:
        on_line(f"attempt {len(attempts) + 1}; the last one ended: {attempts[-1]['cause'].replace('_', ' ')}")
    started = time.time()
    child = Child(plan, work, lock)
    tail = child.follow(work / "aside" / "log.txt", on_line, on_progress)
    done = (work / "result.json").exists()  # written last: how the interpreter went down afterwards does not matter
    failure = _read(work / "failure.json")
    cause = "done" if done else _cause(child, failure)
    attempt = {"cause": cause, "seconds": round(time.time() - started, 3), **asdict(fit), **_shortage(cause, failure, work)}
    job.write_json(work / "attempts.json", {"attempts": [*attempts, attempt]})
    if cause == "done":
        if certain := [one for one in attempts if one["cause"] == "out_of_memory" and one.get("certain")]:
            fitted.remember(store, plan, fitted.after(fitted.first(plan), plan.section, certain), on_line)
        return
    message = failure.get("message") or _explain(cause, child.exit_code)
    known = failure if failure.get("cause") == cause else {}
    retry = known.get("retry", cause not in ("bad_input", "cancelled"))
    shrinks = False
    if cause == "out_of_memory":
        less = fitted.smaller(plan.section, [*attempts, attempt])
        retry = retry and less is not None
        shrinks = retry and fitted.after(fit, plan.section, [*attempts, attempt]) != fit
        message += advice.stuck(plan.stage.name, attempt["phase"], plan.section, plan.config) if less is None else _next(attempt, fit, less)
    raise StageFailed(plan.stage.name, cause, child.exit_code, message, tail, retry=retry, shrinks=shrinks)


def _fit(plan: Plan, store: Store, attempts: list[dict[str, Any]], on_line: OnLine) -> Fit:
    """What this attempt is given: the config's, or what fitted here before; smaller once for each loss of memory since."""
    fit, before = fitted.first(plan), fitted.recall(store, plan, on_line)
    if before is not None and before[0] != fit:
        fit, at = before
        if not attempts:
            on_line(
                f"{plan.stage.name} starts with what fitted here after memory ran out: {fit.told()} (of {_day(at)}, kept for {fitted.DAYS} "
                f"days in {store.root / fitted.FILE}; --set runtime.start_as_fitted=false starts as the config says)"
            )
    return fitted.after(fit, plan.section, attempts)


def _shortage(cause: str, failure: dict[str, Any], work: Path) -> dict[str, Any]:
    """What the child was doing as memory ran out: its own word, or the note of one that the kernel killed."""
    if cause != "out_of_memory":
        return {}
    certain = failure.get("cause") == cause
    told = failure if certain else asdict(out_of_memory.left_by(work))
    return {"phase": told.get("phase"), "rows": told.get("rows"), "certain": certain}


def _next(attempt: dict[str, Any], fit: Fit, less: Fit) -> str:
    doing = f" in {attempt['phase']}" if attempt["phase"] else ""
    if less == fit:
        return f"; memory ran out{doing}, perhaps another process's: it is tried once more as it was"
    share = ", vLLM's share as the config says" if fit.vllm_share and not less.vllm_share else ""
    return f"; memory ran out{doing}, and the next attempt has {less.told()}{share}"


def _day(at: float) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(at))


def _publish(plan: Plan, store: Store, work: Path) -> Artifact:
    """The work folder's result as an artifact. Raises BadInput where a local input changed meanwhile: its digest would lie."""
    if (changed := changed_since(plan.resolved)) is not None:
        shutil.rmtree(work)
        raise BadInput(f"{changed} changed while {plan.stage.name} ran on it; leave it alone and run again")
    result, attempts = _read(work / "result.json"), _read(work / "attempts.json").get("attempts", [])
    last = attempts[-1] if attempts else {"seconds": None}
    provenance = {
        **result["provenance"],
        "seconds": last["seconds"],
        **asdict(Fit.of(last)),
        "attempts": len(attempts),
        **_git(),
    }
    return store.publish(
        Made(
            stage=plan.stage.name,
            version=plan.stage.version,
            key=plan.key,
            config=plan.section,
            externals=plan.resolved.externals,
            inputs=plan.inputs,
            facts=result["facts"],
            metrics=result["metrics"],
            provenance=provenance,
        )
    )


def fit_and_launch(
    plan: Plan, store: Store, on_line: OnLine, on_progress: OnProgress = lambda _: None, *, refresh: bool = False
) -> Artifact:
    """`launch`, and at once again with less for as long as memory runs out and less is left to try.

    These attempts end by themselves (a micro-batch of 32 has five halves) and take none of runtime.max_retries, which are for what
    chance may mend; where those are 0, a failure of any kind is the last. Raises StageFailed.
    """
    while True:
        try:
            return launch(plan, store, on_line, on_progress, refresh=refresh)
        except StageFailed as failure:
            if not (failure.shrinks and plan.runtime.max_retries):
                raise
            on_line(str(failure))


def obtain(
    plan: Plan, store: Store, on_line: OnLine, on_progress: OnProgress = lambda _: None, *, refresh: bool = False
) -> tuple[Artifact, bool]:
    """The artifact and whether it was there already: look-up, else launch with retries by cause. For use without Prefect."""
    if not refresh and (hit := find(plan, store, on_line)) is not None:
        return hit, True
    delay = plan.runtime.retry_delay_seconds
    for left in range(plan.runtime.max_retries, -1, -1):
        try:
            return fit_and_launch(plan, store, on_line, on_progress, refresh=refresh), False
        except StageFailed as failure:
            if not left or not failure.retry:
                raise
            on_line(f"{failure}; another attempt in {delay:g} s")
            time.sleep(delay)
            delay *= 2
    raise AssertionError("unreachable: the last attempt returns or raises")


def _request(plan: Plan, fit: Fit) -> dict[str, Any]:
    share = {} if fit.vllm_share is None else {"vllm_gpu_memory_utilization": fit.vllm_share}
    return {
        "stage": plan.stage.name,
        "section_name": plan.stage.name,
        "version": plan.stage.version,
        "key": plan.key,
        "section": plan.section | share,
        "inputs": {role: artifact.model_dump(mode="json") for role, artifact in plan.inputs.items()},
        "externals": plan.resolved.externals,
        "locations": plan.resolved.locations,
        "runtime": plan.runtime.model_dump(mode="json"),
        "micro_batch": fit.micro_batch,
        "at_once": fit.at_once,
        "packed": fit.packed,
    }


def _cause(child: Child, failure: dict[str, Any]) -> Cause:
    if child.timed_out:
        return "timeout"
    if child.cancelled or stopping():
        return "cancelled"
    if failure:
        cause: Cause = failure["cause"]
        return "killed" if cause == "cancelled" else cause  # SIGTERM, and not from us: another attempt goes on
    if child.exit_code in (128 + signal.SIGKILL, -signal.SIGKILL):
        return "out_of_memory" if child.host_oom_kills() else "killed"
    if child.exit_code in (128 + signal.SIGTERM, -signal.SIGTERM):
        return "killed"
    return "crashed"


def _explain(cause: Cause, exit_code: int | None) -> str:
    texts = {
        "timeout": "it ran past runtime.timeout_seconds",
        "cancelled": "it was cancelled",
        "killed": "its process was killed from outside",
        "out_of_memory": "the kernel killed it for memory: this machine has too little RAM for it",  # the host's, not a GPU's
    }
    return texts.get(cause, f"its process ended with status {exit_code} and no word of why; its log ends:")


def _read(path: Path) -> dict[str, Any]:
    """A small JSON object of ours; {} where there is none (written whole or not at all: see job.write_json)."""
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return value


def _git() -> dict[str, str]:
    """The checkout's commit, where gwen25 runs from one; recorded, not keyed."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        commit = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"git_commit": commit}
