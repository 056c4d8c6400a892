"""One axis for all metrics of a log, whatever clocks its trainer used.

Steps and epochs told in the same rows need nothing but `epochs.StepMap`. Else:

    two clocks      training counts steps, validation counts 0, 1, 2 ... under the same name: these
                    are epochs, each at the training step before it
    false epochs    rounded to two decimals, or started anew while steps go on: steps are the axis,
                    and no reading is lost
    no clock        a line an epoch, without its number: the readings of validation are counted
    a second run    in the same file: the clock is back at its start; the newer one is read

The order in which a log tells its readings says which of them stand between which.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from itertools import groupby, pairwise
from statistics import fmean, median
from typing import Literal

from pytest_overfit.health.readers.epochs import Epochs, StepMap
from pytest_overfit.health.readers.names import words
from pytest_overfit.health.readers.series import Series
from pytest_overfit.health.run import Curve, Point

Clock = Literal["epoch", "step"]
LEAST = 3
RUNNING = frozenset({"avg", "average", "mean", "running"})
"""Words of names that tell a mean over the batches so far."""
"""Readings that a clock is learnt from, and that a run has before another one can follow it."""
GOES_ON = 0.15
"""Share of what a loss has come by which it may differ after its run was resumed."""
FASTER = 4.0
"""Steps of training between two readings of validation, for each that validation counts, from which
on it counts another thing.
"""


def one_axis(series: Sequence[Series], epochs: Epochs, warnings: list[str]) -> tuple[Clock, Epochs]:
    """Give every reading an epoch or a step where its log left that open.

    Returns the clock of the axis, and what maps steps to it.
    """
    if not any(one.clocked for one in series):
        _count(series, warnings)
        epochs = _learnt(series)
    elif _two_clocks(series, warnings):
        epochs = _learnt(series)
    if epochs.any and epochs.misleading:
        warnings.append(
            "epochs are rounded or start anew while steps go on: readings are placed by step"
        )
        return "step", epochs
    return ("epoch" if epochs.any else "step"), epochs


def passes(series: Sequence[Series]) -> None:
    """Make one reading of what each pass over the validation data told batch by batch: of a running
    mean the last, else the mean of them.

    Batches are counted anew in each pass, and no training is told between them.
    """
    trained = [
        point.at
        for one in series
        if one.meaning and one.split in ("train", "") and one.meaning.metric == "loss"
        for point in one.points
    ]
    trained.sort()
    for one in series:
        if one.split != "val" or one.meaning is None or not trained:
            continue
        groups = (
            [
                list(group)
                for _, group in groupby(
                    one.points,
                    key=lambda point: (math.floor(point.epoch), bisect_left(trained, point.at)),
                )
            ]
            if all(point.epoch == point.epoch for point in one.points)
            else []
        )
        by_batch = [
            [
                point.epoch - math.floor(point.epoch) if one.level == "step" else point.step
                for point in group
            ]
            for group in groups
        ]
        if (
            len(groups) >= LEAST
            and min(map(len, by_batch[:-1])) > 1
            and len({batches[0] for batches in by_batch}) == 1
        ):
            mean_so_far = not RUNNING.isdisjoint(words(one.logged))
            values = [
                group[-1].value if mean_so_far else fmean(point.value for point in group)
                for group in groups
            ]
            one.place(
                [
                    group[-1]._replace(value=value, epoch=math.floor(group[-1].epoch))
                    for group, value in zip(groups, values, strict=True)
                ]
            )


Placed = Mapping[str, Sequence[tuple[float, Point]]]
"""Of each metric its readings with their places on the axis, each with its order in the log."""


def placed(one: Series, clock: Clock, steps: StepMap) -> list[tuple[float, Point]]:
    """The readings of a metric on that clock, each with its order in the log; those that cannot be
    placed are left out.
    """
    points = told_once(one.points)
    if clock == "step":
        places = [point.step for point in points]
    else:
        places = _in_epochs(points, steps)
        if any(place != math.floor(place) for place in places if place == place) or _told_often(
            places
        ):
            places = _apart(places)
    return [
        (point.at, point._replace(at=at))
        for at, point in zip(places, points, strict=True)
        if at == at
    ]


def told_once(points: Sequence[Point]) -> Sequence[Point]:
    """The readings, each once: of a step that is told again at once and to the last digit the same;
    and where every place is, by several processes, or by a progress bar and a line behind it.
    """
    points = [
        point
        for before, point in zip((None, *points), points, strict=False)
        if before is None or point.step != before.step or point[1:3] != before[1:3]
    ]
    groups = [
        list(group)
        for _, group in groupby(
            points, key=lambda point: tuple(at for at in point[2:4] if at == at) or point.at
        )
    ]
    told = [{point.value for point in group} for group in groups]
    moves = sum(a != b for a, b in pairwise(told)) > len(told) / 2
    again = moves and max(map(len, told)) == 1 and all(len(group) > 1 for group in groups[:-1])
    return [group[0] for group in groups] if again else points


def last_run(curves: Placed, warnings: list[str]) -> dict[str, Curve]:
    """The readings of the newest run of those that one log holds: it begins where the loss is back
    at the place that it began at.

    One that was hardly begun gives way to the one before. Where the loss goes on from where it was,
    the run was resumed, and its clock goes on.
    """
    main = next(
        (
            curves[name]
            for name in ("val_loss", "train_loss", "val_wer", "val_cer")
            if len(curves.get(name, ())) > LEAST
        ),
        (),
    )
    starts = _starts([point.at for _, point in main])
    bounds = [-math.inf, *(_begins(curves, main, start) for start in starts[1:]), math.inf]
    parts = [
        {
            name: Curve.of(point for order, point in curve if low <= order < high)
            for name, curve in curves.items()
        }
        for low, high in pairwise(bounds)
    ]
    lengths = [end - start for start, end in pairwise([*starts, len(main)])]
    chosen = next((index for index in reversed(range(len(parts))) if lengths[index] >= LEAST), 0)
    first = 0
    for index in range(1, chosen + 1):
        first = first if _resumed(parts[first], parts[index - 1], parts[index]) else index
    if len(parts) > 1:
        where = main[starts[first]][1].where
        since = f", from {where} on" if where else ""
        how = (
            f"the last of {chosen - first + 1} that go on from each other"
            if first < chosen
            else f"number {chosen + 1}"
        )
        warnings.append(f"the log starts anew {len(parts) - 1} times; {how} is read{since}")
    kept = parts[first]
    for part in parts[first + 1 : chosen + 1]:
        kept = _continued(kept, part)
    return {name: curve for name, curve in kept.items() if len(curve)}


def _learnt(series: Sequence[Series]) -> Epochs:
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
    told = [point.step for point in points]
    if any(
        a == b and s != t and s == s and t == t
        for (a, s), (b, t) in pairwise(zip(own, told, strict=True))
    ):
        return [
            epoch + steps.within(step) if step == step else epoch
            for epoch, step in zip(own, told, strict=True)
        ]
    return own


def _told_often(places: Sequence[float]) -> bool:
    """Whether every epoch but the last is told more than once, as where each batch names its epoch
    alone.
    """
    counts = [sum(1 for _ in group) for _, group in groupby(places)]
    return len(counts) > 1 and min(counts[:-1]) > 1 and all(a <= b for a, b in pairwise(places))


def _apart(places: list[float]) -> list[float]:
    """Neighbours at one place, told as the same by rounding, spread up to the next place."""
    spread, start = list(places), 0
    distance = median([b - a for a, b in pairwise(dict.fromkeys(places)) if b > a] or [0.0])
    for place, group in groupby(places):
        count = sum(1 for _ in group)
        following = places[start + count] if start + count < len(places) else place + distance
        if count > 1 and following > place:
            for index in range(count):
                spread[start + index] = place + (following - place) * index / count
        start += count
    return spread


def _starts(places: Sequence[float]) -> list[int]:
    """Indices at which a run begins: the first, and each at which the clock comes back to where it
    began.
    """
    return [0, *(index for index in range(1, len(places)) if places[index] == places[0])]


def _begins(curves: Placed, main: Sequence[tuple[float, Point]], start: int) -> float:
    """The order from which a run is told. A metric may start anew before the main one does."""
    before, here = main[start - 1][0], main[start][0]
    anew = [
        order
        for curve in curves.values()
        for (_, a), (order, b) in pairwise(curve)
        if before < order <= here and b.at <= a.at
    ]
    return min(anew, default=here)


def _resumed(
    begun: Mapping[str, Curve], before: Mapping[str, Curve], after: Mapping[str, Curve]
) -> bool:
    """Whether every loss goes on near to where it was, by what it had come since the run was
    begun.
    """
    told = []
    for name in ("train_loss", "val_loss"):
        if len(before.get(name, ())) and len(after.get(name, ())):
            first, last, new = begun[name].values[0], before[name].values[-1], after[name].values[0]
            told.append(abs(new - last) < GOES_ON * abs(first - last))
    return bool(told) and all(told)


def _continued(kept: Mapping[str, Curve], part: Mapping[str, Curve]) -> dict[str, Curve]:
    """Two parts of a run on one clock, which the second has begun anew."""
    places = sorted({point.at for curve in kept.values() for point in curve.points})
    usual = median([b - a for a, b in pairwise(places)] or [1.0])
    start = min((point.at for curve in part.values() for point in curve.points), default=0.0)
    shift = places[-1] + usual - start
    return {
        name: Curve.of((*curve.points, *(p._replace(at=p.at + shift) for p in part[name].points)))
        for name, curve in kept.items()
    }
