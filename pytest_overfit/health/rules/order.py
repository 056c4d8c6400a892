"""Logs whose steps are out of order."""

from __future__ import annotations

import math
from itertools import pairwise
from statistics import median

from pytest_overfit.finding import Finding, naming
from pytest_overfit.findings.record import Record
from pytest_overfit.health.curves.curve import Curve
from pytest_overfit.health.curves.metric import metric
from pytest_overfit.health.rules.stability import LOSSES
from pytest_overfit.health.rules.words import place
from pytest_overfit.health.run import Run

AROUND = 6
"""Readings on each side that tell how far readings there lie apart."""


def steps_out_of_order(run: Run) -> Finding | None:
    """The log goes back, or tells one epoch twice and differently.

    Where it tells losses, they decide: what is told besides may be of another pass over old epochs.
    """
    shown, first = [], math.inf
    for name in [name for name in LOSSES if name in run.curves] or filter(metric, run.curves):
        places = _disorder(run.curves[name])
        if places:
            first = min(first, *places)
            shown.append(
                f"{name}: {naming([place(run, at) for at in places])} after a later or the "
                f"same {run.clock}"
            )
    if not shown:
        return None
    return STEPS_OUT_OF_ORDER.finding(
        headline=f"the log's {run.clock}s are out of order at {place(run, first)}",
        evidence=tuple(shown),
        try_=(
            "one log a run: a resumed one must go on where the other ended, or lie in a folder of "
            "its own"
        ),
        status="confirmed",
        began=first,
    )


def _disorder(curve: Curve) -> list[float]:
    """Places that come after a later one, or again with another value; none where that is so all the
    time: then it is no clock. An epoch that a resumed run goes through again has nearly the same
    value, less apart than half of what epochs around it are.
    """
    points = curve.points
    apart = [abs(b.value - a.value) for a, b in pairwise(points)]

    def again(i: int) -> bool:
        around = apart[max(i - AROUND, 0) : i] + apart[i + 1 : i + 1 + AROUND]
        return apart[i] <= median([one for one in around if one == one] or [0.0]) / 2

    back = [
        b.at
        for i, (a, b) in enumerate(pairwise(points))
        if b.at < a.at or (b.at == a.at and not again(i))
    ]
    return sorted(set(back)) if len(back) <= max(1, len(points) // 8) else []


STEPS_OUT_OF_ORDER = Record(
    name="steps_out_of_order",
    stage="run",
    means=(
        "The log goes back in time, or tells one epoch twice and differently: two runs in one "
        "file, or one that was resumed."
    ),
    detected=(
        "The place of each reading of the losses (of the other metrics, where no loss is "
        "logged) is compared with the one before it. A clock that goes back more often than "
        "at one reading in eight is taken for none."
    ),
    mend=(
        "Keep one log for each run: a resumed one must go on where the other ended, or lie in a "
        "folder of its own."
    ),
    no_remedy="nothing is wrong with what was trained",
    planted=("out_of_order",),
)
