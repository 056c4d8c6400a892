"""A record: all that is known of one kind of finding, in one place.

Contracts and detectors say how it is looked for.

    TIME_COLLAPSE = Record(
        name="time_collapse", stage="network", means="...", detected="...", mend="...",
        remedies=(LESS_STRIDE,), planted=("ctc-infeasible",),
    )

    def targets_fit(bench):
        ...
        return (TIME_COLLAPSE.finding(headline="...", module="conv"),)

    FEASIBLE_TARGETS = Contract(
        name="feasible targets", holds="...", about="network",
        examine=targets_fit, finds=(TIME_COLLAPSE,),
    )

Only a record makes a finding, so that there is none without a name that is explained, planted and
answered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pytest_overfit.finding import Finding

if TYPE_CHECKING:
    from pytest_overfit.explain.evidence import Evidence
    from pytest_overfit.findings.remedies import Remedy

Stage = Literal["data", "loss", "decoder", "network", "training", "loop", "run", "tool"]
"""Where a finding is looked for: in what a subject is made of, in a rung that broke, in the user's
own training, in a log, or in this tool.
"""


class BadRecord(ValueError):
    """A record that leaves something unsaid; the message names it and the field."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One kind of finding.

    name:       after the bad thing. Texts, which are plain literals, so that they are read without
                running anything:
    means:      what is wrong, and why it matters. detected: how it is found. mend: what to change.
    follows:    names of findings of which this may be a consequence: beside one of them it is left
                out.
    remedies:   what is tried on a broken rung, likeliest first; where nothing can be tried,
                `no_remedy` says why.
    planted:    faults of the test suite that prove it is found; where none can be planted,
                `not_planted` says why.
    harmless:   it keeps no network from memorising: a broken rung needs another reason.
    spreads:    where it shows at one module it shows at those behind too, and is told of the first
                alone.
    last_resort: it is told only where nothing else explains a broken rung.
    """

    name: str
    stage: Stage
    means: str
    detected: str
    mend: str
    follows: tuple[str, ...] = ()
    remedies: tuple[Remedy, ...] = ()
    no_remedy: str = ""
    planted: tuple[str, ...] = ()
    not_planted: str = ""
    harmless: bool = False
    spreads: bool = False
    last_resort: bool = False

    def __post_init__(self) -> None:
        for field in ("means", "detected", "mend"):
            if not getattr(self, field).strip():
                raise BadRecord(f"record {self.name}: {field} is empty")
        if bool(self.remedies) == bool(self.no_remedy):
            raise BadRecord(
                f"record {self.name}: give remedies, or say in no_remedy why none can be tried"
            )
        if bool(self.planted) == bool(self.not_planted):
            raise BadRecord(
                f"record {self.name}: name planted faults, or say in not_planted why none can "
                "be planted"
            )

    def finding(
        self,
        *,
        headline: str,
        evidence: Sequence[str] = (),
        module: str | None = None,
        samples: Sequence[str] = (),
        try_: str | None = None,
        status: Literal["suspected", "confirmed"] = "suspected",
        severity: Literal["failure", "warning"] = "failure",
        began: float | None = None,
    ) -> Finding:
        """A finding of this kind. Fields as those of `Finding`."""
        return Finding(
            name=self.name,
            headline=headline,
            evidence=tuple(evidence),
            module=module,
            samples=tuple(samples),
            try_=try_,
            status=status,
            severity=severity,
            began=began,
        )


About = Literal["data", "loss", "decoder", "network", "loop"]


@dataclass(frozen=True, kw_only=True)
class Contract:
    """What must hold before any training.

    name: of one glance. holds: the sentence that is true where nothing was found. about: what it
    examines. examine: bench -> findings, or, of a loop, its rehearsal -> findings.
    finds: the records that it may give findings of. may_be_meant: what it finds may be so on
    purpose, and is told last.
    """

    name: str
    holds: str
    about: About
    examine: Callable[[Any], tuple[Finding, ...]]
    finds: tuple[Record, ...] = ()
    may_be_meant: bool = False


@dataclass(frozen=True, kw_only=True)
class Detector:
    """A look at the evidence of a climbed rung: what it finds of `record`, or None.

    That stays suspected until a remedy's trial holds.
    """

    record: Record
    look: Callable[[Evidence], Finding | None]
