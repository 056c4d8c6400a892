"""A rung that broke, in words: the headline of its failure, and the section below it."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_overfit.climb.ladder import Attempt, Outcome
from pytest_overfit.explain.diagnosis import Diagnosis, Row
from pytest_overfit.finding import counted
from pytest_overfit.findings.catalogue import record_of
from pytest_overfit.plugin.findings_text import finding_rows
from pytest_overfit.plugin.wording import (
    detour_text,
    labelled,
    level_text,
    misread_text,
    number,
    percent,
    phrase,
    seeds_text,
)


def headline(outcome: Outcome, diagnosis: Diagnosis | None = None) -> str:
    """One line: which subject breaks at which scale, and the cause as far as it is known."""
    return (
        f"{outcome.subject} breaks at {counted(outcome.samples, 'sample')}: "
        f"{cause(outcome, diagnosis)}"
    )


def cause(outcome: Outcome, diagnosis: Diagnosis | None = None) -> str:
    """What was shown; what is only suspected is called so; else the criterion that failed."""
    findings = [one for one in diagnosis.findings if one.fails()] if diagnosis else []
    untrained = (
        f"it could not be trained: {outcome.error.splitlines()[0]}" if outcome.error else None
    )
    if findings and findings[0].status == "confirmed":
        record = record_of(findings[0].name)
        # Of a sample that cannot be trained on, the error says which and why in one line.
        of_data = record is not None and record.stage == "data"
        return untrained if untrained and of_data else findings[0].headline
    if outcome.findings:
        return outcome.findings[0].headline
    if untrained:
        return untrained
    suspected = f"; suspected: {findings[0].headline}" if findings else ""
    worst = outcome.telling
    if outcome.seeds_held:
        return (
            f"only {outcome.seeds_held} of {len(outcome.deciding)} seeds held; "
            f"{_failed(worst)}{suspected}"
        )
    if worst.why and not worst.trace.readings:
        return worst.why + suspected
    return f"{_failed(worst)}; {_symptom(worst)}{suspected}"


def _failed(attempt: Attempt) -> str:
    failed = [verdict for verdict in attempt.verdicts if not verdict.held]
    if not failed and attempt.findings:
        return attempt.findings[0].headline
    return ", ".join(phrase(verdict) for verdict in failed) if failed else "no reading was taken"


def _symptom(attempt: Attempt) -> str:
    reading = attempt.trace.readings[-1]
    if reading.loss < 0:
        return "a negative loss is impossible for probabilities: the output is not normalised"
    if any(
        verdict.name == "normalisation error" and not verdict.held for verdict in attempt.verdicts
    ):
        return "the probabilities of a step do not sum to 1: the output is not normalised"
    if reading.entropy_ratio > 0.95:
        return "the output is uniform"
    if reading.emission_ratio < 0.05:
        return "the output is blank"
    if reading.emission_ratio > 2:
        return f"{reading.emission_ratio:.1f} tokens are emitted for each target token"
    return "cause not located"


def body(
    outcome: Outcome,
    known: Sequence[Outcome],
    rungs: Sequence[int],
    rerun: str,
    diagnosis: Diagnosis | None = None,
) -> str:
    """The section below the headline.

    known: this ladder's outcomes so far; rungs: all that it has.
    """
    rows = [("rungs", "  ".join(_rung_word(samples, outcome, known) for samples in rungs))]
    if outcome.error and len(outcome.error.splitlines()) > 1:
        rows.append(("error", outcome.error.rstrip()))
    for finding in () if diagnosis and diagnosis.findings else outcome.findings:
        rows += finding_rows(finding)
    several = len(outcome.deciding) > 1
    for attempt in outcome.deciding:
        if not attempt.held:
            rows += attempt_rows(attempt, several=several)
    if outcome.attempts:
        rows.append(
            ("recipes", "\n".join(_attempt_line(attempt, several) for attempt in outcome.attempts))
        )
    if outcome.chance_of_error is not None:
        rows.append(("seeds", seeds_text(outcome)))
    if outcome.where:
        rows.append(("network", f"{outcome.where}, {outcome.parameters:,} parameters"))
    if diagnosis:
        rows += _diagnosis_rows(outcome, diagnosis)
    rows.append(("rerun", rerun))
    return "\n".join(labelled(label, text) for label, text in rows)


def _rung_word(samples: int, outcome: Outcome, known: Sequence[Outcome]) -> str:
    if samples == outcome.samples:
        return f"{samples} BROKEN"
    other = next((o for o in known if o.samples == samples and o.status == "ok"), None)
    if other:
        return f"{samples} ok ({counted(other.steps, 'step')})"
    return f"{samples} not tried"


def _diagnosis_rows(outcome: Outcome, diagnosis: Diagnosis) -> list[tuple[str, str]]:
    """Table, findings, what was ruled out, what was tried and what held."""
    blamed = {finding.module for finding in diagnosis.findings}
    rows = [("where", module_table(diagnosis.table, blamed))] if diagnosis.table else []
    for finding in diagnosis.findings:
        rows += [("", ""), *finding_rows(finding)]
    if diagnosis.failure:
        rows.append(
            (
                "why",
                (
                    "explaining it failed, which is a fault of pytest-overfit's own, not of your "
                    f"network\n{diagnosis.failure}"
                ),
            )
        )
    elif not diagnosis.findings:
        rows.append(("why", "cause not located"))
    rows += [("", ""), ("ruled out", ", ".join(diagnosis.ruled_out))] if diagnosis.ruled_out else []
    failed = [trial for trial in diagnosis.trials if not trial.held]
    rows += (
        [
            (
                "no help",
                "\n".join(
                    f"{trial.remedy}: {trial.why or 'the criteria do not hold'}" for trial in failed
                ),
            )
        ]
        if failed
        else []
    )
    held = [trial for trial in diagnosis.trials if trial.held]
    words = [
        f"{trial.remedy}: rung {outcome.samples} holds after {counted(trial.steps, 'step')}"
        for trial in held
    ]
    return rows + ([("confirmed", "\n".join(words))] if words else [])


def module_table(table: Sequence[Row], blamed: set[str | None]) -> str:
    """One line for each module: its steps, the share that tells clips apart, its gradient; those to
    blame with their place. blamed: dotted names.
    """
    width = max(len("module"), *(len(row.module) for row in table))
    lines = [f"{'module':<{width}}  steps  tells clips apart (D)  gradient"]
    for row in table:
        cells = (
            f"{row.steps or '':>5}",
            f"{_small(row.between_sample_share):>21}",
            f"{_small(row.gradient):>8}",
        )
        mark = f"   <- {row.where or ''}".rstrip() if is_blamed(row, blamed) else ""
        lines.append(f"{row.module:<{width}}  {'  '.join(cells)}{mark}")
    return "\n".join(lines)


def is_blamed(row: Row, blamed: set[str | None]) -> bool:
    """Whether a finding names the row's module or one inside it."""
    return any(name and _at_or_below(name, row.module) for name in blamed)


def _at_or_below(name: str, module: str) -> bool:
    return name == module or name.startswith(module + ".")


def _small(value: float | None) -> str:
    return "" if value is None else f"{value:.2g}"


def attempt_rows(attempt: Attempt, *, several: bool = False) -> list[tuple[str, str]]:
    """How far an attempt came, as labelled rows.

    several: it is one of several seeds, and says which.
    """
    rows = [("seed", str(attempt.seed))] if several else []
    if attempt.verdicts:
        rows.append(
            (
                "criterion",
                "\n".join(
                    f"{phrase(v)}{'' if v.held else '   <- failed'}" for v in attempt.verdicts
                ),
            )
        )
    if attempt.trace.readings:
        reading = attempt.trace.readings[-1]
        rows.append(
            (
                "output",
                f"loss {number(reading.loss)} nats/token, blank share {reading.blank_share:.3f}, "
                f"entropy / ln V {reading.entropy_ratio:.3f}, "
                f"emitted / target tokens {reading.emission_ratio:.2f}",
            )
        )
    if attempt.misread:
        rows.append(("worst", misread_text(attempt.misread)))
    if attempt.level_match:
        rows.append(("level", level_text(attempt.level_match)))
    if attempt.detour:
        rows.append(("detour", detour_text(attempt.detour)))
    return rows


def _attempt_line(attempt: Attempt, several: bool) -> str:
    reading = attempt.trace.readings[-1] if attempt.trace.readings else None
    came = (
        (f"loss {number(reading.loss)} nats/token, WER {percent(reading.token_error_rate)}")
        if reading
        else "no reading"
    )
    seed = f"seed {attempt.seed}, " if several else ""
    return f"{seed}{attempt.recipe.describe()}: {came} after {counted(attempt.steps, 'step')}" + (
        f"; {attempt.why}" if attempt.why else ""
    )
