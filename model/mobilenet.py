"""MobileNetV3 over time for CTC on body landmarks: an encoder a body part, inverted residual
blocks, a BiLSTM.

    features (B, T, F) -> encoders (T) -> stem (T / 2) -> blocks (T / 4) -> temporal_upsample (T) ->
    temporal_proj -> lstm -> output_proj

Blocks: Howard et al. 2019, "Searching for MobileNetV3", table 2, over one axis. Values keep their
channels last in memory, (batch, steps, channels), so that most of the work is plain matrix
products.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fixtures.features import PARTS, POSITIONS
from model.extent import Extent, Steps
from model.initialisation import InitialisationName, initialise, initialise_head
from model.layers import (
    BiLSTM,
    Downsample,
    Layer,
    NormName,
    Pointwise,
    SelfAttention,
    SqueezeExcite,
    Stages,
    Upsample,
)
from model.variants import VARIANTS

ENCODED: Mapping[str, int] = {
    "pose": 64,
    "face": 128,
    "left_hand": 64,
    "right_hand": 128,
}  # channels out of each encoder at hidden_dim 128
REFERENCE_WIDTH, GROWTH = (
    128,
    0.75,
)  # beyond a hidden_dim of 128, encoders, stem and blocks grow with its power of 0.75
STEM_CHANNELS, STEM_STRIDE, UPSAMPLE = 16, 2, 4
WIDTH = 2.0  # factor on the published channels
ACTIVATIONS: Mapping[str, type[nn.Module]] = {"relu": nn.ReLU, "hardswish": nn.Hardswish}


class Row(NamedTuple):
    """One inverted residual block: channels inside and out, kernel and stride over time,
    squeeze-excite, activation.
    """

    expansion: int
    channels: int
    kernel: int
    stride: int
    squeeze_excite: bool
    activation: str

    def scaled(self, factor: float) -> Row:
        """The row with `factor` times its channels, in multiples of eight."""
        return self._replace(
            expansion=by_eight(self.expansion * factor), channels=by_eight(self.channels * factor)
        )


ROWS = (
    Row(16, 16, 3, 1, True, "relu"),
    Row(72, 24, 3, 2, False, "relu"),
    Row(88, 24, 3, 1, False, "relu"),
    Row(96, 40, 5, 1, True, "hardswish"),
    Row(240, 40, 5, 1, True, "hardswish"),
    Row(120, 48, 5, 1, True, "hardswish"),
)


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What may vary between networks of this kind; the variants by name are in model/variants.py.

    blocks: whether there are any. downsample: whether stem and blocks have their strides, and
    `temporal_upsample` undoes them. width: factor on the channels of stem and blocks. attention:
    self-attention over the blocks' output. skip: the encoders' output added, frame by frame, to
    that of `temporal_upsample`.
    """

    blocks: bool = True
    downsample: bool = True
    width: float = 1.0
    normalisation: NormName = "batch"
    initialisation: InitialisationName = "kaiming"
    attention: bool = False
    skip: bool = False

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows that are built, with stride 1 where nothing is to divide time."""
        rows = ROWS if self.blocks else ()
        return rows if self.downsample else tuple(row._replace(stride=1) for row in rows)

    @property
    def stem_stride(self) -> int:
        """Frames that the stem makes one step of."""
        return STEM_STRIDE if self.downsample else 1

    @property
    def upsample(self) -> int:
        """Steps made of one after the blocks: what the strides were meant to divide time by."""
        if not self.downsample:
            return 1
        return UPSAMPLE if self.blocks else STEM_STRIDE


def by_eight(channels: float) -> int:
    """The nearest multiple of eight that is not zero, as MobileNets round their channels."""
    return max(8, round(channels / 8) * 8)


class BodyEncoder(nn.Module):
    """One body part's columns to channels, each frame by itself: (real frames, columns) -> (batch,
    frames, channels).
    """

    def __init__(self, columns: int, channels: int, dropout: float) -> None:
        super().__init__()
        hidden = 2 * channels
        self.layers = nn.Sequential(
            nn.Linear(columns, hidden),
            nn.LayerNorm(hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, channels),
            nn.LayerNorm(channels),
        )

    def forward(self, rows: Tensor, extent: Extent) -> Tensor:
        return extent.unpack(self.layers(rows))


class InvertedResidual(Layer):
    """Expand, convolve each channel over time, weigh the channels, project; added to its input
    where shapes allow.
    """

    def __init__(self, inputs: int, row: Row, normalisation: NormName) -> None:
        super().__init__()
        activation = ACTIVATIONS[row.activation]
        inside = row.expansion
        self.expand = Pointwise(inputs, inside, activation=activation, normalisation=normalisation)
        self.depthwise = Downsample(
            inside,
            inside,
            row.kernel,
            stride=row.stride,
            groups=inside,
            activation=activation,
            normalisation=normalisation,
        )
        self.squeeze_excite = SqueezeExcite(inside) if row.squeeze_excite else None
        self.project = Pointwise(
            inside, row.channels, activation=nn.Identity, normalisation=normalisation
        )
        self.residual = row.stride == 1 and inputs == row.channels

    def steps(self, n: Steps) -> Steps:
        """Steps that its depthwise convolution makes of `n`."""
        return self.depthwise.steps(n)

    def forward(self, x: Tensor, extent: Extent) -> Tensor:
        after = extent.after(self)
        out = self.depthwise(self.expand(x, extent), extent)
        if self.squeeze_excite is not None:
            out = self.squeeze_excite(out, after)
        projected: Tensor = self.project(out, after)
        return x + projected if self.residual else projected


class MobileNetV3CTC(nn.Module):
    """(features (B, T, F) float, frames (B,) int64) -> (log-probabilities (T', B, V), steps (B,)
    int64); T' = T with 4x down and 4x up.

    feature_dim: a multiple of 1629, blocks of the landmarks' columns of which each encoder reads
    its part (1629: positions; 6516: positions, velocity, acceleration, positions), or any other
    width, which one `body_encoder` reads whole. Padding frames are never read.
    """

    def __init__(
        self,
        vocab_size: int,
        *,
        feature_dim: int,
        hidden_dim: int,
        dropout: float,
        blank: int = 0,
        architecture: Architecture | None = None,
    ) -> None:
        super().__init__()
        options = architecture or Architecture()
        scale = max(1.0, (hidden_dim / REFERENCE_WIDTH) ** GROWTH)
        encoded = self._add_encoders(feature_dim, scale, dropout)
        channels = self._add_temporal_part(encoded, scale * WIDTH * options.width, options)
        self.temporal_upsample = Upsample(
            channels, hidden_dim, options.upsample, normalisation=options.normalisation
        )
        self.skip = nn.Linear(encoded, hidden_dim) if options.skip else None
        self.temporal_proj = Pointwise(hidden_dim, hidden_dim, normalisation=options.normalisation)
        self.lstm = BiLSTM(hidden_dim, hidden_dim // 2)
        self.dropout = nn.Dropout(dropout)
        self.output_proj = nn.Linear(hidden_dim // 2 * 2, vocab_size)
        initialise(self.modules(), options.initialisation)
        initialise(self._after_no_activation(), options.initialisation, rectified=False)
        initialise_head(self.output_proj, blank=blank)

    def _add_encoders(self, feature_dim: int, scale: float, dropout: float) -> int:
        """One encoder a body part. Returns how many channels they give together."""
        whole = feature_dim % POSITIONS != 0
        self.block = feature_dim if whole else POSITIONS
        self.parts: Mapping[str, slice] = {"body": slice(0, feature_dim)} if whole else PARTS
        channels = {"body": sum(ENCODED.values())} if whole else ENCODED
        for part, columns in self.parts.items():
            read = (columns.stop - columns.start) * (feature_dim // self.block)
            self.add_module(
                f"{part}_encoder", BodyEncoder(read, by_eight(channels[part] * scale), dropout)
            )
        return sum(by_eight(channels[part] * scale) for part in self.parts)

    def _add_temporal_part(self, encoded: int, width: float, options: Architecture) -> int:
        """Stem, blocks and attention. Returns the channels they end in."""
        channels = by_eight(STEM_CHANNELS * width)
        self.stem = Downsample(
            encoded,
            channels,
            3,
            stride=options.stem_stride,
            activation=nn.Hardswish,
            normalisation=options.normalisation,
        )
        self.blocks = Stages()
        for row in options.rows:
            scaled = row.scaled(width)
            self.blocks.append(InvertedResidual(channels, scaled, options.normalisation))
            channels = scaled.channels
        self.attention = Stages([SelfAttention(channels)] if options.attention else [])
        return channels

    def _after_no_activation(self) -> list[nn.Module]:
        """Layers that read what no activation has rectified: the encoders' output and that of the
        blocks.
        """
        expanding = [
            module.expand.linear
            for module in self.blocks.modules()
            if isinstance(module, InvertedResidual)
        ]
        return [self.stem.conv, *expanding, self.temporal_upsample.conv]

    def encode(self, features: Tensor, extent: Extent) -> Tensor:
        """Each frame's body parts side by side: (batch, frames, channels)."""
        blocks = extent.pack(features).unflatten(1, (-1, self.block))
        encoders = [
            (getattr(self, f"{part}_encoder"), columns) for part, columns in self.parts.items()
        ]
        return torch.cat(
            [encoder(blocks[..., columns].flatten(1), extent) for encoder, columns in encoders], -1
        )

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        clips = Extent.of(frames, features)
        encoded = self.encode(features, clips)
        x, extent = encoded, clips
        for layer in (self.stem, self.blocks, self.attention, self.temporal_upsample):
            x, extent = layer(x, extent), extent.after(layer)
        extent = extent.within(clips)
        x = x[:, : extent.length]
        if self.skip is not None:
            x = x + self.skip(encoded[:, : extent.length])
        x = self.dropout(self.lstm(self.temporal_proj(x, extent), extent))
        logits: Tensor = self.output_proj(x.transpose(0, 1))
        return logits.log_softmax(-1), extent.steps.to(frames.device)


def create_mobilenetv3(
    vocab_size: int,
    *,
    feature_dim: int = POSITIONS,
    hidden_dim: int = 128,
    dropout: float = 0.0,
    variant: str | None = None,
    blank: int = 0,
) -> MobileNetV3CTC:
    """A soundly initialised network: 1.2 M parameters at hidden_dim 128, 7.7 M at 512 (1629
    features, 973 tokens).

    hidden_dim: width of `lstm` and of what surrounds it; above 128 the encoders, stem and blocks
    grow with it. variant: a name of `VARIANTS`; ValueError for another.
    """
    if variant is not None and variant not in VARIANTS:
        raise ValueError(f"mobilenetv3 has no variant {variant!r}; it has {', '.join(VARIANTS)}")
    architecture = replace(Architecture(), **VARIANTS[variant]) if variant else Architecture()
    return MobileNetV3CTC(
        vocab_size,
        feature_dim=feature_dim,
        hidden_dim=hidden_dim,
        dropout=dropout,
        blank=blank,
        architecture=architecture,
    )
