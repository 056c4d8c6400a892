"""Samples of which there are more than memory should hold: their features lie in a file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, overload
from weakref import finalize

import torch

if TYPE_CHECKING:
    from pytest_overfit.subject import Sample

KEPT_BYTES = 64 << 20
"""Features up to which samples are kept in memory."""


def kept(samples: Iterable[Sample], most_bytes: int = KEPT_BYTES) -> Sequence[Sample]:
    """`samples`, read once: a list, or, where their features have more than `most_bytes`, a
    sequence that reads each from a temporary file. The file ends with the sequence, or the process.
    """
    if isinstance(samples, Spilled):
        return samples
    held: list[Sample] = []
    total, rest = 0, iter(samples)
    for sample in rest:
        held.append(sample)
        total += sample.features.nbytes
        if total > most_bytes:
            return Spilled(chain(held, rest))
    return held


class Spilled(Sequence["Sample"]):
    """Samples whose features are read from a file each time they are asked for, to the CPU."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self._whole: Spilled | None = None
        self._samples: list[Sample] = []
        self._places: list[tuple[int, int, torch.Size]] = []
        with tempfile.TemporaryFile(prefix="pytest-overfit-samples-") as file:
            for sample in samples:
                features = sample.features.detach().cpu().contiguous()
                raw = features.view(torch.uint8).numpy().tobytes()
                self._places.append((file.tell(), len(raw), features.shape))
                self._samples.append(replace(sample, features=features[:0].clone()))
                file.write(raw)
            file.flush()
            self._file = os.dup(file.fileno())  # it has no name any more, and lives as long as this
        finalize(self, os.close, self._file)

    def __len__(self) -> int:
        return len(self._samples)

    @overload
    def __getitem__(self, item: int) -> Sample: ...
    @overload
    def __getitem__(self, item: slice) -> Spilled: ...
    def __getitem__(self, item: int | slice) -> Sample | Spilled:
        if isinstance(item, slice):
            part = copy(self)
            part._samples, part._places = self._samples[item], self._places[item]
            part._whole = self  # whose file it is
            return part
        sample = self._samples[item]
        start, length, shape = self._places[item]
        # By its place, not from where the file stands: a forked process shares that.
        raw = bytearray(os.pread(self._file, length, start))
        features = torch.frombuffer(raw, dtype=sample.features.dtype).view(shape)
        return replace(sample, features=features)
