"""How a rule words its numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pytest_overfit.finding import counted
from pytest_overfit.health.rules.trend import Rise
from pytest_overfit.health.run import Run


def place(run: Run, at: float) -> str:
    """ "epoch 25", "step 1200"."""
    return f"{run.clock} {at:.0f}" if at == round(at) else f"{run.clock} {at:.1f}"


def cited_place(run: Run, name: str, at: float) -> str:
    """A place with where the log tells it of a metric: "epoch 25 (train.log:312)"; of a median no
    more than the place is known.
    """
    cited = run.cite(name, at)
    return f"{place(run, at)} ({cited})" if cited else place(run, at)


def number(value: float) -> str:
    """Two digits after the point, three significant ones of what is very small or large; "not
    finite" else.
    """
    if not math.isfinite(value):
        return "not finite"
    return f"{value:.2f}" if 0.01 <= abs(value) < 100 else f"{value:.3g}"


def share(value: float) -> str:
    """ "90.8 %"."""
    return f"{100 * value:.1f} %"


def certainty(rise: Rise) -> str:
    """How sure a rise is: "8 readings after it, 35 % of the run; 12 times the noise"."""
    length = f"{counted(rise.readings, 'reading')} after it, {100 * rise.lasted:.0f} % of the run"
    if rise.noises is None:
        return f"how sure: {length}; too few to measure the noise, none is as low again"
    return (
        f"how sure: {length}; the rise is "
        f"{'far more than' if rise.noises > 100 else f'{rise.noises:.1f} times'} the noise"
    )


def span(values: Sequence[float]) -> str:
    """The smallest and the largest value: "2.09 to 2.93"."""
    low, high = number(min(values)), number(max(values))
    return low if low == high else f"{low} to {high}"
