"""What a GPU really does with gwen25: `make gpu-check`, at most 8 minutes on one GPU.

    python -m gwen25.gpu_check [--json FILE] [--only ROW] [--keep FOLDER]
    python -m gwen25.gpu_check --shape tiny --device cpu          the same rows, small, without a GPU

Each row is a process of its own with a limit of its own: what crashes, hangs or runs out of memory is that row's result, and the
next row follows. A row that cannot run says which package or device is missing. The training rows run the stages `sft` and `grpo`
as users do, on random weights of Qwen2.5-3B's shape (6.2 GB below GWEN25_HOME, removed at the end), under a cap of
40 GiB (profile a100) and of 15 GiB (profile t4), and put the peak beside `gwen25 estimate`'s. Tokens a second and peak stand beside those
of TRL's own trainers with the same settings (SFT a100 and t4, GRPO a100), and of Unsloth's SFT where it is installed. On a GPU ours
runs deterministic kernels, TRL's does not.

Exit status: 0 where every row ran well or said what is missing, 1 where one failed, 2 for bad options.
Not here: whether killed runs give the same bits (`make gpu-test`), quality, the speed of sampling by vLLM.
To add a row: a function and a line in ROWS.

    kernels   number types, 4-bit weights, the 8-bit optimizer, attention
    base      the random weights, the adapter and the rows to train on
    steps     SFT and GRPO; beside: the same by others
    serving   vLLM, in its own environment (`sleeper` is the script that runs there)
    runner    rows as processes; child: such a process's own side
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Literal

Status = Literal["ok", "missing", "failed", "out of memory", "timeout"]
BUDGET: Final = 480.0  # seconds of the whole command, Unsloth's row not counted


@dataclass(frozen=True, slots=True)
class Row:
    """`does` is module:function; `seconds` may be used up to twice where earlier rows have left some."""

    name: str
    does: str
    seconds: float
    packages: tuple[str, ...] = ()
    profile: str | None = None
    cap_gib: float | None = None
    after: str | None = None  # the row without which this one cannot run


@dataclass(frozen=True, slots=True)
class Setting:
    """What all rows of a run share."""

    device: Literal["cuda", "cpu"]
    shape: Literal["qwen2.5-3b", "tiny"]
    folder: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """`numbers`: what was measured; a name that is absent was not."""

    status: Status
    said: str
    numbers: dict[str, Any] = field(default_factory=dict)


class Missing(Exception):
    """A row's package or device is not here; the text says which."""


_HERE: Final = "gwen25.gpu_check"
_TRAINS: Final = ("torch", "transformers", "trl", "peft", "bitsandbytes")
ROWS: Final = (  # the first one may have to read torch's 3 GB of libraries from a cold disk; what it leaves is the later rows' too
    Row("bfloat16", f"{_HERE}.kernels:bfloat16", 35, ("torch",)),
    Row("float16", f"{_HERE}.kernels:float16", 10, ("torch",)),
    Row("4-bit load", f"{_HERE}.kernels:four_bit", 20, ("torch", "transformers", "bitsandbytes")),
    Row("adamw_8bit", f"{_HERE}.kernels:adamw_8bit", 15, ("torch", "transformers", "bitsandbytes")),
    Row("attention", f"{_HERE}.kernels:attention", 15, ("torch",)),
    Row("weights", f"{_HERE}.base:weights", 25, ("torch", "numpy")),
    Row("sft, a100", f"{_HERE}.steps:sft_step", 55, _TRAINS, "a100", 40, after="weights"),
    Row("grpo, a100", f"{_HERE}.steps:grpo_step", 45, _TRAINS, "a100", 40, after="weights"),
    Row("sft, t4", f"{_HERE}.steps:sft_step", 40, _TRAINS, "t4", 15, after="weights"),
    Row("grpo, t4", f"{_HERE}.steps:grpo_step", 45, _TRAINS, "t4", 15, after="weights"),
    Row("sft, TRL", f"{_HERE}.beside:trl_sft", 40, _TRAINS, "a100", 40, after="weights"),
    Row("grpo, TRL", f"{_HERE}.beside:trl_grpo", 40, _TRAINS, "a100", 40, after="weights"),
    Row("sft, TRL, t4", f"{_HERE}.beside:trl_sft", 35, _TRAINS, "t4", 15, after="weights"),
    Row("vllm", f"{_HERE}.serving:colocate", 45, after="weights"),
    # the last: where it is absent its time must be no other row's
    Row("sft, Unsloth", f"{_HERE}.beside:unsloth", 90, (*_TRAINS, "unsloth"), "a100", 40, after="weights"),
)
