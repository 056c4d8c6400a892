"""What training itself shows: a recipe that is to blame rather than the network, penalties and noise that outweigh the data."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import median

from torch import nn

from pytest_overfit import measures
from pytest_overfit.diagnoses.evidence import Evidence, fresh, number
from pytest_overfit.finding import Finding
from pytest_overfit.ladder import Attempt


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
    smooth = trained - (1 - recipe.label_smoothing) * last.loss
    if recipe.label_smoothing and evidence.outcome.status == "broken" and smooth > trained / 2:
        shown.append(f"label smoothing {recipe.label_smoothing:g} makes {number(smooth)} of the {number(trained)} nats a token that are trained on")
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
