"""Rows of a log -> curves under canonical names, on one clock, with warnings.

Every reader feeds a `LogBuilder`. Where one file holds several runs, the clock comes back to where
it began: the last run is kept, with those that it goes on from.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from statistics import median
from typing import Literal

from pytest_overfit.finding import counted, naming
from pytest_overfit.health.curves.clock import (
    LEAST,
    Epochs,
    Placed,
    one_axis,
    placed,
)
from pytest_overfit.health.curves.curve import MOST_POINTS, Curve, Point, Where
from pytest_overfit.health.curves.metric import MEASURED, WITHOUT_SPLIT
from pytest_overfit.health.curves.metric_names import MetricName, known, words
from pytest_overfit.health.curves.series import (
    Series,
    as_shares,
    drop_afterwards,
    drop_fillers,
    drop_restated,
    drop_uncomputed,
    drop_unlogged,
    losses_of_perplexities,
    merge_passes,
    metric_of,
    name_series,
    not_understood,
    settle_splits,
)
from pytest_overfit.health.run import Prediction

NAN = math.nan
MOST_PREDICTIONS = 200
"""Predictions kept of a split; the newest stay."""
RATE_FLOOR = 0.01
"""Share of its highest at which a learning rate has come to its floor: what is left of it changes
nothing.
"""
MOST_UNKNOWN = 200
"""Curves kept of names that are not canonical."""
MOST_RESUMED = 10
"""Times that a run is resumed, at most; what goes back more often is of several processes."""
RESUMED_EPOCHS = 3
"""Whole epochs told again, at least, where a run was resumed; one or two may be a mistake."""
FAR_BEYOND = 20
"""Times the last epoch of a run at which no run begins."""
GOES_ON = 0.15
"""Share of what a loss has come by which it may differ after its run was resumed."""


@dataclass(frozen=True, kw_only=True)
class LogContents:
    """What one log holds. facts: those named in its text. finished, planned_steps, not_understood:
    see `Run`.

    not_found: names that the user gave a meaning and the log has not. run: the name of the run, where a
    log tells several apart by it.
    """

    clock: Literal["epoch", "step"]
    curves: Mapping[str, Curve]
    predictions: tuple[Prediction, ...] = ()
    facts: Mapping[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    finished: tuple[str, ...] = ()
    planned_steps: int | None = None
    not_understood: tuple[str, ...] = ()
    not_found: tuple[str, ...] = ()
    run: str = ""


class LogBuilder:
    """Collects a log row by row. shares: error rates are held to be shares unless half of them are
    far above any.

    meanings: names as logged -> the canonical ones that the user says they have. split: that of all
    that does not tell its own.
    """

    def __init__(
        self, *, shares: bool = False, meanings: Mapping[str, str] | None = None, split: str = ""
    ) -> None:
        self._split = split
        self.runs: dict[str, LogBuilder] = {}
        self._ends: list[tuple[float, str]] = []
        self.planned_steps: int | None = None
        self.meanings = dict(meanings or {})
        self._meanings = {_normalised(name): own for name, own in self.meanings.items()}
        self._meanings_used: set[str] = set()
        self._order = 0
        self.epochs = Epochs()
        self.predictions: dict[str, deque[Prediction]] = {}
        self.facts: dict[str, int] = {}
        self.warnings: list[str] = []
        self._series: dict[tuple[str, str, str], Series] = {}
        self._series_by_name: dict[tuple[str, str, str], Series] = {}
        self._unknown = 0
        self._dropped: set[str] = set()
        self._shares = shares

    def add(
        self,
        values: Iterable[tuple[str, float]],
        *,
        epoch: float = NAN,
        part: float = 0.0,
        step: float = NAN,
        split: str = "",
        level: str = "",
        where: Where | None = None,
        order: float | None = None,
    ) -> None:
        """A row. values: names as logged, and values. split, level: of names that do not say
        theirs. epoch, step: NaN where it has none.

        part: how far into the epoch it stands, below 1. where: its place in the log. order: what
        tells which rows stand between which others, such as the time of each; without it, that in
        which they come.
        """
        self._order += 1
        order = float(self._order) if order is None else order
        split = split or self._split
        epoch, step = epoch if math.isfinite(epoch) else NAN, step if math.isfinite(step) else NAN
        self.epochs.add(epoch, step)
        for name, value in values:
            series = self._series_by_name.get((name, split, level)) or self._new(name, split, level)
            if series is not None:
                series.add(value, order=order, epoch=epoch + part, step=step, where=where)

    def _new(self, name: str, split: str, level: str) -> Series | None:
        """The series of a name first met with this split and level; None where there are too many
        of unknown name.
        """
        meaning, seen = self._meaning(name, split), (name, split, level)
        if meaning is not None:
            split, level = (
                "" if meaning.metric in WITHOUT_SPLIT else meaning.split or split,
                meaning.level or level,
            )
        key = (name, split, level if meaning else "")
        if meaning is None and key not in self._series:
            if self._unknown == MOST_UNKNOWN:
                self._dropped.add(name) if len(self._dropped) < MOST_UNKNOWN else None
                return None
            self._unknown += 1
        series = self._series.setdefault(key, Series(name, meaning, *key[1:]))
        self._series_by_name[seen] = series
        return series

    def empty_copy(self, *, split: str = "") -> LogBuilder:
        """An empty one that is told the same, but for the split."""
        return LogBuilder(shares=self._shares, meanings=self.meanings, split=split)

    def of_run(self, name: str) -> LogBuilder:
        """What gathers one of several runs that a log tells apart by their names."""
        return self.runs.setdefault(name, self.empty_copy(split=self._split))

    def _meaning(self, name: str, split: str) -> MetricName | None:
        normalised = next(
            (
                one
                for one in (_normalised(name), _normalised(f"{split} {name}"))
                if one in self._meanings
            ),
            None,
        )
        if normalised is None:
            return known(name)
        self._meanings_used.add(normalised)
        canonical_name = self._meanings[normalised]
        own, meaning = known(name), known(canonical_name)
        assert meaning is not None
        return replace(
            meaning, rank=-2, percent=name.endswith(" %"), level=own.level if own else ""
        )

    def predict(self, prediction: Prediction) -> None:
        """Take one more prediction; of each split the last ones are kept."""
        self.predictions.setdefault(prediction.split, deque(maxlen=MOST_PREDICTIONS)).append(
            prediction
        )

    def end(self, why: str, *, order: float | None = None) -> None:
        """Note that the trainer says it ended; it does not count where more of training follows.

        order: as `add` takes it.
        """
        self._ends.append((float(self._order) if order is None else order, why))

    def _finished(self, clock: str, curves: Mapping[str, Curve]) -> tuple[str, ...]:
        """Why no more will be logged: what the trainer said, the end of what it planned, or a
        learning rate at its floor.
        """
        trained = [
            one.points[-1].at
            for one in self._series.values()
            if one.meaning and one.split in ("train", "") and one.meaning.metric == "loss"
        ]
        reasons = [why for order, why in self._ends if order >= max(trained, default=0.0)]
        last = max(
            (
                point.step
                for curve in curves.values()
                for point in curve.points
                if point.step == point.step
            ),
            default=-1.0,
        )
        if not reasons and self.planned_steps and last >= self.planned_steps:
            reasons.append(f"all of {self.planned_steps} steps are told")
        places = [at for curve in curves.values() for at in curve.at]
        epochs_logged = math.floor(max(places, default=0.0)) + (
            self.epochs.whole and math.floor(min(places, default=1.0)) == 0
        )
        if clock == "epoch" and not self.epochs.whole:  # the next reading would lie beyond its end
            apart = [b - a for a, b in pairwise(sorted(set(places)))]
            epochs_logged = max(
                epochs_logged, math.floor(max(places, default=0.0) + median(apart or [0.0]) + 1e-6)
            )
        if not reasons and clock == "epoch" and self.facts.get("epochs", math.inf) <= epochs_logged:
            reasons.append(f"all of {self.facts['epochs']} epochs are told")
        rates = (
            [point for point in curves["lr"].points if point.value == point.value]
            if "lr" in curves
            else []
        )
        if len(rates) >= 3 and rates[-1].value <= RATE_FLOOR * max(point.value for point in rates):
            at = f" ({rates[-1].where})" if rates[-1].where else ""
            reasons.append(f"learning rate at its floor, {rates[-1].value:.3g}{at}")
        return tuple(reasons)

    @property
    def any_clock(self) -> bool:
        """Whether any row said at which epoch or step it stands."""
        return any(one.clocked for one in self._series.values())

    @property
    def empty(self) -> bool:
        """Whether no metric was found."""
        return not self._series

    def contents(self) -> LogContents:
        """What the rows come to: curves on one clock under canonical names, and warnings."""
        warnings = list(self.warnings)
        series = tuple(self._series.values())
        drop_unlogged(series)
        drop_restated(series)
        drop_afterwards(series)
        drop_uncomputed(series)
        drop_fillers(series)
        settle_splits(series, warnings)
        merge_passes(series)
        clock, epochs = one_axis(series, self.epochs, warnings)
        steps = epochs.map()
        named = name_series(series)
        told = {name: placed(series, clock, steps) for name, series in named.items()}
        curves = last_run(told_last(told, warnings, clock), warnings)
        if clock == "step" and _counts_epochs(curves):
            clock = "epoch"
            warnings.append(
                "the log counts one by one and validates at each count: its steps are taken "
                "for epochs"
            )
        unit_known = {
            name
            for name, series in named.items()
            if series.meaning is not None and series.meaning.percent
        }
        as_shares(curves, unit_known, warnings, likely=self._shares)
        losses_of_perplexities(curves, warnings)
        warnings += _disorders(curves, clock)
        warnings += epochs.missing() if clock == "epoch" else ()
        if self._dropped:
            more = "at least " * (len(self._dropped) == MOST_UNKNOWN) + counted(
                len(self._dropped), "metric"
            )
            warnings.append(
                f"{more} beyond {MOST_UNKNOWN} of unknown name left out (the first by name is "
                f"{min(self._dropped)})"
            )
        strange = tuple(name for name in not_understood(named) if name in curves)
        lacking = [name for name in ("val_loss", "train_loss") if name not in curves]
        lacking += (
            []
            if any(
                MEASURED[metric_of(name)].kind in ("error rate", "score")
                for name in curves
                if metric_of(name) in MEASURED
            )
            else ["val_wer"]
        )
        if strange and lacking:
            warnings.append(
                f"not understood: {naming(strange)}; --overfit-metric "
                f"{lacking[0]}={strange[0]} says what one is"
            )
        return LogContents(
            clock=clock,
            curves=curves,
            predictions=tuple(
                prediction
                for split in sorted(self.predictions)
                for prediction in self.predictions[split]
            ),
            facts=dict(self.facts),
            warnings=tuple(warnings),
            finished=self._finished(clock, curves),
            not_found=tuple(
                name for name in self.meanings if _normalised(name) not in self._meanings_used
            ),
            planned_steps=self.planned_steps,
            not_understood=strange,
        )


def _normalised(name: str) -> str:
    """A name in the spelling by which the user's and the log's are compared."""
    return " ".join(words(name.removesuffix(" %")))


def _counts_epochs(curves: Mapping[str, Curve]) -> bool:
    """Whether steps are epochs in truth: they rise by one, and each has its training and its
    validation loss.
    """
    train, val = curves.get("train_loss"), curves.get("val_loss")
    return (
        train is not None
        and val is not None
        and len(train) > 1
        and train.at == val.at
        and all(b - a == 1 for a, b in pairwise(train.at))
    )


def _disorders(curves: Mapping[str, Curve], clock: str) -> list[str]:
    """Of the curve that goes back, or else repeats a place, most often."""
    if not curves:
        return []
    back, repeated, where = max((*_disorder(curve), name) for name, curve in curves.items())
    if back:
        return [
            (
                f"{where}: goes back to an earlier {clock} {back} time{'s' * (back > 1)}; of a "
                f"repeated {clock} the last value counts"
            )
        ]
    return (
        [f"{where}: {counted(repeated, clock)} told more than once; the last value counts"]
        if repeated
        else []
    )


def _disorder(curve: Curve) -> tuple[int, int]:
    """How often a curve goes back, and how often it repeats a place."""
    return sum(b < a for a, b in pairwise(curve.at)), sum(a == b for a, b in pairwise(curve.at))


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
    longest = max(range(len(parts)), key=lambda index: (lengths[index], index))
    chosen = next(
        (index for index in reversed(range(len(parts))) if lengths[index] >= LEAST), longest
    )
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
        warnings.append(
            f"the log starts anew {counted(len(parts) - 1, 'time')}; {how} is read{since}"
        )
    kept = parts[first]
    for part in parts[first + 1 : chosen + 1]:
        kept = _continued(kept, part)
    return {name: curve for name, curve in kept.items() if len(curve)}


def told_last(curves: Placed, warnings: list[str], clock: str) -> Placed:
    """The readings of a run that was resumed: what was told twice counts as it was told last. A few
    whole epochs that are told twice are told of in the curves themselves.
    """
    least = RESUMED_EPOCHS if clock == "epoch" else 1
    resumed = _retold(max(curves.values(), key=len, default=()), least)
    if resumed:
        warnings.append(
            f"the log was resumed {counted(len(resumed), 'time')} from an earlier place: what was "
            "told twice counts as it was told last"
        )
    return {name: _overwritten(curve, resumed) for name, curve in curves.items()}


def _retold(curve: Sequence[tuple[float, Point]], least: int) -> list[tuple[float, float]]:
    """(order, place) of each time that a run was resumed from a checkpoint before its end: the clock
    goes back to a place told before, not to the beginning, tells `least` places or more again, and
    goes on beyond them, unless the log ends there.

    Nothing where it does so more often than runs are resumed.
    """
    places, told, back = [point.at for _, point in curve], set[float](), []
    for index, (before, here) in enumerate(pairwise(places), 1):
        told.add(before)
        if places[0] < here < before and here in told:
            until = next((i for i in range(index, len(places)) if places[i] not in told), None)
            again, beyond = places[index:until], places[until : until + 1] if until else []
            rises = all(a < b for a, b in pairwise([*again, *beyond]))
            if rises and len(again) >= (least if until else max(least, RESUMED_EPOCHS)):
                back.append((curve[index][0], here))
    return back if len(back) <= MOST_RESUMED else []


def _overwritten(
    curve: Sequence[tuple[float, Point]], resumed: Sequence[tuple[float, float]]
) -> Sequence[tuple[float, Point]]:
    """The readings that were not told again after a run was resumed."""
    return [
        (order, point)
        for order, point in curve
        if not any(order < start and point.at >= place for start, place in resumed)
    ]


def _starts(places: Sequence[float]) -> list[int]:
    """Indices at which a run begins: the first, and each at which the clock comes back to where it
    began, or near to it where not every reading was kept, or from where it is far beyond all that
    comes: some who evaluate a given network say epoch 6667.
    """
    some = len(places) > MOST_POINTS / 2
    moved = next((index for index, place in enumerate(places) if place != places[0]), 0)
    evaluated = moved > 0 and places[0] > FAR_BEYOND * max(places[moved:])

    def begins(index: int) -> bool:
        place, before = places[index], places[index - 1]
        return (
            place == places[0]
            or (evaluated and index == moved)
            or (some and place <= places[1] < before)
        )

    return [0, *filter(begins, range(1, len(places)))]


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
    near = []
    for name in ("train_loss", "val_loss"):
        if len(before.get(name, ())) and len(after.get(name, ())):
            first, last, new = begun[name].values[0], before[name].values[-1], after[name].values[0]
            near.append(abs(new - last) < GOES_ON * abs(first - last))
    return bool(near) and all(near)


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
