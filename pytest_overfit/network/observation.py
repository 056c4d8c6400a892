"""`Observation`: what was read of one call of one module; the main path for the machine, and the
blocks a reader knows for people.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

FEATURES = -1
"""Stands among indices of calls for the network's input."""


@dataclass(frozen=True, kw_only=True)
class Observation:
    """One call of one module, forward and backward. None stands where a number has no meaning for
    the module or cannot be read.

    module:       dotted name; "block.relu()" for an activation that is a function in the code of
                  `block`. call: 0 for its first call.
    kind:         class name. where: `file:line` that creates it.
    leaf:         it has no submodule. container: a Sequential, ModuleList or ModuleDict.
                  parameters: numbers in it that can be trained.
    on_main_path: every way from the features to the output passes here. fed_by: indices of the
    observations it hangs on, FEATURES for
                  the input. through: functions of the parent's code between those and its first
                  input, nearest first.
    same_as:      index of the earlier observation whose output it hands on: a container, dropout
                  that is off.
    steps_out:    its length in time, for the longest clip.
    between_sample_share, between_sample_share_in: D = E||h_i - mean_i h||^2 / E||h||^2 over clips i
    at each step, of the output and of the
                  first input: share of the energy that tells clips apart. None with one clip.
    between_step_share, between_step_share_in: the same over the steps of each clip: share of the
    energy that tells steps apart. rms, rms_in:  root mean square of output and input. dead_share:
    units at zero for every clip and step, after an activation that can
                  shut them.
    rank:         effective rank of the centred output, see `effective_rank`.
    gradient_norm: L2, of the loss with respect to the output; None where no gradient arrives.
    parameter_gradient_norm: the same for its
                  parameters, those of its submodules included.
    bias_to_signal: energy of its bias over the energy of its linear response. weight_gain: rms of
    its weights times sqrt(fan_in): 0.58 is
                  torch's default, 1.41 He's. groups: of a convolution.
    """

    module: str
    call: int
    kind: str
    where: str | None
    leaf: bool
    container: bool
    on_main_path: bool
    fed_by: tuple[int, ...]
    through: tuple[str, ...]
    same_as: int | None
    steps_out: int | None
    between_sample_share_in: float | None
    between_sample_share: float | None
    between_step_share_in: float | None
    between_step_share: float | None
    rms_in: float | None
    rms: float
    rank: float | None
    parameters: int = 0
    dead_share: float | None = None
    gradient_norm: float | None = None
    parameter_gradient_norm: float | None = None
    bias_to_signal: float | None = None
    weight_gain: float | None = None
    groups: int | None = None


Observations = Sequence[Observation]


def main_path(observations: Observations) -> list[Observation]:
    """What every way from the features to the output passes, in forward order; of modules with the
    same output the innermost.

    A last layer whose weights start at zero is left out while its gradient shows that they will not
    stay there.
    """
    path = [o for o in observations if o.on_main_path and o.same_as is None]
    return (
        path[:-1]
        if path and path[-1].weight_gain == 0 and path[-1].parameter_gradient_norm
        else path
    )


def feeding(observations: Observations) -> set[int]:
    """Indices of what feeds the output, over any number of stations."""
    reached: set[int] = set()
    queue = [index for index, o in enumerate(observations) if o.on_main_path]
    while queue:
        index = queue.pop()
        if index != FEATURES and index not in reached:
            reached.add(index)
            queue += observations[index].fed_by
    return reached | {index for index, o in enumerate(observations) if o.same_as in reached}


def rows_for_people(observations: Observations) -> list[Observation]:
    """The blocks a reader knows, in forward order: the network's direct parts, gates and functions
    left out.

    A container of blocks, and a part that holds more than half of all layers, gives way to its own
    parts.
    """
    feeds = feeding(observations)
    opened = _opened(observations)
    return [
        o
        for index, o in enumerate(observations)
        if index in feeds
        and o.call == 0
        and o.steps_out != 1
        and not o.module.endswith("()")
        and not (o.leaf and o.same_as is not None)
        and o.module not in opened
        and opened.issuperset(_parents(o.module))
    ]


def _opened(observations: Observations) -> set[str]:
    """Names that stand for their parts: those of `rows_for_people`, and containers that are never
    called themselves.
    """
    layers = {o.module for o in observations if o.leaf and not o.module.endswith("()")}
    blocks = {o.module.rpartition(".")[0] for o in observations if not o.leaf}
    opened = {parent for o in observations for parent in _parents(o.module)} - {
        o.module for o in observations
    }
    for o in observations:
        most = 2 * sum(name.startswith(o.module + ".") for name in layers) > len(layers)
        if most or (o.container and o.module in blocks):
            opened.add(o.module)
    return opened


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:depth]) for depth in range(1, len(parts))]
