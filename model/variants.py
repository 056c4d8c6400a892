"""What a MobileNetV3 for CTC may vary in, and the refinements that teams try, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from model.initialisation import InitialisationName
from model.layers import NormName


class Row(NamedTuple):
    """One inverted residual block: channels after its expansion and at its end, kernel and stride over time."""

    expansion: int
    channels: int
    kernel: int
    stride: int
    squeeze_excite: bool
    activation: str


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
    """Settings of the temporal part.

    rows: the blocks. stem_channels, stem_stride: the convolution before them. upsample: steps out of one step after them. width: factor on
    the channels of stem and blocks. attention: self-attention over the blocks' output. skip: the encoders' output added to that of
    `temporal_upsample`, frame by frame.
    """

    rows: tuple[Row, ...] = ROWS
    stem_channels: int = 16
    stem_stride: int = 2
    upsample: int = 4
    width: float = 2.0
    normalisation: NormName = "batch"
    initialisation: InitialisationName = "kaiming"
    attention: bool = False
    skip: bool = False


VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "without_blocks": {"rows": (), "upsample": 2},
    "without_downsampling": {"rows": tuple(row._replace(stride=1) for row in ROWS), "stem_stride": 1, "upsample": 1},
    "xavier": {"initialisation": "xavier"},
    "layer_norm": {"normalisation": "layer"},
    "no_norm": {"normalisation": "none"},
    "attention": {"attention": True},
    "skip": {"skip": True},
    "wider": {"width": 4.0},
}
