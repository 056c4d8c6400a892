"""Findings of how a loop takes its steps: gradients fresh and whole, scaled back, clipped in time,
and a step for each loss.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import torch
from torch.nn import functional as F

from pytest_overfit.finding import Finding, counted
from pytest_overfit.findings.record import Record
from pytest_overfit.loop.located import loop_finding
from pytest_overfit.loop.rehearsal import Rehearsal
from pytest_overfit.loop.windows import FEWEST, Loss, Window


def gradients_are_fresh(rehearsal: Rehearsal) -> tuple[Finding, ...]:
    """Before the first backward pass of a step no gradient of the one before is left."""
    stepped = frozenset().union(*(update.given for update in rehearsal.updates))
    stale = [
        window
        for window in rehearsal.windows[1:]
        if (window.stale or frozenset()) & stepped and window.updates and not _in_eval(window)
    ]
    if len(stale) < FEWEST:
        return ()
    if len(stale) < 0.5 * (len(rehearsal.windows) - 1):
        return ()
    many = counted(len((stale[0].stale or frozenset()) & stepped), "parameter")
    return loop_finding(
        STALE_GRADIENT,
        "accumulation",
        headline="gradients are never zeroed: each step is taken on the sum of all gradients "
        "before it",
        where=_step_line(rehearsal),
        evidence=(
            (
                f"at {len(stale)} of {len(rehearsal.windows) - 1} steps {many} had a gradient "
                "before backward()"
            ),
        ),
        try_="optimizer.zero_grad() once for each step, after it or before its first backward()",
    )


def gradients_are_whole(rehearsal: Rehearsal) -> tuple[Finding, ...]:
    """What backward passes give is there when the step is taken, and is their mean."""
    empty = [window for window in rehearsal.windows if zeroed_before_step(window)]
    if len(empty) >= FEWEST:
        return loop_finding(
            LOST_GRADIENT,
            "accumulation",
            headline=(
                "gradients are zeroed between backward() and the step: the step is taken on nothing"
            ),
            where=_zero_line(empty),
            evidence=(f"{len(empty)} of {len(rehearsal.windows)} steps had no gradient",),
            try_="optimizer.zero_grad() before backward(), or after the step",
        )
    lost = [window for window in rehearsal.windows if _zeroed_between(window)]
    if len(lost) >= FEWEST:
        return loop_finding(
            LOST_GRADIENT,
            "accumulation",
            headline=(
                f"of the {len(lost[0].of('backward'))} backward passes of a step all but the last "
                "are lost: gradients are zeroed between them"
            ),
            where=_zero_line(lost),
            evidence=(f"at {len(lost)} of {len(rehearsal.windows)} steps",),
            try_="optimizer.zero_grad() once for each step",
        )
    return _summed(rehearsal)


def zeroed_before_step(window: Window) -> bool:
    """Whether its steps were taken on nothing since gradients were zeroed after the backward
    pass.
    """
    taken = [
        bool(gradient.any()) for update in window.updates for gradient in update.gradients.values()
    ]
    return (
        bool(window.updates)
        and not any(taken)
        and re.search("bz[zc]*s", window.order()) is not None
    )


def _zeroed_between(window: Window) -> bool:
    """Whether gradients were zeroed between two backward passes with the same weights, and a step
    was taken on the second alone.
    """
    versions = {event.facts["version"] for event in window.of("backward")}
    return len(versions) == 1 and re.search("b[^s]*z[^s]*bc*s", window.order()) is not None


def _zero_line(windows: Sequence[Window]) -> str | None:
    return next((event.where for window in windows for event in window.of("zero")), None)


def _summed(rehearsal: Rehearsal) -> tuple[Finding, ...]:
    """Several losses a step, each a mean over its batch, summed instead of averaged.

    A warning: it is a larger rate, and to Adam nothing.
    """
    parts = [
        window
        for window in rehearsal.windows
        if len(_graded(window)) > 1
        and len(_graded(window)) == len(window.of("backward"))
        and "z" not in window.order().strip("zcs")
    ]
    if len(parts) < FEWEST:
        return ()
    whole = [
        window
        for window in parts
        if all(
            _is_mean(loss, event.facts["value"])
            for loss, event in zip(_graded(window), window.of("backward"), strict=True)
        )
    ]
    if len(whole) < len(parts):
        return ()
    count = len(_graded(parts[0]))
    return loop_finding(
        SUMMED_PARTS,
        "accumulation",
        headline=(
            f"the {count} losses of a step are summed, not averaged: its gradient is {count} times "
            "that of one batch"
        ),
        where=parts[0].of("backward")[0].where,
        evidence=(
            (
                "a bound on the gradient's norm and the rate were chosen for one batch, if they "
                "were chosen so"
            ),
        ),
        try_=f"(loss / {count}).backward()",
        severity="warning",
    )


def _graded(window: Window) -> list[Loss]:
    return [loss for loss in window.losses if loss.graded and loss.training]


def _is_mean(loss: Loss, value: float) -> bool:
    """Whether a value is torch's mean over that batch: each clip's loss by its length, then their
    mean.
    """
    targets = [torch.tensor(target) for target in loss.targets]
    with torch.no_grad():
        mean = F.ctc_loss(
            loss.log_probs.float().cpu(),
            torch.cat(targets),
            torch.tensor(loss.input_lengths),
            torch.tensor([len(t) for t in targets]),
            blank=loss.blank,
            zero_infinity=True,
        )
    return math.isclose(float(mean), value, rel_tol=1e-3)


def scales_are_undone(rehearsal: Rehearsal) -> tuple[Finding, ...]:
    """What a GradScaler multiplied is divided again before it is clipped and stepped on."""
    scaled = [
        window
        for window in rehearsal.windows
        if any(event.facts["enabled"] for event in window.of("scale"))
    ]
    if len(scaled) < FEWEST:
        return ()
    kinds = [
        [event.kind for event in window.of("scale", "clip", "unscale", "update", "before_step")]
        for window in scaled
    ]
    never = [one for one in kinds if "unscale" not in one and "before_step" in one]
    early = [
        one
        for one in kinds
        if "clip" in one and ("unscale" not in one or one.index("clip") < one.index("unscale"))
    ]
    if len(never) >= FEWEST:
        return loop_finding(
            GRADIENT_LEFT_SCALED,
            "precision",
            headline=(
                "steps are taken on gradients that a GradScaler multiplied: nothing divides them "
                "again"
            ),
            where=_step_line(rehearsal),
            try_="scaler.step(optimizer) and scaler.update() in the place of optimizer.step()",
        )
    if len(early) >= FEWEST:
        return loop_finding(
            GRADIENT_LEFT_SCALED,
            "clip",
            headline=(
                "gradients are clipped while a GradScaler's factor is in them: the bound is that "
                "many times too small"
            ),
            where=next((e.where for window in scaled for e in window.of("clip")), None),
            try_="scaler.unscale_(optimizer) before clip_grad_norm_",
        )
    if not any("update" in one for one in kinds):
        return loop_finding(
            GRADIENT_LEFT_SCALED,
            "precision",
            headline=(
                "the GradScaler's factor is never updated: one overflow, and every step after it "
                "is skipped"
            ),
            where=rehearsal.first("scale"),
            try_="scaler.update() after scaler.step(optimizer)",
        )
    return ()


def _in_eval(window: Window) -> bool:
    """Whether some of its backward passes came from eval mode: another finding tells that."""
    return any(not event.facts["training"] for event in window.of("backward"))


def _step_line(rehearsal: Rehearsal) -> str | None:
    return next((update.where for update in rehearsal.updates if update.where), None)


STALE_GRADIENT = Record(
    name="stale_gradient",
    stage="loop",
    follows=("trained_in_eval",),
    means=(
        "Gradients are not zeroed between steps, so each step goes by the sum of all that came "
        "before it."
    ),
    detected="Before the first backward pass of a step no parameter may have a gradient.",
    mend="Call optimizer.zero_grad() once for each step.",
    no_remedy="the part is exchanged, which shows the same",
    planted=("never_zeroed",),
)


LOST_GRADIENT = Record(
    name="lost_gradient",
    stage="loop",
    means=(
        "Gradients are zeroed after backward() and before the step, so some or all of them are "
        "lost."
    ),
    detected="The order of backward(), zero_grad() and step(), and the gradients at the step.",
    mend="Zero before the first backward() of a step, or after the step.",
    no_remedy="the part is exchanged, which shows the same",
    planted=("zeroed_before_step", "zeroed_each_part"),
)


SUMMED_PARTS = Record(
    name="summed_parts",
    stage="loop",
    follows=(
        "trained_in_eval",
        "lost_gradient",
    ),
    means=(
        "Losses of accumulated batches are summed where each is a mean, so the gradient grows with "
        "their number."
    ),
    detected="The losses that backward() was called on are compared with the mean of each batch.",
    mend="Divide each loss by the number of batches in a step.",
    no_remedy="it is a warning, and breaks no rung by itself",
    planted=("summed_over_parts",),
    harmless=True,
)


GRADIENT_LEFT_SCALED = Record(
    name="gradient_left_scaled",
    stage="loop",
    means=(
        "A GradScaler's factor is still in the gradients where they are clipped or stepped on, or "
        "is never updated."
    ),
    detected="The order of scale, unscale_, clip, step and update.",
    mend=(
        "scaler.scale(loss).backward(), scaler.unscale_(optimizer), clip, scaler.step(optimizer), "
        "scaler.update()."
    ),
    no_remedy="the part is exchanged, which shows the same",
    planted=("never_unscaled", "clipped_before_unscaled"),
)
