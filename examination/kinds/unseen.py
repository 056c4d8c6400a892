"""Kinds of faults that came to no finding's mind: written after all of them, labelled, looked at once
before any mend, and a third of them, by lot, at the end only.

Each is a usual mistake in networks of sequences; where it is best known by one report, that is
named.
"""

from __future__ import annotations

import math
import random
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_overfit import ctc
from pytest_overfit.subject import Subject


def _inside(frames: Tensor, length: int) -> Tensor:
    """(batch, length) bool: true up to each clip's end."""
    return torch.arange(length, device=frames.device) < frames[:, None]


class MaskInverted(nn.Module):
    """A mask of what is shown is given where torch asks for what is to be ignored."""

    timed = True

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(width, 4, batch_first=True)

    def forward(self, x: Tensor, frames: Tensor) -> Tensor:
        out: Tensor = x + self.attend(x, x, x, key_padding_mask=_inside(frames, x.shape[1]))[0]
        return out


class WeightsOverClips(nn.Module):
    """Weights of attention add up to one over the clips of a batch, not over a clip's steps."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        scores = self.query(x) @ self.key(x).transpose(1, 2) / math.sqrt(x.shape[-1])
        out: Tensor = x + scores.softmax(0) @ self.value(x)
        return out


class LastStateForAll(nn.Module):
    """The state at the end of a clip is repeated for its every step."""

    timed = True

    def __init__(self, width: int) -> None:
        super().__init__()
        self.rnn = nn.GRU(width, width, batch_first=True)

    def forward(self, x: Tensor, frames: Tensor) -> Tensor:
        states = self.rnn(x)[0]
        last = states[torch.arange(len(x)), frames - 1]
        return last[:, None].expand_as(states)


class PlacesByClip(nn.Module):
    """Sinusoids for places are taken by a clip's number in its batch: (time, batch) was meant."""

    def __init__(self, width: int) -> None:
        super().__init__()
        angle = torch.arange(256)[:, None] * torch.exp(
            torch.arange(0, width, 2) * (-math.log(10000.0) / width)
        )
        self.places: Tensor
        self.register_buffer(
            "places", torch.stack([angle.sin(), angle.cos()], -1).flatten(1)[:, None]
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.places[: len(x)]


class ListedLayers(nn.Module):
    """Layers in a plain list: no optimiser is given them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = [nn.Linear(width, width) for _ in range(2)]

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x


class NearestCodes(nn.Module):
    """Each step is replaced by the nearest of some codes, and no gradient is handed past the
    choice.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.codes = nn.Parameter(torch.randn(64, width))

    def forward(self, x: Tensor) -> Tensor:
        chosen: Tensor = self.codes[torch.cdist(x, self.codes[None]).argmin(-1)]
        return chosen


class UnitVectors(nn.Module):
    """Each step is divided by its length, which is zero in the padding."""

    timed = True

    def forward(self, x: Tensor, frames: Tensor) -> Tensor:
        x = x * _inside(frames, x.shape[1])[..., None]
        return x / x.pow(2).sum(-1, keepdim=True).sqrt()


class RowsMasked(nn.Module):
    """Minus infinity is added to all scores of the padding's rows, and what comes of them is
    replaced by zeros, which no gradient is. Source: pytorch/pytorch, issue 41508.
    """

    timed = True

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x: Tensor, frames: Tensor) -> Tensor:
        shown = _inside(frames, x.shape[1])
        both = shown[:, :, None] & shown[:, None]
        scores = self.query(x) @ self.key(x).transpose(1, 2) / math.sqrt(x.shape[-1])
        mask = torch.zeros_like(scores).masked_fill(~both, -math.inf)
        weights = (scores + mask).softmax(-1)
        return x + weights.masked_fill(~both, 0.0) @ self.value(x)


class ReversedWithPadding(nn.Module):
    """The backward half of a recurrence by hand: the whole batch is turned round, padding first,
    and never turned back.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ahead, self.back = (nn.GRU(width, width // 2, batch_first=True) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.ahead(x)[0], self.back(x.flip(1))[0]], -1)


class AxesViewed(nn.Module):
    """(batch, time, width) is viewed as (batch, width, time), not transposed, for a convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        batch, time, width = x.shape
        out: Tensor = self.conv(x.reshape(batch, width, time)).transpose(1, 2)
        return F.relu(out)


class ShiftOverClips(nn.Module):
    """A quarter of the channels is shifted in time over clips laid end to end."""

    def forward(self, x: Tensor) -> Tensor:
        part = x.shape[-1] // 4
        flat = x.flatten(0, 1)
        moved = torch.cat([flat[:, :part].roll(1, 0), flat[:, part:]], -1)
        return moved.unflatten(0, x.shape[:2])


class SquaresInHalf(nn.Module):
    """A norm by root mean square of large values whose squares are taken in half precision."""

    def forward(self, x: Tensor) -> Tensor:
        x = 1000 * (x + 1)
        return x * x.half().pow(2).float().mean(-1, keepdim=True).add(1e-6).rsqrt()


class PlacesTooLoud(nn.Module):
    """Learned places begin with a deviation of 200 in the place of 0.02, before a norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.places, self.norm = nn.Parameter(200 * torch.randn(256, width)), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(x + self.places[: x.shape[1]])
        return out


class Dropped(nn.Module):
    """Dropout by a function, with the share that was to be kept."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.95, self.training)


def repeats_merged(subject: Subject) -> Subject:
    """Equal neighbours in targets are merged before the loss."""

    def loss(log_probs: Tensor, steps: Tensor, targets: Tensor, lengths: Tensor) -> Tensor:
        rows = [
            row[:n].unique_consecutive() for row, n in zip(targets, lengths.tolist(), strict=True)
        ]
        merged = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)
        fewer = torch.tensor([len(row) for row in rows])
        return ctc.nats_per_token(log_probs, steps, merged, fewer, blank=subject.blank)

    return replace(subject, loss=loss)


NAMES = (
    *("mask inverted", "weights over clips", "last state for all", "places by clip"),
    *("layers listed", "codes without gradient", "unit vectors", "rows masked"),
    *("reversed with padding", "axes viewed", "shifted over clips", "squares in half"),
    *("places too loud", "dropout inverted", "repeats merged"),
)
ASIDE = frozenset(random.Random(1).sample(NAMES, len(NAMES) // 3))
