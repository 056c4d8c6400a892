"""Learning that is undone, short of running away: what was read is read no more."""

from __future__ import annotations

from statistics import median

from pytest_overfit.finding import Finding
from pytest_overfit.findings.record import Record
from pytest_overfit.health.curves.curve import Curve
from pytest_overfit.health.rules.course import THROWN_BACK_SHARE, restarted
from pytest_overfit.health.rules.learning import ignores_input
from pytest_overfit.health.rules.loss_alone import rise_of
from pytest_overfit.health.rules.reading import (
    STUCK,
    errors,
    metric_words,
    reads,
    value_words,
)
from pytest_overfit.health.rules.stability import RISEN, TWICE, WORDS, training_diverges
from pytest_overfit.health.rules.trend import (
    CREEP,
    FEW,
    Rise,
    between,
    came_back_before,
    finite,
    lowest,
    noise,
    reading_at,
    thinned,
)
from pytest_overfit.health.rules.words import certainty, cited_place, number, place, share
from pytest_overfit.health.run import Run

LASTING, STAYS = 4, 0.75
"""Readings after the best that undone learning must have, and share of the way to its highest at
which a metric has stayed there.
"""
SLIGHT, LONG_CURVE = 0.1, 12
"""Share of its best by which a metric must be worse at the last reading for that to count; and
readings from which its noise is measured for that.
"""


def learning_undone(run: Run) -> Finding | None:
    """Validation has got worse for good and stays so, and training loss with it: what was learnt is
    undone, short of running away.
    """
    train = thinned(run.curve("train_loss"))
    if len(train) < 3 or ignores_input(run, "train") or training_diverges(run):
        return None
    undone = _undone(run, train)
    if undone is None:
        return _thrown_at_end(run, train)
    name, rise = undone
    then, end = reading_at(train, rise.since), train.at[-1]
    low, high = (
        number(value) if name.endswith("loss") else value_words(run, "val", value)
        for value in (rise.low, rise.high)
    )
    what = WORDS.get(name) or metric_words(run, "val")
    return LEARNING_UNDONE.finding(
        headline=(
            f"{what} is worse for good since {place(run, rise.since)}, and training does not make "
            "up for it"
        ),
        evidence=(
            (
                f"{what} {low} at {cited_place(run, name, rise.since)}, {high} in the later half of what "
                f"came after ({share(rise.share)} worse)"
            ),
            (
                f"training loss {number(then)} then, {number(train.values[-1])} at "
                f"{cited_place(run, 'train_loss', end)}"
            ),
            certainty(rise),
        ),
        try_=(
            f"go back to {place(run, rise.since)}; a smaller learning rate, a warm-up, gradient "
            "clipping"
        ),
        status="confirmed",
        began=rise.since,
    )


def _thrown_at_end(run: Run, train: Curve) -> Finding | None:
    """The last reading of all of them is far worse: training loss at twice its lowest or more, and
    both validation loss and its error rate worse than ever since that. Whether it lasts is open.
    """
    val, read = finite(run.curve("val_loss")), errors(run, "val")
    if min(len(train), len(val), len(read)) < LASTING:
        return None
    began, low = train.at[lowest(train)], min(train.values)
    before, since = between(train, train.at[0], val.at[-2]), max(began, val.at[-2])
    if (
        train.values[-1] < TWICE * low
        or low <= 0
        or train.values[-1] < TWICE * before.values[-1]
        or restarted(run, train.at[-1], began)
        or not all(_worst_since_best(curve) for curve in (val, read))
    ):
        return None
    name = run.read_by("val") or ""
    then, now = (value_words(run, "val", value) for value in read.values[-2:])
    return LEARNING_UNDONE.finding(
        headline=f"training and validation are thrown back at the last reading, after "
        f"{place(run, since)}",
        evidence=(
            f"training loss {number(before.values[-1])} before, {number(train.values[-1])} at "
            f"{cited_place(run, 'train_loss', train.at[-1])}",
            f"{metric_words(run, 'val')} {then} before, {now} at "
            f"{cited_place(run, name, read.at[-1])}",
            "how sure: a single reading",
        ),
        try_=f"go back to {place(run, since)}; a smaller learning rate, gradient clipping",
        status="suspected",
        began=since,
    )


def _worst_since_best(curve: Curve) -> bool:
    """Whether the last reading is the worst since the best, and farther from it than its noise."""
    since = curve.values[lowest(curve) :]
    far = max(SLIGHT * abs(since[0]), 4 * noise(curve) if len(curve) >= LONG_CURVE else 0.0)
    return len(since) > 1 and since[-1] == max(since) and since[-1] - since[0] > far


def _undone(run: Run, train: Curve) -> tuple[str, Rise] | None:
    """The metric that got worse for good, and its rise: of validation while training did not learn,
    or of training while no validation did better.
    """
    curves = {
        "val_loss": finite(run.curve("val_loss")),
        run.read_by("val") or "val_wer": errors(run, "val"),
    }
    rises = {
        name: rise
        for name, curve in curves.items()
        if (rise := rise_of(run, curve)) and _stays(curve, rise)
    }
    few = len(curves["val_loss"]) < FEW
    for name, rise in rises.items():
        then, now = (reading_at(train, at) for at in (rise.since, train.at[-1]))
        undone = now > (1 + THROWN_BACK_SHARE) * then and not came_back_before(
            train, rise.since, (now - then) / max(abs(then), 1e-9)
        )
        if undone and rise.readings >= LASTING and (not few or len(rises) == len(curves)):
            return name, rise
    name = run.read_by("val") or ""
    if lost := _reads_no_more(run, train, rises.get(name)):
        return name, lost
    rise = rise_of(run, train)
    best = [curve.at[lowest(curve)] for curve in curves.values() if len(curve)]
    if (
        rise
        and rise.share > RISEN
        and rise.readings >= LASTING
        and _stays(train, rise)
        and best
        and max(best) <= rise.since
    ):
        return "train_loss", rise
    return None


def _reads_no_more(run: Run, train: Curve, rise: Rise | None) -> Rise | None:
    """The rise of an error rate to where next to nothing is read, once something was, while training
    loss came no lower.
    """
    if rise is None or rise.low > STUCK or reads(run, "val") is not False or rise.readings < FEW:
        return None
    then, now = (reading_at(train, at) for at in (rise.since, train.at[-1]))
    return rise if now > (1 - CREEP) * then else None


def _stays(curve: Curve, rise: Rise) -> bool:
    """Whether a curve has stayed where it rose to: after a restart it comes down from its peak at
    once.
    """
    after = between(thinned(curve), rise.since).values
    return median(after[-2:]) >= after[0] + STAYS * (max(after) - after[0])


LEARNING_UNDONE = Record(
    name="learning_undone",
    stage="run",
    means=(
        "Validation has got worse for good, and training with it: what was learnt is undone, "
        "short of running away."
    ),
    detected=(
        "Validation has a lasting rise, beyond its noise, of four readings or more, and stays "
        "where it rose to, while training loss ends 15 % or more above what it was at the "
        "best reading; of fewer than eight readings, loss and error rate must both say so. Or "
        "training loss itself has risen by a quarter for good and no validation has done "
        "better since. Or an error rate rises to where next to nothing is read, once something was, "
        "while training loss came no lower. Suspected where training loss, at twice its lowest, "
        "validation loss and its error rate are all thrown back at the last reading alone. Not where "
        "training loss stands on a level that takes no look at the input."
    ),
    mend=(
        "Go back to the checkpoint of the best reading; take a smaller learning rate, a warm-up or "
        "gradient clipping."
    ),
    no_remedy=(
        "a log cannot be trained again; the next command to run is printed, with a smaller "
        "learning rate"
    ),
    planted=("undone",),
)
