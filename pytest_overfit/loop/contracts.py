"""The contracts of a loop: what must hold of the user's own training, told from a rehearsal of a
few steps.
"""

from __future__ import annotations

from collections.abc import Callable

from pytest_overfit.finding import Finding, accepting
from pytest_overfit.findings.examine import Checked
from pytest_overfit.findings.record import Contract, Record
from pytest_overfit.host import own_randomness
from pytest_overfit.loop import (
    conduct,
    features,
    gradients,
    losses,
    modes,
    optimisers,
    rates,
    reported,
    retakes,
    running,
    steps,
    targets,
    updates,
)
from pytest_overfit.loop.located import loop_finding
from pytest_overfit.loop.rehearsal import Rehearsal, rehearse
from pytest_overfit.loop.training import LoopFailed
from pytest_overfit.subject import Subject


def loop_runs(rehearsal: Rehearsal) -> tuple[Finding, ...]:
    """The loop takes steps and raises nothing."""
    error, line = rehearsal.failed, rehearsal.first("backward") or rehearsal.first("batch")
    if isinstance(error, LoopFailed):
        return (running.failed(error, line if error.stepless else None),)
    if error is not None:
        return loop_finding(running.LOOP_DIVERGES, None, headline=f"your loop: {error}", where=line)
    if not rehearsal.windows:
        return loop_finding(
            running.NO_STEP,
            "accumulation",
            headline="your loop ended before its first loss",
            where=None,
        )
    return ()


Look = Callable[[Rehearsal], tuple[Finding, ...]]


def _contract(name: str, holds: str, *looks: Look) -> Contract:
    return Contract(
        name=name,
        holds=holds,
        about="loop",
        examine=lambda rehearsal: tuple(finding for look in looks for finding in look(rehearsal)),
    )


CONTRACTS: tuple[Contract, ...] = (
    _contract("running loop", "the loop takes steps, and raises nothing", loop_runs),
    _contract(
        "own batches",
        "features, lengths and targets that reach network and loss are the samples' own",
        targets.targets_are_the_clips_own,
        features.features_are_the_clips_own,
    ),
    _contract(
        "loss of the output",
        "the loss is CTC, in float32, of what the network gives for the batch",
        losses.loss_is_of_the_output,
        losses.network_is_used_as_it_is,
        reported.loss_holds_every_clip,
        reported.loss_is_reported,
    ),
    _contract(
        "right modes",
        "gradients come from train mode, validation from eval mode",
        modes.modes_are_right,
        modes.train_mode_is_whole,
    ),
    _contract(
        "fresh gradients",
        "each step is taken on the whole gradient of its batches, and on no other",
        gradients.gradients_are_fresh,
        gradients.gradients_are_whole,
        gradients.scales_are_undone,
        conduct.gradients_reach_the_network,
    ),
    _contract(
        "steps taken",
        "each loss has its step, clipped before it",
        steps.clipping_is_in_time,
        steps.steps_are_taken,
    ),
    _contract(
        "own optimiser",
        "every parameter that learns moves, downhill, by the size that the optimiser promises",
        optimisers.optimisers_have_the_network,
        optimisers.optimisers_last,
        updates.steps_go_downhill,
        updates.updates_are_of_size,
    ),
    _contract(
        "living rates",
        "the rate rises to what was asked for, and does not die",
        rates.rates_live,
        rates.schedules_are_of_this_optimiser,
        rates.schedules_follow_steps,
        rates.plateaus_are_of_what_rises,
    ),
    _contract(
        "own state",
        "weights and randomness go on from step to step",
        conduct.weights_stay,
        conduct.randomness_is_fresh,
    ),
    _contract("same again", "two steps with the same seed are the same", retakes.seeds_repeat),
    _contract(
        "failures reported",
        "a gradient that is not finite is not hidden",
        retakes.failures_are_reported,
    ),
)
"""Causes before what follows from them."""
RECORDS = {
    record.name: record
    for room in (
        conduct,
        features,
        gradients,
        losses,
        modes,
        optimisers,
        rates,
        reported,
        retakes,
        running,
        steps,
        targets,
        updates,
    )
    for record in vars(room).values()
    if isinstance(record, Record)
}
ENDS = {"loop_fails", "no_step"}
"""Findings of a loop that could not be watched: nothing else of it is told."""
LAST = {"loop_diverges"}
"""Findings that say what happened and not why: told where nothing else is."""


def examine_loop(subject: Subject, *, seed: int = 0) -> tuple[Checked, ...]:
    """What the contracts of the subject's loop find, after a rehearsal of some steps."""
    with own_randomness():
        rehearsal = rehearse(subject, seed=seed)
        found = {contract: contract.examine(rehearsal) for contract in CONTRACTS}
    every = [finding for findings in found.values() for finding in findings]
    names = {finding.name for finding in every}
    caused = any(finding.fails() and finding.name not in LAST for finding in every)

    def is_shown(finding: Finding) -> bool:
        if names & ENDS:
            return finding.name in ENDS
        return not names & set(RECORDS[finding.name].follows) and not (
            caused and finding.name in LAST
        )

    ended = bool(names & (ENDS | LAST))
    return tuple(
        Checked(
            contract=contract,
            findings=accepting([one for one in findings if is_shown(one)], subject.accept),
            skipped="the loop ended before it could be watched"
            if ended and not any(map(is_shown, findings))
            else None,
        )
        for contract, findings in found.items()
    )


def findings_of_loop(subject: Subject, *, seed: int = 0) -> tuple[Finding, ...]:
    """All that `examine_loop` finds, causes first."""
    return tuple(finding for one in examine_loop(subject, seed=seed) for finding in one.findings)
