"""`Observation`: what was read of one call of one module."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Observation:
    """One call of one module, forward and backward. None stands where a number has no meaning for the module or cannot be read.

    module:       dotted name; "block.relu()" for an activation that is a function in the code of `block`. call: 0 for its first call.
    kind:         class name. where: `file:line` that creates it.
    leaf:         it has no submodule. container: a Sequential, ModuleList or ModuleDict. parameters: numbers in it that can be trained.
    on_main_path: every way from the features to the output passes here. fed_by: indices of the observations it hangs on, FEATURES for
                  the input. through: functions of the parent's code between those and its first input, nearest first.
    same_as:      index of the earlier observation whose output it hands on: a container, dropout that is off.
    steps_out:    its length in time, for the longest clip.
    told_apart, told_apart_in: D = E||h_i - mean_i h||^2 / E||h||^2 over clips i at each step, of the output and of the first input:
                  share of the energy that tells clips apart. None with one clip.
    steps_apart, steps_apart_in: the same over the steps of each clip: share of the energy that tells steps apart.
    rms, rms_in:  root mean square of output and input. dead_share: units at zero for every clip and step, after an activation that can
                  shut them.
    rank:         effective rank of the centred output, see `effective_rank`.
    gradient_norm: L2, of the loss with respect to the output; None where no gradient arrives. parameter_gradient_norm: the same for its
                  parameters, those of its submodules included.
    bias_to_signal: energy of its bias over the energy of its linear response. weight_gain: rms of its weights times sqrt(fan_in): 0.58 is
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
    told_apart_in: float | None
    told_apart: float | None
    steps_apart_in: float | None
    steps_apart: float | None
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
