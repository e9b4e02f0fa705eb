"""What a quantized model must reach to be packaged: `score.min_top1_agreement`, `score.max_kl`, `score.max_pass_drop`.

Each is a bound on a figure that was measured; None is not asked. A figure that was not measured reaches no floor. The KL may be a
lower bound: what passes `max_kl` then lies a little farther away than it says. Standard library only.
"""

from __future__ import annotations

from gwen25.config import ScoreConfig
from gwen25.scoring.measure import Score


def asked(config: ScoreConfig) -> list[str]:
    """The floors that are set, as `score.max_kl=0.1`."""
    names = ("min_top1_agreement", "max_kl", "max_pass_drop")
    return [f"score.{name}={getattr(config, name):g}" for name in names if getattr(config, name) is not None]


def missed(score: Score, config: ScoreConfig) -> list[str]:
    """One line for each floor that the score does not reach."""
    found = []
    if config.min_top1_agreement is not None and not _at_least(score.top1_agreement, config.min_top1_agreement):
        found.append(f"top-1 agreement {_figure(score.top1_agreement)} is below score.min_top1_agreement={config.min_top1_agreement:g}")
    if config.max_kl is not None and not _at_most(score.mean_kl, config.max_kl):
        found.append(f"mean KL {_figure(score.mean_kl)} is above score.max_kl={config.max_kl:g}")
    fall = None if score.difference is None else -score.difference
    if config.max_pass_drop is not None and not _at_most(fall, config.max_pass_drop):
        found.append(
            f"pass@1 fell by {_figure(fall)}, more than score.max_pass_drop={config.max_pass_drop:g}, on {score.problems} problems"
        )
    return found


def _at_least(value: float | None, floor: float) -> bool:
    return value is not None and value >= floor


def _at_most(value: float | None, ceiling: float) -> bool:
    return value is not None and value <= ceiling


def _figure(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3g}"
