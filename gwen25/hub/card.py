"""The model card of what is pushed: the same text for the same store, with what is unknown called unknown.

    card(story, "me/my-model")

Facts of the artifact, what the store measured, what it was made from; nothing of this machine (no path, no user, no host).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from gwen25 import models
from gwen25.benchmarks import report
from gwen25.chat import FORMATS, THINK_CLOSE, ChatFormat, problem_messages
from gwen25.data import Problem
from gwen25.hub.metadata import QWEN_RESEARCH, metadata
from gwen25.hub.story import Report, Story
from gwen25.parity import Engine, Proof

UNMEASURED: Final = "not measured"
_WHAT: Final = {
    "adapters": "A LoRA adapter on {base}",
    "merge": "{base} with {adapter} merged into its weights",
    "gguf": "{base} with {adapter} merged into its weights, as GGUF for llama.cpp and Ollama",
    "model": "{base}, as GGUF for llama.cpp and Ollama",
}
_ADAPTER: Final = {False: "a trained LoRA adapter", True: "a LoRA adapter"}
_EXAMPLE: Final = problem_messages(Problem("example", "Read two integers and print their sum.", ()))


def card(story: Story, hub_id: str) -> str:
    """README.md: the metadata of the hub, then the page."""
    sections = {
        "Base model and licence": _base(story),
        "Data": _data(story),
        "Training": _recipe(story),
        "Evaluation": _evaluation(story),
        "GGUF files": _ggufs(story),
        "Prompt format": _prompt(story, hub_id),
        "Ollama": _ollama(story, hub_id),
        "Limits": _limits(story),
        "Lineage": _lineage(story),
    }
    what = _WHAT["model" if story.whole else story.manifest.stage].format(base=_base_name(story), adapter=_ADAPTER[story.foreign])
    if story.foreign:
        intro = f"{what}. gwen25 did not train it: it packed it, in the chat format that its tokenizer names."
    else:
        intro = f"{what}, by gwen25: it thinks first, then writes one Python program."
    page = [f"# {hub_id.rpartition('/')[2]}", intro, *(f"## {title}\n\n{text}" for title, text in sections.items() if text)]
    return metadata(story) + "\n\n".join(page) + "\n"


# ------------------------------------------------------------------------------------------------------------------ sections


def _dataset(story: Story) -> Mapping[str, Any]:
    return story.facts.get("dataset") or {}


def _base_name(story: Story) -> str:
    base = story.facts["base_model"]
    return (
        f"[{base['id']}](https://huggingface.co/{base['id']})"
        if "id" in base
        else f"a base model that is on no hub (`{models.name_of(base)[:19]}`)"
    )


def _base(story: Story) -> str:
    base, licence = story.facts["base_model"], story.facts.get("license")
    revision = f", revision `{base['revision']}`" if "revision" in base else ""
    text = (
        f"{_base_name(story)}{revision}. Licence: {licence or 'unknown, see the base model'}. What was made of it is bound by that licence."
    )
    if licence == QWEN_RESEARCH:
        text += " It is for research alone: commercial use needs a licence of Alibaba Cloud's."
    return text


def _data(story: Story) -> str:
    facts, manifest = _dataset(story), story.data
    if not facts:
        return "Unknown: it was not trained by gwen25." if story.foreign else "Unknown."
    data = facts.get("data") or {}
    source = (
        f"[{data['id']}](https://huggingface.co/datasets/{data['id']}), revision `{data.get('revision', 'unknown')}`"
        if "id" in data
        else f"rows that are on no hub (sha256 `{str(data.get('digest', 'unknown'))[:16]}`)"
    )
    licences = ", ".join(f"{name} ({count} rows)" for name, count in sorted((facts.get("licenses") or {}).items()))
    parts = [
        f"{source}. Licences of the rows: {licences or 'unknown'}.",
        _table({name: facts[name] for name in sorted(facts) if name.startswith("rows_")}),
    ]
    if manifest is None:
        return "\n\n".join([*parts, "How many rows were read and dropped is unknown: the data set is no longer in the store."])
    measured = manifest.metrics
    dropped = {reason: count for reason, count in (measured.get("dropped") or {}).items() if count}
    parts.append(f"Of {measured['rows_read']} rows read, {measured['rows_kept']} were kept. Dropped, by the first reason that held:")
    parts.append(_table(dropped) if dropped else "none.")
    verified = "run on the examples of their statements" if facts.get("solutions_verified") else "not run"
    parts.append(f"The rows' programs were {verified}.")
    return "\n\n".join(parts)


def _recipe(story: Story) -> str:
    parts = []
    for stage, title in (("sft", "### Supervised fine-tuning"), ("grpo", "### GRPO")):
        if stage in story.facts:
            parts += [title, _table(story.facts[stage])]
    if reasons := (story.facts.get("auto_hparams") or {}).get("reasons"):
        parts += ["Hyper-parameters were recommended from the number of rows:", "\n".join(f"- {reason}" for reason in reasons)]
    return "\n\n".join(parts) or "Unknown: it was not trained by gwen25."


def _evaluation(story: Story) -> str:
    parts = [_report(mine, base) for mine, base in story.reports] or [f"On problems: {UNMEASURED}."]
    if story.manifest.stage != "merge" and story.reports:
        parts.insert(0, "Measured on the merged model, in its own precision, not on this form of it.")
    return "\n\n".join([*parts, *_scores(story)])


def _report(mine: Report, base: Report | None) -> str:
    columns = {"this model": mine} | ({"base model, same prompt": base} if base else {})
    window = mine["window"]
    contests = f"contests from {window['first']} to {window['last']}" if window.get("first") else "contests of unknown date"
    how = (
        f"{mine['benchmark']} ({mine['source']}, release {mine['release'] or 'none'}), {contests}; {mine['n']} samples each at temperature "
        f"{mine['temperature']:g}, at most {mine['max_tokens']} tokens. In brackets: 95 % interval over problems."
    )
    notes = "".join(f"\n- {note}" for note in mine.get("notes") or [])
    return (
        f"{how}\n\n{report.table(columns)}"
        + (f"\n{notes.strip()}" if notes else "")
        + ("" if base else f"\nThe base model on these problems: {UNMEASURED}.")
    )


def _scores(story: Story) -> list[str]:
    """The pages of the shipped forms' scores, as the stage wrote them."""
    return [f"### What the shipped forms lose\n\n{page.strip()}" for page in story.score_pages]


def _ggufs(story: Story) -> str:
    if story.manifest.stage != "gguf":
        return ""
    rows = [
        f"| {one.facts['file']} | {one.facts['type']} | {one.metrics.get('bits_per_weight', UNMEASURED)} | {one.facts['bytes']:,} | "
        f"{'this repository' if one.digest == story.manifest.digest else 'not here'} |"
        for one in sorted(story.ggufs, key=lambda one: -int(one.facts["bytes"]))
    ]
    parts = ["\n".join(["| file | type | bits a weight | bytes | |", "|---|---|---:|---:|---|", *rows])]
    if fallbacks := story.manifest.metrics.get("fallback_tensors"):
        parts.append(f"{fallbacks} tensors have rows that the type does not divide and are stored otherwise.")
    if story.proof is not None:
        agree = ", ".join(f"{name} {engine.version}" if engine.version else name for name, engine in _here(story.proof))
        parts.append(f"Prompts, token ids and stop tokens agree in: {agree} (`parity.json`).")
    return "\n\n".join(parts)


def _here(proof: Proof) -> list[tuple[str, Engine]]:
    return [(name, engine) for name, engine in proof.engines.items() if engine.absent is None]


def _prompt(story: Story, hub_id: str) -> str:
    format = _format(story)
    if format is None:
        return "The chat template of the files."
    stops = " or ".join(f"`{token}`" for token in format.stop)
    fence = "````"
    text = (
        f"`{format.name}`: the chat template in the files writes it. The prompt ends in the opened `<think>`; the answer is reasoning, "
        f"`{THINK_CLOSE}`, one Python block, and ends with {stops}.\n\n"
        f"{fence}text\n{format.render(_EXAMPLE)}{fence}"
    )
    return text + ("" if story.manifest.stage == "gguf" else f"\n\n{fence}python\n{_usage(story, hub_id, format)}{fence}")


def _format(story: Story) -> ChatFormat | None:
    """The format, where this gwen25 knows it as it was then."""
    made = story.facts.get("chat_format") or {}
    format = FORMATS.get(made.get("name", ""))
    return format if format is not None and format.digest == made.get("digest") else None


def _usage(story: Story, hub_id: str, format: ChatFormat) -> str:
    """A program that asks the model: with Transformers, and PEFT for an adapter (whose base would not stop at the format's end token)."""
    if story.manifest.stage == "adapters":
        auto, imports = "AutoPeftModelForCausalLM", "from peft import AutoPeftModelForCausalLM\nfrom transformers import AutoTokenizer"
    else:
        auto, imports = "AutoModelForCausalLM", "from transformers import AutoModelForCausalLM, AutoTokenizer"
    messages = "\n".join(f"    {json.dumps(message)}," for message in _EXAMPLE)
    return f"""{imports}

tokenizer = AutoTokenizer.from_pretrained("{hub_id}")
model = {auto}.from_pretrained("{hub_id}", dtype="auto")
messages = [
{messages}
]
prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
stop = tokenizer.convert_tokens_to_ids({json.dumps(list(format.stop))})
answer = model.generate(**prompt, max_new_tokens=4096, do_sample=True, temperature=0.6, top_p=0.95, eos_token_id=stop)
print(tokenizer.decode(answer[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True))
"""


def _ollama(story: Story, hub_id: str) -> str:
    if story.manifest.stage != "gguf":
        return ""
    if story.package is None:
        return "No Modelfile was made for this file."
    name = story.package_name
    return (
        f"```sh\nhf download {hub_id} --local-dir {name}\ncd {name}\nollama create {name} -f Modelfile\nollama run {name}\n```\n\n"
        "The Modelfile holds the template, the stop tokens and the context. `ollama run hf.co/...` would choose a template by itself, "
        "which was not tried."
    )


def _merged_into(story: Story) -> str:
    base = story.facts.get("merged_base")
    return f"merged into the {base} base, the nearer one of two" if base else "into which base it was merged is not known"


def _limits(story: Story) -> str:
    limits = ["Programs that it writes are untested: run them in a sandbox, never as they come."]
    if story.foreign:
        limits.append("What it was trained on, and for, is unknown.")
    else:
        limits.append("It was trained on Python alone, on short problems with an exact answer; other tasks were not looked at.")
    limits.append("Reasoning is not an explanation of the program: nothing checks that the one follows from the other.")
    if (story.facts.get("sft") or {}).get("load_in_4bit"):
        loaded = "load that in 4 bits too, or take the merged model" if story.manifest.stage == "adapters" else _merged_into(story)
        limits.append(f"It was trained on a 4-bit copy of the base: {loaded}; on the full base it is another model.")
    if "grpo" not in story.facts and not story.foreign:
        limits.append("No reinforcement learning was run on it.")
    if (story.facts.get("adapter") or {}).get("token_rows") and story.manifest.stage == "adapters":
        limits.append(
            "It replaces rows of the embedding beside LoRA (`trainable_token_indices`): PEFT loads it, vLLM and llama.cpp refuse it."
        )
    if not story.reports:
        limits.append("Nobody has measured how well it does.")
    return "\n".join(f"- {limit}" for limit in limits)


def _lineage(story: Story) -> str:
    rows = [
        f"| {link.stage} | `{link.key}` | `{link.digest}` |{'' if link.manifest else ' no longer in the store'} |" for link in story.lineage
    ]
    made = story.manifest.provenance
    packages = dict(sorted((made.get("packages") or {}).items()))
    versions = ", ".join(f"{name} {version}" for name, version in {"Python": made.get("python", "unknown"), **packages}.items())
    return "\n".join(["| stage | key | digest of its files | |", "|---|---|---|---|", *rows]) + f"\n\nLast step made with {versions}."


def _table(values: Mapping[str, Any]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {report.cell(_shown(value))} |" for name, value in sorted(values.items()))])


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_shown(inner)}" for name, inner in sorted(value.items()))
    return UNMEASURED if value is None else f"{value:g}" if isinstance(value, float) else str(value)
