"""Several runs in one picture: each metric a panel, each run a line named where it ends, its best
reading and its onset marked on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_overfit.health.comparison import best_point, broke, measure_of, ranked, words_of
from pytest_overfit.health.curves.curve import Curve
from pytest_overfit.health.curves.metric import metric
from pytest_overfit.health.panels import number, smoothed, thinned, write_names
from pytest_overfit.health.pictures import (
    DPI,
    GAP,
    LEFT,
    NOTE_LINE,
    RIGHT,
    STYLE,
    WIDTH,
    save_figure,
)
from pytest_overfit.health.run import Run

try:
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter
except ImportError as error:
    raise ImportError("pictures need matplotlib: pip install 'pytest-overfit[pictures]'") from error

if TYPE_CHECKING:
    from pytest_overfit.health.checkup import Checkup

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#444444")
"""Of Okabe & Ito's palette, which the colour-blind can tell apart."""
HEIGHT, ABOVE = 2.6, 0.75
"""Inches of a panel, and above them."""
MOST_NAMED = 7
"""Runs that are named on their lines; more are drawn grey, and named below."""
GREY = "#BBBBBB"


def draw(checkups: Sequence[Checkup]) -> Figure:
    """One panel each for the measure by which the runs are ranked, the validation loss and the
    training loss. Best runs first.
    """
    order = ranked(checkups)
    runs = [checkup.run for checkup in order]
    names = [
        name
        for name in dict.fromkeys((measure_of(runs), "val_loss", "train_loss"))
        if name and any(len(run.curve(name)) for run in runs)
    ]
    below = 0.62 + NOTE_LINE * len(order)
    height = ABOVE + len(names) * HEIGHT + GAP * max(len(names) - 1, 0) + below
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor="white")
        FigureCanvasAgg(figure)
        figure.text(
            0.25 / WIDTH,
            1 - 0.18 / height,
            f"{len(order)} runs, best first: {order[0].run.name}",
            va="top",
            weight="bold",
            size=13,
        )
        top = height - ABOVE
        axes: list[Axes] = []
        for name in names:
            spot = (
                LEFT / WIDTH,
                (top - HEIGHT) / height,
                (WIDTH - LEFT - RIGHT) / WIDTH,
                HEIGHT / height,
            )
            axes.append(figure.add_axes(spot, sharex=axes[0] if axes else None))
            _draw_panel(axes[-1], name, order)
            axes[-1].tick_params(labelbottom=name == names[-1])
            top -= HEIGHT + GAP
        if axes:
            axes[-1].set_xlabel(_clock(runs) or "share of the run")
        for index, checkup in enumerate(order):
            line = f"{checkup.run.name}: {checkup.verdict}" + (
                f"; {broke(checkup)}" if checkup.findings else ""
            )
            colour = COLOURS[index] if index < MOST_NAMED else "#666666"
            figure.text(
                LEFT / WIDTH,
                NOTE_LINE * (len(order) - index) / height,
                line,
                va="center",
                size=9,
                color=colour,
            )
    return figure


def save_comparison(checkups: Sequence[Checkup], folder: Path, *, name: str) -> tuple[Path, ...]:
    """Write `name`.png and `name`.svg into `folder`, which is made; each beside its place, then
    renamed. Returns their paths.
    """
    return save_figure(draw(checkups), folder, name)


def _clock(runs: Sequence[Run]) -> str | None:
    """What all of them count; None where they differ, and only shares of a run can stand on one
    axis.
    """
    clocks = {run.clock for run in runs}
    return next(iter(clocks)) if len(clocks) == 1 else None


def _placed(run: Run, curve: Curve, *, shares: bool) -> Curve:
    places = [at for one in run.curves.values() for at in one.at]
    if not shares or not places or max(places) == min(places):
        return curve
    low, high = min(places), max(places)
    return Curve(at=tuple((at - low) / (high - low) for at in curve.at), values=curve.values)


def _draw_panel(ax: Axes, name: str, order: Sequence[Checkup]) -> None:
    measured = metric(name)
    split = {"train": "training", "val": "validation"}[name.split("_")[0]]
    ax.set_title(f"{split} {words_of(name)}", loc="left", size=10)
    if measured and measured.share:
        ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    shares = _clock([checkup.run for checkup in order]) is None
    names: list[tuple[float, str, str]] = []
    for index, checkup in reversed([*enumerate(order)]):
        run = checkup.run
        curve = _placed(run, run.curve(name), shares=shares)
        if not len(curve):
            continue
        colour = COLOURS[index] if index < MOST_NAMED else GREY
        ax.plot(
            *thinned(curve),
            color=colour,
            linewidth=1.6,
            marker="o" if len(curve) <= 40 else "",
            markersize=3.5,
        )
        best = best_point(run, name)
        if best is not None and name.startswith("val_"):
            at = curve.at[run.curve(name).at.index(best.at)]
            ax.plot(
                at,
                best.value,
                marker="*",
                markersize=13,
                color=colour,
                markeredgecolor="white",
                zorder=5,
            )
        for finding in checkup.findings:
            if finding.began is not None and name == "val_loss":
                began = _placed(run, Curve(at=(finding.began,), values=(0.0,)), shares=shares).at[0]
                ax.axvline(began, color=colour, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        if index < MOST_NAMED:
            shape = "{:.1%}".format if measured and measured.share else number
            last = smoothed(curve)[1][-1]
            names.append((float(last), f"{run.name[:24]} {shape(float(last))}", colour))
    write_names(ax, names)
