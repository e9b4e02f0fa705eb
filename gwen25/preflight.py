"""Everything knowable before the first GPU minute, checked before it.

    check(config, {"dataset", "sft", ...})

Names, batch arithmetic and types are checked as the config is read (`config`); here: the GPU, the disk, the base model, its
context, the data file, the rewards, launcher and interpreters, and the memory that each stage needs (`estimate`). Each failure
is one BadInput that says what to do.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from gwen25 import batches, child, estimate, llamacpp, models, ollama_api, resolve, rewards, sandbox
from gwen25.artifacts import Store, home
from gwen25.benchmarks import livecodebench
from gwen25.config import Config, GrpoConfig, SftConfig
from gwen25.errors import BadInput, Gwen25Error, unknown
from gwen25.estimate.memory import processes
from gwen25.stage import STAGES

_SIZE: Final = {"bfloat16": 2, "float16": 2, "float32": 4}  # bytes of a weight
_GGUF_SIZE: Final = {"f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 1.07}
_K_QUANT_SIZE: Final = 2.9  # below 0.9, beside the 16-bit file they are made from


def stages(names: Iterable[str]) -> list[str]:
    """The names, if they are stages; BadInput with the nearest right one otherwise."""
    for name in names:
        if name not in STAGES:
            raise unknown("stage", name, STAGES)
    return list(names)


def refreshed(names: Iterable[str], wanted: Collection[str]) -> set[str]:
    """The nodes to make again. BadInput for one that is no stage, or that this run does not reach."""
    chosen = stages(names)
    for name in chosen:
        if name not in wanted:
            raise BadInput(f"--refresh {name}: this run ends before {name}; it makes {', '.join(s for s in STAGES if s in wanted)}")
    return set(chosen)


def upto(until: str | None) -> set[str]:
    """`until` and all it stands on; every stage for None."""
    if until is None:
        return set(STAGES)
    stages([until])
    wanted = {until}
    for upstream in STAGES[until].inputs.values():
        wanted |= upto(upstream)
    return wanted


def check(config: Config, wanted: Collection[str]) -> None:
    """Raise BadInput for the first thing that would stop a run of these stages later."""
    for one in _all(config, wanted):
        one()


def problems(config: Config, wanted: Collection[str]) -> list[str]:
    """All that would stop it on this machine, each told once: what a dry run says."""
    found: list[str] = []
    with resolve.asking_once():
        for one in _all(config, wanted):
            try:
                one()
            except Gwen25Error as error:
                found.append(str(error))
    return list(dict.fromkeys(found))


def _all(config: Config, wanted: Collection[str]) -> Iterator[Callable[[], object]]:
    """Every check, in the order of what is soonest told."""
    yield Store.default  # BadInput where it cannot be written
    for name in [name for name in STAGES if name in wanted]:
        yield partial(_CHECKS.get(name, _nothing), config)
        yield partial(resolve.resolve, name, config, lambda _: None)  # names of the hub, formats, files; asked once, and remembered
    yield partial(_sandbox, config, wanted)
    if config.evaluate.backend == "openai":
        wanted = set(wanted) - {"evaluate"}  # the model is elsewhere: no GPU, context or base model of ours takes part
    yield partial(_batches, config, wanted)
    yield partial(_gpu, config, wanted)
    yield partial(_training, config, [name for name, stage in STAGES.items() if stage.trains and name in wanted])
    yield partial(_interpreters, config, wanted)
    yield partial(_vllm, config, wanted)
    yield partial(_vllm_share, config, wanted)
    yield partial(_base, config, wanted, Store.default().root)
    yield partial(_memory, config, wanted)


def _nothing(config: Config) -> None:
    pass


def _dataset(config: Config) -> None:
    _local_rows(config.dataset.source, "dataset.source")


def _grpo(config: Config) -> None:
    rewards.active(config.grpo)


def _evaluate(config: Config) -> None:
    _local_rows(config.evaluate.problems, "evaluate.problems")
    section = config.evaluate
    if section.backend == "openai" and not section.base_url:
        raise BadInput("evaluate.backend=openai needs evaluate.base_url, such as http://127.0.0.1:8000/v1")
    if section.backend == "openai" and section.baseline:
        raise BadInput("evaluate.backend=openai asks one server, which cannot be both base and tuned model: set evaluate.baseline=false")
    if section.start_date and section.end_date and section.start_date > section.end_date:
        raise BadInput(f"evaluate.start_date {section.start_date} is after evaluate.end_date {section.end_date}: no problem lies between")
    _, file = resolve.problems(config, lambda _: None)
    if file is not None and Path(file).stat().st_size <= _READ_AHEAD:
        livecodebench.load(Path(file), section.start_date, section.end_date, section.max_problems, tests=False)


# bytes of a problems file that is read before the run: half a second for 500 problems, minutes for a whole release with its tests
_READ_AHEAD: Final = 64 << 20


def _gguf(config: Config) -> None:
    if config.gguf.type not in _GGUF_SIZE and llamacpp.quantizer() is None:
        raise llamacpp.no_quantizer(config.gguf.type)


def _score(config: Config) -> None:
    """A floor that nobody can check is told before the training; of another interpreter than this one nothing is known."""
    _local_rows(config.evaluate.problems, "evaluate.problems")
    section = config.score
    asked = (section.min_top1_agreement, section.max_kl, section.max_pass_drop) != (None, None, None)
    if asked and section.require and "score" not in config.runtime.python and not llamacpp.can_load():
        raise BadInput(
            "score.min_top1_agreement, score.max_kl or score.max_pass_drop is set, and xllamacpp, which measures the GGUF, is not "
            "installed: pip install 'gwen25[llamacpp]', or set score.require=false to package what was not scored"
        )


def _ollama(config: Config) -> None:
    ollama_api.server_url()


_CHECKS: Final[dict[str, Callable[[Config], None]]] = {
    "dataset": _dataset,
    "grpo": _grpo,
    "gguf": _gguf,
    "score": _score,
    "ollama": _ollama,
    "evaluate": _evaluate,
}


def _local_rows(source: str, where: str) -> None:
    """A local data file must be there and hold something; its lines are read, with their numbers, by the stage itself."""
    if not source.endswith((".jsonl", ".jsonl.gz")):
        return
    path = Path(source).expanduser()
    try:
        found = path.is_file()
    except OSError as error:  # a name too long for the file system
        raise BadInput(f"{where}: {error.strerror}") from error
    if not found:
        raise BadInput(f"{where}: no such file: {path}")
    if path.stat().st_size == 0:
        raise BadInput(f"{where}: {path} is empty; JSON lines in the data set's schema are expected")


def _sandbox(config: Config, wanted: Collection[str]) -> None:
    """Stages that judge programs need isolation. Raises SandboxUnavailable: no later attempt on this machine would end otherwise."""
    judging = {
        "dataset": config.dataset.verify_solutions,
        "sft": config.sft.checkpoint_choice == "heldout_execution",
        "grpo": "execution" in config.grpo.rewards,
        "score": True,
        "evaluate": True,
    }
    if any(judges and name in wanted for name, judges in judging.items()):
        sandbox.probe()


def _memory(config: Config, wanted: Collection[str]) -> None:
    """What surely does not fit the device is refused with the setting that would; what is close is said once."""
    if not set(wanted) & set(estimate.DEVICE_STAGES):
        return
    refused, close = estimate.misfits(config, wanted, estimate.shape_of(config))
    for line in [line for line in close if line not in _told]:
        print(f"warning: {line}", file=sys.stderr, flush=True)
        _told.add(line)
    if refused:
        raise BadInput(refused[0])


_told: Final[set[str]] = set()  # in this process: a run is checked by the command and by the flow


def _gpu(config: Config, wanted: Collection[str]) -> None:
    needing = [name for name, stage in STAGES.items() if stage.gpu and name in wanted]
    if config.runtime.device == "cuda" and needing and not gpu_present():
        raise BadInput(
            f"{needing[0]} needs a GPU and this machine shows none (no /dev/nvidia*); take --profile smoke, or set runtime.device=cpu"
        )


def gpu_present() -> bool:
    """Whether the NVIDIA driver shows a device; asked of the file system, so that no CUDA context is made here."""
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()


def _batches(config: Config, wanted: Collection[str]) -> None:
    """A step's rows over the processes that the launcher starts, as far as its words say how many."""
    for name, group in (("sft", 1), ("grpo", config.grpo.num_generations)):
        section: SftConfig | GrpoConfig = getattr(config, name)
        recommended = name == "sft" and config.sft.auto_hparams  # the accumulation is: the stage itself divides it
        if name in wanted and not recommended:
            rows = section.per_device_train_batch_size * section.gradient_accumulation_steps
            batches.check(name, rows, processes(config, name), group)


def _training(config: Config, wanted: Iterable[str]) -> None:
    """What training imports or compiles beside its packages; of another interpreter than this one nothing is known."""
    for name in wanted:
        if name in config.runtime.python:
            continue
        if getattr(config, name).attn_implementation == "flash_attention_2" and find_spec("flash_attn") is None:
            raise BadInput(f"{name}.attn_implementation=flash_attention_2, but flash-attn is not installed; take sdpa, or install it")
        if config.runtime.device == "cuda" and not can_compile():
            raise BadInput(
                f"{name} on CUDA needs a C compiler and Python.h (Triton builds launchers with them): apt-get install gcc python3-dev"
            )


def can_compile() -> bool:
    """Whether Triton finds a C compiler (it looks for CC, gcc, clang) and this interpreter's headers."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    return compiler is not None and Path(sysconfig.get_path("include"), "Python.h").is_file()


def _interpreters(config: Config, wanted: Collection[str]) -> None:
    for name, python in config.runtime.python.items():
        if name == "grpo" and config.grpo.vllm != "off":
            continue  # `_vllm` says what is missing
        if name in wanted and shutil.which(python) is None:
            raise BadInput(f"runtime.python.{name}: no such interpreter: {python}")
    for name, launcher in config.runtime.launcher.items():
        if name in wanted and shutil.which(launcher[0], path=child.search_path(config.runtime, name)) is None:
            raise BadInput(
                f"runtime.launcher.{name}: no such command: {launcher[0]}; install it in the stage's environment, or give its whole path"
            )


_VLLM_STAGE: Final = ("vllm", "trl", "peft", "datasets", "accelerate", "bitsandbytes", "matplotlib", "yaml", "pydantic")


def _vllm(config: Config, wanted: Collection[str]) -> None:
    """vLLM samples in the interpreter of the stage, which must hold all that the stage imports. Nothing heavy is imported to see it."""
    if "grpo" not in wanted or config.grpo.vllm == "off":
        return
    python = child.interpreter(config.runtime, "grpo")
    asked = "import sys; from importlib.util import find_spec; print(*(name for name in sys.argv[1:] if find_spec(name) is None))"
    try:
        told = subprocess.run([python, "-c", asked, *_VLLM_STAGE], capture_output=True, text=True, timeout=60, check=True)
    except FileNotFoundError as error:
        raise BadInput(
            f"grpo.vllm={config.grpo.vllm}: no such interpreter: {python}; `make vllm-env` makes it, or set grpo.vllm=off"
        ) from error
    except (OSError, subprocess.SubprocessError) as error:
        raise BadInput(f"grpo.vllm={config.grpo.vllm}: {python} does not run as an interpreter ({error})") from error
    if missing := told.stdout.split():
        raise BadInput(
            f"grpo.vllm={config.grpo.vllm}, but {python} lacks {', '.join(missing)}; `make vllm-env` makes an environment that has them; "
            "or set grpo.vllm=off"
        )


def _vllm_share(config: Config, wanted: Collection[str]) -> None:
    """vLLM does not start where its share of the GPU holds less than its weights and one answer."""
    if "grpo" not in wanted or config.grpo.vllm != "colocate" or config.runtime.gpu_memory_gib is None:
        return
    share, there = config.grpo.vllm_gpu_memory_utilization, config.runtime.gpu_memory_gib * 2**30
    copy, answer = estimate.vllm_needs(config)
    if copy + answer > share * there:
        least = math.ceil(100 * (copy + answer) / there) / 100
        raise BadInput(
            f"grpo.vllm_gpu_memory_utilization={share:g} of {config.runtime.gpu_memory_gib:g} GiB is {share * there / 1e9:.1f} GB, and "
            f"vLLM's copy of the weights takes {copy / 1e9:.1f} and one answer's cache {answer / 1e9:.1f} GB; set it to {least:g} or more"
        )


def _base(config: Config, wanted: Collection[str], store: Path) -> None:
    """The base model's architecture, its context, and the disk that its descendants need."""
    if not set(wanted) & {name for name, stage in STAGES.items() if stage.gpu or name == "dataset"}:
        return
    external, folder = resolve.base_model(config, lambda _: None)
    if folder is None:
        file = resolve.hub_file(config.base_model, "config.json", external["revision"])
        model = models.read_checkpoint(file, config.base_model)
        known = models.BASE_MODELS.get(config.base_model)
        # an unknown size is not estimated; a known one counts its download too, where the cache does not hold it yet
        parameters = known.parameters if known else None
        download = 2 * parameters if parameters and not any(file.parent.glob("*.safetensors")) else 0
    else:
        model = models.inspect(Path(folder))
        weights = sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))
        parameters, download = weights // _SIZE.get(model.dtype, 4), 0
    _context(config, wanted, model.context)
    if parameters is not None:
        _disk(config, wanted, parameters, download, store)


def _context(config: Config, wanted: Collection[str], context: int) -> None:
    lengths = {
        "sft": ("sft.max_length", config.sft.max_length),
        "dataset": ("dataset.max_length", config.dataset.max_length),
        "grpo": (
            "dataset.max_prompt_length + grpo.max_completion_length",
            config.dataset.max_prompt_length + config.grpo.max_completion_length,
        ),
        "ollama": ("ollama.num_ctx", config.ollama.num_ctx),
        "score": ("score.max_tokens", config.score.max_tokens),
        "evaluate": ("evaluate.max_tokens", config.evaluate.max_tokens),
    }
    for name, (field, length) in lengths.items():
        room = context - 1 if name in ("score", "evaluate") else context  # an answer stands after a prompt
        if name in wanted and length > room:
            raise BadInput(
                f"{field} = {length} tokens is more than the model's context of {context} (max_position_embeddings of {config.base_model})"
            )


def _disk(config: Config, wanted: Collection[str], parameters: int, download: int, store: Path) -> None:
    """Merged model, GGUF and the temporary between them must fit; adapters and checkpoints are small beside them."""
    merged = _SIZE[config.merge.dtype] if "merge" in wanted else 0
    packed = _GGUF_SIZE.get(config.gguf.type, _K_QUANT_SIZE) if "gguf" in wanted else 0
    need, free = parameters * (merged + packed) + download, shutil.disk_usage(store).free
    if need > free:
        raise BadInput(
            f"the store {home()} has {free / 1e9:.1f} GB free; base model, merged model and GGUF need about {need / 1e9:.1f} more; "
            "set GWEN25_HOME to a larger disk"
        )
