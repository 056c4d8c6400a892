"""Where a signal is lost: each function reads observations and returns the first module to blame
with its evidence, or None.

Bounds were set between what sound networks reach (in brackets, over seeds, at initialisation and
while training) and what planted faults do. What falls along the way is judged on the main path
only: gates and parallel branches lawfully hold little of the signal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from torch import Tensor

from pytest_overfit.network.observation import FEATURES, Observation, Observations, main_path
from pytest_overfit.network.recorder import Call

DROP = 1e3
"""Largest over smallest D along the path from which a drop is called one [85, by a head with a
large blank bias].
"""
LASTING = 30.0
"""By which D must stay below what it was; recurrent layers tell apart clips of unlike lengths even
where nothing comes in.
"""
FALL = 10.0
"""Fall from one station to all later ones from which one begins."""
CONSTANT_CLIPS, CONSTANT_STEPS = 1e-9, 1e-4
"""D, and the same over steps, below which nothing differs [7e-3, 1e-2]."""
FADED = 1e5
"""Largest over smallest gradient_norm * rms along the path from which gradients vanish [350].

The product does not change with scale.
"""
LEVEL = 0.05
"""Share of a gradient's fall, in magnitudes, within which it still lies on its floor."""
GAIN, AMPLIFIED = 20.0, 12.0
"""weight_gain [10, of a head with deviation 0.3] and rms / rms_in before the last module [6] from
which a signal explodes.
"""
LOUD = 3.0
"""rms below which nothing has exploded, however faint its input."""
DEAD = 0.95
"""Share of dead units [0.4]."""
SAME = 1e-9
"""Share of the energy of a layer's input that tells clips or steps apart, below which it is given
the same throughout.
"""
LOW_RANK = 2.5
"""Effective rank [2.9] that is a bottleneck where the module before it has twice as much."""
SHUTTING = {"relu", "hardtanh", "threshold", "hardswish", "gelu", "silu"}
"""Functions that can put out nothing but zeros."""
WEAK_GROUPED = 0.3
"""weight_gain of a grouped convolution below which its initialisation is too small: 0.58 is torch's
default, fan_out gives sqrt(2 / groups).
"""


@dataclass(frozen=True, kw_only=True)
class Drop:
    """Where D is lost for good.

    at: the first module whose output has lost it. before, after: D until there and from there.
    between: it is already lost in what enters `at`, so a function in the caller's code is to blame,
    one of `at.through`. weak: grouped convolutions up to there whose weights are too small, as an
    initialisation by fan_out makes them that ignores groups.
    """

    at: Observation
    before: float
    after: float
    between: bool
    weak: tuple[Observation, ...]


@dataclass(frozen=True, kw_only=True)
class Constant:
    """A signal that does not vary: `same` over clips, over steps, or because it is zero.

    at, between: as in `Drop`.
    """

    at: Observation
    same: Literal["zero", "clips", "steps"]
    between: bool


def first_drop(observations: Observations) -> Drop | None:
    """Where D falls by a large factor and does not come back: the first of several falls that add
    up to it.
    """
    known = [
        (o, between, share)
        for o, between, share in _stations(observations, "between_sample_share")
        if share is not None
    ]
    shares = [share for _, _, share in known]
    shares[:1] = [
        max(
            [
                *shares[:1],
                *(
                    o.between_sample_share_in or 0.0
                    for o in observations
                    if o.fed_by == (FEATURES,)
                ),
            ],
            default=0.0,
        )
    ]
    lost = (
        i
        for i in range(1, len(shares))
        if shares[i] * DROP <= max(shares[:i]) and max(shares[i:]) * LASTING <= max(shares[:i])
    )
    last = next(lost, None)
    if last is None:
        return None
    falls = (i for i in range(1, last) if max(shares[i:]) * FALL <= shares[i - 1])
    index = next(falls, last)
    o, between, share = known[index]
    at = _upstream(o, observations, shares[index - 1] / FALL)
    passed = observations[: observations.index(at) + 1]
    return Drop(
        at=at,
        before=shares[index - 1],
        after=share,
        between=(at is o and between)
        or (
            at.between_sample_share_in is not None
            and at.between_sample_share_in * FALL <= shares[index - 1]
        ),
        weak=tuple(
            o
            for o in passed
            if o.groups
            and o.groups > 1
            and o.weight_gain is not None
            and o.weight_gain < WEAK_GROUPED
        ),
    )


def constant_signal(observations: Observations) -> Constant | None:
    """The first module whose output is zero, the same for every clip, or the same at every step
    though it was not before.
    """
    level = 0.0
    fields = (
        _stations(observations, name)
        for name in ("rms", "between_sample_share", "between_step_share")
    )
    for (at, between, rms), (_, _, clips), (_, _, steps) in zip(*fields, strict=True):
        if rms == 0:
            return Constant(at=at, same="zero", between=between)
        if clips is not None and clips < CONSTANT_CLIPS:
            return Constant(at=at, same="clips", between=between)
        if steps is not None and steps < CONSTANT_STEPS < level / 10:
            return Constant(at=at, same="steps", between=between)
        level = steps if steps is not None else level
    return None


def vanishing_gradient(observations: Observations) -> Observation | None:
    """The first module through which the gradient shrinks, where on its way back it shrinks almost
    or wholly to nothing.
    """
    path = [o for o in main_path(observations) if o.gradient_norm is not None]
    norms = [o.gradient_norm or 0.0 for o in path]
    if 0.0 in norms:
        return next(
            (
                o
                for (before, after), o in zip(pairwise(norms), path[1:], strict=True)
                if before == 0 < after
            ),
            None,
        )
    flow = [norm * o.rms for norm, o in zip(norms, path, strict=True)]
    if not flow or not all(map(math.isfinite, flow)):
        return None
    floor = min(flow)
    height = max(flow[flow.index(floor) :])
    if floor == 0 or floor * FADED > height:
        return None
    # What lies on the floor is level but for normal ups and downs; the first module above it, on
    # the way to the loss, is where it ends.
    level = floor * (height / floor) ** LEVEL
    above = max(place for place, value in enumerate(flow) if value <= level) + 1
    return path[above] if above < len(path) else None


def exploding_signal(observations: Observations) -> Observation | None:
    """The first module that puts out no finite numbers, has weights far too large for its inputs,
    or amplifies what it is given.
    """
    path = main_path(observations)
    for o in observations:
        judged = (
            o.leaf and "Norm" not in o.kind and (o.bias_to_signal or 0.0) < 1 and o in path[:-1]
        )
        amplified = o.rms / o.rms_in if judged and o.rms_in else 0.0
        if (
            not math.isfinite(o.rms)
            or (o.weight_gain or 0.0) > GAIN
            or (amplified > AMPLIFIED and o.rms > LOUD)
        ):
            return o
    return None


def amplifier(calls: Sequence[Call]) -> Call | None:
    """The first module that puts out numbers far larger than it is given."""
    both = (call for call in calls if call.inputs and call.outputs)
    return next(
        (
            call
            for call in both
            if rms(call.outputs[0]) > max(AMPLIFIED * rms(call.inputs[0]), LOUD)
        ),
        None,
    )


def rms(tensor: Tensor) -> float:
    """Root mean square, in double precision: squares of what is below 1e-23 are none in single."""
    return float(tensor.double().square().mean().sqrt())


def dead_units(observations: Observations) -> Observation | None:
    """The first activation almost all of whose units are zero for every clip and step; or what it
    feeds, where it is a function.
    """
    still = fed_the_same(observations)
    for index, o in enumerate(observations):
        fed_zeros = o.rms_in == 0 and SHUTTING.intersection(o.through)
        if o.steps_out != 1 and index not in still and ((o.dead_share or 0.0) >= DEAD or fed_zeros):
            return o
    return None


def fed_the_same(observations: Observations) -> set[int]:
    """Indices of layers that see only features which are the same at every step of every clip, such
    as those of a hand that nobody shows.

    What they put out says nothing of their weights.
    """
    still: set[int] = set()
    for index, o in enumerate(observations):
        same = (
            o.between_sample_share_in is not None
            and (o.between_sample_share_in or 0.0) + (o.between_step_share_in or 0.0) < SAME
        )
        if (
            o.leaf
            and o.fed_by
            and all((same if source == FEATURES else source in still) for source in o.fed_by)
        ):
            still.add(index)
    return still


def rank_bottleneck(observations: Observations) -> Observation | None:
    """The first module but the last whose output has only one or two directions, where its input
    had many.
    """
    path = [o for o in main_path(observations) if o.rank is not None]
    for before, o in pairwise(path[:-1]):
        if (o.rank or 0.0) <= LOW_RANK and 2 * (o.rank or 0.0) <= (before.rank or 0.0):
            return o
    return None


def _stations(
    observations: Observations, field: str
) -> list[tuple[Observation, bool, float | None]]:
    """What enters and what leaves each module of the main path, in order: (module, whether it
    enters, value). A container's input is past.
    """
    stations = []
    for o in main_path(observations):
        if o.leaf:
            stations.append((o, True, getattr(o, f"{field}_in")))
        stations.append((o, False, getattr(o, field)))
    return stations


def _upstream(o: Observation, observations: Observations, low: float) -> Observation:
    """From a module that has lost the signal to what gives it so: back, off the main path, along
    what feeds it most strongly.
    """
    while not o.leaf or (
        o.between_sample_share_in is not None and o.between_sample_share_in <= low
    ):
        strongest = max(
            (observations[index] for index in o.fed_by if index != FEATURES),
            key=lambda f: f.rms,
            default=o,
        )
        if (
            strongest.on_main_path
            or strongest.between_sample_share is None
            or strongest.between_sample_share > low
        ):
            break
        o = strongest
    return o
