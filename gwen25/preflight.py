"""Everything knowable before the first GPU minute, checked before it.

    check(config, {"dataset", "sft", ...})

Names, batch arithmetic and types are checked as the config is read (`config`); here: the GPU, the disk, the base model, its
context, the data file, the rewards, launcher and interpreters. Each failure is one BadInput that says what to do.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import Callable, Collection, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from gwen25 import llamacpp, models, ollama_api, resolve, rewards
from gwen25.artifacts import Store, home
from gwen25.benchmarks import livecodebench
from gwen25.config import Config
from gwen25.errors import BadInput, unknown
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
    store = Store.default()
    for name in [name for name in STAGES if name in wanted]:
        _CHECKS.get(name, _nothing)(config)
        resolve.resolve(name, config, lambda _: None)  # names of the hub, formats, files; asked once, and remembered for the run
    if config.evaluate.backend == "openai":
        wanted = set(wanted) - {"evaluate"}  # the model is elsewhere: no GPU, context or base model of ours takes part
    _gpu(config, wanted)
    _training(config, [name for name, stage in STAGES.items() if stage.trains and name in wanted])
    _interpreters(config, wanted)
    _base(config, wanted, store.root)


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


def _ollama(config: Config) -> None:
    ollama_api.server_url()


_CHECKS: Final[dict[str, Callable[[Config], None]]] = {
    "dataset": _dataset,
    "grpo": _grpo,
    "gguf": _gguf,
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


def _gpu(config: Config, wanted: Collection[str]) -> None:
    needing = [name for name, stage in STAGES.items() if stage.gpu and name in wanted]
    if config.runtime.device == "cuda" and needing and not gpu_present():
        raise BadInput(
            f"{needing[0]} needs a GPU and this machine shows none (no /dev/nvidia*); take --profile smoke, or set runtime.device=cpu"
        )


def gpu_present() -> bool:
    """Whether the NVIDIA driver shows a device; asked of the file system, so that no CUDA context is made here."""
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()


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
        if name in wanted and shutil.which(python) is None:
            raise BadInput(f"runtime.python.{name}: no such interpreter: {python}")
    for name, launcher in config.runtime.launcher.items():
        if name in wanted and shutil.which(launcher[0]) is None:
            raise BadInput(f"runtime.launcher.{name}: no such command: {launcher[0]}")


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
        "evaluate": ("evaluate.max_tokens", config.evaluate.max_tokens),
    }
    for name, (field, length) in lengths.items():
        room = context - 1 if name == "evaluate" else context  # an answer stands after a prompt
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
