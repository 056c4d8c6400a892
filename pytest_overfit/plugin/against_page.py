"""A subject's comparison with another side, as the page shows it: a picture of the ratios, a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from pytest_overfit.against.comparison import Comparison
from pytest_overfit.finding import counted
from pytest_overfit.plugin.against_report import COLUMNS, cached, ratio_text, row, since

LEAST, MOST = 0.25, 8.0
"""Ratios at the ends of the picture, the same in each, so that two pages can be compared."""
TICKS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)


def compared(comparisons: Sequence[Comparison]) -> dict[str, object] | None:
    """What the template needs of one subject; None where it was not compared."""
    if not comparisons:
        return None
    own = sorted(comparisons, key=lambda one: one.samples)
    edge = own[0].tolerance
    return {
        "base": own[0].base,
        "tolerance": f"{edge:g}",
        "band": _span(1 / edge, edge),
        "ticks": [(_place(ratio), f"{ratio:g}") for ratio in TICKS],
        "rungs": [_rung(one) for one in own],
        "columns": COLUMNS,
        "rows": [row(one) for one in own],
        "worse": since(own),
        "lines": [
            *(f"{counted(one.samples, 'sample')}: {one.note}" for one in own if one.note),
            *cached(own),
        ],
    }


def _rung(comparison: Comparison) -> dict[str, object]:
    """One line of the picture: an interval, a dot at the ratio, what it comes from."""
    shown = comparison.verdict is not None
    kind = "bad" if comparison.fails else "ok" if comparison.decided else "open"
    return {
        "samples": comparison.samples,
        "kind": kind if shown else "open",
        "span": _span(comparison.low, comparison.high) if shown else None,
        "at": _place(comparison.ratio) if shown and comparison.ratio > 0 else None,
        "ratio": ratio_text(comparison),
        "steps": _steps(comparison),
    }


def _steps(comparison: Comparison) -> str:
    """The median steps of either side, of the seeds that held; how many did not."""
    sides = []
    for whose, at in (("ours", 1), ("theirs", 3)):
        held = [one[at] for one in comparison.steps if one[at + 1]]
        sides.append(f"{whose} {median(held):g}" if held else f"{whose} not learned")
    return ", ".join(sides) if comparison.steps else "not compared"


def _place(ratio: float) -> float:
    """Percent of the picture's width, on a logarithmic axis."""
    share = math.log(min(max(ratio, LEAST), MOST) / LEAST) / math.log(MOST / LEAST)
    return round(100 * share, 1)


def _span(low: float, high: float) -> tuple[float, float]:
    """Where an interval begins, and how wide it is, in percent."""
    begin = _place(low)
    return begin, round(_place(high) - begin, 1)
