"""A checkpoint in the chat format, as the stage `merge` leaves one: template, eos, pad and stop tokens set, the weights a link."""

from __future__ import annotations

import json
from pathlib import Path

from gwen25 import modeling
from gwen25.chat import FORMATS, ChatFormat
from gwen25.job import write_json


def in_format(model: Path, folder: Path, shape: ChatFormat = FORMATS["chatml-think"]) -> Path:
    tokenizer = modeling.load_tokenizer(model, shape)
    folder.mkdir(parents=True)
    modeling.save_tokenizer(tokenizer, folder)
    for weights in model.glob("*.safetensors"):
        (folder / weights.name).symlink_to(weights)
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    write_json(folder / "config.json", {**json.loads((model / "config.json").read_text(encoding="utf-8")), **ids})
    write_json(folder / "generation_config.json", {**ids, "eos_token_id": modeling.stop_ids(tokenizer, shape)})
    return folder
