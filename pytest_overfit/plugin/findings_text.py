"""Findings in words: of contracts, of a diagnosis, of what a subject passes with."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_overfit.finding import Finding, counted, naming
from pytest_overfit.findings.examine import Checked
from pytest_overfit.plugin.wording import labelled


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
    skipped = [f"{one.contract.name}: {one.skipped}" for one in checked if one.skipped]
    rows += [("skipped", "\n".join(skipped))] if skipped else []
    rows.append(("held", ", ".join(one.contract.name for one in checked if one.held) or "none"))
    return "\n".join(labelled(label, text) for label, text in rows)


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
