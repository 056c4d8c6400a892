"""What the fixtures `overfit_contracts` and `overfit_diagnosis` give: a subject, looked at whether
it climbs or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pytest_overfit.climb.ladder import RUNGS
from pytest_overfit.explain.diagnosis import examine_rung
from pytest_overfit.finding import Finding, accepting
from pytest_overfit.findings.catalogue import DETECTORS
from pytest_overfit.findings.examine import Checked, examine, stale_acceptances
from pytest_overfit.findings.lost_input import INPUT_IGNORED
from pytest_overfit.findings.modes import TRAIN_EVAL_GAP
from pytest_overfit.host import lent, own_randomness
from pytest_overfit.loop.contracts import examine_loop
from pytest_overfit.plugin import findings_text
from pytest_overfit.plugin.settings import Settings
from pytest_overfit.subject import BadSample, BadSubject, Subject

DIAGNOSED = 2
"""Samples of the rung that diagnoses look at where nothing broke."""
BY_TRAINING = {INPUT_IGNORED.name, TRAIN_EVAL_GAP.name} | {one.record.name for one in DETECTORS}
"""Findings that a contract's silence does not make stale: controls and diagnoses give them too."""


class ContractViolated(AssertionError):
    """Something that must hold before any training does not."""


class Diagnosed(AssertionError):
    """A diagnosis found something in a subject, whether it climbs or not."""


# Tracebacks then read "ContractViolated: ..." without the module path in front of the headline.
ContractViolated.__module__ = Diagnosed.__module__ = "builtins"


@dataclass(kw_only=True, repr=False)
class OverfitContracts:
    """What the fixture `overfit_contracts` gives: a subject, examined before any training."""

    subject: Subject
    settings: Settings
    body: str = ""
    line: str = ""
    notes: tuple[Finding, ...] = ()

    def __repr__(self) -> str:
        return f"<contracts of {self.subject.name}>"

    def check(self) -> tuple[Checked, ...]:
        """Examine every contract on the samples of the highest rung.

        Raises ContractViolated where one does not hold. Warnings and accepted findings become
        `notes`.
        """
        __tracebackhide__ = True
        subject, settings = self.subject, self.settings
        seed, device = settings.seeds[0], settings.device
        samples = subject.offered(max(settings.rungs or RUNGS))
        with lent(settings.threads), own_randomness(device):
            checked = examine(subject, samples, seed=seed, device=device, size=settings.size)
            if subject.loop is not None:
                checked += self._loop_checked(checked, seed)
        stale = stale_acceptances(subject, checked, elsewhere=BY_TRAINING)
        self.body = findings_text.contracts_body(checked, stale)
        self.line = findings_text.contracts_line(subject.name, checked, stale)
        found = [*(finding for one in checked for finding in one.findings), *stale]
        violated, self.notes = _weighed(found, settings)
        if violated:
            raise ContractViolated(findings_text.contracts_headline(subject.name, violated))
        return checked

    def _loop_checked(self, checked: tuple[Checked, ...], seed: int) -> tuple[Checked, ...]:
        """What the contracts of the loop find; nothing where samples keep it from running, of which
        their own contracts tell. Raises ContractViolated, with the reason, for one that cannot be run.
        """
        try:
            return examine_loop(self.subject, seed=seed)
        except BadSample:
            if not any(one.contract.about == "data" and one.findings for one in checked):
                raise
            return ()
        except BadSubject as error:
            raise ContractViolated(str(error)) from None


@dataclass(kw_only=True, repr=False)
class OverfitDiagnosis:
    """What the fixture `overfit_diagnosis` gives: a subject, probed whether it climbs or not."""

    subject: Subject
    settings: Settings
    body: str = ""
    notes: tuple[Finding, ...] = ()

    def __repr__(self) -> str:
        return f"<diagnosis of {self.subject.name}>"

    def check(self) -> tuple[Finding, ...]:
        """Examine the contracts, then climb a rung of two samples and let every diagnosis look.

        One sample where there is no second. Raises Diagnosed where something is found; where a
        contract is violated, nothing is climbed.
        """
        __tracebackhide__ = True
        settings = self.settings
        samples = max(len(self.subject.offered(DIAGNOSED)), 1)
        rung = replace(settings.rung(self.subject, samples), seeds=settings.seeds[:1])
        with lent(settings.threads), own_randomness(settings.device):
            violated = rung.violated
            probed = () if violated else examine_rung(rung, rung.climb())
            findings = violated or accepting(probed, self.subject.accept)
        self.body = findings_text.findings_body(findings)
        failing, self.notes = _weighed(findings, settings)
        if failing:
            raise Diagnosed(findings_text.diagnosis_headline(self.subject.name, failing))
        return findings


def _weighed(
    findings: Sequence[Finding], settings: Settings
) -> tuple[list[Finding], tuple[Finding, ...]]:
    """What fails, and what is only told."""
    failing = [finding for finding in findings if finding.fails(strict=settings.strict)]
    return failing, tuple(finding for finding in findings if finding not in failing)
