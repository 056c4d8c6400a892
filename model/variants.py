"""The refinements that teams try on MobileNetV3, by name: what they change in its
`Architecture`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "without_blocks": {"blocks": False},
    "without_downsampling": {"downsample": False},
    "xavier": {"initialisation": "xavier"},
    "layer_norm": {"normalisation": "layer"},
    "no_norm": {"normalisation": "none"},
    "attention": {"attention": True},
    "skip": {"skip": True},
    "wider": {"width": 2.0},
}
