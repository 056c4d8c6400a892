"""Two actions compared on a machine that does other things too: run in turn, A B, B A, A B, and
judged by the median of their ratios.

Times are processor time, that of child processes included: waiting for a busy core is not work. The
noise is the interval that holds the true median in at least 95 of 100 cases whatever the
distribution: an order statistic of the ratios from either end.
"""

from __future__ import annotations

import math
import resource
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

LEAST = 6
"""Pairs below which no order statistic is sure enough."""


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """value: the median. low, high: its 95 % interval. pairs: how many were measured."""

    value: float
    low: float
    high: float
    pairs: int

    def above(self, bound: float) -> bool:
        """Whether the ratio is over `bound` beyond the noise."""
        return self.low > bound

    def below(self, bound: float) -> bool:
        return self.high < bound


def ratio_of(ratios: Sequence[float]) -> Ratio:
    """Raises ValueError for fewer than 6."""
    n = len(ratios)
    if n < LEAST:
        raise ValueError(f"a median of {n} ratios has no 95 % interval: measure at least {LEAST}")
    ordered = sorted(ratios)
    beyond = max(
        k for k in range(n // 2) if 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n <= 0.05
    )
    return Ratio(value=median(ordered), low=ordered[beyond], high=ordered[n - 1 - beyond], pairs=n)


def paired(first: Callable[[], object], second: Callable[[], object], pairs: int) -> Ratio:
    """The time of `first` over that of `second`. Each runs once beforehand, unmeasured."""
    first(), second()
    ratios = []
    for turn in range(pairs):
        if turn % 2:
            after, before = processor_seconds(second), processor_seconds(first)
        else:
            before, after = processor_seconds(first), processor_seconds(second)
        ratios.append(before / after)
    return ratio_of(ratios)


def processor_seconds(action: Callable[[], object]) -> float:
    began = spent_so_far()
    action()
    return spent_so_far() - began


def spent_so_far() -> float:
    """Seconds of processor time of this process and of its children that have ended."""
    usages = (
        resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
