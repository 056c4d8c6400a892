"""Every rule looks at a run, and what they found comes to a verdict.

*Stop*: a confirmed finding with which training on is a waste. *Go on*: it still improves, was
hardly begun, or something is only suspected. *Healthy*: nothing was found, clips are read, and it
no longer improves or is over. *Cannot tell*: the same, without an error rate to show it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Literal

from pytest_overfit.finding import Finding, counted
from pytest_overfit.health.curves.curve import Curve
from pytest_overfit.health.curves.metric import Metric, metric
from pytest_overfit.health.more_evidence import more_evidence
from pytest_overfit.health.next_command import next_command
from pytest_overfit.health.rules import RULES
from pytest_overfit.health.rules.course import early_in_plan, is_excerpt, still_since
from pytest_overfit.health.rules.learning import final_level
from pytest_overfit.health.rules.loss_alone import reading_harmed, rise_of
from pytest_overfit.health.rules.order import STEPS_OUT_OF_ORDER
from pytest_overfit.health.rules.output import VALIDATION_WER_STUCK
from pytest_overfit.health.rules.overfitting import (
    GAP_SHARE,
    GAP_WIDE,
    GAPS,
    VALIDATION_ERROR_RISES,
    VALIDATION_LOSS_RISES,
)
from pytest_overfit.health.rules.reading import (
    FLAWLESS,
    KNOWS,
    SPLITS,
    STUCK,
    Split,
    error_rate,
    errors,
    metric_words,
    more_is_better,
    value_words,
)
from pytest_overfit.health.rules.stability import (
    LOSS_OSCILLATES,
    LOSS_SPIKES,
    TRAINING_DIVERGES,
)
from pytest_overfit.health.rules.trend import (
    CLEAR,
    CREEP,
    FEW,
    between,
    falls,
    finite,
    lowest,
    noise,
    reading_at,
    thinned,
)
from pytest_overfit.health.rules.undone import LEARNING_UNDONE
from pytest_overfit.health.rules.words import cited_place, number, place
from pytest_overfit.health.run import Run

ENOUGH = 12
"""Readings below which a run that is not over may still go anywhere."""
MISREAD_MOSTLY = 2 / 3
"""Share of tokens that are wrong from which on no accuracy is good."""
UNTRANSLATED = 5.0
"""BLEU, of 100, below which next to nothing is translated."""
SLOW = 0.005
"""Share of its level by which a smooth curve that still sinks does so in the last third of a run."""
SURE = 5
"""Readings that chance puts in descending order once in 120 times."""
SETTLED = 0.03
"""Share of its level, and of all that it came down, which a curve still fell in the last sixth of a
run, below which one that is over has come to rest.
"""
FEWEST = 3
"""Readings of an error rate below which nothing shows where it goes, however many there are of the
loss.
"""
RISING = {record.name for record in (VALIDATION_LOSS_RISES, LEARNING_UNDONE, TRAINING_DIVERGES)}
"""Findings that tell of a validation loss which rises."""
Verdict = Literal["healthy", "go on", "stop", "cannot tell"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkup:
    """What came out.

    findings: best first: confirmed before suspected, and of those the gravest. ruled_out: rules
    that found nothing. not_judged: rule -> why. notes: what is worth knowing and no illness.
    more_evidence: what is missing here, and what it would tell.
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
        """The finding of this name; None where there is none."""
        return next((finding for finding in self.findings if finding.name == name), None)


def check_up(run: Run) -> Checkup:
    """Let every rule judge a run."""
    lacking = {rule.name: words for rule in RULES if (words := rule.lacks(run))}
    judged = {rule.name: rule.judge(run) for rule in RULES if rule.name not in lacking}
    findings = tuple(
        sorted(
            (finding for finding in judged.values() if finding),
            key=lambda finding: finding.status != "confirmed",
        )
    )
    verdict, reasons = _verdict(run, findings, judged=len(judged))
    return Checkup(
        run=run,
        findings=findings,
        ruled_out=tuple(name for name, finding in judged.items() if finding is None),
        not_judged=tuple(lacking.items()),
        verdict=verdict,
        reasons=reasons,
        notes=_notes(run, findings, verdict),
        more_evidence=more_evidence(run),
        next_command=next_command(run, findings, verdict),
    )


def _verdict(
    run: Run, findings: tuple[Finding, ...], *, judged: int
) -> tuple[Verdict, tuple[str, ...]]:
    stopping = {rule.name for rule in RULES if rule.stops}
    fatal = [
        finding.headline
        for finding in findings
        if finding.status == "confirmed" and finding.name in stopping
    ]
    if fatal:
        return "stop", tuple(fatal)
    reasons = [f"{finding.status}: {finding.headline}" for finding in findings]
    measured = [name for name in ("val_loss", run.read_by("val")) if name and len(run.curve(name))]
    improving = None if run.finished and _settled(run) else still_improving(run)
    most = max(map(len, _measurements(run)))
    if measured and most < FEWEST:
        times = "once" if most < 2 else "twice"
        few = f"validation was measured {times}: nothing shows where it goes"
        return "cannot tell", (*reasons, few, *run.finished)
    if improving and measured:
        more = (
            (*run.finished, *best_checkpoint(run), "it ended while it improved: train longer")
            if run.finished
            else ()
        )
        return "go on", (*reasons, improving, *more)
    if run.read_by("val") is None:
        unknown = (
            "no error rate in the log: nothing shows whether anything is read"
            if measured
            else "training loss alone: nothing in the log is measured on other clips"
        )
        if run.read_by("train"):
            unknown = (
                "no error rate of validation in the log: nothing shows whether anything but the "
                "training clips is read"
            )
        sound = "its losses alone show nothing wrong" if measured and not findings else ""
        why = (unknown, *run.finished, *best_checkpoint(run), sound)
        return "cannot tell", (*reasons, *filter(None, why))
    if any(finding.name == VALIDATION_WER_STUCK.name for finding in findings):
        return "cannot tell", (*reasons, "nothing shows that it will be read better")
    if any(not _leaves_open(run, finding) for finding in findings):
        return "go on", tuple(reasons)
    verdict, why = _without_illness(run, measured)
    if verdict == "healthy" and not reasons and not run.finished:
        reasons = [f"none of {counted(judged, 'rule')} finds anything"]
    return verdict, (*reasons, *why)


def _measurements(run: Run) -> list[Curve]:
    """What was measured of validation: its loss, and what is read."""
    return [finite(run.curve("val_loss")), errors(run, "val")]


def _leaves_open(run: Run, finding: Finding) -> bool:
    """Whether a finding leaves open how a run stands: a validation loss that rises and does not harm
    what is read, a training loss that may be unsteady, or steps of the log that are out of order.
    """
    if finding.name == STEPS_OUT_OF_ORDER.name:
        return True
    if finding.name in (LOSS_SPIKES.name, LOSS_OSCILLATES.name, VALIDATION_ERROR_RISES.name):
        return finding.status == "suspected"
    return (
        finding.name == VALIDATION_LOSS_RISES.name
        and finding.began is not None
        and not reading_harmed(run, finding.began)
    )


def _without_illness(run: Run, measured: list[str]) -> tuple[Verdict, tuple[str, ...]]:
    """The verdict on a run in which nothing is wrong, and which no longer improves."""
    if early := [] if run.finished or _reads_well(run) else _early(run):
        flat = _is_flat_excerpt(run) if is_excerpt(run) else not _anything_fell(run)
        return ("cannot tell" if flat else "go on"), tuple(early)
    if unread := _unread(run):
        return "go on", (*unread, *run.finished)
    if run.finished:
        return "healthy", (
            *run.finished,
            *best_checkpoint(run),
            "it had settled: more would have helped little",
        )
    return "healthy", (
        "it no longer improves: there is no more to gain from this recipe",
        *best_checkpoint(run),
    )


def _settled(run: Run) -> bool:
    """Whether the last sixth of a run, in which validation is read, brought next to nothing."""
    curves = [thinned(curve) for curve in _measurements(run) if len(curve)]
    return run.read_by("val") is not None and all(
        len(curve) > FEWEST and _last_sixth(curve) < SETTLED for curve in curves
    )


def _last_sixth(curve: Curve) -> float:
    """What a curve still fell in its last sixth, as a share of its level or, where that is more, of
    all that it came down.
    """
    start = curve.at[-1] - (curve.at[-1] - curve.at[0]) / 6
    best = min(between(curve, start).values)
    earlier = [value for at, value in zip(curve.at, curve.values, strict=True) if at < start]
    before = min(earlier, default=best)
    whole = min(abs(before), curve.values[0] - best)
    return (before - best) / max(whole, 1e-9)


def _reads_well(run: Run) -> bool:
    """Whether enough readings stand so near to no error that nothing is left to wait for."""
    rate = error_rate(run, "val")
    return len(rate) >= FEW and max(rate.values[-FEWEST:]) <= FLAWLESS


def _anything_fell(run: Run) -> bool:
    """Whether a loss or an error of the few readings came down by more than creeping."""
    curves = (thinned(run.curve("train_loss")), *map(thinned, _measurements(run)))
    return any(len(curve) > 1 and falls(curve) for curve in curves)


def _is_flat_excerpt(run: Run) -> bool:
    """Whether in a log that is a piece of a run neither what is read nor validation loss is best at
    its end.
    """
    measured = [curve for curve in _measurements(run) if len(curve)]
    return not any(lowest(curve) == len(curve) - 1 for curve in measured)


def _early(run: Run) -> list[str]:
    """Why it is too early to call a run healthy."""
    if begun := early_in_plan(run):
        return [f"too early to tell: {begun}"]
    if (measured := len(errors(run, "val"))) < FEWEST:
        return [
            (
                f"too early to tell: {metric_words(run, 'val')} was measured {measured} "
                f"time{'s' * (measured > 1)}"
            )
        ]
    read = max(
        len(finite(run.curve("train_loss"))),
        len(finite(run.curve("val_loss"))),
        len(errors(run, "val")),
    )
    return (
        [
            (
                f"too early to tell: {counted(read, 'reading')}, it takes {ENOUGH} to say where a "
                "run goes"
            )
        ]
        if read < ENOUGH
        else []
    )


def _unread(run: Run) -> list[str]:
    """Splits that are read too badly to call a run healthy.

    An accuracy of half may be good, as where tokens are translated; BLEU is never high.
    """
    read = [(split, metric(run.read_by(split) or ""), error_rate(run, split)) for split in SPLITS]
    badly = [
        split
        for split, kind, rate in read
        if (kind and len(rate) and rate.values[-1] > _bad(kind)) or _untranslated(run, split)
    ]
    return [
        (
            f"nothing found, but {metric_words(run, split)} is "
            f"{value_words(run, split, errors(run, split).values[-1])}"
        )
        for split in badly
    ]


def _untranslated(run: Run, split: Split) -> bool:
    """Whether BLEU is next to nothing at the end; not told of one that never passes 1, which may be
    a share.
    """
    if not (run.read_by(split) or "").endswith("_bleu"):
        return False
    told = [-value for value in errors(run, split).values]
    return max(told, default=0.0) > 1 and told[-1] < UNTRANSLATED


def _bad(kind: Metric) -> float:
    """The error rate from which on what is read by a metric is not healthy."""
    if kind.kind == "error rate":
        return KNOWS
    return MISREAD_MOSTLY if kind.words == "accuracy" else STUCK


def best_checkpoint(run: Run) -> tuple[str, ...]:
    """Which checkpoint to keep: where validation is read best, or, without an error rate, where its
    loss is lowest.
    """
    curve, name = errors(run, "val"), run.read_by("val")
    if name:
        best = lowest(curve)
        return (
            (
                f"best checkpoint: {metric_words(run, 'val')} "
                f"{value_words(run, 'val', curve.values[best])} at "
                f"{cited_place(run, name, curve.at[best])}"
            ),
        )
    curve = finite(run.curve("val_loss"))
    best = lowest(curve) if len(curve) else 0
    return (
        (
            (
                f"best checkpoint: validation loss {number(curve.values[best])} at "
                f"{cited_place(run, 'val_loss', curve.at[best])}"
            ),
        )
        if len(curve)
        else ()
    )


def still_improving(run: Run) -> str | None:
    """In words, that validation loss or its error rate, or training loss where neither was read,
    still fell in the last third of the run. A loss alone does not count where what is read well
    enough stands still.
    """
    curves = {
        "validation loss": ("val_loss", run.curve("val_loss")),
        metric_words(run, "val"): (run.read_by("val") or "", errors(run, "val")),
    }
    read = {what: (name, curve) for what, (name, curve) in curves.items() if len(finite(curve))}
    rate = error_rate(run, "val")
    if len(rate) and rate.values[-1] < KNOWS and still_since(run, run.read_by("val") or ""):
        read.pop("validation loss", None)
    for what, (name, curve) in (
        read or {"training loss": ("train_loss", run.curve("train_loss"))}
    ).items():
        slowly = list(read) == ["validation loss"]
        if not _told_lately(run, curve):
            continue
        if (best := _still_falls(thinned(curve), slowly=slowly)) is not None:
            value = number(best[1]) if name.endswith("_loss") else value_words(run, "val", best[1])
            way, most = (
                ("rises", "highest")
                if name == run.read_by("val") and more_is_better(run, "val")
                else ("falls", "lowest")
            )
            return f"{what} still {way}: {value} at {place(run, best[0])} is its {most} so far"
    return None


def _told_lately(run: Run, curve: Curve) -> bool:
    """Whether a curve was read in the last sixth of its run: where a log tells only each new best,
    silence says that there was none.
    """
    if len(curve) < FEW or not all(b < a for a, b in pairwise(curve.values)):
        return True
    places = [at for own in (curve, *map(run.curve, ("train_loss", "val_loss"))) for at in own.at]
    return curve.at[-1] >= max(places) - (max(places) - min(places)) / 6


def _still_falls(curve: Curve, *, slowly: bool) -> tuple[float, float] | None:
    """The lowest reading of a curve that fell over its last third, and still in the later half of
    that; else None. slowly: little is enough, since nothing else tells where the run goes.
    """
    if len(curve) < 3:
        return (curve.at[-1], curve.values[-1]) if len(curve) == 2 and falls(curve) else None
    length, best = curve.at[-1] - curve.at[0], lowest(curve)
    last, later = (between(curve, curve.at[-1] - share * length) for share in (1 / 3, 1 / 6))
    last, later = (
        part if len(part) >= 2 else between(curve, curve.at[-2]) for part in (last, later)
    )
    fell = falls(last) and falls(later, creep=CREEP / 2 * abs(later.values[0]))
    before = between(curve, curve.at[0], last.at[0]).values[:-1]
    if fell and len(curve) >= FEW and before:  # the lowest of so many lies lower by chance
        fell = min(before) - min(last.values) > noise(between(curve, curve.at[len(curve) // 3]))
    fell = fell or _steadily(curve, len(last)) or (slowly and _sinks(curve, last))
    since = later if len(later) >= FEWEST else last  # what fell has its lowest near its end
    return (curve.at[best], curve.values[best]) if fell and curve.at[best] >= since.at[0] else None


def _steadily(curve: Curve, last: int) -> bool:
    """Whether each of the last readings, three at least, is a new lowest, and the fall no creeping;
    or each of the later half, so that a fall that is slow and sure is one.
    """
    half = curve.values[-(len(curve) // 2) :]
    sure = len(half) >= max(last + 1, SURE) and all(b < a for a, b in pairwise(half))
    end = half if sure else curve.values[-max(last, FEWEST) :]
    lower = all(b < a for a, b in pairwise(end)) and end[-1] == min(curve.values)
    return len(curve) > FEWEST and lower and end[0] - end[-1] > CREEP * abs(end[0])


def _sinks(curve: Curve, last: Curve) -> bool:
    """Whether a smooth curve still sinks, if by little: over its last third by SLOW of its level and
    CLEAR of its noise, and to its end.
    """
    if len(curve) < FEW or lowest(curve) < len(curve) - 2:
        return False
    fallen = median(last.values[: max(len(last) // 3, 1)]) - min(last.values)
    return fallen > max(SLOW * abs(last.values[0]), CLEAR * noise(last))


def _notes(run: Run, findings: tuple[Finding, ...], verdict: Verdict) -> tuple[str, ...]:
    notes = [words for split in SPLITS if (words := _level_note(run, split))]
    train, val, facts = finite(run.curve("train_loss")), finite(run.curve("val_loss")), run.facts
    explained = {GAP_WIDE.name, *RISING}
    if len(train) and len(val) and not any(finding.name in explained for finding in findings):
        gap = val.values[-1] - reading_at(train, val.at[-1])
        if gap > (GAPS[-1] if run.loss_unit == "nats per token" else GAP_SHARE * val.values[-1]):
            notes.append(
                f"gap (validation - training loss) {number(gap)} at {place(run, val.at[-1])}: "
                "no finding while validation may still fall"
            )
    rise = rise_of(run, run.curve("val_loss"))
    if rise and not any(finding.name in RISING for finding in findings):
        then = f"{number(rise.low)} at {place(run, rise.since)}"
        notes.append(
            f"validation loss rose: {then}, {number(val.values[-1])} at "
            f"{place(run, val.at[-1])}; not shown to be overfitting"
        )
    if verdict == "stop" and (improving := still_improving(run)):
        notes.append(improving)
    if facts.parameters and facts.train_samples:
        each = facts.parameters / facts.train_samples
        notes.append(
            f"{facts.parameters:,} parameters, {facts.train_samples:,} training samples: "
            f"{each:,.0f} parameters a sample"
        )
    return tuple(notes)


def _level_note(run: Run, split: Split) -> str | None:
    stands = final_level(run, split)
    if stands is None:
        return None
    return (
        f"{SPLITS[split]} loss {number(stands.measured)} nats per token: the nearest level is "
        f"`{stands.level.name}` ({number(stands.level.loss)})"
    )
