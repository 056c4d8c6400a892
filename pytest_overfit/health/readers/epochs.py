"""Where a row stands: steps -> epochs, learnt from the rows of a log that tell both.

Whole epochs (0, 1, 2 ...): epoch e covers the steps after the last one told for the epoch before,
up to the last one told for e itself, since the end of an epoch is what every trainer logs.
Fractional epochs (0.02, 0.04 ...) are interpolated.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from itertools import pairwise

from pytest_overfit.finding import counted
from pytest_overfit.health.run import CurveBuilder

MOST_EPOCHS = 20_000
"""Epochs whose last step is remembered."""
MOST_ANCHORS = 2_000
"""Rows remembered that tell both, to interpolate between."""
RESTARTING = 0.5
"""Share of epochs whose last step is no further than that of an epoch before, from which on steps
are held to be counted anew in each.
"""


class Epochs:
    """Collects rows that tell an epoch, a step, or both; then answers for rows that tell only a
    step.
    """

    def __init__(self) -> None:
        self.any = False
        self.whole = True
        self._seen: set[float] = set()
        self._ends: dict[float, float] = {}
        self._first_step, self._last_step = math.inf, -math.inf
        self._both, self._loose = CurveBuilder(MOST_ANCHORS), CurveBuilder(MOST_ANCHORS)
        self._told = (math.nan, math.nan)
        self._rounded, self._restarted = False, False

    def add(self, epoch: float, step: float) -> None:
        """epoch, step: NaN where a row does not tell it."""
        if step == step:
            self._first_step, self._last_step = min(step, self._first_step), step
        if epoch != epoch:
            return
        self.any = True
        self.whole = self.whole and epoch == math.floor(epoch)
        if self.whole and len(self._seen) < MOST_EPOCHS:
            self._seen.add(epoch)
        if step == step:
            last_epoch, last_step = self._told
            self._rounded = self._rounded or (step > last_step and epoch == last_epoch)
            self._restarted = self._restarted or (step > last_step and epoch < last_epoch)
            self._told = (epoch, step)
            self._both.add(step, epoch)
            if len(self._ends) < MOST_EPOCHS or epoch in self._ends:
                self._ends[epoch] = max(step, self._ends.get(epoch, step))
        elif self._last_step >= 0:
            self._loose.add(self._last_step, epoch)

    @property
    def misleading(self) -> bool:
        """Whether epochs lose what the steps beside them tell: they are rounded, so that several
        steps share one, or start again as steps go on.
        """
        return self._restarted or (self._rounded and not self.whole)

    def map(self) -> StepMap:
        """How epochs and steps stand to each other in this log."""
        both = self._both.curve().ascending
        if len(both) and self.whole:
            return StepMap.of_ends(self._ends, first_step=self._first_step)
        known = both if len(both) else self._loose.curve().ascending
        return StepMap(steps=known.at, epochs=known.values, fractional=True)

    def missing(self) -> tuple[str, ...]:
        """A warning that names the whole epochs that the log skips."""
        if not self.whole or len(self._seen) == MOST_EPOCHS:
            return ()
        count, holes = gaps(tuple(sorted(self._seen)))
        stretches = [f"{first}" if first == last else f"{first}-{last}" for first, last in holes]
        more = f" and {len(stretches) - 5} more stretches" if len(stretches) > 5 else ""
        return (
            (f"{counted(count, 'epoch')} missing from the log: {', '.join(stretches[:5])}{more}",)
            if count
            else ()
        )


class StepMap:
    """steps -> epochs. steps: ascending.

    fractional: interpolated between; else each step is the last one of its epoch.
    """

    def __init__(
        self,
        *,
        steps: tuple[float, ...],
        epochs: tuple[float, ...],
        fractional: bool,
        begin: float = -1.0,
        restarting: float = 0.0,
    ) -> None:
        self._steps, self._epochs, self._fractional, self._begin, self._restarting = (
            steps,
            epochs,
            fractional,
            begin,
            restarting,
        )

    @classmethod
    def of_ends(cls, ends: dict[float, float], *, first_step: float) -> StepMap:
        """The map of a log that tells at which step each epoch ends; ends that fall back are left
        out.
        """
        told = sorted(ends.items())
        rising = [told[0]]
        for epoch, step in told[1:]:
            if step > rising[-1][1]:
                rising.append((epoch, step))
        if len(told) > 1 and len(rising) <= RESTARTING * len(told) + 1 and len(rising) < len(told):
            return cls(steps=(), epochs=(), fractional=False, restarting=max(ends.values()) + 1)
        steps = tuple(step for _, step in rising)
        begin = steps[0] - (steps[1] - steps[0]) if len(steps) > 1 else first_step - 1
        return cls(
            steps=steps,
            epochs=tuple(epoch for epoch, _ in rising),
            fractional=False,
            begin=min(begin, first_step - 1),
        )

    def __bool__(self) -> bool:
        return bool(self._steps)

    def whole(self, step: float) -> float:
        """The epoch that `step` belongs to, or its interpolated one where epochs are fractional."""
        if self._fractional:
            return self._interpolated(step)
        return self._epochs[min(bisect_left(self._steps, step), len(self._steps) - 1)]

    def within(self, step: float) -> float:
        """How far into its epoch `step` is: from 0 up to 1, never 1."""
        if self._restarting:
            return step / self._restarting
        place = min(bisect_left(self._steps, step), len(self._steps) - 1)
        before = self._steps[place - 1] if place else self._begin
        length = self._steps[place] - before
        if place == len(self._steps) - 1 and place:  # the last epoch may have been cut short
            length = max(length, before - (self._steps[place - 2] if place > 1 else self._begin))
        return min(max((step - before - 1) / max(length, 1.0), 0.0), 1 - 1e-6)

    def _interpolated(self, step: float) -> float:
        if len(self._steps) == 1:
            return self._epochs[0]
        right = min(max(bisect_left(self._steps, step), 1), len(self._steps) - 1)
        (a, b), (low, high) = (
            self._steps[right - 1 : right + 1],
            self._epochs[right - 1 : right + 1],
        )
        return low + (high - low) * (step - a) / (b - a)


def gaps(epochs: tuple[float, ...]) -> tuple[int, tuple[tuple[int, int], ...]]:
    """How many whole epochs a log skips, and the stretches they lie in. epochs: those it tells,
    ascending.

    A log that tells every k-th epoch skips none; one without a usual distance is held to every
    epoch.
    """
    if len(epochs) < 3:
        return 0, ()
    distances = Counter(int(b - a) for a, b in pairwise(epochs))
    usual, times = distances.most_common(1)[0]
    usual = usual if 2 * times > len(epochs) - 1 else 1
    holes = [(int(a) + usual, int(b) - usual) for a, b in pairwise(epochs) if b - a > usual]
    return sum((last - first) // usual + 1 for first, last in holes), tuple(holes)
