"""The networks of this repository as subjects: what the ladder climbs by default, their variants,
and the historical specimens.

`healthy()` are those that `pytest -m overfit` climbs. The rest are asked for: `--overfit-subject
model.subjects:mobilenetv3_skip`, `--overfit-subject model.subjects:mobilenetv3_original`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from fixtures import PARTS, default_samples, default_vocabulary
from fixtures.features import MOTION, POSITIONS
from model.i3d import create_i3d_teacher
from model.mobilenet import create_mobilenetv3
from model.originals import create_i3d_original, create_mobilenetv3_original
from model.variants import VARIANTS
from pytest_overfit.subject import Subject

SIZES: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "mobilenetv3": {"small": {"hidden_dim": 128}, "full": {"hidden_dim": 512}},
    "i3d_teacher": {"small": {"hidden_dim": 64}, "full": {"hidden_dim": 512}},
}

SEARCHED: Mapping[str, tuple[Any, ...]] = {"hidden_dim": (32, 64, 128), "dropout": (0.0, 0.1, 0.2)}
"""Widths and dropouts that a search of recipes chooses between."""


def mobilenetv3(variant: str | None = None) -> Subject:
    """MobileNetV3 over time, or a variant of it by name; 8 M parameters at size full."""

    def build(
        vocab_size: int,
        feature_dim: int,
        seed: int,
        hidden_dim: int = 128,
        dropout: float = 0.0,
        variant: str | None = variant,
    ) -> Any:
        return create_mobilenetv3(
            vocab_size,
            feature_dim=feature_dim,
            hidden_dim=hidden_dim,
            dropout=dropout,
            variant=variant,
        )

    subject = _subject(
        f"mobilenetv3_{variant}" if variant else "mobilenetv3", build, SIZES["mobilenetv3"]
    )
    return (
        subject
        if variant
        else replace(subject, variants={**subject.variants, "variant": (None, *VARIANTS)})
    )


def i3d_teacher(width: int = POSITIONS) -> Subject:
    """Inception blocks over time; at size full 27 M parameters on features 6516 wide, 25 M on
    1629.
    """

    def build(
        vocab_size: int, feature_dim: int, seed: int, hidden_dim: int = 64, dropout: float = 0.0
    ) -> Any:
        return create_i3d_teacher(
            vocab_size, feature_dim=feature_dim, hidden_dim=hidden_dim, dropout=dropout
        )

    return replace(
        _subject("i3d_teacher", build, SIZES["i3d_teacher"]),
        samples=lambda n: default_samples(n, width=width),
    )


def mobilenetv3_original(batch_norm: bool = True) -> Subject:
    """The specimen: depthwise weights too small by sqrt(groups), which BatchNorm hides until it is
    taken away.
    """

    def build(
        vocab_size: int, feature_dim: int, seed: int, hidden_dim: int = 128, dropout: float = 0.0
    ) -> Any:
        return create_mobilenetv3_original(
            vocab_size, hidden_dim=hidden_dim, dropout=dropout, batch_norm=batch_norm
        )

    name = "mobilenetv3_original" if batch_norm else "mobilenetv3_original_no_norm"
    return replace(_subject(name, build, {}), samples=lambda n: default_samples(n, width=6516))


def mobilenetv3_original_no_norm() -> Subject:
    """The specimen after the team's fourth fix, which removed BatchNorm."""
    return mobilenetv3_original(batch_norm=False)


def i3d_original() -> Subject:
    """The specimen: 16x downsampling in time, interpolated back, so that shapes fit and the
    resolution does not.
    """

    def build(
        vocab_size: int, feature_dim: int, seed: int, hidden_dim: int = 512, dropout: float = 0.0
    ) -> Any:
        return create_i3d_original(vocab_size, dropout=dropout, hidden_dim=hidden_dim)

    return replace(
        _subject("i3d_original", build, {}), samples=lambda n: default_samples(n, width=6516)
    )


def healthy(size: str | None = None) -> list[Subject]:
    """What must climb before a merge.

    At size full the teacher reads velocity and acceleration too.
    """
    return [mobilenetv3(), i3d_teacher(MOTION if size == "full" else POSITIONS)]


def _subject(
    name: str, build: Callable[..., Any], sizes: Mapping[str, Mapping[str, Any]]
) -> Subject:
    return Subject(
        name=name,
        build=build,
        samples=default_samples,
        vocabulary=default_vocabulary(),
        sizes=sizes,
        variants=SEARCHED,
        parts=PARTS,
    )


def __getattr__(name: str) -> Subject:
    prefix, _, variant = name.partition("mobilenetv3_")
    if prefix or variant not in VARIANTS:
        raise AttributeError(f"module {__name__!r} has no subject {name!r}")
    return mobilenetv3(variant)
