"""The contracts of a loop: what must hold of the user's own training, told from a rehearsal of a few steps."""

from __future__ import annotations

from collections.abc import Callable

from pytest_overfit.finding import Finding, accepting
from pytest_overfit.findings.record import Record
from pytest_overfit.loop import conduct, content, rates, stepping
from pytest_overfit.loop.rehearsal import Rehearsal, rehearse
from pytest_overfit.subject import Subject

Look = Callable[[Rehearsal], tuple[Finding, ...]]

LOOKS: dict[str, tuple[Look, ...]] = {
    "running loop": (stepping.loop_runs,),
    "own batches": (content.targets_are_the_clips_own, content.features_are_the_clips_own),
    "loss of the output": (content.loss_is_of_the_output, content.network_is_used_as_it_is),
    "right modes": (conduct.modes_are_right,),
    "fresh gradients": (stepping.gradients_are_fresh, stepping.gradients_are_whole, stepping.scales_are_undone, conduct.gradients_reach_the_network),
    "steps taken": (stepping.clipping_is_in_time, stepping.steps_are_taken),
    "own optimiser": (rates.optimisers_have_the_network, rates.optimisers_last, rates.steps_go_downhill, rates.updates_are_of_size),
    "living rates": (rates.rates_live, rates.schedules_are_of_this_optimiser),
    "own state": (conduct.weights_stay, conduct.randomness_is_fresh),
}
"""Contract -> what is looked at for it, causes before what follows from them."""

RECORDS = {record.name: record for room in (content, stepping, rates, conduct) for record in vars(room).values() if isinstance(record, Record)}
ENDS = {"loop_fails", "no_step"}
"""Findings of a loop that could not be watched: nothing else of it is told."""
LAST = {"loop_diverges"}
"""Findings that say what happened and not why: told where nothing else is."""


def examine_loop(subject: Subject, *, seed: int = 0) -> dict[str, tuple[Finding, ...]]:
    """What is found for each contract of the subject's loop."""
    rehearsal = rehearse(subject, seed=seed)
    found = {name: [finding for look in looks for finding in look(rehearsal)] for name, looks in LOOKS.items()}
    every = [finding for findings in found.values() for finding in findings]
    names = {finding.name for finding in every}
    caused = any(finding.fails() and finding.name not in LAST for finding in every)

    def is_told(finding: Finding) -> bool:
        if names & ENDS:
            return finding.name in ENDS
        return not names & set(RECORDS[finding.name].follows) and not (caused and finding.name in LAST)

    return {contract: accepting([one for one in findings if is_told(one)], subject.accept) for contract, findings in found.items()}
