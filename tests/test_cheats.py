"""What the check of the rewards says of a canary: which half of "not paid, and a right program is" failed."""

from __future__ import annotations

import pytest

from gwen25.checks import cheats, reference
from gwen25.rewards import canaries


@pytest.mark.parametrize(
    ("earned", "honest", "right", "status", "said"),
    [
        (0.2, 0.2, 1.04, "ok", "a: 0.2 at most, honest failure 0.2"),
        (0.5, 0.2, 1.04, "fail", "a: earns 0.5 on runs, honest failure 0.2"),
        (0.5, 0.2, 0.04, "fail", "a: earns 0.5 on runs, honest failure 0.2"),
        (0.2, 0.2, 0.04, "fail", "a: not paid, but neither is a right program: it earns 0.04 on runs, honest failure 0.2"),
        (0.2, 0.2, 0.2, "fail", "a: not paid, but neither is a right program: it earns 0.2 on runs, honest failure 0.2"),
        (0.2, 0.2, None, "warn", "a: no score could be had on runs"),
    ],
)
def test_what_is_said_of_a_canary(
    monkeypatch: pytest.MonkeyPatch, earned: float, honest: float, right: float | None, status: str, said: str
) -> None:
    monkeypatch.setattr(canaries, "sing", lambda *_, **__: [canaries.Outcome("a", "runs", earned, honest, right)])
    [finding] = cheats.rewards(reference())
    assert (finding.status, finding.what) == (status, said)
