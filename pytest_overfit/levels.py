"""Levels: the named plateaus a CTC loss stands on, and which of them a run has come down to.

A loss tells what a network knows. Uniform: nothing. Blank: that most steps are blank. Unigram: how
often each token occurs. Bag of clip: which tokens a clip has, not their order. Aligned: the order
too. `not yet learned` and `cannot learn` differ in whether it still falls. Below these lies the
plateau of an output that knows all but where some tokens stand, which only the output itself can
tell: `repeats merged`, where the blanks that part equal neighbours fall by chance, and `tokens by
chance`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean

from pytest_overfit import ctc
from pytest_overfit.trend import still_descending

ALIGNED = 0.5
"""Share of the lowest plateau below which a loss has left it."""
ABOVE = 1.5
"""Multiple of the uniform level above which a loss stands on none: the output is sure of the wrong
tokens.
"""
NOTHING = 1e-3
"""Nats a token below which a plateau cannot be told from aligned."""
BY_CHANCE = 1.25
"""Multiple of its predicted loss up to which a loss stands on the level that the output's missing
tokens predict.
"""


@dataclass(frozen=True, kw_only=True)
class Level:
    """A plateau. loss: predicted, in nats per target token."""

    name: str
    loss: float


@dataclass(frozen=True, kw_only=True)
class LevelMatch:
    """Where a loss stands. level: the nearest plateau. measured: the loss, in nats per target token.
    ladder: every plateau, highest first.

    descending: whether the loss still fell when the run ended; None where no trace was given.
    """

    level: Level
    measured: float
    ladder: tuple[Level, ...]
    descending: bool | None = None


def ladder_of_levels(
    *, targets: Sequence[Sequence[int]], steps: Sequence[int], vocabulary: int
) -> tuple[Level, ...]:
    """The plateaus of some clips, highest first. steps: what the network gives for each clip.
    Raises ValueError where no target fits.

    Each is the mean over the clips that fit of the levels in `ctc`. With one clip, unigram and bag
    of clip are one level.
    """
    fits = [
        (target, given)
        for target, given in zip(targets, steps, strict=True)
        if target and given >= ctc.steps_needed(target)
    ]
    if not fits:
        raise ValueError("no target fits in its steps, so no loss level is finite")
    tokens = [token for target, _ in fits for token in target]
    entropy = -sum(n / len(tokens) * math.log(n / len(tokens)) for n in Counter(tokens).values())
    levels = [
        Level(
            name="uniform",
            loss=fmean(
                ctc.uniform_level(steps=given, target=target, vocabulary=vocabulary)
                for target, given in fits
            ),
        ),
        Level(
            name="blank",
            loss=fmean(
                ctc.blank_level(steps=given, tokens=len(target), vocabulary=vocabulary)
                for target, given in fits
            ),
        ),
    ]
    bag = fmean(ctc.constant_levels([target for target, _ in fits], [given for _, given in fits]))
    if bag > NOTHING:  # a clip of one token asks for no order
        levels.append(Level(name="bag of clip", loss=bag))
    if len({tuple(target) for target, _ in fits}) > 1:
        unigram = fmean(
            ctc.unigram_level(steps=given, tokens=len(target), label_entropy=entropy)
            for target, given in fits
        )
        levels.append(Level(name="unigram", loss=unigram))
    return (*sorted(levels, key=lambda level: -level.loss), Level(name="aligned", loss=0.0))


def level_by_chance(
    hypotheses: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]
) -> Level | None:
    """The plateau of an output that lacks nothing but the place of some tokens
    (`ctc.chance_level`); None where it lacks more, or nothing.
    """
    losses = [
        ctc.chance_level(hypothesis, target)
        for hypothesis, target in zip(hypotheses, targets, strict=True)
    ]
    known = [loss for loss in losses if loss is not None]
    if len(known) < len(losses) or not any(known):
        return None
    merged = all(
        _unrepeated(hypothesis) == _unrepeated(target)
        for hypothesis, target in zip(hypotheses, targets, strict=True)
    )
    return Level(name="repeats merged" if merged else "tokens by chance", loss=fmean(known))


def _unrepeated(tokens: Sequence[int]) -> list[int]:
    return [token for token, _ in groupby(tokens)]


def match_level(
    measured: float,
    ladder: Sequence[Level],
    losses: Sequence[float] = (),
    *,
    by_chance: Level | None = None,
) -> LevelMatch:
    """Place a loss. measured: nats per target token, in eval mode. ladder: of the same clips. losses:
    the run's trace, in any unit.

    by_chance: the level that the output's missing tokens predict, if that is all it lacks.
    """
    placed = (
        by_chance is not None and ALIGNED * by_chance.loss <= measured <= BY_CHANCE * by_chance.loss
    )
    return LevelMatch(
        level=by_chance if by_chance is not None and placed else _nearest(measured, ladder),
        measured=measured,
        ladder=tuple(ladder),
        descending=still_descending(losses) if len(losses) else None,
    )


def _nearest(measured: float, ladder: Sequence[Level]) -> Level:
    """The plateau whose loss is nearest in ratio; aligned below half of the lowest, and a level of
    its own above all or where not finite.
    """
    *plateaus, aligned = ladder
    if not measured <= ABOVE * plateaus[0].loss:
        return Level(name="above uniform", loss=plateaus[0].loss)
    if measured < ALIGNED * plateaus[-1].loss:
        return aligned
    return min(
        plateaus,
        key=lambda level: abs(math.log(measured / level.loss)) if level.loss > 0 else math.inf,
    )
