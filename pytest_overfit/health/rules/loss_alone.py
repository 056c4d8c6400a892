"""Whether a validation loss that rises harms what is read, or is worse in the loss alone.

A network that grows surer of what it gets wrong has a higher loss and reads no worse: of networks
trained to the end the likelihood overfits while the error still falls (Guo et al. 2017, "On
calibration of modern neural networks", section 3). Reading is what it is trained for, so a rise of
the loss convicts only where reading, too, has nothing more to gain, or has lost:

1. it got worse for good, beyond its noise, or never came near its best again;
2. it no longer gets better, creeping aside, and a third of it or more is misread: this recipe ends
   before it reads;
3. it has stood for as long as it took to come there. Stopping later than at the first sign buys a
   few percent at several times the cost (Prechelt 1998, "Early stopping - but when?"); who has
   waited for as long again has waited enough.
"""

from __future__ import annotations

from statistics import median

from pytest_overfit.health.curves.curve import Curve
from pytest_overfit.health.rules.course import settled_rate
from pytest_overfit.health.rules.reading import error_rate, errors, reads_better
from pytest_overfit.health.rules.trend import (
    FEW,
    MANY,
    RISE_OF_FEW,
    Rise,
    falls,
    lasting_rise,
    lowest,
    reading_at,
    stands_since,
    thinned,
)
from pytest_overfit.health.run import Run

MISREAD = 1 / 3
"""Error rate above which one that stands is no end of learning."""
LOST = 0.15
"""Share of the best reading by which all of the later half are worse where reading has lost."""
LEAST = 3
"""Readings that show where an error rate goes."""


def rise_of(run: Run, curve: Curve) -> Rise | None:
    """The lasting rise of a curve since its best, leaving out what a warm restart of the rate
    lifts.
    """
    curve = thinned(curve)
    return lasting_rise(settled_rate(run, curve, curve.at[lowest(curve)])) if len(curve) else None


def reading_harmed(run: Run, since: float) -> bool:
    """Whether what is read has lost, or has nothing more to gain, while validation loss rises
    since a place. True where fewer than LEAST readings tell how it is read.
    """
    read, rate = errors(run, "val"), error_rate(run, "val")
    if _never_as_good(thinned(read)):
        return True
    if reads_better(run, since):
        return False
    if len(read) < LEAST:
        return True
    unread = len(rate) > 0 and rate.values[-1] > MISREAD
    return unread or rise_of(run, read) is not None or _waited_enough(thinned(read))


def _never_as_good(read: Curve) -> bool:
    """Whether no reading of the later half comes within LOST of the best before it, and the last no
    longer fall.
    """
    if len(read) < FEW:
        return False
    half, part = len(read) // 2, max(len(read) // 3, 2)
    best, last = min(read.values[:half]), Curve(at=read.at[-part:], values=read.values[-part:])
    return min(read.values[half:]) > best + LOST * abs(best) and not falls(last)


def _waited_enough(read: Curve) -> bool:
    """Whether it has stood for as long as it took to come there."""
    if len(read) < MANY:
        last = reading_at(read, read.at[-1], len(read) // 3)
        level = last + RISE_OF_FEW * abs(last)
        stands = next(at for at, value in zip(read.at, read.values, strict=True) if value <= level)
    else:
        found = stands_since(read)
        if found is None:  # too noisy to say since when: it may be no better than it began
            third = len(read) // 3
            began, ended = (median(some) for some in (read.values[:third], read.values[-third:]))
            return ended > began - RISE_OF_FEW * abs(began)
        stands = found
    return read.at[-1] - stands >= stands
