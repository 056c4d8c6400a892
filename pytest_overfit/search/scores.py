"""How a trial is ranked, as one number, and where it stands on the ladder of losses meanwhile.

score    smaller is better. Below 1: every rung held, and this is the share of the clips that its
         budget allows it has seen, on average over the rungs. From 1 on: a rung broke; the lower
         the rung, the larger, and at one rung by error and loss (`distance`).
height   where a reading stands: whole part the level, 0 aligned to 5 above uniform; fraction how
         far from the next below. 6 where the loss is not finite.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from pytest_overfit.levels import Level, match_level

NAMES = ("aligned", "bag of clip", "unigram", "blank", "uniform", "above uniform", "not finite")
"""Levels by height."""
WORST = 2.0
"""Score of a trial that broke its lowest rung and gave no reading."""
NOT_FINITE = float(NAMES.index("not finite"))


def distance(nats: float, token_error_rate: float, levels: Sequence[Level]) -> float:
    """How far a broken rung is from holding, above 0 up to 1: half by error, half by loss.

    nats: a target token, of the last reading, NaN where there is none. levels: of the rung.
    """
    if not math.isfinite(nats) or not levels:
        return 1.0
    return max((min(token_error_rate, 1.0) + min(nats / levels[0].loss, 1.0)) / 2, 1e-3)


def score_of_held(shares: Sequence[float]) -> float:
    """shares: of each rung's budget that it took to hold, overtime left out: from 0 to 1."""
    return math.fsum(shares) / len(shares)


def score_of_broken(place: int, rungs: int, away: float) -> float:
    """place: of the broken rung among `rungs`, from 0. away: its distance."""
    return 1.0 + (rungs - place - 1 + away) / rungs


def height(nats: float, levels: Sequence[Level]) -> float:
    """Where a reading stands. nats: a target token.

    levels: the ladder of its rung, highest first.
    """
    if not math.isfinite(nats):
        return NOT_FINITE
    level = match_level(nats, levels).level
    ratio = max(nats, 0.0) / (level.loss or levels[-2].loss)
    return NAMES.index(level.name) + ratio / (1 + ratio)


def level_at(value: float) -> str:
    """The name of the level at a height."""
    return NAMES[int(value)]
