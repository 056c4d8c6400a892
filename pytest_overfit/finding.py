"""A finding: a named problem, where it sits, what shows it, and what to try."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A named problem.

    name:     named after the bad thing, such as `time_collapse`. headline: one sentence that stands
              alone.
    evidence: what was counted or measured, one fact each. module: its qualified name, where the
    problem sits in one.
    samples:  the names of those it concerns. try_: what to change.
    status:   `confirmed` where the fact was counted or shown by intervention, `suspected` where it
              was inferred.
    began:    the epoch of a training run at which it began.
    severity: a `warning` is told and fails nothing: lawful and usual, or too small to matter.
    accepted: why the subject accepts it: it is then shown, and fails nothing either.
    part:     of the user's own training, that is guilty: its optimiser, its batches.
    """

    name: str
    headline: str
    evidence: tuple[str, ...] = ()
    module: str | None = None
    samples: tuple[str, ...] = ()
    try_: str | None = None
    status: Literal["suspected", "confirmed"] = "suspected"
    began: float | None = None
    severity: Literal["failure", "warning"] = "failure"
    accepted: str | None = None
    part: str | None = None

    def fails(self, *, strict: bool = False) -> bool:
        """Whether it fails a test. strict: warnings do too; what is accepted never does."""
        return self.accepted is None and (strict or self.severity == "failure")

    def to_json(self) -> dict[str, object]:
        """Its fields, in plain types."""
        return asdict(self)


def accepting(findings: Sequence[Finding], reasons: Mapping[str, str]) -> tuple[Finding, ...]:
    """The findings, those whose name has a reason marked as accepted for it."""
    return tuple(replace(finding, accepted=reasons.get(finding.name)) for finding in findings)


def naming(names: tuple[str, ...] | list[str], most: int = 5) -> str:
    """Names for a sentence: the first few, then how many more."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def counted(number: int, noun: str) -> str:
    """A number and its noun: 1 sample, 2 samples."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
