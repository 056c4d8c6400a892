"""Rows of any log -> curves under canonical names, on one clock, with complaints. Every reader feeds a `Gathering`."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from statistics import median
from typing import Literal

from pytest_overfit.finding import counted
from pytest_overfit.health.readers.epochs import Epochs, StepMap
from pytest_overfit.health.readers.names import Known, canonical, known
from pytest_overfit.health.run import MOST_POINTS, WITHOUT_SPLIT, Curve, CurveBuilder, Prediction, Where

NAN = math.nan
MOST_PREDICTIONS = 200
"""Predictions kept of a split; the newest stay."""
MOST_UNKNOWN = 200
"""Curves kept of names that are not canonical."""
POINTS_UNKNOWN = 2_000
"""Points kept of such a curve."""
ERROR_RATE_OF_PERCENT = 3.0
"""Word error rates are percent where one is above this ..."""
ERROR_RATE_OF_NO_SHARE = 20.0
"""... and either one is above this, which no share reaches with 20 steps a token, ..."""
USUAL_ERROR_RATE = 1.5
"""... or the median is above this: a fresh network emits at every step and has a share of 5 once, not for half of a run."""
SHARES = ("blank_share", "entropy_ratio")
"""What cannot pass 1."""


class Series:
    """One metric as logged: its values and their places on both clocks and in the log."""

    def __init__(self, name: str, meant: Known | None, split: str, level: str) -> None:
        self.name = name if meant or not split else f"{split}_{name}"
        self.meant, self.split, self.level = meant, split, level
        most = MOST_POINTS if meant else POINTS_UNKNOWN
        self._builder = CurveBuilder(most)
        self.count = 0

    def add(self, value: float, epoch: float, step: float, where: Where | None) -> None:
        value = value / 100 if self.meant is not None and self.meant.percent else value
        self._builder.add(NAN, value, epoch=epoch, step=step, where=where)
        self.count += 1

    def curve(self, clock: str, steps: StepMap) -> Curve:
        """On the clock "epoch" or "step"; places that cannot be told are left out."""
        told = self._builder.curve()
        places = told.steps if clock == "step" else _in_epochs(told.epochs, told.steps, steps)
        return Curve.of(point._replace(at=at) for at, point in zip(places, told.points, strict=True) if at == at)


def _in_epochs(epochs: tuple[float, ...], steps: tuple[float, ...], known_steps: StepMap) -> list[float]:
    """The epoch of each point: its own, else that of its step; where an epoch has points at several steps, each at its part of the epoch."""
    own = [epoch if epoch == epoch or not known_steps or step != step else known_steps.whole(step) for epoch, step in zip(epochs, steps, strict=True)]
    if any(a == b and s != t and s == s and t == t for (a, s), (b, t) in pairwise(zip(own, steps, strict=True))):
        return [epoch + known_steps.within(step) if step == step else epoch for epoch, step in zip(own, steps, strict=True)]
    return own


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What one log told. told: facts named in its text."""

    clock: Literal["epoch", "step"]
    curves: Mapping[str, Curve]
    predictions: tuple[Prediction, ...] = ()
    told: Mapping[str, int] = field(default_factory=dict)
    complaints: tuple[str, ...] = ()


class Gathering:
    """Collects a log row by row. shares: error rates are held to be shares unless half of them are far above any."""

    def __init__(self, *, shares: bool = False) -> None:
        self.epochs = Epochs()
        self.predictions: dict[str, deque[Prediction]] = {}
        self.told: dict[str, int] = {}
        self.complaints: list[str] = []
        self._own: dict[tuple[str, str, str], Series] = {}
        self._met: dict[tuple[str, str, str], Series] = {}
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
    ) -> None:
        """A row. values: names as logged, and values. split, level: of names that do not say theirs. epoch, step: NaN where it has none.

        part: how far into the epoch it stands, below 1.
        """
        epoch, step = epoch if math.isfinite(epoch) else NAN, step if math.isfinite(step) else NAN
        self.epochs.add(epoch, step)
        for name, value in values:
            series = self._met.get((name, split, level)) or self._new(name, split, level)
            if series is not None:
                series.add(value, epoch + part, step, where)

    def _new(self, name: str, split: str, level: str) -> Series | None:
        """The series of a name first met with this split and level; None where there are too many of unknown name."""
        meant, met = known(name), (name, split, level)
        if meant is not None:
            split, level = "" if meant.metric in WITHOUT_SPLIT else meant.split or split, meant.level or level
        key = (name, split, level if meant else "")
        if meant is None and key not in self._own:
            if self._unknown == MOST_UNKNOWN:
                self._dropped.add(name) if len(self._dropped) < MOST_UNKNOWN else None
                return None
            self._unknown += 1
        series = self._own.setdefault(key, Series(name, meant, *key[1:]))
        self._met[met] = series
        return series

    def predict(self, prediction: Prediction) -> None:
        self.predictions.setdefault(prediction.split, deque(maxlen=MOST_PREDICTIONS)).append(prediction)

    @property
    def empty(self) -> bool:
        return not self._own

    def reading(self) -> Reading:
        complaints = list(self.complaints)
        steps = self.epochs.map()
        clock: Literal["epoch", "step"] = "epoch" if self.epochs.any else "step"
        named = name_series(self._own.values(), complaints)
        curves = {name: series.curve(clock, steps) for name, series in named.items()}
        curves = {name: curve for name, curve in curves.items() if len(curve)}
        if clock == "step" and _counts_epochs(curves):
            clock = "epoch"
            complaints.append("the log counts one by one and validates at each count: its steps are taken for epochs")
        told = {name for name, series in named.items() if series.meant is not None and series.meant.percent}
        _as_shares(curves, told, complaints, likely=self._shares)
        complaints += _disorders(curves, clock)
        complaints += self.epochs.missing()
        if self._dropped:
            more = "at least " * (len(self._dropped) == MOST_UNKNOWN) + counted(len(self._dropped), "metric")
            complaints.append(f"{more} beyond {MOST_UNKNOWN} of unknown name left out (the first by name is {min(self._dropped)})")
        return Reading(
            clock=clock,
            curves=curves,
            predictions=tuple(prediction for split in sorted(self.predictions) for prediction in self.predictions[split]),
            told=dict(self.told),
            complaints=tuple(complaints),
        )


def name_series(all_series: Iterable[Series], complaints: list[str]) -> dict[str, Series]:
    """Canonical names for those that have one: of several candidates the epoch-level, then the plainest; the others keep their own name.

    A step-level loss beside an epoch-level one is `train_loss_step`. A bare `loss` is the training one; another bare metric is the validation
    one, but the training one beside a validation one of that name.
    """
    all_series = list(all_series)
    told = {canonical(series.meant.metric, series.split) for series in all_series if series.meant and series.split}
    candidates: dict[str, list[Series]] = {}
    for series in all_series:
        if series.meant is not None:
            candidates.setdefault(_wanted(series, series.meant, told, complaints), []).append(series)
    named: dict[str, Series] = {}
    losing: list[tuple[str, Series]] = [(series.name, series) for series in all_series if series.meant is None]
    for name, rivals in candidates.items():
        first, *others = sorted(rivals, key=_preference)
        named[name] = first
        for other in others:
            own = f"{name}_step" if other.level == "step" and f"{name}_step" not in candidates else other.name
            losing.append((own, other))
    for own, series in losing:
        free = own if own not in named else f"{own}, as logged"
        while free in named:
            free += "'"
        named[free] = series
    return named


def _preference(series: Series) -> tuple[int, bool, int, int]:
    rank = series.meant.rank if series.meant else 0
    return {"epoch": 0, "": 1, "step": 2}[series.level], not series.split, rank, -series.count


def _wanted(series: Series, meant: Known, told: set[str], complaints: list[str]) -> str:
    if series.split or meant.metric in WITHOUT_SPLIT:
        return canonical(meant.metric, series.split)
    if meant.metric == "loss" or canonical(meant.metric, "val") in told:
        return canonical(meant.metric, "train")
    complaints.append(f"{series.name} does not say of which split it is: taken for validation")
    return canonical(meant.metric, "val")


def _counts_epochs(curves: Mapping[str, Curve]) -> bool:
    """Whether steps are epochs in truth: they rise by one, and each has its training and its validation loss."""
    train, val = curves.get("train_loss"), curves.get("val_loss")
    return train is not None and val is not None and len(train) > 1 and train.at == val.at and all(b - a == 1 for a, b in pairwise(train.at))


def _as_shares(curves: dict[str, Curve], told: set[str], complaints: list[str], *, likely: bool) -> None:
    """Divide percent by 100. Error rates of train and validation are in one unit, so they are judged together.

    told: curves whose unit the log tells. likely: whether shares are expected.
    """
    # No error rate passes 1 + emitted / target tokens.
    most = 1 + max(_finite(curves, ("train_emission_ratio", "val_emission_ratio")), default=0.0)
    groups = [("train_wer", "val_wer"), *((f"{split}_{metric}",) for metric in SHARES for split in ("train", "val"))]
    for group in groups:
        present = [name for name in group if name in curves and name not in told]
        values = _finite(curves, present)
        if values and (_percent_error_rate(values, likely or max(values) <= most) if "val_wer" in group else max(values) > USUAL_ERROR_RATE):
            for name in present:
                curves[name] = replace(curves[name], values=tuple(value / 100 for value in curves[name].values))
            complaints.append(f"{' and '.join(present)}: taken for percent, since values reach {max(values):g}")


def _finite(curves: Mapping[str, Curve], names: Iterable[str]) -> list[float]:
    return [value for name in names if name in curves for value in curves[name].values if math.isfinite(value)]


def _percent_error_rate(values: list[float], likely_shares: bool) -> bool:
    highest, usual = max(values), median(values)
    if likely_shares:
        return usual > ERROR_RATE_OF_NO_SHARE
    return highest > ERROR_RATE_OF_PERCENT and (highest > ERROR_RATE_OF_NO_SHARE or usual > USUAL_ERROR_RATE)


def _disorders(curves: Mapping[str, Curve], clock: str) -> list[str]:
    """Of the curve that goes back, or else repeats a place, most often."""
    if not curves:
        return []
    back, repeated, where = max((*_disorder(curve), name) for name, curve in curves.items())
    if back:
        return [f"{where}: goes back to an earlier {clock} {back} time{'s' * (back > 1)}; of a repeated {clock} the last value counts"]
    return [f"{where}: {counted(repeated, clock)} told more than once; the last value counts"] if repeated else []


def _disorder(curve: Curve) -> tuple[int, int]:
    """How often a curve goes back, and how often it repeats a place."""
    return sum(b < a for a, b in pairwise(curve.at)), sum(a == b for a, b in pairwise(curve.at))
