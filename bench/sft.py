"""What packing gains, and what our node costs: SFT on a CPU, on rows as long as R1's.

    make bench-sft [BENCH_FLAGS="--data FOLDER --rows 96 --rounds 5"]
    python -m bench.sft --quick

Packing: the same rows, once each, through the node's own trainer in three ways: padded to the longest of a random batch, padded in
batches of rows sorted by length (what grouping by length comes to at best), packed. Tokens are real ones. The ceiling is what leaving
padding out could gain at equal speed for each computed token: computed tokens over real ones. The three train at once, a step each in
turn, and gains are taken within a round; the loss over all rows, before anything is trained, must be the same in all three.

Cost: the node's trainer beside TRL's SFTTrainer called directly with the same settings (`trainers.direct`), a step each in turn
(`step_time`), and beside both TRL's once more: over itself it must come to nothing, or what was measured is the machine. Six legs have
the six orders of the three, so each goes behind each other equally often. All save a checkpoint after the same steps, every 20th. The
cost is a ratio of means: all our steps' seconds over TRL's. At most 2 % is `held` where the 95 % interval ends below 2 %, `exceeded` where
it begins above, and else, or where TRL over itself is NOT NOTHING, `not shown`. A quiet machine is needed, and steps enough:

    OMP_NUM_THREADS=1 python -m bench.sft --only cost --rows 48 --scale 32 --steps 360        6 minutes where a step takes 0.27 s

Lengths are divided by --scale and so is the model's width, which keeps attention's share of the work. Not here: a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from itertools import chain, permutations
from pathlib import Path
from typing import Any, NamedTuple

from bench import machine, step_time, trainers
from bench.report import spread, table
from gwen25 import training
from gwen25.errors import BadInput, Gwen25Error
from gwen25.pipelines import sft

RANDOM, SORTED, PACKED = WAYS = ["padded, random batches", "padded, sorted by length", "packed"]
GOAL = 0.85  # of the padding-free ceiling
COST = 0.02  # of TRL's step
AGAIN = "TRL again"
NOTHING, NOT_SHOWN = "nothing", "not shown"
LEGS = 6  # of the comparison of steps: the orders of three contestants
SAVED = 20  # steps from checkpoint to checkpoint, in all contestants
FIRST = 5  # steps of a leg that meet caches and allocators which later ones find filled
TOLERANCE = 1e-5  # nats a token
DRAWS = 400  # random orders that a ceiling is the mean of


class Run(NamedTuple):
    """All rows once, in one way. `computed`: tokens, padding included. `loss`: nats a token, in the first round."""

    round: int
    batch: int
    way: str
    real: int
    computed: int
    wall: float
    cpu: float
    loss: float | None


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    if arguments.quick:
        arguments.rows, arguments.rounds, arguments.batches, arguments.steps, arguments.scale = 12, 1, [4], 12, 128
    try:
        with tempfile.TemporaryDirectory(prefix="bench-sft-") as work:
            report = measure(arguments, Path(work))
    except Gwen25Error as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2 if isinstance(error, BadInput) else 1
    print(markdown(report))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("bench.sft", description="tokens per second packed and padded; a step of ours beside TRL's")
    parser.add_argument("--data", type=Path, help="folder with R1's rows and Qwen2.5's tokenizer (default: GWEN25_TEST_DATA, else made up)")
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--scale", type=int, default=16, help="what lengths are divided by")
    parser.add_argument("--steps", type=int, default=360, help=f"of each trainer, where compared; a multiple of {LEGS * SAVED}")
    parser.add_argument("--only", choices=["packing", "cost"])
    parser.add_argument("--quick", action="store_true", help="seconds: that it works, no figures to quote")
    parser.add_argument("--json", type=Path, help="write every figure there")
    return parser


def measure(arguments: argparse.Namespace, work: Path) -> dict[str, Any]:
    lengths, source = trainers.lengths_of(trainers.data_folder(arguments.data), arguments.rows)
    scaled = [max(8, length // arguments.scale) for length in lengths]
    base = trainers.base(work / "base")
    facts = machine.facts(sys.executable) | {"rows": source, "lengths over": arguments.scale, "rounds": arguments.rounds}
    report: dict[str, Any] = {"facts": facts}
    if arguments.only != "cost":
        report["ceilings"] = {batch: ceiling(lengths, batch) for batch in arguments.batches}
        report["packing"] = [
            run._asdict() for batch in arguments.batches for run in _packing(scaled, batch, arguments, base, work / str(batch))
        ]
    if arguments.only != "packing":
        report["cost"] = _cost(scaled, arguments.steps, base, work / "cost")
    return report


def ceiling(lengths: Sequence[int], batch: int) -> float:
    """Computed tokens of random batches over real ones, on average."""
    draw, order, computed = random.Random(2), list(lengths), 0
    for _ in range(DRAWS):
        draw.shuffle(order)
        computed += padded(order, batch)
    return computed / (DRAWS * sum(order))


def padded(lengths: Sequence[int], batch: int) -> int:
    """Tokens that are computed of rows in this order: each batch at its longest row's length."""
    return sum(len(taken) * max(taken) for taken in (lengths[at : at + batch] for at in range(0, len(lengths), batch)))


# ----------------------------------------------------------------------------------------------------------------- packing


def _packing(lengths: list[int], batch: int, arguments: argparse.Namespace, base: Path, work: Path) -> Iterator[Run]:
    """Each round trains on all rows once in each way; which way takes the first turn changes from round to round."""
    work.mkdir()
    rows = trainers.rows_of(lengths, work / "rows.arrow")
    order = random.Random(batch).sample(range(len(lengths)), len(lengths))
    orders = {RANDOM: order, SORTED: sorted(order, key=lambda row: -lengths[row])}
    section = {"max_length": max(64, trainers.CONTEXT // arguments.scale), "num_train_epochs": 1, "max_steps": -1, "save_steps": 10**6}
    for number in range(arguments.rounds):
        made, computed, losses = {}, {}, {}
        with contextlib.ExitStack() as stack:
            stack.enter_context(_quiet())
            for way in WAYS[number % 3 :] + WAYS[: number % 3]:
                asked = {**section, "per_device_train_batch_size": batch, "packing": way == PACKED}
                job = trainers.node(work / f"{way}-{number}", base, batch, **asked)
                packed = sft.lay(job, rows) if way == PACKED else None
                trainer = trainers.ours(job, base, rows.dataset if packed else rows.dataset.select(orders[way]), packed)
                stack.enter_context(sft.attending(trainer, packed))
                computed[way] = rows.tokens if packed else padded([lengths[row] for row in orders[way]], batch)
                losses[way] = _loss(trainer) if number == 0 else None
                made[way] = (trainer, trainer.train)
            spans = step_time.in_turn(made)
        for way, taken in spans.items():
            wall, cpu = (sum(span[at] for span in taken) for at in (0, 1))
            yield Run(number, batch, way, rows.tokens, computed[way], wall, cpu, losses[way])


def _loss(trainer: Any) -> float:
    """Nats a trained token over all rows, in the trainer's own batches."""
    import torch

    total = count = 0.0
    trainer.model.eval()
    with torch.no_grad():
        for inputs in trainer.get_train_dataloader():
            found = trainer.model(**{**inputs, "use_cache": False}, fused_lm_head=True)
            total, count = total - found.log_probs.sum().item(), count + found.label_mask.sum().item()
    return total / count


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What the node says goes where its stage's would go, to a file."""
    with tempfile.TemporaryFile("w") as out, contextlib.redirect_stdout(out):
        yield


# -------------------------------------------------------------------------------------------------------------------- cost


def _cost(lengths: list[int], steps: int, base: Path, work: Path) -> dict[str, Any]:
    """Seconds of the node's steps, of TRL's and of TRL's again, and what the node's callbacks take of each of its steps."""
    held: dict[str, Any] = {"ours": [], "TRL": [], AGAIN: [], "callbacks": []}
    work.mkdir()
    for leg, names in enumerate(permutations(["ours", "TRL", AGAIN])):
        for name, taken in _leg(lengths, FIRST + max(1, steps // LEGS) + 1, base, work / str(leg), names).items():
            held[name] += taken
    return held


def _leg(lengths: list[int], steps: int, base: Path, work: Path, names: Sequence[str]) -> dict[str, list[Any]]:
    """All on the same batches of 4 rows in the same order, checkpoints included. The first FIRST steps and the last are left out."""
    work.mkdir()
    rows = trainers.rows_of([*chain.from_iterable([lengths] * (1 + 4 * steps // len(lengths)))][: 4 * steps], work / "rows.arrow")
    section = {"per_device_train_batch_size": 4, "max_steps": steps, "max_length": max(64, max(lengths)), "save_steps": SAVED}
    jobs = {name: trainers.node(work / name, base, 4, **section) for name in names}
    with _quiet():
        made = {name: (trainers.ours if name == "ours" else trainers.direct)(job, base, rows.dataset) for name, job in jobs.items()}
        watch = trainers.watch_of(made["ours"])
        events = [step_time.timed(watch, [event]) for event in ("on_step_begin", "on_step_end", "on_log")]
        starts = {name: trainer.train for name, trainer in made.items()} | {"ours": lambda: training.train(made["ours"], jobs["ours"])}
        spans = step_time.in_turn({name: (made[name], starts[name]) for name in names})
    callbacks = [sum(calls) for calls in zip(*(taken[:steps] for taken in events), strict=True)]  # the closing summary is one log more
    return {name: [list(span) for span in taken[FIRST:-1]] for name, taken in spans.items()} | {"callbacks": callbacks[FIRST:-1]}


# ------------------------------------------------------------------------------------------------------------------ report


def markdown(report: dict[str, Any]) -> str:
    parts = [", ".join(f"{name}: {value}" for name, value in report["facts"].items())]
    if "packing" in report:
        runs = [Run(**run) for run in report["packing"]]
        parts += ["### Packing", table(_rows(runs)), table(_goals(runs, report["ceilings"]))]
    if "cost" in report:
        said = f"The sum of all steps over TRL's, less 1; bootstrap over blocks of {SAVED} steps (one checkpoint), over steps if few."
        parts += ["### A step of the node, and of TRL again, over TRL's", said, table(_costs(report["cost"]))]
    return "\n\n".join(parts)


def _of(runs: list[Run], batch: int, way: str) -> list[Run]:
    return [run for run in runs if (run.batch, run.way) == (batch, way)]


def _rows(runs: list[Run]) -> Iterator[tuple[str, ...]]:
    yield ("batch", "rows", "computed tokens a real one", "real tokens a second", "CPU ms a real token", "nats a token")
    for batch, way in dict.fromkeys((run.batch, run.way) for run in sorted(runs, key=lambda run: (run.batch, WAYS.index(run.way)))):
        held = _of(runs, batch, way)
        yield (
            str(batch),
            way,
            f"{held[0].computed / held[0].real:.2f}",
            spread([run.real / run.wall for run in held]),
            spread([1e3 * run.cpu / run.real for run in held]),
            f"{held[0].loss:.6f}",
        )


def _goals(runs: list[Run], ceilings: dict[int, float]) -> Iterator[tuple[str, ...]]:
    """The ceiling is the higher one of the batches that were run and, where they are random, of all orders of all rows."""
    yield (
        "batch",
        "packed against",
        "ceiling",
        "gain, wall",
        "gain, CPU",
        "of the ceiling, wall",
        "CPU",
        f"at least {GOAL:g}",
        "same loss",
    )
    for batch, way in dict.fromkeys((run.batch, way) for run in runs for way in (RANDOM, SORTED)):
        packed, other = _of(runs, batch, PACKED), _of(runs, batch, way)
        most = max(other[0].computed / other[0].real, ceilings[batch] if way == RANDOM else 1.0)
        gains = [[getattr(b, clock) / getattr(a, clock) for a, b in zip(packed, other, strict=True)] for clock in ("wall", "cpu")]
        shares = [statistics.median(gain) / most for gain in gains]
        same = packed[0].loss is not None and other[0].loss is not None and abs(packed[0].loss - other[0].loss) <= TOLERANCE
        met = "yes" if min(shares) >= GOAL else "NO"
        yield (str(batch), way, f"{most:.2f}", *map(spread, gains), *(f"{share:.2f}" for share in shares), met, "yes" if same else "NO")


def verdict(low: float, high: float) -> str:
    """What a 95 % interval of a cost shows of COST."""
    return "held" if high < COST else "exceeded" if low > COST else NOT_SHOWN


def control(again: Sequence[float], theirs: Sequence[float]) -> str:
    """What TRL's steps over TRL's own show."""
    _, low, high = step_time.overhead(again, theirs, SAVED)
    return NOTHING if low <= 0 <= high else "NOT NOTHING"


def _costs(cost: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Trainers' steps, paired; and what the node's callbacks take by themselves, which a busy machine blurs less."""
    yield ("time", "steps", "ms", "TRL ms", "over TRL", "95 % interval", f"at most {COST:.0%}")
    for name in ("ours", AGAIN):
        for at, kind in enumerate(("wall", "CPU")):
            taken, theirs, again = ([span[at] for span in cost[each]] for each in (name, "TRL", AGAIN))
            share, low, high = step_time.overhead(taken, theirs, SAVED)
            same = control(again, theirs)
            judged = same if name == AGAIN else verdict(low, high) if same == NOTHING else NOT_SHOWN
            yield (f"{name}, {kind}", str(len(taken)), *_told(taken, theirs), f"{share:+.2%}", f"{low:+.2%} to {high:+.2%}", judged)
    alone, steps = cost["callbacks"], [span[1] for span in cost["TRL"]]
    share, low, high = step_time.overhead([own + step for own, step in zip(alone, steps, strict=True)], steps, SAVED)
    yield (
        "CPU of our callbacks alone",
        str(len(alone)),
        *_told(alone, steps),
        f"{share:+.2%}",
        f"{low:+.2%} to {high:+.2%}",
        verdict(low, high),
    )


def _told(*taken: Sequence[float]) -> Iterator[str]:
    return (f"{1e3 * statistics.fmean(each):.2f}" for each in taken)


if __name__ == "__main__":
    sys.exit(main())
