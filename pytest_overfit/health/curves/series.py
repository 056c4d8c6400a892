"""One metric as logged, and what it is: its canonical name, its split and its unit."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby, pairwise
from statistics import fmean, median

from pytest_overfit.finding import naming
from pytest_overfit.health.curves.curve import MOST_POINTS, Curve, CurveBuilder, Point, Where
from pytest_overfit.health.curves.metric import MEASURED, WITHOUT_SPLIT
from pytest_overfit.health.curves.metric_names import (
    BESIDE_LOSS,
    NAMED_APART,
    NOT_OF_NOW,
    SPLITS,
    MetricName,
    canonical,
    known,
    words,
)

RUNNING = frozenset({"avg", "average", "mean", "running"})
"""Words of names that tell a mean over the batches so far."""
POINTS_UNKNOWN = 2_000
"""Points kept of a curve whose name is not canonical."""
SUMS = 5.0
"""Multiple of the loss of a batch above which a total is a sum over batches."""
CURVE = 3
"""Readings of a curve; a single one of the same meaning told after it, at no later place, is its
summary.
"""
OF_MACHINE = frozenset(
    {
        "time",
        "second",
        "seconds",
        "runtime",
        "memory",
        "mem",
        "gpu",
        "cpu",
        "eta",
        "samples",
        "speed",
        "flos",
        "ips",
        "fps",
        "count",
        "wall",
    }
)
"""Words of names that tell of the machine, not of learning."""
ERROR_RATE_OF_NO_SHARE = 20.0
"""Error rates are percent where one is above this, which no share reaches with 20 steps a token,
...
"""
USUAL_ERROR_RATE = 1.5
"""...

or where the median is above this: a fresh network emits at every step and has a share of 5 once,
not for half of a run.
"""
MANY_TIMES = 8
"""Readings of one place, over those of any other, from which they are of no curve."""
SEVERAL, ONCE = 2.5, 1.2
"""Readings of an epoch, or of a step without one, from which a metric is told of its parts, and up
to which it is told of the whole.
"""


class Series:
    """One metric as logged: its values and their places on both clocks and in the log.

    The `at` of its points is their order in the log.
    """

    def __init__(self, name: str, meaning: MetricName | None, split: str, level: str) -> None:
        named_with_split = not split or any(word in SPLITS for word in words(name))
        self.logged, self.name = name, name if named_with_split else f"{split}_{name}"
        self.meaning, self.split, self.level = meaning, split, level
        self._builder = CurveBuilder(MOST_POINTS if meaning else POINTS_UNKNOWN)
        self._placed: Sequence[Point] | None = None
        self.count = 0
        self.clocked = False

    def add(
        self, value: float, *, order: float, epoch: float, step: float, where: Where | None
    ) -> None:
        """Take one more value, as a share where percent is meant."""
        if self.meaning is not None:
            value = (
                value / 100 if self.meaning.percent else -value if self.meaning.negated else value
            )
        self._builder.add(order, value, epoch=epoch, step=step, where=where)
        self.count += 1
        self.clocked = self.clocked or epoch == epoch or step == step

    @property
    def points(self) -> Sequence[Point]:
        """Its values with their places."""
        return self._builder.points if self._placed is None else self._placed

    @property
    def any_number(self) -> bool:
        """Whether one of its values is finite."""
        return any(math.isfinite(point.value) for point in self.points)

    @property
    def all_numbers(self) -> bool:
        """Whether all of its values are finite."""
        return all(math.isfinite(point.value) for point in self.points)

    def place(self, points: Sequence[Point]) -> None:
        """Put other points in the place of those logged."""
        self._placed = points


def drop_unlogged(all_series: Sequence[Series]) -> None:
    """Leave out what is no number in every row in which another metric is one, and the other where it
    is: a table whose rows tell the one or the other, and NaN for what they do not tell.
    """
    sparse = [one for one in all_series if one.meaning and not one.all_numbers and one.any_number]
    numbers = [{point.at: math.isfinite(point.value) for point in one.points} for one in sparse]
    for one, own in zip(sparse, numbers, strict=True):
        rows = set[float]()
        for theirs in numbers:
            shared = own.keys() & theirs.keys()
            here, there = ({at for at in shared if of[at]} for of in (own, theirs))
            if min(len(here), len(there)) >= CURVE and here.isdisjoint(there):
                rows |= there
        one.place([point for point in one.points if point.at not in rows])


def drop_restated(all_series: Sequence[Series]) -> None:
    """Leave out what a log tells at its end of an earlier epoch, its best: the last readings of two
    metrics or more that are to the last digit those of one earlier epoch, where their own epoch
    has told other ones.
    """
    ends = [one for one in all_series if one.meaning and len(one.points) > CURVE]
    said: dict[float, list[Series]] = {}
    for one in ends:
        *before, last = one.points
        if any(p.epoch == last.epoch and p.value != last.value for p in before):
            for epoch in {p.epoch for p in before if p.value == last.value}:
                if epoch < last.epoch and math.isfinite(last.value):
                    said.setdefault(epoch, []).append(one)
    said = {
        epoch: told
        for epoch, told in said.items()
        if not any(  # beside what is the same, another value of its row tells of another epoch
            one not in told and one.points[-1].at == told[0].points[-1].at for one in ends
        )
    }
    restated = max(said.values(), key=len, default=[])
    for one in restated if len(restated) > 1 else []:
        one.place(one.points[:-1])


def drop_afterwards(all_series: Sequence[Series]) -> None:
    """Leave out what is measured when training is over, as of single clips: what stands at the last
    place beyond the number of readings of any place before, where it is many times that.
    """
    for one in all_series:
        if one.meaning is None or (one.meaning.metric, one.split) == ("loss", "train"):
            continue
        places = [list(group) for _, group in groupby(one.points, key=lambda p: (p.epoch, p.step))]
        if len(places) < CURVE or not one.clocked:
            continue
        usual = max(map(len, places[:-1]))
        if len(places[-1]) >= MANY_TIMES * usual:
            one.place([point for place in places[:-1] for point in place] + places[-1][:usual])


def drop_uncomputed(all_series: Sequence[Series]) -> None:
    """Take an error rate that is 0 in every reading for what a trainer names and does not compute,
    where another of the same split is not: an output without a wrong word has no wrong character.
    """
    rates = [
        one
        for one in all_series
        if one.meaning
        and MEASURED[one.meaning.metric].kind == "error rate"
        and len(one.points) >= CURVE
    ]
    flawless = [one for one in rates if not any(point.value for point in one.points)]
    for one in flawless:
        if any(other.split == one.split and other not in flawless for other in rates):
            one.meaning = None


def drop_fillers(all_series: Sequence[Series]) -> None:
    """Take zeros for what a trainer writes where it has measured nothing, in an error rate or a score
    that is another number at every so many-th reading and at no other.
    """
    for one in all_series:
        if one.meaning is None or MEASURED[one.meaning.metric].kind not in ("error rate", "score"):
            continue
        told = [index for index, point in enumerate(one.points) if point.value != 0]
        apart = {b - a for a, b in pairwise(told)}
        if len(told) >= CURVE and len(apart) == 1 and apart.pop() > 1:
            one.place([one.points[index] for index in told])


def merge_passes(series: Sequence[Series]) -> None:
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
            len(groups) >= CURVE
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


def settle_splits(all_series: Sequence[Series], warnings: list[str]) -> None:
    """Give metrics that do not say of which split they are the one that they must be.

    A bare loss is the training one. Another bare metric is the validation one, but the training one
    beside a validation one of that name, as is an accuracy that is told with a bare loss. Where
    nothing is told of validation, what is told of tests again and again is taken for it.
    """
    _loss_of_own_name(all_series, warnings)
    _test_for_validation(all_series, warnings)
    _share_of_a_split(all_series, warnings)
    told = {(one.meaning.metric, one.split) for one in all_series if one.meaning}
    trained = {("loss", "train"), ("error", "train")} <= told
    for series in all_series:  # without a loss beside it, an error may be anything, a rate aside
        if (
            series.meaning is None
            or series.meaning.metric != "error"
            or "rate" in words(series.logged)
        ):
            continue
        of = {series.split} if series.split else {"", "val"}
        if not trained and told.isdisjoint(("loss", split) for split in of):
            series.meaning = None
    with_split = {
        canonical(series.meaning.metric, series.split)
        for series in all_series
        if series.meaning and series.split and (series.count >= CURVE or series.clocked)
    }
    losses = [
        series
        for series in all_series
        if series.meaning and series.meaning.metric == "loss" and not series.split
    ]
    for series in all_series:
        if (
            series.meaning is None
            or series.split
            or series.meaning.metric in WITHOUT_SPLIT
            or MEASURED[series.meaning.metric].kind == "loss"
        ):
            continue
        of_batches = series.meaning.metric in ("accuracy", "char_accuracy") and any(
            _logged_together(loss, series) for loss in losses
        )
        if not of_batches and canonical(series.meaning.metric, "val") not in with_split:
            series.split = "val"
            warnings.append(
                f"{series.name} does not say of which split it is: taken for validation"
            )


def name_series(all_series: Iterable[Series]) -> dict[str, Series]:
    """Canonical names for those that have one: of several candidates the epoch-level, then the
    plainest; the others keep their own name.

    A step-level loss beside an epoch-level one is `train_loss_step`. What is of no split here is of
    training, see `settle_splits`.
    """
    all_series = list(all_series)
    candidates: dict[str, list[Series]] = {}
    for series in all_series:
        if series.meaning is not None:
            candidates.setdefault(
                canonical(series.meaning.metric, series.split or "train"), []
            ).append(series)
    named: dict[str, Series] = {}
    losing: list[tuple[str, Series]] = [
        (series.name, series) for series in all_series if series.meaning is None
    ]
    for name, rivals in candidates.items():
        first, *others = sorted(
            rivals,
            key=lambda series: (
                not series.clocked,
                _sums_up(series, rivals),
                not series.any_number,
                *_preference(series, rivals),
            ),
        )
        named[name] = first
        for other in others:
            taken = {*candidates, *(own for own, _ in losing)}
            of_steps = other.level == "step" != first.level and f"{name}_step" not in taken
            losing.append((f"{name}_step" if of_steps else other.name, other))
    for own, series in losing:
        free = own if own not in named else f"{own}, as logged"
        while free in named:
            free += "'"
        named[free] = series
    return named


def _logged_together(loss: Series, score: Series) -> bool:
    """Whether a score is told of what a loss is told of: in the same rows, or as often."""
    rows = {point.at for point in loss.points}
    as_often = score.count >= loss.count >= CURVE
    return as_often or any(point.at in rows for point in score.points)


def _loss_of_own_name(all_series: Sequence[Series], warnings: list[str]) -> None:
    """Where no validation loss has a plain name, the first of those with one of their own, as
    `eval_g0_loss`, that is told most often.
    """
    if any(
        one.split == "val" and one.meaning and one.meaning.metric in ("loss", "perplexity")
        for one in all_series
    ):
        return
    found = [
        one
        for one in all_series
        if one.meaning is None and one.count >= CURVE and _is_validation_loss(words(one.name))
    ]
    if found:
        first = max(found, key=lambda one: one.count)
        first.meaning, first.split = known("val_loss"), "val"
        others = naming([one.name for one in found if one is not first])
        warnings.append(
            f"{first.name}: taken for the validation loss"
            + (f"; {others} are not judged" if others else "")
        )


def _is_validation_loss(parts: Sequence[str]) -> bool:
    """Whether a name holds a word of validation and that of a loss, and none of another time."""
    validates = {SPLITS.get(part) for part in parts} - {None} == {"val"}
    return validates and "loss" in parts and NOT_OF_NOW.isdisjoint(parts)


def _test_for_validation(all_series: Sequence[Series], warnings: list[str]) -> None:
    if any(
        series.split == "val" and series.meaning and MEASURED[series.meaning.metric].better
        for series in all_series
    ):
        return
    taken = []
    for series in all_series:
        meaning = (
            known(series.name.lower().replace("test", "val"))
            if series.meaning is None and series.count >= CURVE
            else None
        )
        if meaning is not None and meaning.split == "val" and MEASURED[meaning.metric].better:
            series.meaning, series.split = meaning, "val"
            series.place([replace_value(point, meaning) for point in series.points])
            taken.append(series.name)
    if taken:
        warnings.append(f"nothing tells of validation: {', '.join(taken)} taken for it")


def _share_of_a_split(all_series: Sequence[Series], warnings: list[str]) -> None:
    """What is told as `dev 35.2%`, or as `vl=1.80/0.48` behind a loss: the error rate, where that of
    training falls, or its own where there is none, else the accuracy.
    """
    told: dict[str, dict[str, Series]] = {}
    for series in all_series:
        bare = _bare_split(series.logged)
        if series.meaning is None and bare and series.count > 1:
            told.setdefault(series.logged.lower().removeprefix(bare), {})[bare] = series
    for behind, of_split in told.items():
        learns = next(
            (one for bare, one in of_split.items() if SPLITS[bare] == "train"),
            next(iter(of_split.values())),
        )
        falls = learns.points[-1].value < learns.points[0].value
        percent = "%" in behind
        meaning = MetricName(metric="wer" if falls else "accuracy", percent=percent, rank=90)
        for bare, series in of_split.items():
            series.meaning, series.split = meaning, SPLITS[bare]
            series.place([replace_value(point, meaning) for point in series.points])
            warnings.append(
                f"{bare} {'in percent' if percent else 'behind its loss'}: taken for the "
                f"{'WER, since it falls' if falls else 'accuracy, since it does not fall'}"
            )


def _bare_split(name: str) -> str:
    """The split of a share that is named after nothing else, "" for any other name."""
    name = name.lower()
    bare = name.removesuffix(" %").removesuffix(f"_{BESIDE_LOSS}").strip()
    return bare if bare in SPLITS and bare != name else ""


def replace_value(point: Point, meaning: MetricName) -> Point:
    """A reading taken before its name was understood, in the unit that the name tells."""
    return point._replace(
        value=point.value / 100
        if meaning.percent
        else -point.value
        if meaning.negated
        else point.value
    )


def _sums_up(series: Series, rivals: Sequence[Series]) -> bool:
    """Whether it sums another curve up: told once after that ended, of nothing that came later, or
    as the total of what each batch tells.
    """
    if (
        series.meaning
        and series.meaning.total
        and series.level != "step"
        and any(_sum_of(series, rival) for rival in rivals)
    ):
        return True
    if series.count != 1:
        return False
    point = series.points[0]
    lasts = [rival.points[-1] for rival in rivals if rival.count >= CURVE]
    return any(
        last.at < point.at and not (point.epoch > last.epoch or point.step > last.step)
        for last in lasts
    )


def _sum_of(series: Series, rival: Series) -> bool:
    """Whether one that calls itself a total sums up what another tells of each batch: told less
    often, or far above it.
    """
    if rival.level != "step" or not rival.count:
        return False
    high, low = (median(point.value for point in one.points) for one in (series, rival))
    return rival.count > series.count or high > SUMS * abs(low)


def _preference(
    series: Series, rivals: Sequence[Series]
) -> tuple[int, bool, bool, bool, bool, int, int, float]:
    rank = series.meaning.rank if series.meaning else 0
    level = {"epoch": 0, "": 1, "step": 2}[series.level]
    of_parts = any(_of_parts(series, rival) for rival in rivals)
    mean = any(_mean_of(series, rival) for rival in rivals)
    some = any(_some_of(series, rival) for rival in rivals)
    # Of the outputs of several parts, `Conv wer` and `LSTM wer`, the last that is told is the whole's.
    told = -series.points[0].at if rank >= NAMED_APART and series.points else 0.0
    return level, of_parts, some, not mean, not series.split, rank, -series.count, told


def _some_of(series: Series, rival: Series) -> bool:
    """Whether it repeats some of what another tells at more places, as lines do that tell of a new
    best.
    """
    if rival.count <= series.count:  # most often: no need to look at each reading
        return False
    told = {(point.epoch, point.step): point.value for point in rival.points}
    return len(told) > max(ONCE * series.count, CURVE - 1) and all(
        told.get((point.epoch, point.step)) == point.value for point in series.points
    )


def _mean_of(series: Series, rival: Series) -> bool:
    """Whether it is told as the mean of each epoch for which another, as a bar at its end, has told a
    last batch before.
    """
    if RUNNING.isdisjoint(words(series.logged)) or not RUNNING.isdisjoint(words(rival.logged)):
        return False
    pairs = list(zip(series.points, rival.points, strict=False))
    return len(pairs) >= CURVE and all(
        mean.epoch == last.epoch and mean.at > last.at for mean, last in pairs
    )


def _of_parts(series: Series, rival: Series) -> bool:
    """Whether it tells several parts, batches or recordings, of what another tells as one."""
    each, whole = (
        {math.floor(p.epoch) if p.epoch == p.epoch else p.step for p in one.points}
        for one in (series, rival)
    )
    return (
        len(whole) >= CURVE
        and 2 * len(whole) >= len(each)
        and len(series.points) >= SEVERAL * len(each)
        and len(rival.points) <= ONCE * len(whole)
    )


def not_understood(named: Mapping[str, Series]) -> tuple[str, ...]:
    """The names of metrics, as logged, that mean nothing canonical and tell neither of the machine
    nor of another time or split.
    """
    return tuple(
        name
        for name, series in named.items()
        if series.meaning is None and (OF_MACHINE | NOT_OF_NOW).isdisjoint(words(name))
    )


def as_shares(
    curves: dict[str, Curve], unit_known: set[str], warnings: list[str], *, likely: bool
) -> None:
    """Divide percent by 100. A metric of train and validation is in one unit; so are all error
    rates where one is surely percent.

    unit_known: curves whose unit the log tells. likely: whether shares are expected.
    """
    # No error rate passes 1 + emitted / target tokens.
    most = 1 + max(_finite(curves, ("train_emission_ratio", "val_emission_ratio")), default=0.0)
    unit_unknown = {
        metric: [name for name in curves if name not in unit_known and metric_of(name) == metric]
        for metric, one in MEASURED.items()
        if one.share
    }
    values = {
        metric: found for metric, names in unit_unknown.items() if (found := _finite(curves, names))
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
    percent |= _beside_percent(values, percent)
    for metric in sorted(percent):
        for name in unit_unknown[metric]:
            curves[name] = replace(
                curves[name], values=tuple(value / 100 for value in curves[name].values)
            )
        warnings.append(
            f"{' and '.join(unit_unknown[metric])}: taken for percent, since values reach "
            f"{max(values[metric]):g}"
        )


def _beside_percent(values: Mapping[str, list[float]], percent: set[str]) -> set[str]:
    """The error rates of parts of words which as shares would be higher than that of words, which
    is percent, and as percent are not: part of a word is right where the word is not.
    """
    if "wer" not in percent:
        return set()
    words_wrong = median(values["wer"])
    return {
        metric
        for metric in ("ter", "per", "ler", "cer")
        if metric in values and words_wrong / 100 < median(values[metric]) <= words_wrong
    }


def losses_of_perplexities(curves: dict[str, Curve], warnings: list[str]) -> None:
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
