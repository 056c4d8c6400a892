"""Both sides up one rung with one seed, in turn, A B B A, so that whatever slows the machine slows
both.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from pytest_overfit.against.course import reading_steps

OURS, BASE = 0, 1
OVERTIME = 2
"""Times its budget that a course may take where the other side has held: a network near its end is
not one that never learns.
"""


class Runner(Protocol):
    """What takes one side up a rung, piece by piece, as `Side.ask` and `Course.advance` do."""

    def advance(self, to: int) -> dict[str, Any]:
        """A `Piece` in plain types."""
        ...


@dataclass(frozen=True, kw_only=True)
class Way:
    """How far one side came. held: the criteria did, at `steps`.

    readings: (step, loss in nats per token, token error rate).
    """

    steps: int = 0
    held: bool = False
    ended: str | None = None
    readings: tuple[tuple[int, float | None, float | None], ...] = ()

    def followed(self, piece: dict[str, Any]) -> Way:
        """This way with one piece more."""
        reading = (piece["step"], piece["loss"], piece["token_error_rate"])
        return Way(
            steps=piece["step"],
            held=piece["held"],
            ended=piece["ended"],
            readings=(*self.readings, reading),
        )

    @property
    def over(self) -> bool:
        """Whether it takes no more steps."""
        return self.held or self.ended is not None


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two ways with one seed. step_times: ours over theirs, one ratio for two turns, in which each
    side was first once.

    budget: steps of a climb that holds in its time.
    """

    seed: int
    ours: Way = Way()
    base: Way = Way()
    step_times: tuple[float, ...] = ()
    budget: int = 0

    @property
    def log_ratio(self) -> tuple[float, float] | None:
        """Between which bounds the logarithm of our steps over theirs lies; None where neither side
        held: that says nothing.
        """
        if self.ours.held and self.base.held:
            exact = math.log(self.ours.steps / self.base.steps)
            return exact, exact
        if self.base.held:
            return math.log(self._at_least(self.ours) / self.base.steps), math.inf
        if self.ours.held:
            return -math.inf, math.log(self.ours.steps / self._at_least(self.base))
        return None

    def _at_least(self, way: Way) -> int:
        """Steps that a way which has not held would at least take; one that ended by itself never
        holds in its time.
        """
        return max(way.steps, self.budget) if way.ended else max(way.steps, 1)

    @property
    def same(self) -> bool:
        """Whether both sides did the same to the last digit: then the change has no share in how
        the network learns.
        """
        return self.ours == self.base and bool(self.ours.readings)

    def error_at_equal_steps(self) -> tuple[int, float, float] | None:
        """The step at which the first side held or the last that both took, and the token error
        rates of ours and theirs there.
        """
        ours, base = (
            {step: rate for step, _, rate in way.readings if rate is not None}
            for way in (self.ours, self.base)
        )
        common = sorted(ours.keys() & base.keys())
        return (common[-1], ours[common[-1]], base[common[-1]]) if common else None

    def to_json(self) -> dict[str, Any]:
        """Its fields, in plain types."""
        return asdict(self)


def climb_both(
    ours: Runner, base: Runner, *, seed: int, budget: int, settled: Callable[[Pair], bool]
) -> Pair:
    """Both sides until they hold or their budget ends.

    settled: whether what is known by now decides, asked while one side is behind.
    """
    pair, before = Pair(seed=seed, budget=budget), None
    for turn, step in enumerate(reading_steps()):
        one_held = pair.ours.held or pair.base.held
        if (pair.ours.over and pair.base.over) or step > budget * (OVERTIME if one_held else 1):
            return pair
        if one_held and settled(pair):
            return pair
        pieces: dict[int, dict[str, Any]] = {}
        for which in (OURS, BASE) if turn % 2 == 0 else (BASE, OURS):
            way, runner = (pair.ours, ours) if which == OURS else (pair.base, base)
            if not way.over:
                pieces[which] = runner.advance(step)
        pair = replace(
            pair,
            ours=pair.ours.followed(pieces[OURS]) if OURS in pieces else pair.ours,
            base=pair.base.followed(pieces[BASE]) if BASE in pieces else pair.base,
        )
        ratio = _ratio(pieces)
        if turn % 2 == 1 and before and ratio:
            pair = replace(pair, step_times=(*pair.step_times, math.sqrt(before * ratio)))
        before = ratio
    raise AssertionError("readings go on for ever")


def _ratio(pieces: dict[int, dict[str, Any]]) -> float | None:
    ours, base = (pieces.get(which, {}).get("step_seconds") for which in (OURS, BASE))
    return ours / base if ours and base else None
