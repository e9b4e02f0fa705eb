"""The metadata at the top of a model card, by which the hub files it: base, relation, licence, data, library, tags."""

from __future__ import annotations

from typing import Any, Final

from gwen25.hub.story import Story

QWEN_RESEARCH: Final = "Qwen Research"  # its text lies beside the weights
# the hub's own names of licences, as far as base models of the known architectures have them; others are told by name and link
_LICENCES: Final = ("apache-2.0", "mit", "llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "bsd-3-clause", "cc-by-4.0")
_RELATION: Final = {"adapters": "adapter", "merge": "finetune", "gguf": "quantized"}
_LIBRARY: Final = {"adapters": "peft", "merge": "transformers", "gguf": "gguf"}


def metadata(story: Story) -> str:
    """The front matter of README.md, YAML between two lines of dashes."""
    import yaml

    base, stage = story.facts["base_model"], story.manifest.stage
    about: dict[str, Any] = {"library_name": _LIBRARY[stage], "pipeline_tag": "text-generation", "language": ["en"]}
    if "id" in base:
        about |= {"base_model": base["id"], "base_model_relation": _RELATION[stage]}
    about |= _licence(story)
    if "id" in (data := (story.facts.get("dataset") or {}).get("data") or {}):
        about["datasets"] = [data["id"]]
    lora = ["lora"] if stage == "adapters" else []
    about["tags"] = ["gwen25", "code", "reasoning", *lora, *(how for how in ("sft", "grpo") if how in story.facts)]
    return f"---\n{yaml.safe_dump(about, sort_keys=False, allow_unicode=True)}---\n\n"


def _licence(story: Story) -> dict[str, str]:
    """The base's licence in the hub's terms; a licence that the hub has no name for gets a name and a link. Unknown: nothing."""
    licence, base = story.facts.get("license"), story.facts["base_model"]
    if not licence:
        return {}
    if (known := str(licence).lower()) in _LICENCES:
        return {"license": known}
    link = {"license_link": f"https://huggingface.co/{base['id']}/blob/main/LICENSE"} if "id" in base and licence == QWEN_RESEARCH else {}
    return {"license": "other", "license_name": known.replace(" ", "-"), **link}
