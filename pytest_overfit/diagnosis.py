"""Diagnosis: why a rung broke. Findings from contracts, from probes of the fresh and the trained network, and from the run itself.

Each diagnosis is a function from `Evidence` to a finding or None; what it found stays *suspected* until a remedy's trial holds. A diagnosis
sees the subject alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Literal

import torch
from torch import nn

from pytest_overfit import measures, probes
from pytest_overfit.contracts import check
from pytest_overfit.finding import Finding
from pytest_overfit.ladder import Attempt, Outcome, Rung
from pytest_overfit.remedies import ANYTHING, REMEDIES, Remedy, Trial, raw_samples, try_remedy
from pytest_overfit.subject import BadSample, Sample
from pytest_overfit.train import keep_up_norms

PROBED = 8
"""Clips that probes read: more tell nothing new."""
LEAST_SECONDS = 30.0
"""What trials may take at least; else as long as the climb they explain."""

Trials = Literal["off", "auto", "all"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """What diagnoses read: the rung, its attempts, probes of a fresh network in both modes."""

    rung: Rung
    samples: Sequence[Sample]
    outcome: Outcome
    train: tuple[probes.Observation, ...]
    eval: tuple[probes.Observation, ...]

    @property
    def attempt(self) -> Attempt | None:
        """The first attempt, with the recipe as it was given."""
        return self.outcome.attempts[0] if self.outcome.attempts else None


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the module table."""

    module: str
    where: str | None
    steps: int | None
    told_apart: float | None
    gradient: float | None


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """findings: best first. ruled_out: diagnoses that found nothing. trials: in the order tried. table: the modules on the way.

    failure: what went wrong in explaining, which must not hide the break itself.
    """

    findings: tuple[Finding, ...] = ()
    ruled_out: tuple[str, ...] = ()
    trials: tuple[Trial, ...] = ()
    table: tuple[Row, ...] = ()
    failure: str | None = None

    @property
    def confirmed(self) -> Trial | None:
        return next((trial for trial in self.trials if trial.held), None)


def diagnose(rung: Rung, outcome: Outcome, *, trials: Trials = "auto") -> Diagnosis:
    """Explain a broken rung. trials: none; those of the findings until one holds; or every remedy of every finding, then general ones."""
    contract_findings = tuple(check(rung.subject, raw_samples(rung.subject, rung.samples), seed=rung.seeds[0], device=rung.device, size=rung.size))
    try:
        evidence = gather(rung, outcome)
    except (BadSample, RuntimeError, ValueError):
        evidence = None  # the contracts say why it cannot run
    shown = outcome.attempts[0].findings if outcome.attempts else ()
    found: list[Finding] = [*contract_findings, *shown]
    ruled_out: list[str] = []
    for diagnosis in DIAGNOSES if evidence else ():
        assert evidence is not None
        finding = diagnosis(evidence)
        if finding is None:
            ruled_out.append(diagnosis.__name__)
        elif finding.name not in {other.name for other in found}:
            found.append(finding)
    tried = run_trials(rung, found, outcome.seconds, trials)
    return Diagnosis(
        findings=ranked(found, tried),
        ruled_out=tuple(name for name in ruled_out if name not in {finding.name for finding in found}),
        trials=tried,
        table=tuple(row(o) for o in probes.rows_for_people(evidence.train)) if evidence else (),
    )


def examine_rung(rung: Rung, outcome: Outcome) -> tuple[Finding, ...]:
    """What diagnoses say of a rung, whether it held or broke; on a sound subject that is nothing."""
    evidence = gather(rung, outcome)
    return tuple(finding for diagnosis in DIAGNOSES if (finding := diagnosis(evidence)) is not None)


def gather(rung: Rung, outcome: Outcome) -> Evidence:
    samples = rung.subject.take(rung.samples)
    network = fresh(rung, samples)
    shown = rung.subject.take(min(PROBED, len(raw_samples(rung.subject, PROBED))))
    return Evidence(
        rung=rung,
        samples=samples,
        outcome=outcome,
        train=probes.observe(rung.subject, network, shown, mode="train", device=rung.device),
        eval=probes.observe(rung.subject, network, shown, mode="eval", device=rung.device),
    )


def fresh(rung: Rung, samples: Sequence[Sample]) -> nn.Module:
    network = rung.subject.fresh(feature_dim=samples[0].features.shape[1], seed=rung.seeds[0], size=rung.size, network=rung.recipe.network)
    keep_up_norms(network, rung.recipe.norm_momentum)
    return network.to(rung.device)


def run_trials(rung: Rung, found: Sequence[Finding], climbed_seconds: float, trials: Trials) -> tuple[Trial, ...]:
    """Try remedies until one holds, or, for "all", each of them, within the time that the climb took."""
    left = max(climbed_seconds, LEAST_SECONDS)
    tried: list[Trial] = []
    for finding, remedy in plan(found, trials):
        if left <= 0 or (trials == "auto" and any(trial.held for trial in tried)):
            break
        began = time.monotonic()
        tried.append(try_remedy(rung, finding, remedy, seconds=left if trials == "auto" else math.inf))
        left -= time.monotonic() - began if trials == "auto" else 0.0
    return tuple(tried)


def plan(found: Sequence[Finding], trials: Trials) -> Iterable[tuple[Finding, Remedy]]:
    if trials == "off":
        return
    for finding in found:
        for remedy in REMEDIES.get(finding.name, ()):
            yield finding, remedy
    if trials == "all" or not found:
        unknown = Finding(name="cause_not_located", headline="cause not located")
        for remedy in ANYTHING:
            yield unknown, remedy


def ranked(found: Sequence[Finding], tried: Sequence[Trial]) -> tuple[Finding, ...]:
    """A finding whose remedy held first, and confirmed by it; the others in their order."""
    cured = {trial.finding for trial in tried if trial.held}
    mended = [replace(finding, status="confirmed") if finding.name in cured else finding for finding in found]
    return tuple(sorted(mended, key=lambda finding: finding.name not in cured))


def row(o: probes.Observation) -> Row:
    return Row(module=o.module, where=o.where, steps=o.steps_out, told_apart=o.told_apart, gradient=o.gradient_norm)


# -- diagnoses: each named after the bad thing -------------------------------------------------------------------------------------------


def number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2g}"


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
    shown = (f"{number(at.dead_share)} of the units of {at.module} are zero for every clip and step",)
    return _at(at, "dead_units", f"{at.module} puts out nothing but zeros", shown, "a bias and an initialisation that leave units on both sides")


def signal_drowned(evidence: Evidence) -> Finding | None:
    for mode, observations in (("train", evidence.train), ("eval", evidence.eval)):
        drop = probes.first_drop(observations)
        if drop is None:
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


def constant_signal(evidence: Evidence) -> Finding | None:
    return _constant(evidence, ("zero", "clips"))


def constant_in_time(evidence: Evidence) -> Finding | None:
    return _constant(evidence, ("steps",))


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


def regulariser_dominates(evidence: Evidence) -> Finding | None:
    """The loss trained on is far from the CTC loss measured, or weight decay pulls harder than data: ||decay * w|| > ||gradient||."""
    attempt = evidence.attempt
    if attempt is None or not attempt.trace.readings:
        return None
    recipe, trace = attempt.recipe, attempt.trace
    shown = []
    if recipe.weight_decay:
        weights = math.sqrt(sum(float(p.detach().float().norm()) ** 2 for p in fresh(evidence.rung, evidence.samples).parameters()))
        pull, gradient = recipe.weight_decay * weights, median(trace.gradient_norms or [math.inf])
        if recipe.optimizer != "adamw" and pull > gradient:
            shown.append(f"weight decay pulls with {number(pull)}, the data with {number(gradient)} (gradient norms)")
        if recipe.optimizer == "adamw" and recipe.weight_decay * recipe.lr * trace_length(attempt) > 1:
            shown.append(f"decoupled weight decay {recipe.weight_decay:g} at lr {recipe.lr:g} undoes the weights within the run")
    last = trace.readings[-1]
    trained = median(trace.losses[-10:])
    if evidence.rung.subject.loss is not None and trained > 2 * last.loss + 1:
        shown.append(f"the loss trained on is {number(trained)}, the CTC loss {number(last.loss)} nats a token: the rest is another term")
    if not shown:
        return None
    return Finding(name="regulariser_dominates", headline="a penalty outweighs the data", evidence=tuple(shown), try_="a smaller penalty")


def trace_length(attempt: Attempt) -> int:
    return len(attempt.trace.losses)


def noisy_training(evidence: Evidence) -> Finding | None:
    """Dropout so large that two passes over the same clips hardly agree."""
    modules = fresh(evidence.rung, evidence.samples).named_modules()
    rates = {name: module.p for name, module in modules if isinstance(module, nn.modules.dropout._DropoutNd)}
    worst = max(rates, key=lambda name: rates[name], default=None)
    if worst is None or rates[worst] <= 0.7:
        return None
    shown = (f"dropout {rates[worst]:g} at {worst}: {rates[worst]:.0%} of its input is lost at every step of training",)
    headline = f"dropout at {worst} drowns the signal in noise"
    return Finding(name="noisy_training", headline=headline, evidence=shown, module=worst, try_="less dropout")


def clipped_output(evidence: Evidence) -> Finding | None:
    """No logit lies below the most frequent one: a ReLU behind the head. The smallest log-probability of a step is then shared by many."""
    network = fresh(evidence.rung, evidence.samples)
    batch = torch.nn.utils.rnn.pad_sequence([sample.features for sample in evidence.samples[:PROBED]], batch_first=True).to(evidence.rung.device)
    frames = torch.tensor([sample.frames for sample in evidence.samples[:PROBED]], device=evidence.rung.device)
    network.eval()
    with torch.no_grad():
        log_probs, steps = evidence.rung.subject.log_probs(network, batch, frames)
    rows = measures.valid_steps(log_probs, steps)
    floor = float((rows <= rows.min(-1, keepdim=True).values + 1e-6).float().mean())
    if rows.shape[-1] < 4 or floor < 0.25:
        return None
    shown = (f"{floor:.0%} of the outputs of a step share its smallest value",)
    last = probes.main_path(evidence.eval)
    module = next((o.module for o in reversed(last) if o.dead_share is not None or "relu" in o.kind.lower()), None)
    return Finding(
        name="clipped_output",
        headline="outputs are cut off from below: an activation stands behind the head",
        evidence=shown,
        module=module,
        try_="logits straight from a linear layer",
    )


def recipe_diverges(evidence: Evidence) -> Finding | None:
    attempt = evidence.attempt
    if attempt is None or len(attempt.trace.losses) < 2:
        if attempt is not None and attempt.ended and "loss is" in attempt.ended:
            return Finding(name="recipe_diverges", headline="the loss is not finite", evidence=(attempt.ended,), try_="a smaller learning rate")
        return None
    losses = attempt.trace.losses
    rose = median(losses[-10:]) > 1.5 * min(losses[:3]) or max(losses) > 10 * losses[0] or (attempt.ended or "").startswith("the loss is")
    lower = _better_with(evidence, lambda other: other.recipe.lr < attempt.recipe.lr)
    if not rose and lower is None:
        return None
    shown = [f"loss {number(losses[0])} at the start, {number(max(losses))} at its worst, {number(losses[-1])} at the end, lr {attempt.recipe.lr:g}"]
    shown += [lower] if lower else []
    return Finding(name="recipe_diverges", headline="the learning rate is too high", evidence=tuple(shown), try_="a smaller learning rate")


def recipe_stalls(evidence: Evidence) -> Finding | None:
    attempt = evidence.attempt
    if attempt is None or len(attempt.trace.losses) < 20:
        return None
    losses = attempt.trace.losses
    slow = measures.loss_trend(losses) < -0.5 and median(losses[-10:]) > 0.5 * median(losses[:10])
    higher = _better_with(evidence, lambda other: other.recipe.lr > attempt.recipe.lr)
    if not slow and higher is None:
        return None
    shown = [f"loss {number(losses[0])} -> {number(losses[-1])} in {len(losses)} steps at lr {attempt.recipe.lr:g}, still falling"]
    shown += [higher] if higher else []
    return Finding(name="recipe_stalls", headline="the learning rate is too low for the budget", evidence=tuple(shown), try_="a larger learning rate")


def _better_with(evidence: Evidence, kind: Callable[[Attempt], bool]) -> str | None:
    """A fallback of that kind that came at least twice as near, in words."""
    first = evidence.attempt
    if first is None or not first.trace.readings:
        return None
    own = first.trace.readings[-1].loss
    for other in evidence.outcome.attempts[1:]:
        came = other.trace.readings[-1].loss if other.trace.readings else math.inf
        if kind(other) and 0 <= came < 0.5 * own:
            return f"lr {other.recipe.lr:g} came to loss {number(came)}, lr {first.recipe.lr:g} to {number(own)}"
    return None


def _at(o: probes.Observation, name: str, headline: str, shown: tuple[str, ...], try_: str) -> Finding:
    where = (f"made at {o.where}",) if o.where else ()
    return Finding(name=name, headline=headline, evidence=(*shown, *where), module=o.module, try_=try_)


DIAGNOSES: tuple[Callable[[Evidence], Finding | None], ...] = (
    exploding_signal,
    dead_units,
    signal_drowned,
    constant_signal,
    vanishing_gradient,
    constant_in_time,
    rank_bottleneck,
    clipped_output,
    noisy_training,
    regulariser_dominates,
    recipe_diverges,
    recipe_stalls,
)
