"""Adapters: a trained adapter, checked number by number and made portable.

    python -m gwen25.pipelines.adapters WORK_DIR          (started by `gwen25 adapters`)

Nothing is computed anew. What is proven before anything is built on it: every number is finite, the adapter does something
(B is not zero), each matrix fits the weight it belongs to, no weight is left out, and the base is the one it was trained on.

    payload/   a PEFT directory that loads anywhere: adapter, tokenizer with its chat template, README.md (the card)

The card says what went in (base, data, licences), how it was trained, how it is prompted, and what it is not. Not here: merging (`merge`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from gwen25 import lora, modeling, models, token_rows
from gwen25.chat import ChatFormat
from gwen25.errors import BadInput
from gwen25.job import Job, Result, main, write_json

if TYPE_CHECKING:
    import torch

# SPDX ids to the names that the hub's card metadata knows
_HUB_LICENCES: Final = {"Apache-2.0": "apache-2.0", "MIT": "mit"}


def run(job: Job) -> Result:
    """Check and copy. Raises BadInput for an adapter that is damaged, empty, or of another base."""
    source = job.inputs["adapter"]
    base = require_base(source.facts, job.externals["base_model"])
    format = modeling.chat_format(source.facts, "the adapter")
    directory = modeling.base_dir(job)
    config, tensors = modeling.read_adapter_config(source.payload), modeling.read_adapter(source.payload)
    weights = check(tensors, config, models.tensor_shapes(directory), models.LORA_TARGETS[models.inspect(directory).architecture])
    numbers = sum(tensor.numel() for tensor in tensors.values())
    job.say(f"{weights} adapted weights, {numbers} numbers, all finite and of the right shape")

    modeling.write_tensors(tensors, job.payload / modeling.ADAPTER_WEIGHTS)
    write_json(job.payload / modeling.ADAPTER_CONFIG, modeling.portable_config(config, base))
    modeling.save_tokenizer(modeling.load_tokenizer(directory, format), job.payload)
    (job.payload / "README.md").write_text(card(source.facts, config, format), encoding="utf-8")
    about = {"weights": weights, "parameters": numbers, "rank": int(config["r"]), "scaling": lora.scaling(config, "")}
    if rows := token_rows.declared(config, tensors):
        about["token_rows"] = sum(len(one.indices) for one in rows.values())
    facts = {**source.facts, "adapter": about}
    return Result(facts, {"parameters": numbers, "largest": max(float(tensor.abs().max()) for tensor in tensors.values())})


def require_base(facts: Mapping[str, Any], base_model: Mapping[str, Any]) -> dict[str, Any]:
    """The pinned base, if it is the one that the adapter was trained on; BadInput otherwise."""
    if facts["base_model"] != base_model:
        raise BadInput(
            f"an adapter of another base: it was trained on {_pinned(facts['base_model'])}, and this run's base_model is "
            f"{_pinned(base_model)}"
        )
    return dict(base_model)


def _pinned(base_model: Mapping[str, Any]) -> str:
    return models.name_of(base_model) + (f" at revision {base_model['revision'][:12]}" if "revision" in base_model else "")


def check(
    tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], targets: tuple[str, ...]
) -> int:
    """The number of adapted weights. Raises BadInput, naming the tensor, for what no merge should be made of.

    `shapes` are the base's, by name; `targets` the projections: of those that the config says are adapted, every block's must be.
    """
    pairs = lora.pairs(config, tensors)
    lora.require_fit(pairs, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, shapes)
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise BadInput(f"{name} holds a number that is not finite: the training diverged or the file is damaged; train again")
    for weight, replaced in token_rows.declared(config, tensors).items():
        token_rows.require_fit(weight, replaced, tuple(tensors[replaced.tensor].shape), shapes.get(weight))
    expected = lora.targeted(config, (name for name in shapes if name.endswith(tuple(f".{target}.weight" for target in targets))))
    if missing := sorted(expected - pairs.keys()):
        raise BadInput(f"the adapter leaves out {len(missing)} of the base's {len(expected)} weights, such as {missing[0]}; train it again")
    if not any(bool(tensors[pair.up].any()) for pair in pairs.values()):
        raise BadInput("every B of the adapter is zero: it is untrained and changes nothing")
    return len(pairs)


def card(facts: Mapping[str, Any], config: Mapping[str, Any], format: ChatFormat) -> str:
    """The README.md of the adapter: the same text for the same facts, with what is unknown called unknown."""
    base, licence, data = facts["base_model"], facts.get("license"), facts.get("dataset", {})
    metadata = ["---", "library_name: peft", "pipeline_tag: text-generation", "tags: [gwen25, lora, code, reasoning]"]
    if "id" in base:
        metadata.append(f"base_model: {base['id']}")
    if licence is not None:
        known = _HUB_LICENCES.get(licence)
        metadata += [f"license: {known}"] if known else ["license: other", f"license_name: {licence}"]
    example = format.render([{"role": "user", "content": "Read two integers and print their sum."}])
    parts = [
        "\n".join([*metadata, "---"]),
        "# A reasoning adapter for Python problems",
        f"A LoRA adapter (rank {config['r']}, scale {lora.scaling(config, ''):g}) on {_pinned(base)}. "
        "It thinks first, then writes one program.",
        "## Licences",
        _table({"base model": licence or "unknown: see its own card", **_data_licences(data)}),
        "The adapter is a work derived from the base model and is bound by its licence.",
        "## Data",
        _table({name: value for name, value in sorted(data.items()) if isinstance(value, (int, str, bool))}),
    ]
    for stage, title in (("sft", "## Supervised fine-tuning"), ("grpo", "## GRPO")):
        if stage in facts:
            parts += [title, _table({name: _shown(value) for name, value in sorted(facts[stage].items())})]
    parts += [
        "## Prompt format",
        f"`{format.name}`, which the tokenizer's chat template writes. The prompt ends in the opened `<think>`; an answer ends with "
        f"{_stops(format)}.",
        f"````text\n{example}````",
        "## Limits",
        "\n".join(f"- {limit}" for limit in _limits(facts, config)),
    ]
    return "\n\n".join(parts) + "\n"


def _data_licences(data: Mapping[str, Any]) -> dict[str, str]:
    licences = data.get("licenses")
    if isinstance(licences, Mapping) and licences:
        return {f"data, {count} rows": str(name) for name, count in sorted(licences.items())}
    return {"data": str(data.get("license") or "unknown")}


def _stops(format: ChatFormat) -> str:
    return " or ".join(f"`{token}`" for token in format.stop)


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_shown(inner)}" for name, inner in sorted(value.items()))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _table(values: Mapping[str, Any]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in values.items())])


def _limits(facts: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    limits = [
        "Programs that it writes are untested: run them in a sandbox, never as they come.",
        "It was trained on Python alone, on short problems with an exact answer; other tasks were not looked at.",
        "Reasoning is not an explanation of the program: nothing checks that the one follows from the other.",
    ]
    if facts.get("sft", {}).get("load_in_4bit"):
        limits.append(
            "It was trained on a 4-bit copy of the base: load that in 4 bits too, or take the merged model; the full base differs."
        )
    if config.get("trainable_token_indices"):
        limits.append(
            "It replaces rows of the embedding beside LoRA (`trainable_token_indices`). PEFT loads it; vLLM and llama.cpp refuse such an "
            "adapter: give them the merged model."
        )
    if "grpo" not in facts:
        limits.append("No reinforcement learning was run on it.")
    return limits


if __name__ == "__main__":
    main(run)
