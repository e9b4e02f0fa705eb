"""The judge held against execution: some of the programs that a step has run are shown to the judge as well.

    ask(samples, verdicts, tools, config, step)        counts agreement/both, neither, only_execution, only_judge, unknown
    measures(counts)                                   {"agreement/n": 40, "agreement/share": 0.9, "agreement/kappa": 0.78}

A judge says that a program is right by a score of at least one half. What is asked here is only counted. Its requests are the
judge's own: they come out of `grpo.judge.max_calls`, at most half of them, so that the other half is left for rewards, and a program that
was judged before costs none.
"""

from __future__ import annotations

import os
import random
from collections.abc import Mapping, Sequence
from typing import Final

from gwen25.config import GrpoConfig
from gwen25.errors import JudgeUnavailable
from gwen25.rewards.sample import Sample, Tools

RIGHT: Final = 0.5  # the judge's score from which a program counts as right
_CELLS: Final = {(True, True): "both", (False, False): "neither", (True, False): "only_execution", (False, True): "only_judge"}


def ask(samples: Sequence[Sample], verdicts: Sequence[float | None], tools: Tools, config: GrpoConfig, step: int | None) -> None:
    """Show up to `judge_agreement` of this step's programs (all processes together) to the judge; which ones is drawn by seed.

    `verdicts`: the execution reward by sample, None where it has none. A judge that refuses to work leaves them unknown.
    """
    assert tools.judge is not None
    passed = {
        (sample.statement, sample.program): verdict == 1.0
        for sample, verdict in zip(samples, verdicts, strict=True)
        if verdict is not None and sample.program is not None and sample.statement
    }
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    share = config.judge_agreement // world + (rank < config.judge_agreement % world)
    pairs = random.Random(f"{config.seed} {step} {rank} agreement").sample(list(passed), min(share, len(passed)))
    try:
        scores = tools.judge.score([(str(statement), str(program)) for statement, program in pairs], beside=True)
    except JudgeUnavailable as error:  # where rows need the judge, its reward says so and ends the run
        tools.judge.last_failure, scores = str(error), [None] * len(pairs)
    for pair, score in zip(pairs, scores, strict=True):
        cell = "unknown" if score is None else _CELLS[passed[pair], score >= RIGHT]
        tools.counts[f"agreement/{cell}"] += 1


def measures(counts: Mapping[str, int]) -> dict[str, float | int | None]:
    """Programs that both have judged, the share on which they agree, and Cohen's kappa: that share beyond what chance would give.

    None is unknown: no program, and for kappa two raters of whom each always says the same.
    """
    both, neither, execution, judge = (counts.get(f"agreement/{cell}", 0) for cell in ("both", "neither", "only_execution", "only_judge"))
    n = both + neither + execution + judge
    if not n:
        return {"agreement/n": 0, "agreement/share": None, "agreement/kappa": None}
    share = (both + neither) / n
    chance = ((both + execution) * (both + judge) + (neither + judge) * (neither + execution)) / n**2
    return {"agreement/n": n, "agreement/share": share, "agreement/kappa": None if chance == 1 else (share - chance) / (1 - chance)}
