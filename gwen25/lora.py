"""What an adapter directory of PEFT says: which weights it changes, by how much, and what is no LoRA that can be merged.

    config = read_config(Path("adapter"))                 adapter_config.json; BadInput where it cannot be merged here
    pairs(config, tensor_names)                           the base's weight -> its A, B, magnitudes, rank and scale
    require_fit(pairs, adapter_shapes, base_shapes)       BadInput for an adapter of another base or another rank

Plain LoRA, rank-stabilised LoRA, ranks and alphas by pattern, and DoRA, with PEFT 0.21's rules; gwen25 itself trains plain LoRA.
Keys that a config leaves out have PEFT's defaults, so that directories of older versions read. What would need more than the base's
weight and these matrices is refused by its name. Standard library only. Not here: trained rows of the embedding (`token_rows`),
the arithmetic (`merging`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from gwen25 import token_rows
from gwen25.errors import BadInput

WEIGHTS: Final = "adapter_model.safetensors"
CONFIG: Final = "adapter_config.json"
PICKLE: Final = "adapter_model.bin"

# options of PEFT's LoraConfig under which an adapter is more, or other, than its pairs of matrices
_REFUSED: Final = (
    "lora_bias",
    "modules_to_save",
    "fan_in_fan_out",
    "layer_replication",
    "target_parameters",
    "megatron_config",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "velora_config",
    "use_bdlora",
    "use_qalora",
)
# starts that take something out of the base's weights first: the adapter fits what was left, and not the base
_OTHER_BASE: Final = ("pissa", "olora", "corda", "loftq", "lora_ga", "mica")
# the other fields of PEFT 0.21's LoraConfig: read here, or without a part in the arithmetic once the training is over
_KNOWN: Final = {
    *("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "bias", "init_lora_weights", "peft_type"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "trainable_token_indices", "ensure_weight_tying"),
    *("lora_dropout", "loftq_config", "eva_config", "corda_config", "lora_ga_config", "qalora_group_size", "megatron_core"),
    *("runtime_config", "task_type", "inference_mode", "auto_mapping", "base_model_name_or_path", "revision", "peft_version"),
    *_REFUSED,
}
_ELSEWHERE: Final = "merge it with PEFT (merge_and_unload, save_pretrained) and give the merged model"


class Pair(NamedTuple):
    """What an adapter does to one weight: W + scale B A; under DoRA each row is then scaled to its magnitude. Names are the file's."""

    down: str  # A: (rank, columns)
    up: str  # B: (rows, rank)
    magnitude: str | None  # DoRA's: (rows,)
    rank: int
    scale: float


def no_weights(folder: Path) -> str:
    """The error of a directory without adapter_model.safetensors."""
    if (folder / PICKLE).is_file():
        return f"{folder}: {PICKLE} is a pickle, which runs code as it is read; save the adapter with save_pretrained of PEFT 0.5 or newer"
    return f"{folder}: no {WEIGHTS}; an adapter directory in PEFT's layout is expected"


def read_config(folder: Path) -> dict[str, Any]:
    """adapter_config.json with r and lora_alpha filled in, or BadInput for one that is absent or cannot be merged here.

    `trainable_token_indices` may be there: `token_rows` reads them.
    """
    file = folder / CONFIG
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        config = {"r": 8, "lora_alpha": 8, **config}  # PEFT's defaults
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
        patterns = [dict(config.get(name) or {}) for name in ("rank_pattern", "alpha_pattern")]
    except (OSError, ValueError, TypeError) as error:
        raise BadInput(f"{file} is not the config of a LoRA adapter ({type(error).__name__}: {error})") from error
    _refuse(config, file)
    if rank < 1 or not alpha or not math.isfinite(alpha):
        raise BadInput(f"{file}: r = {rank} and lora_alpha = {alpha:g} make no adapter")
    if not all(_is_number(value) for pattern in patterns for value in pattern.values()):
        raise BadInput(f"{file}: rank_pattern and alpha_pattern map names to numbers that are not 0")
    return config


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value != 0


def _refuse(config: Mapping[str, Any], file: Path) -> None:
    kind = str(config.get("peft_type") or "LORA")
    if kind != "LORA":
        raise BadInput(f"{file}: peft_type is {kind}, and only LORA can be merged here; {_ELSEWHERE}")
    for option in _REFUSED:
        if config.get(option):
            raise BadInput(f"{file}: {option} is set, which cannot be merged here; {_ELSEWHERE}")
    for option in sorted(config.keys() - _KNOWN):
        if config[option]:
            raise BadInput(f"{file}: {option} is set, an option that gwen25 does not know and that may change the weights; {_ELSEWHERE}")
    if (bias := str(config.get("bias") or "none")) != "none":
        raise BadInput(f"{file}: bias is {bias!r}: the adapter trains biases of the base, which cannot be merged here; {_ELSEWHERE}")
    start = str(config.get("init_lora_weights") or "")
    if start.startswith(_OTHER_BASE):
        raise BadInput(
            f"{file}: init_lora_weights is {start!r}: such a training changes the base's weights before it begins, so the adapter fits "
            "another base; save it as plain LoRA (save_pretrained with path_initial_model_for_weight_conversion)"
        )


def pairs(config: Mapping[str, Any], names: Iterable[str]) -> dict[str, Pair]:
    """The base's weight -> what the adapter does to it, token rows left out.

    Raises BadInput for a name or a part that PEFT would not write for the config.
    """
    parts: dict[str, dict[str, str]] = {}
    for name in sorted(names):
        if not token_rows.is_rows(name):
            module, part = _split(name)
            parts.setdefault(module, {})[part] = name
    dora = bool(config.get("use_dora"))
    for module, held in parts.items():
        _require_parts(module, held, dora)
    return {
        f"{module}.weight": Pair(held["A"], held["B"], held.get("magnitude"), rank_of(config, module), scaling(config, module))
        for module, held in sorted(parts.items())
    }


def _require_parts(module: str, held: Mapping[str, str], dora: bool) -> None:
    if not held.keys() >= {"A", "B"}:
        raise BadInput(f"the adapter holds only one of A and B for {module}.weight")
    if dora != ("magnitude" in held):
        what = "no magnitudes" if dora else "magnitudes"
        raise BadInput(f"use_dora is {str(dora).lower()} in the adapter's config, and its file holds {what} of {module}.weight")


def _split(name: str) -> tuple[str, str]:
    """ "base_model.model.M.lora_A.weight" -> (M, "A"); a DoRA magnitude may end in `.weight` or not, as in PEFT."""
    match = re.fullmatch(r"(?:base_model\.model\.)?(.+)\.lora_(?:([AB])\.weight|magnitude_vector(?:\.weight)?)", name)
    if match is None:
        if "lora_embedding_" in name:
            raise BadInput(f"the adapter holds {name!r}: LoRA on the embedding cannot be merged here; {_ELSEWHERE}")
        raise BadInput(f"the adapter holds {name!r}, which is no LoRA matrix of a linear layer")
    return match[1], match[2] or "magnitude"


def rank_of(config: Mapping[str, Any], module: str) -> int:
    return int(_by_pattern(config.get("rank_pattern"), module, config["r"]))


def scaling(config: Mapping[str, Any], module: str) -> float:
    """The factor of B A: alpha / r, or alpha / sqrt(r) for rank-stabilised LoRA (arXiv:2312.03732)."""
    rank, alpha = rank_of(config, module), float(_by_pattern(config.get("alpha_pattern"), module, config["lora_alpha"]))
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _by_pattern(pattern: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """The value of the first key that, as a regular expression, is the module's name or the end of it behind a dot (PEFT's rule)."""
    for key, value in (pattern or {}).items():
        try:
            if re.match(rf"(.*\.)?({key})$", module):
                return value
        except re.error as error:
            raise BadInput(f"the adapter's config has a pattern {key!r} that is no regular expression ({error})") from error
    return default


def targeted(config: Mapping[str, Any], weights: Iterable[str]) -> set[str]:
    """Of the base's `weights`, those that the config's `target_modules` name; where it names them by other means, none is known."""
    modules = config.get("target_modules")
    if modules == "all-linear":
        return set(weights)
    if config.get("layers_to_transform") is not None or config.get("exclude_modules") or not isinstance(modules, list):
        return set()
    ends = tuple(f".{module}.weight" for module in modules)
    return {weight for weight in weights if f".{weight}".endswith(ends)}


def require_fit(
    adapted: Mapping[str, Pair], adapter: Mapping[str, tuple[int, ...]], base: Mapping[str, tuple[int, ...]], *, tied: bool = False
) -> None:
    """Raises BadInput for a pair whose weight the base does not have, or whose shapes are not those of weight and rank.

    `adapter` and `base` are shapes by tensor name; a `tied` base has no head of its own.
    """
    for weight, pair in adapted.items():
        if tied and weight == "lm_head.weight":
            raise BadInput(f"the adapter changes {weight}, which is tied to the embedding in this base; {_ELSEWHERE}, untied")
        if weight not in base:
            raise BadInput(f"the adapter holds {weight!r}, which the base model does not have: an adapter of another base")
        if len(base[weight]) != 2:
            raise BadInput(f"the adapter holds matrices for {weight!r}, which is of shape {base[weight]} in the base model")
        rows, columns = base[weight]
        wanted = {pair.down: (pair.rank, columns), pair.up: (rows, pair.rank)} | ({pair.magnitude: (rows,)} if pair.magnitude else {})
        for name, shape in wanted.items():
            if (held := adapter[name]) != shape:
                raise BadInput(f"{name} is of shape {held} where the base model and r = {pair.rank} ask for {shape}")
