"""One panel of a run's picture: its lines, what they are called, its scale, and what is marked on
it. Needs matplotlib, not pyplot.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pytest_overfit.finding import Finding
from pytest_overfit.health.curves.curve import Curve

try:
    from matplotlib.axes import Axes
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
except ImportError as error:
    raise ImportError("pictures need matplotlib: pip install 'pytest-overfit[pictures]'") from error

COLOURS = {"train": "#0072B2", "val": "#D55E00", "": "#444444"}
"""Of Okabe & Ito's palette, which the colour-blind can tell apart."""
MARKS = {"train": "o", "val": "s", "": "D"}
WORDS = {"train": "train", "val": "validation", "": ""}
GREY, ONSET = "#666666", "#8A2C5F"
MARKED, NOISY = 60, 200
"""Points up to which each is marked, and from which a running median is drawn over them."""
DRAWN = 1_500
"""Points drawn of a line: more than there are pixels show nothing more."""
TALL = 2.0
"""Inches from which a panel has room for many ticks."""
LINE_PIXELS = 15
"""Height of a name in the margin."""


def number(value: float) -> str:
    """4.90, 0.0909, 1.12e+06."""
    return f"{value:.2f}" if 1 <= abs(value) < 100 else f"{value:.3g}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Panel:
    """Some lines on one scale.

    height: inches. lines: by split. references: (value, name) of horizontal lines. low, high: what
    the axis shows at least. shape: a value as its line's name tells it. main: the panel of the
    loss, with the gap shaded and room for the numbers of findings.
    """

    title: str
    height: float
    lines: dict[str, Curve]
    references: tuple[tuple[float, str], ...] = ()
    low: float | None = None
    high: float | None = None
    shape: Callable[[float], str] = number
    percent: bool = False
    main: bool = False
    logarithmic: bool = False

    @property
    def finite(self) -> list[float]:
        """Every finite value of its lines."""
        return [
            value for curve in self.lines.values() for value in curve.values if math.isfinite(value)
        ]


def draw_panel(panel: Panel, ax: Axes) -> None:
    """Draw a panel's lines, levels and marks on an axis."""
    ax.set_title(panel.title, loc="left", size=10, pad=24 if panel.main else 5)
    _set_scale(panel, ax)
    if panel.main:
        _shade_gap(panel, ax)
    names = []
    for value, name in panel.references:
        ax.axhline(value, color=GREY, linewidth=1, linestyle=(0, (1, 2)), zorder=1)
        names.append((value, name, GREY))
    for split, curve in panel.lines.items():
        if len(curve):
            _draw_line(ax, split, curve)
            names.append(_name(panel, split, curve))
    write_names(ax, names)


def number_findings(ax: Axes, findings: Sequence[Finding]) -> None:
    """The numbers of the findings above a panel, where they began; those that would touch share a
    place.
    """
    began = sorted(
        (finding.began, number)
        for number, finding in enumerate(findings, start=1)
        if finding.began is not None
    )
    groups: list[tuple[float, float, list[int]]] = []
    for at, number in began:
        pixel = float(ax.transData.transform((at, 1))[0])
        if groups and pixel - groups[-1][1] < 14 + 12 * len(groups[-1][2]):
            groups[-1][2].append(number)
        else:
            groups.append((at, pixel, [number]))
    box = {"boxstyle": "round,pad=0.25", "facecolor": ONSET, "edgecolor": "none"}
    for at, _, numbers in groups:
        text, place = ",".join(map(str, numbers)), ax.get_xaxis_transform()
        ax.text(
            at,
            1.02,
            text,
            transform=place,
            ha="center",
            va="bottom",
            size=9,
            color="white",
            weight="bold",
            bbox=box,
        )


def finite(curve: Curve) -> Curve:
    """A curve without its values that are not finite."""
    pairs = [
        (at, value)
        for at, value in zip(curve.at, curve.values, strict=True)
        if math.isfinite(value)
    ]
    return Curve(at=tuple(at for at, _ in pairs), values=tuple(value for _, value in pairs))


def thinned(curve: Curve, most: int = DRAWN) -> tuple[list[float], list[float]]:
    """Of each stretch its lowest and highest value, so that no spike is lost, and a NaN where it
    has one, so that the line breaks there.
    """
    at, values = np.asarray(curve.at), np.where(np.isfinite(curve.values), curve.values, np.nan)
    if len(at) <= most:
        return at.tolist(), values.tolist()
    kept = {0, len(at) - 1}
    for stretch in np.array_split(np.arange(len(at)), most // 2):
        own = values[stretch]
        missing = np.isnan(own)
        if missing.any():
            kept.add(int(stretch[missing.argmax()]))
        if not missing.all():
            kept |= {int(stretch[np.nanargmin(own)]), int(stretch[np.nanargmax(own)])}
    places = sorted(kept)
    return at[places].tolist(), values[places].tolist()


def smoothed(curve: Curve) -> tuple[Any, Any]:
    """A running median over a fiftieth of a long, finite curve; a short one as it is."""
    at, values = np.asarray(curve.at), np.asarray(curve.values)
    if len(at) <= NOISY:
        return at, values
    window = len(at) // 50 | 1
    padded = np.pad(values, window // 2, mode="reflect")
    return at, np.median(np.lib.stride_tricks.sliding_window_view(padded, window), axis=1)


def _set_scale(panel: Panel, ax: Axes) -> None:
    bounds = [bound for bound in (panel.low, panel.high) if bound is not None]
    values = [*panel.finite, *(value for value, _ in panel.references), *bounds] or [0.0, 1.0]
    low, high, tall = min(values), max(values), panel.height > TALL
    if panel.logarithmic:
        ax.set_yscale("log")
        ax.set_ylim(low * (low / high) ** 0.05, high * (high / low) ** 0.05)
        ax.yaxis.set_major_locator(
            LogLocator(
                subs=(1, 2, 5) if tall and high < 1000 * low else (1,), numticks=8 if tall else 3
            )
        )
        ax.yaxis.set_minor_formatter(NullFormatter())
    else:
        low = min(low, 0.0) if low <= 0.5 * high else low
        span = high - low or abs(high) or 1.0
        ax.set_ylim(low - (0.02 if low == 0 else 0.05) * span, high + 0.05 * span)
        ax.yaxis.set_major_locator(MaxNLocator(nbins=8 if tall else 3, steps=(1, 2, 5, 10)))
    tick: Callable[[float], str] = "{:.0%}".format if panel.percent else "{:g}".format
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(round(value, 12))))


def _shade_gap(panel: Panel, ax: Axes) -> None:
    """Between train and validation where validation is worse, from the first place that both have
    to the last.
    """
    train, val = (finite(panel.lines[split]) for split in ("train", "val"))
    if min(len(train), len(val)) < 2:
        return
    shared = np.union1d(train.at, val.at)
    shared = shared[
        (shared >= max(train.at[0], val.at[0])) & (shared <= min(train.at[-1], val.at[-1]))
    ]
    if len(shared) > DRAWN:
        shared = shared[np.linspace(0, len(shared) - 1, DRAWN).astype(int)]
    low, high = (np.interp(shared, *smoothed(curve)) for curve in (train, val))
    ax.fill_between(
        shared,
        low,
        high,
        where=list(high > low),
        color=COLOURS["val"],
        alpha=0.13,
        linewidth=0,
        interpolate=True,
    )


def _draw_line(ax: Axes, split: str, curve: Curve) -> None:
    colour, many = COLOURS[split], len(curve) > NOISY
    marks = {"marker": MARKS[split], "markersize": 4.5} if len(curve) <= MARKED else {}
    width, alpha = (0.8, 0.35) if many else (1.6, 1.0)
    ax.plot(*thinned(curve), color=colour, linewidth=width, alpha=alpha, zorder=3, **marks)  # type: ignore[arg-type]
    if many and len(held := finite(curve)):
        ax.plot(*smoothed(held), color=colour, linewidth=1.8, zorder=4)
    missing = [
        at for at, value in zip(curve.at, curve.values, strict=True) if not math.isfinite(value)
    ]
    if missing:
        shown = missing[:: math.ceil(len(missing) / 40)]
        height = [0.08 if split == "val" else 0.03] * len(shown)
        ax.plot(
            shown,
            height,
            "x",
            color=colour,
            markersize=6,
            markeredgewidth=1.6,
            transform=ax.get_xaxis_transform(),
            zorder=6,
        )


def _name(panel: Panel, split: str, curve: Curve) -> tuple[float, str, str]:
    """What stands where a line ends: which it is, and its last value."""
    held = finite(curve)
    if not len(held):
        return ((panel.low or 0.0), f"{WORDS[split]} never finite".strip(), COLOURS[split])
    text = f"{WORDS[split]} {panel.shape(held.values[-1])}".strip()
    if held.at[-1] < curve.at[-1]:
        text += ", then not finite"
    elif panel.main and split == "val" and len(train := finite(panel.lines["train"])):
        text += f", gap {held.values[-1] - train.values[-1]:+.2f}"
    return held.values[-1], text, COLOURS[split]


def write_names(ax: Axes, names: Sequence[tuple[float, str, str]]) -> None:
    """Names in the right margin, each at the height of what it names, pushed apart where they would
    touch.
    """
    low, high = ax.get_ylim()
    to_height = ax.transData + ax.transAxes.inverted()
    wanted = sorted(
        (float(to_height.transform((0, min(max(value, low), high)))[1]), text, colour)
        for value, text, colour in names
    )
    room = LINE_PIXELS / ax.get_window_extent().height
    heights: list[float] = []
    for height, _, _ in wanted:
        heights.append(max(height, heights[-1] + room) if heights else height)
    ceiling = max(1.0, (len(heights) - 1) * room)
    for index in reversed(range(len(heights))):
        heights[index] = min(heights[index], ceiling - (len(heights) - 1 - index) * room)
    for (_, text, colour), height in zip(wanted, heights, strict=True):
        ax.text(
            1.012,
            height,
            text,
            transform=ax.transAxes,
            va="center",
            ha="left",
            color=colour,
            size=9,
        )
