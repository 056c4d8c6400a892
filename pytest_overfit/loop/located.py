"""A finding of a loop, with its part and its line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from pytest_overfit.finding import Finding
from pytest_overfit.findings.record import Record
from pytest_overfit.loop.loop import Part


def loop_finding(
    record: Record,
    part: Part | None,
    *,
    headline: str,
    where: str | None,
    evidence: Sequence[str] = (),
    samples: Sequence[str] = (),
    try_: str | None = None,
    severity: Literal["failure", "warning"] = "failure",
) -> tuple[Finding, ...]:
    """One finding of what was counted in a loop. part: of the loop, that is guilty.

    where: `file:line` of the user's code.
    """
    line = f" ({where})" if where else ""
    finding = record.finding(
        headline=f"{headline}{line}",
        evidence=evidence,
        samples=samples,
        try_=try_,
        status="confirmed",
        severity=severity,
    )
    return (replace(finding, part=part),)
