"""Findings of a loop that does not run: it raises, takes no step, or leaves the finite numbers."""

from __future__ import annotations

from pytest_overfit.finding import Finding
from pytest_overfit.findings.record import Record
from pytest_overfit.loop.located import loop_finding
from pytest_overfit.loop.training import LoopFailed


def failed(error: LoopFailed, where: str | None = None) -> Finding:
    """What ended a loop. where: a line of it, where the error has none."""
    if error.stepless:
        return loop_finding(
            NO_STEP, "accumulation", headline=str(error), where=error.where or where
        )[0]
    headline = f"{error}: gradients are switched off" if error.part == "mode" else str(error)
    return loop_finding(LOOP_FAILS, error.part, headline=headline, where=error.where or where)[0]


def ends_early(steps: int, ours: int) -> Finding:
    """What is told of a loop that was over before it could have learned."""
    return loop_finding(
        LOOP_ENDS,
        "scheduler",
        headline=f"your loop ends after {steps} steps, and ours took {ours}",
        where=None,
        try_="epochs or steps enough for a few clips, and a schedule of that length",
    )[0]


LOOP_FAILS = Record(
    name="loop_fails",
    stage="loop",
    means=(
        "Your own training raises an error on the rung's samples, so nothing can be learned with "
        "it."
    ),
    detected="A few of its steps are taken, and what it raises is told with your line.",
    mend="Mend what the error says, at the line that is named.",
    no_remedy="an error in code that is not ours",
    planted=("unscaled_without_update", "scaler_never_updated"),
)
LOOP_ENDS = Record(
    name="loop_ends",
    stage="loop",
    means=(
        "Your training is over before it took twice the steps that ours needed on the same clips: "
        "too few to call it broken for another reason."
    ),
    detected="Its steps beside those that ours took on a rung that it broke.",
    mend="Give it more epochs or steps.",
    no_remedy="only its own settings give it more",
    planted=("too_few_steps",),
)
LOOP_DIVERGES = Record(
    name="loop_diverges",
    stage="loop",
    means="The loss of your own training is not a finite number within a few steps.",
    detected="Each loss that it yields is looked at.",
    mend="Lower the rate or clip; where half precision is used, look where numbers overflow.",
    no_remedy="exchanging parts of the loop tells which part it is",
    not_planted="what a rate too large does hangs on the processor's last bits",
)
NO_STEP = Record(
    name="no_step",
    stage="loop",
    means=(
        "Your training draws batch after batch and never calls optimizer.step(), or ends before "
        "its first step."
    ),
    detected="Batches drawn are counted between two losses.",
    mend=(
        "Where gradients are accumulated, count batches over epochs, or take a step at the end of "
        "each."
    ),
    no_remedy="a step must be taken by the loop itself",
    planted=("stepped_on_no_batch",),
)
