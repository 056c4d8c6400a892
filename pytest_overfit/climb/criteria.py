"""What a rung must hold: measures with bounds, by scale, and the verdicts they come to."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from pytest_overfit import measures
from pytest_overfit.training import Reading, Trace


class BadLadder(ValueError):
    """Rungs or bounds that make no ladder."""


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """A measure with a bound. sign "<": below the bound, "=": at it, ">=": not below it."""

    name: str
    sign: Literal["<", "=", ">="]
    bound: float
    measure: Callable[[Reading, Trace], float]

    def is_looser(self, bound: float) -> bool:
        """Whether `bound` would let more through than this criterion's own."""
        return bound > self.bound if self.sign == "<" else bound < self.bound

    def judge(self, reading: Reading, trace: Trace) -> Verdict:
        """The verdict on a reading and the trace that it ends."""
        value = self.measure(reading, trace)
        held = {"<": value < self.bound, "=": value == self.bound, ">=": value >= self.bound}[
            self.sign
        ]
        return Verdict(name=self.name, sign=self.sign, bound=self.bound, value=value, held=held)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A criterion, the value it was judged by, and whether it held."""

    name: str
    sign: Literal["<", "=", ">="]
    bound: float
    value: float
    held: bool


NORMALISED = (
    Criterion(
        name="loss not negative", sign=">=", bound=-1e-3, measure=lambda reading, _: reading.loss
    ),
    Criterion(
        name="normalisation error",
        sign="<",
        bound=0.02,
        measure=lambda reading, trace: worst_normalisation(reading, trace),
    ),
)
"""torch's gradient of CTC drives raw logits towards normalised ones: a loss above zero proves
nothing, nor does the last reading alone.
"""


def worst_normalisation(reading: Reading, trace: Trace) -> float:
    """The largest normalisation error that any reading of the rung had."""
    return max(
        (one.normalisation_error for one in trace.readings), default=reading.normalisation_error
    )


WER = "WER"
"""Word error rate: edits over target tokens. A token is the word: a gloss, or what the vocabulary has.
"""


NEAREST = "nearest target share"
"""Share of clips that are read as nearest to their own target."""


def _loss(bound: float) -> Criterion:
    return Criterion(name="loss", sign="<", bound=bound, measure=lambda reading, _: reading.loss)


def _wer(bound: float, sign: Literal["<", "="] = "<") -> Criterion:
    return Criterion(
        name=WER,
        sign=sign,
        bound=bound,
        measure=lambda reading, _: reading.token_error_rate,
    )


ONE = (
    _loss(0.01),
    _wer(0.0, "="),
    Criterion(
        name="exact share", sign="=", bound=1.0, measure=lambda reading, _: reading.exact_share
    ),
    *NORMALISED,
)
FEW = (
    _loss(1.0),
    _wer(0.2),
    Criterion(
        name=NEAREST,
        sign="=",
        bound=1.0,
        measure=lambda reading, _: reading.nearest_target_share,
    ),
    *NORMALISED,
)
DOZENS = (
    _loss(5.0),
    _wer(0.5),
    Criterion(
        name="loss, last tenth over first",
        sign="<",
        bound=0.9,
        measure=lambda _, trace: measures.loss_ratio(trace.losses),
    ),
    *NORMALISED,
)
MANY = (
    _wer(0.7),
    Criterion(
        name="loss trend",
        sign="<",
        bound=-0.5,
        measure=lambda _, trace: measures.loss_trend(trace.losses),
    ),
    Criterion(
        name="entropy / ln V", sign="<", bound=0.9, measure=lambda reading, _: reading.entropy_ratio
    ),
    *NORMALISED,
)


def criteria_for(samples: int, bounds: Mapping[str, float] | None = None) -> tuple[Criterion, ...]:
    """What a rung of `samples` must hold. bounds: criterion name (or "wer") -> a tighter bound;
    where the rung's own is tighter, that stays.

    Raises BadLadder where no criterion has that name, or the bound is not finite.
    """
    criteria: tuple[Criterion, ...] = (
        ONE if samples == 1 else FEW if samples < 10 else DOZENS if samples < 50 else MANY
    )
    named = {"wer": WER}
    for name, bound in (bounds or {}).items():
        full = named.get(name, name)
        matching = [
            criterion for criterion in (*ONE, *FEW, *DOZENS, *MANY) if criterion.name == full
        ]
        if not matching:
            raise BadLadder(
                f"no criterion is called {name!r}; there are "
                f"{', '.join(sorted({c.name for c in (*ONE, *FEW, *DOZENS, *MANY)}))}"
            )
        if not math.isfinite(bound):
            raise BadLadder(f"bound {name} must be a finite number, got {bound}")
        if full == "loss" and samples >= 50:
            criteria = (*criteria, _loss(bound))
        criteria = tuple(
            _tightened(criterion, bound) if criterion.name == full else criterion
            for criterion in criteria
        )
    return criteria


def _tightened(criterion: Criterion, bound: float) -> Criterion:
    return (
        criterion
        if criterion.sign == "=" or criterion.is_looser(bound)
        else replace(criterion, bound=bound)
    )
