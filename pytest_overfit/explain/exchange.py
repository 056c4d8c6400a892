"""Network or loop? A rung that the user's loop breaks is climbed with ours; if that holds, parts of
ours are put into theirs, one at a time.

The part whose exchange mends the rung is the guilty one, shown by trial. What the contracts of the
loop found of it says why, and where.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from itertools import combinations

from pytest_overfit.climb.attempt import Ended, OutOfTime, Progress
from pytest_overfit.climb.ladder import Outcome, Rung
from pytest_overfit.explain.diagnosis import Diagnosis, diagnose
from pytest_overfit.explain.parts import PARTS, SAYS, Together
from pytest_overfit.explain.reverse import changes, holds
from pytest_overfit.explain.trials import Trial, TrialEnded, Trials
from pytest_overfit.finding import Finding
from pytest_overfit.findings.record import Record
from pytest_overfit.loop.contracts import findings_of_loop
from pytest_overfit.loop.loop import Loop, Part
from pytest_overfit.loop.rehearsal import Rehearsal, rehearse
from pytest_overfit.loop.running import LOOP_ENDS, ends_early
from pytest_overfit.recipe import default_recipe

LEAST_STEPS, TIMES = 100, 4
"""Steps of an exchange: so many, or so many times those that our training took, so that one that
does not mend leaves steps for the next.
"""
ALLOWED = 40
"""Times the steps that our training took that all exchanges of a rung may take. Steps, not seconds:
a machine that is busy comes to the same answer.
"""
SUSPECTED = 4
"""Parts of which pairs are tried."""
PUT_IN: dict[Part, Part] = {"batches": "loss", "state": "loss"}
"""Part that a contract names -> the exchange that replaces it."""
Parts = tuple[Part, ...]


class Allowance:
    """Optimiser steps that are left for exchanges."""

    def __init__(self, steps: float) -> None:
        self.steps = steps

    def taken(self, progress: Progress) -> None:
        """An `on_step` that ends a climb once there are none left. Raises OutOfTime."""
        self.steps -= 1
        if self.steps <= 0:
            raise OutOfTime(progress.step)


def diagnose_loop(rung: Rung, outcome: Outcome, *, trials: Trials = "auto") -> Diagnosis:
    """Explain a rung that the subject's loop broke: by the network, if our training breaks there
    too, else by the part of the loop.
    """
    assert rung.subject.loop is not None
    found = findings_of_loop(rung.subject, seed=rung.seeds[0])
    ours = replace(
        rung, subject=replace(rung.subject, loop=None), recipe=default_recipe(rung.samples)
    )
    climbed = ours.climb()
    shown = _of_the_climb(outcome, climbed, found)
    # Too few steps explain a break only where no contract does.
    after = any(one.fails() for one in found) and [one.name for one in shown] == [LOOP_ENDS.name]
    found = (*found, *shown) if after else (*shown, *found)
    if climbed.status != "ok":
        outside = rung.subject.loop.outside  # its modules cannot be looked at
        explained = Diagnosis() if outside else diagnose(ours, climbed, trials=trials)
        network_breaks = NETWORK_BREAKS.finding(
            headline=f"our training breaks at {rung.samples} as well: look at the network first",
            evidence=(),
            status="confirmed",
        )
        return replace(explained, findings=(*explained.findings, network_breaks, *found))
    most = max(LEAST_STEPS, TIMES * climbed.steps)
    rung = replace(
        rung,
        recipe=replace(rung.recipe, budget=min(rung.recipe.budget, most), overtime=0.0),
        examined=rung.checked,
    )
    allowed = ALLOWED * max(climbed.steps, LEAST_STEPS // TIMES)
    allowance = Allowance(allowed if trials == "auto" else float("inf"))
    exchange = _Exchange(rung, ours, found, allowance, until_one_holds=trials == "auto")
    if trials != "off":
        exchange.run()
    return Diagnosis(
        findings=(_verdict(climbed, found, exchange), *found), trials=tuple(exchange.tried)
    )


def _of_the_climb(outcome: Outcome, ours: Outcome, found: Sequence[Finding]) -> tuple[Finding, ...]:
    """What the broken climb itself showed and the rehearsal was too short for."""
    if outcome.status != "broken" or not outcome.attempts:
        return ()
    attempt, known = outcome.telling, {finding.name for finding in found}
    if attempt.ended is Ended.LOOP_OVER and attempt.steps < 2 * ours.steps:
        return (ends_early(attempt.steps, ours.steps),)
    return tuple(one for one in attempt.findings if one.part and one.name not in known)


class _Exchange:
    """Exchanges of one rung: single parts of ours in their loop; where none mends, parts of theirs
    in our training, and pairs of what those show.

    tried: parts and pairs of ours in their loop. breaking: parts of theirs that break ours.
    """

    def __init__(
        self,
        rung: Rung,
        ours: Rung,
        found: Sequence[Finding],
        allowance: Allowance,
        *,
        until_one_holds: bool,
    ) -> None:
        self.rung, self.ours, self.found, self.allowance = rung, ours, found, allowance
        self.until_one_holds = until_one_holds
        self.tried: list[Trial] = []
        self.parts: list[Parts] = []
        self.breaking: list[Part] = []

    @property
    def mending(self) -> Parts:
        """The first parts that mended; none where nothing did."""
        pairs = zip(self.tried, self.parts, strict=True)
        return next((parts for trial, parts in pairs if trial.held), ())

    def run(self) -> None:
        """Singles, then, where none mends, what the other way shows, and pairs of it."""
        named = [_exchanged(one.part) for one in self.found if one.fails() and one.part]
        order: list[Part] = list(dict.fromkeys([*named, *PARTS]))
        self._try([(part,) for part in order])
        if self.mending or self.allowance.steps <= 0:
            return
        self._the_other_way()
        suspected = list(dict.fromkeys([*self.breaking, *named, *order]))[:SUSPECTED]
        self._try(list(combinations(suspected, 2)))

    def _try(self, several: Sequence[Parts]) -> None:
        for parts in several:
            if self.allowance.steps <= 0 or (self.until_one_holds and self.mending):
                return
            self.tried.append(exchanged(self.rung, *parts, allowance=self.allowance))
            self.parts.append(parts)

    @cached_property
    def theirs(self) -> Rehearsal:
        """Their loop, watched for some steps."""
        return rehearse(self.rung.subject, seed=self.rung.seeds[0])

    def clips_are_unlike(self) -> bool:
        """Whether no row that reaches the network can be told to be one of the clips.

        Our loss brings our batches, so that their exchange does not tell the two apart.
        """
        graded = self.theirs.graded
        return bool(graded) and all(loss.given is None for loss in graded)

    def _the_other_way(self) -> None:
        budget = self.rung.recipe.budget
        ours = replace(self.ours, recipe=replace(self.ours.recipe, budget=budget, overtime=0.0))
        for part, change in changes(self.theirs).items():
            try:
                if not holds(ours, change, self.allowance.taken):
                    self.breaking.append(part)
            except OutOfTime:
                return


def _exchanged(part: str) -> Part:
    """The part that is exchanged where a finding names `part`."""
    return PUT_IN.get(part, part)  # type: ignore[call-overload,no-any-return]


def exchanged(rung: Rung, *parts: Part, allowance: Allowance) -> Trial:
    """Climb the rung by the user's loop with parts of ours, until it holds or no step is left."""
    began = time.monotonic()
    assert isinstance(rung.subject.loop, Loop)
    loop = replace(rung.subject.loop, exchange=lambda training: Together(training, parts))
    mended = replace(rung, subject=replace(rung.subject, loop=loop), seeds=rung.seeds[:1])
    steps = 0
    remedy = " and ".join(f"our {SAYS.get(part, part)}" for part in parts)

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
        outcome = mended.climb(allowance.taken)
    except OutOfTime as late:
        steps = late.step
        return trial(False, ended=TrialEnded.OUT_OF_TIME, why="out of steps")
    steps = outcome.steps
    failed = outcome.status != "ok" and outcome.attempts and outcome.telling.why
    return trial(outcome.status == "ok", why=failed or None)


def _verdict(ours: Outcome, found: Sequence[Finding], exchange: _Exchange) -> Finding:
    """What the exchange showed, with what a contract says of that part."""
    parts, failing = exchange.mending, [finding for finding in found if finding.fails()]
    evidence = [f"our training holds after {ours.steps} steps, so it is the loop"]
    if parts:
        held = exchange.tried[exchange.parts.index(parts)]
        causes = [one for one in failing if one.part and _exchanged(one.part) in parts]
        headline = f"with {held.remedy} your loop holds after {held.steps} steps"
        failed = [trial.remedy for trial in exchange.tried if not trial.held]
        evidence += [f"with {', '.join(failed)} it does not"] if failed else []
    else:
        causes = failing
        headline = f"our training of the same network holds after {ours.steps} steps"
    if exchange.breaking:
        theirs = ", ".join(f"their {SAYS.get(part, part)}" for part in exchange.breaking)
        evidence.append(f"our training breaks with {theirs}")
    cause = f": {causes[0].headline}" if causes else ""
    finding = LOOP_BREAKS.finding(
        headline=f"{headline}{cause}",
        evidence=tuple(evidence),
        try_=causes[0].try_ if causes else None,
        status="confirmed",
    )
    likeliest = next(iter((*parts, *exchange.breaking)), None)
    if not causes and parts == ("loss",) and exchange.clips_are_unlike():
        likeliest, known = "batches", "what reaches the network is like none of the clips"
        meant = (
            "if collate is meant to change features, let the samples be what it makes of each item"
        )
        finding = replace(finding, evidence=(*finding.evidence, known), try_=meant)
    return replace(finding, part=causes[0].part if causes else likeliest)


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
