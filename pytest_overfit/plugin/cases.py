"""One test case for each rung: what the fixture `overfit_rung` gives, and what it says at its
end.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import pytest

from pytest_overfit import errors
from pytest_overfit.against.comparison import Comparison
from pytest_overfit.climb.ladder import Outcome, Progress, Rung, check_rungs
from pytest_overfit.explain.diagnosis import Diagnosis, diagnose
from pytest_overfit.explain.exchange import diagnose_loop
from pytest_overfit.findings.running import FAILURES
from pytest_overfit.host import lent, own_randomness
from pytest_overfit.plugin import against_report
from pytest_overfit.plugin.against import LearnsWorse, Versus
from pytest_overfit.plugin.failure import headline
from pytest_overfit.plugin.scheduler import Abandoned, SharedLadder
from pytest_overfit.plugin.settings import Settings
from pytest_overfit.plugin.store import Climbed, Store
from pytest_overfit.plugin.wording import why_not_tried
from pytest_overfit.recipe import BadRecipe
from pytest_overfit.subject import BadSample, BadSubject, Subject, TooFewSamples

Test = TypeVar("Test", bound=Callable[..., object])
SHOW_SECONDS = 0.3


class LadderBroken(AssertionError):
    """A rung that a fresh network could not climb."""


# Tracebacks then read "LadderBroken: ..." without the module path in front of the headline.
LadderBroken.__module__ = "builtins"


@dataclass(frozen=True)
class Case:
    """One rung of one subject, as pytest sees it."""

    subject: Subject
    samples: int

    def __str__(self) -> str:
        return f"{self.subject.name}-{self.samples} sample{'s' if self.samples > 1 else ''}"


def parametrize_with_rungs(
    subjects: Iterable[Subject], *, rungs: Sequence[int] | None = None
) -> Callable[[Test], Test]:
    """Turn a test into one case for each rung and subject. It takes `overfit_rung` and climbs it:

    @parametrize_with_rungs([my_subject])
    def test_overfits(overfit_rung):
        overfit_rung.climb()
    """
    checked = check_rungs(rungs) if rungs is not None else None
    return pytest.mark.overfit_ladder(tuple(subjects), rungs=checked)


@dataclass(frozen=True, kw_only=True, repr=False)
class OverfitRung:
    """What the fixture `overfit_rung` gives: a case among the rungs that its session climbs."""

    case: Case
    selected: tuple[int, ...]
    key: str
    store: Store
    settings: Settings
    rerun: str
    versus: Versus | None = None

    def __repr__(self) -> str:
        return f"<rung {self.case}>"

    @property
    def ladder(self) -> SharedLadder:
        """The ladder that this session's processes climb together."""
        return SharedLadder(
            subject=self.case.subject.name,
            rungs=self.selected,
            key=self.key,
            store=self.store,
            climb=self._climbed,
        )

    def climb(self) -> Outcome:
        """Climb this rung, or learn its outcome from the process that did.

        Raises LadderBroken where it broke, LearnsWorse where it holds and the other side, if one
        was asked for, learns better; skips as `not tried` where a lower one broke, as `not climbed`
        where there are too few samples.
        """
        __tracebackhide__ = True
        outcome = self.outcome()
        if outcome.status == "not tried":
            pytest.skip(why_not_tried(outcome))
        comparison = self._compared()
        if outcome.status == "broken":
            text = headline(outcome, self.diagnosis())
            other = against_report.on_the_other_side(comparison) if comparison else ""
            raise LadderBroken(f"{text}; {other}" if other else text)
        if comparison and (comparison.fails or (self.settings.strict and not comparison.verdict)):
            raise LearnsWorse(against_report.headline(comparison))
        return outcome

    def _compared(self) -> Comparison | None:
        if self.versus is None:
            return None
        name, samples = self.case.subject.name, self.case.samples
        return self.versus.compare(subject=name, key=self.key, samples=samples)

    def outcome(self) -> Outcome:
        """This rung's outcome, climbed here or in another process."""
        return self.ladder.outcome(self.case.samples)

    def known(self) -> list[Outcome]:
        """The outcomes of this session's ladder so far, this case's own among them."""
        return self.ladder.known(self.case.samples)

    def diagnosis(self) -> Diagnosis | None:
        """Why this rung broke, where it did."""
        return self.store.diagnosis(self.key, self.case.samples)

    def _climbed(self, samples: int) -> Climbed | None:
        """What came of a rung that this process trained; None where a lower one broke meanwhile."""
        device, name = self.settings.device, self.case.subject.name
        try:
            if device == "cpu":
                return self._watched(samples)
            with self.store.device_lock(device):
                return self._watched(samples)
        except Abandoned:
            return None
        except TooFewSamples as error:
            few = error.available
            return Outcome(subject=name, samples=samples, status="not tried", available=few), None
        except BadRecipe as error:
            return self._untrained(samples, str(error)), None
        except (BadSample, BadSubject) as error:
            outcome = self._untrained(samples, str(error))
        except Exception as error:
            outcome = self._untrained(samples, errors.in_words(error))
        return outcome, self._explained_if_violated(samples, outcome)

    def _untrained(self, samples: int, why: str) -> Outcome:
        return Outcome(subject=self.case.subject.name, samples=samples, status="broken", error=why)

    def _explained_if_violated(self, samples: int, outcome: Outcome) -> Diagnosis | None:
        """Why a rung could not be trained, where a contract tells more than that it raises."""
        rung = self.settings.rung(self.case.subject, samples)
        try:
            with lent(self.settings.threads), own_randomness(self.settings.device):
                raising = {record.name for record in FAILURES.values()}
                tells = any(finding.name not in raising for finding in rung.violated)
                return self._explained(rung, outcome) if tells else None
        except Exception:  # what keeps it from being trained keeps it from being examined
            return None

    def _watched(self, samples: int) -> Climbed:
        """Climb, and explain a break."""
        subject, settings, ladder = self.case.subject, self.settings, self.ladder
        rung = settings.rung(subject, samples)
        shown = -math.inf

        def on_step(progress: Progress) -> None:
            nonlocal shown
            if time.monotonic() - shown > SHOW_SECONDS:
                shown = time.monotonic()
                self.store.show(subject.name, progress)
                ladder.abandon_above_a_break(samples)

        with lent(settings.threads), own_randomness(settings.device):
            outcome = rung.climb(on_step)
            return outcome, self._explained(rung, outcome) if outcome.status == "broken" else None

    def _explained(self, rung: Rung, outcome: Outcome) -> Diagnosis:
        """Why a rung broke. What goes wrong in explaining is told and hides no verdict."""
        try:
            explain = diagnose if rung.subject.loop is None else diagnose_loop
            return explain(rung, outcome, trials=self.settings.trials)
        except Exception as error:
            return Diagnosis(failure=errors.whole(error))
