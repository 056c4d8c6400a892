"""Findings of training itself: a recipe that is to blame rather than the network, penalties and
noise that outweigh the data.
"""

from __future__ import annotations

import math
from statistics import median
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pytest_overfit import ctc
from pytest_overfit.finding import Finding
from pytest_overfit.findings.lengths import SLOWER
from pytest_overfit.findings.record import Detector, Record
from pytest_overfit.findings.remedies import (
    ACCUMULATE,
    DEFAULT_LOSS,
    DEFAULT_RECIPE,
    FAN_IN,
    LAYER_NORM,
    LONGER,
    NO_DROPOUT,
    NO_DROPOUT_AT_ALL,
    NO_NORM,
    OTHER_REDUCTION,
    RESET,
    SLOW_BELOW_THE_HEAD,
    SMOOTHING,
    UNFREEZE,
    UNMASKED,
    UNREGULARISED,
    WITHOUT_BLOCKS,
    XAVIER,
    lr_times,
)
from pytest_overfit.findings.signal import number
from pytest_overfit.network.dropout import dropout_rates
from pytest_overfit.network.noise import MOST, Noise
from pytest_overfit.recipe import Recipe
from pytest_overfit.subject import Loss, collate
from pytest_overfit.trend import WINDOW, crawls

if TYPE_CHECKING:
    from pytest_overfit.climb.ladder import Attempt
    from pytest_overfit.explain.evidence import Evidence

ROSE = 1.5
"""Multiple of its lowest from which a loss at the end has come up again."""
NOTHING = 0.01
"""Nats per token below which a loss has nothing left to learn."""
CLIPS = 8
"""Clips that a penalty is looked for on."""
FOREIGN = 0.1
"""Share of the energy of a loss's gradient that is not CTC's, from which another term holds the
output back [1e-3, smoothing by 0.1].
"""
OVERWHELMING = 10
"""Times that weight decay pulls harder than the data ever can, from which what a run comes to hangs
on no learning rate.
"""
SMOOTHED = 0.5
"""Weight of label smoothing above which a uniform output is worth more than the targets."""


def regulariser_dominates(evidence: Evidence) -> Finding | None:
    """The loss has another term that pulls harder than CTC, or weight decay does: ||decay * w|| >
    ||gradient||.
    """
    attempt = evidence.attempt
    if attempt is None or not attempt.trace.readings:
        return None
    recipe, trace = attempt.recipe, attempt.trace
    shown = []
    if recipe.weight_decay:
        pull, gradient = (
            recipe.weight_decay * _norm(evidence.fresh()),
            min(median(trace.gradient_norms or [math.inf]), recipe.clip or math.inf),
        )
        if recipe.optimizer != "adamw" and pull > gradient:
            shown.append(
                f"weight decay pulls with {number(pull)}, the data with {number(gradient)} "
                "(gradient norms)"
            )
        if (
            recipe.optimizer == "adamw"
            and recipe.weight_decay * recipe.lr * trace_length(attempt) > 1
        ):
            shown.append(
                f"decoupled weight decay {recipe.weight_decay:g} at lr {recipe.lr:g} undoes "
                "the weights within the run"
            )
    if recipe.label_smoothing > SMOOTHED and evidence.outcome.status == "broken":
        shown.append(
            f"label smoothing takes {recipe.label_smoothing:.0%} of the loss: a uniform output "
            "is worth more to it than the targets"
        )
    share = penalty_share(evidence)
    if share > FOREIGN:
        shown.append(
            f"{share:.0%} of the energy of the loss's gradient is not that of CTC: the rest is "
            "another term"
        )
    if not shown:
        return None
    return REGULARISER_DOMINATES.finding(
        headline="a penalty outweighs the data", evidence=tuple(shown), try_="a smaller penalty"
    )


def overwhelms(recipe: Recipe, network: nn.Module) -> bool:
    """Whether a recipe's penalty outweighs the data so far that no learning rate is an answer: at any
    of them a run comes to rest where the two pulls are one. network: a fresh one.

    The data pulls no harder than gradients are clipped, or than an update of Adam, which is about 1.
    """
    decay, bound = recipe.weight_decay * _norm(network), recipe.clip or math.inf
    if recipe.optimizer == "adamw":
        bound = math.sqrt(sum(p.numel() for p in network.parameters()))
    return decay > OVERWHELMING * bound or recipe.label_smoothing > SMOOTHED


def _norm(network: nn.Module) -> float:
    """Of all parameters together."""
    return math.hypot(*(float(p.detach().float().norm()) for p in network.parameters()))


def penalty_share(evidence: Evidence) -> float:
    """Share of the energy of the loss's gradient, at a random output, that is a penalty's.

    That is neither CTC's, however clips are weighed, nor moved by the targets.
    What hangs on the targets and is not CTC of them is a wrong loss, which a contract names.
    """
    subject, batch = evidence.rung.subject, collate(evidence.samples[:CLIPS])
    if subject.loss is None:
        return 0.0
    steps = torch.full(
        (len(batch),), max(2 * max(ctc.steps_needed(target) for target in batch.target_lists()), 20)
    )
    logits = 3 * torch.randn(
        int(steps[0]),
        len(batch),
        len(subject.vocabulary),
        generator=torch.Generator().manual_seed(0),
    )
    turned = torch.where(
        batch.targets >= 0, (batch.targets + 1) % len(subject.vocabulary), batch.targets
    )
    turned[turned == subject.blank] = (subject.blank + 1) % len(subject.vocabulary)

    def foreign(targets: Tensor) -> tuple[Tensor, float]:
        """What CTC does not explain, (batch, steps * vocabulary), and the energy of all."""

        def gradient(loss: Loss) -> Tensor:
            leaf = logits.clone().requires_grad_()
            value = loss(leaf.log_softmax(-1), steps, targets, batch.target_lengths)
            (found,) = (
                torch.autograd.grad(value, leaf)
                if value.requires_grad
                else (torch.zeros_like(leaf),)
            )
            return torch.as_tensor(found).transpose(0, 1).flatten(1).double()

        own, reference = (
            gradient(subject.own_loss),
            gradient(lambda *of: ctc.nats_per_token(*of, blank=subject.blank)),
        )
        explained = (
            (own * reference).sum(1, keepdim=True)
            / reference.square().sum(1, keepdim=True)
            * reference
        )
        return own - explained, float(own.square().sum())

    rest, energy = foreign(batch.targets)
    other, _ = foreign(turned)
    size = float(rest.square().sum())
    if size == 0 or float((rest - other).square().sum()) > 0.5 * size:
        return 0.0
    return size / max(energy, 1e-30)


def trace_length(attempt: Attempt) -> int:
    """Optimiser steps that an attempt took."""
    return len(attempt.trace.losses)


def noisy_training(evidence: Evidence) -> Finding | None:
    """Dropout so large, or masks or noise of other kinds, that two passes over the same clips hardly
    agree.
    """
    rung = evidence.rung
    rates = dropout_rates(
        rung.subject, evidence.fresh(), evidence.samples[:CLIPS], device=rung.device
    )
    worst = max(rates, key=lambda name: rates[name], default=None)
    if worst is None or rates[worst] <= 0.7:
        return _other_noise(evidence)
    shown = (
        (
            f"dropout {rates[worst]:g} at {worst or 'the network'}: {rates[worst]:.0%} of its input is lost at "
            "every step of training"
        ),
    )
    headline = f"dropout at {worst or 'the network'} drowns the signal in noise"
    return NOISY_TRAINING.finding(
        headline=headline, evidence=shown, module=worst or None, try_="less dropout"
    )


def _other_noise(evidence: Evidence) -> Finding | None:
    """On a broken rung, whatever makes a fresh output random."""
    rung = evidence.rung
    if evidence.outcome.status != "broken" or rung.subject.loop is not None:
        return None
    noise = Noise.of(rung.subject, evidence.fresh(), evidence.samples[0], rung.device)
    if noise.share <= MOST:
        return None
    where = f", first in {noise.module}" if noise.module else ""
    return NOISY_TRAINING.finding(
        headline=f"two passes in train mode hardly agree about a clip{where}",
        evidence=(
            f"{noise.share:.0%} of the variation of a fresh output is between passes with other "
            "random numbers",
        ),
        module=noise.module,
        try_="less masking, noise or dropout in train mode",
    )


def recipe_diverges(evidence: Evidence) -> Finding | None:
    """The learning rate is too high: the loss is not finite, or came up again, and no lower rate
    that was tried did worse. A rate that a rung held with is not: a loss that masks make uneven
    comes up at any.
    """
    attempt = evidence.attempt
    if attempt is None or attempt.held or _better_elsewhere(evidence, lower=True) is False:
        return None
    shown = [line for line in (_rise(attempt), _nearer(evidence, lower=True)) if line]
    if not shown:
        return None
    return RECIPE_DIVERGES.finding(
        headline="the learning rate is too high",
        evidence=tuple(shown),
        try_="a smaller learning rate",
    )


def recipe_stalls(evidence: Evidence) -> Finding | None:
    """The learning rate is too low: the loss fell to the end, and not far, and no higher rate that
    was tried did worse. One that a rung held with is not.
    """
    attempt = evidence.attempt
    if attempt is None or attempt.held or _better_elsewhere(evidence, lower=False) is False:
        return None
    shown = [line for line in (_crawl(attempt), _nearer(evidence, lower=False)) if line]
    if not shown:
        return None
    return RECIPE_STALLS.finding(
        headline="the learning rate is too low for the budget",
        evidence=tuple(shown),
        try_="a larger learning rate",
    )


def _rise(attempt: Attempt) -> str | None:
    """That the loss ended without a number, or far above where it had been, in words."""
    losses = attempt.trace.losses
    where = f"at lr {attempt.recipe.lr:g}"
    if attempt.diverged:
        return f"{attempt.why} {where}"
    if len(losses) < 2 * WINDOW:
        return None
    lowest, step = min(
        (median(losses[i : i + WINDOW]), i + WINDOW) for i in range(len(losses) - WINDOW + 1)
    )
    last = median(losses[-WINDOW:])
    # What dropout or masks make uneven comes as low as before now and then.
    if last <= ROSE * lowest or last - lowest < NOTHING or min(losses[-WINDOW:]) <= lowest:
        return None
    return (
        f"the loss came down to {number(lowest)} by step {step} and stands at {number(last)} at "
        f"the end, {where}"
    )


def _crawl(attempt: Attempt) -> str | None:
    """That the loss fell to the end, by however little and no slower than before, and had not come
    far, in words.
    """
    losses = attempt.trace.losses
    if not crawls(losses):
        return None
    first, last = median(losses[:WINDOW]), median(losses[-WINDOW:])
    return (
        f"the loss went from {number(first)} to {number(last)} in {len(losses)} steps at lr "
        f"{attempt.recipe.lr:g}, and was still falling"
    )


def _better_elsewhere(evidence: Evidence, *, lower: bool) -> bool | None:
    """Whether the most extreme rate tried on that side came nearest of all; None where none was
    tried there.

    Where it did not, the rate is not what is wrong: going that way stopped to help.
    """
    first = evidence.attempt
    others = [
        a
        for a in evidence.outcome.attempts[1:]
        if a.trace.readings and first and (a.recipe.lr < first.recipe.lr) == lower
    ]
    if first is None or not others:
        return None
    extreme = (min if lower else max)(others, key=lambda attempt: attempt.recipe.lr)
    return all(_came(extreme) <= _came(attempt) for attempt in evidence.outcome.attempts)


def _nearer(evidence: Evidence, *, lower: bool) -> str | None:
    """The rate tried on that side that came nearest, where it came at least twice as near as the
    first, in words.
    """
    first = evidence.attempt
    if first is None or _better_elsewhere(evidence, lower=lower) is None:
        return None
    best = min(evidence.outcome.attempts[1:], key=_came)
    if (
        (best.recipe.lr < first.recipe.lr) != lower
        or _came(first) < NOTHING
        or _came(best) > 0.5 * _came(first)
    ):
        return None
    return (
        f"lr {best.recipe.lr:g} came to {number(_came(best))} nats per token, lr "
        f"{first.recipe.lr:g} to {number(_came(first))}"
    )


def _came(attempt: Attempt) -> float:
    """The lowest loss in eval mode, in nats per token: how near a run came that goes up and down."""
    losses = (reading.loss for reading in attempt.trace.readings)
    return min(filter(math.isfinite, losses), default=math.inf)


REGULARISER_DOMINATES = Record(
    name="regulariser_dominates",
    stage="training",
    means=(
        "A penalty pulls harder than the data: weight decay, label smoothing, or another term of "
        "the loss."
    ),
    detected="The pull of weight decay is compared with the gradient's norm, and the gradient of "
    "the loss with CTC's, on random outputs: what "
    "neither CTC nor the targets explain is another term.",
    mend="Take a smaller penalty.",
    follows=("wrong_loss", "wrong_targets", "wrong_gradient", "low_precision_loss", "loss_fails"),
    remedies=(UNREGULARISED, DEFAULT_LOSS),
    planted=("train-reg", "train-reg-adamw", "train-reg-term", "train-smoothing"),
)
NOISY_TRAINING = Record(
    name="noisy_training",
    stage="training",
    means="Dropout, masks or noise are so large that two passes over the same clips hardly agree.",
    detected="The rate of every dropout is read, that of functions included; and of a fresh output "
    "how much of its variation is between passes in train mode.",
    mend="Lower the rate of the named dropout, or what else is random there.",
    remedies=(NO_DROPOUT, NO_DROPOUT_AT_ALL, UNMASKED),
    planted=("net-dropout",),
)
RECIPE_DIVERGES = Record(
    name="recipe_diverges",
    stage="training",
    means="The learning rate is too high: the loss runs away, or comes up again from where it was.",
    detected=(
        "The loss of the first attempt is read from its lowest to its end, and compared with what "
        "lower rates came to."
    ),
    mend="Take a smaller learning rate, or a warm-up.",
    remedies=(lr_times(0.01), lr_times(0.001), DEFAULT_RECIPE),
    planted=("train-lr-high",),
    last_resort=True,
)
RECIPE_STALLS = Record(
    name="recipe_stalls",
    stage="training",
    means=(
        "The learning rate is too low for the budget: the loss still falls at its end, and has not "
        "come far."
    ),
    detected=(
        "The fall of the last third of the first attempt is compared with that before, and with "
        "what higher rates came to."
    ),
    mend="Take a larger learning rate, or more steps.",
    remedies=(lr_times(100), lr_times(1000), DEFAULT_RECIPE, LONGER),
    planted=("train-lr-low",),
    last_resort=True,
)
CAUSE_NOT_LOCATED = Record(
    name="cause_not_located",
    stage="training",
    means=(
        "The rung broke and nothing that is looked for was found. The table of modules shows how "
        "the signal and its gradient fare."
    ),
    detected=(
        "Every contract and every diagnosis found nothing. General changes are then tried; one "
        "that helps is told."
    ),
    mend="Compare the table with that of a network that climbs; try --overfit-trials=all.",
    remedies=(
        *(
            lr_times(0.1),
            lr_times(10),
            DEFAULT_RECIPE,
            NO_DROPOUT_AT_ALL,
            LAYER_NORM,
            FAN_IN,
            RESET,
            XAVIER,
        ),
        *(
            NO_NORM,
            UNFREEZE,
            SLOWER,
            WITHOUT_BLOCKS,
            LONGER,
            ACCUMULATE,
            SLOW_BELOW_THE_HEAD,
            OTHER_REDUCTION,
            SMOOTHING,
        ),
    ),
    not_planted="a fault whose cause is known is looked for by its own name",
)

DETECTORS = (
    Detector(record=NOISY_TRAINING, look=noisy_training),
    Detector(record=REGULARISER_DOMINATES, look=regulariser_dominates),
    Detector(record=RECIPE_DIVERGES, look=recipe_diverges),
    Detector(record=RECIPE_STALLS, look=recipe_stalls),
)
