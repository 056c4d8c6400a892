"""One recorder of what the modules of a network do, forward and backward, the probes that read it,
and edits of networks and subjects.

observations = observe(subject, network, samples, mode="eval")
drop = first_drop(observations)
"""

from pytest_overfit.network.locate import (
    Constant,
    Drop,
    constant_signal,
    dead_units,
    exploding_signal,
    first_drop,
    rank_bottleneck,
    vanishing_gradient,
)
from pytest_overfit.network.observation import FEATURES, Observation, main_path, rows_for_people
from pytest_overfit.network.observe import observe

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
