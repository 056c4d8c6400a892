"""The course of a run: its learning rate's restarts, how far along its plan it is, and since when a
metric of it stands still.
"""

from __future__ import annotations

import math
from itertools import accumulate, pairwise
from statistics import median

from pytest_overfit.health.curves.curve import Curve
from pytest_overfit.health.rules.reading import errors
from pytest_overfit.health.rules.trend import (
    CREEP,
    FEW,
    MANY,
    between,
    finite,
    long_enough,
    lowest,
    noise,
    reading_at,
    smoothed,
    stands_since,
    thinned,
)
from pytest_overfit.health.rules.words import place
from pytest_overfit.health.run import Run

THROWN_BACK_SHARE = 0.15
"""Share of its lowest value by which a training loss that was thrown back stands above it."""
RESTED = 0.3
"""Share of the highest learning rate at which a restarted one has come down again."""
EPOCHS, STEPS = 30.0, 1000.0
"""Where the clock counts epochs: how many of them let fewer than FEW readings tell that a metric
stands. Where it counts steps: before so many, training loss tells nothing.
"""
EARLY, NEARLY_DONE = 1 / 3, 0.85
"""Share of its plan before which a run that never moved may still do so; and from which one whose
validation loss merely stands may as well end.
"""


def is_excerpt(run: Run) -> bool:
    """Whether a log begins so late in its run that most of that was before it."""
    places = [at for curve in run.curves.values() for at in curve.at]
    return bool(places) and trained_before(run, min(places)) > max(places) - min(places)


def trained_before(run: Run, place: float) -> float:
    """How much of a run stands before a place: of readings within epochs the first epoch, called 1,
    begins at 1.
    """
    within = any(at != math.floor(at) for curve in run.curves.values() for at in curve.at)
    return place - 1 if run.clock == "epoch" and within and place >= 1 else place


def thrown_back(run: Run) -> bool:
    """Whether training loss stands well above its lowest, or, of few readings, ever stood: after a
    restart of its rate it needs time, and what has diverged has its own rule.
    """
    curve = thinned(run.curve("train_loss"))
    if len(curve) < FEW:
        return any(
            value > (1 + THROWN_BACK_SHARE) * low
            for value, low in zip(curve.values, accumulate(curve.values, min), strict=True)
        )
    calm = smoothed(curve)
    since = between(curve, calm.at[lowest(calm)])
    return median(curve.values[-3:]) - min(calm.values) > max(
        THROWN_BACK_SHARE * abs(min(calm.values)), 3 * noise(since)
    )


def restarted(run: Run, place: float, best: float) -> bool:
    """Whether a warm restart since `best` still holds a run back at `place`: its learning rate is
    well above that at `best` and as high as one before it, and training loss has not come below
    what it was. False where no rate was read.
    """
    rates, train = finite(run.curve("lr")), finite(run.curve("train_loss"))
    if len(rates) < 2 or (
        len(train) and reading_at(train, place) < (1 - CREEP) * reading_at(train, best)
    ):
        return False
    rate, own, before = (
        reading_at(rates, place, 1),
        reading_at(rates, best, 1),
        between(rates, rates.at[0], best).values,
    )
    return (
        rate > max(2 * own, RESTED * max(rates.values)) and rate <= max(before, default=own) / 0.9
    )


def settled_rate(run: Run, curve: Curve, best: float) -> Curve:
    """The readings but those after `best` and soon after a warm restart."""
    held = [
        (at, value)
        for at, value in zip(curve.at, curve.values, strict=True)
        if at <= best or not restarted(run, at, best)
    ]
    return Curve(at=tuple(at for at, _ in held), values=tuple(value for _, value in held))


def still_since(run: Run, name: str, creep: float | None = None) -> float | None:
    """The place since which a metric stands still, rising included; None where it still falls, was
    thrown back, or too little was read to say.

    It must have gone nowhere for the last half of its run, and for long, see `long_enough`. creep:
    as `falls` takes it.
    """
    curve = thinned(errors(run, "val") if name == run.read_by("val") else run.curve(name))
    since = None if thrown_back(run) else stands_since(curve, creep)
    if (
        since is None
        or too_early(run, name)
        or not (
            long_enough(curve, since, over=bool(run.finished)) or _for_epochs(run, curve, since)
        )
    ):
        return None
    half = between(curve, (curve.at[0] + curve.at[-1]) / 2)
    held_back = any(
        restarted(run, curve.at[-1], place) for place in (curve.at[lowest(curve)], half.at[0])
    )
    return None if held_back else since


def _for_epochs(run: Run, curve: Curve, since: float) -> bool:
    return run.clock == "epoch" and len(curve) < FEW and curve.at[-1] - since >= EPOCHS


def too_early(run: Run, name: str) -> bool:
    """Whether a metric that never moved may yet: of a plan next to nothing is done or the rate still
    rises, while it has fewer than MANY readings; or training was read for few steps.
    """
    curve = run.curve(name)
    if run.finished or not len(curve):
        return False
    few_steps = (
        run.clock == "step" and name.startswith("train") and curve.at[-1] - curve.at[0] < STEPS
    )
    return few_steps or (early_in_plan(run) is not None and len(curve) < MANY)


def _progress(run: Run) -> tuple[float, float] | None:
    """How many epochs or steps a run has come to, and how many are planned; None without a plan."""
    last = max((curve.at[-1] for curve in run.curves.values() if len(curve)), default=0.0)
    planned = run.planned_steps if run.clock == "step" else run.facts.epochs
    return (last, planned) if planned else None


def nearly_done(run: Run) -> bool:
    """Whether what is left of a plan is too little for a stop to save much."""
    progress = _progress(run)
    return progress is not None and progress[0] >= NEARLY_DONE * progress[1]


def early_in_plan(run: Run) -> str | None:
    """In words, that most of a run's plan is still to come: fewer than EARLY of its epochs or steps
    are done, or its learning rate still rises.
    """
    progress = _progress(run)
    if progress is not None and progress[0] < EARLY * progress[1]:
        return f"{progress[0]:g} of {progress[1]:g} {run.clock}s are done"
    rates = thinned(run.curve("lr"))
    half = rates.values[len(rates) // 2 :]
    if len(rates) >= FEW and rates.values[0] < half[0] and all(a < b for a, b in pairwise(half)):
        return f"the learning rate still rises: {half[-1]:g} at {place(run, rates.at[-1])}"
    return None
