"""What the data contracts need to know of a sample's features, read once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pytest_overfit.subject import Sample

START = 8
"""Frames by which clips are known that may begin alike."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A sample's features in a few numbers.

    shape: of the features. total: their sum. low, high: extremes, not finite where a value is not.
    rms: root mean square. still: every frame is the same. Numbers are nan where there are no
    features. start: a digest of the first START frames, None where there are fewer or these are
    all the same.
    """

    shape: tuple[int, ...]
    total: float
    low: float
    high: float
    rms: float
    still: bool
    start: int | None = None

    @staticmethod
    def of(sample: Sample) -> Summary:
        """What is kept of a sample's features; NaN where it has none."""
        features = sample.features
        if features.numel() == 0:
            return Summary(
                shape=tuple(features.shape),
                total=math.nan,
                low=math.nan,
                high=math.nan,
                rms=math.nan,
                still=False,
            )
        low, high = (float(value) for value in features.aminmax())
        still = (
            sample.frames > 1
            and low == low
            and bool((features[1] == features[0]).all())
            and bool((features == features[0]).all())
        )
        rms = float(torch.linalg.vector_norm(features)) / math.sqrt(features.numel())
        return Summary(
            shape=tuple(features.shape),
            total=float(features.sum()),
            low=low,
            high=high,
            rms=rms,
            still=still,
            start=_start(features),
        )


def _start(features: Tensor) -> int | None:
    first = features[:START]
    if len(first) < START or bool((first == first[0]).all()):
        return None
    return hash(tuple(first.flatten().tolist()))
