"""What Transformers or vLLM makes of a checkpoint's tokenizer files. No weights are read.

    told({"engine": "transformers", "models": [DIR], "dialogues": {...}, "texts": {...}, "bare": "..."})      here
    python hf_child.py < the same as JSON                                                                     in another interpreter

{"version": ..., "models": [{"template", "prompts", "histories", "ids", "added", "stops"} or {"error"}]}, as JSON on the last line.
vLLM is asked by the functions that its server renders a chat with and takes stop tokens by. Run by path, because vLLM's interpreter
need not hold gwen25.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any


def transformers_engine() -> tuple[str, Callable[[str], tuple[Any, Callable[..., Any], list[int]]]]:
    import transformers

    def load(folder: str) -> tuple[Any, Callable[..., Any], list[int]]:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        try:
            generation = transformers.GenerationConfig.from_pretrained(folder)
        except OSError:  # without a file of its own it is config.json's, as `generate` takes it
            generation = transformers.GenerationConfig.from_model_config(transformers.AutoConfig.from_pretrained(folder))
        ends = generation.eos_token_id
        return tokenizer, tokenizer.apply_chat_template, ends if isinstance(ends, list) else [ends]

    return transformers.__version__, load


def vllm_engine() -> tuple[str, Callable[[str], tuple[Any, Callable[..., Any], list[int]]]]:
    import vllm
    from vllm.config import ModelConfig
    from vllm.renderers.hf import safe_apply_chat_template
    from vllm.tokenizers import get_tokenizer

    def load(folder: str) -> tuple[Any, Callable[..., Any], list[int]]:
        config, tokenizer = ModelConfig(model=folder), get_tokenizer(folder)

        def render(messages: list[dict[str, str]], **settings: Any) -> Any:
            settings.pop("return_dict", None)
            return safe_apply_chat_template(config, tokenizer, messages, **settings)

        sampling = vllm.SamplingParams()
        sampling.update_from_generation_config(config.try_get_generation_config(), tokenizer.eos_token_id)
        return tokenizer, render, sorted({tokenizer.eos_token_id, *(sampling.stop_token_ids or ())})

    return vllm.__version__, load


ENGINES = {"transformers": transformers_engine, "vllm": vllm_engine}


def seen(tokenizer: Any, render: Callable[..., Any], ends: list[int], asked: dict[str, Any]) -> dict[str, Any]:
    dialogues, texts = asked["dialogues"], asked["texts"]

    def prompt(name: str, generation: bool) -> str:
        return str(render(dialogues[name], tokenize=False, add_generation_prompt=generation))

    ids = {name: list(render(dialogues[name], tokenize=True, add_generation_prompt=True, return_dict=False)) for name in dialogues}
    ids |= {name: tokenizer(text, add_special_tokens=False)["input_ids"] for name, text in texts.items()}
    return {
        "prompts": {name: prompt(name, True) for name in dialogues},
        "histories": {name: prompt(name, False) for name in dialogues},
        "ids": ids,
        "added": {"ids": tokenizer(asked["bare"])["input_ids"]},
        "stops": {"eos": tokenizer.eos_token, "ends": sorted(tokenizer.convert_ids_to_tokens(ends))},
        "template": {"jinja": str(tokenizer.chat_template).rstrip("\n")},
    }


def told(asked: dict[str, Any]) -> dict[str, Any]:
    version, load = ENGINES[asked["engine"]]()
    models: list[dict[str, Any]] = []
    for folder in asked["models"]:
        try:
            models.append(seen(*load(folder), asked))
        except Exception as error:  # whatever a checkpoint makes an engine raise is an answer about that checkpoint
            models.append({"error": {"says": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}})
    return {"version": version, "models": models}


def main() -> None:
    sys.path.pop(0)  # this file's folder: its neighbours are no modules of the engine's
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", VLLM_LOGGING_LEVEL="ERROR", VLLM_NO_USAGE_STATS="1")
    print("\n" + json.dumps(told(json.load(sys.stdin))), flush=True)


if __name__ == "__main__":
    main()
