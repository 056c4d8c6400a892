"""A training run as its log tells it: curves of metrics, predictions, and the facts that its trainer left beside them.

Canonical names of metrics, whatever the log calls them:

    train_loss val_loss                       nats a target token where `Facts.levels` is known, else in the log's own unit
    train_wer val_wer                         token (word) error rate as a share: 0.9 is 90 %; it can pass 1
    train_emission_ratio val_emission_ratio   emitted over target tokens
    train_blank_share val_blank_share         share of steps whose arg max is the blank
    train_entropy_ratio val_entropy_ratio     entropy of a step over ln V
    lr grad_norm
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Literal

from pytest_overfit.levels import Level

MOST_POINTS = 20_000
"""Points a curve keeps; beyond, neighbours are merged."""


class BadRun(ValueError):
    """A log that cannot be read; the message names the file and what to do."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Curve:
    """One metric, in the order of the log. at: epochs (or steps, as `Run.clock` says), which may repeat or go back. values: may be NaN."""

    at: tuple[float, ...]
    values: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.at)

    @cached_property
    def ascending(self) -> Curve:
        """The same in order of `at`; of a repeated place the last value."""
        last = dict(zip(self.at, self.values, strict=True))
        places = sorted(last)
        return Curve(at=tuple(places), values=tuple(last[place] for place in places))

    @cached_property
    def in_order(self) -> bool:
        return all(a < b for a, b in pairwise(self.at))


class CurveBuilder:
    """Collects a curve in bounded memory: beyond `most` points, of two neighbours the larger stays, so that no spike and no NaN is lost."""

    def __init__(self, most: int = MOST_POINTS) -> None:
        self._most = most
        self._points: list[tuple[float, float]] = []
        self._share, self._held = 1, 0

    def add(self, at: float, value: float) -> None:
        if self._held and self._held < self._share:
            self._points[-1] = (at, _larger(self._points[-1][1], value))
            self._held += 1
        else:
            self._points.append((at, value))
            self._held = 1
        if len(self._points) > self._most:
            merged = [(b[0], _larger(a[1], b[1])) for a, b in zip(self._points[::2], self._points[1::2], strict=False)]
            self._points = merged + self._points[2 * len(merged) :]
            self._share, self._held = 2 * self._share, 0

    def curve(self) -> Curve:
        return Curve(at=tuple(at for at, _ in self._points), values=tuple(value for _, value in self._points))


def _larger(a: float, b: float) -> float:
    return a if a != a or a > b else b


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One clip as it was read at some epoch (None where the log does not say). split: "train", "val" or "" where unknown."""

    at: float | None
    split: str
    target: tuple[str, ...]
    prediction: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a trainer leaves in `run.json` beside its log; None where unknown.

    levels: split -> loss plateaus, highest first, in nats a target token. command: what the run was started with.
    network: keywords its network was built with.
    """

    subject: str | None = None
    parameters: int | None = None
    train_samples: int | None = None
    val_samples: int | None = None
    vocabulary: int | None = None
    levels: Mapping[str, tuple[Level, ...]] = field(default_factory=dict)
    command: str | None = None
    network: Mapping[str, object] = field(default_factory=dict)
    epochs: int | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """A run. sources: the files read. clock: what `Curve.at` counts. complaints: one clear line for each thing left out of the reading.

    checkpoint: the newest one beside the log.
    """

    name: str
    sources: tuple[Path, ...] = ()
    clock: Literal["epoch", "step"] = "epoch"
    curves: Mapping[str, Curve] = field(default_factory=dict)
    predictions: tuple[Prediction, ...] = ()
    facts: Facts = field(default_factory=Facts)
    complaints: tuple[str, ...] = ()
    checkpoint: Path | None = None

    def curve(self, name: str) -> Curve:
        """A metric in ascending order; an empty curve where the log has none of that name."""
        return self.curves[name].ascending if name in self.curves else Curve(at=(), values=())
