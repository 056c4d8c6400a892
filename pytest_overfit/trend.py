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


def still_descending(losses: Sequence[float]) -> bool:
    """Whether a run was still learning when it ended: its last third falls in rank, and from its
    first quarter to its last.
    """
    last = list(losses[-max(len(losses) // 3, 4) :])
    if len(last) < 4 or not all(map(math.isfinite, last)):
        return False
    quarter = max(len(last) // 4, 1)
    return loss_trend(last) < STEADY and fell(median(last[:quarter]), median(last[-quarter:]))
