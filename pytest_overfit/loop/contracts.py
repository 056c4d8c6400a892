"""The contracts of a loop: what must hold of the user's own training, told from a rehearsal of a few steps."""

from __future__ import annotations

from collections.abc import Callable

from pytest_overfit.finding import Finding
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

SILENCES: dict[str, set[str]] = {
    "loop_fails": {"*"},
    "no_step": {"*"},
    "optimiser_renewed": {"schedule_elsewhere"},
    "trained_in_eval": {"stale_gradient", "summed_parts", "evaluated_in_train"},
    "stale_gradient": {"update_overshoots", "update_vanishes", "clipped_to_nothing", "step_uphill"},
    "lost_gradient": {"gradient_cut", "update_vanishes", "not_optimised", "summed_parts"},
    "gradient_cut": {"update_vanishes", "not_optimised"},
    "rate_dies": {"update_vanishes"},
    "rate_never_rises": {"update_vanishes"},
    "schedule_elsewhere": {"update_vanishes", "rate_never_rises"},
    "optimiser_elsewhere": {"gradient_cut", "update_vanishes", "rate_dies", "schedule_elsewhere"},
    "clipped_to_nothing": {"update_vanishes"},
    "gradient_left_scaled": {"update_overshoots", "update_vanishes", "clipped_to_nothing"},
    "targets_mixed_up": {"other_lengths", "other_output"},
    "other_lengths": {"other_output"},
    "loss_unnormalised": {"other_output", "other_lengths"},
    "weights_put_back": {"update_vanishes"},
}
"""Finding -> what is left out beside it, since it follows; * stands for all others."""


LAST = {"loop_diverges"}
"""Findings that say what happened and not why: told where nothing else is."""


def examine_loop(subject: Subject, *, seed: int = 0) -> dict[str, tuple[Finding, ...]]:
    """What is found for each contract of the subject's loop."""
    rehearsal = rehearse(subject, seed=seed)
    found = {name: tuple(finding for look in looks for finding in look(rehearsal)) for name, looks in LOOKS.items()}
    names = {finding.name for findings in found.values() for finding in findings}
    silent = {other for name in names for other in SILENCES.get(name, ())}
    if any(finding.fails() and finding.name not in LAST for findings in found.values() for finding in findings):
        silent |= LAST
    alone = {name for name in names if "*" in SILENCES.get(name, ())}
    return {contract: tuple(f for f in findings if f.name not in silent and (not alone or f.name in alone)) for contract, findings in found.items()}
