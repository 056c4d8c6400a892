"""Contracts examined: what must hold of a subject before any training, checked in seconds.

Nothing here raises for a violated contract, or prints.

    for checked in examine(subject, samples):
        print(checked.contract.holds if checked.held else checked.findings[0].headline)
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from pytest_overfit import errors
from pytest_overfit.finding import Finding, accepting, naming
from pytest_overfit.findings.acceptance import STALE_ACCEPTANCE
from pytest_overfit.findings.bench import Bench
from pytest_overfit.findings.book import nearest
from pytest_overfit.findings.catalogue import CONTRACTS, RECORDS, record_of
from pytest_overfit.findings.lengths import targets_fit
from pytest_overfit.findings.record import Contract
from pytest_overfit.findings.running import FAILURES, Unexaminable, network_runs, raised
from pytest_overfit.findings.targets import READABLE_TARGETS
from pytest_overfit.host import own_randomness
from pytest_overfit.spilled import kept
from pytest_overfit.subject import Sample, Subject


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A contract and what was found.

    skipped: why it was not examined; it is then neither held nor violated.
    """

    contract: Contract
    findings: tuple[Finding, ...] = ()
    skipped: str | None = None

    @property
    def held(self) -> bool:
        """Nothing was found, not even what fails nothing."""
        return not self.findings and self.skipped is None


def breaks_rungs(finding: Finding, subject: Subject) -> bool:
    """Whether a finding is reason enough for a rung of this subject to break."""
    record = record_of(finding.name, subject)
    return finding.fails() and not (record and record.harmless)


def examine(
    subject: Subject,
    samples: Sequence[Sample],
    *,
    seed: int = 0,
    device: str | torch.device = "cpu",
    size: str | None = None,
    contracts: Sequence[Contract] | None = None,
) -> tuple[Checked, ...]:
    """Check contracts, every one unless some are given, on raw samples, which need not be fit to
    train on.

    The caller's random state is left as it was.

    Of a subject that is known from outside alone, only its targets are looked at.
    """
    if subject.loop is not None and subject.loop.outside:
        contracts = (READABLE_TARGETS,) if contracts is None else ()
    bench = Bench(subject=subject, samples=kept(samples), seed=seed, device=device, size=size)
    with own_randomness(device):
        checked = tuple(
            _checked(contract, bench)
            for contract in ((*CONTRACTS, *subject.contracts) if contracts is None else contracts)
        )
    causes = {
        f.name
        for one in checked
        if one.contract.about in ("data", "network")
        for f in one.findings
        if f.severity == "failure"
    }
    reported = (_without_consequences(one, causes) for one in _failing_once(checked))
    return tuple(replace(one, findings=accepting(one.findings, subject.accept)) for one in reported)


def stale_acceptances(
    subject: Subject, checked: Sequence[Checked], *, elsewhere: Collection[str] = ()
) -> tuple[Finding, ...]:
    """What the subject accepts and no contract finds any more. elsewhere: findings that others than
    contracts give, which cannot be told here.

    A contract that was not examined may have found what is accepted.
    """
    found = {finding.name for one in checked for finding in one.findings}
    unknown = {record.name for one in checked if one.skipped for record in one.contract.finds}
    gone = [name for name in subject.accept if name not in {*found, *unknown, *elsewhere}]
    if not gone:
        return ()
    return (
        STALE_ACCEPTANCE.finding(
            headline=f"the subject accepts what is no longer found: {naming(gone)}",
            evidence=tuple(
                f"{name}: {subject.accept[name]}{_misspelt(name, subject)}" for name in gone
            ),
            try_="take it out of Subject(accept=...), or check how it is spelt",
            status="confirmed",
            severity="warning",
        ),
    )


def _misspelt(name: str, subject: Subject) -> str:
    """That there is no finding of that name, and what it is like, in words; nothing where there is
    one.
    """
    if record_of(name, subject):
        return ""
    near = nearest(name, [*RECORDS])
    return " (there is no such finding" + (f"; did you mean {near[0]}?)" if near else ")")


def without_consequences(found: Sequence[Finding], causes: Collection[str]) -> tuple[Finding, ...]:
    """One report for each cause: the findings but those that follow from one of these."""
    return tuple(
        f
        for f in found
        if not ((record := record_of(f.name)) and set(record.follows) & set(causes))
    )


def _failing_once(checked: Sequence[Checked]) -> Iterator[Checked]:
    """The same, but what of the subject raises an error in several contracts is told by the
    first.
    """
    seen: set[str] = set()
    for one in checked:
        failing = {finding.name for finding in one.findings} & {
            record.name for record in FAILURES.values()
        }
        yield (
            replace(one, findings=(), skipped=f"{', '.join(sorted(failing))} was found elsewhere")
            if failing & seen
            else one
        )
        seen |= failing


def _without_consequences(checked: Checked, causes: Collection[str]) -> Checked:
    own = without_consequences(checked.findings, causes)
    if len(own) == len(checked.findings) or checked.contract.about != "network":
        return checked
    dropped = ", ".join(finding.name for finding in checked.findings if finding not in own)
    return Checked(
        contract=checked.contract,
        findings=own,
        skipped=None if own else f"{dropped} follows from what was found elsewhere",
    )


def check_feasible(
    subject: Subject,
    samples: Sequence[Sample],
    *,
    seed: int = 0,
    device: str | torch.device = "cpu",
    size: str | None = None,
) -> tuple[Finding, ...]:
    """The one contract that a rung cannot do without: every target fits in the steps that the
    network has for it.
    """
    with own_randomness(device):
        bench = Bench(subject=subject, samples=kept(samples), seed=seed, device=device, size=size)
        return accepting(targets_fit(bench), subject.accept)


def check(
    subject: Subject,
    samples: Sequence[Sample],
    *,
    seed: int = 0,
    device: str | torch.device = "cpu",
    size: str | None = None,
) -> tuple[Finding, ...]:
    """The findings of all contracts, in their order; none where all are held."""
    return tuple(
        finding
        for checked in examine(subject, samples, seed=seed, device=device, size=size)
        for finding in checked.findings
    )


def is_found_again(
    finding: Finding,
    subject: Subject,
    samples: Sequence[Sample],
    *,
    seed: int = 0,
    device: str | torch.device = "cpu",
    size: str | None = None,
) -> bool:
    """Whether the contracts that may find it still do; what the subject's own code raises, any of
    them may.
    """
    every = (*CONTRACTS, *subject.contracts)
    raises = finding.name in {record.name for record in FAILURES.values()}
    contracts = [
        contract
        for contract in every
        if raises or finding.name in {record.name for record in contract.finds}
    ]
    checked = examine(subject, samples, seed=seed, device=device, size=size, contracts=contracts)
    return any(other.name == finding.name for one in checked for other in one.findings)


def _checked(contract: Contract, bench: Bench) -> Checked:
    if contract.about == "network" and not bench.usable:
        return Checked(contract=contract, skipped="no sample is fit to be run")
    if contract.about == "network" and bench.failure and contract.examine is not network_runs:
        why = "the network does not run" if bench.is_built else "the network cannot be built"
        return Checked(contract=contract, skipped=why)
    try:
        return Checked(contract=contract, findings=bench.once(contract.examine))
    except Unexaminable as reason:
        return Checked(contract=contract, skipped=str(reason))
    except (
        Exception
    ) as error:  # the subject's own code runs here: what it raises is a finding like any other
        if errors.of_kept_graph(error):  # the contract of repeatable output names it
            return Checked(contract=contract, skipped=errors.GRAPH_KEPT)
        return Checked(
            contract=contract,
            findings=(raised(contract.about, f"`{contract.name}` cannot be examined", error),),
        )
