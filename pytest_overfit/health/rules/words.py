"""How a rule words its numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pytest_overfit.health.run import Run


def place(run: Run, at: float) -> str:
    """ "epoch 25", "step 1200"."""
    return f"{run.clock} {at:.0f}" if at == round(at) else f"{run.clock} {at:.1f}"


def number(value: float) -> str:
    """Two digits after the point, three significant ones of what is very small or large; "not finite" else."""
    if not math.isfinite(value):
        return "not finite"
    return f"{value:.2f}" if 0.01 <= abs(value) < 100 else f"{value:.3g}"


def share(value: float) -> str:
    """ "90.8 %"."""
    return f"{100 * value:.1f} %"


def span(values: Sequence[float]) -> str:
    """The smallest and the largest value: "2.09 to 2.93"."""
    low, high = number(min(values)), number(max(values))
    return low if low == high else f"{low} to {high}"
