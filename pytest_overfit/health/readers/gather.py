"""Rows of any log -> curves under canonical names, on one clock, with warnings.

Every reader feeds a `Gathering`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from statistics import median
from typing import Literal

from pytest_overfit.finding import counted, naming
from pytest_overfit.health.readers.axis import last_run, one_axis, passes, placed
from pytest_overfit.health.readers.epochs import Epochs
from pytest_overfit.health.readers.names import Known, known, words
from pytest_overfit.health.readers.series import (
    Series,
    name_series,
    not_logged,
    not_understood,
    settle_splits,
)
from pytest_overfit.health.run import MEASURED, WITHOUT_SPLIT, Curve, Prediction, Where

NAN = math.nan
MOST_PREDICTIONS = 200
"""Predictions kept of a split; the newest stay."""
RATE_FLOOR = 0.01
"""Share of its highest at which a learning rate has come to its floor: what is left of it changes
nothing.
"""
MOST_UNKNOWN = 200
"""Curves kept of names that are not canonical."""
ERROR_RATE_OF_NO_SHARE = 20.0
"""Error rates are percent where one is above this, which no share reaches with 20 steps a token,
...
"""
USUAL_ERROR_RATE = 1.5
"""...

or where the median is above this: a fresh network emits at every step and has a share of 5 once,
not for half of a run.
"""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What one log told. told: facts named in its text. finished, planned_steps, not_understood:
    see `Run`.

    unmet: names that the user gave a meaning and the log has not. run: the name of the run, where a
    log tells several apart by it.
    """

    clock: Literal["epoch", "step"]
    curves: Mapping[str, Curve]
    predictions: tuple[Prediction, ...] = ()
    told: Mapping[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    finished: tuple[str, ...] = ()
    planned_steps: int | None = None
    not_understood: tuple[str, ...] = ()
    unmet: tuple[str, ...] = ()
    run: str = ""


class Gathering:
    """Collects a log row by row. shares: error rates are held to be shares unless half of them are
    far above any.

    meanings: names as logged -> the canonical ones that the user says they have. split: that of all
    that does not tell its own.
    """

    def __init__(
        self, *, shares: bool = False, meanings: Mapping[str, str] | None = None, split: str = ""
    ) -> None:
        self._split = split
        self.apart: dict[str, Gathering] = {}
        self._ends: list[tuple[float, str]] = []
        self.planned_steps: int | None = None
        self.meanings = dict(meanings or {})
        self._meanings = {_spelled(name): own for name, own in self.meanings.items()}
        self._used: set[str] = set()
        self._order = 0
        self.epochs = Epochs()
        self.predictions: dict[str, deque[Prediction]] = {}
        self.told: dict[str, int] = {}
        self.warnings: list[str] = []
        self._own: dict[tuple[str, str, str], Series] = {}
        self._seen: dict[tuple[str, str, str], Series] = {}
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
            series = self._seen.get((name, split, level)) or self._new(name, split, level)
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
        if meaning is None and key not in self._own:
            if self._unknown == MOST_UNKNOWN:
                self._dropped.add(name) if len(self._dropped) < MOST_UNKNOWN else None
                return None
            self._unknown += 1
        series = self._own.setdefault(key, Series(name, meaning, *key[1:]))
        self._seen[seen] = series
        return series

    def anew(self, *, split: str = "") -> Gathering:
        """An empty one that is told the same, but for the split."""
        return Gathering(shares=self._shares, meanings=self.meanings, split=split)

    def of_run(self, name: str) -> Gathering:
        """What gathers one of several runs that a log tells apart by their names."""
        return self.apart.setdefault(name, self.anew(split=self._split))

    def _meaning(self, name: str, split: str) -> Known | None:
        spelled = next(
            (one for one in (_spelled(name), _spelled(f"{split} {name}")) if one in self._meanings),
            None,
        )
        if spelled is None:
            return known(name)
        self._used.add(spelled)
        said = self._meanings[spelled]
        own, meaning = known(name), known(said)
        assert meaning is not None
        return replace(
            meaning, rank=-1, percent=name.endswith(" %"), level=own.level if own else ""
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
            for one in self._own.values()
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
        told = math.floor(max(places, default=0.0)) + (
            self.epochs.whole and math.floor(min(places, default=1.0)) == 0
        )
        if clock == "epoch" and not self.epochs.whole:  # the next reading would lie beyond its end
            apart = [b - a for a, b in pairwise(sorted(set(places)))]
            told = max(told, math.floor(max(places, default=0.0) + median(apart or [0.0]) + 1e-6))
        if not reasons and clock == "epoch" and self.told.get("epochs", math.inf) <= told:
            reasons.append(f"all of {self.told['epochs']} epochs are told")
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
        return any(one.clocked for one in self._own.values())

    @property
    def empty(self) -> bool:
        """Whether no metric was found."""
        return not self._own

    def reading(self) -> Reading:
        """What the rows come to: curves on one clock under canonical names, and warnings."""
        warnings = list(self.warnings)
        series = tuple(self._own.values())
        not_logged(series)
        settle_splits(series, warnings)
        passes(series)
        clock, epochs = one_axis(series, self.epochs, warnings)
        steps = epochs.map()
        named = name_series(series)
        curves = last_run(
            {name: placed(series, clock, steps) for name, series in named.items()}, warnings
        )
        if clock == "step" and _counts_epochs(curves):
            clock = "epoch"
            warnings.append(
                "the log counts one by one and validates at each count: its steps are taken "
                "for epochs"
            )
        told = {
            name
            for name, series in named.items()
            if series.meaning is not None and series.meaning.percent
        }
        as_shares(curves, told, warnings, likely=self._shares)
        _losses_of_perplexities(curves, warnings)
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
        return Reading(
            clock=clock,
            curves=curves,
            predictions=tuple(
                prediction
                for split in sorted(self.predictions)
                for prediction in self.predictions[split]
            ),
            told=dict(self.told),
            warnings=tuple(warnings),
            finished=self._finished(clock, curves),
            unmet=tuple(name for name in self.meanings if _spelled(name) not in self._used),
            planned_steps=self.planned_steps,
            not_understood=strange,
        )


def _spelled(name: str) -> str:
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


def as_shares(
    curves: dict[str, Curve], told: set[str], warnings: list[str], *, likely: bool
) -> None:
    """Divide percent by 100. A metric of train and validation is in one unit; so are all error
    rates where one is surely percent.

    told: curves whose unit the log tells. likely: whether shares are expected.
    """
    # No error rate passes 1 + emitted / target tokens.
    most = 1 + max(_finite(curves, ("train_emission_ratio", "val_emission_ratio")), default=0.0)
    untold = {
        metric: [name for name in curves if name not in told and metric_of(name) == metric]
        for metric, one in MEASURED.items()
        if one.share
    }
    values = {
        metric: found for metric, names in untold.items() if (found := _finite(curves, names))
    }
    rates = [metric for metric in values if MEASURED[metric].kind == "error rate"]
    percent = {
        metric
        for metric in rates
        if _percent_error_rate(values[metric], likely or max(values[metric]) <= most)
    }
    percent |= {
        metric
        for metric in values
        if metric not in rates and max(values[metric]) > USUAL_ERROR_RATE
    }
    if any(max(values[metric]) > ERROR_RATE_OF_NO_SHARE for metric in percent.intersection(rates)):
        percent |= set(rates)
    for metric in sorted(percent):
        for name in untold[metric]:
            curves[name] = replace(
                curves[name], values=tuple(value / 100 for value in curves[name].values)
            )
        warnings.append(
            f"{' and '.join(untold[metric])}: taken for percent, since values reach "
            f"{max(values[metric]):g}"
        )


def _losses_of_perplexities(curves: dict[str, Curve], warnings: list[str]) -> None:
    """Where a log tells the perplexity of a split and no loss, its logarithm is the loss in nats a
    token.
    """
    for split in ("train", "val"):
        perplexity = curves.get(f"{split}_perplexity")
        if (
            perplexity is not None
            and f"{split}_loss" not in curves
            and all(value > 0 for value in perplexity.values)
        ):
            curves[f"{split}_loss"] = replace(
                perplexity, values=tuple(map(math.log, perplexity.values))
            )
            warnings.append(f"{split}_loss: the logarithm of {split}_perplexity")


def metric_of(name: str) -> str:
    """ "val_wer" -> "wer", "" for a name that is not canonical."""
    split, _, metric = name.partition("_")
    return metric if split in ("train", "val") else ""


def _finite(curves: Mapping[str, Curve], names: Iterable[str]) -> list[float]:
    return [
        value
        for name in names
        if name in curves
        for value in curves[name].values
        if math.isfinite(value)
    ]


def _percent_error_rate(values: list[float], likely_shares: bool) -> bool:
    highest, usual = max(values), median(values)
    if likely_shares:
        return usual > ERROR_RATE_OF_NO_SHARE
    return highest > ERROR_RATE_OF_NO_SHARE or usual > USUAL_ERROR_RATE


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
