"""One fault in one host: what the tool says of it, and whether that is right."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from examination.hosts import HOSTS, host_subject, raw
from examination.planted import UNSEEN, faults_for
from pytest_overfit.climb.ladder import Outcome, Rung, criteria_for
from pytest_overfit.explain.diagnosis import Diagnosis, diagnose, examine_rung
from pytest_overfit.explain.trials import Trial, remedies_for, try_remedy
from pytest_overfit.finding import Finding
from pytest_overfit.findings.examine import check
from pytest_overfit.recipe import default_recipe
from pytest_overfit.subject import Subject
from tests.engine.faults import Fault

CLIMBED = (1, 2, 5, 10)
TRIAL_SECONDS = 120.0


@dataclass(kw_only=True)
class Row:
    """What became of a fault. where: "contract", "R2", "control", or "" where it went unnoticed.

    found: names, best first, with modules.
    """

    kind: str
    network: str
    name: str
    seed: int = 0
    detected: bool = False
    where: str = ""
    expected: str = ""
    expected_module: str | None = None
    expected_where: str = ""
    found: list[str] = field(default_factory=list)
    modules: list[str | None] = field(default_factory=list)
    headlines: list[str] = field(default_factory=list)
    right_first: bool = False
    right_any: bool = False
    right_module: bool | None = None
    right_scale: bool = False
    remedy: str | None = None
    trials: list[str] = field(default_factory=list)
    no_trial: bool = False
    alarms: list[str] = field(default_factory=list)
    runs: int = 0
    error: str | None = None
    seconds: float = 0.0

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def examine_fault(network: str, name: str, seed: int = 0, clips: Path | None = None) -> Row:
    """Plant a fault and let the tool speak."""
    host = HOSTS[network]
    fault = next(fault for fault in faults_for(host) if fault.name == name)
    return examined(network, fault, host_subject(host, clips), seed)


def examined(
    network: str,
    fault: Fault,
    healthy: Subject,
    seed: int = 0,
    *,
    known: Collection[tuple[str, str | None]] = (),
) -> Row:
    """The row of a fault that is planted in a healthy subject.

    known: name and module of what is told of the healthy one as well, which tells of no fault.
    """
    began = time.monotonic()
    row = Row(
        kind="fault",
        network=network,
        name=fault.name,
        seed=seed,
        expected=fault.finding,
        expected_module=fault.module,
        expected_where=fault.caught_by,
    )
    subject = fault.plant(healthy)
    # What fails comes first, as where a rung is explained.
    told = check(subject, raw(subject), seed=seed)
    new = [finding for finding in told if (finding.name, finding.module) not in known]
    findings = sorted(new, key=lambda one: not one.fails())
    if findings:
        row.where = "contract"
        _record(row, fault, findings)
    if not findings or "contract" not in fault.caught_by:
        rung, outcome = _climb(row, fault, subject, seed)
        if outcome.status == "broken":
            diagnosis = diagnose(rung, outcome, trials="auto")
            _record(row, fault, diagnosis.findings)
            _tried(row, diagnosis.trials)
            row.error = diagnosis.failure
            row.no_trial = not _has_remedy(diagnosis)
        elif shown := examine_rung(rung, outcome):
            row.where = "diagnosis"
            _record(row, fault, shown)
            row.no_trial = True
    elif findings:
        _try(row, fault, subject, findings, seed)
    row.detected = bool(row.where)
    row.seconds = time.monotonic() - began
    return row


def _record(row: Row, fault: Fault, findings: Sequence[Finding]) -> None:
    row.found = [finding.name for finding in findings]
    row.modules = [finding.module for finding in findings]
    row.headlines = [finding.headline for finding in findings]
    row.right_first = bool(findings) and findings[0].name == fault.finding
    row.right_any = fault.finding in row.found
    row.right_scale = row.where in fault.caught_by.split() or (
        row.where == "contract" and fault.name not in UNSEEN
    )
    if fault.module is not None:
        named = next((finding for finding in findings if finding.name == fault.finding), None)
        row.right_module = named is not None and is_at(named.module, fault.module)


def is_at(found: str | None, planted: str) -> bool:
    """Whether a module is the one planted in, a part of it, or a function in its code."""
    return found is not None and (found + ".").startswith(planted + ".")


def _climb(row: Row, fault: Fault, subject: Subject, seed: int) -> tuple[Rung, Outcome]:
    """Climb until a rung breaks; the last rung and what became of it."""
    for samples in CLIMBED:
        recipe = fault.recipe(default_recipe(samples))
        rung = Rung(
            subject=subject,
            samples=samples,
            recipe=recipe,
            criteria=criteria_for(samples),
            seeds=(seed,),
        )
        outcome = rung.climb()
        row.runs += 1
        if outcome.status == "broken":
            controlled = any(
                attempt.findings and all(v.held for v in attempt.verdicts)
                for attempt in outcome.attempts
            )
            row.where = row.where or ("control" if controlled else f"R{samples}")
            break
    return rung, outcome


def _has_remedy(diagnosis: Diagnosis) -> bool:
    return any(map(remedies_for, diagnosis.findings)) or bool(diagnosis.trials)


def _try(row: Row, fault: Fault, subject: Subject, findings: Sequence[Finding], seed: int) -> None:
    """Try the remedies of what contracts found, on the smallest rung that shows it."""
    remedies = [(finding, remedy) for finding in findings for remedy in remedies_for(finding)]
    row.no_trial = not remedies
    if not remedies:
        return
    samples = next(
        (
            n
            for n in (2, 5, 10)
            if {f.name for f in check(subject, raw(subject, n), seed=seed)} >= {findings[0].name}
        ),
        10,
    )
    rung = Rung(
        subject=subject,
        samples=samples,
        recipe=fault.recipe(default_recipe(samples)),
        criteria=criteria_for(samples),
        seeds=(seed,),
    )
    for finding, remedy in remedies:
        trial = try_remedy(rung, finding, remedy, seconds=TRIAL_SECONDS)
        _tried(row, [trial])
        if trial.held:
            return


def _tried(row: Row, trials: Sequence[Trial]) -> None:
    for trial in trials:
        came = "held" if trial.held else trial.why or "did not hold"
        row.trials.append(
            re.sub(r"\s+", " ", f"{trial.finding} / {trial.remedy}: {came} ({trial.seconds:.1f} s)")
        )
        if trial.held and row.remedy is None:
            row.remedy = trial.remedy
