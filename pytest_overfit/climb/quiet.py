"""Whether it is a network's own masks and dropout that keep one clip from being memorised.

Networks of the field hide up to a half of a clip in train mode. A corpus shows each token often; of
one clip masks hide the same few tokens again and again, and it is not learned to a hundredth of a
nat. What is masked away almost wholly is another matter: then nothing is shown to learn from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_overfit.finding import Finding
from pytest_overfit.findings.modes import TRAIN_EVAL_GAP
from pytest_overfit.training import Reading

if TYPE_CHECKING:
    from pytest_overfit.climb.attempt import Attempt

NEAR = 0.5
"""Token error rate to which a clip must be read in spite of them."""


@dataclass(frozen=True, kw_only=True)
class Quieted:
    """That one clip was memorised only without the network's own masks and dropout. noise: share of
    a fresh output that is theirs. token_error_rate, nats: the best reading with them.
    """

    noise: float
    token_error_rate: float
    nats: float


def nearest_reading(attempts: Sequence[Attempt]) -> Reading | None:
    """The best reading of attempts that failed with no finding; None where one held, something was
    found, or none came near.

    A gap between train and eval mode that no norm explains may be their own doing.
    """
    if any(attempt.held or any(map(_found, attempt.findings)) for attempt in attempts):
        return None
    readings = [reading for attempt in attempts for reading in attempt.trace.readings]
    best = min(readings, key=lambda one: (one.token_error_rate, one.loss), default=None)
    return best if best and best.token_error_rate <= NEAR else None


def _found(finding: Finding) -> bool:
    return finding.name != TRAIN_EVAL_GAP.name or finding.module is not None
