"""Pictures of a run: its curves with the onset of each finding, the gap and the loss levels drawn
in, and what its output looks like.

One figure, panels below each other on one clock: loss, error rate, emitted tokens, blank share,
learning rate, as far as the log has them. Every line is named where it ends, findings are numbered
where they began and named below. Needs matplotlib; pyplot and its state are left alone.
"""

from __future__ import annotations

import math
import os
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_overfit.finding import Finding
from pytest_overfit.health.curves.curve import Curve
from pytest_overfit.health.panels import COLOURS, ONSET, Panel, draw_panel, number, number_findings
from pytest_overfit.health.run import Run
from pytest_overfit.levels import Level

try:
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator
except ImportError as error:
    raise ImportError("pictures need matplotlib: pip install 'pytest-overfit[pictures]'") from error

if TYPE_CHECKING:
    from pytest_overfit.health.checkup import Checkup

WIDTH, DPI = 12.0, 100
"""Inches, and pixels an inch: 1200 pixels across."""
LEFT, RIGHT = 0.75, 2.75
"""Margins in inches; the right one holds the names of lines."""
GAP, HEAD_LINE, NOTE_LINE = 0.42, 0.23, 0.19
"""Inches: between panels, with the title of the lower one; of a line above them; of one below."""
LONGEST = 80
"""Letters of a run's name that fit."""
LOG_SPAN = 5.0
"""Largest over smallest loss from which the axis is logarithmic: on a linear one, the first epoch
of CTC hides all others.
"""
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "svg.hashsalt": "pytest-overfit",
}
Note = tuple[str, str, str]
"""Symbol, its colour, text."""


def draw(
    run: Run, checkup: Checkup | None = None, *, expected_blank_share: float | None = None
) -> Figure:
    """The picture of a run.

    expected_blank_share: 1 - L/T of its samples, where known; a healthy, peaky output comes to it.
    """
    findings = tuple(checkup.findings) if checkup else ()
    panels = [
        panel
        for panel in panels_of(run, expected_blank_share)
        if any(map(len, panel.lines.values()))
    ]
    head = _head(run, checkup, nothing=not panels)
    notes = _notes(run, findings)
    above, below = 0.85 + HEAD_LINE * len(head), 0.62 + NOTE_LINE * len(notes)
    height = above + sum(panel.height for panel in panels) + GAP * max(len(panels) - 1, 0) + below
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor="white")
        FigureCanvasAgg(figure)
        axes: list[Axes] = []
        top = height - above
        for panel in panels:
            place = (
                LEFT / WIDTH,
                (top - panel.height) / height,
                (WIDTH - LEFT - RIGHT) / WIDTH,
                panel.height / height,
            )
            axes.append(figure.add_axes(place, sharex=axes[0] if axes else None))
            top -= panel.height + GAP
        if panels:
            _draw_panels(run, panels, axes, findings)
        _write(figure, height, head, notes)
    return figure


def save_pictures(
    run: Run,
    checkup: Checkup | None,
    folder: Path,
    *,
    name: str = "health",
    expected_blank_share: float | None = None,
) -> tuple[Path, ...]:
    """Write `name`.png and `name`.svg into `folder`, which is made; each beside its place, then
    renamed. Returns their paths.
    """
    return save_figure(draw(run, checkup, expected_blank_share=expected_blank_share), folder, name)


def save_figure(figure: Figure, folder: Path, name: str) -> tuple[Path, ...]:
    """Write a figure as `name`.png and `name`.svg into `folder`, which is made; each beside its
    place, then renamed. Returns their paths.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
        path = folder / f"{name}.{kind}"
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        with matplotlib.rc_context(STYLE):
            figure.savefig(beside, format=kind, metadata=metadata)
        beside.replace(path)
        written.append(path)
    return tuple(written)


def to_tensorboard(figure: Figure, writer: Any, step: int, *, tag: str = "health") -> None:
    """Add a figure to a `torch.utils.tensorboard.SummaryWriter`, or anything with its
    `add_image`.
    """
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    writer.add_image(tag, np.asarray(canvas.buffer_rgba())[..., :3].copy(), step, dataformats="HWC")


def panels_of(run: Run, expected_blank_share: float | None = None) -> Iterable[Panel]:
    """Every panel there may be, in order; those that a log has nothing for have no points."""
    loss = Panel(
        title="loss (nats per target token)" if run.facts.levels else "loss",
        height=3.6,
        lines=_of_both(run, "loss"),
        main=True,
    )
    levels = tuple(
        _in_sight(run.facts.levels.get("val") or run.facts.levels.get("train") or (), loss.finite)
    )
    yield replace(loss, references=levels, logarithmic=_spans_much(loss))
    yield Panel(
        title="error rate",
        height=1.5,
        lines=_of_both(run, "wer"),
        low=0,
        high=1,
        shape="{:.1%}".format,
        percent=True,
    )
    emitted = _of_both(run, "emission_ratio")
    if not any(map(len, emitted.values())):
        emitted = emitted_in(run)
    right = ((1.0, "the right length"),)
    yield Panel(
        title="emitted / target tokens",
        height=1.3,
        lines=emitted,
        references=right,
        low=0,
        high=1.1,
        shape="{:.2f}".format,
    )
    expected = (
        ()
        if expected_blank_share is None
        else ((expected_blank_share, f"expected, 1 - L/T: {expected_blank_share:.3f}"),)
    )
    yield Panel(
        title="blank share",
        height=1.3,
        lines=_of_both(run, "blank_share"),
        references=expected,
        low=0,
        high=1,
        shape="{:.3f}".format,
    )
    rate = Panel(
        title="learning rate", height=0.8, lines={"": run.curve("lr")}, shape="{:.3g}".format
    )
    yield replace(rate, logarithmic=True) if _spans_much(rate) else replace(rate, low=0)


def emitted_in(run: Run) -> dict[str, Curve]:
    """Emitted over target tokens of the predictions that a log shows, by split, at each place where
    it shows any.
    """
    counts: dict[str, dict[float, tuple[int, int]]] = {}
    for shown in run.predictions:
        if shown.at is not None:
            places = counts.setdefault(shown.split if shown.split in COLOURS else "", {})
            emitted, wanted = places.get(shown.at, (0, 0))
            places[shown.at] = (emitted + len(shown.prediction), wanted + len(shown.target))
    return {
        split: Curve(
            at=tuple(sorted(places)),
            values=tuple(places[at][0] / max(places[at][1], 1) for at in sorted(places)),
        )
        for split, places in counts.items()
    }


def best(curve: Curve) -> tuple[float, float] | None:
    """Where a curve is lowest, and how low; None where nothing is finite."""
    held = [
        (value, at)
        for at, value in zip(curve.at, curve.values, strict=True)
        if math.isfinite(value)
    ]
    return (min(held)[1], min(held)[0]) if held else None


def _of_both(run: Run, metric: str) -> dict[str, Curve]:
    return {split: run.curve(f"{split}_{metric}") for split in ("train", "val")}


def _spans_much(panel: Panel) -> bool:
    values = panel.finite
    return bool(values) and min(values) > 0 and max(values) > LOG_SPAN * min(values)


def _in_sight(levels: Sequence[Level], losses: Sequence[float]) -> Iterable[tuple[float, str]]:
    """Those levels that the curves come near, with their names."""
    for level in levels:
        if losses and level.loss > 0 and 0.5 * min(losses) <= level.loss <= 1.5 * max(losses):
            yield level.loss, f"level {level.name} {number(level.loss)}"


def _head(run: Run, checkup: Checkup | None, *, nothing: bool) -> list[str]:
    """The run's name with the verdict, then its reasons."""
    name = f"{run.name[:LONGEST]} ..." if len(run.name) > LONGEST else run.name or "run"
    reasons = (
        textwrap.wrap("; ".join(checkup.reasons), 150, max_lines=2, placeholder=" ...")
        if checkup
        else []
    )
    return [
        f"{name}: {checkup.verdict}" if checkup else name,
        *reasons,
        *(["the log has no curve that can be drawn"] if nothing else []),
    ]


def _notes(run: Run, findings: Sequence[Finding]) -> list[Note]:
    """What stands below the panels."""
    lowest = best(run.curve("val_loss"))
    notes = (
        [
            (
                "\N{BLACK STAR}",
                COLOURS["val"],
                f"best validation loss: {number(lowest[1])} at {run.clock} {lowest[0]:g}",
            )
        ]
        if lowest
        else []
    )
    for index, finding in enumerate(findings, start=1):
        since = f" (from {run.clock} {finding.began:g})" if finding.began is not None else ""
        lines = textwrap.wrap(
            f"{finding.name}{since}: {finding.headline}", 140, max_lines=2, placeholder=" ..."
        )
        notes += [(str(index) if line is lines[0] else "", ONSET, line) for line in lines]
    return notes


def _draw_panels(
    run: Run, panels: Sequence[Panel], axes: Sequence[Axes], findings: Sequence[Finding]
) -> None:
    began = [finding.began for finding in findings if finding.began is not None]
    places = [at for panel in panels for curve in panel.lines.values() for at in curve.at] + began
    margin = 0.02 * (max(places) - min(places)) or 0.5
    axes[0].set_xlim(min(places) - margin, max(places) + margin)
    for panel, ax in zip(panels, axes, strict=True):
        draw_panel(panel, ax)
        for at in began:
            ax.axvline(at, color=ONSET, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        ax.tick_params(labelbottom=ax is axes[-1])
    axes[-1].set_xlabel(run.clock)
    axes[-1].xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True, min_n_ticks=1))
    if panels[0].main and (lowest := best(run.curve("val_loss"))):
        axes[0].axvline(lowest[0], color=COLOURS["val"], linewidth=1, linestyle=":", zorder=1)
        axes[0].plot(
            *lowest,
            marker="*",
            markersize=16,
            color=COLOURS["val"],
            markeredgecolor="white",
            zorder=5,
        )
    number_findings(axes[0], findings)


def _write(figure: Figure, height: float, head: Sequence[str], notes: Sequence[Note]) -> None:
    for index, line in enumerate(head):
        weight, size = ("bold", 13) if index == 0 else ("normal", 10)
        figure.text(
            0.25 / WIDTH,
            1 - (0.18 + HEAD_LINE * index) / height,
            line,
            va="top",
            weight=weight,
            size=size,
        )
    for index, (symbol, colour, line) in enumerate(notes):
        at = NOTE_LINE * (len(notes) - index) / height
        figure.text(
            0.45 / WIDTH, at, symbol, va="center", ha="center", color=colour, weight="bold", size=9
        )
        figure.text(LEFT / WIDTH, at, line, va="center", size=9)
