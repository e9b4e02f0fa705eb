# %% [markdown]
# # Fine-tune Qwen2.5, step by step
#
# From rows of data to a chat with the model that came of them: the same stages as `gwen25 run`, one cell each, without Prefect.
# Each stage runs in a process of its own, so GPU memory is free between them. What it makes is kept in a store, so a cell that
# is run again finds its work done, and a notebook that was cut off goes on from where it was.
#
# | where | profile | base model | how long |
# |---|---|---|---|
# | any machine, two CPU cores | `smoke` | a tiny Qwen2 of our own, too small to write programs | minutes |
# | Colab with a T4 | `t4` | Qwen2.5-3B in 4 bits | 9 hours by estimate: sft 11 minutes, grpo 5.6 h, score 0.2 h, the evaluations 3.3 h |
#
# As a script, from a checkout:
#
#     python gwen25/notebooks/finetuning.py                           # smoke
#     AUTO_HPARAMS=1 python gwen25/notebooks/finetuning.py            # the data set's size chooses rate, batch and warm-up
#     python gwen25/notebooks/finetuning.py a100 sft.max_steps=50     # a profile, and settings
#
# Nothing of this was run on a GPU or in Colab by its authors: every figure for the T4 is arithmetic (`gwen25 estimate --profile t4`).

# %% [markdown]
# ## Colab
#
# Elsewhere the next cell does nothing. On Colab, before you run it:
#
# 1. Runtime -> Change runtime type -> T4 GPU.
# 2. Put the source on your Drive: `git archive --format=zip --prefix=gwen25/ -o gwen25.zip HEAD` in a checkout makes the file. A
#    `git+https://` address of your own copy does as well; then `SOURCE` is that.
# 3. Optional: under the key symbol on the left, the secrets `HF_TOKEN` (a faster hub) and `GEMINI_API_KEY` (the reward `judge`). They
#    go from there into the environment; no cell holds or prints one.
#
# The cell then takes minutes: where Colab's torch is older than 2.13, it is replaced.
#
# The store lies on Drive, because a Colab machine forgets everything. It takes 10.2 GB there, and 3.3 GB more where Drive has no hard
# links; what is deleted, such as old checkpoints (0.36 GB each), counts until the bin is emptied. The base model (6.2 GB) is on the
# machine's own disk, and comes from the hub again with each new machine.

# %%
import os
import subprocess
import sys
from importlib import import_module

SOURCE = "/content/drive/MyDrive/gwen25.zip[sandbox]"
on_colab = "google.colab" in sys.modules
if on_colab:
    import_module("google.colab.drive").mount("/content/drive")
    os.environ["GWEN25_HOME"] = "/content/drive/MyDrive/gwen25"
    secrets = import_module("google.colab.userdata")
    for name in ("HF_TOKEN", "GEMINI_API_KEY"):
        try:
            os.environ[name] = secrets.get(name)
        except (secrets.SecretNotFoundError, secrets.NotebookAccessError):
            print(f"{name} is not among this notebook's secrets; nothing but its own use needs it")
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", SOURCE], check=True)

# %% [markdown]
# ## Settings
#
# A profile says on what machine, the settings after it change single values: every name of `gwen25/config.py` will do. On Colab:
# programs are judged by running their tests and by nothing else, so no key is needed; the GGUF is half as large; a checkpoint every
# tenth step, so that a lost machine costs at most half an hour. A first evening: add `"grpo.max_steps=20"`, and grpo takes an hour.

# %%
profile, settings = "smoke", list[str]()
if on_colab:
    profile = "t4"
    settings = ["grpo.rewards=[format_exact, format_approximate, execution]", "gguf.type=q8_0", "grpo.save_steps=10"]
inside_a_notebook = "ipykernel" in sys.modules
if not inside_a_notebook and sys.argv[1:]:
    profile, *settings = sys.argv[1:]
# os.environ["AUTO_HPARAMS"] = "1"        # learning rate, batch and warm-up by the data set's size: see SFT below

# %%
import json
from pathlib import Path
from typing import Any

from gwen25 import preflight, references, resolve, show_rows, speakers, stage
from gwen25.artifacts import Artifact, Manifest, Store
from gwen25.benchmarks import comparison, report
from gwen25.chat import FORMATS, prompt_text
from gwen25.config import Config, load_config, parse_override
from gwen25.errors import Gwen25Error
from gwen25.estimate import estimate
from gwen25.pipelines.dataset import load_tokenizer
from gwen25.pipelines.hyperparams import recommend_hyperparams
from gwen25.resolve import Resolved
from gwen25.talk import Screen, Talk


def say(line: str) -> None:
    print(line, flush=True)


try:
    config = load_config(profile, overrides=dict(parse_override(text) for text in settings))
    preflight.check(config, stage.STAGES)  # whatever would stop the run later: keys, disk, GPU, data
    store = Store.default()
except Gwen25Error as error:
    sys.exit(f"finetuning: {error}")
say(f"{config.base_model}, profile {profile}; the store is {store.root}")

# %% [markdown]
# ## Will it fit, and how long will it take?
#
# Arithmetic on the model's shape and the settings, before anything is loaded: peak memory of each stage, then hours.
# `gwen25 estimate --profile t4` shows every term of it. On the T4's 16.1 GB `sft` needs 9.4, `grpo` 9.7, `merge` 13.6, `evaluate` 13.7;
# of the machine's own 12 GB of memory `gguf` takes 3.7, the most of the nodes on the CPU; what the others take there is not estimated.
# At 4,096 tokens 21 % of the data set's rows fit: their reasoning is long. A session of Colab ends after hours
# or when nobody looks: open the notebook again, run all, and it goes on.

# %%
expected = estimate(config)
for node in expected.nodes.values():
    say(f"{node.name:10} {node.peak.bytes / 1e9:6.2f} GB of {node.device} memory   {node.verdict or ''}".rstrip())
for name, hours in expected.hours.items():
    say(f"{name:10} {'unknown' if hours.seconds is None else f'{hours.seconds / 60:.1f} min':>9}   {hours.how}")

# %% [markdown]
# ## How a stage is run
#
# Its inputs are the artifacts before it. All that changes its numbers makes its key; what the store holds under that key is taken
# from there (`Cached`), else a child process makes it. Its manifest says what came out.

# %%
made: dict[str, Artifact] = {}


def run(name: str, asked: Config = config, model: Resolved | None = None) -> Manifest:
    """Make one stage, or find it. `model`: one that is no artifact, in the place of the stage's inputs."""
    inputs = {} if model else {role: made[upstream] for role, upstream in stage.STAGES[name].inputs.items()}
    try:
        plan = stage.plan_stage(name, asked, inputs, say, model)
        artifact, cached = stage.obtain(plan, store, say)
    except Gwen25Error as error:
        sys.exit(f"finetuning: {error}")
    made["baseline" if model else name] = artifact
    say(f"{'Cached' if cached else 'made'}  {name}:{plan.key[:8]}\n")
    return Manifest.read(artifact.path)


def number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4g}"


def show(picture: Path) -> None:
    """The picture here in a notebook, its path in a terminal."""
    if not picture.exists():
        say("no picture: nothing was measured")
    elif inside_a_notebook:
        display = import_module("IPython.display")
        display.display(display.Image(str(picture)))
    else:
        say(f"picture: {picture}\n")


# %% [markdown]
# ## Data
#
# Rows of OpenCodeReasoning: a programming problem, a long reasoning, a program. Each program is run on the examples of its own
# problem, and a row that fails them is dropped. Rows that do not fit the context are dropped too, never cut: half a reasoning would
# teach to stop in the middle.

# %%
data = run("dataset")
dropped = ", ".join(f"{count} {reason}" for reason, count in data.metrics["dropped"].items() if count)
say(f"{data.metrics['rows_read']} rows read, {data.metrics['rows_kept']} kept; dropped: {dropped or 'none'}")

# %% [markdown]
# ### As the model sees it
#
# One row as tokens, each with its number. Lines that begin with `.` are the prompt, which is only read; the loss is on those that
# begin with `*`: reasoning, program, and the token that ends the answer. A model that never learns that last one never stops.

# %%
external, folder = resolve.base_model(config, say)
tokenizer_file = Path(folder) / "tokenizer.json" if folder else resolve.hub_file(config.base_model, "tokenizer.json", external["revision"])
row = list(show_rows.lines(made["dataset"].payload / "train.jsonl", load_tokenizer(tokenizer_file), FORMATS[config.chat_format], 1))
say("\n".join(row if len(row) < 40 else [*row[:24], f"  ... {len(row) - 36} lines ...", *row[-12:]]))

# %% [markdown]
# ## SFT: learn from examples
#
# A small adapter (LoRA) is trained beside the frozen model, to write what the rows' answers hold. Watch the held-out loss, on
# problems that are not trained on: where it falls, the model learns more than these very rows. `stop_rate` is the share of answers
# that end by themselves; below 0.95 something is wrong with the format or the training was too short.
#
# Learning rate, batch and warm-up of the recipe are meant for about a hundred rows. What a data set of this size would be given
# comes first; with `AUTO_HPARAMS=1` it is taken, and stands in the manifest as given -> taken.

# %%
given = {name: getattr(config.sft, name) for name in ("learning_rate", "gradient_accumulation_steps", "warmup_steps")}
say(f"AUTO_HPARAMS is {'on: these are taken' if config.sft.auto_hparams else 'off: the recipe stands, and these would be taken'}")
say("\n".join(f"  {reason}" for reason in recommend_hyperparams(data.facts["rows_train"], **given).reasons))

# %%
sft = run("sft")
changed = sft.facts.get("auto_hparams", {}).get("changed", {})
say(
    "AUTO_HPARAMS: "
    + (", ".join(f"{name} {change['given']} -> {change['taken']}" for name, change in changed.items()) or "no value changed")
)
losses = f"{number(sft.metrics.get('heldout_loss_base'))} -> {number(sft.metrics.get('heldout_loss'))}"
say(f"held-out loss {losses}; stop_rate {number(sft.metrics.get('stop_rate'))}")
show(made["sft"].path / "aside" / "loss.png")

# %% [markdown]
# ## GRPO: learn from what works
#
# Now the model writes several answers to one problem, each is judged, and those above their group's average are made likelier. What
# could not be judged is unknown, not zero, and teaches nothing: `coverage` is the share that could be. `kl` says how far the model
# has moved from the SFT one. In the picture, a reward that rises while `kl` stays small is the good case; groups that agree (all
# right or all wrong) teach nothing, and `frac_groups_compared` counts the others.

# %%
grpo = run("grpo")
say(", ".join(f"{name} {number(grpo.metrics.get(name))}" for name in ("reward", "kl", "coverage")))
show(made["grpo"].path / "aside" / "curves.png")

# %% [markdown]
# ## One model, one file, one package
#
# The adapter is checked and made portable, added into the base model's weights, written as one GGUF file for llama.cpp, held against
# the merged model there (a file that strays too far is not packed), and packed for Ollama: on your laptop `ollama create` in the last
# folder, then `ollama run`.

# %%
for name in ("adapters", "merge", "gguf", "score", "ollama"):
    run(name)
say(f"the GGUF: {made['gguf'].payload}\nthe package for Ollama: {made['ollama'].payload}")

# %% [markdown]
# ## Is it better?
#
# The same problems for the tuned model and for the base model, which is asked in our way and in the benchmark's own way for base
# models. In brackets are 95 % intervals over problems: with few problems they are wide, and two scores whose difference is small
# beside them cannot be told apart. The sentences below hold the two models against each other problem by problem, and say so.

# %%
run("evaluate")
if config.evaluate.baseline:
    both = config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"prompt": "both"})})
    run("evaluate", both, resolve.base_as_model(config))
files = {
    "base": ("baseline", "report.json"),
    "base, its own prompt": ("baseline", "base_prompt/report.json"),
    "tuned": ("evaluate", "report.json"),
}
reports: dict[str, dict[str, Any]] = {
    label: json.loads((made[name].payload / file).read_text(encoding="utf-8")) for label, (name, file) in files.items() if name in made
}
say(report.table(reports))
for label in [label for label in reports if label != "tuned"]:
    say(f"A is {label}, B is tuned: {comparison.compare(reports[label], reports['tuned'])['words']}")
show(made["evaluate"].payload / "results.png")

# %% [markdown]
# ## Talk to it
#
# In the format it was trained in: first it reasons, then it answers. Change the question and run the cell again; in a terminal
# `gwen25 chat` with the reference printed below does the same. The tiny model of the smoke profile answers in the right form, and
# talks nonsense.

# %%
question = "Read two integers a and b, one on each line, and print their sum."
reference = f"merge:{made['merge'].key[:8]}"
say(f"gwen25 chat {reference}\n\n>>> {question}\n")
try:
    with speakers.opened(references.find(reference, warn=say)) as speaker:
        end = Talk(speaker, speakers.Draw(max_tokens=2048), prompt_text("system")).ask(question, Screen(sys.stdout))
except Gwen25Error as error:
    sys.exit(f"finetuning: {error}")
if end is None:
    say("(no answer came out of its reasoning; give it more tokens)")
elif end.truncated:
    say("(cut off; give it more tokens)")
