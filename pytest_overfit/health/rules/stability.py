"""Training that blows up: losses that are no numbers, run away, jump or swing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from statistics import median

from pytest_overfit.finding import Finding, counted, naming
from pytest_overfit.findings.record import Record
from pytest_overfit.health.curves.curve import Curve
from pytest_overfit.health.rules.course import THROWN_BACK_SHARE, settled_rate
from pytest_overfit.health.rules.loss_alone import rise_of
from pytest_overfit.health.rules.reading import (
    FLAWLESS,
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
    MANY,
    between,
    came_back_before,
    falls,
    finite,
    logarithms,
    lowest,
    noise,
    reading_at,
    smoothed,
    thinned,
)
from pytest_overfit.health.rules.words import cited_place, number, place, share
from pytest_overfit.health.run import Run

LOSSES = ("train_loss", "val_loss")
WORDS = {"train_loss": "training loss", "val_loss": "validation loss"}
TWICE = 2.0
"""Multiple of its lowest value that a loss has run away to."""
UNDONE_SHARE = 0.75
"""Share of the way to its lowest value, in epochs, that a loss which has run away has lost again.
"""
JUMP = 3.0
"""Multiple of the readings before and behind that a spike is."""
SPIKE_DEVIATIONS = 8
SPIKES, SELDOM = 2, 1e-3
"""Spikes that a loss must have, and the share of its readings: of ten thousand batches some are
hard.
"""
SWING, SWING_OF_VALIDATION = 0.25, 0.5
"""Deviation of a loss between neighbours, as a share of its level, from which it swings: of
training, and of validation, which is noisier.
"""
HALF = 0.5
"""Share of a run since its lowest loss after which one that comes back must be back in as long
again.
"""
NEAR_LOW = 0.05
"""Share of the way that a loss has run away up to which it had not left its lowest value."""
AWAY = 5.0
"""Multiple of its lowest value to which a loss that comes back has run away."""
FALL = 0.1
"""Fall (in logarithms, about its share) from the first to the last third of a stretch with which a
loss still gets somewhere.
"""
RISEN = 0.25
"""Share by which a loss has risen that tells of learning undone."""
BACK = 1.5
"""Multiple by which a loss that goes up and down comes down again; one that only goes up diverges."""
LEFT = 0.01
"""Share of its first reading below which all that is left of a loss may swing as it likes."""
BLOCKS, BATCHES = 60, 30
"""Medians that a loss is reduced to before it is looked at for swings; and batches that go into one
of them at least.
"""
AGAIN = 0.5
"""Share above its lowest value at which a loss has surely not come back to it."""
BOTTOMLESS = 1000.0
"""Multiple of its first reading, of 1 at least, below zero that a loss without a floor runs off to."""


def loss_not_finite(run: Run) -> Finding | None:
    """A loss is NaN or infinite."""
    for name in LOSSES:
        curve = run.curve(name)
        bad = [i for i, value in enumerate(curve.values) if not math.isfinite(value)]
        if not bad:
            continue
        ended = bad[-1] == len(curve) - 1
        if name == "val_loss" and _reads_all_the_same(run, curve.at[bad[0]]):
            return _clip_without_path(run, curve, bad)
        began = curve.at[bad[0]]
        before = f"; {number(curve.values[bad[0] - 1])} before" if bad[0] else ""
        return LOSS_NOT_FINITE.finding(
            headline=f"{WORDS[name]} is not finite {'since' if ended else 'at'} "
            f"{place(run, began)}",
            evidence=(
                (
                    f"{curve.values[bad[0]]} at {cited_place(run, name, began)}{before}; {len(bad)} of "
                    f"{counted(len(curve), 'reading')} not finite"
                ),
            ),
            try_=(
                "a smaller learning rate, gradient clipping, CTC in float32; look for clips whose "
                "target does not fit"
            ),
            status="confirmed" if ended else "suspected",
            began=began,
        )
    return None


def _reads_all_the_same(run: Run, began: float) -> bool:
    """Whether training loss is finite and validation is read no worse since a place: weights that
    are no numbers read nothing.
    """
    train, read = run.curve("train_loss"), errors(run, "val")
    since = between(read, began)
    return bool(
        len(since) >= 2
        and all(map(math.isfinite, train.values))
        and (reads_better(run, began) or (reads(run, "val") and rise_of(run, read) is None))
    )


def _clip_without_path(run: Run, curve: Curve, bad: Sequence[int]) -> Finding:
    """A validation loss that is not finite while what is validated is read: one clip does it."""
    began, since = curve.at[bad[0]], between(errors(run, "val"), curve.at[bad[0]])
    then, now = (value_words(run, "val", value) for value in (since.values[0], since.values[-1]))
    return LOSS_NOT_FINITE.finding(
        headline=f"validation loss is not finite since {place(run, began)}, but clips are read: a "
        "clip whose target does not fit in its steps",
        evidence=(
            f"{curve.values[bad[0]]} at {cited_place(run, 'val_loss', began)}; {len(bad)} of "
            f"{counted(len(curve), 'reading')} not finite",
            f"{metric_words(run, 'val')} {then} then, {now} at {place(run, since.at[-1])}",
        ),
        try_="leave out the clips whose target does not fit, or zero_infinity=True in CTC's loss",
        status="suspected",
        began=began,
    )


def training_diverges(run: Run) -> Finding | None:
    """Training loss has run away from its lowest value, undone most of the way there, and does not
    come back; or it runs off far below zero.
    """
    curve = thinned(run.curve("train_loss"))
    if bottomless := _bottomless(run, curve):
        return bottomless
    calm = smoothed(curve) if len(curve) >= FEW else curve
    best = lowest(calm)
    tail = between(settled_rate(run, calm, calm.at[best]), calm.at[best])
    after = tail.values[1:]
    if len(after) < (2 if len(curve) < FEW else max(4, len(curve) // 10)):
        return None
    low, last = tail.values[0], after[-max(len(after) // 3, 2) :]
    high = median(last)
    within_noise = len(curve) >= FEW and _within_noise(between(curve, tail.at[0]), low, high)
    reached = next(
        at
        for at, value in zip(calm.at, calm.values, strict=True)
        if value <= high or at == calm.at[best]
    )
    undone = reached - calm.at[0] <= UNDONE_SHARE * (calm.at[best] - calm.at[0])
    # Between the middles of the first and the last third lies two thirds of the way.
    returned = 1.5 * (median(after[: max(len(after) // 3, 1)]) - high)
    soon = returned > high - low or tail.at[-1] - tail.at[0] < HALF * (curve.at[-1] - curve.at[0])
    coming_back = soon and returned > 1.5 * THROWN_BACK_SHARE * (high - low)
    if (
        high <= low
        or high < TWICE * low
        or within_noise
        or min(last) < min((low + high) / 2, (1 + AGAIN) * low if low > 0 else math.inf)
        or not undone
        or coming_back
        or came_back_before(curve, tail.at[0], (high - low) / low if low > 0 else math.inf)
    ):
        return None
    began = _last_low(between(curve, tail.at[0]), low, high)
    low = reading_at(curve, began, 1)
    return TRAINING_DIVERGES.finding(
        headline=f"training diverges since {place(run, began)}",
        evidence=(
            (
                f"training loss {number(low)} at {cited_place(run, 'train_loss', began)}, "
                f"{number(high)} at the end"
            )
            + (f" ({high / low:.1f} times as much)" if low > 0 else ""),
            f"it was as low as that at {place(run, reached)} already",
        ),
        try_=(
            "a smaller learning rate, a warm-up, gradient clipping; go on from the checkpoint of "
            "the lowest loss"
        ),
        status="confirmed",
        began=began,
    )


def _bottomless(run: Run, curve: Curve) -> Finding | None:
    """What is told of a loss that has no floor: no density of real data is so high."""
    if len(curve) < FEW:
        return None
    last = median(curve.values[-(len(curve) // 3) :])
    if last > -BOTTOMLESS * max(abs(curve.values[0]), 1.0):
        return None
    whole = finite(run.curve("train_loss"))
    above = max((i for i, value in enumerate(whole.values) if value >= 0), default=0)
    began = whole.at[min(above + 1, len(whole) - 1)]
    return TRAINING_DIVERGES.finding(
        headline=f"training loss runs off below zero since {place(run, began)}",
        evidence=(
            (
                f"training loss {number(whole.values[0])} at first, {number(last)} in the last third "
                f"of its readings, {number(min(whole.values))} at the lowest"
            ),
        ),
        try_="bound the part of the loss that has no floor, such as a density whose width goes to "
        "zero",
        status="confirmed",
        began=began,
    )


def _last_low(since: Curve, low: float, high: float) -> float:
    """The last reading before a loss first left its lowest value for good: the lowest itself, but
    for one that stayed near it and then jumped.
    """
    left = next(i for i, value in enumerate(since.values) if value > low + NEAR_LOW * (high - low))
    return since.at[max(left - 1, 0)]


def _within_noise(tail: Curve, low: float, high: float) -> bool:
    """Whether a rise may be noise, in nats and in proportion: a loss that has run away by
    magnitudes swings by as much as it has risen.
    """
    if high - low >= 4 * noise(tail):
        return False
    if min(*tail.values, low) <= 0:
        return True
    return math.log(high / low) < 4 * noise(logarithms(tail))


def loss_spikes(run: Run) -> Finding | None:
    """Single readings of a loss stand far above those on both sides."""
    train, val = (finite(run.curve(name)) for name in LOSSES)
    for name, curve in zip(LOSSES, (train, val), strict=True):
        # What throws the network back shows in training too, where that is read as often.
        spikes = _spikes(curve) if name == "train_loss" or len(train) < len(val) else []
        if len(spikes) < SPIKES:
            continue
        worst = max(spikes, key=curve.values.__getitem__)
        return LOSS_SPIKES.finding(
            headline=(
                f"{WORDS[name]} spikes {len(spikes)} times, first at "
                f"{place(run, curve.at[spikes[0]])}"
            ),
            evidence=(
                f"spikes at {naming([place(run, curve.at[i]) for i in spikes])}",
                f"the highest is {number(curve.values[worst])} at "
                f"{cited_place(run, name, curve.at[worst])}, between {number(curve.values[worst - 1])} "
                f"and {number(curve.values[worst + 1])}",
            ),
            try_="gradient clipping, a smaller learning rate; look at the clips of those batches",
            status="suspected",
            began=curve.at[spikes[0]],
        )
    return None


def _spikes(curve: Curve) -> list[int]:
    """Readings three times as high as those before and behind, and further off than readings
    scatter; all by logarithms.
    """
    if len(curve) < FEW or min(curve.values) <= 0:
        return []
    logs = [math.log(value) for value in curve.values]
    above = {
        i: logs[i] - max(median(logs[max(i - 3, 0) : i]), median(logs[i + 1 : i + 4]))
        for i in range(1, len(logs) - 1)
    }
    middle = median(above.values())
    scatter = 1.4826 * median(abs(jump - middle) for jump in above.values())
    found = [
        i for i, jump in above.items() if jump > max(math.log(JUMP), SPIKE_DEVIATIONS * scatter)
    ]
    return found if len(found) >= SELDOM * len(logs) else []


def loss_oscillates(run: Run) -> Finding | None:
    """Training loss swings up and down and goes nowhere; or validation loss does, far more wildly,
    and its error rate does not fall.
    """
    whole = run.curve("train_loss")
    within = len(whole) > 0 and whole.at[-1] - whole.at[0] < 1  # of one epoch: batches
    most = (
        BLOCKS
        if run.clock == "epoch" and not within
        else max(min(BLOCKS, len(whole) // BATCHES), 1)
    )  # batches differ, their median less
    swings = _swings(run, thinned(whole, most), SWING, AWAY)
    split = "training"
    if swings is None:
        split, swings = (
            "validation",
            _swings(run, thinned(run.curve("val_loss")), SWING_OF_VALIDATION, math.inf),
        )
    if swings is None or (
        split == "validation"
        and (reads_better(run, swings[0].at[0]) or _hardly_misread(run, swings[0].at[0]))
    ):
        return None
    half, how = swings
    turns = _turns(half)
    surely = (
        not _bettered(errors(run, "val"), half.at[0])
        if split == "training"
        else run.read_by("val") is not None
    )
    return LOSS_OSCILLATES.finding(
        headline=f"{split} loss {how}, and no longer falls since {place(run, half.at[0])}",
        evidence=(
            (
                f"{turns} turns in {len(half)} readings, between {number(min(half.values))} and "
                f"{number(max(half.values))}"
            ),
        ),
        try_="a smaller learning rate, or larger batches (accumulation)",
        status="confirmed" if surely else "suspected",
        began=half.at[0],
    )


def _hardly_misread(run: Run, since: float) -> bool:
    """Whether next to nothing has been misread since a place: what is left of the loss hangs on a clip
    or two.
    """
    rate = between(error_rate(run, "val"), since).values
    return len(rate) >= FEW and max(rate) <= FLAWLESS


def _bettered(curve: Curve, place: float) -> bool:
    """Whether most readings since a place lie below the lowest of those before it, and by more than
    creeping.
    """
    before, since = between(curve, -math.inf, place), between(curve, place)
    if not len(before) or not len(since):
        return False
    best = min(before.values)
    return best - median(since.values) > CREEP * abs(best)


def _swings(run: Run, curve: Curve, least: float, away: float) -> tuple[Curve, str] | None:
    """The later half of a curve that swings by more than `least`, or ran away to more than `away`
    times its lowest and came back; and how.
    """
    half = between(curve, curve.at[0] + 0.5 * (curve.at[-1] - curve.at[0])) if len(curve) else curve
    if len(half) < FEW or min(half.values) <= 0 or _restarts(run, half) > len(half) / 8:
        return None
    logs = logarithms(half)
    learnt = median(half.values) < 0.1 * median(curve.values[: len(curve) // 2])
    if learnt or falls(logs, creep=FALL) or max(half.values) < LEFT * curve.values[0]:
        return None
    swing, farthest = noise(logs), _ran_away(half)
    if swing > least and _turns(half) > 0.4 * (len(half) - 2):
        return half, f"swings by {share(swing)} between readings"
    if farthest > away:
        return half, f"runs away to {farthest:.0f} times its lowest and comes back"
    return (half, "swings far above its lowest") if _got_nowhere(curve, half, away) else None


def _got_nowhere(curve: Curve, half: Curve, away: float) -> bool:
    """Whether a loss that may run away to be called so was lowest early on, and has since gone up
    and down above that, from reading to reading or over many.
    """
    calm = smoothed(half).values
    best = lowest(curve)
    up = max(value / low for value, low in zip(calm, accumulate(calm, min), strict=True))
    down = max(high / value for value, high in zip(calm, accumulate(calm, max), strict=True))
    return (
        math.isfinite(away)
        and len(curve) >= MANY
        and curve.at[best] - curve.at[0] < (curve.at[-1] - curve.at[0]) / 3
        and median(half.values) > (1 + RISEN) * curve.values[best]
        and up > TWICE
        and down > BACK
    )


def _turns(curve: Curve) -> int:
    return sum(
        (b - a) * (c - b) < 0
        for a, b, c in zip(curve.values, curve.values[1:], curve.values[2:], strict=False)
    )


def _ran_away(half: Curve) -> float:
    """The largest multiple of its lowest value so far that a loss went to, single readings aside,
    where it has come back from it by half.
    """
    calm = smoothed(half).values
    if calm[-1] >= 0.5 * max(calm):
        return 1.0
    return max(value / low for value, low in zip(calm, accumulate(calm, min), strict=True))


def _restarts(run: Run, half: Curve) -> int:
    rates = between(finite(run.curve("lr")), half.at[0])
    return sum(b > 1.5 * a for a, b in pairwise(rates.values))


LOSS_NOT_FINITE = Record(
    name="loss_not_finite",
    stage="run",
    means="A loss is NaN or infinite. Once weights are, nothing that comes later is worth "
    "anything.",
    detected=(
        "Every reading of a loss is looked at. Confirmed where the last one is not finite, "
        "else suspected; so is a validation loss beside which training loss is finite and clips "
        "are read no worse: CTC's loss of one clip whose target does not fit is infinite."
    ),
    mend=(
        "Take a smaller learning rate and gradient clipping, compute CTC in float32, and look for "
        "clips whose target does not fit in their steps."
    ),
    no_remedy=(
        "a log cannot be trained again; the next command to run is printed, with a smaller "
        "learning rate"
    ),
    planted=("became_nan",),
)
TRAINING_DIVERGES = Record(
    name="training_diverges",
    stage="run",
    means="The training loss has run away from its lowest value and does not come back, or has no "
    "floor and runs off below zero.",
    detected=(
        "The last third of the readings after the lowest stands at twice it or more, beyond "
        "the noise of the curve; the loss was as low as that within the first three quarters "
        "of the way to its lowest; it does not come down again, or so slowly that after half of "
        "the run it would not be back in as long again, and no rise as large came "
        "back before. Single readings do not count, nor do those soon after a warm restart of "
        "the learning rate. Or the last third of the readings lies a thousand times as far below "
        "zero as the first lay above it."
    ),
    mend=(
        "Take a smaller learning rate, a warm-up or gradient clipping; go on from the checkpoint "
        "of the lowest loss."
    ),
    no_remedy=(
        "a log cannot be trained again; the next command to run is printed, with a smaller "
        "learning rate"
    ),
    planted=("diverged",),
)
LOSS_SPIKES = Record(
    name="loss_spikes",
    stage="run",
    means=(
        "Single readings of a loss stand far above those on both sides: batches that throw the "
        "network back."
    ),
    detected=(
        "At least two readings, and one in a thousand, are more than three times the median "
        "of the three before and of the three behind, and eight deviations further off than "
        "readings scatter, by logarithms. Validation loss is asked only where it has more "
        "readings than training loss. Never more than suspected: a hard batch does the same."
    ),
    mend="Clip gradients, take a smaller learning rate, and look at the clips of those batches.",
    no_remedy="a log cannot be trained again; the next command to run is printed",
    planted=("spiky",),
)
LOSS_OSCILLATES = Record(
    name="loss_oscillates",
    stage="run",
    means="The loss swings up and down and gets nowhere.",
    detected=(
        "In the later half of the run the loss no longer falls by a tenth, turns at four of "
        "ten readings or more, and swings between neighbours by a quarter of its level "
        "(validation loss: by half); or training loss runs away to five times its lowest and "
        "comes back; or was lowest in the first third, lies a quarter above that, and goes up to twice "
        "a low and down by a third. Not where all that is left is below a hundredth of the first "
        "reading. Validation loss counts only where the error rate does not fall, and is "
        "suspected where there is none."
    ),
    mend="Take a smaller learning rate, or larger batches (accumulation).",
    no_remedy=(
        "a log cannot be trained again; the next command to run is printed, with a smaller "
        "learning rate"
    ),
    planted=("swinging",),
)
