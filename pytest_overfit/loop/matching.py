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
    pairs = [
        pair
        for index, sample in enumerate(samples)
        for pair in [_pair(row, index, sample.features.float())]
        if pair is not None
    ]
    best = max(pairs, key=lambda pair: (pair.likeness, pair.frames), default=None)
    if best is not None:
        known = best.compared()
        if known.likeness > ALIKE or known.zeros > 0.5:
            return known
    return next(
        (
            replace(pair.compared(), shuffled=True)
            for pair in pairs
            if _has_the_frames(row, samples[pair.sample])
        ),
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


@dataclass(frozen=True, kw_only=True, eq=False)
class _Pair:
    """A row beside a sample, over the frames that both have. likeness: correlation."""

    sample: int
    mine: Tensor
    theirs: Tensor
    centred: Tensor
    other: Tensor
    likeness: float

    @property
    def frames(self) -> int:
        return len(self.mine)

    def compared(self) -> Row:
        """The row, by what it is of the sample."""
        scale = float((self.centred * self.other).sum() / self.centred.square().sum())
        spread = float(self.centred.square().mean().sqrt())
        hidden = (self.theirs == 0) & (self.mine != 0)
        return Row(
            sample=self.sample,
            frames=self.frames,
            likeness=self.likeness,
            scale=scale,
            shift=float(self.theirs.mean()) - scale * float(self.mine.mean()),
            off=float((self.theirs - self.mine).square().mean().sqrt()) / spread,
            zeros=float(hidden.float().mean()),
        )


def _pair(row: Tensor, index: int, features: Tensor) -> _Pair | None:
    """features: (frames, dim); None where the row is plainly not of them.

    The row may be (frames, dim), (dim, frames), or (frames,) where dim is 1.
    """
    shaped = _in_frames(row, features.shape[1])
    if shaped is None:
        return None
    frames = min(len(shaped), len(features))
    mine, theirs = features[:frames], shaped[:frames]
    if frames < 2:
        return None
    centred, other = mine - mine.mean(), theirs - theirs.mean()
    if not bool(centred.any()):
        return None
    norm = float(centred.norm() * other.norm())
    likeness = float((centred * other).sum()) / norm if norm else 0.0
    if likeness < 1 - 1e-6 and _goes_on(shaped, len(features)):
        return None
    return _Pair(
        sample=index, mine=mine, theirs=theirs, centred=centred, other=other, likeness=likeness
    )


def _goes_on(row: Tensor, frames: int) -> bool:
    """Whether a row has more than padding behind so many frames."""
    beyond = row[frames:]
    return len(beyond) > 1 and float(beyond.std()) > 0 and bool(beyond.any())


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
