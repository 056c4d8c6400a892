"""Findings of what the loss is of: every clip of the batch, and what the loop reports of it."""

from __future__ import annotations

import math
from collections import defaultdict

from pytest_overfit.finding import Finding
from pytest_overfit.findings.record import Record
from pytest_overfit.loop.located import loop_finding
from pytest_overfit.loop.rehearsal import Rehearsal
from pytest_overfit.loop.windows import FEWEST, Window

ALIKE = 1e-4
"""Share by which a number that is passed on as it is may differ."""
LEFT = 0.5
"""Share of a batch's clips that the loss holds, at or below which most are left out."""


def loss_holds_every_clip(rehearsal: Rehearsal) -> tuple[Finding, ...]:
    """CTC is taken of the clips that were drawn, and not of a few of each batch."""
    rows: dict[int, dict[int, int]] = defaultdict(dict)
    drawn: dict[int, int] = {}
    for loss in rehearsal.graded:
        heads = rows[loss.batch]
        heads[loss.passage] = max(heads.get(loss.passage, 0), len(loss.input_lengths))
        drawn[loss.batch] = loss.drawn
    shares = [sum(heads.values()) / drawn[batch] for batch, heads in rows.items() if drawn[batch]]
    if len(shares) < FEWEST or max(shares) > LEFT:
        return ()
    first = rehearsal.graded[0]
    return loop_finding(
        CLIPS_LEFT_OUT,
        "loss",
        headline=f"the loss is of {len(first.input_lengths)} of the {first.drawn} clips of a batch",
        where=first.where,
        evidence=(f"at most {max(shares):.0%} of the clips that were drawn, at every loss",),
        try_="give CTC every row of the batch",
    )


def loss_is_reported(rehearsal: Rehearsal) -> tuple[Finding, ...]:
    """What the loop gives as its loss moves with the batch's own.

    Parts, penalties, factors and averages are all sound; a warning where it is plainly another's.
    """
    known = [window for window in rehearsal.windows if _value(window) is not None]
    reported = [window.reported for window in known]
    own = [value for window in known if (value := _value(window)) is not None]
    if len(known) < 2 * FEWEST:
        return ()
    if len({round(value, 6) for value in own}) < FEWEST:
        return ()
    if len(set(reported)) == 1:
        what = f"the loop reports a loss of {reported[0]:.4g} at every step, while CTC moves"
    elif all(map(_same, reported[1:], own[:-1])) and not any(map(_same, reported[1:], own[1:])):
        what = "the loss that the loop reports is that of the batch before"
    else:
        return ()
    return loop_finding(
        LOSS_NOT_REPORTED,
        "loss",
        headline=what,
        where=next((loss.where for loss in rehearsal.graded), None),
        evidence=(f"CTC of the first steps: {', '.join(f'{value:.4g}' for value in own[:4])}",),
        try_="report the loss that backward() is called on",
        severity="warning",
    )


def _value(window: Window) -> float | None:
    """CTC of the last batch of a window, where it is one number."""
    values = [loss.value for loss in window.losses if loss.graded and loss.value.numel() == 1]
    return float(values[-1]) if values else None


def _same(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=ALIKE)


CLIPS_LEFT_OUT = Record(
    name="clips_left_out",
    stage="loop",
    means="The loss is taken of some clips of each batch, and nothing is learned of the others.",
    detected="Rows that reach torch's CTC beside the clips that were drawn.",
    mend="Give CTC every row of the batch.",
    no_remedy="the part is exchanged, which shows the same",
    planted=("unseen_loss_of_one_clip",),
    harmless=True,
)
LOSS_NOT_REPORTED = Record(
    name="loss_not_reported",
    stage="loop",
    means="The loss that the loop reports is not that of its batch: curves of it tell nothing.",
    detected="What the loop yields beside the CTC losses that it took.",
    mend="Report the loss that backward() is called on.",
    no_remedy="it changes what is reported, not what is learned",
    planted=("constant_reported", "loss_of_the_batch_before"),
    harmless=True,
)
