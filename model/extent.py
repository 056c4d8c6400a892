"""How far each clip of a padded batch reaches, and what follows from it: masks, packing, turning
round.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor

Steps = TypeVar("Steps", int, Tensor)


class Timed(Protocol):
    """A layer that says how many steps come out of n."""

    def steps(self, n: Steps, /) -> Steps:
        """Steps that it makes of `n`; of a number or a tensor."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Extent:
    """How far each clip of a padded batch reaches.

    steps: (batch,) int64 on the CPU. length: steps the batch is padded to. device: where the values
    are.
    """

    steps: Tensor
    length: int
    device: torch.device

    @classmethod
    def of(cls, frames: Tensor, features: Tensor) -> Self:
        """frames: (batch,) int64. features: (batch, frames, ...)."""
        return cls(steps=frames.detach().cpu(), length=features.shape[1], device=features.device)

    def after(self, layer: Timed) -> Extent:
        """How far each clip reaches behind a layer."""
        return Extent(
            steps=layer.steps(self.steps), length=layer.steps(self.length), device=self.device
        )

    def within(self, other: Extent) -> Extent:
        """The shorter of the two, clip by clip."""
        return Extent(
            steps=torch.minimum(self.steps, other.steps),
            length=min(self.length, other.length),
            device=self.device,
        )

    @cached_property
    def padded(self) -> bool:
        """Whether any clip is shorter than the batch."""
        return bool((self.steps < self.length).any())

    @cached_property
    def mask(self) -> Tensor:
        """(batch, length) bool: real steps."""
        return (torch.arange(self.length) < self.steps[:, None]).to(self.device)

    @cached_property
    def rows(self) -> Tensor:
        """Indices of real steps in a flattened batch: (real steps,) int64."""
        return (
            (torch.arange(self.length) < self.steps[:, None])
            .flatten()
            .nonzero()[:, 0]
            .to(self.device)
        )

    @cached_property
    def reversing(self) -> Tensor:
        """The permutation of a flattened batch that turns each clip round and leaves padding where
        it is: (batch * length,) int64.
        """
        at, steps = torch.arange(self.length), self.steps[:, None]
        turned = torch.where(at < steps, steps - 1 - at, at)
        return (
            (turned + torch.arange(len(self.steps))[:, None] * self.length)
            .flatten()
            .to(self.device)
        )

    def pack(self, x: Tensor) -> Tensor:
        """(batch, length, channels) -> (real steps, channels)."""
        flat = x.flatten(0, 1)
        return flat.index_select(0, self.rows) if self.padded else flat

    def unpack(self, rows: Tensor) -> Tensor:
        """(real steps, channels) -> (batch, length, channels), zero in the padding."""
        if self.padded:
            rows = rows.new_zeros(len(self.steps) * self.length, rows.shape[1]).index_copy(
                0, self.rows, rows
            )
        return rows.reshape(len(self.steps), self.length, -1)

    def reverse(self, x: Tensor) -> Tensor:
        """Each clip of (batch, length, channels) backwards."""
        return x.flatten(0, 1).index_select(0, self.reversing).view_as(x)

    def mean(self, x: Tensor) -> Tensor:
        """Mean over each clip's steps of values that are zero in the padding: (batch, 1,
        channels).
        """
        return x.sum(1, keepdim=True) / self.steps.to(x)[:, None, None]
