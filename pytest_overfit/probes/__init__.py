"""Probes: what each module of a network does to the signal, forward and backward, and where a signal is lost.

observations = observe(subject, network, samples, mode="eval")
drop = first_drop(observations)
"""

from pytest_overfit.probes.locate import (
    Constant,
    Drop,
    constant_signal,
    dead_units,
    exploding_signal,
    first_drop,
    rank_bottleneck,
    vanishing_gradient,
)
from pytest_overfit.probes.observation import FEATURES, Observation, main_path, rows_for_people
from pytest_overfit.probes.observe import observe

__all__ = [
    "FEATURES",
    "Constant",
    "Drop",
    "Observation",
    "constant_signal",
    "dead_units",
    "exploding_signal",
    "first_drop",
    "main_path",
    "observe",
    "rank_bottleneck",
    "rows_for_people",
    "vanishing_gradient",
]
