"""Whether it is a network's own masks and dropout that keep one clip from being memorised.

Networks of the field hide up to a half of a clip in train mode. A corpus shows each token often; of
one clip masks hide the same few tokens again and again, and it is not learned to a hundredth of a
nat. What is masked away almost wholly is another matter: then nothing is shown to learn from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pytest_overfit.network.recorder import undisturbed
from pytest_overfit.subject import collate
from pytest_overfit.training import Reading, Training

if TYPE_CHECKING:
    from pytest_overfit.climb.attempt import Attempt

LOOKS = 8
"""Passes in train mode, each with its own randomness."""
NOTHING, MOST = 0.05, 0.8
"""Share of a fresh output that is the randomness of train mode: below it is no reason for anything;
above it most of the clip is destroyed. Measured on one clip: Transformers and wav2vec 2.0 of the
field 0.01 to 0.79, nine in ten latents masked or dropped 0.86 to 0.99.
"""
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
    """
    if any(attempt.held or attempt.findings for attempt in attempts):
        return None
    readings = [reading for attempt in attempts for reading in attempt.trace.readings]
    best = min(readings, key=lambda one: (one.token_error_rate, one.loss), default=None)
    return best if best and best.token_error_rate <= NEAR else None


def noise_share(training: Training) -> float:
    """Share of the variation of a fresh output, over passes and steps, that is between passes in
    train mode.
    """
    outputs: list[Tensor] = []
    fresh = training.afresh()
    clip = collate(fresh.samples[:1]).to(fresh.device)
    for seed in range(LOOKS):
        with undisturbed(fresh.network, train=True, seed=seed), torch.no_grad():
            log_probs, steps = fresh.subject.log_probs(fresh.network, clip.features, clip.frames)
        logits = log_probs[: int(steps[0]), 0].double()
        outputs.append(logits - logits.mean(-1, keepdim=True))
    passes = torch.stack(outputs)
    noise = passes.var(0).mean()
    return float(noise / (passes - passes.mean((0, 1))).square().mean().clamp(min=1e-12))
