"""Whether our steps are worse than theirs: a sequential test on paired log ratios over seeds.

A pair is a noisy look at the true ratio. Most are near it; a few tell of luck alone, as where one
side stood on a plateau that the other missed, so that a far one counts for no more than a moderate
one, and two accuse where one does not. A claim is made once the data are so many times likelier
under it than under the likeliest of all ratios that contradict it. By Ville's inequality it is then
false with at most the chance that was asked for, whenever one stops.

The ratio of one pair is known to a factor of 1.2 to 1.4, so that on one rung a slow-down of 1.7
takes a dozen pairs. What slows a network down does so on most rungs: `worse` is also claimed once
this rung and those below it, taken together, are so much likelier under one ratio beyond the
tolerance than under the likeliest ones within it, of each rung its own.

Sources: Wald 1945, "Sequential Tests of Statistical Hypotheses"; Wasserman, Ramdas & Balakrishnan
2020, "Universal inference", PNAS 117(29).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from pytest_overfit.against import MOST_PAIRS, TOLERANCE
from pytest_overfit.against.pairing import Pair

PairVerdict = Literal["as good", "worse", "better"]
Bounds = tuple[float, float]
SCALES = {1: 0.3, 2: 0.25, 5: 0.16, 10: 0.12}
"""Lowest samples of a rung -> scale of a pair's log ratio around the true one, as Student's t with
3 freedoms has it. Measured: `python -m examination.against spread`.
"""
LUCK, WIDEST = 0.02, math.log(40)
"""Chance of a pair that tells nothing and lies anywhere up to 40 times either way."""
FAR = math.log(3)
"""Beyond which a pair says no more: further steps would cost much and tell luck from truth no
better.
"""
STEP = 0.02
GRID = tuple(round(STEP * i, 6) for i in range(-184, 185))
"""True log ratios that are weighed, up to WIDEST either way."""
BEYOND = 0.7
"""Mean of the exponential weights that ratios beyond the tolerance are weighed by: most slow-downs
are of a factor of two or so, and weight on those of 40 would cost the others power.
"""
SURE = 0.05
"""Chance that an interval leaves the true ratio out."""


def scale_of(samples: int) -> float:
    """The scale of a pair's log ratio on a rung of so many samples."""
    return SCALES[max(lowest for lowest in SCALES if lowest <= samples)]


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What the pairs say so far. verdict: None while another pair is needed.

    ratio: our steps over theirs, with an interval that holds the true one in 19 of 20 cases.
    decided: it passed its bound; else the pairs were used up, which accuses nobody.
    chance_of_error: of a claim that was made. together: it takes the rungs below to make it, and
    the ratio is that of all.
    """

    verdict: PairVerdict | None
    ratio: float
    low: float
    high: float
    decided: bool
    chance_of_error: float | None = None
    together: bool = False


@dataclass(frozen=True, kw_only=True)
class PairTest:
    """tolerance: a true ratio up to it is not worse. most: pairs at most. scale: as `scale_of`.
    below: the rungs below, each with its scale and what its pairs said.

    alpha: largest chance to say `worse`, or `better`, of a network that is not.
    beta: largest chance to say `as good` of one that takes `slow` times the steps, or more; where
    that is None, tolerance squared.
    """

    tolerance: float = TOLERANCE
    alpha: float = 0.01
    beta: float = 0.1
    most: int = MOST_PAIRS
    scale: float = SCALES[1]
    below: tuple[tuple[float, tuple[Bounds, ...]], ...] = ()
    slow: float | None = None

    def __post_init__(self) -> None:
        if not 1 < self.tolerance < 3:
            raise ValueError(
                f"--overfit-tolerance must lie between 1 and 3, got {self.tolerance:g}: it is the "
                f"ratio of steps up to which a network is not worse"
            )
        if self.most < 1:
            raise ValueError(f"--overfit-pairs must be at least 1, got {self.most}")

    @property
    def edge(self) -> float:
        """The logarithm of the tolerance."""
        return math.log(self.tolerance)

    def standing(self, pairs: Sequence[Pair]) -> Standing:
        """What these pairs, in the order of their seeds, come to."""
        if any(pair.same for pair in pairs):
            return Standing(
                verdict="as good", ratio=1.0, low=1.0, high=1.0, decided=True, chance_of_error=0.0
            )
        bounds = [clipped(bound) for pair in pairs if (bound := pair.log_ratio)]
        own = weighed(bounds, self.scale)
        verdict, error = self._claim(own) if bounds else (None, 1.0)
        together = verdict is None and bool(bounds and self.below)
        if together:
            rungs = [own, *(weighed(rung, scale) for scale, rung in self.below)]
            error = self._error_together(rungs)
            together = error <= self.alpha
        if together:
            verdict = "worse"
            own = {true: sum(rung[true] for rung in rungs) for true in GRID}
        ratio, low, high = estimate(own) if bounds else (math.nan, 0.0, math.inf)
        rest: PairVerdict | None = "as good" if len(pairs) >= self.most else None
        return Standing(
            verdict=verdict or rest,
            ratio=ratio,
            low=low,
            high=high,
            decided=verdict is not None,
            chance_of_error=error if verdict else None,
            together=together,
        )

    def settled(self, before: Sequence[Pair]) -> Callable[[Pair], bool]:
        """Whether a pair under way, after those `before` it, has nothing more to say."""

        def settled(pair: Pair) -> bool:
            if (bounds := pair.log_ratio) is None:
                return False
            return bounds[0] >= FAR or bounds[1] <= -FAR or self.standing([*before, pair]).decided

        return settled

    def _claim(self, own: Mapping[float, float]) -> tuple[PairVerdict | None, float]:
        """The first claim that passes its bound, and the chance that it is false. own: `weighed`."""
        edge = self.edge
        slow = min(math.log(self.slow), FAR) if self.slow else 2 * edge
        claims: tuple[tuple[PairVerdict, float, Bounds, Bounds], ...] = (
            ("worse", self.alpha, (edge, math.inf), (-math.inf, edge)),
            ("better", self.alpha, (-math.inf, -edge), (-edge, math.inf)),
            ("as good", self.beta, (-edge / 2, edge / 2), (slow, math.inf)),
        )
        for verdict, most, claimed, contradicts in claims:
            error = math.exp(_likeliest(own, contradicts) - _average(own, claimed))
            if error <= most:
                return verdict, error
        return None, 1.0

    def _error_together(self, rungs: Sequence[Mapping[float, float]]) -> float:
        """The chance that it is false to say that one of these rungs is worse."""
        within = sum(_likeliest(rung, (-math.inf, self.edge)) for rung in rungs)
        total = {true: sum(rung[true] for rung in rungs) for true in GRID}
        return math.exp(within - _average(total, (self.edge, math.inf)))


def clipped(bounds: Bounds) -> Bounds:
    """What is known of a pair's log ratio; of one beyond FAR, that it is."""
    low, high = bounds
    return (FAR, math.inf) if low >= FAR else (-math.inf, -FAR) if high <= -FAR else bounds


def estimate(weighed: Mapping[float, float]) -> tuple[float, float, float]:
    """The likeliest ratio, and the least and the largest that are left possible, at any time of
    looking, in 19 of 20 cases. 0 and infinity where there is no bound.
    """
    average, best = _log_mean(list(weighed.values())), max(weighed.values())
    likeliest = min((true for true, v in weighed.items() if v >= best - 1e-9), key=abs)
    left = [true for true, v in weighed.items() if average - v < -math.log(SURE)] or [likeliest]
    low = 0.0 if left[0] == GRID[0] else math.exp(left[0])
    return math.exp(likeliest), low, math.inf if left[-1] == GRID[-1] else math.exp(left[-1])


def weighed(bounds: Sequence[Bounds], scale: float) -> dict[float, float]:
    """For each true log ratio, the logarithm of how likely the pairs are."""
    return {true: sum(_one(low, high, true, scale) for low, high in bounds) for true in GRID}


@cache
def _one(low: float, high: float, true: float, scale: float) -> float:
    """Of one pair whose log ratio is known, or known to lie between two bounds."""
    if low == high:
        core = _density((low - true) / scale) / scale
        return math.log((1 - LUCK) * core + LUCK / (2 * WIDEST))
    core = _below((high - true) / scale) - _below((low - true) / scale)
    luck = (min(high, WIDEST) - max(low, -WIDEST)) / (2 * WIDEST)
    return math.log((1 - LUCK) * core + LUCK * luck)


def _density(t: float) -> float:
    """Of Student's t with 3 freedoms."""
    return 2 / (math.pi * math.sqrt(3) * (1 + t * t / 3) ** 2)


def _below(t: float) -> float:
    """Its distribution function."""
    if math.isinf(t):
        return 0.0 if t < 0 else 1.0
    return 0.5 + (t / math.sqrt(3) / (1 + t * t / 3) + math.atan(t / math.sqrt(3))) / math.pi


def _likeliest(weighed: Mapping[float, float], among: Bounds) -> float:
    return max(v for true, v in weighed.items() if among[0] <= true <= among[1])


def _average(weighed: Mapping[float, float], claimed: Bounds) -> float:
    """The logarithm of the likelihood's mean over what is claimed, that which lies beyond a bound
    by the weights of BEYOND.
    """
    start = min(claimed, key=abs)
    beyond = math.isinf(claimed[0]) or math.isinf(claimed[1])
    among = [true for true in weighed if claimed[0] <= true <= claimed[1]]
    weights = [-abs(true - start) / BEYOND if beyond else 0.0 for true in among]
    return _log_mean(
        [weighed[true] + w for true, w in zip(among, weights, strict=True)]
    ) - _log_mean(weights)


def _log_mean(logarithms: Sequence[float]) -> float:
    """The logarithm of the mean of what the logarithms stand for."""
    most = max(logarithms)
    return most + math.log(sum(math.exp(one - most) for one in logarithms) / len(logarithms))
