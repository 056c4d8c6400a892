"""Pictures of a search: its course, and what each value came to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from pytest_overfit.health.pictures import STYLE
from pytest_overfit.search.result import importances
from pytest_overfit.search.running import Search, Trial
from pytest_overfit.search.space import Axis

try:
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter
except ImportError as error:
    raise ImportError("pictures need matplotlib: pip install 'pytest-overfit[pictures]'") from error

HELD, BROKE, GIVEN_UP = "#0b7a3b", "#b3261e", "#9aa0a6"
ACROSS, DPI = 4, 100
LETTERS, LONGEST = 24, 10
"""Letters of choices that fit below a panel side by side, and of one where they are slanted."""
BREAKS = 1.0
"""Score from which a rung broke."""


def kind_of(trial: Trial) -> tuple[str, str, str]:
    """How a trial ended, its colour, its mark."""
    if trial.result.held:
        return "held", HELD, "o"
    return (
        ("given up", GIVEN_UP, "x")
        if trial.result.ended.startswith("given up")
        else ("broke", BROKE, "s")
    )


def draw_history(search: Search, trials: Sequence[Trial]) -> Figure:
    """Score by trial, and the best so far."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure(10, 4.5)
        course = sorted(trials, key=lambda trial: trial.number)
        for kind in ("held", "broke", "given up"):
            of_kind = [trial for trial in course if kind_of(trial)[0] == kind]
            if of_kind:
                _, colour, mark = kind_of(of_kind[0])
                numbers, scores = [t.number for t in of_kind], [t.result.score for t in of_kind]
                axes.scatter(
                    numbers, scores, s=22, c=colour, marker=mark, label=f"{kind} ({len(of_kind)})"
                )
        best = list(accumulate((trial.result.score for trial in course), min))
        axes.step(
            [trial.number for trial in course],
            best,
            where="post",
            color="black",
            lw=1,
            label="best so far",
        )
        axes.axhline(BREAKS, color="black", lw=0.8, ls=":")
        axes.annotate(
            "held below, broke above",
            (1, BREAKS),
            (0, 3),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            ha="right",
            fontsize=8,
        )
        axes.set_xlabel("trial")
        axes.set_ylabel("score")
        axes.set_ylim(bottom=0)
        axes.set_title(f"{search.name}: {len(trials)} trials", loc="left")
        figure.subplots_adjust(left=0.07, right=0.84, top=0.92, bottom=0.12)
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return figure


def draw_values(search: Search, trials: Sequence[Trial]) -> Figure:
    """Score by value, a panel for each axis, those that mattered most first."""
    weights = importances(search.climb.space, trials)
    axes_of = [axis for axis in search.climb.space.axes if len(axis.choices) != 1]
    axes_of.sort(key=lambda axis: -weights.get(axis.name, 0.0))
    down = max(math.ceil(len(axes_of) / ACROSS), 1)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.1 * ACROSS, 2.6 * down + 0.6), dpi=DPI, facecolor="white")
        FigureCanvasAgg(figure)
        for place, axis in enumerate(axes_of):
            panel = figure.add_subplot(down, ACROSS, place + 1)
            share = f"  {weights[axis.name]:.0%}" if axis.name in weights else ""
            panel.set_title(f"{axis.name.removeprefix('network.')}{share}", loc="left", fontsize=10)
            _draw_axis(panel, axis, trials)
            if place % ACROSS == 0:
                panel.set_ylabel("score")
        note = "; percent: importance" if weights else ""
        figure.suptitle(f"{search.name}: score by value, held below 1{note}", x=0.01, ha="left")
        figure.tight_layout(rect=(0, 0, 1, 0.98))
    return figure


def _draw_axis(panel: Axes, axis: Axis, trials: Sequence[Trial]) -> None:
    words = [_word(choice)[:LONGEST] for choice in axis.choices]
    for trial in reversed(trials):
        _, colour, mark = kind_of(trial)
        value = trial.values[axis.name]
        x = axis.choices.index(value) + _aside(trial.number) if axis.choices else value
        panel.scatter(
            [x], [trial.result.score], s=12, c=colour, marker=mark, alpha=0.8, linewidths=0.8
        )
    panel.axhline(BREAKS, color="black", lw=0.8, ls=":")
    panel.set_ylim(bottom=0)
    if axis.choices:
        slanted = max(map(len, words)) * len(words) > LETTERS
        looks: Any = {"rotation": 35, "ha": "right", "fontsize": 7} if slanted else {}
        panel.set_xticks(range(len(words)), words, **looks)
        panel.set_xlim(-0.5, len(words) - 0.5)
    else:
        panel.set_xscale("log")
        panel.xaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:g}"))
        panel.xaxis.set_minor_formatter(NullFormatter())


def _aside(number: int) -> float:
    """By how much a mark stands beside its choice, so that marks do not cover each other."""
    golden = 0.618034
    return 0.5 * (number * golden % 1 - 0.5)


def _word(choice: Any) -> str:
    return "none" if choice is None else f"{choice:g}" if isinstance(choice, float) else str(choice)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()
