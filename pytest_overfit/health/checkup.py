"""A checkup: every rule looks at a run, and what they found comes to a verdict: healthy, go on, or stop.

*Stop*: a confirmed finding with which training on is a waste. *Go on*: it still improves, was hardly begun, or something is only suspected.
*Healthy*: nothing was found, and it no longer improves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pytest_overfit.finding import Finding, counted
from pytest_overfit.health.missing import more_evidence
from pytest_overfit.health.next_command import next_command
from pytest_overfit.health.rules import RULES
from pytest_overfit.health.rules.learning import STUCK, last_standing
from pytest_overfit.health.rules.overfitting import GAPS
from pytest_overfit.health.rules.trend import FEW, LONG, between, falls, finite, lowest, reading_at, thinned
from pytest_overfit.health.rules.words import number, place, share
from pytest_overfit.health.run import Run

Verdict = Literal["healthy", "go on", "stop"]
SPLITS = {"train": "training", "val": "validation"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkup:
    """What came out.

    findings: best first: confirmed before suspected, and of those the gravest. ruled_out: rules that found nothing. not_judged: rule -> why.
    notes: what is worth knowing and no illness. more_evidence: what is missing here, and what it would tell.
    """

    run: Run
    findings: tuple[Finding, ...]
    ruled_out: tuple[str, ...]
    not_judged: tuple[tuple[str, str], ...]
    verdict: Verdict
    reasons: tuple[str, ...]
    notes: tuple[str, ...]
    more_evidence: tuple[str, ...]
    next_command: str | None

    def finding(self, name: str) -> Finding | None:
        return next((finding for finding in self.findings if finding.name == name), None)


def check_up(run: Run) -> Checkup:
    """Let every rule judge a run."""
    lacking = {rule.name: words for rule in RULES if (words := rule.lacks(run))}
    told = {rule.name: rule.judge(run) for rule in RULES if rule.name not in lacking}
    findings = tuple(sorted((finding for finding in told.values() if finding), key=lambda finding: finding.status != "confirmed"))
    verdict, reasons = _verdict(run, findings, judged=len(told))
    return Checkup(
        run=run,
        findings=findings,
        ruled_out=tuple(name for name, finding in told.items() if finding is None),
        not_judged=tuple(lacking.items()),
        verdict=verdict,
        reasons=reasons,
        notes=_notes(run, findings, verdict),
        more_evidence=more_evidence(run),
        next_command=next_command(run, findings, verdict),
    )


def _verdict(run: Run, findings: tuple[Finding, ...], *, judged: int) -> tuple[Verdict, tuple[str, ...]]:
    stopping = {rule.name for rule in RULES if rule.stops}
    fatal = [finding.headline for finding in findings if finding.status == "confirmed" and finding.name in stopping]
    if fatal:
        return "stop", tuple(fatal)
    reasons = [f"{finding.status}: {finding.headline}" for finding in findings]
    reasons += _unfinished(run)
    if reasons:
        return "go on", tuple(reasons)
    return "healthy", (f"none of {counted(judged, 'rule')} finds anything", "the loss no longer falls: there is no more to gain from this recipe")


def _unfinished(run: Run) -> list[str]:
    """Why a run in which nothing is wrong cannot be called healthy yet."""
    if improving := still_improving(run):
        return [improving]
    read, loss = epochs_read(run), max(len(finite(run.curve(f"{split}_loss"))) for split in SPLITS)
    if read < LONG[run.clock] or loss < FEW:
        return [f"too early to tell: {counted(loss, 'reading')} over {read:.0f} {run.clock}s, {FEW} over {LONG[run.clock]:.0f} say where a run goes"]
    wers = [(split, finite(run.curve(f"{split}_wer"))) for split in SPLITS]
    return [f"nothing found, but {SPLITS[split]} WER is {share(wer.values[-1])}" for split, wer in wers if len(wer) and wer.values[-1] > STUCK]


def epochs_read(run: Run) -> float:
    """From the first place of any curve to the last."""
    places = [at for curve in run.curves.values() for at in curve.at]
    return max(places) - min(places) if places else 0.0


def still_improving(run: Run) -> str | None:
    """In words, that validation loss, or training loss where that was not read, still fell in the last third of the run."""
    name = "val_loss" if len(finite(run.curve("val_loss"))) else "train_loss"
    curve = thinned(run.curve(name))
    if len(curve) < 3:
        return None
    last = between(curve, curve.at[0] + 2 / 3 * (curve.at[-1] - curve.at[0]))
    if len(last) < 2:
        last = between(curve, curve.at[-2])
    best = lowest(curve)
    if not falls(last) or curve.at[best] < last.at[0]:
        return None
    return f"{SPLITS[name.split('_')[0]]} loss still falls: {number(curve.values[best])} at {place(run, curve.at[best])} is its lowest so far"


def _notes(run: Run, findings: tuple[Finding, ...], verdict: Verdict) -> tuple[str, ...]:
    notes = [words for split in SPLITS if (words := _level_note(run, split))]
    train, val, facts = finite(run.curve("train_loss")), finite(run.curve("val_loss")), run.facts
    if len(train) and len(val) and not any(finding.name == "gap_wide" for finding in findings):
        gap = val.values[-1] - reading_at(train, val.at[-1])
        if gap > GAPS[-1]:
            notes.append(f"gap (validation - training loss) {number(gap)} at {place(run, val.at[-1])}: no finding while validation may still fall")
    if verdict == "stop" and (improving := still_improving(run)):
        notes.append(improving)
    if facts.parameters and facts.train_samples:
        each = facts.parameters / facts.train_samples
        notes.append(f"{facts.parameters:,} parameters, {facts.train_samples:,} training samples: {each:,.0f} parameters a sample")
    return tuple(notes)


def _level_note(run: Run, split: str) -> str | None:
    stands = last_standing(run, split)
    if stands is None:
        return None
    return f"{SPLITS[split]} loss {number(stands.measured)} nats a token: the nearest level is `{stands.level.name}` ({number(stands.level.loss)})"
