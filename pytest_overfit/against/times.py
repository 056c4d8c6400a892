"""The time of a step, ours over theirs, with its noise: the median of the turns' ratios and an
interval of order statistics, which holds whatever the distribution.

A turn takes both sides a few steps, one after the other, so that a busy machine slows both. A time
of another moment, as of a course from the cache, is never compared with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from pytest_overfit.against.pairing import Runner, climb_both
from pytest_overfit.against.verdict import PairVerdict

TURNS = 16
"""Where steps are taken for their time alone: what lies beyond both ends of the interval is then
three turns, for an alpha of 1 %.
"""
LAST_STEP = 27
"""Where the sixteenth reading of a course is."""
MOST_COURSES = 3
"""To take the turns from, where a course ends before."""


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


def timed(runners: Callable[[int], tuple[Runner, Runner]]) -> list[float]:
    """The ratio of every turn, ours over theirs. runners: of both sides, for one course of many."""
    ratios: list[float] = []
    for course in range(MOST_COURSES):
        ours, base = runners(course)
        pair = climb_both(ours, base, seed=course, budget=LAST_STEP, settled=lambda _: True)
        ratios += pair.step_times
        if len(ratios) >= TURNS:
            break
    return ratios


def judge_time(time: TimeRatio | None, tolerance: float) -> PairVerdict | None:
    """Whether a step takes longer than the tolerance, beyond its noise; None where it is not sure."""
    if time is None or time.low <= tolerance < time.high:
        return None
    return "worse" if time.low > tolerance else "as good"
