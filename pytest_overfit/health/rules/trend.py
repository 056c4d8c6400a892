"""What a noisy curve shows: how large its noise is, whether it still falls, has risen for good, or
stands still, and since when.

No bound here is a loss, an epoch or a step. Each is a share of the curve's own level, a multiple of
its own noise, a share of the run, or a number of readings: multiply all losses, or all places, and
nothing changes. Standing still is said reluctantly, because most rules accuse only what no longer
falls: what scatters too much to tell, may.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from pytest_overfit.health.curves.curve import Curve

MOST_READINGS = 120
"""Readings that a trend is taken over; of more, blocks of neighbours give their median."""
FEW = 8
"""Below so many readings noise cannot be measured, and only plain comparisons are made."""
CREEP = 0.03
"""Share of its level by which a curve that stands may still sink from the first to the last third
of a stretch.
"""
MAY_FALL_FACTOR = 5 / 3
"""Multiple of that by which it must not have sunk by chance."""
NEARBY = 2.0
"""Multiple of its lowest value up to which a curve is in the same region."""
LIKELY = 2.0
"""Deviations beyond which a difference is no chance."""
LOST = 0.2
"""Share of the fall to its lowest value which a curve that rose has lost again, where that is less.
"""
RISE, EACH, RISE_OF_FEW = 0.02, 8, 0.07
"""Share of its lowest value by which a curve must have risen since after very many readings; after
n, 1 + EACH/n times that. And of few.
"""
CLEAR = 8.0
"""Multiple of its noise from which on a rise of FEW readings need be no larger than one of MANY."""
TAIL = 0.15
"""Share of a run that a rise must have lasted."""
AGAIN = 1.5
"""Multiple of a rise that came back up to which another may, while it has not lasted twice as long.
"""
CAME_BACK_SHARE = 0.5
"""Share of its highest, counted from the lowest, above which a curve that rose has not come back.
"""
MANY = 30
"""Readings that a curve must have gone nowhere for to stand still, where it once fell; at least
half of its run.
"""
UNMOVED = 10
"""Readings that a curve which was never below its beginning must have, so that it is no plateau on
the way.
"""
WHOLE = 0.85
"""Share of its run after which FEW readings suffice: it never did anything else."""


@dataclass(frozen=True, kw_only=True)
class Rise:
    """A rise that lasted to the end of a curve. since, low: the best reading. high: what it has
    risen to.

    share: the rise as a share of `low`. noises: as a multiple of the noise; infinite where none was
    cited_place, None where too few readings tell. readings: after the best. lasted: the share of the run
    since then.
    """

    since: float
    low: float
    high: float
    share: float
    noises: float | None
    readings: int
    lasted: float


def finite(curve: Curve) -> Curve:
    """The readings that are numbers."""
    if all(map(math.isfinite, curve.values)):
        return curve
    return _curve(
        (at, value)
        for at, value in zip(curve.at, curve.values, strict=True)
        if math.isfinite(value)
    )


def between(curve: Curve, first: float, last: float = math.inf) -> Curve:
    """The readings from `first` to `last`, both included."""
    return _curve(
        (at, value) for at, value in zip(curve.at, curve.values, strict=True) if first <= at <= last
    )


def thinned(curve: Curve, most: int = MOST_READINGS) -> Curve:
    """The finite readings; of more than `most`, each block of neighbours as its median, at its last
    place.
    """
    curve = finite(curve)
    size = max(-(-len(curve) // most), 1)
    starts = range(0, len(curve), size)
    return _curve(
        (curve.at[start : start + size][-1], median(curve.values[start : start + size]))
        for start in starts
    )


def smoothed(curve: Curve) -> Curve:
    """Each reading as the median of itself and its neighbours: a single one that stands out is
    gone.
    """
    values = curve.values
    return _curve((at, median(values[max(i - 1, 0) : i + 2])) for i, at in enumerate(curve.at))


def logarithms(curve: Curve) -> Curve:
    """The same in magnitudes; every value above 0."""
    return Curve(at=curve.at, values=tuple(map(math.log, curve.values)))


def negated(curve: Curve) -> Curve:
    """Upside down: what was better when higher is better when lower."""
    return Curve(at=curve.at, values=tuple(-value for value in curve.values))


def _curve(points: Iterable[tuple[float, float]]) -> Curve:
    held = tuple(points)
    return Curve(at=tuple(at for at, _ in held), values=tuple(value for _, value in held))


def lowest(curve: Curve) -> int:
    """Index of the smallest value, the first of equal ones."""
    return min(range(len(curve)), key=curve.values.__getitem__)


def reading_at(curve: Curve, place: float, most: int = 3) -> float:
    """The median of the last readings up to `place`: of `most` at best, of one where the curve has
    few. Of the first reading before it.
    """
    end = max(bisect_right(curve.at, place), 1)
    return median(curve.values[max(end - (most if len(curve) >= FEW else 1), 0) : end])


def noise(curve: Curve) -> float:
    """Standard deviation of a reading about the line between its neighbours; 0 below three
    readings.

    By the median, so that a few that stand out do not count. Source: Gasser, Sroka &
    Jennen-Steinmetz 1986 (pseudo-residuals).
    """
    residuals = []
    for i in range(1, len(curve) - 1):
        (a, place, b), (before, value, after) = curve.at[i - 1 : i + 2], curve.values[i - 1 : i + 2]
        share = (place - a) / (b - a)
        expected = (1 - share) * before + share * after
        residuals.append(abs(value - expected) / math.sqrt(1 + (1 - share) ** 2 + share**2))
    return 1.4826 * median(residuals) if residuals else 0.0


def rising_fit(values: Sequence[float]) -> list[float]:
    """The nearest values that never fall, by least squares. Source: Ayer et al.

    1955 (pool adjacent violators).
    """
    blocks: list[tuple[float, int]] = []
    for value in values:
        mean, size = value, 1
        while blocks and blocks[-1][0] >= mean:
            before, held = blocks.pop()
            mean, size = (before * held + mean * size) / (held + size), held + size
        blocks.append((mean, size))
    return [mean for mean, size in blocks for _ in range(size)]


def _residuals(values: Sequence[float]) -> list[float]:
    """What the nearer of a rising and a falling fit leaves of values."""
    up, down = rising_fit(values), [-value for value in rising_fit([-value for value in values])]
    rests = ([value - fit for value, fit in zip(values, fits, strict=True)] for fits in (up, down))
    return min(rests, key=lambda rest: sum(value * value for value in rest))


def memory(values: Sequence[float]) -> float:
    """By what factor means of values scatter more, or less, than those of independent ones: sqrt((1
    + r) / (1 - r)); 1 below FEW.

    r is the lag-one correlation, between -0.9 and 0.9, of what a rise or a fall of any shape leaves
    of them, so that no smooth trend counts as memory. Source: Bayley & Hammersley 1946.
    """
    if len(values) < FEW:
        return 1.0
    scale = max(map(abs, values))
    left = _residuals([value / scale for value in values]) if scale else []
    energy = sum(value * value for value in left)
    if energy <= 1e-18:
        return 1.0
    r = min(max(sum(a * b for a, b in pairwise(left)) / energy, -0.9), 0.9)
    r = (
        0.0 if -0.5 < r < 0 else r
    )  # what a fit leaves of independent values is correlated below zero
    return math.sqrt((1 + r) / (1 - r))


def falls(curve: Curve, creep: float | None = None) -> bool:
    """Whether values fall, as far as noise lets it be shown: from their first third to their last
    by more than `creep` (CREEP of it), by half of it where noise is still smaller, or to a new
    lowest at the end. Below FEW readings: any later one below the first.
    """
    values = curve.values
    if len(curve) < FEW:
        return values[0] - min(values) > (CREEP * abs(values[0]) if creep is None else creep)
    fallen, by_chance, allowed = _fallen(curve, creep)
    third, calm = len(values) // 3, smoothed(curve).values
    newly = min(calm[: -third // 2]) - min(calm[-third // 2 :])
    steadily = fallen > max(allowed / 2, LIKELY * by_chance * memory(values))
    return (
        fallen > max(allowed, LIKELY * by_chance)
        or steadily
        or newly > max(allowed, 2 * noise(curve))
    )


def may_fall(curve: Curve, creep: float | None = None) -> bool:
    """Whether values fall, or scatter so much that they may."""
    if len(curve) < FEW:
        return falls(curve, creep)
    fallen, by_chance, allowed = _fallen(curve, creep)
    return fallen + by_chance > MAY_FALL_FACTOR * allowed or falls(curve, creep)


def _fallen(curve: Curve, creep: float | None) -> tuple[float, float, float]:
    """By how much the last third lies below the first, by how much it may by chance (one
    deviation), and how much is still standing.
    """
    third = len(curve) // 3
    first, last = median(curve.values[:third]), median(curve.values[-third:])
    by_chance = noise(curve) * math.sqrt(
        math.pi / third
    )  # the median of n normal values scatters by sqrt(pi / 2n)
    return first - last, by_chance, CREEP * abs(first) if creep is None else creep


def lasting_rise(curve: Curve, best: int | None = None) -> Rise | None:
    """The rise since the best reading, where it is no chance, is still there at the end, and has
    lasted.

    curve: as `thinned` gives it. best: index of the reading it is counted from, by default the
    lowest.
    """
    if len(curve) < 3 or curve.at[0] == curve.at[-1]:
        return None
    best = lowest(curve) if best is None else best
    values, after = curve.values, curve.values[best + 1 :]
    lasted = (curve.at[-1] - curve.at[best]) / (curve.at[-1] - curve.at[0])
    if (
        len(after) < 2 or lasted < TAIL or min(values) * max(values) <= 0
    ):  # a share of its level needs one sign
        return None
    last = after[-max(len(after) // 3, 2) :]
    low, high = values[best], median(last) if len(curve) >= FEW else after[-1]
    risen, share, peak = (
        high - low,
        (high - low) / abs(low),
        max(smoothed(_tail(curve, best)).values),
    )
    back = median(after[-max(len(after) // 4, 1) :]) < low + CAME_BACK_SHARE * (peak - low)
    least = _least_rise(values, best, len(after))
    clear = _least_rise(values, best, max(len(after), MANY)) if len(after) >= FEW else least
    if back or risen <= clear:
        return None
    scatter = None
    if len(curve) >= FEW:
        grain = _grain(values)
        scatter = max(
            _scatter(_tail(curve, max(best - (FEW // 2 if len(after) >= FEW else 2), 0)), after),
            grain,
        )
        # Of m readings about one level the lowest lies sqrt(2 ln m) deviations below it by chance.
        near = sum(value < high + grain / 2 for value in values)
        if risen <= scatter * (math.sqrt(2 * math.log(near)) + LIKELY / math.sqrt(len(last))):
            return None
        if risen <= min(least, CLEAR * scatter):
            return None
    elif min(after) <= low:
        return None
    if came_back_before(curve, curve.at[best], share):
        return None
    noises = None if scatter is None else risen / scatter if scatter else math.inf
    return Rise(
        since=curve.at[best],
        low=low,
        high=high,
        share=share,
        noises=noises,
        readings=len(after),
        lasted=lasted,
    )


def _least_rise(values: Sequence[float], best: int, after: int) -> float:
    """By how much a curve must have risen since its best: a share of its level, or of the fall
    before it where that is less; more after few readings.
    """
    low, fall = abs(values[best]), values[0] - values[best]
    if len(values) < FEW:
        return RISE_OF_FEW * low
    return (1 + EACH / after) * min(RISE * low, max(LOST * fall, RISE / 2 * low))


def _tail(curve: Curve, start: int) -> Curve:
    return Curve(at=curve.at[start:], values=curve.values[start:])


def _scatter(region: Curve, after: Sequence[float]) -> float:
    """The noise of readings about the best and after it: about their neighbours, or about the
    nearest course that falls once and rises once.
    """
    if len(after) < FEW:
        return noise(region)
    values, turn = region.values, lowest(region)
    fits = [-value for value in rising_fit([-value for value in values[: turn + 1]])] + rising_fit(
        values[turn + 1 :]
    )
    free = len(values) - len(set(fits))
    left = math.hypot(*(value - fit for value, fit in zip(values, fits, strict=True)))
    about_course = left / math.sqrt(free) if free else 0.0
    return min(noise(region), about_course) * max(memory(after), 1.0)


def _grain(values: Sequence[float]) -> float:
    """The smallest difference between readings where most are the same as others, as error rates of
    few clips are: a reading may lie a grain off by chance. Else 0.
    """
    distinct = sorted(set(values))
    if 2 * len(distinct) > len(values):
        return 0.0
    return min((b - a for a, b in pairwise(distinct)), default=0.0)


def came_back_before(curve: Curve, since: float, risen: float) -> bool:
    """Whether a curve came back earlier from about as large a rise as that since its lowest, and
    this has not lasted twice as long as any before.

    since: the place of the lowest. risen: by what share of it. Only what happened within NEARBY of
    the lowest counts: how a loss swings while it comes down from far above tells nothing of how it
    swings where it lies now.
    """
    floor = reading_at(curve, since, 1)
    nearby = floor + (NEARBY - 1) * abs(floor)
    low, fell, largest, longest = math.inf, curve.at[0], 0.0, 0.0
    calm = smoothed(curve)
    for at, value in zip(calm.at, calm.values, strict=True):
        if at >= since:
            break
        if value <= low:
            low, fell = value, at
        elif low <= nearby:
            largest, longest = (
                max(largest, (value - low) / max(abs(low), 1e-300)),
                max(longest, at - fell),
            )
    return risen <= AGAIN * largest and curve.at[-1] - since <= 2 * longest


def stands_since(curve: Curve, creep: float | None = None) -> float | None:
    """The place since which a curve stands still, rising included; None where it still falls, may,
    or fell too recently to say.

    It must have gone nowhere for the last half of its run at least, and for MANY readings, or for
    FEW where they are WHOLE of it. curve: as `thinned` gives it. creep: as `falls` takes it.
    """
    if len(curve) < 3:
        return None
    half = start = bisect_right(curve.at, (curve.at[0] + curve.at[-1]) / 2) - 1
    last = _tail(curve, half)
    if len(last) < 3 or may_fall(last, creep) or _falls_from_its_peak(last, creep):
        return None
    level = median(last.values)
    most = level + max(CREEP * abs(level) if creep is None else creep, 2 * noise(last))
    while start and curve.values[start - 1] <= most:
        start -= 1
    while start < half and may_fall(
        _tail(curve, start), creep
    ):  # what creeps shows it only over a long stretch
        start += 1
    stood = _tail(curve, start)
    if (
        creep is None
        and FEW <= len(stood) < MANY
        and may_fall(stood, CREEP * abs(level) * len(stood) / MANY)
    ):
        return None  # a plateau of few readings may sink no faster than one of many
    return curve.at[start]


def never_fell(curve: Curve) -> bool:
    """Whether a curve was never below its beginning by more than CREEP, single readings aside."""
    calm = smoothed(curve).values if len(curve) >= FEW else curve.values
    return min(calm) >= (1 - CREEP) * calm[0] if calm and calm[0] > 0 else False


def comes_down(curve: Curve) -> bool:
    """Whether values end below where they began, and fall: what was lifted at once and comes
    back.
    """
    values, part = curve.values, max(len(curve) // 4, 1)
    before, after = median(values[:part]), median(values[-part:])
    return before - after > CREEP * abs(before) and falls(curve)


def long_enough(curve: Curve, since: float, *, over: bool = False) -> bool:
    """Whether a curve has stood for so long that it stands: MANY readings, or FEW that are WHOLE of
    the run; all it will have, where it is over.
    """
    readings = sum(at >= since for at in curve.at)
    lasted = (curve.at[-1] - since) / (curve.at[-1] - curve.at[0])
    return readings >= MANY or (readings >= FEW and (lasted >= WHOLE or over))


def _falls_from_its_peak(curve: Curve, creep: float | None) -> bool:
    """Whether it has fallen since a peak beyond its noise: a restart lifts a loss, and only what it
    does after that counts.
    """
    calm = smoothed(curve)
    peak = max(range(len(calm)), key=calm.values.__getitem__)
    since = between(curve, calm.at[peak])
    return (
        len(since) >= FEW
        and calm.values[peak] - median(curve.values) > 2.5 * noise(curve)
        and falls(since, creep)
    )
