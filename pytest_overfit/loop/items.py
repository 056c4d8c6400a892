"""From the items of the user's own Dataset to the samples of a subject."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pytest_overfit.subject import BadSubject, Sample

Read = Callable[[Any], tuple[Any, Any]]
"""An item -> its features (frames, dim), or (frames,) where a frame is one number, and its target
(tokens,).
"""


def samples_of(dataset: Any, read: Read) -> Callable[[int], Sequence[Sample]]:
    """n -> the first n items of a dataset as samples; fewer where it has no more."""

    def samples(n: int) -> list[Sample]:
        return [_sample(index, read(dataset[index])) for index in range(min(n, len(dataset)))]

    return samples


def _sample(index: int, read: Any) -> Sample:
    if not isinstance(read, tuple) or len(read) != 2:
        raise BadSubject(
            f"item {index}: sample must return features and target, got a {type(read).__name__}"
        )
    features, target = (_tensor(value) for value in read)
    if isinstance(features, Tensor) and features.ndim == 1:
        features = features[:, None]
    return Sample(
        name=f"item {index}",
        features=features,
        target=target.long() if isinstance(target, Tensor) else target,
    )


def _tensor(value: Any) -> Any:
    return torch.as_tensor(value) if isinstance(value, list | np.ndarray) else value
