"""Findings of what a step does to the weights: how far it moves them, and which way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

import torch

from pytest_overfit.finding import Finding, counted, naming
from pytest_overfit.findings.record import Record
from pytest_overfit.loop.located import loop_finding
from pytest_overfit.loop.rehearsal import Rehearsal
from pytest_overfit.loop.windows import FEWEST, Update

ASLEEP = 1e-6
"""Size of a step beside the weights, below which ten thousand of them move nothing; sound ones are
1e-4 to 1e-1.
"""


LEAP = 3.0
"""Size of a step beside the weights, from which none of them outlives it: after a few, weights have
grown to fit.
"""


DECAYED = 0.05
"""Share of a weight that decay takes at each step, from which it outweighs any data: 14 steps halve
it.
"""


APART = 1e-4
"""Share of the highest rate from which another is out of all proportion: rates by layer come to a
hundredth, those of a pretrained part to a thousandth.
"""


DAMPED = 0.1
"""Share of its rate that Adam's first step may fall short by and is still the step it promises."""


def updates_are_of_size(rehearsal: Rehearsal) -> tuple[Finding, ...]:
    """Steps are neither nothing nor larger than the weights, and where they are, why."""
    updates = [update for update in rehearsal.updates if update.gradients]
    if len(updates) < FEWEST:
        return ()
    decay = max(
        float(group["lr"]) * float(group.get("weight_decay", 0.0))
        for update in updates
        for group in update.optimizer.param_groups
    )
    if decay > DECAYED:
        return loop_finding(
            DECAY_OUTWEIGHS,
            "optimiser",
            headline=(
                f"weight decay takes {decay:.0%} of every weight at each step: it outweighs the "
                "data"
            ),
            where=updates[0].where,
            evidence=("rate times weight_decay; usual is 1e-6 to 1e-3",),
            try_="weight_decay=0.01",
        )
    damped = _damped(updates[0])
    if damped is not None:
        return damped
    sizes = [size for size in map(_size, updates) if size is not None]
    if len(sizes) < FEWEST:
        return ()
    middle = median(sizes)
    moving = any(bool(u.gradients[n].any()) for u in updates for n in u.gradients)
    if middle < ASLEEP and moving:
        rate = max(max(update.rates) for update in updates)
        return loop_finding(
            UPDATE_VANISHES,
            "optimiser",
            headline=(
                f"a step moves the weights by {middle:.0e} of their size: nothing is learned in "
                "thousands of them"
            ),
            where=updates[0].where,
            evidence=(f"rates up to {rate:.1e}; sound steps are 1e-4 to 1e-1 of the weights",),
            try_="a rate of 1e-4 to 1e-2",
        )
    if asleep := _asleep(updates):
        return asleep
    if max(sizes) > LEAP:
        return loop_finding(
            UPDATE_OVERSHOOTS,
            "optimiser",
            headline=f"a step moves the weights by {max(sizes):.1f} times their size",
            where=updates[0].where,
            evidence=(f"rates up to {max(max(update.rates) for update in updates):.1e}",),
            try_="a rate of 1e-4 to 1e-2",
        )
    return ()


def _asleep(updates: Sequence[Update]) -> tuple[Finding, ...]:
    """Parameters whose own rate is so far below the others' that they stay as they are."""
    top = max(max(update.rates) for update in updates)
    low = [name for name in updates[-1].rate_of if _rate(updates, name) <= APART * top]
    low = [name for name in low if _rate(updates, name) > 0 and _moved(updates, name) < 10 * ASLEEP]
    if not low:
        return ()
    rate = max(_rate(updates, name) for name in low)
    return loop_finding(
        UPDATE_VANISHES,
        "optimiser",
        headline=(
            f"a step moves {counted(len(low), 'parameter')} by less than {10 * ASLEEP:.0e} of "
            f"{'its' if len(low) == 1 else 'their'} size, while others learn: {naming(low)}"
        ),
        where=updates[0].where,
        evidence=(f"rates up to {rate:.1e} there, {top:.1e} elsewhere",),
        try_="rates within a factor of a thousand of each other, or requires_grad_(False)",
    )


def _rate(updates: Sequence[Update], name: str) -> float:
    """The highest that a parameter was stepped at."""
    return max(update.rate_of.get(name, 0.0) for update in updates)


def _moved(updates: Sequence[Update], name: str) -> float:
    """Median over steps of what a parameter with a gradient moved by, in units of its size."""
    moved = [
        float(update.moved(name).float().norm() / update.before[name].float().norm())
        for update in updates
        if name in update.gradients
        and bool(update.gradients[name].any())
        and bool(update.before[name].any())
    ]
    return median(moved) if moved else math.inf


def _damped(update: Update) -> tuple[Finding, ...] | None:
    """Adam's first step is its rate in every number; epsilon takes what the gradient lacks."""
    group = update.optimizer.param_groups[0]
    if "eps" not in group or "betas" not in group:
        return None
    numbers = torch.cat(
        [
            update.gradients[name].abs().flatten()
            for name in update.given
            if name in update.gradients
        ]
        or [torch.zeros(1)]
    )
    numbers = numbers[numbers > 0]
    if not len(numbers):
        return None
    promised = float(numbers.median() / (numbers.median() + float(group["eps"])))
    if promised > DAMPED or float(group["eps"]) < 1e-6:
        return None
    return loop_finding(
        EPSILON_OUTWEIGHS,
        "optimiser",
        headline=(
            f"epsilon {float(group['eps']):g} outweighs the gradient: "
            f"{type(update.optimizer).__name__} takes {promised:.1%} of its step"
        ),
        where=update.where,
        evidence=(f"half of all gradients are below {float(numbers.median()):.0e}",),
        try_="eps=1e-8",
    )


def _size(update: Update) -> float | None:
    """Median over matrices of the rms of what they moved by, in units of their own."""
    sizes = []
    for name in update.given & frozenset(update.gradients):
        weights = update.before[name]
        if weights.ndim > 1 and bool(weights.any()):
            sizes.append(float(update.moved(name).float().norm() / weights.float().norm()))
    return median(sizes) if sizes else None


def steps_go_downhill(rehearsal: Rehearsal) -> tuple[Finding, ...]:
    """The first step of an optimiser that moves goes against the gradient it was given."""
    first: dict[int, Update] = {}
    for update in rehearsal.updates:
        moves = any(bool(update.moved(name).any()) for name in update.given)
        if update.gradients and moves and id(update.optimizer) not in first:
            first[id(update.optimizer)] = update
    uphill = []
    for update in first.values():
        names = update.given & frozenset(update.gradients)
        decay = float(update.optimizer.param_groups[0].get("weight_decay", 0.0)) * update.rates[0]
        along = sum(
            float((update.gradients[n] * (update.moved(n) + decay * update.before[n])).sum())
            for n in names
        )
        size = math.sqrt(sum(float(update.gradients[n].square().sum()) for n in names)) * math.sqrt(
            sum(float(update.moved(n).square().sum()) for n in names)
        )
        if size and along > 0.1 * size:
            uphill.append(update)
    if not uphill:
        return ()
    return loop_finding(
        STEP_UPHILL,
        "optimiser",
        headline="steps go along the gradient, not against it: the loss is made larger",
        where=uphill[0].where,
        evidence=("the optimiser has maximize=True",)
        if any(group.get("maximize") for group in uphill[0].optimizer.param_groups)
        else (),
        try_="maximize=False, and a loss that is to fall",
    )


DECAY_OUTWEIGHS = Record(
    name="decay_outweighs",
    stage="loop",
    means="Weight decay pulls weights to zero faster than the data can move them.",
    detected="Rate times weight_decay of the steps.",
    mend="A weight decay of 0.01 to 0.1 at usual rates.",
    no_remedy="the part is exchanged, which shows the same",
    planted=("weight_decay_too_large",),
)


EPSILON_OUTWEIGHS = Record(
    name="epsilon_outweighs",
    stage="loop",
    means=(
        "Adam's epsilon is far larger than the gradients, so its steps shrink to a small part of "
        "the rate."
    ),
    detected=(
        "Epsilon beside the median gradient of the first step. Source: Kingma & Ba 2015, arXiv "
        "1412.6980, algorithm 1."
    ),
    mend="Use 1e-8, or 1e-6 in half precision.",
    no_remedy="the part is exchanged, which shows the same",
    planted=("epsilon_too_large",),
)


UPDATE_VANISHES = Record(
    name="update_vanishes",
    stage="loop",
    follows=(
        "stale_gradient",
        "lost_gradient",
        "gradient_cut",
        "rate_dies",
        "rate_never_rises",
        "schedule_elsewhere",
        "optimiser_elsewhere",
        "clipped_to_nothing",
        "gradient_left_scaled",
        "weights_put_back",
    ),
    means="Steps are so small beside the weights that nothing is learned.",
    detected="What matrices move by at each step, in units of their own size.",
    mend="A larger rate.",
    no_remedy="the part is exchanged, which shows the same",
    planted=("rate_too_small",),
)


UPDATE_OVERSHOOTS = Record(
    name="update_overshoots",
    stage="loop",
    follows=(
        "stale_gradient",
        "gradient_left_scaled",
    ),
    means="A step is larger than the weights it moves, so none outlives it.",
    detected="What matrices move by at each step, in units of their own size.",
    mend="A smaller rate.",
    no_remedy="the part is exchanged, which shows the same",
    planted=("rate_too_large",),
)


STEP_UPHILL = Record(
    name="step_uphill",
    stage="loop",
    follows=("stale_gradient",),
    means="Steps go along the gradient: the loss is maximised.",
    detected="The angle of the first step to the gradient it was taken on.",
    mend="Do not maximise, and do not negate the loss.",
    no_remedy="the part is exchanged, which shows the same",
    planted=("maximised",),
)
