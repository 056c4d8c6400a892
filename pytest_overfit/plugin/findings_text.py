"""Findings in words: of contracts, of a diagnosis, of what a subject passes with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pytest_overfit.finding import Finding, counted, naming
from pytest_overfit.findings.examine import Checked
from pytest_overfit.plugin.wording import labelled

NAMED = 3
"""Contracts that one reason keeps from being examined, up to which they are named."""


def contracts_headline(subject: str, violated: Sequence[Finding]) -> str:
    """A subject that breaks before training, in one line."""
    more = f" (and {counted(len(violated) - 1, 'more finding')})" if len(violated) > 1 else ""
    return f"{subject} breaks before training: {violated[0].name}: {violated[0].headline}{more}"


def diagnosis_headline(subject: str, findings: Sequence[Finding]) -> str:
    """What a diagnosis found, in one line."""
    more = f" (and {counted(len(findings) - 1, 'more finding')})" if len(findings) > 1 else ""
    return f"{subject}: {findings[0].status} {findings[0].name}: {findings[0].headline}{more}"


def contracts_body(checked: Sequence[Checked], stale: Sequence[Finding] = ()) -> str:
    """Every contract with what was found, failures first, accepted findings last; those that hold
    in one line.
    """
    found = sorted([*(finding for one in checked for finding in one.findings), *stale], key=_weight)
    rows = [row for finding in found for row in finding_rows(finding)]
    unexamined = _unexamined(checked)
    rows += [("unexamined", "\n".join(unexamined))] if unexamined else []
    rows.append(("held", ", ".join(one.contract.name for one in checked if one.held) or "none"))
    return "\n".join(labelled(label, text) for label, text in rows)


def contracts_line(subject: str, checked: Sequence[Checked], stale: Sequence[Finding] = ()) -> str:
    """ "contracts: my_net: 36 hold, 1 warning; not examined: same loss on the GPU (no CUDA
    device)".
    """
    found = Counter(label_of(f) for f in (*(f for one in checked for f in one.findings), *stale))
    counts = [f"{sum(one.held for one in checked)} hold"]
    counts += [counted(found[label], label) for label in ("finding", "warning") if found[label]]
    counts += [f"{found['accepted']} accepted"] if found["accepted"] else []
    unexamined = _unexamined(checked)
    rest = f"; not examined: {'; '.join(unexamined)}" if unexamined else ""
    return f"contracts: {subject}: {', '.join(counts)}{rest}"


def _unexamined(checked: Sequence[Checked]) -> list[str]:
    """For each reason, which contracts were not examined: their names, or how many there are."""
    names: dict[str, list[str]] = {}
    for one in checked:
        if one.skipped:
            names.setdefault(one.skipped, []).append(one.contract.name)
    return [
        f"{', '.join(some) if len(some) <= NAMED else f'{len(some)} contracts'} ({why})"
        for why, some in names.items()
    ]


def findings_body(findings: Sequence[Finding]) -> str:
    """All that is known of each finding."""
    return "\n".join(
        labelled(label, text) for finding in findings for label, text in finding_rows(finding)
    )


def finding_rows(finding: Finding) -> list[tuple[str, str]]:
    """A finding as labelled rows: what, where, why, whom, what to try; of an accepted one, the
    reason in the place of the last.
    """
    rows = [(label_of(finding), f"{finding.name} ({finding.status}): {finding.headline}")]
    rows += [("where", finding.module)] if finding.module else []
    rows += [("why", "\n".join(finding.evidence))] if finding.evidence else []
    rows += [("samples", naming(finding.samples))] if finding.samples else []
    if finding.accepted:
        return [*rows, ("reason", finding.accepted)]
    return rows + ([("try", finding.try_)] if finding.try_ else [])


def label_of(finding: Finding) -> str:
    """ "finding" where it fails, "warning" where it does not, "accepted" where the subject accepts
    it.
    """
    return (
        "accepted"
        if finding.accepted
        else "warning"
        if finding.severity == "warning"
        else "finding"
    )


def _weight(finding: Finding) -> int:
    return ("finding", "warning", "accepted").index(label_of(finding))


def note_line(subject: str, finding: Finding) -> str:
    """What a subject passes with, in one line: "warning: my_net: skipped_frames: ..."."""
    reason = f" (accepted: {finding.accepted})" if finding.accepted else ""
    return f"{label_of(finding)}: {subject}: {finding.name}: {finding.headline}{reason}"
