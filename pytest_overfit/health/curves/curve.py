"""One metric of a run over its clock; every reading keeps its place in the log."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

MOST_POINTS = 50_000
"""Points a curve keeps; beyond, of neighbours the lowest and the highest."""


class Where(NamedTuple):
    """The place of a reading in its log.

    number: of the line from 1, or of what `of` names ("row", "record").
    """

    file: Path
    number: int
    of: str = "line"

    def __str__(self) -> str:
        return (
            f"{self.file.name}:{self.number}"
            if self.of == "line"
            else f"{self.file.name}, {self.of} {self.number}"
        )


class Point(NamedTuple):
    """One reading. at: epoch or step, as `Run.clock` says.

    epoch, step: NaN where the log does not tell it.
    """

    at: float
    value: float
    epoch: float = math.nan
    step: float = math.nan
    where: Where | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Curve:
    """One metric, in the order of the log. at: epochs (or steps, as `Run.clock` says), which may
    repeat or go back. values: may be NaN.

    epochs, steps, where: of each reading as the log tells them, NaN and None where it does not; all
    empty where nothing is known.
    """

    at: tuple[float, ...]
    values: tuple[float, ...]
    epochs: tuple[float, ...] = ()
    steps: tuple[float, ...] = ()
    where: tuple[Where | None, ...] = ()

    @classmethod
    def of(cls, points: Iterable[Point]) -> Curve:
        """A curve of readings, each with all that is known of it."""
        at, values, epochs, steps, where = tuple(zip(*points, strict=True)) or ((),) * 5
        return cls(at=at, values=values, epochs=epochs, steps=steps, where=where)

    def __len__(self) -> int:
        return len(self.at)

    @cached_property
    def points(self) -> tuple[Point, ...]:
        """Its readings, each with all that is known of it."""
        unknown = (math.nan,) * len(self)
        columns = (
            self.at,
            self.values,
            self.epochs or unknown,
            self.steps or unknown,
            self.where or (None,) * len(self),
        )
        return tuple(map(Point, *columns))

    @cached_property
    def ascending(self) -> Curve:
        """The same in order of `at`; of a repeated place the last value."""
        if self.in_order:
            return self
        last = {point.at: point for point in self.points}
        return Curve.of(last[at] for at in sorted(last))

    @cached_property
    def in_order(self) -> bool:
        """Whether each reading stands after the one before."""
        return all(a < b for a, b in pairwise(self.at))


class CurveBuilder:
    """Collects a curve in bounded memory: beyond `most` points, of each block of neighbours the
    lowest and the highest stay, so that no best reading, no spike and no NaN is lost; and the last.
    """

    def __init__(self, most: int = MOST_POINTS) -> None:
        self._most = most
        self._points: list[Point] = []
        self._block: list[Point] = []
        self._last: Point | None = None
        self._size, self._taken = 1, 0

    def add(
        self,
        at: float,
        value: float,
        *,
        epoch: float = math.nan,
        step: float = math.nan,
        where: Where | None = None,
    ) -> None:
        """Take one more reading, after those before it."""
        self._last = Point(at, value, epoch, step, where)
        self._block = _extremes([*self._block, self._last])
        self._taken += 1
        if self._taken < self._size:
            return
        self._points += self._block
        self._block, self._taken = [], 0
        if len(self._points) > self._most - 3:  # two of a block, and the last
            self._size = max(2 * self._size, 4)  # of four two stay
            fours = [self._points[i : i + 4] for i in range(0, len(self._points), 4)]
            self._points = [point for four in fours for point in _extremes(four)]

    @property
    def points(self) -> tuple[Point, ...]:
        """The readings kept so far."""
        kept = (*self._points, *self._block)
        return kept if self._last is None or self._last is kept[-1] else (*kept, self._last)

    def curve(self) -> Curve:
        """The curve of the readings kept so far."""
        return Curve.of(self.points)


def _extremes(block: list[Point]) -> list[Point]:
    """The lowest and the highest of neighbours, in their order; one that is no number is highest."""
    if len(block) <= 2:
        return block
    high = next((i for i, point in enumerate(block) if point.value != point.value), None)
    if high is None:
        high = max(range(len(block)), key=lambda i: block[i].value)
    low = min((i for i in range(len(block)) if i != high), key=lambda i: block[i].value)
    return [block[i] for i in sorted((low, high))]
