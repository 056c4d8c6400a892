"""Findings of steps: each loss has one, clipped before it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pytest_overfit.finding import Finding
from pytest_overfit.findings.record import Record
from pytest_overfit.loop.located import loop_finding
from pytest_overfit.loop.recorder import Event
from pytest_overfit.loop.rehearsal import Rehearsal
from pytest_overfit.loop.windows import FEWEST, Update, Window

SHRUNK = 1e-3
"""Share of a gradient's norm that clipping leaves, at or below which an optimiser that goes by its
size stands still.
"""


SKIPPED = 0.2
"""Share of losses without a step from which steps are skipped as a habit: a scaler skips one or two
at its start.
"""


ADAPTIVE = (
    "Adam",
    "AdamW",
    "RMSprop",
    "Adagrad",
    "NAdam",
    "RAdam",
    "Adamax",
    "Adafactor",
    "Lion",
    "Rprop",
)
"""Optimisers whose steps do not go by the size of the gradient."""


def clipping_is_in_time(rehearsal: Rehearsal) -> tuple[Finding, ...]:
    """Gradients are clipped before the step, and not to nothing."""
    orders = [window.order("backward", "clip", "before_step") for window in rehearsal.windows]
    late = [order for order in orders if re.search("b[^c]*sc", order)]
    if len(late) >= FEWEST:
        return loop_finding(
            CLIPPED_TOO_LATE,
            "clip",
            headline="gradients are clipped after the step: every step is taken on what was not "
            "clipped",
            where=rehearsal.first("clip"),
            try_="clip between backward() and optimizer.step()",
        )
    called = [event for window in rehearsal.windows for event in window.of("clip")]
    if empty := _given_nothing(called):
        return loop_finding(
            NOTHING_CLIPPED,
            "clip",
            headline="clipping is given no parameters: every gradient stays as it is",
            where=empty,
            evidence=(
                "what parameters() returns is empty once something, as an optimiser, went through it",
            ),
            try_="clip_grad_norm_(network.parameters(), ...), asked for anew each time",
        )
    clips = [event for event in called if event.facts["norm"] > 0]
    shrunk = [event for event in clips if event.facts["clipped"] <= SHRUNK * event.facts["norm"]]
    by_size = [
        update
        for update in rehearsal.updates
        if not type(update.optimizer).__name__.startswith(ADAPTIVE)
    ]
    if by_size and len(shrunk) >= max(FEWEST, len(clips) / 2):
        least = min(event.facts["clipped"] / event.facts["norm"] for event in shrunk)
        return loop_finding(
            CLIPPED_TO_NOTHING,
            "clip",
            headline=(
                f"clipping leaves {least:.0e} of the gradient, and "
                f"{type(by_size[0].optimizer).__name__} goes by its size"
            ),
            where=rehearsal.first("clip"),
            evidence=(
                f"at {len(shrunk)} of {len(clips)} times at most {SHRUNK:g} of its norm was left",
            ),
            try_="a bound near the norm that the gradient has",
        )
    return _one_sided(rehearsal) or (_shrunk_by_hand(rehearsal) if by_size else ())


def _given_nothing(clips: Sequence[Event]) -> str | None:
    """The first line of the user's whose clipping never has a parameter; a library may clip too."""
    places = {event.where: [one for one in clips if one.where == event.where] for event in clips}
    return next(
        (
            where
            for where, events in places.items()
            if where and len(events) >= FEWEST and not any(event.of for event in events)
        ),
        None,
    )


def _one_sided(rehearsal: Rehearsal) -> tuple[Finding, ...]:
    """All of a gradient that has one sign is set to zero, and nothing of the other."""
    halved = [update for update in rehearsal.updates if _half_gone(update)]
    if len(halved) < max(FEWEST, len(rehearsal.updates) / 2):
        return ()
    return loop_finding(
        GRADIENT_ONE_SIDED,
        "clip",
        headline="of each gradient what has one sign is set to zero before the step",
        where=halved[0].where,
        evidence=(f"at {len(halved)} of {len(rehearsal.updates)} steps",),
        try_="clamp a gradient on both sides, or clip its norm",
    )


def _half_gone(update: Update) -> bool:
    """Whether the numbers that are gone since backward() are all of one sign, and none is left of it."""
    names = [name for name in update.grown if name in update.gradients]
    if not names:
        return False
    grown, left = (
        torch.cat([each[name].flatten() for name in names])
        for each in (update.grown, update.gradients)
    )
    return any(
        bool(sign.any()) and bool((left[sign] == 0).all()) and bool((left[other] != 0).all())
        for sign, other in ((grown > 0, grown < 0), (grown < 0, grown > 0))
        if bool(other.any())
    )


def _shrunk_by_hand(rehearsal: Rehearsal) -> tuple[Finding, ...]:
    """Gradients that no scaler touched, and of which next to nothing is left to clip or step on."""
    plain = [window for window in rehearsal.windows if not window.of("scale")]
    shares = [
        (_left(window, update) / gradient_norm(update.grown), update)
        for window in plain
        for update in window.updates
        if gradient_norm(update.grown) > 0
    ]
    shrunk = [(share, update) for share, update in shares if 0 < share <= SHRUNK]
    if len(shrunk) < max(FEWEST, len(shares) / 2):
        return ()
    least, update = min(shrunk, key=lambda one: one[0])
    return loop_finding(
        CLIPPED_TO_NOTHING,
        "clip",
        headline=(
            f"between backward() and the step {least:.0e} of the gradient is left, and "
            f"{type(update.optimizer).__name__} goes by its size"
        ),
        where=update.where,
        evidence=(f"at {len(shrunk)} of {len(shares)} steps, clipping aside",),
        try_="step on the gradient as backward() left it, or clip its norm",
    )


def _left(window: Window, update: Update) -> float:
    """The norm that a window's first clipping met, or, where nothing clips, its step."""
    norms = [float(event.facts["norm"]) for event in window.of("clip")]
    return norms[0] if norms else gradient_norm(update.gradients)


def gradient_norm(gradients: Mapping[str, Tensor]) -> float:
    """Of all gradients together."""
    return math.sqrt(sum(float(one.float().square().sum()) for one in gradients.values()))


def steps_are_taken(rehearsal: Rehearsal) -> tuple[Finding, ...]:
    """Each loss has its step."""
    without = [window for window in rehearsal.windows if not window.updates]
    if len(without) < max(FEWEST, SKIPPED * len(rehearsal.windows)):
        return ()
    clipped = any(window.of("clip") for window in without)
    scaled = any(window.of("scale") for window in without)
    return loop_finding(
        SKIPPED_STEPS,
        "precision" if scaled and not clipped else "clip" if clipped else "accumulation",
        headline=f"{len(without)} of {len(rehearsal.windows)} losses were followed by no optimiser "
        "step",
        where=next((e.where for window in without for e in window.of("clip", "backward")), None),
        evidence=("they had a backward pass",)
        if any(window.of("backward") for window in without)
        else (),
        try_="clip a large gradient instead of leaving its step out",
    )


CLIPPED_TOO_LATE = Record(
    name="clipped_too_late",
    stage="loop",
    means="Gradients are clipped after the optimiser's step, where it changes nothing.",
    detected="The order of backward(), clipping and step().",
    mend="Clip between backward() and step().",
    no_remedy="a rung that breaks by it needs the clip that was meant",
    planted=("clip_after_step",),
    harmless=True,
)


CLIPPED_TO_NOTHING = Record(
    name="clipped_to_nothing",
    stage="loop",
    follows=(
        "stale_gradient",
        "gradient_left_scaled",
    ),
    means="Clipping leaves next to nothing of the gradient, and the optimiser goes by its size.",
    detected="The gradient's norm before and after clipping, where the optimiser does not "
    "normalise it.",
    mend="Choose the bound near the norm that gradients have, 1 to 10 for most networks.",
    no_remedy="the part is exchanged, which shows the same",
    planted=("clip_too_small", "clip_by_tiny_value"),
)


NOTHING_CLIPPED = Record(
    name="nothing_clipped",
    stage="loop",
    means="Gradients are to be clipped and never are: the clipping is given no parameters.",
    detected="The parameters that each clipping is given.",
    mend="Ask for parameters() anew at each clipping, or keep them in a list.",
    no_remedy="a rung that breaks by it needs the clip that was meant",
    planted=("reported_clip_of_spent_parameters",),
    harmless=True,
)


GRADIENT_ONE_SIDED = Record(
    name="gradient_one_sided",
    stage="loop",
    means="Half of each gradient is thrown away: the part of one sign. Weights then move one way.",
    detected="The signs of gradients after backward() and at the step.",
    mend="Clamp on both sides, or clip the norm.",
    no_remedy="the part is exchanged, which shows the same",
    planted=("gradient_clamped_below_zero",),
)


SKIPPED_STEPS = Record(
    name="skipped_steps",
    stage="loop",
    means="Many losses are followed by no optimiser step, so nothing is learned of their batches.",
    detected="Losses that the loop yields are counted against its optimiser's steps.",
    mend="Clip large gradients instead of skipping their step; let a scaler find its factor.",
    no_remedy="the part is exchanged, which shows the same",
    planted=("skipped_when_large",),
)
