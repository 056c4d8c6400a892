"""Learning that does not carry over: validation turns while training goes on, or stays far behind."""

from __future__ import annotations

import math
from bisect import bisect_right
from statistics import median

from pytest_overfit.finding import Finding, counted
from pytest_overfit.health.rules.learning import STUCK, stands_blind
from pytest_overfit.health.rules.trend import (
    FEW,
    LONG,
    between,
    came_back_before,
    falls,
    finite,
    lowest,
    memory,
    noise,
    rank_trend,
    reading_at,
    restarted,
    still_since,
    thinned,
)
from pytest_overfit.health.rules.words import number, place, share, span
from pytest_overfit.health.run import Curve, Run

RISE, RISE_OF_FEW = 0.02, 0.05
"""Share of its best by which validation loss must have risen; the second where there are too few readings to know its noise."""
RISING = 2.5
"""Normal score of the rise since the best."""
SURE = 2.0
"""Deviations beyond which a rise is no chance."""
LEARNT = 0.1
"""Share of its value at the best epoch by which training loss must have fallen since, where it has few readings."""
TAIL = 0.15
"""Share of a run that must have passed since the best reading."""
GAPS = (2.0, 1.0)
"""Validation minus training loss that is wide."""
GAP_SHARE = 0.1
"""Share of the validation loss below which no gap is wide, whatever the unit."""


def validation_loss_rises(run: Run) -> Finding | None:
    """Validation loss has risen since its best, beyond its noise and for long, while training loss fell."""
    curve = thinned(run.curve("val_loss"))
    best = curve.at[lowest(curve)]
    tail = between(settled_rate(run, curve, best), best)
    if not _risen(curve, tail, run) or not _learning_on(run, tail) or stands_blind(run, "train"):
        return None
    exact = finite(run.curve("val_loss"))
    best, low = exact.at[lowest(exact)], min(exact.values)
    train = finite(run.curve("train_loss"))
    shown = [
        f"validation loss {number(low)} at {place(run, best)}, the best of {counted(len(exact), 'reading')}; "
        f"{number(exact.values[-1])} at {place(run, exact.at[-1])}" + (f" ({share(exact.values[-1] / low - 1)} above it)" if low > 0 else ""),
        f"training loss meanwhile {number(reading_at(train, best))} -> {number(reading_at(train, exact.at[-1]))}",
    ]
    wer = finite(run.curve("val_wer"))
    learns = _reads_better(wer, best)
    if learns:
        shown.append(f"validation WER still falls: {share(reading_at(wer, best))} -> {share(wer.values[-1])}; the loss alone gets worse")
    if run.facts.parameters and run.facts.train_samples:
        shown.append(f"{run.facts.parameters / run.facts.train_samples:,.0f} parameters for each of {run.facts.train_samples} training samples")
    return Finding(
        name="validation_loss_rises",
        headline=f"validation loss rises since {place(run, best)} while training loss falls",
        evidence=tuple(shown),
        try_=f"go back to {place(run, best)}; train with more dropout, weight decay, augmentation or data",
        status="suspected" if learns else "confirmed",
        began=best,
    )


def _reads_better(wer: Curve, best: float) -> bool:
    """Whether an error rate below which something is read fell still in the later half of what came after `best`."""
    since = between(wer, best)
    later = between(since, since.at[len(since) // 2]) if len(since) else since
    return len(later) >= FEW and later.values[-1] <= STUCK and falls(later, creep=0.01)


def _risen(curve: Curve, tail: Curve, run: Run) -> bool:
    """Whether a curve has risen for good since its best. tail: from the best on."""
    low, whole = tail.values[0], curve.at[-1] - curve.at[0]
    if len(tail) < 3 or tail.at[-1] - tail.at[0] < TAIL * whole or low <= 0:
        return False
    if len(curve) < FEW:
        high = tail.values[-1]
        long = tail.at[-1] - tail.at[0] >= LONG[run.clock] / 2
        lasting = min(tail.values[1:]) > low and high >= 0.98 * max(tail.values)
        return long and lasting and high - low > RISE_OF_FEW * low
    after = tail.values[1:]
    if len(after) < 6:
        return False
    last = after[-max(len(after) // 2, 3) :]
    at_best = bisect_right(curve.at, tail.at[0]) - 1
    low, high = median(curve.values[max(at_best - 1, 0) : at_best + 2]), median(last)
    scatter = noise(between(curve, curve.at[max(at_best - FEW // 2, 0)])) * memory(after)
    # Of readings about one level the lowest lies below it by chance, by about one deviation after the median of three.
    beyond = scatter * (1 + SURE * math.sqrt(1 / 3 + 1 / len(last)))
    rises = high - low > max(beyond, RISE * low) and rank_trend(after) >= RISING
    return rises and not came_back_before(curve, tail.at[0], (high - low) / low)


def _learning_on(run: Run, tail: Curve) -> bool:
    """Whether training loss fell from the best validation epoch to the last."""
    train = thinned(run.curve("train_loss"))
    since = between(train, tail.at[0], tail.at[-1])
    if len(since) >= FEW:
        return falls(since)
    before, after = reading_at(train, tail.at[0]), reading_at(train, tail.at[-1])
    return before - after > LEARNT * abs(before)


def settled_rate(run: Run, curve: Curve, best: float) -> Curve:
    """The readings but those after `best` and soon after a warm restart."""
    held = [(at, value) for at, value in zip(curve.at, curve.values, strict=True) if at <= best or not restarted(run, at, best)]
    return Curve(at=tuple(at for at, _ in held), values=tuple(value for _, value in held))


def gap_wide(run: Run) -> Finding | None:
    """Validation loss stands still more than 1.0 above training loss. While validation falls a gap is no illness: what is learnt carries over."""
    train, val = thinned(run.curve("train_loss")), thinned(run.curve("val_loss"))
    still = still_since(run, "val_loss")
    gaps = [(at, value - reading_at(train, at)) for at, value in zip(val.at, val.values, strict=True) if at >= train.at[0]]
    bound = next((bound for bound in GAPS if len(gaps) >= 2 and min(gap for _, gap in gaps[-_lasting(gaps) :]) > bound), None)
    if still is None or bound is None or gaps[-1][1] < GAP_SHARE * val.values[-1] or not _learnt(run, train):
        return None
    began = _since_above(gaps, GAPS[-1])
    return Finding(
        name="gap_wide",
        headline=f"validation loss stands more than {bound:g} above training loss since {place(run, _since_above(gaps, bound))}",
        evidence=(
            f"gap (validation - training) {span([gap for at, gap in gaps if at >= began])} from {place(run, began)} on",
            f"validation loss stands still since {place(run, still)}",
        ),
        try_="more dropout, weight decay, augmentation or data; a smaller network",
        status="confirmed",
        began=began,
    )


def _learnt(run: Run, train: Curve) -> bool:
    """Whether something was learnt that may or may not carry over; without that, losses differ for another reason.

    Training loss is below its first reading and on no level that is reached blindly, and some training clips are read.
    """
    wer = finite(run.curve("train_wer"))
    reads = not len(wer) or wer.values[-1] <= STUCK
    return train.values[-1] < (1 - LEARNT) * train.values[0] and reads and not stands_blind(run, "train")


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
