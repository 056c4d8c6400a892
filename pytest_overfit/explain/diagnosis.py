"""Diagnosis: why a rung broke. Findings from contracts, from probes of the fresh and the trained
network, and from the run itself.

What detectors find stays *suspected* until a remedy's trial holds. They see the subject alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pytest_overfit import errors
from pytest_overfit.climb.ladder import Ended, Outcome, Rung
from pytest_overfit.explain.evidence import Evidence, gather, unobserved
from pytest_overfit.explain.trials import Trial, Trials, run_trials
from pytest_overfit.finding import Finding, accepting
from pytest_overfit.findings.bench import CLIPS
from pytest_overfit.findings.catalogue import CONTRACTS, DETECTORS, record_of
from pytest_overfit.findings.examine import breaks_rungs, examine, without_consequences
from pytest_overfit.findings.lost_input import INPUT_IGNORED
from pytest_overfit.findings.running import TOOL_FAILS, own_failure
from pytest_overfit.findings.signal import CONSTANT_SIGNAL, SIGNAL_DROWNED
from pytest_overfit.network import Observation, rows_for_people
from pytest_overfit.subject import BadSample, Subject

LOSES_CLIPS = frozenset({SIGNAL_DROWNED.name, CONSTANT_SIGNAL.name})
"""Findings that tell where clips are no longer told apart."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the module table."""

    module: str
    where: str | None
    steps: int | None
    between_sample_share: float | None
    gradient: float | None


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """findings: best first. ruled_out: what was looked for and not found. trials: in the order
    tried. table: the modules on the way.

    failure: what of this tool's own went wrong in explaining, with its traceback; it must not hide
    the break itself.
    """

    findings: tuple[Finding, ...] = ()
    ruled_out: tuple[str, ...] = ()
    trials: tuple[Trial, ...] = ()
    table: tuple[Row, ...] = ()
    failure: str | None = None

    @property
    def confirmed(self) -> Trial | None:
        """The first trial that held, if any did."""
        return next((trial for trial in self.trials if trial.held), None)


def diagnose(rung: Rung, outcome: Outcome, *, trials: Trials = "auto") -> Diagnosis:
    """Explain a broken rung. trials: none; those of the findings until one holds; or every remedy
    of every finding, then general ones.

    Evidence and trials are of a seed that failed: with another one no remedy would be needed, and
    any would seem to help.
    """
    found = [finding for one in rung.checked for finding in one.findings]
    found += seen_by_more_clips(rung, found)
    told = {(finding.name, finding.module) for finding in found}
    found += [
        finding
        for finding in (outcome.attempts[0].findings if outcome.attempts else ())
        if (finding.name, finding.module) not in told
    ]
    found.sort(
        key=lambda finding: not finding.fails()
    )  # what fails nothing is the likelier to be innocent
    failed = tuple(attempt.seed for attempt in outcome.deciding if not attempt.held)
    rung = replace(rung, seeds=failed or rung.seeds, examined=rung.checked)
    evidence: Evidence | None = None
    shown: Sequence[Finding] = ()
    ruled_out: tuple[str, ...] = ()
    try:
        evidence = gather(rung, outcome)
    except BadSample:  # nothing was trained, and contracts have told why
        pass
    except Exception as error:  # of the subject's own code the contracts have told
        shown = (
            (own_failure("reading the evidence of a broken rung", error),)
            if errors.is_ours(error)
            else _shown(unobserved(rung, outcome))[0]
        )
    else:
        shown, ruled_out = _shown(evidence)
    failures = [finding for finding in (*found, *shown) if finding.name == TOOL_FAILS.name]
    found, shown = (
        [finding for finding in some if finding not in failures] for some in (found, shown)
    )
    known, seen = {finding.name for finding in found}, shown
    shown = _with_something_to_say(shown, found, rung.subject)
    found += accepting(
        [finding for finding in shown if finding.name not in known], rung.subject.accept
    )
    found = [_located(finding, seen) for finding in found]
    tried = run_trials(
        rung,
        [finding for finding in found if not finding.accepted],
        _seconds_of_whole_runs(outcome),
        trials,
        raced=_raced(rung, outcome),
    )
    return Diagnosis(
        findings=ranked(found, tried),
        ruled_out=tuple(
            name for name in ruled_out if name not in {finding.name for finding in found}
        ),
        trials=tried,
        table=tuple(row(o) for o in rows_for_people(evidence.whole)) if evidence else (),
        failure="\n".join(
            line for finding in failures for line in (finding.headline, *finding.evidence)
        )
        or None,
    )


def _located(finding: Finding, shown: Sequence[Finding]) -> Finding:
    """A pass that takes no look at the clips, at the module where what tells them apart is lost."""
    if finding.name != INPUT_IGNORED.name or finding.module is not None:
        return finding
    lost = next((one for one in shown if one.name in LOSES_CLIPS and one.module), None)
    if lost is None:
        return finding
    return replace(finding, module=lost.module, evidence=(*finding.evidence, lost.headline))


def _raced(rung: Rung, outcome: Outcome) -> bool:
    """Whether every rate that there is to try was tried."""
    rates = {rung.recipe.lr * factor for factor in rung.recipe.fallbacks}
    return bool(rates) and rates <= {attempt.recipe.lr for attempt in outcome.attempts}


def seen_by_more_clips(rung: Rung, found: Sequence[Finding]) -> tuple[Finding, ...]:
    """What contracts of the network find on as many clips as they run on, of a rung that has fewer
    and violates none: one clip alone shows no swap of time and batch, which keeps its own steps
    apart all the same.
    """
    if any(finding.fails() for finding in found) or rung.samples >= CLIPS or rung.subject.loop:
        return ()
    checked = examine(
        rung.subject,
        rung.subject.offered(CLIPS),
        seed=rung.seeds[0],
        device=rung.device,
        size=rung.size,
        contracts=[contract for contract in CONTRACTS if contract.about == "network"],
    )
    return tuple(finding for one in checked for finding in one.findings if finding.fails())


def _seconds_of_whole_runs(outcome: Outcome) -> float:
    """What the climb took, or would have taken to the end of the budget where it ended because what
    keeps it from holding is known, or which way its rate is wrong.
    """
    early = (Ended.EXPLAINED, Ended.RAN_AWAY, Ended.CRAWLED)
    hasty = (one for one in outcome.attempts if one.ended in early and one.steps)
    return outcome.seconds + sum(
        one.seconds * max(one.recipe.budget - one.steps, 0) / one.steps for one in hasty
    )


def _with_something_to_say(
    shown: Sequence[Finding], found: Sequence[Finding], subject: Subject
) -> tuple[Finding, ...]:
    """Findings of training but those that follow from what is known, as a wrong loss looks like a
    penalty and anything like a wrong rate.
    """
    kept = without_consequences(shown, {finding.name for finding in found if finding.fails()})
    known = any(breaks_rungs(finding, subject) for finding in found)
    return tuple(finding for finding in kept if not (known and _last_resort(finding.name)))


def _last_resort(name: str) -> bool:
    record = record_of(name)
    return record is not None and record.last_resort


def examine_rung(rung: Rung, outcome: Outcome) -> tuple[Finding, ...]:
    """What diagnoses say of a rung, whether it held or broke, best first; on a sound subject that
    is nothing. Of one that held nothing of a last resort: another rate is no news where it was found.
    """
    shown = _shown(gather(rung, outcome))[0]
    held = outcome.status == "ok"
    return tuple(finding for finding in shown if not (held and _last_resort(finding.name)))


def _shown(evidence: Evidence) -> tuple[tuple[Finding, ...], tuple[str, ...]]:
    """What detectors find, and the names of what they do not find.

    What is located comes first, in the order of the signal; what goes wrong with it at one module
    shows at those behind it too, and is told once. A detector that fails is told and ends no other.
    """
    found, ruled_out = [], []
    for detector in DETECTORS:
        try:
            finding = detector.look(evidence)
        except Exception as error:
            if not errors.is_ours(error):
                continue  # contracts have told of the subject's own
            finding = own_failure(f"looking for {detector.record.name}", error)
        if finding is None:
            ruled_out.append(detector.record.name)
        else:
            found.append(finding)
    places: dict[str, int] = {}
    for place, o in enumerate(evidence.train):
        places.setdefault(o.module, place)
    found.sort(key=lambda finding: places.get(finding.module or "", len(places)))
    if found and _spreads(found[0]):
        found = [finding for finding in found if finding is found[0] or not _spreads(finding)]
    return tuple(found), tuple(ruled_out)


def _spreads(finding: Finding) -> bool:
    record = record_of(finding.name)
    return record is not None and record.spreads


def ranked(found: Sequence[Finding], tried: Sequence[Trial]) -> tuple[Finding, ...]:
    """A finding whose remedy held first, and confirmed by it; last those that were mended to no
    avail: true, but not the cause. Each advises what its trials left standing.

    Where another cause is confirmed, findings of a last resort are left out.
    """
    cured = {trial.finding for trial in tried if trial.held}
    in_vain = {trial.finding for trial in tried if not trial.held and trial.ended is None} - cured

    def judged(finding: Finding) -> Finding:
        status = (
            "confirmed"
            if finding.name in cured
            else "suspected"
            if finding.name in in_vain
            else finding.status
        )
        return replace(finding, status=status, try_=advice(finding, tried))

    another = any(not _last_resort(name) for name in cured)
    kept = [finding for finding in found if not (another and _last_resort(finding.name))]
    return tuple(
        sorted(
            map(judged, kept),
            key=lambda finding: (
                finding.name not in cured,
                not finding.fails(),  # a warning is the likelier to be innocent
                finding.name in in_vain,
            ),
        )
    )


def advice(finding: Finding, tried: Sequence[Trial]) -> str | None:
    """What to try, after the trials: the remedy that held, what the finding advises as long as no
    trial refutes it, and nothing that did not help.
    """
    own = [trial for trial in tried if trial.finding == finding.name]
    held = next((trial.remedy for trial in own if trial.held), None)
    refuted = [trial.remedy for trial in own if not trial.held and trial.ended is None]
    if held is None and refuted:
        return f"not known: by itself none of these mends the rung: {'; '.join(refuted)}"
    if held is None:
        return finding.try_
    further = f": {finding.try_}" if finding.try_ and not refuted else ""
    return f"{held}, with which the rung holds{further}"


def row(o: Observation) -> Row:
    """The line of the module table that tells of an observation."""
    return Row(
        module=o.module,
        where=o.where,
        steps=o.steps_out,
        between_sample_share=o.between_sample_share,
        gradient=o.gradient_norm,
    )
