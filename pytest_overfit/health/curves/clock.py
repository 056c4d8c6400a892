"""One clock for all metrics of a log, whatever clocks its trainer used.

Steps and epochs in the same rows give a `StepMap`. Whole epochs (0, 1, 2 ...): epoch e covers the
steps after the last one of the epoch before, up to the last one of e itself, since the end of an
epoch is what every trainer logs. Fractional epochs (0.02, 0.04 ...) are interpolated. Else:

    two clocks      training counts steps, validation counts 0, 1, 2 ... under the same name: these
                    are epochs, each at the training step before it
    false epochs    rounded to two decimals, or started anew while steps go on: steps are the axis,
                    and no reading is lost
    no clock        a line an epoch, without its number: the readings of validation are counted

The order in which a log has its readings says which of them stand between which.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby, pairwise
from statistics import median
from typing import Literal

from pytest_overfit.finding import counted
from pytest_overfit.health.curves.curve import CurveBuilder, Point
from pytest_overfit.health.curves.series import Series

MOST_EPOCHS = 20_000
"""Epochs whose last step is remembered."""
MOST_ANCHORS = 2_000
"""Rows remembered that tell both, to interpolate between."""
RESTARTING = 0.5
"""Share of epochs whose last step is no further than that of an epoch before, from which on steps
are held to be counted anew in each.
"""
BATCHES = 8
"""Readings of an epoch that are surely of its batches."""
Clock = Literal["epoch", "step"]
LEAST = 3
"""Readings that a clock is learnt from, and that a run has before another one can follow it."""
FASTER = 4.0
"""Steps of training between two readings of validation, for each that validation counts, from which
on it counts another thing.
"""
Placed = Mapping[str, Sequence[tuple[float, Point]]]
"""Of each metric its readings with their places on the axis, each with its order in the log."""


class Epochs:
    """Collects rows that tell an epoch, a step, or both; then answers for rows that tell only a
    step.
    """

    def __init__(self) -> None:
        self.any = False
        self.whole = True
        self._seen: set[float] = set()
        self._ends: dict[float, float] = {}
        self._first_step, self._last_step = math.inf, -math.inf
        self._both, self._loose = CurveBuilder(MOST_ANCHORS), CurveBuilder(MOST_ANCHORS)
        self._last_row = (math.nan, math.nan)
        self._rounded, self._restarted = False, False

    def add(self, epoch: float, step: float) -> None:
        """epoch, step: NaN where a row does not tell it."""
        if step == step:
            self._first_step, self._last_step = min(step, self._first_step), step
        if epoch != epoch:
            return
        self.any = True
        self.whole = self.whole and epoch == math.floor(epoch)
        if self.whole and len(self._seen) < MOST_EPOCHS:
            self._seen.add(epoch)
        if step == step:
            last_epoch, last_step = self._last_row
            self._rounded = self._rounded or (step > last_step and epoch == last_epoch)
            goes_on = step > last_step or step > self._first_step  # where a run was resumed
            self._restarted = self._restarted or (goes_on and epoch < last_epoch)
            self._last_row = (epoch, step)
            self._both.add(step, epoch)
            if len(self._ends) < MOST_EPOCHS or epoch in self._ends:
                self._ends[epoch] = max(step, self._ends.get(epoch, step))
        elif self._last_step >= 0:
            self._loose.add(self._last_step, epoch)

    @property
    def misleading(self) -> bool:
        """Whether epochs lose what the steps beside them tell: they are rounded, so that several
        steps share one, or start again as steps go on.
        """
        return self._restarted or (self._rounded and not self.whole)

    def map(self) -> StepMap:
        """How epochs and steps stand to each other in this log."""
        both = self._both.curve().ascending
        if len(both) and self.whole:
            return StepMap.of_ends(self._ends, first_step=self._first_step)
        known = both if len(both) else self._loose.curve().ascending
        return StepMap(steps=known.at, epochs=known.values, fractional=True)

    def missing(self) -> tuple[str, ...]:
        """A warning that names the whole epochs that the log skips."""
        if not self.whole or len(self._seen) == MOST_EPOCHS:
            return ()
        count, holes = gaps(tuple(sorted(self._seen)))
        stretches = [f"{first}" if first == last else f"{first}-{last}" for first, last in holes]
        more = f" and {len(stretches) - 5} more stretches" if len(stretches) > 5 else ""
        return (
            (f"{counted(count, 'epoch')} missing from the log: {', '.join(stretches[:5])}{more}",)
            if count
            else ()
        )


class StepMap:
    """steps -> epochs. steps: ascending.

    fractional: interpolated between; else each step is the last one of its epoch.
    """

    def __init__(
        self,
        *,
        steps: tuple[float, ...],
        epochs: tuple[float, ...],
        fractional: bool,
        begin: float = -1.0,
        restarting: float = 0.0,
    ) -> None:
        self._steps, self._epochs, self._fractional, self._begin, self._restarting = (
            steps,
            epochs,
            fractional,
            begin,
            restarting,
        )

    @classmethod
    def of_ends(cls, ends: dict[float, float], *, first_step: float) -> StepMap:
        """The map of a log that tells at which step each epoch ends; ends that fall back are left
        out.
        """
        in_order = sorted(ends.items())
        rising = [in_order[0]]
        for epoch, step in in_order[1:]:
            if step > rising[-1][1]:
                rising.append((epoch, step))
        if (
            len(in_order) > 1
            and len(rising) <= RESTARTING * len(in_order) + 1
            and len(rising) < len(in_order)
        ):
            return cls(steps=(), epochs=(), fractional=False, restarting=max(ends.values()) + 1)
        steps = tuple(step for _, step in rising)
        begin = steps[0] - (steps[1] - steps[0]) if len(steps) > 1 else first_step - 1
        return cls(
            steps=steps,
            epochs=tuple(epoch for epoch, _ in rising),
            fractional=False,
            begin=min(begin, first_step - 1),
        )

    def __bool__(self) -> bool:
        return bool(self._steps)

    def whole(self, step: float) -> float:
        """The epoch that `step` belongs to, or its interpolated one where epochs are fractional."""
        if self._fractional:
            return self._interpolated(step)
        return self._epochs[min(bisect_left(self._steps, step), len(self._steps) - 1)]

    def within(self, step: float) -> float:
        """How far into its epoch `step` is: from 0 up to 1, never 1."""
        if self._restarting:
            return step / self._restarting
        place = min(bisect_left(self._steps, step), len(self._steps) - 1)
        before = self._steps[place - 1] if place else self._begin
        length = self._steps[place] - before
        if place == len(self._steps) - 1 and place:  # the last epoch may have been cut short
            length = max(length, before - (self._steps[place - 2] if place > 1 else self._begin))
        return min(max((step - before - 1) / max(length, 1.0), 0.0), 1 - 1e-6)

    def _interpolated(self, step: float) -> float:
        if len(self._steps) == 1:
            return self._epochs[0]
        right = min(max(bisect_left(self._steps, step), 1), len(self._steps) - 1)
        (a, b), (low, high) = (
            self._steps[right - 1 : right + 1],
            self._epochs[right - 1 : right + 1],
        )
        return low + (high - low) * (step - a) / (b - a)


def gaps(epochs: tuple[float, ...]) -> tuple[int, tuple[tuple[int, int], ...]]:
    """How many whole epochs a log skips, and the stretches they lie in. epochs: those it tells,
    ascending.

    A log that tells every k-th epoch skips none; one without a usual distance is held to every
    epoch.
    """
    if len(epochs) < 3:
        return 0, ()
    distances = Counter(int(b - a) for a, b in pairwise(epochs))
    usual, times = distances.most_common(1)[0]
    usual = usual if 2 * times > len(epochs) - 1 else 1
    holes = [(int(a) + usual, int(b) - usual) for a, b in pairwise(epochs) if b - a > usual]
    return sum((last - first) // usual + 1 for first, last in holes), tuple(holes)


def one_axis(series: Sequence[Series], epochs: Epochs, warnings: list[str]) -> tuple[Clock, Epochs]:
    """Give every reading an epoch or a step where its log left that open.

    Returns the clock of the axis, and what maps steps to it.
    """
    if not any(one.clocked for one in series):
        _count(series, warnings)
        epochs = _epochs_of(series)
    elif _two_clocks(series, warnings):
        epochs = _epochs_of(series)
    if epochs.any and epochs.misleading:
        warnings.append(
            "epochs are rounded or start anew while steps go on: readings are placed by step"
        )
        return "step", epochs
    return ("epoch" if epochs.any else "step"), epochs


def placed(one: Series, clock: Clock, steps: StepMap) -> list[tuple[float, Point]]:
    """The readings of a metric on that clock, each with its order in the log; those that cannot be
    placed are left out.
    """
    points = without_repeats(one.points)
    if clock == "step":
        places = [point.step for point in points]
    else:
        places = _in_epochs(points, steps)
        if any(place != math.floor(place) for place in places if place == place) or _several_each(
            places
        ):
            places = _spread_ties(places)
    return [
        (point.at, point._replace(at=at))
        for at, point in zip(places, points, strict=True)
        if at == at
    ]


def without_repeats(points: Sequence[Point]) -> Sequence[Point]:
    """The readings, each once: of a step that is told again at once and to the last digit the same;
    and where every place is, by several processes, or by a progress bar and a line behind it.
    """
    points = [
        point
        for before, point in zip((None, *points), points, strict=False)
        if before is None
        or point.step != before.step
        or point.value != before.value
        or not (point.epoch == before.epoch or math.isnan(point.epoch + before.epoch))
    ]
    groups = [
        list(group)
        for _, group in groupby(
            points, key=lambda point: tuple(at for at in point[2:4] if at == at) or point.at
        )
    ]
    values = [{point.value for point in group} for group in groups]
    moves = sum(a != b for a, b in pairwise(values)) > len(values) / 2
    again = moves and max(map(len, values)) == 1 and all(len(group) > 1 for group in groups[:-1])
    return [group[0] for group in groups] if again else points


def _epochs_of(series: Sequence[Series]) -> Epochs:
    """What maps steps to epochs, from the readings anew."""
    epochs = Epochs()
    for point in sorted(
        (point for one in series for point in one.points), key=lambda point: point.at
    ):
        epochs.add(point.epoch, point.step)
    return epochs


def _in_order(
    series: Sequence[Series], splits: tuple[str, ...], metrics: tuple[str, ...] = ()
) -> list[Point]:
    """The readings of known metrics of some splits, in the order of the log; of each row one."""
    found = [
        p
        for one in series
        if one.meaning and one.split in splits and (not metrics or one.meaning.metric in metrics)
        for p in one.points
    ]
    return [
        next(row)
        for _, row in groupby(sorted(found, key=lambda point: point.at), key=lambda point: point.at)
    ]


def _two_clocks(series: Sequence[Series], warnings: list[str]) -> bool:
    """Whether validation counts epochs while training counts steps; then its readings get both."""
    train, val = _in_order(series, ("train", ""), ("loss",)), _in_order(series, ("val",))
    counts = [point.step for point in val]
    if any(point.epoch == point.epoch for point in val) or any(count != count for count in counts):
        return False
    if (
        len(val) < LEAST
        or len(train) < LEAST
        or len({b - a for a, b in pairwise(counts)}) != 1
        or counts[1] <= counts[0]
    ):
        return False
    before = _steps_before(train, val)
    advance = median(b - a for a, b in pairwise(before))
    if advance < FASTER * (counts[1] - counts[0]) or before[-1] < 2 * counts[-1]:
        return False
    steps = dict(zip(counts, before, strict=True))
    for one in series:
        if one.split == "val":
            one.place(
                [p._replace(epoch=p.step, step=steps.get(p.step, math.nan)) for p in one.points]
            )
    warnings.append(
        "training counts steps and validation counts epochs under one name: placed on one axis "
        "of epochs by their order in the log"
    )
    return True


def _steps_before(train: Sequence[Point], val: Sequence[Point]) -> list[float]:
    """The training step at each validation: that told before it; where one is told after the other,
    each has its share of the steps.
    """
    orders = [point.at for point in train]
    places = [bisect_left(orders, point.at) for point in val]
    if len(set(places)) > len(val) / 2:
        return [train[place - 1].step if place else train[0].step - 1 for place in places]
    first, last = val[0].step, val[-1].step
    length = max(point.step for point in train) / (last - first + 1)
    return [math.ceil((point.step - first + 1) * length) for point in val]


def _count(series: Sequence[Series], warnings: list[str]) -> None:
    """Without any clock: each reading of validation, or of whatever was told least often, ends or
    begins an epoch.
    """
    usual = [
        one for one in series if one.meaning and one.split == "val" and one.count >= LEAST
    ] or [one for one in series if one.meaning and one.count >= LEAST]
    if not usual:
        return
    base = [point.at for point in min(usual, key=lambda one: one.count).points]
    everything = sorted({point.at for one in series if one.meaning for point in one.points})
    ends = everything[0] < base[0]
    for one in series:
        one.place(_counted_by(base, one.points, ends=ends))
    warnings.append(
        "the log counts neither epochs nor steps: its readings are counted, and taken for one "
        "an epoch"
    )


def _counted_by(base: list[float], points: Sequence[Point], *, ends: bool) -> list[Point]:
    """The readings, each in its epoch from 1 on.

    ends: whether a base reading ends its epoch; else it begins it.
    """
    epochs = [
        bisect_left(base, point.at) + 1 if ends else max(bisect_right(base, point.at), 1)
        for point in points
    ]
    placed = []
    for epoch, group in groupby(zip(epochs, points, strict=True), key=lambda pair: pair[0]):
        same = [point for _, point in group]
        for index, point in enumerate(same):
            part = (index + 1) / len(same) - 1 if ends else index / len(same)
            placed.append(point._replace(epoch=epoch + part if len(same) > 1 else float(epoch)))
    return placed


def _in_epochs(points: Sequence[Point], steps: StepMap) -> list[float]:
    """The epoch of each point: its own, else that of its step; where an epoch has points at several
    steps, each at its part of the epoch.
    """
    own = [
        p.epoch if p.epoch == p.epoch or not steps or p.step != p.step else steps.whole(p.step)
        for p in points
    ]
    known = [point.step for point in points]
    if any(
        a == b and s != t and s == s and t == t
        for (a, s), (b, t) in pairwise(zip(own, known, strict=True))
    ):
        return [
            epoch + steps.within(step) if step == step else epoch
            for epoch, step in zip(own, known, strict=True)
        ]
    return own


def _several_each(places: Sequence[float]) -> bool:
    """Whether every epoch but the last of a run is told more than once, as where each batch names
    its epoch alone; BATCHES times where one run follows another, for rows may be out of order.
    """
    told = [(place, sum(1 for _ in group)) for place, group in groupby(places)]
    whole = [count for (place, count), (following, _) in pairwise(told) if following > place]
    in_order = all(a <= b for a, b in pairwise(places))
    return bool(whole) and min(whole) >= (2 if in_order else BATCHES)


def _spread_ties(places: list[float]) -> list[float]:
    """Neighbours at one place, told as the same by rounding, spread up to the next place."""
    spread, start = list(places), 0
    distance = median([b - a for a, b in pairwise(dict.fromkeys(places)) if b > a] or [0.0])
    for place, group in groupby(places):
        count = sum(1 for _ in group)
        following = places[start + count] if start + count < len(places) else place
        following = following if following > place else place + distance  # the end of a run
        if count > 1 and following > place:
            for index in range(count):
                spread[start + index] = place + (following - place) * index / count
        start += count
    return spread
