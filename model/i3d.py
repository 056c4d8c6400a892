"""The I3D teacher for CTC on landmarks: inception blocks over time, with GoogLeNet's channels, and
a BiLSTM of three layers.

    features (B, T, F) -> fusion (T) -> stem (T/2) -> pool (T/4) -> blocks (T/4) -> lstm ->
    output_proj (T/4)

Batch norms, as in I3D: with a layer norm after each ReLU the level common to all clips grows from
block to block, and what tells clips apart falls to 4 % of the energy at the last block, from 62 %
with batch norms (8 clips, at the start).

Sources: Szegedy et al. 2015, "Going deeper with convolutions", table 1; Carreira and Zisserman
2017, "Quo vadis, action recognition?".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fixtures.features import PARTS, POSITIONS
from model.extent import Extent, Steps
from model.initialisation import initialise, initialise_head
from model.layers import BiLSTM, Downsample, Layer, Pointwise, Stages

FUSED: Mapping[str, int] = {
    "pose": 256,
    "face": 512,
    "left_hand": 256,
    "right_hand": 256,
}  # channels of each part at full width
FULL = 512  # hidden_dim of the full width, at which the channels are GoogLeNet's
STEM = 64


class Channels(NamedTuple):
    """Channels of one inception block's branches."""

    point: int
    reduce3: int
    conv3: int
    reduce5: int
    conv5: int
    pool: int

    @property
    def total(self) -> int:
        """Channels of all branches side by side."""
        return self.point + self.conv3 + self.conv5 + self.pool

    def scaled(self, factor: float) -> Channels:
        """Every branch with `factor` times its channels."""
        return Channels(*(_scaled(channels, factor) for channels in self))


GOOGLENET = (
    Channels(64, 96, 128, 16, 32, 32),
    Channels(128, 128, 192, 32, 96, 64),
    Channels(192, 96, 208, 16, 48, 64),
    Channels(160, 112, 224, 24, 64, 64),
    Channels(128, 128, 256, 24, 64, 64),
    Channels(112, 144, 288, 32, 64, 64),
    Channels(256, 160, 320, 32, 128, 128),
    Channels(256, 160, 320, 32, 128, 128),
    Channels(384, 192, 384, 48, 128, 128),
)


class Fusion(nn.Module):
    """A linear layer and layer norm a body part, then a linear layer over all of them: (batch,
    frames, features) -> (batch, frames, channels).

    Features are blocks of 1629 columns; a part reads its columns of every block. Source of the
    order: fixtures/features.py.
    """

    def __init__(self, blocks: int, channels: int, factor: float, dropout: float) -> None:
        super().__init__()
        for part, columns in PARTS.items():
            width = _scaled(FUSED[part], factor)
            layers = nn.Sequential(
                nn.Linear((columns.stop - columns.start) * blocks, width),
                nn.LayerNorm(width),
                nn.ReLU(),
                nn.Dropout(dropout),
            )
            self.add_module(f"{part}_encoder", layers)
        self.joint = Pointwise(sum(_scaled(width, factor) for width in FUSED.values()), channels)

    def forward(self, features: Tensor, extent: Extent) -> Tensor:
        rows = extent.pack(features).unflatten(1, (-1, POSITIONS))
        parts = [
            getattr(self, f"{part}_encoder")(rows[..., columns].flatten(1))
            for part, columns in PARTS.items()
        ]
        out: Tensor = self.joint(extent.unpack(torch.cat(parts, -1)), extent)
        return out


class MaxPool(Layer):
    """Largest of three neighbouring steps, padding never among them."""

    def __init__(self, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride

    def steps(self, n: Steps) -> Steps:
        """Steps that it makes of `n`."""
        return (n - 1) // self.stride + 1

    def forward(self, x: Tensor, extent: Extent) -> Tensor:
        if extent.padded:
            x = x.masked_fill(~extent.mask[..., None], -math.inf)
        image = x.transpose(1, 2).unsqueeze(2)
        out = F.max_pool2d(image, (1, 3), (1, self.stride), (0, 1)).squeeze(2).transpose(1, 2)
        after = extent.after(self)
        return out.masked_fill(~after.mask[..., None], 0.0) if after.padded else out


class Inception(Layer):
    """Four branches beside one another: kernel 1, kernel 3, kernel 5, and the largest of three;
    (batch, steps, in) -> (batch, steps, total).

    The three convolutions of kernel 1 that read the input are one: a third of the calls.
    """

    def __init__(self, inputs: int, channels: Channels) -> None:
        super().__init__()
        self.split = [channels.point, channels.reduce3, channels.reduce5]
        self.points = Pointwise(inputs, sum(self.split))
        self.conv3 = Downsample(channels.reduce3, channels.conv3, 3)
        self.conv5 = Downsample(channels.reduce5, channels.conv5, 5)
        self.pool = MaxPool()
        self.pool_point = Pointwise(inputs, channels.pool)

    def forward(self, x: Tensor, extent: Extent) -> Tensor:
        point, reduced3, reduced5 = self.points(x, extent).split(self.split, -1)
        pooled = self.pool_point(self.pool(x, extent), extent)
        return torch.cat(
            [point, self.conv3(reduced3, extent), self.conv5(reduced5, extent), pooled], -1
        )


class I3DTeacher(nn.Module):
    """(features (B, T, F), frames (B,) int64) -> (log-probabilities (T', B, V), steps (B,) int64),
    T' = ceil(T / 4).
    """

    def __init__(
        self, vocab_size: int, *, feature_dim: int, hidden_dim: int, dropout: float, blank: int = 0
    ) -> None:
        super().__init__()
        if feature_dim % POSITIONS:
            raise ValueError(
                f"feature_dim must be a multiple of {POSITIONS} (543 landmarks, x y z), got "
                f"{feature_dim}"
            )
        factor = math.sqrt(hidden_dim / FULL)
        width, channels = _scaled(FULL, factor), _scaled(STEM, factor)
        self.fusion = Fusion(feature_dim // POSITIONS, width, factor, dropout)
        self.stem = Stages([Downsample(width, channels, 7, stride=2), MaxPool(stride=2)])
        self.blocks = Stages()
        for full in GOOGLENET:
            scaled = full.scaled(factor)
            self.blocks.append(Inception(channels, scaled))
            channels = scaled.total
        self.lstm = BiLSTM(channels, width, layers=3, dropout=dropout)
        self.dropout = nn.Dropout(dropout)
        self.output_proj = nn.Linear(2 * width, vocab_size)
        initialise(self.modules())
        initialise_head(self.output_proj, blank=blank)

    def steps(self, n: Steps) -> Steps:
        """Steps of the output for `n` frames."""
        return self.blocks.steps(self.stem.steps(n))

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        extent = Extent.of(frames, features)
        x = self.stem(self.fusion(features, extent), extent)
        extent = extent.after(self)
        x = self.lstm(self.blocks(x, extent), extent)
        logits = self.output_proj(self.dropout(x).transpose(0, 1))
        return logits.log_softmax(-1), extent.steps.to(frames.device)


def create_i3d_teacher(
    vocab_size: int, dropout: float = 0.0, hidden_dim: int = 512, feature_dim: int = 4 * POSITIONS
) -> I3DTeacher:
    """The teacher: 27 M parameters at hidden_dim 512, 15 M at 256 (973 tokens, 6516 features).

    Every width, the LSTM's too, grows with the square root of hidden_dim, so that parameters grow
    in proportion to it. At 512 the channels are GoogLeNet's and the LSTM is 512 wide. dropout:
    between LSTM layers, before the head, and in the fusion.
    """
    return I3DTeacher(vocab_size, feature_dim=feature_dim, hidden_dim=hidden_dim, dropout=dropout)


def _scaled(channels: int, factor: float) -> int:
    return max(4, round(channels * factor))
