"""Modules that spoil a network where they are put in, (batch, frames, width) -> the same."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.engine.planting import Plant, altered


class Inserted(nn.Module):
    """Something over (batch, frames, width) that is told each clip's frames, with zeros kept in the
    padding.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.frames: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        assert self.frames is not None
        out = self.inner(x, self.frames) if getattr(self.inner, "timed", False) else self.inner(x)
        mask = torch.arange(x.shape[1], device=x.device) < self.frames[:, None]
        return out if bool(mask.all()) else out * mask[..., None]


def inserted(site: str, make: Callable[[], nn.Module]) -> Plant:
    """The subject whose module `site` is followed by another."""

    def alter(network: nn.Module) -> None:
        parent, _, child = site.rpartition(".")
        with torch.enable_grad():
            new = Inserted(make())
        setattr(
            network.get_submodule(parent), child, nn.Sequential(network.get_submodule(site), new)
        )
        network.register_forward_pre_hook(lambda _, args: setattr(new, "frames", args[1]))

    return lambda subject: altered(subject, alter)


def sigmoids(width: int, depth: int = 10) -> nn.Module:
    return nn.Sequential(
        *(layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.Sigmoid()))
    )


def bottleneck(width: int, narrow: int = 1) -> nn.Module:
    return nn.Sequential(nn.Linear(width, narrow), nn.Linear(narrow, width))


class OverTime(nn.Module):
    """Layers over (batch, width, frames), one after another."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x.transpose(1, 2))
        return out.transpose(1, 2)


def faint_depthwise(width: int, depth: int = 6) -> nn.Module:
    """Depthwise convolutions started by a fan_out that ignores groups, then a layer whose bias
    drowns what is left.
    """
    convolutions = [
        nn.Conv1d(width, width, 3, padding=1, groups=width, bias=False) for _ in range(depth)
    ]
    with torch.no_grad():
        for convolution in convolutions:
            nn.init.normal_(convolution.weight, std=math.sqrt(2 / (3 * width)))
    return OverTime(*convolutions, nn.Conv1d(width, width, 1))


class Averaged(nn.Module):
    """Attention over time without a residual path, whose queries are too small to choose: a mean
    over the clip at every step.
    """

    timed = True

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        with torch.no_grad():
            nn.init.normal_(self.query.weight, std=1e-4)
            nn.init.zeros_(self.query.bias)

    def forward(self, x: Tensor, frames: Tensor) -> Tensor:
        scores = self.query(x) @ self.key(x).transpose(1, 2) / math.sqrt(x.shape[-1])
        outside = torch.arange(x.shape[1], device=x.device) >= frames[:, None]
        out: Tensor = scores.masked_fill(outside[:, None], -math.inf).softmax(-1) @ self.value(x)
        return out


class Pinched(nn.Module):
    """Time divided by `factor` and drawn out again by interpolation, so that shapes fit."""

    timed = True

    def __init__(self, width: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.conv = nn.Conv1d(width, width, 3, stride=factor, padding=1)

    def forward(self, x: Tensor, frames: Tensor) -> Tensor:
        mask = torch.arange(x.shape[1], device=x.device) < frames[:, None]
        x = self.conv((x * mask[..., None]).transpose(1, 2))
        steps = (frames - 1) // self.factor + 1
        rows = [
            F.interpolate(row[None, :, :n], size=int(f), mode="linear")[0].T
            for row, n, f in zip(x, steps, frames, strict=True)
        ]
        return F.pad(
            out := nn.utils.rnn.pad_sequence(rows, batch_first=True),
            (0, 0, 0, mask.shape[1] - out.shape[1]),
        )


class Times0(nn.Module):
    """As a gate that is forgotten at zero."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 0


def silent(network: nn.Module, path: str) -> None:
    """What a part's encoder says is replaced by zeros."""

    def nothing(_: nn.Module, __: Any, out: Tensor) -> Tensor:
        return torch.zeros_like(out)

    network.get_submodule(path).register_forward_hook(nothing)
