"""The tables of the experiment: pass rates by model and group, and paired differences with an interval over families.

Wordings of one family stand or fall together, and so do the seeds of one family; so families are what is drawn anew for an interval
(percentile bootstrap, 10,000 draws), and a family counts as the mean over its wordings and the seeds. The seeds are held fixed: an
interval is about these training runs and other families, and how far runs differ is seen by seed.
Not here: how anything was measured (`__main__`).
"""

from __future__ import annotations

import random
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

from bench.learn.families import FAMILIES, GROUPS, Group
from gwen25.benchmarks import passk

DRAWS: Final = 10_000
MODELS: Final = ("base", "base, one example", "sft", "grpo", "control")
PAIRS: Final = (("base, one example", "sft"), ("sft", "grpo"), ("sft", "control"))

Steps = Sequence[Mapping[str, Any]]


def rates(steps: Steps, model: str, sampling: str, group: Group) -> dict[str, float]:
    """Mean pass rate by family, over its wordings and the seeds; a family that was not measured is absent."""
    found: defaultdict[str, list[float]] = defaultdict(list)
    for step in steps:
        if step["model"] == model and step["sampling"] == sampling:
            for question, (passed, samples) in step["passes"].items():
                family = question.rpartition("-")[0]
                if FAMILIES[family].group == group:
                    found[family].append(passed / samples)
    return {family: statistics.fmean(values) for family, values in found.items()}


def difference(before: Mapping[str, float], after: Mapping[str, float]) -> tuple[float, float, float, int] | None:
    """Mean gain over the families both have, with its 95 % interval over families, and their number; None where there is none."""
    gains = [after[family] - before[family] for family in sorted(before.keys() & after.keys())]
    if not gains:
        return None
    mean = statistics.fmean(gains)
    if min(gains) == max(gains):  # families not seen may have another gain, and a bootstrap of equals does not know it
        return (mean, *passk.agreeing(mean, len(gains), -1.0, 1.0), len(gains))
    draw = random.Random(0)
    means = sorted(statistics.fmean(draw.choices(gains, k=len(gains))) for _ in range(DRAWS))
    return mean, means[int(0.025 * DRAWS)], means[int(0.975 * DRAWS) - 1], len(gains)


def markdown(results: Mapping[str, Any]) -> str:
    steps: Steps = results["steps"]
    seeds = sorted({step["seed"] for step in steps})
    parts = [f"profile: {results['profile']}, seeds: {', '.join(map(str, seeds))}"]
    parts += [", ".join(f"{name}: {value}" for name, value in facts.items()) for facts in results["machines"]]
    for sampling in ("sampled", "greedy"):
        parts += [f"### {'Four samples at 0.7: pass@1' if sampling == 'sampled' else 'Greedy: passed'}", _scores(steps, sampling)]
        parts += ["Differences over families, with 95 % intervals:", _differences(steps, sampling)]
        parts += ["The same by seed:", _by_seed(steps, seeds, sampling)]
    parts += ["### Seconds", _seconds(steps)]
    return "\n\n".join(parts) + "\n"


def _scores(steps: Steps, sampling: str) -> str:
    lines = ["| model | " + " | ".join(f"{group} families" for group in GROUPS) + " |", "|---|" + "---:|" * len(GROUPS)]
    for model in MODELS:
        cells = []
        for group in GROUPS:
            found = rates(steps, model, sampling, group)
            cells.append(f"{statistics.fmean(found.values()):.1%} ({len(found)})" if found else "not measured")
        lines.append(f"| {model} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _differences(steps: Steps, sampling: str) -> str:
    lines = ["| from, to | " + " | ".join(GROUPS) + " |", "|---|" + "---:|" * len(GROUPS)]
    for before, after in PAIRS:
        both = _shared(steps, before, after, sampling)
        cells = [_cell(difference(rates(both, before, sampling, group), rates(both, after, sampling, group))) for group in GROUPS]
        lines.append(f"| {before} -> {after} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _shared(steps: Steps, before: str, after: str, sampling: str) -> Steps:
    """The steps of seeds that both models were measured with: another seed's run is no pair. The base has no seed of its own."""
    seeds = [
        {step["seed"] for step in steps if step["model"] == model and step["sampling"] == sampling}
        for model in (before, after)
        if not model.startswith("base")
    ]
    return [step for step in steps if step["model"].startswith("base") or all(step["seed"] in some for some in seeds)]


def _cell(found: tuple[float, float, float, int] | None) -> str:
    if found is None:
        return "not measured"
    mean, low, high, _ = found
    return f"{100 * mean:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def _by_seed(steps: Steps, seeds: Sequence[int], sampling: str) -> str:
    lines = ["| seed | from, to | " + " | ".join(GROUPS) + " |", "|---|---|" + "---:|" * len(GROUPS)]
    for seed in seeds:
        own = [step for step in steps if step["seed"] == seed or step["model"].startswith("base")]  # the base has no seed of its own
        for before, after in PAIRS:
            cells = [_cell(difference(rates(own, before, sampling, group), rates(own, after, sampling, group))) for group in GROUPS]
            lines.append(f"| {seed} | {before} -> {after} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _seconds(steps: Steps) -> str:
    """Of each evaluation, as its own record says; of the training, the store (`gwen25 list`)."""
    lines = ["| model | sampling | seconds by seed |", "|---|---|---|"]
    for model in MODELS:
        for sampling in ("sampled", "greedy"):
            found = [f"{step['seconds']:.0f}" for step in steps if (step["model"], step["sampling"]) == (model, sampling)]
            if found:
                lines.append(f"| {model} | {sampling} | {', '.join(found)} |")
    return "\n".join(lines)
