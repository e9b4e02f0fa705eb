"""SFT: rows of reasoning and code -> a LoRA adapter on the base model.

    python -m gwen25.pipelines.sft WORK_DIR          (started by `gwen25 sft`)

The loss is on the answer only: reasoning, `</think>`, the program, and the `<|im_end|>` that ends it. Whether the base knows the chat
format's own tokens is looked at before (`base_check`), whether the adapter ends its answers after (`stop_rate`). Rows are made into
ids here, not by a template of TRL's, so that every row can be held against the seam rule
ids(prompt) + ids(target) == ids(prompt + target): what is trained is what generation will see. A row that is too long is an
error, never cut.

    payload/   a PEFT adapter directory with its tokenizer
    aside/     metrics.jsonl, loss.png

With `packing` whole rows share sequences of max_length tokens (see `gwen25.packing`). A step then takes as many sequences as hold,
on average, the rows of the effective batch, so learning rate and AUTO_HPARAMS keep their meaning; where that changes the number of
steps, the warm-up follows. Rows that share a sequence meet in every epoch; the order of the sequences is drawn. Packed or not, the
loss of a step is the mean over its trained tokens, as TRL takes it.

Not here: full fine-tuning, the choice of rows (`dataset`).
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gwen25 import base_check, checkpoint_choice, modeling, models, packing, plots, stop_rate, token_rows, trackers, training
from gwen25.chat import FORMATS, ChatFormat
from gwen25.config import SftConfig
from gwen25.data import read_jsonl
from gwen25.errors import BadInput
from gwen25.job import Job, Result, main
from gwen25.pipelines.hyperparams import recommend_hyperparams

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

IGNORED: Final = -100  # a label without loss
UNPACKED: Final = ("input_ids", "labels")  # columns that TRL's collator reads
PACKED: Final = (*UNPACKED, "seq_lengths")
OPTIONS: Final = ("use_rslora", "use_dora", "neftune_noise_alpha", "use_kernels")  # told of where they are asked for


@dataclass(frozen=True, slots=True)
class Tokens:
    """One row as ids: `labels` repeat the target's and are IGNORED on the prompt."""

    input_ids: list[int]
    labels: list[int]


@dataclass(frozen=True, slots=True)
class Rows:
    """All rows of a file, on disk (a row of 32k tokens is a quarter of a megabyte), how long each is, and tokens with loss in all."""

    dataset: Dataset
    lengths: list[int]
    trained: int

    @property
    def tokens(self) -> int:
        return sum(self.lengths)

    def __len__(self) -> int:
        return len(self.dataset)


@dataclass(frozen=True, slots=True)
class Packed:
    """Sequences of `rows` rows in all, `a_step` of them in an optimizer step; `fill`: real tokens of all that would fit."""

    dataset: Dataset
    rows: int
    fill: float
    a_step: int

    @property
    def rows_a_step(self) -> float:
        return self.a_step * self.rows / len(self.dataset)

    def facts(self) -> dict[str, Any]:
        return {
            "sequences": len(self.dataset),
            "fill": round(self.fill, 4),
            "sequences_a_step": self.a_step,
            "rows_a_step": round(self.rows_a_step, 2),
        }


def run(job: Job) -> Result:
    """Train the adapter. Raises BadInput for rows or a base model that cannot be trained on."""
    device = modeling.prepare(job)
    require_kernels(job.config)
    trackers.require(job)
    directory, format = modeling.base_dir(job), FORMATS[job.config.chat_format]
    tokenizer = modeling.load_tokenizer(directory, format)
    limit = min(job.config.max_length, models.inspect(directory).context)
    source = job.inputs["dataset"].payload
    rows, heldout = (
        store(tokens(source / f"{name}.jsonl", tokenizer, format, limit), scratch(job) / f"{name}.arrow") for name in ("train", "heldout")
    )
    if not len(rows):
        raise BadInput(f"{source / 'train.jsonl'}: no rows to train on")
    job, planned = plan(job, len(rows))
    packed = lay(job, rows) if job.config.packing else None
    job = job if packed is None else replan(job, packed)
    asked = held_out_to_choose_by(job, heldout)
    known = look_at_base(job, directory, tokenizer, format)

    trainer = make_trainer(job, directory, tokenizer, format, rows.dataset, device, packed)
    job.say(f"{len(rows)} rows, {rows.trained} tokens with loss, {modeling.require_trainable(trainer.model)} trained parameters")
    choice = make_choice(trainer, job, tokenizer, format, heldout, asked)
    with attending(trainer, packed):
        steps = training.train(trainer, job)
        chosen = {} if choice is None else {"checkpoint": choice.finish(trainer, steps)}
        metrics = _metrics(trainer, job, heldout)

    metrics |= _stops(trainer, job, tokenizer, format, models.inspect(directory).context)
    facts = {**lineage(job, directory), "sft": _facts(job, rows, heldout, steps, packed) | chosen, "chat_tokens": known.facts(), **planned}
    if trainer.is_world_process_zero():
        modeling.save_adapter(trainer.model, job.payload, job.externals["base_model"])
        modeling.save_tokenizer(tokenizer, job.payload)
        curves = training.read_metrics(job.aside / "metrics.jsonl")
        plots.curves(job.aside / "loss.png", curves, ["loss", "mean_token_accuracy", "learning_rate"], "SFT")
    trainer.accelerator.wait_for_everyone()  # the first process has written the payload
    shutil.rmtree(scratch(job))
    return Result(facts, metrics)


def require_kernels(config: SftConfig) -> None:
    """Raises BadInput where `use_kernels` is asked for and the package that fetches them is not there."""
    from transformers.utils import import_utils

    if config.use_kernels and not import_utils.is_kernels_available():
        least, below = import_utils.KERNELS_MIN_VERSION, import_utils.KERNELS_MAX_VERSION
        raise BadInput(f"sft.use_kernels needs the package kernels: pip install 'kernels>={least},<{below}', or set sft.use_kernels=false")


def scratch(job: Job) -> Path:
    """This process's folder for rows as ids, made anew by each attempt."""
    folder = job.aside / f"rows-{os.environ.get('RANK', '0')}"
    folder.mkdir(exist_ok=True)
    return folder


def tokens(file: Path, tokenizer: PreTrainedTokenizerBase, format: ChatFormat, limit: int) -> Iterator[Tokens]:
    """The rows of a data set's file as ids, in its order. `limit`: tokens of a row, its end token included.

    Raises BadInput, naming file and line, for a row that is longer, breaks the seam, or holds a stop token in its text.
    """
    stops, eos = set(modeling.stop_ids(tokenizer, format)), tokenizer.get_vocab()[format.eos]

    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    for number, row in read_jsonl(file):
        where = f"{file}, line {number} (row {row.get('id')})"
        try:
            prompt, target = format.render(row["messages"]), format.answer(row["reasoning"], row["code"])
        except (KeyError, TypeError, AttributeError) as error:
            raise BadInput(f"{where}: messages, reasoning and code are expected ({type(error).__name__}: {error})") from error
        before, after = encode(prompt), encode(target)
        if before + after != encode(prompt + target):
            raise BadInput(f"{where}: prompt and answer tokenise differently together than apart; the answer must not begin with a newline")
        if stops & set(after):
            raise BadInput(f"{where}: the answer holds a stop token of {format.name} in its text; leave the row out")
        after.append(eos)
        if len(before) + len(after) > limit:
            raise BadInput(
                f"{where}: {len(before) + len(after)} tokens, more than the {limit} that fit; rows are never cut: lower dataset.max_length"
            )
        yield Tokens(before + after, [IGNORED] * len(before) + after)


def plan(job: Job, rows: int) -> tuple[Job, dict[str, Any]]:
    """The job with the recommended values in its config where `auto_hparams` asks for them, and what changed, as facts."""
    config: SftConfig = job.config
    if not config.auto_hparams:
        return job, {}
    fields = ("learning_rate", "gradient_accumulation_steps", "warmup_steps")
    given = {name: getattr(config, name) for name in fields}
    taken, reasons = recommended(config, rows)
    for reason in reasons:
        job.say(f"auto_hparams: {reason}")
    changed = {name: {"given": given[name], "taken": taken[name]} for name in fields if given[name] != taken[name]}
    planned = {"auto_hparams": {"changed": changed, "reasons": reasons}}
    return replace(job, config=config.model_copy(update=taken)), planned


def recommended(config: SftConfig, rows: int) -> tuple[dict[str, Any], list[str]]:
    """What the rule recommends for this micro-batch and this number of steps, and its reasons."""
    micro, warmup = config.per_device_train_batch_size, config.warmup_steps
    found = recommend_hyperparams(
        rows,
        learning_rate=config.learning_rate,
        gradient_accumulation_steps=micro * config.gradient_accumulation_steps,  # the rule's micro-batch is one row
        warmup_steps=warmup,
    )
    accumulation, reasons = math.ceil(found.gradient_accumulation_steps / micro), list(found.reasons)
    if micro > 1:
        reasons.append(f"gradient_accumulation_steps {accumulation}: {found.gradient_accumulation_steps} rows a step, {micro} at a time")
    steps = config.max_steps if config.max_steps > 0 else math.ceil(math.ceil(rows / (micro * accumulation)) * config.num_train_epochs)
    most = max(warmup, steps // 10)
    if found.warmup_steps > most:
        reasons.append(f"warmup_steps {most}: no more than a tenth of this run's {steps} steps, or what was given")
    taken = {
        "learning_rate": found.learning_rate,
        "gradient_accumulation_steps": accumulation,
        "warmup_steps": min(found.warmup_steps, most),
    }
    return taken, reasons


def lay(job: Job, rows: Rows) -> Packed:
    """The rows in sequences, on disk, and how many of them make a step."""
    config: SftConfig = job.config
    bins = packing.pack(rows.lengths, config.max_length)
    file = scratch(job) / "packed.arrow"
    dataset = _write(
        ({**_joined(rows.dataset[taken]), "seq_lengths": [rows.lengths[row] for row in taken]} for taken in bins), file, PACKED
    )
    a_step = max(1, round(config.per_device_train_batch_size * config.gradient_accumulation_steps * len(bins) / len(rows)))
    packed = Packed(dataset, len(rows), rows.tokens / (len(bins) * config.max_length), a_step)
    job.say(f"packing: {len(rows)} rows in {len(bins)} sequences of {config.max_length} tokens, {packed.fill:.1%} full, {a_step} a step")
    return packed


def _joined(rows: Mapping[str, list[list[int]]]) -> dict[str, list[int]]:
    return {name: list(chain.from_iterable(values)) for name, values in rows.items()}


def replan(job: Job, packed: Packed) -> Job:
    """The job with the warm-up that is the same share of a packed run's steps. max_steps fixes their number, and then nothing changes."""
    config: SftConfig = job.config
    if config.max_steps > 0:
        return job
    effective = config.per_device_train_batch_size * config.gradient_accumulation_steps
    before, after = steps_of(packed.rows, effective, config), steps_of(len(packed.dataset), packed.a_step, config)
    warmup = math.ceil(config.warmup_steps * after / before)
    job.say(f"packing: {after} steps in the place of {before}, warmup_steps {warmup} in the place of {config.warmup_steps}")
    return replace(job, config=config.model_copy(update={"warmup_steps": warmup}))


def steps_of(items: int, a_step: int, config: SftConfig) -> int:
    return math.ceil(math.ceil(items / a_step) * config.num_train_epochs)


def split(job: Job, packed: Packed | None) -> training.Batch:
    """Rows, or packed sequences, of a micro-batch. A micro-batch of sequences holds about as many rows as one of rows would."""
    config: SftConfig = job.config
    if packed is None:
        return training.split(job, config.per_device_train_batch_size * config.gradient_accumulation_steps)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if packed.a_step % world:
        raise BadInput(
            f"sft.packing: {packed.a_step} sequences of {config.max_length} tokens make a step of about {packed.rows_a_step:.1f} rows, and "
            f"cannot be divided over {world} processes; raise sft.gradient_accumulation_steps, or lower sft.max_length"
        )
    micro = round((job.micro_batch or config.per_device_train_batch_size) * packed.a_step / packed.rows_a_step)
    micro = min(micro, job.packed or micro)
    return training.split(replace(job, micro_batch=max(1, micro)), packed.a_step)


@contextmanager
def attending(trainer: Any, packed: Packed | None) -> Iterator[None]:
    """Attention that keeps packed rows apart, looked at once before training; nothing where no row is packed."""
    if packed is None:
        yield
        return
    base = trainer.accelerator.unwrap_model(trainer.model).get_base_model()
    with packing.attending(base):
        packing.require_apart(base, trainer.data_collator, [packed.dataset[at]["input_ids"] for at in (0, -1)])
        yield


def look_at_base(job: Job, directory: Path, tokenizer: PreTrainedTokenizerBase, format: ChatFormat) -> base_check.Found:
    """What the base knows of the format's own tokens, told; with the setting that helps where they look untrained."""
    found = base_check.inspect(directory, tokenizer, format)
    for line in found.lines():
        job.say(line)
    if (untrained := found.untrained()) and not job.config.trainable_chat_tokens:
        job.warn(
            f"the base's rows of {', '.join(untrained)} lie where its {found.unused_rows} unused rows do: they look untrained, and "
            "LoRA does not move them; sft.trainable_chat_tokens=true trains them too"
        )
    return found


def make_trainer(
    job: Job,
    directory: Path,
    tokenizer: PreTrainedTokenizerBase,
    format: ChatFormat,
    rows: Dataset,
    device: str,
    packed: Packed | None = None,
) -> Any:
    """TRL's SFTTrainer over rows that are tokenised already, or over packed ones: it prepares, packs, cuts and drops nothing."""
    from peft import LoraConfig
    from trl import SFTConfig as TrlConfig
    from trl import SFTTrainer

    config: SftConfig = job.config
    arguments = training.arguments(job, split(job, packed), device) | {
        "num_train_epochs": config.num_train_epochs,
        "max_steps": config.max_steps,
        "max_length": None,
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "per_device_eval_batch_size": 1,  # so that the held-out loss is a mean over rows, whatever the micro-batch
        "prediction_loss_only": True,
        "neftune_noise_alpha": config.neftune_noise_alpha,
        "packing": packed is not None,  # with skip_prepare_dataset: the collator that lays a micro-batch end to end, and no more
        "packing_strategy": "bfd",
    }
    base_model = models.inspect(directory)
    lora = LoraConfig(
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=list(models.LORA_TARGETS[base_model.architecture]),
        use_rslora=config.use_rslora,
        use_dora=config.use_dora,
        trainable_token_indices=token_rows.wanted(tokenizer, format, tied=base_model.tied) if config.trainable_chat_tokens else None,
        bias="none",
        task_type="CAUSAL_LM",
    )
    base = modeling.load_base(
        directory,
        tokenizer,
        format,
        dtype=config.dtype,
        device=device,
        load_in_4bit=config.load_in_4bit,
        attn_implementation=config.attn_implementation,
    )
    if config.use_kernels:
        base.train()  # else kernels without a backward pass would do
        base.set_use_kernels(True)
    return SFTTrainer(
        model=base,
        args=TrlConfig(**arguments),
        train_dataset=rows if packed is None else packed.dataset,
        processing_class=tokenizer,
        peft_config=lora,
        callbacks=[training.callback(job), *trackers.callbacks(job)],
    )


def held_out_to_choose_by(job: Job, heldout: Rows) -> list[checkpoint_choice.Asked]:
    """The problems whose programs choose a checkpoint; none where losses do, or nothing is chosen.

    Raises BadInput where nothing is held out to choose by: before the base is loaded.
    """
    choice, file = job.config.checkpoint_choice, job.inputs["dataset"].payload / "heldout.jsonl"
    if choice != "last" and not len(heldout):
        raise BadInput(f"{file}: sft.checkpoint_choice={choice} needs held-out rows; raise dataset.heldout_fraction")
    return checkpoint_choice.problems(file) if choice == "heldout_execution" else []


def make_choice(
    trainer: Any,
    job: Job,
    tokenizer: PreTrainedTokenizerBase,
    format: ChatFormat,
    heldout: Rows,
    asked: Sequence[checkpoint_choice.Asked],
) -> checkpoint_choice.Choice | None:
    """What looks at each checkpoint of `trainer`; None where the last step is kept."""
    config: SftConfig = job.config
    if config.checkpoint_choice == "last":
        return None
    room = config.max_length * trainer.args.per_device_train_batch_size

    def measure() -> checkpoint_choice.Scores:
        scores = {"heldout_loss": float(trainer.evaluate(heldout.dataset)["eval_loss"])}
        if asked and trainer.is_world_process_zero():
            model = trainer.accelerator.unwrap_model(trainer.model)
            limits = {"max_tokens": config.choice_max_tokens, "room": room, "workers": job.runtime.sandbox_workers}
            with packing.not_packed(model.get_base_model()):
                scores["pass_rate"] = checkpoint_choice.pass_rate(model, tokenizer, format, asked, **limits)
        return scores

    choice = checkpoint_choice.Choice(job, measure)
    trainer.add_callback(choice.callback())
    return choice


def store(rows: Iterable[Tokens], file: Path) -> Rows:
    """Write the rows as they come, as the columns that TRL's collator pads, and map the file into memory."""
    lengths, trained = [], 0

    def columns() -> Iterator[dict[str, list[int]]]:
        nonlocal trained
        for row in rows:
            lengths.append(len(row.input_ids))
            trained += sum(label != IGNORED for label in row.labels)
            yield {"input_ids": row.input_ids, "labels": row.labels}

    dataset = _write(columns(), file, UNPACKED)
    return Rows(dataset, lengths, trained)


def _write(rows: Iterable[Mapping[str, list[int]]], file: Path, columns: Sequence[str]) -> Dataset:
    """Rows of whole numbers as an arrow file, mapped into memory."""
    from datasets import Dataset, Features, List, Value
    from datasets.arrow_writer import ArrowWriter

    features = Features({name: List(Value("int32")) for name in columns})
    with ArrowWriter(path=str(file), features=features, writer_batch_size=100) as out:
        for row in rows:
            out.write(row)
        out.finalize()
    return Dataset.from_file(str(file))


def _metrics(trainer: Any, job: Job, heldout: Rows) -> dict[str, Any]:
    """Losses per token. Held-out: mean over rows, with the adapter and with the base alone; absent where nothing is held out."""
    logged = training.read_metrics(job.aside / "metrics.jsonl")
    metrics: dict[str, Any] = {"loss": training.recent(logged, "loss"), "token_accuracy": training.recent(logged, "mean_token_accuracy")}
    if len(heldout):
        metrics["heldout_loss"] = trainer.evaluate(heldout.dataset)["eval_loss"]
        with trainer.accelerator.unwrap_model(trainer.model).disable_adapter():
            metrics["heldout_loss_base"] = trainer.evaluate(heldout.dataset)["eval_loss"]
    return {name: value for name, value in metrics.items() if value is not None}


def _stops(trainer: Any, job: Job, tokenizer: PreTrainedTokenizerBase, format: ChatFormat, context: int) -> dict[str, Any]:
    """How often held-out answers end with the end token; absent where none came to an end."""
    model, file = trainer.accelerator.unwrap_model(trainer.model), job.inputs["dataset"].payload / "heldout.jsonl"
    # what a step of training holds too, with its gradients
    room = job.config.max_length * trainer.args.per_device_train_batch_size
    found = stop_rate.measure(model, tokenizer, format, file, room=room, context=context)
    if found.rate is None:
        return {}
    told = f"{found.ended} of {found.answers} held-out answers end with {format.eos}"
    if found.rate < stop_rate.EXPECTED:
        hint = "" if job.config.trainable_chat_tokens else ", or train its embedding row too: sft.trainable_chat_tokens=true"
        job.warn(f"{told}: the model writes on until it is cut off; train longer{hint}")
    else:
        job.say(told)
    return {"stop_rate": found.rate, "stop_rate_answers": found.answers}


def lineage(job: Job, directory: Path) -> dict[str, Any]:
    """What everything downstream needs to know: the base, its licence, the format, the data."""
    dataset = job.inputs["dataset"]
    return {
        "base_model": dict(job.externals["base_model"]),
        "license": models.licence(job.externals["base_model"], directory),
        "chat_format": {"name": job.config.chat_format, "digest": FORMATS[job.config.chat_format].digest},
        "context": models.inspect(directory).context,
        "dataset": {**dataset.facts, "digest": dataset.digest},
    }


def _facts(job: Job, rows: Rows, heldout: Rows, steps: int, packed: Packed | None) -> dict[str, Any]:
    """The recipe as it was really run."""
    config: SftConfig = job.config
    values: Mapping[str, Any] = config.model_dump(
        mode="json",
        include={
            "learning_rate", "warmup_steps", "optim", "weight_decay", "lr_scheduler_type", "max_grad_norm", "dtype", "load_in_4bit",
            "lora_r", "lora_alpha", "lora_dropout", "trainable_chat_tokens", "num_train_epochs", "seed",
        },
    )  # fmt: skip
    asked = {name: getattr(config, name) for name in OPTIONS if getattr(config, name) != SftConfig.model_fields[name].default}
    return {
        **values,
        **asked,
        "effective_batch_size": config.per_device_train_batch_size * config.gradient_accumulation_steps,
        "steps": steps,
        "rows": len(rows),
        "heldout_rows": len(heldout),
        "tokens": rows.tokens,
        "trained_tokens": rows.trained,
        **({} if packed is None else {"packing": packed.facts()}),
    }


if __name__ == "__main__":
    main(run)
