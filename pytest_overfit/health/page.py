"""The report of runs as one page that needs no network: verdict, curves with what began where, and
findings. It stands beside the text as `overfitting_health_report.html`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_overfit.finding import Finding
from pytest_overfit.health import report
from pytest_overfit.health.checkup import Checkup
from pytest_overfit.health.curves.curve import Curve
from pytest_overfit.health.curves.metric import metric
from pytest_overfit.health.rules.reading import SPLITS
from pytest_overfit.health.rules.trend import finite
from pytest_overfit.health.run import Run
from pytest_overfit.plugin.page import template

TEMPLATE = "page_of_runs.html.j2"
WIDTH, HEIGHT = 640, 200
"""Of a picture's view box, which scales with the page."""
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 22, 24
"""Margins: numbers stand on the left and below, names of findings above."""
POINTS = 400
"""Of a curve at most: more are closer together than a pixel."""
WIDE = 10.0
"""Times that the largest value is the smallest, from which on an axis is logarithmic."""

Place = Callable[[float], float]


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Curves of one quantity over the run. lines: split and points; marks: where findings began.

    marks: x, and the numbers of the findings that began there. ticks: place on the axis and number.
    """

    title: str
    lines: tuple[tuple[str, str], ...]
    marks: tuple[tuple[float, str], ...]
    ticks_x: tuple[tuple[float, str], ...]
    ticks_y: tuple[tuple[float, str], ...]


def page(checkups: Sequence[Checkup], *, compared: str | None = None) -> str:
    """The whole page. compared: the table of several runs, as text."""
    return template(Path(__file__).with_name(TEMPLATE)).render(
        runs=[_run(checkup) for checkup in checkups],
        compared=compared,
        view=(WIDTH, HEIGHT),
        edges=(LEFT, WIDTH - RIGHT, TOP, HEIGHT - BOTTOM),
    )


def _run(checkup: Checkup) -> dict[str, object]:
    """What the template needs of one run."""
    run = checkup.run
    return {
        "title": report.title(run),
        "verdict": checkup.verdict,
        "reasons": checkup.reasons,
        "charts": charts(run, checkup.findings),
        "table": report.table(run),
        "findings": [
            ("finding" if finding.fails() else "warning", report.finding_rows_of(run, finding))
            for finding in checkup.findings
        ],
        "rest": report.rest(checkup),
    }


def charts(run: Run, findings: Sequence[Finding]) -> list[Chart]:
    """Loss, what reading is judged by, and the learning rate, where the log tells them."""
    judged = next((name for split in SPLITS if (name := run.read_by(split))), "")
    what = judged.partition("_")[2]
    measured = metric(judged)
    asked: list[tuple[str, tuple[str, ...]]] = [("loss", ("train_loss", "val_loss"))]
    asked += [(measured.words, (f"train_{what}", f"val_{what}"))] if measured else []
    asked += [("learning rate", ("lr",))]
    drawn = [(words, {name: finite(run.curve(name)) for name in names}) for words, names in asked]
    return [
        _chart(words, {name: curve for name, curve in curves.items() if len(curve)}, run, findings)
        for words, curves in drawn
        if any(len(curve) > 1 for curve in curves.values())
    ]


def _chart(words: str, curves: dict[str, Curve], run: Run, findings: Sequence[Finding]) -> Chart:
    """Curves of one quantity on shared axes, logarithmic where values differ widely."""
    places = [at for curve in curves.values() for at in curve.at]
    values = [value for curve in curves.values() for value in curve.values]
    first, last, low, high = min(places), max(places), min(values), max(values)
    logarithmic = low > 0 and high / low > WIDE
    scale = math.log if logarithmic else float
    span = (scale(high) - scale(low)) or 1.0

    def x(at: float) -> float:
        return round(LEFT + (at - first) / ((last - first) or 1) * (WIDTH - RIGHT - LEFT), 1)

    def y(value: float) -> float:
        share = (scale(value) - scale(low)) / span
        return round(HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP), 1)

    unit, measured = run.loss_unit, metric(next(iter(curves)))
    form = "{:.1%}".format if measured and measured.share else "{:.3g}".format
    middle = math.sqrt(low * high) if logarithmic else (low + high) / 2
    began: dict[float, list[str]] = {}
    for number, finding in enumerate(findings, 1):
        if finding.began is not None and first <= finding.began <= last:
            began.setdefault(finding.began, []).append(str(number))
    return Chart(
        title=f"{words} ({unit})" if words == "loss" and unit != "unknown" else words,
        lines=tuple(
            ("val" if name.startswith("val_") else "train", _points(curve, x, y))
            for name, curve in curves.items()
        ),
        marks=tuple((x(at), ", ".join(names)) for at, names in began.items()),
        ticks_x=tuple((x(at), f"{at:g}") for at in sorted({first, (first + last) // 2, last})),
        ticks_y=tuple((y(value), form(value)) for value in sorted({low, middle, high})),
    )


def _points(curve: Curve, x: Place, y: Place) -> str:
    every = -(-len(curve) // POINTS)
    return " ".join(
        f"{x(at)},{y(value)}"
        for number, (at, value) in enumerate(zip(curve.at, curve.values, strict=True), 1)
        if number % every == 0 or number in (1, len(curve))
    )
