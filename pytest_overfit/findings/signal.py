"""Findings of the signal on its way through a broken rung's network: where it, or its gradient, is
lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from pytest_overfit.finding import Finding
from pytest_overfit.findings.record import Detector, Record
from pytest_overfit.findings.remedies import (
    FAN_IN,
    LAYER_NORM,
    NORMED,
    OPEN_ACTIVATIONS,
    RESET,
    RESET_MODULE,
    SKIPS,
    UNCLIPPED,
    USUAL_EPS,
    WIDEN,
    WITHOUT_BOTTLENECK,
    WITHOUT_IT,
    XAVIER,
    holder_of,
)
from pytest_overfit.network import locate
from pytest_overfit.network.observation import Observation, Observations, main_path

if TYPE_CHECKING:
    from pytest_overfit.explain.evidence import Evidence

NO_WEIGHT = 1e-3
"""weight_gain below which a layer has as good as no weights."""
DROWNED = 10.0
"""Energy of a bias over that of the linear response from which the bias drowns it."""


def exploding_signal(evidence: Evidence) -> Finding | None:
    """A module that amplifies its input, or has weights far too large for it."""
    at = locate.exploding_signal(evidence.train)
    if at is None:
        return None
    shown = (
        f"rms {number(at.rms_in)} -> {number(at.rms)} through {at.module}",
        (
            f"std of its weights times sqrt(fan_in) is {number(at.weight_gain)}; He's "
            "initialisation gives 1.41"
        ),
    )
    return _at(
        at,
        EXPLODING_SIGNAL,
        f"{at.module} makes the signal far too large",
        shown,
        "a smaller initialisation there",
    )


def dead_units(evidence: Evidence) -> Finding | None:
    """An activation almost all of whose units are zero."""
    at = locate.dead_units(evidence.train)
    if at is None:
        return None
    shown = (
        f"{at.dead_share or 1:.0%} of the units of {at.module} are zero for every clip and step",
    )
    return _at(
        at,
        DEAD_UNITS,
        f"{at.module} puts out nothing but zeros",
        shown,
        "a bias and an initialisation that leave units on both sides",
    )


def signal_drowned(evidence: Evidence) -> Finding | None:
    """Told only where something large stands beside a faint signal: weights of zero and saturating
    functions have names of their own.
    """
    for mode, observations in (("train", evidence.train), ("eval", evidence.eval)):
        drop = locate.first_drop(observations)
        if drop is None or not _drowns(drop) or _still(observations):
            continue
        shown = [
            (
                f"share of the signal that tells clips apart (D), {mode} mode: "
                f"{number(drop.before)} -> {number(drop.after)} at {drop.at.module}"
            )
        ]
        if drop.at.bias_to_signal is not None:
            shown.append(
                "energy of its bias over that of its linear response: "
                f"{number(drop.at.bias_to_signal)}"
            )
        if drop.weak:
            gains = ", ".join(f"{o.module} {number(o.weight_gain)}" for o in drop.weak[:3])
            shown.append(
                "grouped convolutions before it are initialised by a fan_out that ignores "
                f"groups: weight gain {gains}; fan_in gives 1.41"
            )
        headline = f"{drop.at.module} drowns what tells clips apart" + (
            ", after depthwise convolutions initialised too small" if drop.weak else ""
        )
        return _at(
            drop.at,
            SIGNAL_DROWNED,
            headline,
            tuple(shown),
            "fan_in initialisation, or weights times sqrt(groups)",
        )
    return None


def _still(observations: Observations) -> bool:
    """Whether a module puts out one and the same at every step, which nothing before it explains:
    what stands for a whole clip tells clips less apart than frames do, and in fewer directions.
    """
    found = locate.constant_signal(observations)
    return (
        found is not None
        and found.same == "steps"
        and (found.at.between_step_share or 0.0) < locate.SAME
    )


def _drowns(drop: locate.Drop) -> bool:
    if drop.at.rms == 0 or (drop.at.weight_gain is not None and drop.at.weight_gain < NO_WEIGHT):
        return False
    return bool(drop.weak) or drop.between or (drop.at.bias_to_signal or 0.0) > DROWNED


def constant_signal(evidence: Evidence) -> Finding | None:
    """A module whose output is zero, or the same for every clip or at every step."""
    found = locate.constant_signal(evidence.train) or locate.constant_signal(evidence.eval)
    if found is None or signal_drowned(evidence):
        return None
    what = {"zero": "zero", "clips": "the same for every clip", "steps": "the same at every step"}[
        found.same
    ]
    shown = (
        (
            f"rms {number(found.at.rms)}, D {number(found.at.between_sample_share)}, over steps "
            f"{number(found.at.between_step_share)}"
        ),
    )
    return _at(
        found.at,
        CONSTANT_SIGNAL,
        f"the output of {found.at.module} is {what}",
        shown,
        "another initialisation, or leave it out",
    )


def vanishing_gradient(evidence: Evidence) -> Finding | None:
    """A module through which the gradient shrinks to nothing."""
    at = locate.vanishing_gradient(evidence.train)
    if at is None:
        return None
    norms = [o.gradient_norm for o in main_path(evidence.train) if o.gradient_norm]
    shown = (
        (
            f"gradient norm {number(norms[-1] if norms else None)} at the output, "
            f"{number(norms[0] if norms else None)} at the first module"
        ),
    )
    return _at(
        at,
        VANISHING_GRADIENT,
        f"gradients vanish from {at.module} backwards",
        shown,
        "ReLU-like activations, a skip connection, or a norm",
    )


def rank_bottleneck(evidence: Evidence) -> Finding | None:
    """A module that lets only one or two directions through."""
    at = locate.rank_bottleneck(evidence.train)
    if at is None or _still(evidence.train):
        return None
    shown = [f"effective rank of its output: {number(at.rank)}"]
    if alike := _units_alike(evidence.fresh().get_submodule(holder_of(at.module))):
        shown.append(f"its {alike} units start with the same weights")
    return _at(
        at,
        RANK_BOTTLENECK,
        f"{at.module} lets only {number(at.rank)} directions through",
        tuple(shown),
        "draw its weights at random" if alike else "more channels there",
    )


def _units_alike(module: nn.Module) -> int:
    """How many units a module has that compute one and the same; 0 where they differ."""
    weights = [one for one in module.parameters(recurse=False) if one.ndim > 1]
    same = [bool((one == one[:1]).all()) for one in weights if len(one) > 1]
    return len(weights[0]) if same and all(same) else 0


def _at(
    o: Observation, record: Record, headline: str, shown: tuple[str, ...], try_: str
) -> Finding:
    where = (f"made at {o.where}",) if o.where else ()
    return record.finding(headline=headline, evidence=(*shown, *where), module=o.module, try_=try_)


def number(value: float | None) -> str:
    """A measured number in words."""
    return "unknown" if value is None else f"{value:.2g}"


EXPLODING_SIGNAL = Record(
    name="exploding_signal",
    stage="network",
    means="A module makes the signal far too large, so that a fresh output is sure of what it has "
    "not learned. The loss starts far above that of a "
    "uniform output, and gradients point anywhere.",
    detected=(
        "The loss of a fresh network is compared with the uniform level, and the first infinity is traced "
        "to numbers that had grown beyond all measure; on a broken rung the size "
        "of the signal is read at every module."
    ),
    mend="A smaller initialisation there, or a norm before the last layer; scale the features.",
    follows=(
        "non_finite_output",
        "non_finite_gradient",
        "unscaled_input",
        "unreachable_label",
        "input_ignored",
    ),
    remedies=(RESET_MODULE, FAN_IN, RESET, *WITHOUT_IT),
    planted=("net-explode",),
    spreads=True,
)
DEAD_UNITS = Record(
    name="dead_units",
    stage="network",
    means=(
        "A rectifier puts out zeros for every clip and step: its units have no gradient and never "
        "come back."
    ),
    detected=(
        "The share of units that are zero for all clips and steps is counted behind every "
        "rectifier."
    ),
    mend="Start the bias before it at 0, and the weights so that units fall on both sides.",
    remedies=(RESET_MODULE, UNCLIPPED, FAN_IN, RESET),
    planted=("net-dead-relu",),
    spreads=True,
)
SIGNAL_DROWNED = Record(
    name="signal_drowned",
    stage="training",
    means="A bias drowns what tells clips apart, because the signal before it has become too "
    "faint: as behind depthwise convolutions that torch "
    "starts by a fan_out which ignores groups, so too small by the square root of the channels.",
    detected="D, the share of the signal's energy that differs between clips, is read at every "
    "module in both modes; so is the energy of each bias "
    "against that of the linear response.",
    mend="Initialise by fan_in, or multiply depthwise weights by sqrt(groups).",
    remedies=(USUAL_EPS, *NORMED, FAN_IN, XAVIER, LAYER_NORM),
    planted=("net-depthwise-init",),
    spreads=True,
)
CONSTANT_SIGNAL = Record(
    name="constant_signal",
    stage="training",
    means=(
        "The output of a module is zero, the same for every clip, or the same at every step: "
        "nothing behind it can tell clips or moments apart."
    ),
    detected=(
        "How much each module's output differs between clips, and between steps, is read in both "
        "modes."
    ),
    mend=(
        "Initialise it otherwise, or leave it out. Attention whose queries are too small averages "
        "over the clip."
    ),
    follows=("input_ignored",),
    remedies=(RESET_MODULE, UNCLIPPED, OPEN_ACTIVATIONS, FAN_IN, RESET, *WITHOUT_IT),
    planted=("net-init-zero", "net-time-attention"),
    spreads=True,
)
VANISHING_GRADIENT = Record(
    name="vanishing_gradient",
    stage="training",
    means=(
        "Gradients shrink from module to module on their way back, until the first layers get "
        "none: as through a stack of sigmoids."
    ),
    detected="The norm of the gradient is read at every module of a fresh network.",
    mend="ReLU-like activations, a skip connection, or a norm.",
    remedies=(OPEN_ACTIVATIONS, LAYER_NORM, SKIPS, FAN_IN, XAVIER, *WITHOUT_IT),
    planted=("net-vanish",),
    spreads=True,
)
RANK_BOTTLENECK = Record(
    name="rank_bottleneck",
    stage="training",
    means=(
        "A module lets only one or two directions through: too few for as many tokens as there are."
    ),
    detected=(
        "The effective rank of each module's output is read (the exponential of the entropy of its "
        "singular values)."
    ),
    mend="Give that module more channels; draw its weights at random where its units are alike.",
    remedies=(WIDEN, WITHOUT_BOTTLENECK, RESET),
    planted=("net-capacity",),
    spreads=True,
)

DETECTORS = (
    Detector(record=EXPLODING_SIGNAL, look=exploding_signal),
    Detector(record=DEAD_UNITS, look=dead_units),
    Detector(record=SIGNAL_DROWNED, look=signal_drowned),
    Detector(record=CONSTANT_SIGNAL, look=constant_signal),
    Detector(record=VANISHING_GRADIENT, look=vanishing_gradient),
    Detector(record=RANK_BOTTLENECK, look=rank_bottleneck),
)
