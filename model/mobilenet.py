"""MobileNetV3 over time for CTC on landmarks: an encoder a body part, inverted residual blocks, a BiLSTM.

    features (B, T, F) -> encoders (T) -> stem (T/2) -> blocks (T/4) -> temporal_upsample (T) -> temporal_proj -> lstm -> output_proj
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from model.extent import Extent, Steps
from model.initialisation import initialise, initialise_head
from model.layers import BiLSTM, Downsample, Layer, NormName, Pointwise, SelfAttention, SqueezeExcite, Stages, Upsample
from model.variants import VARIANTS, Architecture, Row

POSITIONS = 543 * 3  # MediaPipe's landmarks, x y z: one block of columns; 6516 columns are positions, velocity, acceleration, positions
PARTS: Mapping[str, slice] = {"pose": slice(0, 99), "face": slice(99, 1503), "left_hand": slice(1503, 1566), "right_hand": slice(1566, POSITIONS)}
ENCODED: Mapping[str, int] = {"pose": 64, "face": 128, "left_hand": 64, "right_hand": 128}  # channels out of each encoder
ACTIVATIONS = {"relu": nn.ReLU, "hardswish": nn.Hardswish}


class BodyEncoder(nn.Module):
    """One body part's columns to channels, each frame by itself: (real frames, columns) -> (batch, frames, channels)."""

    def __init__(self, columns: int, hidden: int, channels: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(columns, hidden), nn.LayerNorm(hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, channels), nn.LayerNorm(channels)
        )

    def forward(self, rows: Tensor, extent: Extent) -> Tensor:
        return extent.unpack(self.layers(rows))


class InvertedResidual(Layer):
    """Expand, convolve each channel over time, weigh channels, project; added to the input where the shapes allow.

    Source: Howard et al. 2019, "Searching for MobileNetV3".
    """

    def __init__(self, inputs: int, row: Row, normalisation: NormName) -> None:
        super().__init__()
        activation = ACTIVATIONS[row.activation]
        self.expand = Pointwise(inputs, row.expansion, activation=activation, normalisation=normalisation)
        self.depthwise = Downsample(
            row.expansion, row.expansion, row.kernel, stride=row.stride, groups=row.expansion, activation=activation, normalisation=normalisation
        )
        self.squeeze_excite = SqueezeExcite(row.expansion) if row.squeeze_excite else None
        self.project = Pointwise(row.expansion, row.channels, activation=nn.Identity, normalisation=normalisation)
        self.residual = row.stride == 1 and inputs == row.channels

    def steps(self, n: Steps) -> Steps:
        return self.depthwise.steps(n)

    def forward(self, x: Tensor, extent: Extent) -> Tensor:
        after = extent.after(self)
        out = self.depthwise(self.expand(x, extent), extent)
        if self.squeeze_excite is not None:
            out = self.squeeze_excite(out, after)
        out = self.project(out, after)
        return x + out if self.residual else out


class MobileNetV3CTC(nn.Module):
    """(features (B, T, F), frames (B,) int64) -> (log-probabilities (T', B, V), steps (B,) int64); with 4x down and up, T' = T."""

    def __init__(
        self,
        vocab_size: int,
        *,
        feature_dim: int = POSITIONS,
        hidden_dim: int = 128,
        dropout: float = 0.0,
        blank: int = 0,
        architecture: Architecture | None = None,
    ) -> None:
        super().__init__()
        options = architecture or Architecture()
        self.parts = PARTS 
        for part, columns in PARTS.items():
            width = (columns.stop - columns.start) * (feature_dim // POSITIONS)
            hidden = int(HID*ENCODED[part])
            self.add_module(f"{part}_encoder", BodyEncoder(width, hidden, ENCODED[part], dropout))
        c = round(options.stem_channels * options.width)
        encoded=sum(ENCODED.values())
        self.stem = Downsample(encoded, c, 3, stride=options.stem_stride, activation=nn.Hardswish, normalisation=options.normalisation)
        blocks = []
        for row in options.rows:
            row = row._replace(expansion=round(row.expansion*options.width), channels=round(row.channels*options.width))
            blocks.append(InvertedResidual(c, row, options.normalisation)); c=row.channels
        self.blocks = Stages(blocks)
        self.attention = SelfAttention(c) if options.attention else None
        self.temporal_upsample = Upsample(c, hidden_dim, options.upsample, normalisation=options.normalisation)
        self.skip = nn.Linear(encoded, hidden_dim) if options.skip else None
        self.temporal_proj = Pointwise(hidden_dim, hidden_dim, normalisation=options.normalisation)
        self.lstm = BiLSTM(hidden_dim, hidden_dim//LW)
        self.dropout = nn.Dropout(dropout)
        self.output_proj = nn.Linear(2 * hidden_dim//LW, vocab_size)
        initialise(self.modules(), options.initialisation)
        initialise_head(self.output_proj, blank=blank,deviation=STD)

    def encode(self, features: Tensor, extent: Extent) -> Tensor:
        rows = extent.pack(features).unflatten(1, (-1, POSITIONS))
        parts = [getattr(self, f"{part}_encoder")(rows[..., columns].flatten(1), extent) for part, columns in PARTS.items()]
        return torch.cat(parts, -1)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        start = Extent.of(frames, features)
        encoded = self.encode(features, start)
        x = self.stem(encoded, start)
        extent = start.after(self.stem)
        x = self.blocks(x, extent)
        extent = extent.after(self.blocks)
        if self.attention is not None:
            x = self.attention(x, extent)
        x = self.temporal_upsample(x, extent)
        extent = extent.after(self.temporal_upsample).within(start)
        x = x[:, : extent.length]
        if self.skip is not None:
            x = x + self.skip(encoded)
        x = self.lstm(self.temporal_proj(x, extent), extent)
        self.out_rms=x.pow(2).mean().sqrt()
        logits = self.output_proj(self.dropout(x).transpose(0, 1))
        self.logit_std=logits[...,1:].std().item()
        return logits.log_softmax(-1), extent.steps.to(frames.device)
LW=2; STD=.6; HID=2
