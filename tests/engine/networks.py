"""Small sound networks of many shapes, made clips, and what probes read of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from pytest_overfit.network import (
    Observation,
    constant_signal,
    dead_units,
    exploding_signal,
    first_drop,
    observe,
    rank_bottleneck,
    vanishing_gradient,
)
from pytest_overfit.subject import Sample, Subject

DIM, VOCABULARY, WIDTH = 20, 12, 32
Build = Callable[[], nn.Module]
Mode = Literal["train", "eval"]
MODES: tuple[Mode, ...] = ("train", "eval")


def clips(
    n: int = 6, *, frames: tuple[int, int] = (40, 56), seed: int = 0, raw: bool = False
) -> list[Sample]:
    """Smooth sequences, one bump a token in a direction of the token's own, z-scored unless
    `raw`.
    """
    random = torch.Generator().manual_seed(seed)
    directions = torch.randn(VOCABULARY, DIM, generator=random)
    made = []
    for index in range(n):
        length = int(torch.randint(frames[0], frames[1] + 1, (1,), generator=random))
        tokens = torch.randint(
            1, VOCABULARY, (int(torch.randint(3, 7, (1,), generator=random)),), generator=random
        )
        centres = (torch.arange(len(tokens)) + 0.5) * length / len(tokens)
        bumps = torch.exp(
            -(((torch.arange(length)[:, None] - centres) / (length / len(tokens) / 3)) ** 2)
        )
        features = bumps @ directions[tokens] + 0.1 * torch.randn(length, DIM, generator=random)
        made.append(Sample(name=f"clip{index}", features=features, target=tokens))
    everything = torch.cat([sample.features for sample in made])
    mean, std = (0.0, 1.0) if raw else (everything.mean(0), everything.std(0))
    shift, scale = (0.5, 0.1) if raw else (0.0, 1.0)
    return [
        Sample(name=s.name, features=(s.features - mean) / std * scale + shift, target=s.target)
        for s in made
    ]


class Net(nn.Module):
    """body: (B, T, F) -> (B, T', WIDTH); then a head and log-softmax.

    Steps follow from the length of the body's output.
    """

    def __init__(self, body: nn.Module, width: int = WIDTH) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(width, VOCABULARY)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        out = self.body(features)
        steps = (frames * out.shape[1] / features.shape[1]).ceil().long()
        return self.head(out).log_softmax(-1).transpose(0, 1), steps


def subject(build: Build, samples: list[Sample] | None = None) -> Subject:
    return Subject(
        name="net",
        build=lambda vocab_size, feature_dim, seed: build(),
        samples=samples or clips(),
        vocabulary=[f"token{i}" for i in range(VOCABULARY)],
    )


class Recurrent(nn.Module):
    """Packed BiGRU."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(DIM, WIDTH)
        self.gru = nn.GRU(
            WIDTH, WIDTH // 2, num_layers=2, batch_first=True, bidirectional=True, dropout=0.2
        )
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        packed = pack_padded_sequence(
            F.relu(self.project(features)), frames.cpu(), batch_first=True, enforce_sorted=False
        )
        out, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True)
        return self.head(out).log_softmax(-1).transpose(0, 1), frames


class Conv(nn.Module):
    """Convolution, normalisation and ReLU over (B, C, T), He's initialisation."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        norm: str = "batch",
        stride: int = 1,
        groups: int = 1,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv1d(
            inputs, outputs, 3, stride=stride, padding=dilation, groups=groups, dilation=dilation
        )
        self.norm = {
            "batch": nn.BatchNorm1d(outputs),
            "group": nn.GroupNorm(4, outputs),
            "none": nn.Identity(),
        }[norm]
        self.activation = nn.ReLU(inplace=True)
        nn.init.kaiming_normal_(self.conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.activation(self.norm(self.conv(x)))
        return out


class Residual(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.inner(x)
        return out


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool1d(1)
        self.down, self.up = nn.Conv1d(channels, 8, 1), nn.Conv1d(8, channels, 1)
        self.gate = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x * self.gate(self.up(F.relu(self.down(self.pool(x)))))
        return out


class OverTime(nn.Module):
    """(B, T, C) through layers over (B, C, T)."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x.transpose(1, 2)).transpose(1, 2)
        return out


def tcn(norm: str) -> nn.Module:
    blocks = [
        Residual(nn.Sequential(Conv(WIDTH, WIDTH, norm=norm, dilation=2**k), SqueezeExcite(WIDTH)))
        for k in range(3)
    ]
    return Net(OverTime(Conv(DIM, WIDTH, norm=norm), *blocks))


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(DIM, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 64, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 3)
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        angles = torch.arange(features.shape[1])[:, None] / 10000 ** (
            torch.arange(0, WIDTH, 2) / WIDTH
        )
        x = self.project(features) * math.sqrt(WIDTH) + torch.cat([angles.sin(), angles.cos()], -1)
        padding = torch.arange(features.shape[1])[None] >= frames[:, None]
        return self.head(self.encoder(x, src_key_padding_mask=padding)).log_softmax(-1).transpose(
            0, 1
        ), frames


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.attention(x, x, x, need_weights=False)[0]
        return out


def conformer() -> nn.Module:
    def feed_forward() -> nn.Module:
        return Residual(
            nn.Sequential(
                nn.LayerNorm(WIDTH),
                nn.Linear(WIDTH, 64),
                nn.SiLU(),
                nn.Dropout(0.1),
                nn.Linear(64, WIDTH),
            )
        )

    def convolution() -> nn.Module:
        depthwise = nn.Conv1d(WIDTH, WIDTH, 7, padding=3, groups=WIDTH)
        layers = (
            nn.Conv1d(WIDTH, 2 * WIDTH, 1),
            nn.GLU(1),
            depthwise,
            nn.BatchNorm1d(WIDTH),
            nn.SiLU(),
            nn.Conv1d(WIDTH, WIDTH, 1),
        )
        return Residual(nn.Sequential(nn.LayerNorm(WIDTH), OverTime(*layers)))

    def block() -> nn.Module:
        return nn.Sequential(
            feed_forward(),
            Residual(nn.Sequential(nn.LayerNorm(WIDTH), Attention())),
            convolution(),
            feed_forward(),
        )

    return Net(nn.Sequential(nn.Linear(DIM, WIDTH), block(), block(), nn.LayerNorm(WIDTH)))


class Crnn(nn.Module):
    """The features as an image (B, 1, F, T), two-dimensional convolutions, rows folded into
    channels, BiLSTM on (T, B, C).
    """

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d((2, 2)),
            nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d((5, 1)),
        )  # fmt: skip
        self.lstm = nn.LSTM(32, WIDTH // 2, bidirectional=True)
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.convs(features.transpose(1, 2).unsqueeze(1))
        out, _ = self.lstm(maps.flatten(1, 2).permute(2, 0, 1))
        return self.head(out).log_softmax(-1), frames // 2


class Folded(nn.Module):
    """Two encoders, one a body part, on (B*T, C) and on the rows of valid frames alone; an LSTM
    that returns a tuple.
    """

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(DIM // 2, WIDTH // 2), nn.Linear(DIM // 2, WIDTH // 2)
        self.norms = nn.ModuleList([nn.LayerNorm(WIDTH // 2) for _ in range(2)])
        self.lstm = nn.LSTM(WIDTH, WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        valid = torch.arange(features.shape[1])[None] < frames[:, None]
        left = F.relu(self.norms[0](self.left(features[..., : DIM // 2].flatten(0, 1)))).unflatten(
            0, features.shape[:2]
        )
        rows = F.relu(self.norms[1](self.right(features[valid][:, DIM // 2 :])))
        right = features.new_zeros(*features.shape[:2], WIDTH // 2).masked_scatter(
            valid[..., None], rows
        )
        out, _ = self.lstm(torch.cat([left, right], -1))
        return self.head(out).log_softmax(-1).transpose(0, 1), frames


SOUND: dict[str, Build] = {
    "BiGRU": Recurrent,
    "TCN with BatchNorm": lambda: tcn("batch"),
    "TCN with GroupNorm": lambda: tcn("group"),
    "TCN without norms": lambda: tcn("none"),
    "Transformer": Transformer,
    "Conformer": conformer,
    "CRNN": Crnn,
    "folded": Folded,
}


def observed(
    build: Build, mode: Mode, *, seed: int = 0, samples: list[Sample] | None = None
) -> tuple[Observation, ...]:
    described = subject(build, samples)
    taken = described.take(len(samples) if samples else 6)
    return observe(described, described.fresh(feature_dim=DIM, seed=seed), taken, mode=mode)


def detected(observations: tuple[Observation, ...]) -> dict[str, str]:
    """Which detectors speak, and the module they name."""
    drop, constant = first_drop(observations), constant_signal(observations)
    named = {
        "drop": drop.at if drop else None,
        "constant": constant.at if constant else None,
        "vanishing": vanishing_gradient(observations),
        "exploding": exploding_signal(observations),
        "dead": dead_units(observations),
        "rank": rank_bottleneck(observations),
    }
    return {name: o.module for name, o in named.items() if o is not None}
