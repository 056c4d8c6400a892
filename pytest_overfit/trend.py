"""Is a training loss still falling? Asked while it trains, to end what stands still, and at its
end, to give time to what does not.

Curves of a log, which are noisier and tell of validation too, have `health.rules.trend`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from pytest_overfit.measures import loss_trend

FALL = 0.02
"""Share of a loss by which it must have come down to count as falling."""
STEADY = -0.5
"""Rank correlation of loss with step below which it falls all along, and not in one leap."""
AWAY, AWAY_STEPS = 1.5, 20
"""Multiple of its start above which a loss has run away, and for how many steps on end [at most 0.8
times in sound networks, once warm].
"""
FAR = 0.5
"""Share of its start below which a loss has come far."""
PACE = 0.3
"""Share of the fall from the first to the middle third of a run that the last third must add to
keep its pace.
"""
WINDOW = 10
"""Steps whose median stands for a loss."""


def fell(before: float, after: float) -> bool:
    """Whether a loss came down by more than FALL of what it was."""
    return before - after > FALL * abs(before)


def stands_still(losses: Sequence[float], window: int) -> bool:
    """Whether the median loss of the last `window` steps has not come down from that of the window
    before.
    """
    return len(losses) >= 2 * window and not fell(
        median(losses[-2 * window : -window]), median(losses[-window:])
    )


def ran_away(losses: Sequence[float]) -> bool:
    """Whether a loss has stood far above its start for so long that no chance of a step did it."""
    if len(losses) <= AWAY_STEPS:
        return False
    return min(losses[-AWAY_STEPS:]) - losses[0] > (AWAY - 1) * abs(losses[0])


def crawls(losses: Sequence[float]) -> bool:
    """Whether a loss falls all along, no slower than at first, and has not come far."""
    if len(losses) < 2 * WINDOW or loss_trend(losses) > STEADY:
        return False
    third = len(losses) // 3
    early, middle, late = (
        median(losses[:third]),
        median(losses[third:-third]),
        median(losses[-third:]),
    )
    return middle - late >= PACE * (early - middle) and median(losses[-WINDOW:]) > FAR * median(
        losses[:WINDOW]
    )


def still_descending(losses: Sequence[float]) -> bool:
    """Whether a run was still learning when it ended: its last third falls in rank, and from its
    first quarter to its last.
    """
    last = list(losses[-max(len(losses) // 3, 4) :])
    if len(last) < 4 or not all(map(math.isfinite, last)):
        return False
    quarter = max(len(last) // 4, 1)
    return loss_trend(last) < STEADY and fell(median(last[:quarter]), median(last[-quarter:]))
