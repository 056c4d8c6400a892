"""Contracts: what must hold of a subject before any training, checked in seconds.

A contract is a function from a bench to findings; none means that it is held. Nothing here raises for a violated contract, or prints.

    for checked in examine(subject, samples):
        print(checked.contract.holds if checked.held else checked.findings[0].headline)
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from pytest_overfit.contracts.bench import Bench
from pytest_overfit.contracts.branches import branches_carry
from pytest_overfit.contracts.data import (
    features_are_finite,
    features_are_scaled,
    features_vary,
    samples_are_stable,
    samples_do_not_conflict,
    targets_are_readable,
)
from pytest_overfit.contracts.decoder import blanks_agree, decoder_reads_ideal_paths
from pytest_overfit.contracts.dependence import all_parts_are_wired, all_that_learns_is_trained
from pytest_overfit.contracts.device import loss_is_the_same_on_gpu
from pytest_overfit.contracts.failure import Unexaminable, failed, network_runs
from pytest_overfit.contracts.finite import numbers_are_finite
from pytest_overfit.contracts.gradients import gradients_are_true
from pytest_overfit.contracts.leaks import clips_are_independent, output_is_repeatable, padding_is_ignored
from pytest_overfit.contracts.lengths import steps_are_real, targets_fit
from pytest_overfit.contracts.loss import loss_is_ctc
from pytest_overfit.contracts.masking import input_is_shown_in_train_mode
from pytest_overfit.contracts.modes import statistics_are_gathered
from pytest_overfit.contracts.output import output_is_normalised, output_starts_uniform
from pytest_overfit.contracts.place import answers_follow, order_is_seen
from pytest_overfit.contracts.targets import labels_are_in_reach, targets_differ
from pytest_overfit.finding import Finding, accepting, naming
from pytest_overfit.subject import Sample, Subject

__all__ = ["CONTRACTS", "Checked", "Contract", "breaks_rungs", "check", "examine", "fit", "stale_acceptances"]


@dataclass(frozen=True, kw_only=True)
class Contract:
    """What must hold. name: of one glance. holds: the sentence that is true where nothing was found. about: what it examines."""

    name: str
    holds: str
    about: Literal["data", "loss", "decoder", "network"]
    examine: Callable[[Bench], tuple[Finding, ...]]


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A contract and what was found. skipped: why it was not examined; it is then neither held nor violated."""

    contract: Contract
    findings: tuple[Finding, ...] = ()
    skipped: str | None = None

    @property
    def held(self) -> bool:
        """Nothing was found, not even what fails nothing."""
        return not self.findings and self.skipped is None


CONTRACTS: tuple[Contract, ...] = (
    Contract(name="finite features", holds="every feature is a finite number, in one layout", about="data", examine=features_are_finite),
    Contract(name="readable targets", holds="every target has tokens, all in the vocabulary, none blank", about="data", examine=targets_are_readable),
    Contract(name="moving features", holds="every clip changes over time", about="data", examine=features_vary),
    Contract(name="stable samples", holds="fetching the samples twice gives the same ones", about="data", examine=samples_are_stable),
    Contract(name="no conflicts", holds="no two clips share features and differ in target", about="data", examine=samples_do_not_conflict),
    Contract(name="telling targets", holds="targets differ, and no ordinary token fills them up", about="data", examine=targets_differ),
    Contract(name="scaled features", holds="features are of unit scale, or the network normalises them", about="data", examine=features_are_scaled),
    Contract(name="own loss", holds="the loss is CTC of the clips, tokens and steps it is given", about="loss", examine=loss_is_ctc),
    Contract(name="same loss on the GPU", holds="the loss is the same on the GPU, where there is one", about="loss", examine=loss_is_the_same_on_gpu),
    Contract(name="one blank", holds="loss, decoder and subject agree on the blank", about="decoder", examine=blanks_agree),
    Contract(name="ideal paths", holds="the decoder reads ideal paths back as their targets", about="decoder", examine=decoder_reads_ideal_paths),
    Contract(name="running network", holds="the network runs on its own samples", about="network", examine=network_runs),
    Contract(name="finite numbers", holds="output and gradients are finite numbers", about="network", examine=numbers_are_finite),
    Contract(name="log-probabilities", holds="every step of the output sums to 1", about="network", examine=output_is_normalised),
    Contract(name="real steps", holds="declared steps are those the network gives", about="network", examine=steps_are_real),
    Contract(name="feasible targets", holds="every target fits in the steps its clip has", about="network", examine=targets_fit),
    Contract(name="repeatable output", holds="eval mode gives the same output each time", about="network", examine=output_is_repeatable),
    Contract(name="independent clips", holds="a clip's output does not depend on its batch mates", about="network", examine=clips_are_independent),
    Contract(name="ignored padding", holds="a clip's output does not depend on padding", about="network", examine=padding_is_ignored),
    Contract(name="gathered statistics", holds="batch norms gather what they use in eval mode", about="network", examine=statistics_are_gathered),
    Contract(
        name="whole wiring", holds="the output uses all of its input, gradients reach all modules", about="network", examine=all_parts_are_wired
    ),
    Contract(name="open branches", holds="nothing trained stands behind a gate frozen at zero", about="network", examine=branches_carry),
    Contract(name="true gradients", holds="gradients are how the output changes", about="network", examine=gradients_are_true),
    Contract(name="shown input", holds="train mode shows most of each clip", about="network", examine=input_is_shown_in_train_mode),
    Contract(name="own place", holds="the output answers where the input changes", about="network", examine=answers_follow),
    Contract(name="seen order", holds="frames in another order give another output", about="network", examine=order_is_seen),
    Contract(name="labels in reach", holds="every label of a target can be emitted", about="network", examine=labels_are_in_reach),
    Contract(name="all trained", holds="every parameter with a gradient is in the optimiser", about="network", examine=all_that_learns_is_trained),
    Contract(name="uniform start", holds="the loss of a fresh network stands near the uniform level", about="network", examine=output_starts_uniform),
)


FOLLOWS: dict[str, set[str]] = {
    "batch_leak": {"finite numbers", "repeatable output"},
    "carried_state": {"finite numbers"},
    "clipped_output": {"finite numbers"},
    "dead_branch": {"finite numbers", "input_ignored"},
    "detached_branch": {"finite numbers"},
    "exploding_signal": {"finite numbers", "scaled features", "unreachable_label"},
    "false_gradient": {"finite numbers", "repeatable output", "input_ignored", "exploding_signal"},
    "input_destroyed": {"finite numbers"},
    "input_ignored": {"finite numbers"},
    "order_blind": {"finite numbers", "repeatable output", "independent clips", "real steps", "input_ignored"},
    "padding_leak": {"finite numbers", "repeatable output", "independent clips", "place_lost"},
    "place_lost": {"finite numbers", "repeatable output", "independent clips", "real steps", "input_ignored", "order_blind"},
    "random_in_eval": {"finite numbers"},
    "scaled_gradient": {"finite numbers", "repeatable output"},
    "skipped_frames": {"finite numbers", "feasible targets", "real steps"},
    "time_collapse": {"real steps", "degenerate_targets"},
    "unnormalised_output": {"finite numbers"},
    "unreachable_label": {"finite numbers"},
    "unused_module": {"finite numbers", "dead_branch"},
}
"""Findings about a network that say nothing of their own where one of these contracts is violated, or one of these findings made."""


HARMLESS_TO_MEMORY = {
    "batch_leak",
    "dead_branch",
    "degenerate_targets",
    "detached_branch",
    "padding_leak",
    "place_lost",
    "skipped_frames",
    "unused_module",
}
"""Findings that fail a test and do not keep a network from memorising: a broken rung needs another reason."""


def breaks_rungs(finding: Finding) -> bool:
    """Whether a finding is reason enough for a rung to break."""
    return finding.fails() and finding.name not in HARMLESS_TO_MEMORY


def examine(
    subject: Subject, samples: Sequence[Sample], *, seed: int = 0, device: str | torch.device = "cpu", size: str | None = None
) -> tuple[Checked, ...]:
    """Check every contract on raw samples, which need not be fit to train on. The caller's random state is left as it was."""
    bench = Bench(subject=subject, samples=tuple(samples), seed=seed, device=device, size=size)
    devices = [torch.device(device)] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices):
        checked = tuple(_checked(contract, bench) for contract in (*CONTRACTS, *subject.contracts))
    failing = [(one.contract.name, finding.name) for one in checked for finding in one.findings if finding.severity == "failure"]
    violated = {name for names in failing for name in names}
    told = (_without_consequences(one, violated) for one in checked)
    return tuple(replace(one, findings=accepting(one.findings, subject.accept)) for one in told)


def stale_acceptances(subject: Subject, checked: Sequence[Checked], *, elsewhere: Collection[str] = ()) -> tuple[Finding, ...]:
    """What the subject accepts and no contract finds any more. elsewhere: findings that others than contracts give, which cannot be told here.

    Nothing is said where a contract could not be examined: it may have found what is accepted.
    """
    found = {finding.name for one in checked for finding in one.findings}
    gone = [name for name in subject.accept if name not in found and name not in elsewhere]
    if not gone or any(one.skipped for one in checked):
        return ()
    return (
        Finding(
            name="stale_acceptance",
            headline=f"the subject accepts what is no longer found: {naming(gone)}",
            evidence=tuple(f"{name}: {subject.accept[name]}" for name in gone),
            try_="take it out of Subject(accept=...), or check how it is spelt",
            status="confirmed",
            severity="warning",
        ),
    )


def _without_consequences(checked: Checked, violated: set[str]) -> Checked:
    """One report a cause: leave out what follows from another violated contract."""
    own = tuple(finding for finding in checked.findings if not FOLLOWS.get(finding.name, set()) & violated)
    if len(own) == len(checked.findings) or checked.contract.about != "network":
        return checked
    dropped = ", ".join(finding.name for finding in checked.findings if finding not in own)
    return Checked(contract=checked.contract, findings=own, skipped=None if own else f"{dropped} follows from what was found elsewhere")


def fit(
    subject: Subject, samples: Sequence[Sample], *, seed: int = 0, device: str | torch.device = "cpu", size: str | None = None
) -> tuple[Finding, ...]:
    """The one contract that a rung cannot do without: every target fits in the steps that the network has for it."""
    bench = Bench(subject=subject, samples=tuple(samples), seed=seed, device=device, size=size)
    devices = [torch.device(device)] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices):
        return accepting(targets_fit(bench), subject.accept)


def check(
    subject: Subject, samples: Sequence[Sample], *, seed: int = 0, device: str | torch.device = "cpu", size: str | None = None
) -> tuple[Finding, ...]:
    """The findings of all contracts, in their order; none where all are held."""
    return tuple(finding for checked in examine(subject, samples, seed=seed, device=device, size=size) for finding in checked.findings)


def _checked(contract: Contract, bench: Bench) -> Checked:
    if contract.about == "network" and not bench.usable:
        return Checked(contract=contract, skipped="no sample is fit to be run")
    if contract.about == "network" and bench.failure and contract.examine is not network_runs:
        return Checked(contract=contract, skipped="the network does not run")
    try:
        return Checked(contract=contract, findings=bench.once(contract.examine))
    except Unexaminable as reason:
        return Checked(contract=contract, skipped=str(reason))
    except Exception as error:  # the subject's own code runs here: what it raises is a finding like any other
        return Checked(contract=contract, findings=(failed(f"{contract.about}_fails", f"`{contract.name}` cannot be examined", error),))
