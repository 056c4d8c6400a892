"""The time of a step, ours over theirs, with its noise: the median of the rounds' ratios and an
interval of order statistics, which holds whatever the distribution.

In a round each side takes two turns of a few steps, ours, theirs, theirs, ours, so that a busy
machine slows both. The side that begins a turn finds the other's data in the processor's caches:
ratios of single turns of a small network swing between 0.8 and 1.4 for that alone, and those of
rounds do not. A time of another moment, as of a course from the cache, is never compared with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import median
from typing import Any, Protocol

from pytest_overfit.against.course import LONG_ENOUGH
from pytest_overfit.against.verdict import PairVerdict

LOOKS = (9, 18, 36, 72)
"""Rounds after which it is asked whether the time is decided; further ones are taken only where it
is not.
"""
CLAIMS = 1 + len(LOOKS)
"""Times that one comparison of times is judged at most, the rounds of its climbs included."""
MOST_COURSES = 6
"""To take the rounds from, where a course ends before."""


class Timed(Protocol):
    """A training whose steps are taken for their time alone."""

    def take(self, steps: int) -> dict[str, Any]:
        """Take so many steps: {"seconds": of them together, "ended": why there are no more}."""
        ...


@dataclass(frozen=True, kw_only=True)
class TimeRatio:
    """value: the median of the ratios of `rounds`. low, high: the true median lies outside on
    either side with at most the chance that was asked for.
    """

    value: float
    low: float
    high: float
    rounds: int


def time_ratio(ratios: Sequence[float], chance: float) -> TimeRatio | None:
    """The ratio of step times; None where there are too few rounds for an interval."""
    n, ordered = len(ratios), sorted(ratios)
    # The k-th smallest of n lies above the median with the chance that fewer than k lie below it.
    beyond = [
        k for k in range(n // 2) if sum(math.comb(n, i) for i in range(k + 1)) / 2**n <= chance
    ]
    if not beyond:
        return None
    k = beyond[-1]
    return TimeRatio(value=median(ordered), low=ordered[k], high=ordered[n - 1 - k], rounds=n)


def judge_time(time: TimeRatio | None, tolerance: float) -> PairVerdict | None:
    """Whether a step takes longer than the tolerance, beyond its noise; None where it is not sure."""
    if time is None or time.low <= tolerance < time.high:
        return None
    return "worse" if time.low > tolerance else "as good"


def timed(
    courses: Callable[[int], tuple[Timed, Timed]], *, chance: float, tolerance: float
) -> TimeRatio | None:
    """The ratio of step times by rounds that are taken for it until they decide; None where there
    were too few. courses: ours and theirs, for each number from 0. chance: that all claims made of
    one pair of networks may be false with.
    """
    taken, ratios = rounds(courses), list[float]()
    time = None
    for look in LOOKS:
        ratios += islice(taken, look - len(ratios))
        time = time_ratio(ratios, chance / CLAIMS)
        if judge_time(time, tolerance) is not None:
            break
    return time


def rounds(courses: Callable[[int], tuple[Timed, Timed]]) -> Iterator[float]:
    """The ratio of each round: our seconds over theirs, of as many steps."""
    most = 1 << 20
    for course in range(MOST_COURSES):
        ours, base = courses(course)
        steps, ended = _steps_of_a_turn(ours, base, most)
        while not ended:
            turns = [one.take(steps) for one in (ours, base, base, ours)]
            ended = any(turn["ended"] for turn in turns)
            first, second, third, fourth = (turn["seconds"] for turn in turns)
            if not ended and second + third > 0:
                yield (first + fourth) / (second + third)
        most = max(steps // 4, 1)  # of one that is soon over


def _steps_of_a_turn(ours: Timed, base: Timed, most: int) -> tuple[int, bool]:
    """How many steps take either side long enough, up to `most`, and whether one of them ended
    meanwhile. Both are warm then: what a fresh process does first takes longer.
    """
    steps, shortest = 1, 0.0
    turns = [one.take(1) for one in (base, ours)]
    while not any(turn["ended"] for turn in turns):
        turns = [one.take(steps) for one in (base, ours)]  # ours last, which begins the first round
        shortest = min(turn["seconds"] for turn in turns)
        if shortest >= LONG_ENOUGH or steps >= most:
            break
        steps = min(2 * steps, most)
    return steps, any(turn["ended"] for turn in turns)
