"""Small healthy networks that are not ours, on features with something to learn: what the tool must
be silent about.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from pytest_overfit.subject import Sample, Subject

DIM = 24
VOCABULARY = ("<blank>", *(f"SIGN-{i}" for i in range(1, 25)))


def clips(
    n: int, *, seed: int = 0, dim: int = DIM, vocabulary: int = len(VOCABULARY), blank: int = 0
) -> list[Sample]:
    """`n` clips of 48 to 76 frames with 3 to 8 tokens, every other one with an adjacent repeat.

    Each token is a fixed pattern of features that swells and fades over 4 to 6 frames, with a pause
    before the next; noise lies over all.
    """
    patterns = torch.randn(vocabulary, dim, generator=torch.Generator().manual_seed(1234))
    generator = torch.Generator().manual_seed(seed)
    labels = [label for label in range(vocabulary) if label != blank]
    return [_clip(f"clip-{i:02}", i % 2 == 0, labels, patterns, generator) for i in range(n)]


def _clip(
    name: str, repeat: bool, labels: list[int], patterns: Tensor, generator: torch.Generator
) -> Sample:
    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    target = [labels[number(0, len(labels) - 1)] for _ in range(number(3, 8))]
    if repeat:
        target[1] = target[0]
    frames = number(48, 76)
    features = 0.1 * torch.randn(frames, patterns.shape[1], generator=generator)
    room = frames // len(target)
    for place, token in enumerate(target):
        start, length = place * room + number(0, max(room - 6, 0)), min(number(4, 6), room)
        swell = torch.sin(torch.linspace(0.3, math.pi - 0.3, length))
        features[start : start + length] += swell[:, None] * patterns[token]
    return Sample(name=name, features=features, target=torch.tensor(target))


def halved(frames: Tensor) -> Tensor:
    """Steps of a stride of 2 with kernel 3 and padding 1."""
    return (frames + 1) // 2


def inside(steps: Tensor, length: int) -> Tensor:
    """(batch, length) bool: the steps that are not padding."""
    return torch.arange(length, device=steps.device) < steps[:, None]


class MaskedConv(nn.Module):
    """Conv1d over (batch, channels, time) that sees zeros past each clip's end."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        kernel: int = 3,
        stride: int = 1,
        dilation: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv1d(
            channels_in,
            channels_out,
            kernel,
            stride,
            padding=dilation * (kernel // 2),
            dilation=dilation,
            bias=bias,
        )

    def forward(self, x: Tensor, steps: Tensor) -> Tensor:
        y: Tensor = self.conv(x * inside(steps, x.shape[-1])[:, None])
        return y


class StepNorm(nn.Module):
    """GroupNorm at each step of (batch, channels, time), so that padding has no share in it."""

    def __init__(self, channels: int, groups: int = 4) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels)

    def forward(self, x: Tensor) -> Tensor:
        rows: Tensor = self.norm(x.transpose(1, 2).reshape(-1, x.shape[1]))
        return rows.view(len(x), x.shape[2], -1).transpose(1, 2)


class BiGRU(nn.Module):
    """Per-frame encoder, one convolution of stride 2, a packed bidirectional recurrent layer, a
    linear head.
    """

    def __init__(
        self,
        dim: int,
        vocabulary: int,
        *,
        hidden: int = 48,
        activation: type[nn.Module] = nn.ReLU,
        recurrent: type[nn.RNNBase] = nn.GRU,
        norm: Callable[[int], nn.Module] = nn.BatchNorm1d,
        bias: bool = True,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(dim, hidden), nn.LayerNorm(hidden), activation(), nn.Dropout(dropout)
        )
        self.conv = MaskedConv(hidden, hidden, stride=2, bias=bias)
        self.norm = norm(hidden)
        self.activation = activation()
        self.rnn = recurrent(hidden, hidden, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * hidden, vocabulary)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        x = self.encoder(features).transpose(1, 2)
        x = self.activation(self.norm(self.conv(x, frames))).transpose(1, 2)
        steps = halved(frames)
        packed, _ = self.rnn(
            pack_padded_sequence(x, steps.cpu(), batch_first=True, enforce_sorted=False)
        )
        x, _ = pad_packed_sequence(packed, batch_first=True)
        return self.head(x).log_softmax(-1).transpose(0, 1), steps


class TemporalConv(nn.Module):
    """Residual dilated convolutions only, batch first, logits out."""

    def __init__(self, dim: int, vocabulary: int, *, hidden: int = 48, depth: int = 4) -> None:
        super().__init__()
        self.stem = MaskedConv(dim, hidden, kernel=5, stride=2)
        self.layers = nn.ModuleList(MaskedConv(hidden, hidden, dilation=2**i) for i in range(depth))
        self.norms = nn.ModuleList(nn.BatchNorm1d(hidden) for _ in range(depth))
        self.head = nn.Conv1d(hidden, vocabulary, 1)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.stem(features.transpose(1, 2), frames))
        steps = halved(frames)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = x + F.relu(norm(layer(x, steps)))
        return self.head(x).transpose(1, 2), steps


class Transformer(nn.Module):
    """A strided stem, sinusoids for places, two pre-norm encoder layers with a padding mask."""

    def __init__(
        self, dim: int, vocabulary: int, *, hidden: int = 48, layers: int = 2, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.stem = MaskedConv(dim, hidden, stride=2)
        layer = nn.TransformerEncoderLayer(
            hidden, 4, 2 * hidden, dropout, batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(
            layer, layers, nn.LayerNorm(hidden), enable_nested_tensor=False
        )
        self.head = nn.Linear(hidden, vocabulary)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(features.transpose(1, 2), frames).transpose(1, 2)
        steps = halved(frames)
        x = self.encoder(
            x + _sinusoids(x.shape[1], x.shape[2]).to(x),
            src_key_padding_mask=~inside(steps, x.shape[1]),
        )
        return self.head(x).log_softmax(-1).transpose(0, 1), steps


def _sinusoids(length: int, channels: int) -> Tensor:
    angles = torch.arange(length)[:, None] / 10_000 ** (torch.arange(0, channels, 2) / channels)
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)


class Upsampler(nn.Module):
    """Four frames to one step and back by a learned ConvTranspose1d, a packed LSTM behind it: the
    shape of MobileNetV3's temporal path.
    """

    def __init__(self, dim: int, vocabulary: int, *, hidden: int = 48) -> None:
        super().__init__()
        self.down = nn.ModuleList(
            [MaskedConv(dim, hidden, stride=2), MaskedConv(hidden, hidden, stride=2)]
        )
        self.squeeze = nn.Sequential(
            nn.Linear(hidden, hidden // 4), nn.ReLU(), nn.Linear(hidden // 4, hidden), nn.Sigmoid()
        )
        self.up = nn.ConvTranspose1d(hidden, hidden, 4, 4)
        self.norm = nn.BatchNorm1d(hidden)
        self.rnn = nn.LSTM(hidden, hidden, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * hidden, vocabulary)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        x, steps = features.transpose(1, 2), frames
        for layer in self.down:
            x, steps = F.relu(layer(x, steps)), halved(steps)
        mask = inside(steps, x.shape[-1])[:, None]
        x = x * self.squeeze((x * mask).sum(-1) / steps[:, None])[..., None]
        x = F.relu(self.norm(self.up(x * mask))).transpose(1, 2)
        packed, _ = self.rnn(
            pack_padded_sequence(x, frames.cpu(), batch_first=True, enforce_sorted=False)
        )
        return self.head(pad_packed_sequence(packed, batch_first=True)[0]).log_softmax(
            -1
        ).transpose(0, 1), frames


class UNet(nn.Module):
    """Eight frames to one and back by plain interpolation, added to a full-length path: short
    branches that hide nothing.
    """

    def __init__(self, dim: int, vocabulary: int, *, hidden: int = 48) -> None:
        super().__init__()
        self.stem = MaskedConv(dim, hidden)
        self.down = nn.ModuleList(MaskedConv(hidden, hidden, stride=2) for _ in range(3))
        self.mix = MaskedConv(2 * hidden, hidden)
        self.head = nn.Linear(hidden, vocabulary)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        whole = F.relu(self.stem(features.transpose(1, 2), frames))
        x, steps = whole, frames
        for layer in self.down:
            x, steps = F.relu(layer(x, steps)), halved(steps)
        x = torch.stack(
            [
                _stretched(row[:, :step], int(frame), whole.shape[-1])
                for row, step, frame in zip(x, steps, frames, strict=True)
            ]
        )
        x = F.relu(self.mix(torch.cat([whole, x], 1), frames))
        return self.head(x.transpose(1, 2)).log_softmax(-1).transpose(0, 1), frames


def _stretched(row: Tensor, frames: int, length: int) -> Tensor:
    """(channels, steps) drawn out to `frames`, then padded with zeros to `length`."""
    return F.pad(F.interpolate(row[None], size=frames, mode="linear")[0], (0, length - frames))


def subject(
    network: Callable[..., nn.Module],
    name: str,
    *,
    samples: list[Sample] | None = None,
    **described: Any,
) -> Subject:
    """A subject of one of these networks. described: fields of Subject."""

    def build(vocab_size: int, feature_dim: int, seed: int) -> nn.Module:
        return network(feature_dim, vocab_size)

    return Subject(
        name=name,
        build=build,
        samples=clips(50) if samples is None else samples,
        vocabulary=VOCABULARY,
        **described,
    )


def bigru(**described: Any) -> Subject:
    return subject(BiGRU, "bigru", **described)


HEALTHY: dict[str, Callable[[], Subject]] = {
    "bigru": bigru,
    "temporal convolutions": lambda: subject(
        TemporalConv, "temporal convolutions", outputs="logits", layout="BTV"
    ),
    "transformer": lambda: subject(Transformer, "transformer"),
    "upsampler": lambda: subject(Upsampler, "upsampler"),
    "u-net": lambda: subject(UNet, "u-net"),
}
