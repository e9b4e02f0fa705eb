"""Batch arithmetic: what an optimizer step's rows must be divisible by. Checked before a run, by the launcher's words, and in the stage.

    check("grpo", rows=32, processes=2, group=8)

TRL samples and trains on per_device_train_batch_size x processes x gradient_accumulation_steps completions a step, and asks
(grpo_config.py, `__post_init__`) that whole groups make it up. Its own errors come when the trainer is made, with the base model in memory.
"""

from __future__ import annotations

from gwen25.errors import BadInput

ROWS = "per_device_train_batch_size x gradient_accumulation_steps"


def check(stage: str, rows: int, processes: int, group: int = 1) -> None:
    """Raise BadInput where `rows` of a step cannot be shared equally by the launcher's processes, or hold no whole number of groups.

    Unequal shares would make another batch than the config, and the key, say.
    """
    if rows % processes:
        raise BadInput(f"{stage}: {ROWS} = {rows} rows cannot be divided over {processes} processes; choose a multiple of {processes}")
    if rows % group:
        raise BadInput(f"{stage}: {ROWS} = {rows} must be divisible by num_generations = {group}")
