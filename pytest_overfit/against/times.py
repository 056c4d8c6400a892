"""The time of a step, ours over theirs, with its noise: the median of the turns' ratios and an
interval of order statistics, which holds whatever the distribution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, kw_only=True)
class TimeRatio:
    """value: the median of `turns` ratios. low, high: the true median lies outside on either side
    with at most the chance that was asked for.
    """

    value: float
    low: float
    high: float
    turns: int


def time_ratio(ratios: Sequence[float], chance: float) -> TimeRatio | None:
    """The ratio of step times; None where there are too few turns for an interval."""
    n, ordered = len(ratios), sorted(ratios)
    # The k-th smallest of n lies above the median with the chance that fewer than k lie below it.
    beyond = [
        k for k in range(n // 2) if sum(math.comb(n, i) for i in range(k + 1)) / 2**n <= chance
    ]
    if not beyond:
        return None
    k = beyond[-1]
    return TimeRatio(value=median(ordered), low=ordered[k], high=ordered[n - 1 - k], turns=n)
