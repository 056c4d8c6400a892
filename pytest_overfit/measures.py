"""Measures: pure functions from outputs to numbers.

Shares and rates are between 0 and 1 unless said otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

import torch
from rapidfuzz.distance import Levenshtein
from torch import Tensor

Tokens = Sequence[int]


def token_error_rate(hypotheses: Sequence[Tokens], targets: Sequence[Tokens]) -> float:
    """Edits over target tokens, summed over clips: jiwer's word error rate with tokens for words.

    Not capped: it can pass 1.
    """
    edits = sum(
        Levenshtein.distance(hypothesis, target)
        for hypothesis, target in zip(hypotheses, targets, strict=True)
    )
    return edits / max(sum(len(target) for target in targets), 1)


def exact_share(hypotheses: Sequence[Tokens], targets: Sequence[Tokens]) -> float:
    """Share of clips decoded token for token."""
    return sum(
        list(hypothesis) == list(target)
        for hypothesis, target in zip(hypotheses, targets, strict=True)
    ) / len(targets)


def nearest_target_share(hypotheses: Sequence[Tokens], targets: Sequence[Tokens]) -> float:
    """Share of clips whose hypothesis is nearer to its own target than to every other one that
    differs from it.
    """
    apart = 0
    for hypothesis, own in zip(hypotheses, targets, strict=True):
        others = [
            Levenshtein.normalized_distance(hypothesis, other)
            for other in targets
            if list(other) != list(own)
        ]
        apart += all(Levenshtein.normalized_distance(hypothesis, own) < other for other in others)
    return apart / len(targets)


def emission_ratio(hypotheses: Sequence[Tokens], targets: Sequence[Tokens]) -> float:
    """Emitted tokens over target tokens: 0 is an empty output, 1 the right length."""
    return sum(map(len, hypotheses)) / max(sum(map(len, targets)), 1)


def valid_steps(log_probs: Tensor, steps: Tensor) -> Tensor:
    """The steps that are not padding, as rows: (sum of steps, vocabulary).

    log_probs: (steps, batch, vocabulary).
    """
    inside = (
        torch.arange(log_probs.shape[0], device=log_probs.device)[:, None]
        < steps.to(log_probs.device)[None, :]
    )
    return log_probs[inside]


def entropy_ratio(log_probs: Tensor, steps: Tensor) -> float:
    """Mean entropy of a step over ln V: 1 is uniform, 0 is certain."""
    rows = valid_steps(log_probs, steps)
    return float(torch.special.entr(rows.exp()).sum(-1).mean()) / math.log(rows.shape[-1])


def blank_share(log_probs: Tensor, steps: Tensor, *, blank: int) -> float:
    """Share of steps whose arg max is the blank. A healthy, peaky output has about 1 - L/T."""
    return float((valid_steps(log_probs, steps).argmax(-1) == blank).float().mean())


def normalisation_error(log_probs: Tensor, steps: Tensor) -> float:
    """Largest |ln of a step's summed probabilities|, in nats: 0 for log-probabilities, anything for
    raw logits.
    """
    return float(valid_steps(log_probs, steps).float().logsumexp(-1).abs().max())


def loss_ratio(losses: Sequence[float]) -> float:
    """Median loss of the last tenth of a run over that of its first tenth: below 1 it improved."""
    tenth = max(len(losses) // 10, 1)
    first, last = median(losses[:tenth]), median(losses[-tenth:])
    return last / first if first > 0 else math.inf


def loss_trend(losses: Sequence[float]) -> float:
    """Spearman's rank correlation of loss with step: -1 falls at every step, 0 goes nowhere, 1
    rises.
    """
    if len(losses) < 3:
        return 0.0
    values = torch.tensor(losses, dtype=torch.float64)
    if not torch.isfinite(values).all() or values.min() == values.max():
        return 0.0
    _, place, ties = values.unique(return_inverse=True, return_counts=True)
    ranks = (ties.cumsum(0) - (ties - 1) / 2)[place]
    return float(
        torch.corrcoef(torch.stack([torch.arange(len(losses), dtype=torch.float64), ranks]))[0, 1]
    )
