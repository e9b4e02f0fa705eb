"""Does training teach the real SmolLM2-135M anything? The whole experiment, through the flow: `make learn`.

    python -m bench.learn --seeds 0 1 2 --out build/learn        three seeds, their controls, and the base
    python -m bench.learn --seeds --known FILE [FILE ...]        what is known, as one report; nothing is run
    python -m bench.learn --profile smoke --seeds 0 --out DIR    the same on the tiny model: minutes, and it learns nothing

For each seed: SFT on the `sft` families, GRPO by execution on as many problems of the `grpo` families as of the former, and a control,
the same GRPO with its rewards shuffled. Base, SFT, GRPO and control answer the same held-out wordings of all three groups, four samples at
temperature 0.7 and one greedy. Every step is a node of the store: a run that was cut off goes on, and a second one is read, not made.

On two idle cores with AMX a seed takes 15 minutes of SFT, 35 of GRPO, as many of its control, and 10 of answering; the base 40. One
thread samples as fast as two, so two seeds side by side (OMP_NUM_THREADS=1, a GWEN25_HOME each) take the time of one and a half.
`--known results.json` adds the seeds of another day or machine, of the same settings: those that docs/measurements.md tells of lie in
`bench/learn/seen`.

Writes results.json and report.md. Not here: the families (`families`), their tests (`tasks`), the arithmetic and the tables (`table`).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bench import machine
from bench.learn import table, tasks
from bench.learn.families import GROUPS
from gwen25.artifacts import Artifact, Manifest
from gwen25.errors import BadInput, Gwen25Error

HELDOUT: Final = 66  # problems of each group
SAMPLED: Final = {"evaluate.n": 4, "evaluate.temperature": 0.7, "evaluate.top_p": 1.0}
BASE: Final = {"evaluate.prompt": "both", "evaluate.max_tokens": 200}  # it talks before it answers; zero-shot, and after a worked example
GREEDY: Final = {"evaluate.n": 1, "evaluate.temperature": 0}
# What differs from the cpu profile. Answers are programs of two to five lines, 25 tokens in the median.
SETTINGS: Final[dict[str, Any]] = {
    "dataset.target": "solution",
    "dataset.max_samples": None,
    "dataset.verify_solutions": False,  # the rows' programs are ours; their statements hold no examples
    "dataset.heldout_fraction": 0.02,
    "dataset.max_length": 192,
    "dataset.max_prompt_length": 128,
    "sft.max_length": 192,
    "sft.dtype": "bfloat16",  # several times as slow as float32 on a CPU without AMX and AVX512-BF16: then --set it and the other two
    "sft.num_train_epochs": 3,
    "sft.per_device_train_batch_size": 8,
    "sft.gradient_accumulation_steps": 1,
    "sft.lr_scheduler_type": "cosine",
    "sft.save_steps": 25,
    "sft.gradient_checkpointing": False,  # 135M parameters and 64 tokens: there is memory enough
    "grpo.dtype": "bfloat16",
    "grpo.learning_rate": 8e-5,
    "grpo.per_device_train_batch_size": 16,
    "grpo.gradient_accumulation_steps": 2,
    "grpo.num_generations": 8,
    "grpo.max_steps": 40,
    "grpo.redraw_zero_spread": 2,  # half of the groups have no spread: sampling others is the cheaper half of a step
    "grpo.warmup_steps": 2,
    "grpo.beta": 0.1,
    "grpo.temperature": 1.0,
    "grpo.max_completion_length": 64,
    "grpo.save_steps": 5,
    "grpo.gradient_checkpointing": False,
    "evaluate.dtype": "bfloat16",
    "evaluate.max_tokens": 64,
    "evaluate.batch_size": 64,
}


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    try:
        _experiment(arguments)
    except Gwen25Error as error:
        print(f"learn: {error}", file=sys.stderr)
        return 2 if isinstance(error, BadInput) else 1
    print((arguments.out / "report.md").read_text(encoding="utf-8"))
    return 0


def _tell(out: Path, results: Mapping[str, Any]) -> None:
    """Both files, after each model: whoever ends an experiment of hours early keeps what was measured."""
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (out / "report.md").write_text(table.markdown(results), encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.learn", description="does training teach a small model anything?")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2], help="none: the report of what is known")
    parser.add_argument("--profile", choices=["cpu", "smoke"], default="cpu")
    parser.add_argument("--out", type=Path, default=Path("build/learn"), metavar="DIR")
    parser.add_argument(
        "--known", type=Path, nargs="+", default=[], metavar="FILE", help="results.json of other seeds, to be told beside these"
    )
    parser.add_argument("--no-control", dest="control", action="store_false", help="leave out the run with shuffled rewards")
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="SECTION.KEY=JSON", help="one more difference")
    return parser


def _experiment(arguments: argparse.Namespace) -> None:
    from flows import server

    arguments.out.mkdir(parents=True, exist_ok=True)
    heldout = _heldout(arguments.out)
    extra = {name: json.loads(value) for name, _, value in (text.partition("=") for text in arguments.sets)}
    told = {"settings": {**SETTINGS, **extra}, "profile": arguments.profile, "tasks": tasks.digest()}
    machines, steps = _known(arguments.known, told, arguments.seeds)
    results = {"machines": machines, **told, "steps": steps}
    if not arguments.seeds:
        _tell(arguments.out, results)
        return
    machines.append({"seeds": " ".join(map(str, arguments.seeds)), **machine.facts(sys.executable)})
    with server.running():
        for seed in arguments.seeds:
            run = _Run(arguments, seed, {**_fitting(arguments.profile), **extra}, heldout, results)
            tuned = run.trained({})
            run.measured({"sft": ""}, f"sft:{tuned['sft'].key}")
            run.measured({"grpo": ""}, f"grpo:{tuned['grpo'].key}")
            if arguments.control:
                control = run.trained({"grpo.shuffle_rewards": True})
                run.measured({"control": ""}, f"grpo:{control['grpo'].key}")
        # the base is the same for every seed; last, for it talks longer than all others
        if not any(step["model"] == "base" for step in results["steps"]):
            run.measured({"base": "", "base, one example": "base_prompt"}, "base", BASE)


_Rows = list[dict[str, Any]]


def _known(files: Sequence[Path], told: Mapping[str, Any], seeds: Sequence[int]) -> tuple[_Rows, _Rows]:
    """Machines and steps of other results.json. Raises BadInput where one is of other settings or tasks, or tells of a seed once more."""
    machines: _Rows = []
    steps: _Rows = []
    here = set(seeds)
    for file in files:
        results = _results(file, told)
        found = results["steps"]
        theirs = {step["seed"] for step in found if not step["model"].startswith("base")}  # the base has no seed of its own
        if twice := sorted(theirs & here):
            raise BadInput(f"{file} holds seed {twice[0]}, which comes twice then; leave it out of --seeds, or the file out of --known")
        if any(step["model"].startswith("base") for step in steps):
            found = [step for step in found if not step["model"].startswith("base")]
        here |= theirs
        machines += results["machines"]
        steps += found
    return machines, steps


def _results(file: Path, told: Mapping[str, Any]) -> dict[str, Any]:
    try:
        results: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        theirs = {name: results[name] for name in (*told, "machines", "steps")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{file}: not a results.json of this experiment ({type(error).__name__}: {error})") from error
    if theirs["tasks"] != told["tasks"]:
        raise BadInput(f"{file}: made with other families, wordings or tests than these; leave it out")
    if any(theirs[name] != told[name] for name in told):
        differ = [name for name in told["settings"] if theirs["settings"].get(name) != told["settings"][name]]
        what = ", ".join(differ) or "another profile"
        raise BadInput(f"{file}: made with other settings ({what}); give its --profile and --set, or leave it out")
    return results


def _fitting(profile: str) -> dict[str, Any]:
    """The tiny model of the smoke profile knows every statement as three times the tokens, and is to be done in minutes."""
    if profile == "cpu":
        return SETTINGS
    longer = {"dataset.max_length": 512, "dataset.max_prompt_length": 448, "sft.max_length": 512}
    return {**SETTINGS, **longer, "sft.max_steps": 4, "grpo.max_steps": 2, "evaluate.max_tokens": 16}


class _Run:
    """One seed. `results["steps"]` gets a row for each model measured, and the files are written anew."""

    def __init__(self, arguments: argparse.Namespace, seed: int, settings: Mapping[str, Any], heldout: Path, results: dict[str, Any]):
        self.profile, self.seed, self.out, self.results = arguments.profile, seed, arguments.out, results
        problems = list(tasks.grpo_problems(seed))
        replay = list(tasks.replay_problems(seed))
        rows = _write(arguments.out / f"rows-{seed}.jsonl", tasks.sft_rows(seed))
        mixed = _write(arguments.out / f"problems-{seed}.jsonl", [*problems, *replay])
        self.settings = {**settings, "seed": seed, "dataset.source": str(rows), "dataset.grpo_source": str(mixed)}
        self.asked = {"evaluate.problems": str(heldout)}

    def trained(self, differences: Mapping[str, Any]) -> dict[str, Artifact]:
        from flows.finetune import finetune

        state = finetune(
            profile=self.profile, recipe="reference", overrides={**self.settings, **differences}, until="grpo", return_state=True
        )
        return _outcome(state)

    def measured(self, parts: Mapping[str, str], model: str, how: Mapping[str, Any] | None = None) -> None:
        """Answer the held-out wordings, sampled and greedy. `parts`: name -> folder of the report; each is a row of `steps`."""
        from flows.evaluate import evaluate

        for label, sampling in (("sampled", SAMPLED), ("greedy", GREEDY)):
            overrides = {**self.settings, **self.asked, **sampling, **(how or {})}
            artifact = _outcome(evaluate(model=model, profile=self.profile, overrides=overrides, return_state=True))["evaluate"]
            seconds = Manifest.read(artifact.path).provenance["seconds"]
            for name, folder in parts.items():
                report = json.loads((artifact.payload / folder / "report.json").read_text(encoding="utf-8"))
                passes = {each["question_id"]: [each["c"], each["n"]] for each in report["rows"]}
                row = {"seed": self.seed, "model": name, "sampling": label, "seconds": seconds, "artifact": artifact.key}
                self.results["steps"].append({**row, "passes": passes})
            _tell(self.out, self.results)


def _outcome(state: Any) -> dict[str, Artifact]:
    outcome = state.result(raise_on_failure=False)
    if isinstance(outcome, BaseException):
        raise outcome
    artifacts: dict[str, Artifact] = outcome.artifacts
    return artifacts


def _heldout(out: Path) -> Path:
    """The held-out wordings of all groups: first one of each family, then the second, until there are enough."""
    rows: list[dict[str, Any]] = []
    for group in GROUPS:
        found = sorted(tasks.heldout_problems(group), key=lambda row: str(row["question_id"]).rpartition("-")[2])
        rows += found[:HELDOUT]
    return _write(out / "heldout.jsonl", rows)


def _write(file: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file.absolute()


if __name__ == "__main__":
    sys.exit(main())
