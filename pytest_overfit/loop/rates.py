"""Findings of rates and of what optimisers do with them: what moves, how far, which way, and
whose.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from statistics import median

import torch

from pytest_overfit.finding import Finding, counted, naming
from pytest_overfit.findings.record import Record
from pytest_overfit.loop.rehearsal import Rehearsal, Update
from pytest_overfit.loop.told import told

FEWEST = 3
DEAD = 0.01
"""Share of its peak at which a rate is dead, while the loop goes on."""
NEVER = 1e-3
"""Share of the rate that was asked for, below which a rehearsal's last step tells of a warm-up of
ten thousand steps and more.
"""
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
DAMPED = 0.1
"""Share of its rate that Adam's first step may fall short by and is still the step it promises."""


def rates_live(rehearsal: Rehearsal) -> tuple[Finding, ...]:
    """The rate neither dies within the rehearsal nor stays far below what was asked for."""
    updates = rehearsal.updates
    if len(updates) < 2 * FEWEST:
        return ()
    rates = [max(update.rates) for update in updates]
    peak, last = max(rates), rates[-1]
    line = rehearsal.first("schedule")
    if last <= DEAD * peak and (peak > 0):
        dead = next(i for i, rate in enumerate(rates) if rate <= DEAD * peak)
        return told(
            RATE_DIES,
            "scheduler",
            headline=(
                f"the learning rate is {rates[dead]:.2g} from step {dead} on, {peak:.2g} at its "
                "peak, and the loop goes on"
            ),
            where=line,
            evidence=(f"rates of the steps: {_series(rates)}",),
            try_=(
                "step the schedule once an epoch if it counts epochs, and let it last as long as "
                "the training"
            ),
        )
    asked = max(
        float(group.get("max_lr", group.get("initial_lr", 0.0)))
        for update in updates
        for group in update.optimizer.param_groups
    )
    if asked and peak < NEVER * asked:
        return told(
            RATE_NEVER_RISES,
            "scheduler",
            headline=(
                f"the learning rate is {peak:.2g} at its highest of {len(updates)} steps, "
                f"{asked:.2g} was asked for"
            ),
            where=line,
            evidence=(f"rates of the steps: {_series(rates)}",),
            try_="a warm-up of some hundred steps, and a schedule that is stepped",
        )
    return ()


def schedules_are_of_this_optimiser(rehearsal: Rehearsal) -> tuple[Finding, ...]:
    """What a schedule steps is an optimiser that takes steps."""
    stepped = {
        id(getattr(update.optimizer, "optimizer", update.optimizer)) for update in rehearsal.updates
    }
    events = [
        event
        for window in (*rehearsal.windows, rehearsal.rest)
        for event in window.of("schedule")
        if event.where
    ]
    elsewhere = [
        event
        for event in events
        if id(getattr(event.facts["optimizer"], "optimizer", event.facts["optimizer"]))
        not in stepped
    ]
    if len(rehearsal.updates) < FEWEST or not events or len(elsewhere) < len(events):
        return ()
    return told(
        SCHEDULE_ELSEWHERE,
        "scheduler",
        headline=(
            "the schedule belongs to an optimiser that takes no step: the rate of the one that "
            "does stays as it is"
        ),
        where=elsewhere[0].where,
        try_="build the schedule on the optimiser whose step() is called",
    )


def optimisers_have_the_network(rehearsal: Rehearsal) -> tuple[Finding, ...]:
    """Every parameter that learns is in an optimiser that takes steps, and nothing else is."""
    updates = rehearsal.updates
    if not updates:
        return ()
    given = frozenset().union(*(update.given for update in updates))
    names = {
        name for name, parameter in rehearsal.network.named_parameters() if parameter.requires_grad
    }
    foreign = max(update.foreign for update in updates)
    if not given and foreign:
        return told(
            OPTIMISER_ELSEWHERE,
            "optimiser",
            headline=(
                f"the optimiser has {counted(foreign, 'parameter')}, and none of them is the "
                "network's"
            ),
            where=updates[0].where,
            try_=(
                "build the optimiser from the parameters of the network that is trained, after it "
                "is complete"
            ),
        )
    left = sorted((names & rehearsal.trainable) - given) if not foreign else sorted(names - given)
    left = [name for name in left if name in rehearsal.reached or foreign]
    if not left:
        return ()
    return told(
        NOT_OPTIMISED,
        "optimiser",
        headline=(
            f"{counted(len(left), 'parameter')} that could learn "
            f"{'is' if len(left) == 1 else 'are'} in no optimiser: {naming(left)}"
        ),
        where=updates[0].where,
        evidence=(f"the optimiser has {counted(foreign, 'parameter')} that the network does not",)
        if foreign
        else (),
        try_=(
            "build the optimiser after the last change of the network, from all its parameters; "
            "freeze with requires_grad what is not to learn"
        ),
    )


def optimisers_last(rehearsal: Rehearsal) -> tuple[Finding, ...]:
    """The same parameters are stepped by the same optimiser."""
    seen: dict[frozenset[str], list[int]] = {}
    for update in rehearsal.updates:
        line = seen.setdefault(update.given, [])
        if not line or line[-1] != id(update.optimizer):
            line.append(id(update.optimizer))
    made = max((len(set(line)) for line in seen.values()), default=0)
    if made < FEWEST:
        return ()
    return told(
        OPTIMISER_RENEWED,
        "optimiser",
        headline=(
            f"{made} optimisers took turns at the same parameters in {len(rehearsal.updates)} "
            "steps: each begins without momentum"
        ),
        where=rehearsal.updates[0].where,
        evidence=("a schedule counts on with the first of them alone",),
        try_="build the optimiser once, before the first epoch",
    )


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
        return told(
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
        return told(
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
    if max(sizes) > LEAP:
        return told(
            UPDATE_OVERSHOOTS,
            "optimiser",
            headline=f"a step moves the weights by {max(sizes):.1f} times their size",
            where=updates[0].where,
            evidence=(f"rates up to {max(max(update.rates) for update in updates):.1e}",),
            try_="a rate of 1e-4 to 1e-2",
        )
    return ()


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
    return told(
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
    """The first step of an optimiser goes against the gradient it was given."""
    first: dict[int, Update] = {}
    for update in rehearsal.updates:
        if update.gradients and id(update.optimizer) not in first:
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
    return told(
        STEP_UPHILL,
        "optimiser",
        headline="steps go along the gradient, not against it: the loss is made larger",
        where=uphill[0].where,
        evidence=("the optimiser has maximize=True",)
        if any(group.get("maximize") for group in uphill[0].optimizer.param_groups)
        else (),
        try_="maximize=False, and a loss that is to fall",
    )


def _series(rates: Sequence[float]) -> str:
    shown = Counter(f"{rate:.2g}" for rate in rates)
    return ", ".join(shown if len(shown) <= 8 else [*list(shown)[:5], "...", *list(shown)[-2:]])


RATE_DIES = Record(
    name="rate_dies",
    stage="loop",
    follows=("optimiser_elsewhere",),
    means=(
        "The learning rate falls to next to nothing within the first steps, and training goes on "
        "without it."
    ),
    detected="The rates of a few steps, over epochs of a few batches.",
    mend=(
        "Step a schedule that counts epochs once an epoch, and give one that counts steps as many "
        "as there are."
    ),
    no_remedy="the part is exchanged, which shows the same",
    planted=("schedule_per_batch", "dead_after_warmup"),
)
RATE_NEVER_RISES = Record(
    name="rate_never_rises",
    stage="loop",
    follows=("schedule_elsewhere",),
    means=(
        "The learning rate stays at a tiny part of what was asked for: a warm-up without an end, "
        "or one that is never stepped."
    ),
    detected="The rates of a few steps beside the rate that the schedule began from.",
    mend="Step the schedule, and warm up over some hundred steps.",
    no_remedy="the part is exchanged, which shows the same",
    planted=("never_warmed_up", "warmup_not_stepped"),
)
SCHEDULE_ELSEWHERE = Record(
    name="schedule_elsewhere",
    stage="loop",
    follows=(
        "optimiser_renewed",
        "optimiser_elsewhere",
    ),
    means="The schedule changes the rate of an optimiser that takes no step.",
    detected="The optimisers that schedules belong to beside those that take steps.",
    mend="Build the schedule on the optimiser that is stepped.",
    no_remedy="the part is exchanged, which shows the same",
    planted=("schedule_of_another_optimizer",),
    harmless=True,
)
OPTIMISER_ELSEWHERE = Record(
    name="optimiser_elsewhere",
    stage="loop",
    means="The optimiser was given the parameters of another network, so this one never moves.",
    detected="The parameters in the optimiser beside those of the network.",
    mend="Build the optimiser from the network that is trained.",
    no_remedy="the part is exchanged, which shows the same",
    planted=("optimizer_of_another",),
)
NOT_OPTIMISED = Record(
    name="not_optimised",
    stage="loop",
    follows=(
        "lost_gradient",
        "gradient_cut",
    ),
    means=(
        "Some parameters that could learn are in no optimiser: a part was replaced after it was "
        "built, or never given."
    ),
    detected=(
        "The parameters in the optimisers that take steps beside those of the network that the "
        "loss reaches."
    ),
    mend="Build the optimiser last, from all parameters that are to learn.",
    no_remedy="the part is exchanged, which shows the same",
    planted=("optimizer_before_head", "encoder_not_given"),
)
OPTIMISER_RENEWED = Record(
    name="optimiser_renewed",
    stage="loop",
    means=(
        "A new optimiser is built again and again: momentum and variance begin from nothing each "
        "time."
    ),
    detected="Optimisers that step the same parameters are counted.",
    mend="Build the optimiser once.",
    no_remedy="the part is exchanged, which shows the same",
    planted=("new_optimizer_each_epoch",),
    harmless=True,
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
