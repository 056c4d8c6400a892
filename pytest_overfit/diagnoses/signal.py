"""Where the signal or its gradient is lost: findings of probes, each named after the bad thing and located at a module."""

from __future__ import annotations

from pytest_overfit import probes
from pytest_overfit.diagnoses.evidence import Evidence, number
from pytest_overfit.finding import Finding

NO_WEIGHT = 1e-3
"""weight_gain below which a layer has as good as no weights."""
DROWNED = 10.0
"""Energy of a bias over that of the linear response from which the bias drowns it."""


def exploding_signal(evidence: Evidence) -> Finding | None:
    at = probes.exploding_signal(evidence.train)
    if at is None:
        return None
    shown = (
        f"rms {number(at.rms_in)} -> {number(at.rms)} through {at.module}",
        f"std of its weights times sqrt(fan_in) is {number(at.weight_gain)}; He's initialisation gives 1.41",
    )
    return _at(at, "exploding_signal", f"{at.module} makes the signal far too large", shown, "a smaller initialisation there")


def dead_units(evidence: Evidence) -> Finding | None:
    at = probes.dead_units(evidence.train)
    if at is None:
        return None
    shown = (f"{at.dead_share or 1:.0%} of the units of {at.module} are zero for every clip and step",)
    return _at(at, "dead_units", f"{at.module} puts out nothing but zeros", shown, "a bias and an initialisation that leave units on both sides")


def signal_drowned(evidence: Evidence) -> Finding | None:
    """Told only where something large stands beside a faint signal: weights of zero and saturating functions have names of their own."""
    for mode, observations in (("train", evidence.train), ("eval", evidence.eval)):
        drop = probes.first_drop(observations)
        if drop is None or not _drowns(drop):
            continue
        shown = [f"share of the signal that tells clips apart (D), {mode} mode: {number(drop.before)} -> {number(drop.after)} at {drop.at.module}"]
        if drop.at.bias_to_signal is not None:
            shown.append(f"energy of its bias over that of its linear response: {number(drop.at.bias_to_signal)}")
        if drop.weak:
            gains = ", ".join(f"{o.module} {number(o.weight_gain)}" for o in drop.weak[:3])
            shown.append(f"grouped convolutions before it are initialised by a fan_out that ignores groups: weight gain {gains}; fan_in gives 1.41")
        headline = f"{drop.at.module} drowns what tells clips apart" + (", after depthwise convolutions initialised too small" if drop.weak else "")
        return _at(drop.at, "signal_drowned", headline, tuple(shown), "fan_in initialisation, or weights times sqrt(groups)")
    return None


def _drowns(drop: probes.Drop) -> bool:
    if drop.at.rms == 0 or (drop.at.weight_gain is not None and drop.at.weight_gain < NO_WEIGHT):
        return False
    return bool(drop.weak) or drop.between or (drop.at.bias_to_signal or 0.0) > DROWNED


def constant_signal(evidence: Evidence) -> Finding | None:
    return None if signal_drowned(evidence) else _constant(evidence, ("zero", "clips"))


def constant_in_time(evidence: Evidence) -> Finding | None:
    return None if signal_drowned(evidence) else _constant(evidence, ("steps",))


def _constant(evidence: Evidence, kinds: tuple[str, ...]) -> Finding | None:
    found = probes.constant_signal(evidence.train) or probes.constant_signal(evidence.eval)
    if found is None or found.same not in kinds:
        return None
    what = {"zero": "zero", "clips": "the same for every clip", "steps": "the same at every step"}[found.same]
    shown = (f"rms {number(found.at.rms)}, D {number(found.at.told_apart)}, over steps {number(found.at.steps_apart)}",)
    return _at(found.at, "constant_signal", f"the output of {found.at.module} is {what}", shown, "another initialisation, or leave it out")


def vanishing_gradient(evidence: Evidence) -> Finding | None:
    at = probes.vanishing_gradient(evidence.train)
    if at is None:
        return None
    norms = [o.gradient_norm for o in probes.main_path(evidence.train) if o.gradient_norm]
    shown = (f"gradient norm {number(norms[-1] if norms else None)} at the output, {number(norms[0] if norms else None)} at the first module",)
    return _at(at, "vanishing_gradient", f"gradients vanish from {at.module} backwards", shown, "ReLU-like activations, a skip connection, or a norm")


def rank_bottleneck(evidence: Evidence) -> Finding | None:
    at = probes.rank_bottleneck(evidence.train)
    if at is None:
        return None
    shown = (f"effective rank of its output: {number(at.rank)}",)
    return _at(at, "rank_bottleneck", f"{at.module} lets only {number(at.rank)} directions through", shown, "more channels there")


def _at(o: probes.Observation, name: str, headline: str, shown: tuple[str, ...], try_: str) -> Finding:
    where = (f"made at {o.where}",) if o.where else ()
    return Finding(name=name, headline=headline, evidence=(*shown, *where), module=o.module, try_=try_)
