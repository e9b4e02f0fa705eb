# %% [markdown]
# # Fine-tune Qwen2.5, step by step
#
#     AUTO_HPARAMS=1 python gwen25/notebooks/finetuning.py            # the smoke profile: minutes on two CPU cores
#     python gwen25/notebooks/finetuning.py a100 sft.max_steps=50     # a profile, and overrides
#
# The same stages as the flow, each in a process of its own, so that GPU memory is free between them; the same store, so
# that what is there already is not made again. No Prefect.

# %%
from __future__ import annotations

import sys

from gwen25 import preflight, stage
from gwen25.artifacts import Artifact, Manifest, Store
from gwen25.config import load_config, parse_override
from gwen25.errors import Gwen25Error

inside_a_notebook = "ipykernel" in sys.modules
arguments = [] if inside_a_notebook else sys.argv[1:]
profile = arguments[0] if arguments else "smoke"


def say(line: str) -> None:
    print(line, flush=True)


try:
    config = load_config(profile, overrides=dict(parse_override(text) for text in arguments[1:]))
    preflight.check(config, stage.STAGES)
except Gwen25Error as error:
    sys.exit(f"finetuning: {error}")
store = Store.default()
made: dict[str, Artifact] = {}


def run(name: str) -> Manifest:
    """One stage from the artifacts before it; its manifest says what came out."""
    inputs = {role: made[upstream] for role, upstream in stage.STAGES[name].inputs.items()}
    plan = stage.plan_stage(name, config, inputs, say)
    try:
        made[name], cached = stage.obtain(plan, store, say)
    except Gwen25Error as error:
        sys.exit(f"finetuning: {error}")
    say(f"{'Cached' if cached else 'made'}  {name}:{plan.key[:8]}\n")
    return Manifest.read(made[name].path)


# %% [markdown]
# ## Data
# Rows of OpenCodeReasoning (the smoke profile has its own); what was dropped, and why.

# %%
data = run("dataset")
say(f"{data.metrics['rows_read']} rows read, {data.metrics['rows_kept']} kept; dropped: {data.metrics['dropped']}\n")

# %% [markdown]
# ## SFT
# With AUTO_HPARAMS=1 learning rate, accumulation and warm-up follow the data set's size; old -> new stands in the manifest.

# %%
sft = run("sft")
if config.sft.auto_hparams:
    say(f"AUTO_HPARAMS: {sft.facts['auto_hparams']}\n")
say(f"held-out loss {sft.metrics['heldout_loss_base']:.3f} -> {sft.metrics['heldout_loss']:.3f}\n")

# %% [markdown]
# ## GRPO
# From the SFT adapter, by reward; what could not be judged counts for nothing.

# %%
grpo = run("grpo")
say(f"reward {grpo.metrics['reward']}, KL {grpo.metrics['kl']}, coverage {grpo.metrics['coverage']}\n")

# %% [markdown]
# ## One model, one file, one package

# %%
for name in ("adapters", "merge", "gguf", "ollama"):
    run(name)

# %% [markdown]
# ## Evaluation

# %%
run("evaluate")
say((made["evaluate"].payload / "report.md").read_text(encoding="utf-8"))
