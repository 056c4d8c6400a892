"""Findings of rates and of what optimisers do with them: what moves, how far, which way, and
whose.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pytest_overfit.finding import Finding
from pytest_overfit.findings.record import Record
from pytest_overfit.loop.located import loop_finding
from pytest_overfit.loop.rehearsal import Rehearsal
from pytest_overfit.loop.windows import FEWEST

DEAD = 0.01
"""Share of its peak at which a rate is dead, while the loop goes on."""


ALIKE = 1e-3
"""Share by which a loss that is passed on as it is may differ."""


NEVER = 1e-3
"""Share of the rate that was asked for, below which a rehearsal's last step tells of a warm-up of
ten thousand steps and more.
"""


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
        return loop_finding(
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
    sleeping = next((i for i, rate in enumerate(rates) if rate > 0), len(rates))
    if sleeping >= FEWEST:
        return loop_finding(
            RATE_NEVER_RISES,
            "scheduler",
            headline=(
                f"the first {sleeping} steps are taken at a rate of 0: the warm-up counts epochs, "
                "and they are steps"
            ),
            where=line,
            evidence=(f"rates of the steps: {_series(rates)}",),
            try_="step the schedule with the optimiser, or begin the warm-up above 0",
        )
    asked = max(
        float(group.get("max_lr", group.get("initial_lr", 0.0)))
        for update in updates
        for group in update.optimizer.param_groups
    )
    if asked and peak < NEVER * asked:
        return loop_finding(
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


def schedules_follow_steps(rehearsal: Rehearsal) -> tuple[Finding, ...]:
    """The first step of a schedule comes after the first of its optimiser; a warning.

    A scaler may leave the first step out.
    """
    if not rehearsal.windows or rehearsal.windows[0].of("scale"):
        return ()
    events = rehearsal.windows[0].of("schedule", "before_step")
    events = [one for one in events if one.kind == "before_step" or one.facts["begun"]]
    if not rehearsal.updates or not events or events[0].kind == "before_step":
        return ()
    return loop_finding(
        SCHEDULE_BEFORE_STEP,
        "scheduler",
        headline="the schedule is stepped before the optimiser: its first rate is never used",
        where=events[0].where,
        try_="optimizer.step() first, scheduler.step() after it",
        severity="warning",
    )


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
    return loop_finding(
        SCHEDULE_ELSEWHERE,
        "scheduler",
        headline=(
            "the schedule belongs to an optimiser that takes no step: the rate of the one that "
            "does stays as it is"
        ),
        where=elsewhere[0].where,
        try_="build the schedule on the optimiser whose step() is called",
    )


def plateaus_are_of_what_rises(rehearsal: Rehearsal) -> tuple[Finding, ...]:
    """No schedule waits for a loss to rise.

    What it is given is a loss where each number lies among the losses since the one before.
    """
    given: list[float] = []
    losses: list[float] = []
    where = None
    for window in (*rehearsal.windows, rehearsal.rest):
        losses += [float(loss.value.mean()) for loss in window.losses]
        for event in window.of("schedule"):
            if (value := event.facts.get("maximised")) is None:
                continue
            if not losses or not (1 - ALIKE) * min(losses) <= value <= (1 + ALIKE) * max(losses):
                return ()
            given.append(value)
            losses = []
            where = where or event.where
    if len(given) < FEWEST or given[-1] >= given[0]:
        return ()
    return loop_finding(
        PLATEAU_UPSIDE_DOWN,
        "scheduler",
        headline='ReduceLROnPlateau has mode="max" and is given a loss: each epoch that learns is one without improvement',
        where=where,
        evidence=(f"given: {', '.join(f'{value:.4g}' for value in given)}",),
        try_='mode="min", or give it an accuracy',
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
SCHEDULE_BEFORE_STEP = Record(
    name="schedule_before_step",
    stage="loop",
    follows=("schedule_elsewhere", "rate_dies", "rate_never_rises"),
    means="The schedule is one step ahead: the rate that it begins with is never used.",
    detected="The order of the first steps of schedule and optimiser.",
    mend="Step the optimiser first.",
    no_remedy="it is a warning, and breaks no rung by itself",
    planted=("reported_schedule_before_step",),
    harmless=True,
)
PLATEAU_UPSIDE_DOWN = Record(
    name="plateau_upside_down",
    stage="loop",
    follows=("schedule_elsewhere", "rate_dies"),
    means=(
        "A schedule that waits for its number to rise is given a loss: it reduces the rate while "
        "the network learns, and would keep it where it does not."
    ),
    detected="The numbers that ReduceLROnPlateau is given beside the losses since the one before.",
    mend='Build it with mode="min", or give it an accuracy.',
    no_remedy="the part is exchanged, which shows the same",
    planted=("reported_plateau_of_the_wrong_way",),
    harmless=True,
)
