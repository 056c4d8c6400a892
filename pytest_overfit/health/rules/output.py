"""What the network says: error rates that stay where they began, and outputs that are empty or far
too short.

CTC passes through a phase in which every step is blank, and every healthy output is mostly blank.
So a blank share accuses nobody, and while the loss still falls, neither does an empty output.
"""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise
from statistics import median

from pytest_overfit.finding import Finding, counted
from pytest_overfit.findings.record import Record
from pytest_overfit.health.curves.curve import Curve
from pytest_overfit.health.rules.course import RESTED, still_since, thrown_back, too_early
from pytest_overfit.health.rules.learning import CLIMB
from pytest_overfit.health.rules.loss_alone import rise_of
from pytest_overfit.health.rules.reading import (
    KNOWS,
    STUCK,
    error_rate,
    errors,
    metric_words,
    reads,
    span_words,
    value_words,
)
from pytest_overfit.health.rules.trend import (
    FEW,
    MANY,
    UNMOVED,
    between,
    falls,
    finite,
    lowest,
    may_fall,
    negated,
    never_fell,
    noise,
    smoothed,
    thinned,
)
from pytest_overfit.health.rules.words import cited_place, number, place, span
from pytest_overfit.health.run import Prediction, Run

WER_CREEP = 0.02
"""Points (as a share) by which an error rate that stands may still sink."""
ROUNDING = 0.005
"""By how much a reading may lie below STUCK and be told as that."""
NEARLY = 0.8
"""Error rate that a single reading of one which is stuck above STUCK may have touched."""
SHORT, EMPTY = 1 / 3, 0.05
"""Emitted over target tokens below which an output is far too short, and below which it is empty.
"""
FAR = 1.5
"""Error rate down to which one that comes from above 100 % has not yet settled there."""
CARRY_OVER = (
    "the network has memorised its training clips: more data, augmentation, dropout or weight "
    "decay, so that it carries over"
)
FOREVER, FALL = 5, 0.1
"""Runs as long again in which an error rate that crawls would not get anywhere; and the share by
which a loss falls from which something may come yet.
"""
CLIPS = 3
"""Predictions that a judgement takes at least."""
CONSTANT, SAME = 0.75, 0.01
"""Share of the readings at which an output that reads nothing has the same value where it does not
change; and how far the others are off.
"""
LEAST = 5
"""Readings of an error rate that a finished run must have for nothing to have been read in it."""


def validation_wer_stuck(run: Run) -> Finding | None:
    """The error rate of validation was never below 85 % and no longer falls, nor does the loss that
    should bring it down.
    """
    rate = error_rate(run, "val")
    found = [finding for finding in (_stuck(run, rate), _never_changes(run)) if finding]
    return min(found, key=lambda finding: finding.status != "confirmed", default=None)


def _stuck(run: Run, rate: Curve) -> Finding | None:
    if (
        len(rate) < 3
        or too_early(run, "val_loss")
        or min(smoothed(rate).values) <= STUCK
        or min(rate.values) <= NEARLY
    ):
        return None
    still = _never_below(run, rate)
    if still is None:
        return None
    stuck, name = between(rate, still), run.read_by("val") or ""
    best = lowest(rate)
    shown = [
        (
            f"{metric_words(run, 'val')} {span_words(run, 'val', stuck.values)} at "
            f"{counted(len(stuck), 'reading')} from {cited_place(run, name, still)} on"
        ),
        (
            f"its best is {value_words(run, 'val', rate.values[best])} at "
            f"{cited_place(run, name, rate.at[best])}"
        ),
    ]
    loss = loss_still_since(run, "val")
    shown += (
        [f"the loss that should bring it down stands still or rises since {place(run, loss)}"]
        if loss is not None
        else []
    )
    train = error_rate(run, "train")
    shown += (
        [
            (
                f"{metric_words(run, 'train')} {value_words(run, 'train', train.values[-1])} at "
                f"{place(run, train.at[-1])}"
            )
        ]
        if len(train)
        else []
    )
    return VALIDATION_WER_STUCK.finding(
        headline=(
            f"{metric_words(run, 'val')} stands at {span_words(run, 'val', stuck.values)} since "
            f"{place(run, still)}"
        ),
        evidence=tuple(shown),
        try_=CARRY_OVER if memorised(run) else CLIMB,
        status="confirmed" if min(rate.values) > STUCK - ROUNDING else "suspected",
        began=still,
    )


def _never_changes(run: Run) -> Finding | None:
    """What validation is read by has one and the same value to the last digit at nearly every
    reading: its output does not change.

    An error rate of 100 % may be the blank phase, as long as the learning rate is high, and one
    that is low the end of learning.
    """
    read = errors(run, "val")
    if len(read) < FEW or too_early(run, "val_loss"):
        return None
    value, times = Counter(read.values).most_common(1)[0]
    since = read.values.index(value)
    same = max(abs(own - value) for own in read.values[since:]) <= SAME
    if (
        value == 0.0
        or (value == 1.0 and not _rate_is_spent(run))
        or not same
        or times < (CONSTANT * len(read) if reads(run, "val") is False else len(read))
    ):
        return None
    what, shown, name = (
        metric_words(run, "val"),
        value_words(run, "val", value),
        run.read_by("val") or "",
    )
    began = read.at[since]
    return VALIDATION_WER_STUCK.finding(
        headline=(
            f"{what} is {shown} at {times} of {counted(len(read), 'reading')}: the output does not "
            "change"
        ),
        evidence=(
            (
                f"{what} {shown} at {cited_place(run, name, began)}, and to the last digit the same at "
                f"{counted(times - 1, 'later reading')}"
            ),
        ),
        try_=f"look at what is predicted, and at how it is scored; {CLIMB}",
        status="confirmed",
        began=began,
    )


def _never_below(run: Run, rate: Curve) -> float | None:
    """Since when an error rate above STUCK is stuck: it stands, and so does the loss; or neither
    moved from the start; or the run is over, and its later half brought nothing.
    """
    name, loss = run.read_by("val") or "", thinned(run.curve("val_loss"))
    nothing_read, no_loss = min(rate.values) >= 1, len(loss) < 3 and min(rate.values) > 1
    still = still_since(run, name, creep=WER_CREEP)
    if still is None and nothing_read and rate.values[-1] < FAR:  # shorter is no better read
        still = settled_below(rate, FAR, else_at=rate.at[-1])
    if still is not None and (no_loss or loss_still_since(run, "val") is not None):
        return still
    if len(loss) >= UNMOVED and never_fell(loss) and not falls(thinned(rate), WER_CREEP):
        return rate.at[0]
    if _alone_and_unmoved(run, rate):
        return rate.at[0]
    over = _over_unread(run, rate, loss)
    return rate.at[0] if over is None and _crawls(run, rate) else over


def _alone_and_unmoved(run: Run, rate: Curve) -> bool:
    """Whether an error rate that no loss stands beside does not fall, and is not that of an empty
    output, which may still be in the blank phase.
    """
    no_loss = not any(len(run.curve(name)) for name in ("train_loss", "val_loss"))
    says_something = any(abs(value - 1) > EMPTY for value in rate.values)
    still = len(rate) >= UNMOVED and not may_fall(thinned(rate), WER_CREEP)
    return no_loss and says_something and still


def _crawls(run: Run, rate: Curve) -> bool:
    """Whether an error rate sinks, all along and beyond its noise, at a pace that FOREVER runs as
    long would not bring it below STUCK, and no loss falls by a tenth in its later half.

    One that stands at 100 % is of an empty output and may be in the blank phase; one that crawls
    is not.
    """
    if len(rate) < UNMOVED:
        return False
    third = len(rate) // 3
    first, last = median(rate.values[:third]), median(rate.values[-third:])
    gain = 1.5 * (first - last)
    crawls = gain > 4 * noise(rate) / math.sqrt(third) and last - STUCK > FOREVER * gain
    return crawls and not any(
        _falls_lately(finite(run.curve(name))) for name in ("train_loss", "val_loss")
    )


def _falls_lately(loss: Curve) -> bool:
    """Whether a loss came down by a tenth or more in its later half."""
    half = thinned(between(loss, (loss.at[0] + loss.at[-1]) / 2)).values if len(loss) else ()
    part = max(len(half) // 3, 1)
    return len(half) > 1 and median(half[-part:]) < (1 - FALL) * median(half[:part])


def _rate_is_spent(run: Run) -> bool:
    """Whether the learning rate has come down to a share of its highest without ever being raised
    again: what it brings comes before that.
    """
    rates = thinned(run.curve("lr")).values
    if len(rates) < FEW or rates[-1] > RESTED * max(rates):
        return False
    falling = rates[rates.index(max(rates)) :]
    return all(a >= b for a, b in pairwise(falling))


def _over_unread(run: Run, rate: Curve, loss: Curve) -> float | None:
    """Since when the error rate of a run that is over brought nothing, without ever having come
    below STUCK: its last third, after which as long again at its pace would not bring it there
    either, and what was before that and no worse. Nothing where training loss, which alone is told
    beside it, still falls, and is not known to be learnt by heart.
    """
    if not run.finished or len(rate) < LEAST:
        return None
    if not len(loss) and not memorised(run) and _falls_lately(finite(run.curve("train_loss"))):
        return None
    last = thinned(between(rate, rate.at[0] + (rate.at[-1] - rate.at[0]) * 2 / 3))
    fell = thinned(between(loss, last.at[0]))
    if len(last) < 2 or (len(fell) >= 2 and falls(fell)):
        return None
    half = len(last) // 2
    level = median(last.values[-half:])
    gain = median(last.values[:half]) - level
    if level - 2 * gain <= STUCK:
        return None
    worse = [
        at for at, value in zip(rate.at, rate.values, strict=True) if value > level + WER_CREEP
    ]
    last_worse = max(worse, default=-math.inf)
    return next((at for at in rate.at if last_worse < at < last.at[0]), last.at[0])


def memorised(run: Run) -> bool:
    """Whether the log shows that the training clips are read."""
    rate = error_rate(run, "train")
    return len(rate) > 0 and rate.values[-1] < KNOWS


def loss_still_since(run: Run, split: str) -> float | None:
    """Since when the loss that a split's output depends on stands still, or has risen for MANY
    readings: its own, or the other's where its own was not read.
    """
    names = [f"{split}_loss", "train_loss", "val_loss"]
    name = next((name for name in names if len(finite(run.curve(name))) >= 3), names[0])
    if thrown_back(run) or too_early(run, name):
        return None
    still, rise = still_since(run, name), rise_of(run, run.curve(name))
    return rise.since if still is None and rise and rise.readings >= MANY else still


def predictions_too_short(run: Run) -> Finding | None:
    """The output is empty, or has less than a third of the tokens it should, though the loss no
    longer falls.
    """
    for split in ("val", "train"):
        still = loss_still_since(run, split)
        if still is None:
            continue
        # A ratio over the whole split decides alone: the few clips that are shown may be its worst.
        counted_all = len(finite(run.curve(f"{split}_emission_ratio"))) >= 3
        found = (
            _short_by_ratio(run, split, still)
            if counted_all
            else _short_by_clips(run, split, still)
        )
        if found:
            return found
    return None


def _finding(
    run: Run, split: str, ratio: float, began: float, shown: list[str], still: float
) -> Finding:
    of = {"val": "validation", "train": "training"}[split]
    what = f"{of} predictions are " + ("empty" if ratio < EMPTY else "far too short")
    return PREDICTIONS_TOO_SHORT.finding(
        headline=f"{what}: {number(ratio)} tokens emitted for each target token",
        evidence=(
            *shown,
            (
                f"the loss stands still or rises since {place(run, still)}, so this is not the "
                "blank phase that every CTC run begins with"
            ),
        ),
        try_=CARRY_OVER
        if memorised(run)
        else f"{CLIMB}; a smaller blank bias, a higher learning rate, a warm-up",
        status="confirmed",
        began=began,
    )


def _short_by_ratio(run: Run, split: str, still: float) -> Finding | None:
    name = f"{split}_emission_ratio"
    ratios = thinned(between(run.curve(name), still))
    if len(ratios) < 3 or falls(negated(ratios), creep=WER_CREEP):
        return None
    ratio = median(ratios.values[-max(len(ratios) // 3, 3) :])
    if ratio + noise(ratios) >= SHORT:
        return None
    short = settled_below(thinned(run.curve(name)), SHORT, else_at=still)
    shown = [
        (
            f"emitted / target tokens {span(ratios.values)} at {counted(len(ratios), 'reading')} "
            f"from {cited_place(run, name, ratios.at[0])} on"
        )
    ]
    return _finding(
        run,
        split,
        ratio,
        max(still, short),
        [*shown, f"below {SHORT:.2f} since {place(run, short)}"],
        still,
    )


def _short_by_clips(run: Run, split: str, still: float) -> Finding | None:
    clips = latest_predictions(run, split, still)
    tokens = sum(len(clip.target) for clip in clips)
    if len(clips) < CLIPS or not tokens:
        return None
    ratio = sum(len(clip.prediction) for clip in clips) / tokens
    short = sum(len(clip.prediction) < SHORT * len(clip.target) for clip in clips)
    if ratio >= SHORT or short < 0.8 * len(clips):
        return None
    emitted, due = (
        sorted(len(clip.prediction) for clip in clips),
        sorted(len(clip.target) for clip in clips),
    )
    empty = sum(not clip.prediction for clip in clips)
    shown = [
        (
            f"{words_span(emitted)} words for {words_span(due)} in "
            f"{counted(len(clips), 'prediction')}, {empty} of them empty"
        )
    ]
    return _finding(run, split, ratio, still, shown, still)


def settled_below(curve: Curve, bound: float, *, else_at: float) -> float:
    """The place from which a curve stays below a bound."""
    above = [i for i, value in enumerate(curve.values) if value >= bound]
    first = above[-1] + 1 if above else 0
    return curve.at[first] if first < len(curve) else else_at


def words_span(counts: list[int]) -> str:
    """A range of counts in words, from counts in ascending order."""
    return f"{counts[0]}" if counts[0] == counts[-1] else f"{counts[0]}-{counts[-1]}"


def latest_predictions(run: Run, split: str, since: float) -> list[Prediction]:
    """The predictions of a split from `since` on; those of unknown split count as validation, those
    of unknown place as the last ones.
    """
    splits = ("val", "") if split == "val" else (split,)
    return [
        clip
        for clip in run.predictions
        if clip.split in splits and clip.target and (clip.at is None or clip.at >= since)
    ]


def outputs(run: Run) -> str | None:
    """What `predictions_too_short` needs and a run lacks."""
    counted_ones = any(
        len(finite(run.curve(f"{split}_emission_ratio"))) >= 3 for split in ("val", "train")
    )
    return (
        None
        if counted_ones or len(run.predictions) >= CLIPS
        else f"val_emission_ratio or {CLIPS} predictions"
    )


VALIDATION_WER_STUCK = Record(
    name="validation_wer_stuck",
    stage="run",
    means=(
        "The error rate of validation was never below 85 % and no longer falls, nor does the "
        "loss that should bring it down; or it is the same to the last digit at every "
        "reading."
    ),
    detected=(
        "The error rate, single readings aside, was never below 85 %, and one of four holds: "
        "it stands still, or was never below 100 %, and the loss stands still or has risen for "
        "thirty readings since its best; neither has moved since the beginning, or it alone is told and has "
        "not, in ten readings; or the run is over, and its last "
        "third, which brought nothing, would not bring it below 85 % if repeated; or it crawls, so "
        "that five runs as long would not either, while no loss falls by a tenth. Suspected "
        "where a single reading was below 85 %, never where one was below 80 %. Or one value "
        "makes up every reading (three of four, the others within a point of it, where next "
        "to nothing is read); 100 % counts once the learning rate has come down, 0 % never."
    ),
    mend=(
        "See whether the network can memorise a few clips at all (pytest -m overfit); where it "
        "can, more data, augmentation or regularisation."
    ),
    no_remedy=(
        "a log cannot be trained again; the next command to run is printed, the ladder of this tool"
    ),
    planted=("collapsed",),
)
PREDICTIONS_TOO_SHORT = Record(
    name="predictions_too_short",
    stage="run",
    means="The output is empty, or has less than a third of the tokens it should, though the loss "
    "no longer falls: the blank phase that "
    "every CTC run begins with was never left.",
    detected=(
        "While the loss stands still, or has risen for thirty readings since its best, "
        "emitted over target tokens stays below a third, beyond its noise, and does not rise: "
        "over the whole split, or, where the log does not have that ratio, over three "
        "predictions or more, four of five of which are that short."
    ),
    mend=(
        "See whether the network can memorise a few clips at all (pytest -m overfit); a smaller "
        "blank bias, a higher learning rate, a warm-up."
    ),
    no_remedy=(
        "a log cannot be trained again; the next command to run is printed, the ladder of this tool"
    ),
    planted=(
        "collapsed",
        "short_output",
    ),
)
