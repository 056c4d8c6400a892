"""Learning that does not carry over: validation turns while training goes on, or stays far behind.

A loss can get worse while reading does not, so the error rate is asked first: see
`rules.loss_alone`.
"""

from __future__ import annotations

import math
from itertools import pairwise
from statistics import median

from pytest_overfit.finding import Finding, counted
from pytest_overfit.findings.record import Record
from pytest_overfit.health.curves.curve import Curve
from pytest_overfit.health.rules.course import (
    THROWN_BACK_SHARE,
    early_in_plan,
    is_excerpt,
    nearly_done,
    still_since,
    thrown_back,
)
from pytest_overfit.health.rules.learning import ignores_input, looks_at_input
from pytest_overfit.health.rules.loss_alone import LEAST, reading_harmed, rise_of
from pytest_overfit.health.rules.reading import (
    KNOWS,
    STUCK,
    error_rate,
    errors,
    metric_words,
    reads,
    reads_better,
    value_words,
)
from pytest_overfit.health.rules.trend import (
    CREEP,
    FEW,
    LIKELY,
    RISE,
    Rise,
    between,
    comes_down,
    falls,
    finite,
    lowest,
    noise,
    reading_at,
    smoothed,
    thinned,
)
from pytest_overfit.health.rules.words import certainty, cited_place, number, place, share, span
from pytest_overfit.health.run import Run

LEARNT, STEADY = 0.1, 5
"""Share of its value at the best reading by which training loss must have fallen since, where it
has few readings, and validation loss have risen, where nothing read is the worse for it; and how
many readings, each below the one before, make CREEP enough.
"""
SURE, SURE_IF_LONG, LONG = 4.0, 3.0, 0.3
"""Multiple of its noise from which a rise convicts: noise that wanders makes smaller ones by
chance; and of one that has lasted for so long a share of its run, which chance seldom does.
"""
EMPTY = 0.005
"""How far the error rate of an empty output may be from 100 %."""
READ_OFTEN = 12
"""Readings that show that one that is still misread has come to stand."""
ENDED = 5
"""Readings of a loss that show the same of a run that is over: its trainer has waited."""
HALF = 0.5
"""Share of a run that an error rate must have risen for to convict although the loss still falls."""
GAPS = (2.0, 1.0)
"""Validation minus training loss that is wide, in nats per token."""
HUGE_SHARE, UNREAD = 0.95, 0.2
"""Share of the validation loss that a gap is in a log that begins after the turn; and the error
rate below which what is validated is read, whatever its loss.
"""
GAP_SHARE, LEAST_SHARE = 0.4, 0.1
"""Share of the validation loss that a wide gap is in an unknown unit; and the least that it is in
nats per token.
"""


def _goes_on(curve: Curve, rise: Rise | None) -> bool:
    """Whether a curve has not come down again since it rose."""
    after = [at for at in curve.at if rise and at > rise.since]
    return len(after) > 0 and not comes_down(thinned(between(curve, after[0])))


def validation_loss_rises(run: Run) -> Finding | None:
    """Validation loss has risen since its best, beyond its noise and for long, while training loss
    fell, or none was read.
    """
    rise = rise_of(run, run.curve("val_loss"))
    if (
        rise is None
        or not _goes_on(finite(run.curve("val_loss")), rise)
        or not looks_at_input(run, "train")
        or _all_blank_yet(run)
    ):
        return None
    trained, learns = learns_on(run, rise.since), reads_better(run, rise.since)
    harmed = reading_harmed(run, rise.since)
    if (
        (trained is False and not _memorised(run))
        or (trained is None and learns)
        or (rise.share < LEARNT and not harmed)
    ):
        return None
    exact, train = finite(run.curve("val_loss")), finite(run.curve("train_loss"))
    best, low, end = exact.at[lowest(exact)], min(exact.values), exact.at[-1]
    shown = [
        f"validation loss {number(low)} at {cited_place(run, 'val_loss', best)}, the best of "
        f"{counted(len(exact), 'reading')}; "
        f"{number(exact.values[-1])} at {cited_place(run, 'val_loss', end)}"
        + (f" ({share(exact.values[-1] / low - 1)} above it)" if low > 0 else ""),
        certainty(rise),
    ]
    if len(train):
        shown.append(
            f"training loss meanwhile {number(reading_at(train, best))} -> "
            f"{number(reading_at(train, end))}"
        )
    else:
        shown.append("no training loss in the log: whether training went on learning is not shown")
    shown += _read_since(run, best, learns)
    read = errors(run, "val")
    keep = read.at[lowest(read)] if len(read) and _read_gained(run, best) else best
    if run.facts.parameters and run.facts.train_samples:
        shown.append(
            f"{run.facts.parameters / run.facts.train_samples:,.0f} parameters for each of "
            f"{run.facts.train_samples} training samples"
        )
    return VALIDATION_LOSS_RISES.finding(
        headline=f"validation loss rises since {place(run, best)}"
        + (" while training loss falls" if trained else ""),
        evidence=tuple(shown),
        try_=(
            f"go back to {place(run, keep)}; train with more dropout, weight decay, augmentation "
            "or data"
        ),
        status="confirmed" if is_sure(rise) and harmed and trained is not False else "suspected",
        began=best,
    )


def _all_blank_yet(run: Run) -> bool:
    """Whether few readings tell of an output that was empty at each: CTC begins so, and its loss
    may rise meanwhile. That of training then lies no lower.
    """
    rate = error_rate(run, "val").values
    empty = 0 < len(rate) < FEW and all(abs(value - 1) <= EMPTY for value in rate)
    return empty and not _memorised(run)


def is_sure(rise: Rise) -> bool:
    """Whether a rise is large enough to convict; of few readings it is large, or none at all."""
    least = SURE_IF_LONG if rise.lasted >= LONG else SURE
    return rise.noises is None or rise.noises >= least


def _memorised(run: Run) -> bool:
    """Whether training loss, which need not fall further then, lies far below validation loss at
    the end, and was not thrown back.
    """
    train, val = finite(run.curve("train_loss")), finite(run.curve("val_loss"))
    if not len(train):
        return False
    end = reading_at(val, val.at[-1])
    return not thrown_back(run) and end - reading_at(train, train.at[-1]) > GAP_SHARE * abs(end)


def _read_since(run: Run, best: float, learns: bool) -> list[str]:
    """What became of the error rate since validation loss was best."""
    read = errors(run, "val")
    if not len(read):
        return []
    then, now = (
        value_words(run, "val", reading_at(read, best, 1)),
        value_words(run, "val", read.values[-1]),
    )
    goes = (
        "still falls"
        if learns
        else "got better and stands still"
        if _read_gained(run, best)
        else "does not make up for it"
    )
    return [
        f"{metric_words(run, 'val')} {goes}: {then} -> {now}"
        + ("; the loss alone gets worse" if learns else "")
    ]


def _read_gained(run: Run, best: float) -> bool:
    """Whether validation is read better at the end than where its loss was best, beyond what
    counts as learnt.
    """
    read = errors(run, "val")
    then = reading_at(read, best, 1)
    return then - read.values[-1] > LEARNT * abs(then)


def learns_on(run: Run, best: float) -> bool | None:
    """Whether training loss fell from the best validation reading to the end; None where it was not
    read, or scatters too much to tell.
    """
    train = thinned(run.curve("train_loss"))
    if len(train) < 2:
        return None
    since = between(train, best)
    if len(since) >= FEW:
        # One that fell at once and stands since has learnt as well.
        before, after = since.values[0], median(since.values[-len(since) // 3 :])
        learnt = LEARNT * abs(before)
        if falls(since) or before - after > max(learnt, SURE * noise(since)):
            return True
        return None if noise(since) / math.sqrt(len(since) / 3) > learnt / 2 else False
    before, after = reading_at(train, best), train.values[-1]
    steadily = len(since) >= STEADY and all(b < a for a, b in pairwise(since.values))
    return before - after > (CREEP if steadily else LEARNT) * abs(before)


def validation_stands(run: Run) -> Finding | None:
    """What validation is measured by has brought nothing for long while training loss fell on: its
    loss for a third of the run, where nothing else tells whether what is read still gains by it;
    its error rate, and its loss as far as it is read, for half of it, where many are still misread,
    and no training loss says otherwise.
    """
    loss, read, rate = finite(run.curve("val_loss")), errors(run, "val"), error_rate(run, "val")
    reading = len(read) >= LEAST
    curves = {"val_loss": loss} if not reading else {run.read_by("val") or "": read}
    if reading and len(loss) >= LEAST:
        curves["val_loss"] = loss
    enough = READ_OFTEN if reading else ENDED if run.finished else FEW
    if max(map(len, curves.values())) < enough or (
        reading and not (len(rate) and rate.values[-1] > UNREAD and min(rate.values) <= STUCK)
    ):
        return None
    if reading and early_in_plan(run):
        return None
    trained = finite(run.curve("train_loss"))
    gapes = len(loss) and len(trained) and gap_wide(run)
    if gapes or any(rise_of(run, curve) for curve in curves.values()):
        return None  # each has a name of its own
    reached = max(map(_reached, curves.values()))
    begin, end = (
        pick(curve.at[i] for curve in curves.values()) for pick, i in ((min, 0), (max, -1))
    )
    since = thinned(between(trained, reached))
    if (
        end - reached < (HALF if reading else LONG) * (end - begin)
        or not (learns_on(run, reached) if len(trained) else reading)
        or (
            len(since) > 0
            and max(smoothed(since).values) > (1 + THROWN_BACK_SHARE) * since.values[0]
        )
        or any(falls(thinned(between(curve, (begin + end) / 2))) for curve in curves.values())
        or is_excerpt(run)
    ):
        return None
    best = next(curve.at[lowest(curve)] for curve in curves.values())
    what = (
        f"{metric_words(run, 'val')} and validation loss bring"
        if len(curves) > 1
        else f"{metric_words(run, 'val')} brings"
        if reading
        else "validation loss brings"
    )
    return VALIDATION_STANDS.finding(
        headline=f"{what} nothing since {place(run, reached)}"
        + (" while training loss falls" if len(trained) else ""),
        evidence=(
            *(_stood(run, name, curve, reached) for name, curve in curves.items()),
            f"training loss meanwhile {number(reading_at(since, reached))} -> "
            f"{number(reading_at(since, end))}"
            if len(since)
            else "no training loss in the log",
            f"that is {share((end - reached) / (end - begin))} of the run",
            *(
                ()
                if reading
                else ("no error rate in the log: nothing shows that what is read still gains",)
            ),
        ),
        try_=f"go back to {place(run, best)}; train with more dropout, weight decay, augmentation "
        "or data",
        status="suspected" if not (run.finished or reading) and nearly_done(run) else "confirmed",
        began=reached,
    )


def _reached(curve: Curve) -> float:
    """Where a curve first came as near to its lowest as its noise, or RISE, tells apart."""
    low = min(curve.values)
    near = low + min(LIKELY * noise(curve), RISE * abs(low))
    return next(at for at, value in zip(curve.at, curve.values, strict=True) if value <= near)


def _stood(run: Run, name: str, curve: Curve, reached: float) -> str:
    """What a curve was where it came to stand, at its best, and at the end."""
    of_loss = name == "val_loss"
    what = "validation loss" if of_loss else metric_words(run, "val")
    then, low, last = (
        number(value) if of_loss else value_words(run, "val", value)
        for value in (reading_at(curve, reached, 1), min(curve.values), curve.values[-1])
    )
    best, end = curve.at[lowest(curve)], curve.at[-1]
    return (
        f"{what} {then} at {cited_place(run, name, reached)}, {low} at "
        f"{cited_place(run, name, best)}, the best of {counted(len(curve), 'reading')}, {last} at "
        f"{cited_place(run, name, end)}"
    )


def validation_error_rises(run: Run) -> Finding | None:
    """The error rate of validation has risen since its best, beyond its noise and for long, while
    training loss fell and validation loss stood still, or was not read. Of one that rises
    `validation_loss_rises` tells; one that falls leaves room for the error rate to come down.
    """
    exact = errors(run, "val")
    rise, rate = rise_of(run, exact), error_rate(run, "val")
    if rise is None or not _goes_on(exact, rise) or rise_of(run, run.curve("val_loss")):
        return None
    if rise.share <= CREEP:  # one that stands may as well sink by so much
        return None
    if learns_on(run, rise.since) is False or (len(rate) and min(rate.values) > STUCK):
        return None
    best, end, name = exact.at[lowest(exact)], exact.at[-1], run.read_by("val") or ""
    loss = between(finite(run.curve("val_loss")), rise.since)
    for_long = is_sure(rise) and rise.lasted >= HALF
    if len(loss) >= 2 and falls(thinned(loss)) and not for_long:
        return None
    shown = [
        f"{metric_words(run, 'val')} {value_words(run, 'val', min(exact.values))} at "
        f"{cited_place(run, name, best)}, the best of "
        f"{counted(len(exact), 'reading')}; {value_words(run, 'val', exact.values[-1])} at "
        f"{cited_place(run, name, end)}",
        certainty(rise),
    ]
    return VALIDATION_ERROR_RISES.finding(
        headline=f"{metric_words(run, 'val')} gets worse since {place(run, best)}",
        evidence=tuple(shown),
        try_=(
            f"go back to {place(run, best)}; train with more dropout, weight decay, augmentation "
            "or data"
        ),
        status="confirmed" if is_sure(rise) else "suspected",
        began=best,
    )


def gap_wide(run: Run) -> Finding | None:
    """Validation loss stands still far above training loss: by more than 1.0 in nats per token; in
    an unknown unit, where training loss is below it by a large share and what is validated is not
    read. While validation falls a gap is no illness: what is learnt carries over.
    """
    train, val = thinned(run.curve("train_loss")), thinned(run.curve("val_loss"))
    known, still, rate = (
        run.loss_unit == "nats per token",
        still_since(run, "val_loss"),
        error_rate(run, "val"),
    )
    gaps = _gaps(train, val, known)
    bounds = GAPS if known else (GAP_SHARE,)
    bound = next(
        (
            bound
            for bound in bounds
            if len(gaps) >= 2 and min(gap for _, gap in gaps[-_lasting(gaps) :]) > bound
        ),
        None,
    )
    if not known and is_excerpt(run):
        return _gap_of_excerpt(run, val, rate, gaps)
    if still is None or bound is None or not _learnt(run, train):
        return None
    if not known and not (len(rate) and rate.values[-1] > KNOWS):
        return None
    began = _since_above(gaps, bounds[-1])
    since, spanned = place(run, _since_above(gaps, bound)), [gap for at, gap in gaps if at >= began]
    headline, fact = (
        f"validation loss stands more than {bound:g} above training loss since {since}",
        f"gap (validation - training) {span(spanned)}",
    )
    if not known:
        headline = (
            f"training loss lies more than {100 * bound:.0f} % below validation loss, which stands "
            f"still, since {since}"
        )
        fact = (
            f"training loss is {share(min(spanned))} to {share(max(spanned))} below validation loss"
        )
    return GAP_WIDE.finding(
        headline=headline,
        evidence=(
            f"{fact} from {cited_place(run, 'val_loss', began)} on",
            f"validation loss stands still since {cited_place(run, 'val_loss', still)}",
            *(
                ()
                if known
                else (f"{metric_words(run, 'val')} {share(rate.values[-1])} at the end",)
            ),
        ),
        try_="more dropout, weight decay, augmentation or data; a smaller network",
        status="confirmed" if known and not reads_better(run, still) else "suspected",
        began=began,
    )


def _gap_of_excerpt(
    run: Run, val: Curve, rate: Curve, gaps: list[tuple[float, float]]
) -> Finding | None:
    """In a log that begins when validation had long turned, the gap is all that shows it: training
    loss at a twentieth of validation loss or less, and that does not fall.
    """
    shares = [gap for _, gap in gaps]
    if len(val) < FEW or min(shares, default=0.0) < HUGE_SHARE or falls(val):
        return None
    if len(rate) and (rate.values[-1] < UNREAD or falls(thinned(rate))):
        return None
    train, low = finite(run.curve("train_loss")), val.at[0]
    times = 1 / (1 - min(shares))
    return GAP_WIDE.finding(
        headline=f"validation loss is {times:.0f} times training loss and more all along, and does "
        f"not fall: it turned before {place(run, low)}, where the log begins",
        evidence=(
            f"training loss {span(train.values)}, validation loss {span(val.values)} in "
            f"{counted(len(val), 'reading')} from {cited_place(run, 'val_loss', low)} on",
            *(
                (
                    f"{metric_words(run, 'val')} {value_words(run, 'val', errors(run, 'val').values[-1])}",
                )
                if len(rate)
                else ()
            ),
        ),
        try_="go back to the best checkpoint; more dropout, weight decay, augmentation or data",
        status="confirmed" if len(rate) else "suspected",
        began=low,
    )


def _gaps(train: Curve, val: Curve, known: bool) -> list[tuple[float, float]]:
    """Validation minus training loss, each at its place; in an unknown unit as a share of the
    validation loss. None where that share is small.
    """
    pairs = [
        (at, value, value - reading_at(train, at))
        for at, value in zip(val.at, val.values, strict=True)
        if at >= train.at[0]
    ]
    if not pairs or pairs[-1][2] < LEAST_SHARE * pairs[-1][1]:
        return []
    return [(at, gap if known else gap / value) for at, value, gap in pairs if known or value > 0]


def _learnt(run: Run, train: Curve) -> bool:
    """Whether something was learnt that may or may not carry over; without that, losses differ for
    another reason.

    Training loss is below its first reading and on no level that is reached blindly, and some
    training clips are read.
    """
    return (
        train.values[-1] < (1 - LEARNT) * train.values[0]
        and reads(run, "train") is not False
        and not ignores_input(run, "train")
    )


def _lasting(gaps: list[tuple[float, float]]) -> int:
    """How many readings at the end a gap must fill."""
    return 2 if len(gaps) < FEW else max(3, len(gaps) // 10)


def _since_above(gaps: list[tuple[float, float]], bound: float) -> float:
    began = gaps[-1][0]
    for at, gap in reversed(gaps):
        if gap <= bound:
            break
        began = at
    return began


VALIDATION_LOSS_RISES = Record(
    name="validation_loss_rises",
    stage="run",
    means=(
        "Validation loss has risen since its best while training loss fell: the network learns its "
        "clips by heart."
    ),
    detected=(
        "Validation loss has risen since its best reading, beyond its noise and for 15 % of "
        "the run, and has not come down again, while training loss fell, lies far below it, "
        "or is not logged. Not where training does no better than an output that takes no "
        "look at the input: its loss is not below those levels, or its error rate is 100 % or "
        "more; nor where validation's was 100 % at each of fewer than eight readings. "
        "Confirmed where the rise is four times the noise (three times, after 30 % of "
        "the run), training loss is not known to have stood still, and what is read has lost by "
        "it or has nothing more to gain: it got worse for good, or no longer gets better and is "
        "an error rate above a third, or has stood for as long as it took to come there. Else "
        "suspected: a loss can get worse while reading does not, and a rise of less than a tenth "
        "is then a note (Guo et al. 2017, section 3; Prechelt 1998)."
    ),
    mend=(
        "Go back to the checkpoint of the best reading; train with more dropout, weight decay, "
        "augmentation or data."
    ),
    no_remedy=(
        "a log cannot be trained again; the next command to run is printed, with more dropout and "
        "weight decay"
    ),
    planted=(
        "overfitting",
        "overfitting_sparsely",
    ),
)
VALIDATION_STANDS = Record(
    name="validation_stands",
    stage="run",
    means=(
        "Validation has brought nothing for a long time while training loss fell on: what is "
        "learnt no longer carries over."
    ),
    detected=(
        "Of eight readings or more of validation loss none in the last 30 % of the run or more is "
        "lower than one before by 2 %, or beyond its noise; its later half does not fall, and "
        "training loss has fallen by a tenth since without having been thrown back. Where an error "
        "rate is logged, it must have stood so as well, in twelve readings or more and for half of "
        "the run, above 20 % and not always above 85 %, most of the plan is over, and no training loss "
        "need be told. Suspected where the rest of a plan, 15 % or less, is all that a stop would save. "
        "What rises is `validation_loss_rises` or `validation_error_rises`, a loss that "
        "stands far above that of training `gap_wide`."
    ),
    mend=(
        "Go back to the checkpoint of the best reading; train with more dropout, weight decay, "
        "augmentation or data."
    ),
    no_remedy=(
        "a log cannot be trained again; the next command to run is printed, with more dropout and "
        "weight decay"
    ),
    planted=("loss_stands",),
)
VALIDATION_ERROR_RISES = Record(
    name="validation_error_rises",
    stage="run",
    means=(
        "The error rate of validation has risen since its best, while training loss fell or "
        "is not logged, and validation loss stood still or is not logged."
    ),
    detected=(
        "The error rate has risen since its best reading, beyond its noise and for 15 % of "
        "the run, and was once below 85 %. Confirmed where the rise is four times the noise "
        "(three times, after 30 % of the run). Where validation loss rises as well, "
        "`validation_loss_rises` is reported instead; where it still falls, nothing is, unless "
        "the error rate has surely risen for half of the run."
    ),
    mend=(
        "Go back to the checkpoint of the best reading; train with more dropout, weight decay, "
        "augmentation or data."
    ),
    no_remedy=(
        "a log cannot be trained again; the next command to run is printed, with more dropout and "
        "weight decay"
    ),
    planted=("error_rises",),
)
GAP_WIDE = Record(
    name="gap_wide",
    stage="run",
    means="Validation loss stands still far above training loss: what is learnt does not carry "
    "over.",
    detected=(
        "At the last readings validation loss is more than 1.0 nats per token above training "
        "loss; in an unknown unit, training loss is more than 40 % below it and the "
        "validation error rate is above 50 %. Validation loss stands still, training loss has "
        "fallen by a tenth or more, is on no level that takes no look at the input, and "
        "training clips are read as far as their error rate is logged. Confirmed only in nats "
        "per token, where reading does not improve either. In an unknown unit, in a log that "
        "begins when most of its run is over: training loss is a twentieth of validation loss "
        "or less at every reading, validation loss does not fall, and neither does the error "
        "rate, which ends at 20 % or more; confirmed where an error rate is logged."
    ),
    mend="Train with more dropout, weight decay, augmentation or data, or a smaller network.",
    no_remedy=(
        "a log cannot be trained again; the next command to run is printed, with more dropout and "
        "weight decay"
    ),
    planted=("gap",),
)
