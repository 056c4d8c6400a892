"""Diagnoses: functions from `Evidence` to a finding or None, each named after the bad thing. They see the subject alone.

What one finds stays *suspected* until a remedy's trial holds.
"""

from __future__ import annotations

from collections.abc import Callable

from pytest_overfit.diagnoses.evidence import Evidence, gather
from pytest_overfit.diagnoses.signal import (
    constant_in_time,
    constant_signal,
    dead_units,
    exploding_signal,
    rank_bottleneck,
    signal_drowned,
    vanishing_gradient,
)
from pytest_overfit.diagnoses.training import noisy_training, recipe_diverges, recipe_stalls, regulariser_dominates
from pytest_overfit.finding import Finding

__all__ = ["DIAGNOSES", "Evidence", "gather"]

DIAGNOSES: tuple[Callable[[Evidence], Finding | None], ...] = (
    exploding_signal,
    dead_units,
    signal_drowned,
    constant_signal,
    vanishing_gradient,
    constant_in_time,
    rank_bottleneck,
    noisy_training,
    regulariser_dominates,
    recipe_diverges,
    recipe_stalls,
)
