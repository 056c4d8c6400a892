"""What a run trains on and is validated on, and in which order its clips come.

Everything is a function of numbers: clip (epoch, index) is the same clip whichever process makes it
and however often the run was killed, and the order of an epoch follows from the seed and the epoch
alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import overload

import torch
from torch.utils.data import Dataset, Sampler

from pytest_overfit.subject import Sample

MOST_BYTES = 2 << 30
Key = tuple[int, int]
"""Epoch and index of a clip."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Data:
    """Two splits with one vocabulary.

    vocabulary: names by id, the blank at 0. altered: (epoch, index) -> training clip `index` with
    augmentation, another one each epoch. described: what run.json says of it, enough to make it
    again. remarks: a sentence for each thing left out.
    """

    train: Sequence[Sample]
    val: Sequence[Sample]
    vocabulary: tuple[str, ...]
    altered: Callable[[int, int], Sample]
    described: Mapping[str, object] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


class Remembered(Sequence[Sample]):
    """Samples that are kept once they were made, as long as all kept ones fit in `most_bytes`;
    others are made at each reading.
    """

    def __init__(
        self, count: int, make: Callable[[int], Sample], most_bytes: int = MOST_BYTES
    ) -> None:
        self._count, self._make, self._room = count, make, most_bytes
        self._kept: dict[int, Sample] = {}

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, item: int) -> Sample: ...
    @overload
    def __getitem__(self, item: slice) -> list[Sample]: ...
    def __getitem__(self, item: int | slice) -> Sample | list[Sample]:
        if isinstance(item, slice):
            return [self[index] for index in range(*item.indices(self._count))]
        if not 0 <= item < self._count:
            raise IndexError(f"there are {self._count} samples, sample {item} was asked for")
        if item in self._kept:
            return self._kept[item]
        sample = self._make(item)
        if sample.features.nbytes <= self._room:
            self._room -= sample.features.nbytes
            self._kept[item] = sample
        return sample


class Plain(Dataset[Sample]):
    """Clips by (epoch, index), the same in every epoch."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = samples

    def __getitem__(self, key: Key) -> Sample:
        return self.samples[key[1]]


class Altered(Dataset[Sample]):
    """Clips by (epoch, index), another way each epoch."""

    def __init__(self, altered: Callable[[int, int], Sample]) -> None:
        self.altered = altered

    def __getitem__(self, key: Key) -> Sample:
        return self.altered(*key)


class Order(Sampler[Key]):
    """The clips of one process of `world`, in the order of the epoch: number rank, rank + world,
    ... of all.

    Batch k of every process together is batch k of a single process whose batches are `world` times
    as large. Where clips do not divide evenly the first ones come twice, so that all processes take
    as many steps; the first `real` of this one are not such repeats.
    """

    def __init__(self, count: int, *, seed: int | None, rank: int = 0, world: int = 1) -> None:
        self.count, self.seed, self.rank, self.world = count, seed, rank, world
        self.epoch = 0

    @property
    def real(self) -> int:
        """Batches of this process that are its own, none repeated to even out."""
        return len(range(self.rank, self.count, self.world))

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.count // self.world)

    def __iter__(self) -> Iterator[Key]:
        order = list(range(self.count))
        if self.seed is not None:
            order = torch.randperm(
                self.count, generator=torch.Generator().manual_seed(seed_of(self.seed, self.epoch))
            ).tolist()
        padded = order * (1 + self.world // self.count) + order
        return (
            (self.epoch, padded[place])
            for place in range(self.rank, len(self) * self.world, self.world)
        )


def seed_of(*numbers: int) -> int:
    """One seed of several numbers, such as seed and epoch, far from those of their neighbours."""
    mixed = 0
    for number in numbers:
        mixed = (
            mixed * 6364136223846793005 + 1442695040888963407 + number
        ) % 2**63  # Knuth's MMIX constants
        mixed ^= mixed >> 31
    return mixed
