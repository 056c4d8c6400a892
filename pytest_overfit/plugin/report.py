"""The only formatter: outcomes -> a headline, the body of a failure, the summary table, GitHub's
annotation and step summary.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from pytest_overfit.climb.ladder import Attempt, Detour, Outcome, Verdict
from pytest_overfit.climb.misread import Misread
from pytest_overfit.explain.diagnosis import Diagnosis, Row
from pytest_overfit.finding import Finding, naming
from pytest_overfit.findings.examine import Checked
from pytest_overfit.levels import LevelMatch
from pytest_overfit.plugin.store import Climbed

WIDTH = 120


def headline(outcome: Outcome, diagnosis: Diagnosis | None = None) -> str:
    """One line: which subject breaks at which scale, and the cause as far as it is known."""
    return (
        f"{outcome.subject} breaks at {plural(outcome.samples, 'sample')}: "
        f"{cause(outcome, diagnosis)}"
    )


def cause(outcome: Outcome, diagnosis: Diagnosis | None = None) -> str:
    """What was shown; what is only suspected is called so; else the criterion that failed."""
    findings = diagnosis.findings if diagnosis else ()
    if findings and findings[0].status == "confirmed":
        return findings[0].headline
    if outcome.findings:
        return outcome.findings[0].headline
    if outcome.error:
        return f"it could not be trained: {outcome.error.splitlines()[0]}"
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


def phrase(verdict: Verdict) -> str:
    """ "token error rate 0.71, must be < 0.5"."""
    name = "loss" if verdict.name == "loss not negative" else verdict.name
    unit = " nats/token" if name == "loss" and math.isfinite(verdict.value) else ""
    return f"{name} {number(verdict.value)}{unit}, must be {verdict.sign} {verdict.bound:g}"


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
        f"{trial.remedy}: rung {outcome.samples} holds after {plural(trial.steps, 'step')}"
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


def contracts_headline(subject: str, violated: Sequence[Finding]) -> str:
    """A subject that breaks before training, in one line."""
    more = f" (and {plural(len(violated) - 1, 'more finding')})" if len(violated) > 1 else ""
    return f"{subject} breaks before training: {violated[0].name}: {violated[0].headline}{more}"


def diagnosis_headline(subject: str, findings: Sequence[Finding]) -> str:
    """What a diagnosis found, in one line."""
    more = f" (and {plural(len(findings) - 1, 'more finding')})" if len(findings) > 1 else ""
    return f"{subject}: {findings[0].status} {findings[0].name}: {findings[0].headline}{more}"


def findings_body(findings: Sequence[Finding]) -> str:
    """All that is known of each finding."""
    return "\n".join(
        labelled(label, text) for finding in findings for label, text in finding_rows(finding)
    )


def contracts_body(checked: Sequence[Checked], stale: Sequence[Finding] = ()) -> str:
    """Every contract with what was found, failures first, accepted findings last; those that hold
    in one line.
    """
    found = sorted([*(finding for one in checked for finding in one.findings), *stale], key=_weight)
    rows = [row for finding in found for row in finding_rows(finding)]
    skipped = [f"{one.contract.name}: {one.skipped}" for one in checked if one.skipped]
    rows += [("skipped", "\n".join(skipped))] if skipped else []
    rows.append(("held", ", ".join(one.contract.name for one in checked if one.held) or "none"))
    return "\n".join(labelled(label, text) for label, text in rows)


def finding_rows(finding: Finding) -> list[tuple[str, str]]:
    """A finding as labelled rows: what, where, why, whom, what to try; of an accepted one, the
    reason in the place of the last.
    """
    rows = [(label_of(finding), f"{finding.name} ({finding.status}): {finding.headline}")]
    rows += [("where", finding.module)] if finding.module else []
    rows += [("why", "\n".join(finding.evidence))] if finding.evidence else []
    rows += [("samples", naming(finding.samples))] if finding.samples else []
    if finding.accepted:
        return [*rows, ("reason", finding.accepted)]
    return rows + ([("try", finding.try_)] if finding.try_ else [])


def label_of(finding: Finding) -> str:
    """ "finding" of what fails, "warning" of what is told, "accepted" of what the subject
    accepts.
    """
    return (
        "accepted"
        if finding.accepted
        else "warning"
        if finding.severity == "warning"
        else "finding"
    )


def _weight(finding: Finding) -> int:
    return ("finding", "warning", "accepted").index(label_of(finding))


def note_line(subject: str, finding: Finding) -> str:
    """What a subject passes with, in one line: "warning: my_net: skipped_frames: ..."."""
    reason = f" (accepted: {finding.accepted})" if finding.accepted else ""
    return f"{label_of(finding)}: {subject}: {finding.name}: {finding.headline}{reason}"


def note_annotation(subject: str, finding: Finding) -> str:
    """GitHub's warning annotation for what a subject passes with."""
    return f"::warning title=overfit {escaped_property(subject)}::{escaped(note_line(subject, finding))}"


def _rung_word(samples: int, outcome: Outcome, known: Sequence[Outcome]) -> str:
    if samples == outcome.samples:
        return f"{samples} BROKEN"
    other = next((o for o in known if o.samples == samples and o.status == "ok"), None)
    if other:
        return f"{samples} ok ({plural(other.steps, 'step')})"
    return f"{samples} not tried"


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


def misread_text(misread: Misread) -> str:
    """ "c3 of 10 clips, WER 75.0 % (all: 71.4 %)", and its target and output below each other."""
    first = (
        f"{misread.sample} of {plural(misread.clips, 'clip')}, WER {100 * misread.wer:.1f} % (all: "
        f"{100 * misread.wer_of_all:.1f} %)"
    )
    return "\n".join((first, *misread.lines))


def level_text(level_match: LevelMatch) -> str:
    """ "the loss stands on the level `bag of clip` (2.41 nats/token, predicted 2.38), no longer
    falling when the run ended".
    """
    text = (
        f"the loss stands on the level `{level_match.level.name}` ({number(level_match.measured)} "
        f"nats/token, predicted {number(level_match.level.loss)})"
    )
    if level_match.descending is not None:
        text += (
            ", still falling when the run ended: not yet learned"
            if level_match.descending
            else ", no longer falling when the run ended"
        )
    return text


def detour_text(detour: Detour) -> str:
    """ "CTC alone stood on `repeats merged` (0.167 nats/token) after 200 steps; then 60 steps on
    one path a clip, and CTC again".
    """
    stood = (
        f"CTC alone stood on `{detour.level.name}` ({number(detour.level.loss)} nats/token) after "
        f"{plural(detour.step, 'step')}"
    )
    return f"{stood}; then {plural(detour.path_steps, 'step')} on one path a clip, and CTC again"


def seeds_text(outcome: Outcome) -> str:
    """ "0 of 2 held; a network that climbs with 19 of 20 seeds is called broken in 0.25 % of
    cases".
    """
    climbs = (
        "1 of 20 seeds is called ok"
        if outcome.status == "ok"
        else "19 of 20 seeds is called broken"
    )
    error = f"{100 * (outcome.chance_of_error or 0):.2g} %"
    return (
        f"{outcome.seeds_held} of {len(outcome.deciding)} held; a network that climbs with "
        f"{climbs} in {error} of cases"
    )


def _attempt_line(attempt: Attempt, several: bool) -> str:
    reading = attempt.trace.readings[-1] if attempt.trace.readings else None
    came = (
        (
            f"loss {number(reading.loss)} nats/token, token error rate "
            f"{number(reading.token_error_rate)}"
        )
        if reading
        else "no reading"
    )
    seed = f"seed {attempt.seed}, " if several else ""
    return f"{seed}{attempt.recipe.describe()}: {came} after {plural(attempt.steps, 'step')}" + (
        f"; {attempt.why}" if attempt.why else ""
    )


def labelled(label: str, text: str) -> str:
    """Text with a label before its first line, the others set in."""
    lines = text.splitlines() or [""]
    rows = (f"{label if i == 0 else '':<10} {line}" for i, line in enumerate(lines))
    return "\n".join(row.rstrip() for row in rows)


def summary(outcomes: Sequence[Outcome], *, width: int = WIDTH) -> str:
    """A table a subject: what each rung came to. Losses in nats a target token."""
    blocks = []
    for subject in dict.fromkeys(outcome.subject for outcome in outcomes):
        own = sorted((o for o in outcomes if o.subject == subject), key=lambda o: o.samples)
        size = max(o.parameters for o in own)
        title = f"{subject}, {_thousands(size)} parameters" if size else subject
        table = Table(
            box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="", pad_edge=False
        )
        for column in (
            "samples",
            "verdict",
            "steps",
            "seconds",
            "loss (nats/token)",
            "level",
            "token error rate",
            "recipe",
        ):
            table.add_column(
                column,
                justify="left" if column in ("verdict", "level", "recipe") else "right",
                overflow="fold",
            )
        for outcome in own:
            table.add_row(*summary_row(outcome))
        blocks.append("\n".join([rendered(table, width), *lines_below(own)]))
    return "\n".join(blocks)


def lines_below(outcomes: Sequence[Outcome]) -> list[str]:
    """What stands below a subject's table: seeds, detours, controls."""
    return [*seeds_lines(outcomes), *detour_lines(outcomes), *_controls_line(outcomes)]


def seeds_lines(outcomes: Sequence[Outcome]) -> list[str]:
    """With which error the rungs' seeds came to their verdicts: rungs of the same count and verdict
    in one line.
    """
    told: dict[str, list[str]] = {}
    for outcome in outcomes:
        if outcome.chance_of_error is not None:
            told.setdefault(seeds_text(outcome), []).append(str(outcome.samples))
    return [f" seeds at {', '.join(rungs)}: {text}" for text, rungs in told.items()]


def detour_lines(outcomes: Sequence[Outcome]) -> list[str]:
    """How rungs that CTC alone does not climb were climbed."""
    climbed = [
        (outcome.samples, outcome.telling.detour)
        for outcome in outcomes
        if outcome.status == "ok" and outcome.attempts
    ]
    return [f" detour at {samples}: {detour_text(detour)}" for samples, detour in climbed if detour]


def _controls_line(outcomes: Sequence[Outcome]) -> list[str]:
    """What the highest rung that held loses by altered inputs, in token error rate."""
    passed = [outcome for outcome in outcomes if outcome.status == "ok" and outcome.samples > 1]
    controls = passed[-1].telling.controls if passed else ()
    if not controls:
        return []
    words = ", ".join(f"{control.name} {number(control.altered)}" for control in controls)
    return [
        (
            f" controls at {passed[-1].samples} samples (token error rate): as they are "
            f"{number(controls[0].as_is)}, {words}\n"
        )
    ]


def summary_row(outcome: Outcome) -> tuple[str, ...]:
    """samples, verdict, steps, seconds, loss, level, token error rate, recipe: as text."""
    verdict = {"ok": "ok", "broken": "BROKEN", "not tried": _not_tried(outcome)}[outcome.status]
    if not outcome.attempts:
        reason = (
            outcome.findings[0].name if outcome.findings else "not trained" if outcome.error else ""
        )
        return (str(outcome.samples), verdict, "", "", "", "", "", reason)
    shown = outcome.telling
    if len(outcome.deciding) > 1:
        verdict += f" ({outcome.seeds_held} of {len(outcome.deciding)} seeds)"
    reading = shown.trace.readings[-1] if shown.trace.readings else None
    loss, error = (number(reading.loss), number(reading.token_error_rate)) if reading else ("", "")
    first = next(attempt for attempt in outcome.attempts if attempt.seed == shown.seed)
    recipe = (
        f"{shown.recipe.optimizer}, lr {shown.recipe.lr:g}"
        if outcome.status == "ok"
        else f"{plural(len(outcome.attempts), 'recipe')} tried"
    )
    recipe = "your loop" if shown.recipe.own else recipe
    if outcome.status == "ok" and shown.recipe != first.recipe:
        recipe += f" ({first.recipe.lr:g} failed)"
    level = shown.level_match.level.name if shown.level_match else ""
    return (
        str(outcome.samples),
        verdict,
        str(outcome.steps),
        f"{outcome.seconds:.1f}",
        loss,
        level,
        error,
        recipe,
    )


def why_not_tried(outcome: Outcome) -> str:
    """ "not tried: broke at 5", or "not climbed: the corpus has 11 clips"."""
    if outcome.available is not None:
        return f"not climbed: the corpus has {plural(outcome.available, 'clip')}"
    return f"not tried: broke at {outcome.broke_at}"


def _not_tried(outcome: Outcome) -> str:
    """The same, as short as a column of the table."""
    return (
        why_not_tried(outcome)
        if outcome.available is None
        else f"not climbed: {plural(outcome.available, 'clip')}"
    )


def rendered(table: Table, width: int) -> str:
    """A table as plain text, at most `width` characters wide."""
    console = Console(file=io.StringIO(), width=width, color_system=None, markup=False, emoji=False)
    console.print(table)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.splitlines())


def annotation(outcome: Outcome, diagnosis: Diagnosis | None = None) -> str:
    """GitHub's error annotation, at the network's line where it is known.

    Source: docs.github.com, "Workflow commands for GitHub Actions": % and line breaks are
    percent-encoded, in properties also : and ,.
    """
    path, _, line = (outcome.where or "").rpartition(":")
    place = (
        f"file={escaped_property(path)},line={line}," if path and not os.path.isabs(path) else ""
    )
    return (
        f"::error {place}title=overfit "
        f"{escaped_property(outcome.subject)}::{escaped(headline(outcome, diagnosis))}"
    )


def escaped(text: str) -> str:
    """Text as the data of a workflow command."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def escaped_property(text: str) -> str:
    """Text as a property of a workflow command."""
    return escaped(text).replace(":", "%3A").replace(",", "%2C")


def markdown(told: Sequence[Climbed]) -> str:
    """The summary as a table for GitHub's step summary."""
    lines = [
        "### Overfit ladder",
        "",
        (
            "| subject | samples | verdict | steps | seconds | loss (nats/token) | level | token "
            "error rate |"
        ),
    ]
    lines.append("| --- " * 8 + "|")
    lines += [
        "| " + " | ".join((outcome.subject, *summary_row(outcome)[:7])) + " |"
        for outcome, _ in told
    ]
    lines += [
        "",
        *(f"- {outcome.subject},{line}" for outcome, _ in told for line in detour_lines([outcome])),
    ]
    lines += [
        "",
        *(
            f"- **{headline(outcome, diagnosis)}**"
            for outcome, diagnosis in told
            if outcome.status == "broken"
        ),
    ]
    return "\n".join(lines) + "\n"


def plural(count: int, noun: str) -> str:
    """A count with its noun: 1 step, 2 steps."""
    return f"{count} {noun}" + ("" if count == 1 else "s")


def number(value: float) -> str:
    """A number to three digits."""
    return "not finite" if not math.isfinite(value) else f"{value:.3g}"


def _thousands(count: int) -> str:
    """ "1.2 M", "13.4 k", "840"."""
    if count >= 1e6:
        return f"{count / 1e6:.1f} M"
    return f"{count / 1e3:.1f} k" if count >= 1e3 else str(count)
