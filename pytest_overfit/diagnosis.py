"""Diagnosis: why a rung broke. Findings from contracts, from probes of the fresh and the trained network, and from the run itself.

Each diagnosis is a function from `Evidence` to a finding or None; what it found stays *suspected* until a remedy's trial holds. A diagnosis
sees the subject alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pytest_overfit import probes
from pytest_overfit.contracts import Checked, breaks_rungs, examine
from pytest_overfit.diagnoses import DIAGNOSES, Evidence, gather
from pytest_overfit.finding import Finding, accepting
from pytest_overfit.ladder import Outcome, Rung
from pytest_overfit.remedies import Trial
from pytest_overfit.subject import BadSample
from pytest_overfit.trials import Trials, run_trials

SIGNAL = {"constant_signal", "dead_units", "exploding_signal", "rank_bottleneck", "signal_drowned", "vanishing_gradient"}
"""Findings about the signal on its way, which spread to the modules behind."""
RECIPE = {"recipe_diverges", "recipe_stalls"}
"""Findings that blame the recipe: silent where a contract is violated or another cause is confirmed."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the module table."""

    module: str
    where: str | None
    steps: int | None
    told_apart: float | None
    gradient: float | None


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """findings: best first. ruled_out: diagnoses that found nothing. trials: in the order tried. table: the modules on the way.

    failure: what went wrong in explaining, which must not hide the break itself.
    """

    findings: tuple[Finding, ...] = ()
    ruled_out: tuple[str, ...] = ()
    trials: tuple[Trial, ...] = ()
    table: tuple[Row, ...] = ()
    failure: str | None = None

    @property
    def confirmed(self) -> Trial | None:
        return next((trial for trial in self.trials if trial.held), None)


def diagnose(rung: Rung, outcome: Outcome, *, trials: Trials = "auto") -> Diagnosis:
    """Explain a broken rung. trials: none; those of the findings until one holds; or every remedy of every finding, then general ones."""
    samples = rung.subject.offered(rung.samples)
    checked = examine(rung.subject, samples, seed=rung.seeds[0], device=rung.device, size=rung.size)
    found = [finding for one in checked for finding in one.findings]
    found += outcome.attempts[0].findings if outcome.attempts else ()
    found.sort(key=lambda finding: not finding.fails())  # what fails nothing is the likelier to be innocent
    try:
        evidence = gather(rung, outcome)
    except (BadSample, RuntimeError, ValueError):
        evidence = None  # the contracts say why it cannot run
    shown, ruled_out = _shown(evidence) if evidence else ((), ())
    shown = tuple(finding for finding in shown if finding.name not in _silenced(checked, found))
    found += accepting([finding for finding in shown if finding.name not in {other.name for other in found}], rung.subject.accept)
    tried = run_trials(rung, [finding for finding in found if not finding.accepted], outcome.seconds, trials)
    return Diagnosis(
        findings=ranked(found, tried),
        ruled_out=tuple(name for name in ruled_out if name not in {finding.name for finding in found}),
        trials=tried,
        table=tuple(row(o) for o in probes.rows_for_people(evidence.whole)) if evidence else (),
    )


def _silenced(checked: Sequence[Checked], found: Sequence[Finding]) -> set[str]:
    """Findings of training that say nothing of their own beside what is known: a wrong loss looks like a penalty, and anything like a wrong rate."""
    loss_is_wrong = any(finding.fails() for one in checked if one.contract.about == "loss" for finding in one.findings)
    known = any(map(breaks_rungs, found))
    return (RECIPE if known else set()) | ({"regulariser_dominates"} if loss_is_wrong else set())


def examine_rung(rung: Rung, outcome: Outcome) -> tuple[Finding, ...]:
    """What diagnoses say of a rung, whether it held or broke, best first; on a sound subject that is nothing."""
    return _shown(gather(rung, outcome))[0]


def _shown(evidence: Evidence) -> tuple[tuple[Finding, ...], tuple[str, ...]]:
    """What diagnoses find, and the names of those that find nothing.

    What is located comes first, in the order of the signal; what goes wrong with it at one module shows at those behind it too, and is told once.
    """
    told = {diagnosis.__name__: diagnosis(evidence) for diagnosis in DIAGNOSES}
    places: dict[str, int] = {}
    for place, o in enumerate(evidence.train):
        places.setdefault(o.module, place)
    found = [finding for finding in told.values() if finding is not None]
    found.sort(key=lambda finding: places.get(finding.module or "", len(places)))
    if found and found[0].name in SIGNAL:
        found = [finding for finding in found if finding is found[0] or finding.name not in SIGNAL]
    return tuple(found), tuple(name for name, finding in told.items() if finding is None)


def ranked(found: Sequence[Finding], tried: Sequence[Trial]) -> tuple[Finding, ...]:
    """A finding whose remedy held first, and confirmed by it; last those that were mended to no avail: true, but not the cause.

    Where another cause is confirmed, the recipe is not blamed.
    """
    cured = {trial.finding for trial in tried if trial.held}
    in_vain = {trial.finding for trial in tried if not trial.held and trial.ended is None} - cured

    def judged(finding: Finding) -> Finding:
        status = "confirmed" if finding.name in cured else "suspected" if finding.name in in_vain else finding.status
        return replace(finding, status=status)

    told = [finding for finding in found if finding.name not in RECIPE or not cured - RECIPE]
    return tuple(sorted(map(judged, told), key=lambda finding: (finding.name not in cured, finding.name in in_vain)))


def row(o: probes.Observation) -> Row:
    return Row(module=o.module, where=o.where, steps=o.steps_out, told_apart=o.told_apart, gradient=o.gradient_norm)
