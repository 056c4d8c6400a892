"""What training itself shows: a recipe that is to blame rather than the network, penalties and noise that outweigh the data."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor, nn

from pytest_overfit import ctc, measures
from pytest_overfit.diagnoses.evidence import PROBED, Evidence, fresh, number
from pytest_overfit.finding import Finding
from pytest_overfit.ladder import Attempt
from pytest_overfit.subject import Loss, collate

FOREIGN = 0.1
"""Share of the energy of a loss's gradient that is not CTC's, from which another term holds the output back [1e-3, smoothing by 0.1]."""


def regulariser_dominates(evidence: Evidence) -> Finding | None:
    """The loss has another term that pulls harder than CTC, or weight decay does: ||decay * w|| > ||gradient||."""
    attempt = evidence.attempt
    if attempt is None or not attempt.trace.readings:
        return None
    recipe, trace = attempt.recipe, attempt.trace
    shown = []
    if recipe.weight_decay:
        weights = math.sqrt(sum(float(p.detach().float().norm()) ** 2 for p in fresh(evidence.rung, evidence.samples).parameters()))
        pull, gradient = recipe.weight_decay * weights, min(median(trace.gradient_norms or [math.inf]), recipe.clip or math.inf)
        if recipe.optimizer != "adamw" and pull > gradient:
            shown.append(f"weight decay pulls with {number(pull)}, the data with {number(gradient)} (gradient norms)")
        if recipe.optimizer == "adamw" and recipe.weight_decay * recipe.lr * trace_length(attempt) > 1:
            shown.append(f"decoupled weight decay {recipe.weight_decay:g} at lr {recipe.lr:g} undoes the weights within the run")
    if recipe.label_smoothing > 0.5 and evidence.outcome.status == "broken":
        shown.append(f"label smoothing takes {recipe.label_smoothing:.0%} of the loss: a uniform output is worth more to it than the targets")
    share = foreign_share(evidence)
    if share > FOREIGN:
        shown.append(f"{share:.0%} of the energy of the loss's gradient is not that of CTC: the rest is another term")
    if not shown:
        return None
    return Finding(name="regulariser_dominates", headline="a penalty outweighs the data", evidence=tuple(shown), try_="a smaller penalty")


def foreign_share(evidence: Evidence) -> float:
    """Share of the energy of the loss's gradient, at a random output, that CTC of each clip does not explain, however clips are weighed."""
    subject, batch = evidence.rung.subject, collate(evidence.samples[:PROBED])
    if subject.loss is None:
        return 0.0
    steps = torch.full((len(batch),), max(2 * max(ctc.steps_needed(target) for target in batch.target_lists()), 20))
    logits = 3 * torch.randn(int(steps[0]), len(batch), len(subject.vocabulary), generator=torch.Generator().manual_seed(0))

    def gradient(loss: Loss) -> Tensor:
        leaf = logits.clone().requires_grad_()
        value = loss(leaf.log_softmax(-1), steps, batch.targets, batch.target_lengths)
        (found,) = torch.autograd.grad(value, leaf) if value.requires_grad else (torch.zeros_like(leaf),)
        return torch.as_tensor(found).transpose(0, 1).flatten(1).double()

    own, reference = gradient(subject.loss), gradient(lambda *of: ctc.nats_per_token(*of, blank=subject.blank))
    explained = (own * reference).sum(1, keepdim=True) / reference.square().sum(1, keepdim=True) * reference
    return float((own - explained).square().sum() / own.square().sum().clamp(min=1e-30))


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
