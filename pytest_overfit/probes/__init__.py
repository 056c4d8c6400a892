"""Probes: what each module of a network does to the signal, forward and backward, and where a signal is lost.

observations = observe(subject, network, samples, mode="eval")
drop = first_drop(observations)
"""

from pytest_overfit.probes.graph import FEATURES
from pytest_overfit.probes.locate import (
    Constant,
    Cut,
    Drop,
    constant_signal,
    dead_units,
    detached,
    exploding_signal,
    faint_output,
    first_drop,
    needed_steps,
    rank_bottleneck,
    time_bottleneck,
    unreached,
    vanishing_gradient,
)
from pytest_overfit.probes.observation import Observation
from pytest_overfit.probes.observe import observe
from pytest_overfit.probes.rows import feeding, main_path, row_of, rows_for_people

__all__ = [
    "FEATURES",
    "Constant",
    "Cut",
    "Drop",
    "Observation",
    "constant_signal",
    "dead_units",
    "detached",
    "exploding_signal",
    "faint_output",
    "feeding",
    "first_drop",
    "main_path",
    "needed_steps",
    "observe",
    "rank_bottleneck",
    "row_of",
    "rows_for_people",
    "time_bottleneck",
    "unreached",
    "vanishing_gradient",
]
