"""Sums over clips from which a split's metrics follow, whichever process read which clip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pytest_overfit import ctc, measures
from pytest_overfit.climb.misread import word_edits
from pytest_overfit.subject import Batch

COLUMNS = ("clips", "loss", "tokens", "edits", "emitted", "steps", "blanks", "entropy")


@dataclass(frozen=True, kw_only=True)
class Tally:
    """sums: (8,) float64, one a column."""

    sums: Tensor

    @classmethod
    def empty(cls) -> Tally:
        """Nothing counted yet."""
        return cls(sums=torch.zeros(len(COLUMNS), dtype=torch.float64))

    @classmethod
    def of(
        cls,
        log_probs: Tensor,
        steps: Tensor,
        batch: Batch,
        hypotheses: Sequence[Sequence[int]],
        *,
        blank: int,
    ) -> Tally:
        """log_probs: (steps, batch, vocabulary). steps: (batch,)."""
        targets, given = batch.target_lists(), float(steps.sum())
        tokens = float(sum(map(len, targets)))
        row = [
            float(len(batch)),
            float(
                ctc.nats_per_token(
                    log_probs, steps, batch.targets, batch.target_lengths, blank=blank
                )
            )
            * len(batch),
            tokens,
            float(word_edits(hypotheses, targets)),
            measures.emission_ratio(hypotheses, targets) * tokens,
            given,
            measures.blank_share(log_probs, steps, blank=blank) * given,
            measures.entropy_ratio(log_probs, steps) * given,
        ]
        return cls(sums=torch.tensor(row, dtype=torch.float64))

    def __add__(self, other: Tally) -> Tally:
        return Tally(sums=self.sums + other.sums)

    def metrics(self) -> dict[str, float]:
        """loss (nats per target token, mean over clips), wer, emission_ratio, blank_share,
        entropy_ratio.
        """
        sums = dict(zip(COLUMNS, self.sums.tolist(), strict=True))
        return {
            "loss": sums["loss"] / sums["clips"],
            "wer": sums["edits"] / sums["tokens"],
            "emission_ratio": sums["emitted"] / sums["tokens"],
            "blank_share": sums["blanks"] / sums["steps"],
            "entropy_ratio": sums["entropy"] / sums["steps"],
        }
