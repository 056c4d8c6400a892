"""Learning that never began, ended early, or came to a halt on a level that takes no look at the
input.
"""

from __future__ import annotations

import math
from itertools import pairwise
from statistics import median

from pytest_overfit.finding import Finding, counted
from pytest_overfit.findings.record import Record
from pytest_overfit.health.curves.curve import Curve
from pytest_overfit.health.rules.course import (
    early_in_plan,
    is_excerpt,
    still_since,
    too_early,
    trained_before,
)
from pytest_overfit.health.rules.reading import KNOWS, Split, error_rate, errors, reads
from pytest_overfit.health.rules.rule import readings
from pytest_overfit.health.rules.trend import (
    FEW,
    MANY,
    UNMOVED,
    WHOLE,
    between,
    falls,
    finite,
    never_fell,
    smoothed,
    thinned,
)
from pytest_overfit.health.rules.words import cited_place, number, place, share
from pytest_overfit.health.run import Run
from pytest_overfit.levels import LevelMatch, match_level

BLIND = ("uniform", "blank", "unigram")
"""Levels that an output reaches without looking at its input."""
NEAR = 0.15
"""Share of a level's loss within which a loss is on it, rather than merely nearest to it."""
ZERO, ZERO_SHARE = 1e-12, 1e-5
"""Learning rates that change nothing: in themselves, and as a share of the run's highest."""
BEGINNING = 0.1
"""Share of a clock before which the first reading must lie for a run to have been read from its
beginning; and of the readings of a rate in which it may be zero at the end of its schedule.
"""
MOST, HIGH = 0.75, 0.5
"""Share of a run for which, and of the first loss at which, a training loss that stands has halted."""
SPENT = 0.1
"""Share of its highest to which a rate that ran out has come down before."""
LEAST, FEWEST, FLAT = 10, 4, 0.01
"""Readings of training loss that tell whether it fell; of a run that is over; and the share of one
another within which all of so few must lie.
"""
CLIMB = "see whether the network can memorise a few clips at all (pytest -m overfit)"


def final_level(run: Run, split: str) -> LevelMatch | None:
    """The level that a split's loss stands on at the end of a run, by the median of its last
    readings.
    """
    ladder, losses = run.facts.levels.get(split), thinned(run.curve(f"{split}_loss"))
    return match_level(median(losses.values[-3:]), ladder) if ladder and len(losses) else None


def nothing_learnt(run: Run) -> Finding | None:
    """Training loss stands still on a level that is reached without looking at the input, or sinks
    so slowly that it would not leave it soon.
    """
    stands, still = final_level(run, "train"), still_since(run, "train_loss")
    if stands is None or not _on(stands):
        return None
    goes = "stands still" if still is not None else "creeps"
    still = still if still is not None else _creeping_since(run, stands)
    if still is None:
        return None
    return NOTHING_LEARNT.finding(
        headline=(
            f"training loss {goes} on the level `{stands.level.name}` since {place(run, still)}: "
            "its output takes no look at the input"
        ),
        evidence=(_measured("training", stands), *_ladder(stands)),
        try_=CLIMB,
        status="confirmed",
        began=still,
    )


def nothing_carries_over(run: Run) -> Finding | None:
    """Validation loss stands still on such a level, while training loss has left it."""
    stands, still, train = (
        final_level(run, "val"),
        still_since(run, "val_loss"),
        final_level(run, "train"),
    )
    if stands is None or still is None or not _on(stands) or train is None or _on(train):
        return None
    if train.measured >= stands.measured:
        return None
    return NOTHING_CARRIES_OVER.finding(
        headline=(
            f"validation loss stands still on the level `{stands.level.name}` since "
            f"{place(run, still)}, training loss on `{train.level.name}`"
        ),
        evidence=(_measured("validation", stands), _measured("training", train), *_ladder(stands)),
        try_="see whether both splits are prepared alike; then more data or augmentation",
        status="confirmed",
        began=still,
    )


def _creeping_since(run: Run, stands: LevelMatch) -> float | None:
    """The place since which training loss is on blind levels for MANY readings, half of the run,
    and would be after as long a run again.
    """
    curve = smoothed(thinned(run.curve("train_loss")))
    floor = (1 - NEAR) * min(level.loss for level in stands.ladder if level.name in BLIND)
    off = [
        i
        for i, value in enumerate(curve.values)
        if not floor <= value <= (1 + NEAR) * stands.level.loss
    ]
    first = off[-1] + 1 if off else 0
    length = curve.at[-1] - curve.at[0]
    if (
        len(curve) - first < MANY
        or curve.at[-1] - curve.at[first] < length / 2
        or too_early(run, "train_loss")
        or reads(run, "train")
    ):
        return None
    middle = (first + len(curve)) // 2
    last = curve.values[middle:]
    third = max(len(last) // 3, 1)
    # From the middle of the first third to that of the last is two thirds of the way.
    pace = (
        (median(last[:third]) - median(last[-third:])) / (curve.at[-1] - curve.at[middle]) * 3 / 2
    )
    return curve.at[first] if median(last[-third:]) - pace * length > floor else None


def ignores_input(run: Run, split: str) -> bool:
    """Whether a split's loss is on a level that takes no look at the input, as far as levels are
    known.
    """
    stands = final_level(run, split)
    return stands is not None and _on(stands)


def looks_at_input(run: Run, split: Split) -> bool:
    """Whether a split does better at the end of a run than an output that takes no look at the
    input: its loss is below those levels, its error rate below the 100 % of an empty output, as far
    as either is known.
    """
    stands, rate = final_level(run, split), error_rate(run, split)
    blind = [level.loss for level in stands.ladder if level.name in BLIND] if stands else []
    above = stands is not None and stands.measured >= (1 - NEAR) * min(blind, default=math.inf)
    return not above and not (len(rate) and rate.values[-1] >= 1)


def _on(stands: LevelMatch) -> bool:
    """Whether a loss is on one of the levels that take no look at the input."""
    return (
        stands.level.name in BLIND
        and abs(stands.measured - stands.level.loss) <= NEAR * stands.level.loss
    )


def _measured(what: str, stands: LevelMatch) -> str:
    return (
        f"{what} loss {number(stands.measured)} nats per token; `{stands.level.name}` is at "
        f"{number(stands.level.loss)}"
    )


def _ladder(stands: LevelMatch) -> tuple[str, ...]:
    return (
        "levels: " + ", ".join(f"{level.name} {number(level.loss)}" for level in stands.ladder),
    )


def enough_to_fall(run: Run) -> str | None:
    """What a run lacks, in words, for `loss_never_falls`: of one that is over, few readings are enough."""
    return readings("train_loss", least=FEWEST if run.finished else LEAST)(run)


def loss_never_falls(run: Run) -> Finding | None:
    """The loss is where it began, after all that was read of a run from its beginning: that of
    training, or that of validation while training, after its first readings, stands still as well.
    """
    curve, val = thinned(run.curve("train_loss")), thinned(run.curve("val_loss"))
    first, last = curve.at[0], curve.at[-1]
    if (
        too_early(run, "train_loss")
        or trained_before(run, first)
        > max(BEGINNING * last, 1.5 * (last - first) / (len(curve) - 1))
        or _knows(run)
    ):
        return None
    if few := len(curve) < LEAST:
        both = [one.values for one in (curve, val) if len(one)]
        if any(max(one) - min(one) > FLAT * abs(min(one)) for one in both):
            return None
    third = len(curve) // 3
    before, after = median(curve.values[:third]), median(curve.values[-third:])
    unmoved = (not falls(curve) or _stands(run, "train_loss")) and min(
        smoothed(curve).values[third:]
    ) >= 0.9 * max(before, curve.values[0])
    if not unmoved and not (
        len(val) >= UNMOVED
        and never_fell(val)
        and _stands(run, "train_loss")
        and _stands(run, "val_loss")
    ):
        return None
    split, name = ("training", "train_loss") if unmoved else ("validation", "val_loss")
    exact = finite(run.curve(name))
    third = len(exact) // 3
    before, after = median(exact.values[:third]), median(exact.values[-third:])
    return LOSS_NEVER_FALLS.finding(
        headline=(
            f"{split} loss has not fallen since {place(run, exact.at[0])}: {number(before)} then, "
            f"{number(after)} now"
        ),
        evidence=(
            f"{counted(len(exact), 'reading')} of {split} loss from {cited_place(run, name, exact.at[0])} "
            f"to {cited_place(run, name, exact.at[-1])}, medians "
            "of the first and the last third",
        ),
        try_=(
            "see whether the optimiser has the parameters, whether the learning rate is above "
            "zero, and climb the ladder (pytest -m overfit)"
        ),
        status="suspected" if few and len(val) < 3 else "confirmed",
        began=exact.at[0],
    )


def training_stands(run: Run) -> Finding | None:
    """Training loss has stood for most of the run on half of where it began, or above that, and so has
    validation loss, where it is told; nothing tells whether anything is read.

    Suspected while the run may go on: many networks stand still before they begin to read.
    """
    names = [name for name in ("train_loss", "val_loss") if len(finite(run.curve(name))) >= FEW]
    if "train_loss" not in names or len(errors(run, "val")) or is_excerpt(run):
        return None
    since = [at for name in names if (at := still_since(run, name)) is not None]
    if len(since) < len(names) or early_in_plan(run) or loss_never_falls(run):
        return None
    began, curve = max(since), finite(run.curve("train_loss"))
    stood = between(curve, began)
    lasted = (curve.at[-1] - began) / (curve.at[-1] - curve.at[0])
    level, first = median(stood.values), median(curve.values[:3])
    if lasted < MOST or first <= 0 or level < HIGH * first:
        return None
    both = len(names) > 1
    return TRAINING_STANDS.finding(
        headline=f"training {'and validation loss have' if both else 'loss has'} stood still since "
        f"{place(run, began)}, at {share(level / first)} of where training began",
        evidence=(
            f"training loss {number(min(stood.values))}-{number(max(stood.values))} at "
            f"{counted(len(stood), 'reading')} from {cited_place(run, 'train_loss', stood.at[0])} on, "
            f"{share(lasted)} of the run; {number(curve.values[0])} at {place(run, curve.at[0])}",
            "no error rate in the log: nothing shows that anything is read",
        ),
        try_=CLIMB,
        status="confirmed" if both and run.finished else "suspected",
        began=began,
    )


def _stands(run: Run, name: str) -> bool:
    """Whether a metric stands still for nearly all of a run."""
    curve, since = run.curve(name), still_since(run, name)
    return since is not None and curve.at[-1] - since >= WHOLE * (curve.at[-1] - curve.at[0])


def _knows(run: Run) -> bool:
    """Whether the run had learnt before it was read: a resumed one is flat from its first reading
    on.
    """
    return any(
        rate.values[-1] < KNOWS
        for rate in (error_rate(run, "train"), error_rate(run, "val"))
        if len(rate)
    )


def learning_rate_zero(run: Run) -> Finding | None:
    """The learning rate is zero while epochs are still trained."""
    rates = finite(run.curve("lr"))
    floor = max(ZERO, ZERO_SHARE * max(rates.values))
    start = max((i + 1 for i, rate in enumerate(rates.values) if rate > floor), default=0)
    if start == len(rates):
        return None
    began, last = (
        rates.at[start],
        max(curve.at[-1] for name in run.curves if len(curve := run.curve(name))),
    )
    planned = run.facts.epochs if run.clock == "epoch" and run.facts.epochs else -math.inf
    if len(rates) - start < 3 and planned <= rates.at[-1] + 1:
        return None
    if planned <= last + 1 and _ran_out(rates, start):
        return None
    left = f", {planned:.0f} were planned" if planned > last else ""
    return LEARNING_RATE_ZERO.finding(
        headline=(
            "the learning rate is zero "
            f"{'from the start' if not start else f'since {place(run, began)}'}"
        ),
        evidence=(
            (
                f"lr {rates.values[start]:g} at {cited_place(run, 'lr', began)}, trained on to "
                f"{place(run, last)}{left}; highest {max(rates.values):g}"
            ),
        ),
        try_="a schedule as long as the run"
        if start
        else "a learning rate above zero; see what sets it",
        status="confirmed",
        began=began,
    )


def _ran_out(rates: Curve, start: int) -> bool:
    """Whether a rate has come down to zero by and by, for the last tenth of its readings or less: a
    schedule at its end, whose last rates are told as 0.000000.
    """
    before = rates.values[:start]
    down = before[-max(len(before) // 4, FEW) :]
    falling = len(before) >= FEW and all(a >= b for a, b in pairwise(down)) and down[0] > down[-1]
    return (
        falling
        and down[-1] <= SPENT * max(before)
        and len(rates) - start <= max(BEGINNING * len(rates), 1)
    )


NOTHING_LEARNT = Record(
    name="nothing_learnt",
    stage="run",
    means=(
        "The training loss stands on a level that is reached without looking at the input: "
        "uniform, all blank, or the frequencies of tokens."
    ),
    detected=(
        "The last training losses are within 15 % of one of those levels, which follow from "
        "the targets and steps of the run, and the loss stands still, or creeps so slowly "
        "that as long a run again would not leave them."
    ),
    mend="See whether the network can memorise a few clips at all (pytest -m overfit).",
    no_remedy=(
        "a log cannot be trained again; the next command to run is printed, the ladder of this tool"
    ),
    planted=("collapsed",),
)
NOTHING_CARRIES_OVER = Record(
    name="nothing_carries_over",
    stage="run",
    means=(
        "Validation loss stands on a level that is reached without looking at the input, while "
        "training loss has left it."
    ),
    detected=(
        "Validation loss stands still within 15 % of one of those levels; training loss is on "
        "none of them, and lower."
    ),
    mend="See whether both splits are prepared alike; then more data or augmentation.",
    no_remedy=(
        "a log cannot be trained again; the next command to run is printed, with more dropout and "
        "weight decay"
    ),
    planted=("memorised",),
)
LOSS_NEVER_FALLS = Record(
    name="loss_never_falls",
    stage="run",
    means="The loss is where it began, after all that was read of the run.",
    detected=(
        "From the first third of the readings to the last, training loss does not fall beyond "
        "its noise, and is never more than a tenth below its beginning; or validation loss "
        "was never below its beginning in ten readings or more, and both losses stand still "
        "for nearly all of the run. Not where the log begins late in the run, most of its "
        "plan is still to come, or an error rate below 50 % shows that it had learnt before."
    ),
    mend=(
        "See whether the optimiser has the parameters and the learning rate is above zero; climb "
        "the ladder (pytest -m overfit)."
    ),
    no_remedy=(
        "a log cannot be trained again; the next command to run is printed, the ladder of this tool"
    ),
    planted=("rate_zero",),
)
TRAINING_STANDS = Record(
    name="training_stands",
    stage="run",
    means="The training loss came down at first and has stood still since, far above zero.",
    detected=(
        "Training loss, and validation loss where it is told, have stood for three quarters of the "
        "run or more at half of the first training loss or above. Not where an error rate of "
        "validation tells more, the log begins late, or most of the plan is to come. Confirmed where "
        "both stand and the run is over; else suspected: many networks stand still before they begin "
        "to read."
    ),
    mend="See whether the network can memorise a few clips at all (pytest -m overfit).",
    no_remedy=(
        "a log cannot be trained again; the next command to run is printed, the ladder of this tool"
    ),
    planted=("halted",),
)
LEARNING_RATE_ZERO = Record(
    name="learning_rate_zero",
    stage="run",
    means="The learning rate is zero while epochs are still trained: they change nothing.",
    detected=(
        "The last three readings or more are no larger than a hundred-thousandth of the "
        "highest; fewer, where more epochs are planned. Not where it has come down to zero by and "
        "by, for the last tenth of its readings or less: a schedule at its end."
    ),
    mend="Set a schedule as long as the run, and a learning rate above zero.",
    no_remedy="a log cannot be trained again; the next command to run is printed",
    planted=("rate_zero",),
)
