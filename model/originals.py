"""The two historical networks, with their faults: specimens that the suite must convict, never to
be trained for real.

Shapes, initialisation and order of layers are those of the networks that a team spent a month on,
rewritten from their description; parameter counts are exact. Both read 6516 columns a frame, split
where the team split them: what they call hands is 42 points of the face, because the landmarks come
in the order pose, face, left hand, right hand. Neither masks its padding, so a clip's output
depends on the batch's longest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

COLUMNS = {
    "pose": slice(0, 99),
    "hands": slice(99, 225),
    "face": slice(225, 1629),
    "temporal": slice(1629, 6516),
}
ENCODED = {"pose": 64, "hands": 128, "face": 64, "temporal": 128}


class Row(NamedTuple):
    """One inverted residual block."""

    expansion: int
    channels: int
    kernel: int
    stride: int
    squeeze_excite: bool
    activation: type[nn.Module]


ROWS = (
    Row(16, 16, 3, 1, True, nn.ReLU),
    Row(72, 24, 3, 2, False, nn.ReLU),
    Row(88, 24, 3, 1, False, nn.ReLU),
    Row(96, 40, 5, 1, True, nn.Hardswish),
    Row(240, 40, 5, 1, True, nn.Hardswish),
    Row(120, 48, 5, 1, True, nn.Hardswish),
)
INCEPTION: Sequence[tuple[int, ...]] = (  # channels of point, reduce3, conv3, reduce7, conv7, pool
    (64, 96, 128, 16, 32, 32),
    (128, 128, 192, 32, 96, 64),
    (192, 96, 208, 16, 48, 64),
    (160, 112, 224, 24, 64, 64),
    (128, 128, 256, 24, 64, 64),
    (112, 144, 288, 32, 64, 64),
    (256, 160, 320, 32, 128, 128),
    (256, 160, 320, 32, 128, 128),
    (384, 192, 384, 48, 128, 128),
)


def parts(features: Tensor) -> dict[str, Tensor]:
    """Body parts -> their columns of `features` (batch, frames, columns). Raises ValueError for
    another width."""
    if features.shape[-1] != COLUMNS["temporal"].stop:
        raise ValueError(
            f"the historical networks read {COLUMNS['temporal'].stop} features a frame, got "
            f"{features.shape[-1]}"
        )
    return {part: features[..., columns] for part, columns in COLUMNS.items()}


def width(part: str) -> int:
    """Columns of a body part."""
    return COLUMNS[part].stop - COLUMNS[part].start


class Gate(nn.Module):
    """Squeeze-excite whose mean counts padding."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv1d(channels, channels // 4, 1)
        self.excite = nn.Conv1d(channels // 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate: Tensor = self.excite(self.squeeze(x.mean(2, keepdim=True)).relu()).sigmoid()
        return x * gate


class InvertedResidual(nn.Module):
    """A MobileNetV3 block over (batch, channels, steps)."""

    def __init__(self, inputs: int, row: Row) -> None:
        super().__init__()
        inside, padding = row.expansion, row.kernel // 2
        self.expand = (
            conv_norm(inputs, inside, 1, row.activation) if inside != inputs else nn.Identity()
        )
        depthwise = nn.Conv1d(
            inside, inside, row.kernel, row.stride, padding, groups=inside, bias=False
        )
        self.depthwise = nn.Sequential(depthwise, nn.BatchNorm1d(inside), row.activation())
        self.gate = Gate(inside) if row.squeeze_excite else nn.Identity()
        self.project = conv_norm(inside, row.channels, 1, nn.Identity)
        self.residual = row.stride == 1 and inputs == row.channels

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.project(self.gate(self.depthwise(self.expand(x))))
        return x + out if self.residual else out


class MobileNetV3Original(nn.Module):
    """(features (B, T, 6516), frames (B,)) -> (log-probabilities (T, B, V), steps = frames).

    The fault: kaiming fan_out counts a depthwise convolution's outputs without its groups, so its
    weights are sqrt(channels) too small (pytorch #23854). BatchNorm hides it in train mode. Without
    BatchNorm, or in eval mode at the start, the signal shrinks to 1e-4 on its way through the
    blocks, and the bias of `temporal_upsample`, which keeps torch's default start, drowns it: all
    clips look alike from there on.
    """

    def __init__(self, vocab_size: int, hidden_dim: int, dropout: float) -> None:
        super().__init__()
        for part, channels in ENCODED.items():
            self.add_module(
                f"{part}_encoder",
                _encoder(width(part), (width(part) + channels) // 2, channels, dropout),
            )
        self.stem = conv_norm(sum(ENCODED.values()), 16, 3, nn.Hardswish, stride=2)
        inputs = [16, *(row.channels for row in ROWS)]
        self.blocks = nn.Sequential(
            *(InvertedResidual(channels, row) for channels, row in zip(inputs, ROWS, strict=False))
        )
        upsample = nn.ConvTranspose1d(inputs[-1], hidden_dim, 4, 4)
        self.temporal_upsample = nn.Sequential(upsample, nn.BatchNorm1d(hidden_dim), nn.ReLU())
        project = nn.Conv1d(hidden_dim, hidden_dim, 3, padding=1)
        self.temporal_proj = nn.Sequential(
            project, nn.BatchNorm1d(hidden_dim), nn.ReLU(), nn.Dropout(dropout)
        )
        self.lstm = nn.LSTM(hidden_dim, hidden_dim, batch_first=True, bidirectional=True)
        self.output_proj = nn.Linear(2 * hidden_dim, vocab_size)
        _initialise_mobilenet(self)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        encoded = [
            getattr(self, f"{part}_encoder")(columns) for part, columns in parts(features).items()
        ]
        x = self.blocks(self.stem(torch.cat(encoded, -1).transpose(1, 2)))
        x = self.temporal_proj(self.temporal_upsample(x))[..., : features.shape[1]]
        x = packed(self.lstm, x.transpose(1, 2), frames)
        return self.output_proj(x).log_softmax(-1).transpose(0, 1), frames


class Inception(nn.Module):
    """An inception block over (batch, channels, steps), kernel 7 in place of 5, whose GroupNorm
    statistics run over time and padding.
    """

    def __init__(self, inputs: int, channels: Sequence[int]) -> None:
        super().__init__()
        point, reduce3, conv3, reduce7, conv7, pool = channels
        self.point = conv_group(inputs, point, 1)
        self.branch3 = nn.Sequential(conv_group(inputs, reduce3, 1), conv_group(reduce3, conv3, 3))
        self.branch7 = nn.Sequential(conv_group(inputs, reduce7, 1), conv_group(reduce7, conv7, 7))
        self.pool = nn.Sequential(nn.MaxPool1d(3, 1, 1), conv_group(inputs, pool, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.point(x), self.branch3(x), self.branch7(x), self.pool(x)], 1)


class Fusion(nn.Module):
    """BatchNorm over the raw columns, an encoder a part, gates, self-attention over time: (batch,
    frames, 6516) -> (batch, frames, channels).

    Its dropout is hard-coded. Attention and BatchNorm see padding.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        shares = {"hands": 0.4, "face": 0.3, "pose": 0.2, "temporal": 0.1}
        given = {part: int(channels * share) for part, share in shares.items()}
        given["hands"] += channels - sum(given.values())
        self.order = list(given)
        for part, out in given.items():
            self.add_module(f"{part}_norm", nn.BatchNorm1d(width(part)))
            layers = (
                nn.Linear(width(part), 2 * out),
                nn.LayerNorm(2 * out),
                nn.ReLU(),
                nn.Dropout(0.1),
                nn.Linear(2 * out, out),
            )
            self.add_module(f"{part}_encoder", nn.Sequential(*layers))
        self.gates = nn.Parameter(torch.ones(len(given)))
        self.attention = nn.MultiheadAttention(channels, 8, dropout=0.1, batch_first=True)
        self.norm = nn.LayerNorm(channels)

    def forward(self, features: Tensor) -> Tensor:
        columns, encoded = parts(features), []
        for part, gate in zip(self.order, self.gates.sigmoid(), strict=True):
            normalised = getattr(self, f"{part}_norm")(columns[part].flatten(0, 1)).view_as(
                columns[part]
            )
            encoded.append(getattr(self, f"{part}_encoder")(normalised) * gate)
        x = torch.cat(encoded, -1)
        out: Tensor = self.norm(x + self.attention(x, x, x, need_weights=False)[0])
        return out


class ShrinkingPool(nn.Module):
    """Max-pooling of stride 2 beside a strided convolution of kernel 1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool = nn.MaxPool1d(3, 2, 1)
        self.residual = nn.Conv1d(channels, channels, 1, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.pool(x) + self.residual(x)
        return out


class I3DOriginal(nn.Module):
    """(features (B, T, 6516), frames (B,)) -> (log-probabilities (T, B, V), steps = frames).

    The faults: time shrinks 16 times (176 frames: 11 steps) and is interpolated back to T before
    the LSTM, so that every shape fits and the resolution is gone. The LSTM is 512 wide whatever
    hidden_dim says. `temporal_attention` has parameters and is never called.
    """

    def __init__(self, vocab_size: int, dropout: float, hidden_dim: int) -> None:
        super().__init__()
        self.fusion = Fusion(hidden_dim)
        self.stem = nn.Sequential(
            nn.Conv1d(hidden_dim, 64, 7, 2, 3),
            nn.GroupNorm(8, 64),
            nn.ReLU(),
            nn.MaxPool1d(3, 2, 1),
        )
        self.stem_residual = nn.Conv1d(hidden_dim, 64, 1, stride=4)
        layers: list[nn.Module] = []
        channels = 64
        for index, row in enumerate(INCEPTION):
            if index in (2, 7):
                layers.append(ShrinkingPool(channels))
            layers.append(Inception(channels, row))
            channels = row[0] + row[2] + row[4] + row[5]
        self.blocks = nn.Sequential(*layers)
        self.lstm = nn.LSTM(
            channels, 512, num_layers=3, batch_first=True, bidirectional=True, dropout=dropout
        )
        self.temporal_attention = nn.Sequential(nn.Linear(1024, 256), nn.Tanh(), nn.Linear(256, 1))
        self.dropout = nn.Dropout(dropout)
        self.output_proj = nn.Linear(1024, vocab_size)
        _initialise_i3d(self)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        x = self.fusion(features).transpose(1, 2)
        x = self.blocks(self.stem(x) + self.stem_residual(x))
        x = F.interpolate(x, size=features.shape[1], mode="linear")
        x = self.dropout(packed(self.lstm, x.transpose(1, 2), frames))
        return self.output_proj(x).log_softmax(-1).transpose(0, 1), frames


def conv_norm(
    inputs: int, outputs: int, kernel: int, activation: type[nn.Module], stride: int = 1
) -> nn.Sequential:
    """Convolution, batch normalisation, activation."""
    convolution = nn.Conv1d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm1d(outputs), activation())


def conv_group(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    """Convolution, group normalisation, ReLU."""
    groups = next(n for n in range(min(32, outputs // 2), 0, -1) if outputs % n == 0)
    return nn.Sequential(
        nn.Conv1d(inputs, outputs, kernel, padding=kernel // 2),
        nn.GroupNorm(groups, outputs),
        nn.ReLU(),
    )


def packed(lstm: nn.LSTM, x: Tensor, frames: Tensor) -> Tensor:
    """The only place where the originals look at lengths: (batch, steps, in) -> (batch, steps,
    out).
    """
    rows = nn.utils.rnn.pack_padded_sequence(
        x, frames.cpu(), batch_first=True, enforce_sorted=False
    )
    return nn.utils.rnn.pad_packed_sequence(
        lstm(rows)[0], batch_first=True, total_length=x.shape[1]
    )[0]


def _encoder(columns: int, hidden: int, channels: int, dropout: float) -> nn.Sequential:
    first, second = nn.Linear(columns, hidden), nn.Linear(hidden, channels)
    return nn.Sequential(
        first, nn.LayerNorm(hidden), nn.ReLU(), nn.Dropout(dropout), second, nn.LayerNorm(channels)
    )


def _initialise_mobilenet(network: nn.Module) -> None:
    """As the team did. ConvTranspose1d is not among it and keeps torch's default, bias included."""
    for module in network.modules():
        if isinstance(module, nn.Conv1d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
        elif isinstance(module, nn.LSTM):
            for name, parameter in module.named_parameters():
                (nn.init.orthogonal_ if "weight" in name else nn.init.zeros_)(parameter)
        if isinstance(module, nn.Conv1d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


def _initialise_i3d(network: nn.Module) -> None:
    """As the team did: strided residuals near zero, forget gates open."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv1d):
            if "residual" in name:
                nn.init.normal_(module.weight, std=0.001)
            else:
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
        elif isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight, gain=0.5 if "attention" in name else 1.0)
        elif isinstance(module, nn.LSTM):
            for part, parameter in module.named_parameters():
                if "weight" in part:
                    (nn.init.xavier_uniform_ if "ih" in part else nn.init.orthogonal_)(parameter)
                else:
                    nn.init.zeros_(parameter)
                    nn.init.ones_(parameter.data[len(parameter) // 4 : len(parameter) // 2])
        if isinstance(module, nn.Conv1d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


def create_mobilenetv3_original(
    vocab_size: int, hidden_dim: int = 128, dropout: float = 0.0, batch_norm: bool = True
) -> MobileNetV3Original:
    """The student: 14,404,568 parameters at hidden_dim 128 and 973 tokens.

    batch_norm=False is the team's fourth fix: every BatchNorm replaced by Identity.
    """
    network = MobileNetV3Original(vocab_size, hidden_dim, dropout)
    if not batch_norm:
        for module in list(network.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.BatchNorm1d):
                    setattr(module, name, nn.Identity())
    return network


def create_i3d_original(
    vocab_size: int, dropout: float = 0.0, hidden_dim: int = 512
) -> I3DOriginal:
    """The teacher: 26,985,596 parameters at hidden_dim 512 and 973 tokens, 25.4 M at 256."""
    return I3DOriginal(vocab_size, dropout, hidden_dim)
