"""Findings of two short takes more: the same seed once again, and a gradient that is not finite."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pytest_overfit.finding import Finding
from pytest_overfit.findings.record import Record
from pytest_overfit.loop.located import loop_finding
from pytest_overfit.loop.recorder import Event
from pytest_overfit.loop.rehearsal import Rehearsal
from pytest_overfit.loop.training import LoopFailed, LoopTraining
from pytest_overfit.recipe import default_recipe
from pytest_overfit.training import NonFiniteLoss

SAME = 1e-3
"""Share by which two losses of one seed may differ: rounding is far below, another draw far above.
"""
BEFORE, AFTER = 2, 4
"""Steps that a loop takes before its gradient is spoilt, and after."""


def seeds_repeat(rehearsal: Rehearsal) -> tuple[Finding, ...]:
    """Two steps with the same seed are the same."""
    if rehearsal.failed or len(rehearsal.windows) < BEFORE:
        return ()
    first, again = _losses(rehearsal), _losses(rehearsal)
    off = [
        i
        for i, (one, other) in enumerate(zip(first, again, strict=False))
        if not math.isclose(one, other, rel_tol=SAME)
    ]
    if not off:
        return ()
    step = off[0]
    return loop_finding(
        NOT_REPEATABLE,
        "state",
        headline=(
            f"the same seed gives another loss: {first[step]:.4g} and {again[step]:.4g} at step "
            f"{step}"
        ),
        where=rehearsal.first("backward"),
        evidence=("Python's, numpy's and torch's generators were seeded alike both times",),
        try_="draw from the global generators, or seed those of your own",
        severity="warning",
    )


def _losses(rehearsal: Rehearsal) -> list[float]:
    training = LoopTraining(
        rehearsal.subject, rehearsal.samples, default_recipe(len(rehearsal.samples)), seed=0
    )
    try:
        return list(training.advance(BEFORE))
    except (LoopFailed, NonFiniteLoss):
        return []
    finally:
        training.close()


def failures_are_reported(rehearsal: Rehearsal) -> tuple[Finding, ...]:
    """After a step on a gradient that was not finite the loss says so; a step that is left out says
    nothing and harms nothing.
    """
    if (
        rehearsal.failed
        or len(rehearsal.windows) < BEFORE + AFTER
        or not any(update.gradients for update in rehearsal.updates)
    ):
        return ()
    take = _Spoilt(rehearsal)
    if not take.spoilt or take.reported:
        return ()
    if take.ruined and take.stepless:
        consequence = "it draws batch after batch and takes no step any more, and says nothing"
    elif take.ruined:
        consequence = f"{AFTER} losses after it are finite"
    else:
        return ()
    return loop_finding(
        FAILURE_HIDDEN,
        "loss",
        headline=(
            "a step on a gradient that is not finite ruins the weights, and the loop hides it: "
            f"{consequence}"
        ),
        where=rehearsal.first("backward"),
        evidence=("one gradient was made infinite in one backward pass",),
        try_="leave out the step whose gradient is not finite, and stop where the loss is not",
    )


class _Spoilt:
    """A take in which one gradient is infinite in one step.

    spoilt: whether that came about. ruined: whether weights were no longer finite after it.
    reported: whether the loss, or an error, showed it. stepless: whether no more steps were taken.
    """

    def __init__(self, rehearsal: Rehearsal) -> None:
        self.spoilt = self.ruined = self.reported = self.stepless = False
        training = LoopTraining(
            rehearsal.subject,
            rehearsal.samples,
            default_recipe(len(rehearsal.samples)),
            seed=0,
            on_event=self._on_event,
        )
        named = dict(training.network.named_parameters())
        moved = [
            name
            for update in rehearsal.updates
            for name in update.gradients
            if name in named and name in update.given
        ]
        self._handle = None
        try:
            if len(list(training.advance(BEFORE))) < BEFORE or not moved:
                return
            open_ = [name for name in moved if named[name].requires_grad]
            if not open_:
                return
            self._handle = named[open_[0]].register_hook(self._spoil)
            self._take(training)
        except (NonFiniteLoss, LoopFailed) as error:
            self.stepless = isinstance(error, LoopFailed) and error.stepless
            self.reported = not self.stepless
        finally:
            training.close()
            self.ruined = any(
                not bool(parameter.isfinite().all()) for parameter in training.network.parameters()
            )

    def _take(self, training: LoopTraining) -> None:
        for _ in training.advance(1 + AFTER):
            if self._handle is not None:
                self._handle.remove()

    def _spoil(self, gradient: Tensor) -> Tensor:
        self.spoilt = True
        return torch.full_like(gradient, math.inf)

    def _on_event(self, event: Event) -> None:
        if event.kind == "step" and self.spoilt and self._handle is not None:
            self._handle.remove()


NOT_REPEATABLE = Record(
    name="not_repeatable",
    stage="loop",
    means=(
        "Two runs with the same seed differ from their first steps on, so no failure of this loop "
        "can be looked at twice."
    ),
    detected="Two steps are taken twice from one seed, and their losses compared.",
    mend="Seed what draws on its own, such as numpy's default_rng().",
    no_remedy="it changes what can be looked at, not what is learned",
    planted=("unseeded",),
    harmless=True,
)
FAILURE_HIDDEN = Record(
    name="failure_hidden",
    stage="loop",
    means=(
        "Where a gradient is not finite the loop steps on it, and afterwards hides that the "
        "weights are ruined."
    ),
    detected=(
        "One gradient is made infinite in one step of a copy; then weights and losses are looked "
        "at."
    ),
    mend=(
        "Leave out the step whose gradient is not finite, and let a loss that is not finite end "
        "the run."
    ),
    no_remedy="it breaks a rung only where gradients are not finite",
    planted=("nan_made_zero", "nan_left_out"),
    harmless=True,
)
