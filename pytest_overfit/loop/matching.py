"""Which samples a batch of the user's holds, and whether they are as they were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pytest_overfit.subject import Sample

ALIKE = 0.9
"""Correlation from which a row is a sample, changed: other clips of one corpus stay below."""
SAME = 1e-3
"""Of a sample's own spread: what a row may differ by and be the same."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """A row and the sample that it is likest to. frames: that the two share. likeness: correlation
    over them.

    scale, shift: row = scale x sample + shift. off: rms of what the two differ by, in units of the
    sample's spread. zeros: share of the row's numbers that are 0 where the sample's are not.
    shuffled: its frames are the sample's in another order, and nothing else is known of it.
    """

    sample: int
    frames: int
    likeness: float
    scale: float
    shift: float
    off: float
    zeros: float
    shuffled: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Given:
    """Rows of a batch. samples: which sample each is likest to.

    exact: all are the samples to rounding, over all their frames.
    """

    rows: tuple[Row, ...]
    exact: bool

    @property
    def shuffled(self) -> bool:
        """All have the frames of a sample, in another order."""
        return all(row.shuffled for row in self.rows)

    @property
    def samples(self) -> tuple[int, ...]:
        """Which samples the rows are of."""
        return tuple(row.sample for row in self.rows)


def match(batch: Tensor, samples: Sequence[Sample]) -> Given | None:
    """Match each row of (batch, ...) with a sample; None where one is like none, as after an
    augmentation or in another form.
    """
    rows = [_likest(row.detach().float().cpu(), samples) for row in batch]
    if any(row is None for row in rows):
        return None
    known = tuple(row for row in rows if row is not None)
    exact = all(row.off < SAME and row.frames == samples[row.sample].frames for row in known)
    return Given(rows=known, exact=exact)


def _likest(row: Tensor, samples: Sequence[Sample]) -> Row | None:
    found = [
        one
        for index, sample in enumerate(samples)
        for one in [_compared(row, index, sample.features.float())]
        if one is not None
    ]
    best = max(found, key=lambda one: (one.likeness, one.frames), default=None)
    if best is not None and (best.likeness > ALIKE or best.zeros > 0.5):
        return best
    return next(
        (replace(one, shuffled=True) for one in found if _has_the_frames(row, samples[one.sample])),
        None,
    )


def _has_the_frames(row: Tensor, sample: Sample) -> bool:
    """Whether a row, its padding aside, is made of the frames of a sample, in whatever order."""
    features = sample.features.float()
    frames = _in_frames(row, features.shape[1])
    if frames is None or len(frames) < len(features):
        return False
    mine, theirs = (_in_any_order(one) for one in (features, frames[: len(features)]))
    return bool((mine - theirs).abs().max() <= SAME * features.std())


def _in_any_order(frames: Tensor) -> Tensor:
    """Numbers that do not change with the order of frames: columns sorted, and norms of frames."""
    return torch.cat([frames.sort(0).values, frames.norm(dim=1).sort().values[:, None]], 1)


def _compared(row: Tensor, index: int, features: Tensor) -> Row | None:
    """features: (frames, dim).

    The row may be (frames, dim), (dim, frames), or (frames,) where dim is 1.
    """
    shaped = _in_frames(row, features.shape[1])
    if shaped is None:
        return None
    row = shaped
    shown = int(row.abs().sum(1).nonzero().max()) + 1 if bool(row.any()) else 0
    frames = min(len(row), len(features))
    mine, theirs = features[:frames], row[:frames]
    if frames < 2 or float(mine.std()) == 0:
        return None
    centred, other = mine - mine.mean(), theirs - theirs.mean()
    spread = float(centred.square().mean().sqrt())
    norm = float(centred.norm() * other.norm())
    likeness = float((centred * other).sum()) / norm if norm else 0.0
    scale = float((centred * other).sum() / centred.square().sum())
    masked = (theirs == 0) & (mine != 0)
    beyond = float(row[len(features) :].std()) > 0 if len(row) > len(features) + 1 else False
    if beyond and shown > len(features) and likeness < 1 - 1e-6:
        return None
    return Row(
        sample=index,
        frames=frames,
        likeness=likeness,
        scale=scale,
        shift=float(theirs.mean()) - scale * float(mine.mean()),
        off=float((theirs - mine).square().mean().sqrt()) / spread,
        zeros=float(masked.float().mean()),
    )


def _in_frames(row: Tensor, dim: int) -> Tensor | None:
    if row.ndim == 1 and dim == 1:
        return row[:, None]
    if row.ndim == 2 and row.shape[1] == dim:
        return row
    if row.ndim == 2 and row.shape[0] == dim:
        return row.T
    flat = row.flatten(1) if row.ndim > 2 else row
    return flat if flat.ndim == 2 and flat.shape[1] == dim else None


def spread_of(samples: Sequence[Sample]) -> tuple[float, float]:
    """Mean and standard deviation over all numbers of the samples."""
    flat = torch.cat([sample.features.float().flatten() for sample in samples])
    return float(flat.mean()), float(flat.std())
