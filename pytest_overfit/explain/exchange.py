"""Network or loop? A rung that the user's loop breaks is climbed with ours; if that holds, parts of
ours are put into theirs, one at a time.

The part whose exchange mends the rung is the guilty one, shown by trial. What the contracts of the
loop found of it says why, and where.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from pytest_overfit.climb.attempt import OutOfTime, until
from pytest_overfit.climb.ladder import Outcome, Rung
from pytest_overfit.explain.diagnosis import Diagnosis, diagnose
from pytest_overfit.explain.parts import (
    OurAccumulation,
    OurClip,
    OurLoss,
    OurMode,
    OurOptimiser,
    OurPrecision,
    Ours,
    OurSchedule,
)
from pytest_overfit.explain.trials import LEAST_SECONDS, Trial, TrialEnded, Trials
from pytest_overfit.finding import Finding
from pytest_overfit.findings.record import Record
from pytest_overfit.loop.contracts import findings_of_loop
from pytest_overfit.loop.loop import Exchanged, Loop, Part
from pytest_overfit.recipe import default_recipe

LEAST_STEPS, TIMES = 100, 4
"""Steps of an exchange: so many, or so many times those that our training took, so that one that
does not mend leaves time for the next.
"""


PARTS: dict[Part, type[Ours]] = {
    kind.part: kind
    for kind in (
        OurSchedule,
        OurAccumulation,
        OurMode,
        OurClip,
        OurPrecision,
        OurLoss,
        OurOptimiser,
    )
}
"""Smallest first: our optimiser brings its rate and clip, our loss its batches and mode."""


SAYS: dict[Part, str] = {
    "loss": "loss and batches",
    "optimiser": "optimiser and rate",
    "accumulation": "zeroing of gradients",
    "mode": "train mode",
}
"""What of ours is put in, where its name alone does not say."""


PUT_IN: dict[Part, Part] = {"batches": "loss", "state": "loss"}
"""Part that a contract names -> the exchange that replaces it."""


def diagnose_loop(rung: Rung, outcome: Outcome, *, trials: Trials = "auto") -> Diagnosis:
    """Explain a rung that the subject's loop broke: by the network, if our training breaks there
    too, else by the part of the loop.
    """
    found = findings_of_loop(rung.subject, seed=rung.seeds[0])
    ours = replace(
        rung, subject=replace(rung.subject, loop=None), recipe=default_recipe(rung.samples)
    )
    climbed = ours.climb()
    if climbed.status != "ok":
        explained = diagnose(ours, climbed, trials=trials)
        told = NETWORK_BREAKS.finding(
            headline=f"our training breaks at {rung.samples} as well: look at the network first",
            evidence=(),
            status="confirmed",
        )
        return replace(explained, findings=(*explained.findings, told, *found))
    ends = (
        time.monotonic() + max(outcome.seconds, LEAST_SECONDS) if trials == "auto" else float("inf")
    )
    rung = replace(
        rung,
        recipe=replace(
            rung.recipe, budget=min(rung.recipe.budget, max(LEAST_STEPS, TIMES * climbed.steps))
        ),
    )
    tried = (
        tuple(_tried(rung, _order(found), ends, until_one_holds=trials == "auto"))
        if trials != "off"
        else ()
    )
    return Diagnosis(findings=(_verdict(climbed, found, tried), *found), trials=tried)


def _exchanged(part: str) -> Part:
    """The part that is exchanged where a finding names `part`."""
    return PUT_IN.get(part, part)  # type: ignore[call-overload,no-any-return]


def _order(found: Sequence[Finding]) -> list[Part]:
    """Parts to exchange: those that contracts name first."""
    named = [
        part
        for finding in found
        if finding.fails() and finding.part
        for part in (_exchanged(finding.part),)
    ]
    return list(dict.fromkeys([*named, *PARTS]))


def _tried(
    rung: Rung, parts: Sequence[Part], ends: float, *, until_one_holds: bool
) -> Iterator[Trial]:
    for part in parts:
        if time.monotonic() >= ends:
            return
        trial = exchanged(rung, part, ends=ends)
        yield trial
        if trial.held and until_one_holds:
            return


def exchanged(rung: Rung, part: Part, *, ends: float) -> Trial:
    """Climb the rung by the user's loop with one part of ours, until it holds or `ends` (monotonic
    seconds) has come.
    """
    began = time.monotonic()
    assert isinstance(rung.subject.loop, Loop)
    make: Callable[[Any], Exchanged] = PARTS[part]
    mended = replace(
        rung,
        subject=replace(rung.subject, loop=replace(rung.subject.loop, exchange=make)),
        seeds=rung.seeds[:1],
    )
    steps = 0
    remedy = f"our {SAYS.get(part, part)}"

    def trial(held: bool, ended: TrialEnded | None = None, why: str | None = None) -> Trial:
        return Trial(
            finding=LOOP_BREAKS.name,
            remedy=remedy,
            held=held,
            steps=steps,
            seconds=time.monotonic() - began,
            ended=ended,
            why=why,
        )

    try:
        outcome = mended.climb(until(ends))
    except OutOfTime as late:
        steps = late.step
        return trial(False, ended=TrialEnded.OUT_OF_TIME, why="out of time")
    steps = outcome.steps
    failed = outcome.status != "ok" and outcome.attempts and outcome.telling.why
    return trial(outcome.status == "ok", why=failed or None)


def _verdict(ours: Outcome, found: Sequence[Finding], tried: Sequence[Trial]) -> Finding:
    """What the exchange showed, with what a contract says of that part."""
    held = next((trial for trial in tried if trial.held), None)
    by_ours = f"our training holds after {ours.steps} steps, so it is the loop"
    if held is None:
        cause = next((finding for finding in found if finding.fails()), None)
        said = f": {cause.headline}" if cause else ""
        finding = LOOP_BREAKS.finding(
            headline=f"our training of the same network holds after {ours.steps} steps{said}",
            evidence=(by_ours,),
            status="confirmed",
        )
        return replace(finding, part=cause.part if cause else None)
    part = next(part for part in PARTS if held.remedy == f"our {SAYS.get(part, part)}")
    causes = [
        finding
        for finding in found
        if finding.fails() and finding.part and _exchanged(finding.part) == part
    ]
    said = f": {causes[0].headline}" if causes else ""
    headline = f"with {held.remedy} your loop holds after {held.steps} steps{said}"
    failed = [trial.remedy for trial in tried if not trial.held]
    evidence = (by_ours, *((f"with {', '.join(failed)} it does not",) if failed else ()))
    finding = LOOP_BREAKS.finding(
        headline=headline,
        evidence=evidence,
        try_=causes[0].try_ if causes else None,
        status="confirmed",
    )
    return replace(finding, part=causes[0].part if causes else part)


LOOP_BREAKS = Record(
    name="loop_breaks",
    stage="loop",
    means=(
        "Your own training cannot make the network memorise a few samples, and ours can: the fault "
        "is in the loop, not in the network."
    ),
    detected=(
        "The rung is climbed with our training; then parts of ours are put into your loop, one at "
        "a time, until it holds."
    ),
    mend="Look at the part whose exchange mends it, at the line that is named.",
    no_remedy="the exchange of parts is the trial",
    planted=("broken_by_schedule", "broken_by_zeroing"),
)


NETWORK_BREAKS = Record(
    name="network_breaks",
    stage="loop",
    means=(
        "The rung breaks with our own training too, so the network, its samples or its loss are to "
        "be looked at before the loop."
    ),
    detected="The rung that your loop broke is climbed with our training.",
    mend="Mend what is found of the network, then climb with your loop again.",
    no_remedy="what is found of the network has its own",
    planted=("broken_by_network",),
)
