"""What a noisy curve shows: how large its noise is, whether it falls or rises beyond it, and since when it stands still.

No bound here is a loss: each is a share of the curve's own level or a multiple of its own noise. `still_since` is said reluctantly, because
most rules accuse only what no longer falls: what scatters too much to tell, may.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import accumulate, combinations, pairwise
from statistics import fmean, median

from pytest_overfit.health.run import Curve, Run

MOST_READINGS = 120
"""Readings that a trend is taken over; of more, blocks of neighbours give their median."""
FEW = 8
"""Below so many readings noise cannot be measured, and only plain comparisons are made."""
LONG = {"epoch": 30.0, "step": 1000.0}
"""How long a curve must have gone nowhere to stand still; and for half of its run at least."""
CREEP = 0.03
"""Share of its level by which a curve that stands may still sink from the first to the last third of a stretch."""
MAY = 5 / 3
"""Multiple of that by which it must not have sunk by chance."""
BACK = 0.15
"""Share of its lowest value by which a training loss that was thrown back stands above it."""
RESTED = 0.3
"""Share of the highest learning rate at which a restarted one has come down again."""
NEARBY = 2.0
"""Multiple of its lowest value up to which a curve is in the same region."""
LIKELY = 2.0
"""Normal score beyond which chance alone gives a trend of one sign in 1 of 44 flat curves."""


def finite(curve: Curve) -> Curve:
    """The readings that are numbers."""
    if all(map(math.isfinite, curve.values)):
        return curve
    return _curve((at, value) for at, value in zip(curve.at, curve.values, strict=True) if math.isfinite(value))


def between(curve: Curve, first: float, last: float = math.inf) -> Curve:
    """The readings from `first` to `last`, both included."""
    return _curve((at, value) for at, value in zip(curve.at, curve.values, strict=True) if first <= at <= last)


def thinned(curve: Curve, most: int = MOST_READINGS) -> Curve:
    """The finite readings; of more than `most`, each block of neighbours as its median, at its last place."""
    curve = finite(curve)
    size = max(-(-len(curve) // most), 1)
    starts = range(0, len(curve), size)
    return _curve((curve.at[start : start + size][-1], median(curve.values[start : start + size])) for start in starts)


def smoothed(curve: Curve) -> Curve:
    """Each reading as the median of itself and its neighbours: a single one that stands out is gone."""
    values = curve.values
    return _curve((at, median(values[max(i - 1, 0) : i + 2])) for i, at in enumerate(curve.at))


def logarithms(curve: Curve) -> Curve:
    """The same in magnitudes; every value above 0."""
    return Curve(at=curve.at, values=tuple(map(math.log, curve.values)))


def _curve(points: Iterable[tuple[float, float]]) -> Curve:
    held = tuple(points)
    return Curve(at=tuple(at for at, _ in held), values=tuple(value for _, value in held))


def lowest(curve: Curve) -> int:
    """Index of the smallest value, the first of equal ones."""
    return min(range(len(curve)), key=curve.values.__getitem__)


def reading_at(curve: Curve, place: float, most: int = 3) -> float:
    """The median of the last readings up to `place`: of `most` at best, of one where the curve has few. Of the first reading before it."""
    end = max(bisect_right(curve.at, place), 1)
    return median(curve.values[max(end - (most if len(curve) >= FEW else 1), 0) : end])


def noise(curve: Curve) -> float:
    """Standard deviation of a reading about the line between its neighbours; 0 below three readings.

    By the median, so that a few that stand out do not count. Source: Gasser, Sroka & Jennen-Steinmetz 1986 (pseudo-residuals).
    """
    residuals = []
    for i in range(1, len(curve) - 1):
        (a, place, b), (before, value, after) = curve.at[i - 1 : i + 2], curve.values[i - 1 : i + 2]
        share = (place - a) / (b - a)
        expected = (1 - share) * before + share * after
        residuals.append(abs(value - expected) / math.sqrt(1 + (1 - share) ** 2 + share**2))
    return 1.4826 * median(residuals) if residuals else 0.0


def rank_trend(values: Sequence[float]) -> float:
    """Mann-Kendall: the normal score of a trend, positive where values rise; 0 below three values.

    Neighbours that resemble each other count for less, see `memory`. Sources: Mann 1945; Kendall 1975.
    """
    n = len(values)
    if n < 3:
        return 0.0
    score = sum((b > a) - (b < a) for a, b in combinations(values, 2))
    ties = sum(count * (count - 1) * (2 * count + 5) for count in Counter(values).values())
    spread = (n * (n - 1) * (2 * n + 5) - ties) / 18
    if spread <= 0 or not score:
        return 0.0
    return (score - math.copysign(1, score)) / math.sqrt(spread) / memory(values)


def memory(values: Sequence[float]) -> float:
    """By what factor means of values scatter more than those of independent ones: sqrt((1 + r) / (1 - r)), at least 1; 1 below FEW.

    r is the lag-one correlation of what a straight line leaves of them, up to 0.9. Source: Bayley & Hammersley 1946.
    """
    if len(values) < FEW:
        return 1.0
    n, middle = len(values), (len(values) - 1) / 2
    mean = fmean(values)
    slope = sum((i - middle) * value for i, value in enumerate(values)) / (n * (n * n - 1) / 12)
    left = [value - mean - slope * (i - middle) for i, value in enumerate(values)]
    energy = sum(value * value for value in left)
    r = min(max(sum(a * b for a, b in pairwise(left)) / energy, 0.0), 0.9) if energy > 0 else 0.0
    return math.sqrt((1 + r) / (1 - r))


def falls(curve: Curve, creep: float | None = None) -> bool:
    """Whether values fall, as far as noise lets it be shown: from their first third to their last by more than `creep` (CREEP of it), by rank,
    or to a new lowest at the end. Below FEW readings: any later one below the first.
    """
    values = curve.values
    if len(curve) < FEW:
        return values[0] - min(values) > (CREEP * abs(values[0]) if creep is None else creep)
    fallen, by_chance, allowed = _fallen(curve, creep)
    third, calm = len(values) // 3, smoothed(curve).values
    newly = min(calm[: -third // 2]) - min(calm[-third // 2 :])
    by_rank = fallen > allowed / 2 and rank_trend(values) < -LIKELY
    return fallen > max(allowed, LIKELY * by_chance) or by_rank or newly > max(allowed, 2 * noise(curve))


def may_fall(curve: Curve, creep: float | None = None) -> bool:
    """Whether values fall, or scatter so much that they may."""
    if len(curve) < FEW:
        return falls(curve, creep)
    fallen, by_chance, allowed = _fallen(curve, creep)
    return fallen + by_chance > MAY * allowed or falls(curve, creep)


def _fallen(curve: Curve, creep: float | None) -> tuple[float, float, float]:
    """By how much the last third lies below the first, by how much it may by chance (one deviation), and how much is still standing."""
    third = len(curve) // 3
    first, last = median(curve.values[:third]), median(curve.values[-third:])
    by_chance = noise(curve) * math.sqrt(math.pi / third)  # the median of n normal values scatters by sqrt(pi / 2n)
    return first - last, by_chance, CREEP * abs(first) if creep is None else creep


def thrown_back(run: Run) -> bool:
    """Whether training loss stands well above its lowest, or, of few readings, ever stood: after a restart of its rate it needs time, and what
    has diverged has its own rule.
    """
    curve = thinned(run.curve("train_loss"))
    if len(curve) < FEW:
        return any(value > (1 + BACK) * low for value, low in zip(curve.values, accumulate(curve.values, min), strict=True))
    calm = smoothed(curve)
    since = between(curve, calm.at[lowest(calm)])
    return median(curve.values[-3:]) - min(calm.values) > max(BACK * abs(min(calm.values)), 3 * noise(since))


def restarted(run: Run, place: float, best: float) -> bool:
    """Whether a warm restart since `best` still holds a run back at `place`: its learning rate is well above that at `best` and as high as one
    before it, and training loss has not come below what it was. False where no rate was read.
    """
    rates, train = finite(run.curve("lr")), finite(run.curve("train_loss"))
    if len(rates) < 2 or (len(train) and reading_at(train, place) < (1 - CREEP) * reading_at(train, best)):
        return False
    rate, own, before = reading_at(rates, place, 1), reading_at(rates, best, 1), between(rates, rates.at[0], best).values
    return rate > max(2 * own, RESTED * max(rates.values)) and rate <= max(before, default=own) / 0.9


def still_since(run: Run, name: str, creep: float | None = None) -> float | None:
    """The place since which a metric stands still, rising included; None where it still falls, was thrown back, or too little was read to say.

    It must have gone nowhere for LONG, and for the last half of its run. creep: as `falls` takes it.
    """
    curve = thinned(run.curve(name))
    if len(curve) < 3 or thrown_back(run):
        return None
    stretch = max(LONG[run.clock], (curve.at[-1] - curve.at[0]) / 2)
    start = bisect_right(curve.at, curve.at[-1] - stretch) - 1
    last = between(curve, curve.at[max(start, 0)])
    if start < 0 or len(last) < 3 or may_fall(last, creep) or _falls_from_its_peak(last, creep):
        return None
    if any(restarted(run, curve.at[-1], place) for place in (curve.at[lowest(curve)], last.at[0])):
        return None
    level = median(last.values)
    most = level + max(CREEP * abs(level) if creep is None else creep, 2 * noise(last))
    while start and curve.values[start - 1] <= most:
        start -= 1
    return curve.at[start]


def came_back_before(curve: Curve, since: float, risen: float) -> bool:
    """Whether a curve came back earlier from as large a rise as that since its lowest, and this has not lasted twice as long as any before.

    since: the place of the lowest. risen: by what share of it. Only what happened within NEARBY of the lowest counts: how a loss swings while it
    comes down from far above tells nothing of how it swings where it lies now.
    """
    floor = reading_at(curve, since, 1)
    low, fell, largest, longest = math.inf, curve.at[0], 0.0, 0.0
    calm = smoothed(curve)
    for at, value in zip(calm.at, calm.values, strict=True):
        if at >= since:
            break
        if value <= low:
            low, fell = value, at
        elif 0 < low <= NEARBY * floor:
            largest, longest = max(largest, value / low - 1), max(longest, at - fell)
    return risen <= largest and curve.at[-1] - since <= 2 * longest


def _falls_from_its_peak(curve: Curve, creep: float | None) -> bool:
    """Whether it has fallen since a peak beyond its noise: a restart lifts a loss, and only what it does after that counts."""
    calm = smoothed(curve)
    peak = max(range(len(calm)), key=calm.values.__getitem__)
    since = between(curve, calm.at[peak])
    return len(since) >= FEW and calm.values[peak] - median(curve.values) > 2.5 * noise(curve) and falls(since, creep)
