"""One test case a rung: which rungs a session climbs, in which order its processes take them, and what a case says at its end."""

from __future__ import annotations

import math
import random
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch

from pytest_overfit import errors, report
from pytest_overfit.explain.diagnosis import Diagnosis, diagnose, examine_rung
from pytest_overfit.explain.exchange import diagnose_loop
from pytest_overfit.finding import Finding, accepting
from pytest_overfit.findings.catalogue import DETECTORS
from pytest_overfit.findings.examine import Checked, examine, stale_acceptances
from pytest_overfit.findings.modes import TRAIN_EVAL_GAP
from pytest_overfit.findings.wiring import INPUT_IGNORED
from pytest_overfit.host import lent
from pytest_overfit.ladder import RUNGS, Outcome, Progress, Rung, check_rungs, criteria_for
from pytest_overfit.loop.contracts import examine_loop
from pytest_overfit.loop.training import recipe_of_loop
from pytest_overfit.recipe import BadRecipe
from pytest_overfit.settings import Settings
from pytest_overfit.store import Store
from pytest_overfit.subject import BadSample, BadSubject, Subject, TooFewSamples

Test = TypeVar("Test", bound=Callable[..., object])
POLL_SECONDS = 0.1
SHOW_SECONDS = 0.3
DIAGNOSED = 2
"""Samples of the rung that diagnoses look at where nothing broke."""
BY_TRAINING = {INPUT_IGNORED.name, TRAIN_EVAL_GAP.name} | {detector.record.name for detector in DETECTORS}
"""Findings that a contract's silence does not make stale: controls and diagnoses give them too."""


class LadderBroken(AssertionError):
    """A rung that a fresh network could not climb."""


# Tracebacks then read "LadderBroken: ..." without the module path in front of the headline.
LadderBroken.__module__ = "builtins"


class ContractViolated(AssertionError):
    """Something that must hold before any training does not."""


ContractViolated.__module__ = "builtins"


class Diagnosed(AssertionError):
    """A diagnosis found something in a subject, whether it climbs or not."""


Diagnosed.__module__ = "builtins"


class _Abandoned(Exception):
    """A lower rung broke in another process."""


@dataclass(frozen=True)
class Case:
    """One rung of one subject, as pytest sees it."""

    subject: Subject
    samples: int

    def __str__(self) -> str:
        return f"{self.subject.name}-{self.samples} sample{'s' if self.samples > 1 else ''}"


def parametrize_with_rungs(subjects: Iterable[Subject], *, rungs: Sequence[int] | None = None) -> Callable[[Test], Test]:
    """Turn a test into one case a rung and subject. The test asks for the fixture `overfit_rung` and climbs it:

    @parametrize_with_rungs([my_subject])
    def test_overfits(overfit_rung):
        overfit_rung.climb()
    """
    return pytest.mark.overfit_ladder(tuple(subjects), rungs=check_rungs(rungs) if rungs is not None else None)


def error_text(error: Exception) -> str:
    """The exception in one line, and below it where it was raised: this package's own frames left out, unless it is an error of its own."""
    if errors.is_ours(error):
        return f"pytest-overfit itself failed: {type(error).__name__}: {errors.first_line(error)}\n{errors.whole(error)}"
    own = str(Path(__file__).parent)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(own)]
    said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return "".join([f"{said}\n", *traceback.format_list(frames)]).rstrip()


@contextmanager
def own_randomness(device: str) -> Iterator[None]:
    """Leave the global generators of torch, numpy and Python as they were: they belong to the other tests."""
    python, arrays = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[device] if device != "cpu" else []):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(arrays)


def rung_of(subject: Subject, samples: int, settings: Settings) -> Rung:
    """The rung that these settings ask for."""
    recipe = settings.recipe(subject, samples)
    return Rung(
        subject=subject,
        samples=samples,
        recipe=recipe if subject.loop is None else recipe_of_loop(recipe, subject.loop),
        criteria=criteria_for(samples, settings.bounds),
        seeds=settings.seeds,
        alpha=settings.alpha,
        beta=settings.beta,
        device=settings.device,
        size=settings.size,
    )


@dataclass(kw_only=True, repr=False)
class OverfitContracts:
    """What the fixture `overfit_contracts` gives: a subject, examined before any training."""

    subject: Subject
    settings: Settings
    body: str = ""
    notes: tuple[Finding, ...] = ()

    def __repr__(self) -> str:
        return f"<contracts of {self.subject.name}>"

    def check(self) -> tuple[Checked, ...]:
        """Examine every contract on the samples of the highest rung. Raises ContractViolated where one does not hold.

        Warnings and accepted findings become `notes`.
        """
        __tracebackhide__ = True
        most = max(self.settings.rungs or RUNGS)
        samples = self.subject.offered(most)
        with lent(self.settings.threads), own_randomness(self.settings.device):
            checked = examine(self.subject, samples, seed=self.settings.seeds[0], device=self.settings.device, size=self.settings.size)
            if self.subject.loop is not None:
                checked += examine_loop(self.subject, seed=self.settings.seeds[0])
        stale = stale_acceptances(self.subject, checked, elsewhere=BY_TRAINING)
        self.body = report.contracts_body(checked, stale)
        violated, self.notes = _weighed([*(finding for one in checked for finding in one.findings), *stale], self.settings)
        if violated:
            raise ContractViolated(report.contracts_headline(self.subject.name, violated))
        return checked


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
        """Examine the contracts, then climb a rung of two samples, or of one where there is no second, and let every diagnosis look at it.

        Raises Diagnosed where something is found; where a contract is violated, nothing is climbed.
        """
        __tracebackhide__ = True
        settings = self.settings
        samples = max(len(self.subject.offered(DIAGNOSED)), 1)
        rung = replace(rung_of(self.subject, samples, settings), seeds=settings.seeds[:1])
        with lent(settings.threads), own_randomness(settings.device):
            findings = rung.violated or accepting(examine_rung(rung, rung.climb()), self.subject.accept)
        self.body = report.findings_body(findings)
        failing, self.notes = _weighed(findings, settings)
        if failing:
            raise Diagnosed(report.diagnosis_headline(self.subject.name, failing))
        return findings


def _weighed(findings: Sequence[Finding], settings: Settings) -> tuple[list[Finding], tuple[Finding, ...]]:
    """What fails, and what is only told."""
    failing = [finding for finding in findings if finding.fails(strict=settings.strict)]
    return failing, tuple(finding for finding in findings if finding not in failing)


@dataclass(frozen=True, kw_only=True, repr=False)
class OverfitRung:
    """What the fixture `overfit_rung` gives: a case among the rungs that its session climbs."""

    case: Case
    selected: tuple[int, ...]
    key: str
    store: Store
    settings: Settings
    rerun: str

    def __repr__(self) -> str:
        return f"<rung {self.case}>"

    def climb(self) -> Outcome:
        """Climb this rung, or learn its outcome from the process that did.

        Raises LadderBroken where it broke; skips as `not tried` where a lower one did, as `not climbed` where there are too few samples.
        """
        __tracebackhide__ = True
        outcome = self.outcome()
        if outcome.status == "not tried":
            pytest.skip(report.why_not_tried(outcome))
        if outcome.status == "broken":
            raise LadderBroken(report.headline(outcome, self.diagnosis()))
        return outcome

    def known(self) -> list[Outcome]:
        """The outcomes of this session's ladder so far, this case's own among them, as `not tried` where a lower rung broke."""
        known = [outcome for samples in self.selected if (outcome := self.store.get(self.key, samples))]
        broken = next((outcome.samples for outcome in known if outcome.status == "broken"), None)
        if broken is not None and broken < self.case.samples:
            known = [outcome for outcome in known if outcome.samples != self.case.samples] + [self._not_tried(broken)]
        return known

    def diagnosis(self) -> Diagnosis | None:
        """Why this rung broke, where it did."""
        return self.store.diagnosis(self.key, self.case.samples)

    def _not_tried(self, broken: int) -> Outcome:
        return Outcome(subject=self.case.subject.name, samples=self.case.samples, status="not tried", broke_at=broken)

    def outcome(self) -> Outcome:
        """This rung's outcome. Until it is known, climb what is not yet climbed: the lowest rung, or, where others are at work, the highest."""
        while True:
            known = {samples: self.store.get(self.key, samples) for samples in self.selected if samples <= self.case.samples}
            broken = next((samples for samples, outcome in known.items() if outcome and outcome.status == "broken"), None)
            if broken is not None and broken < self.case.samples:
                return self._not_tried(broken)
            own = known[self.case.samples]
            if own and all(known.values()):
                return own
            if not self._climb_one():
                time.sleep(POLL_SECONDS)

    def _climb_one(self) -> bool:
        known = {samples: self.store.get(self.key, samples) for samples in self.selected}
        broken = min((samples for samples, outcome in known.items() if outcome and outcome.status == "broken"), default=math.inf)
        open_rungs = [samples for samples, outcome in known.items() if not outcome and samples < broken]
        for samples in open_rungs[:1] + open_rungs[:0:-1]:
            with self.store.claim(self.key, samples) as mine:
                if mine and not self.store.get(self.key, samples):
                    self._train(samples)
                    return True
        return False

    def _train(self, samples: int) -> None:
        device = self.settings.device
        try:
            if device == "cpu":
                outcome, diagnosis = self._watched(samples, device)
            else:
                with self.store.device_lock(device):
                    outcome, diagnosis = self._watched(samples, device)
        except _Abandoned:
            return
        except TooFewSamples as error:
            outcome = Outcome(subject=self.case.subject.name, samples=samples, status="not tried", available=error.available)
            diagnosis = None
        except (BadSample, BadSubject, BadRecipe) as error:
            outcome, diagnosis = self._failed(samples, str(error)), None
        except Exception as error:
            outcome, diagnosis = self._failed(samples, error_text(error)), None
        self.store.put(self.key, outcome, diagnosis)

    def _failed(self, samples: int, error: str) -> Outcome:
        return Outcome(subject=self.case.subject.name, samples=samples, status="broken", error=error)

    def _watched(self, samples: int, device: str) -> tuple[Outcome, Diagnosis | None]:
        """Climb, and explain a break."""
        subject, settings = self.case.subject, self.settings
        rung = rung_of(subject, samples, settings)
        shown = -math.inf

        def on_step(progress: Progress) -> None:
            nonlocal shown
            if time.monotonic() - shown > SHOW_SECONDS:
                shown = time.monotonic()
                self.store.show(subject.name, progress)
                self._abandon_above_a_break(samples)

        with lent(settings.threads), own_randomness(device):
            outcome = rung.climb(on_step)
            return outcome, self._explained(rung, outcome) if outcome.status == "broken" else None

    def _explained(self, rung: Rung, outcome: Outcome) -> Diagnosis:
        """Why a rung broke. What goes wrong in explaining is told and hides no verdict."""
        try:
            explain = diagnose if rung.subject.loop is None else diagnose_loop
            return explain(rung, outcome, trials=self.settings.trials)
        except Exception as error:
            return Diagnosis(failure="".join(traceback.format_exception(error)).rstrip())

    def _abandon_above_a_break(self, samples: int) -> None:
        for lower in self.selected:
            if lower < samples:
                outcome = self.store.get(self.key, lower)
                if outcome and outcome.status == "broken":
                    raise _Abandoned
