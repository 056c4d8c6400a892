"""The report as one page that needs no network: a picture of each ladder, of each rung's loss
against the named levels, and of the network.

The page says what the text says, from the same records; it stands beside it as
`overfitting_test_report.html`. Whatever comes from a subject is escaped by the template.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_overfit.against.comparison import Comparison
from pytest_overfit.climb.ladder import Attempt, Outcome
from pytest_overfit.explain.diagnosis import Diagnosis, Row
from pytest_overfit.finding import Finding, counted
from pytest_overfit.plugin.against_page import compared
from pytest_overfit.plugin.failure import attempt_rows, headline, is_blamed
from pytest_overfit.plugin.findings_text import finding_rows, label_of
from pytest_overfit.plugin.store import Climbed
from pytest_overfit.plugin.summary import COLUMNS, lines_below, summary_row
from pytest_overfit.plugin.wording import why_not_tried

if TYPE_CHECKING:
    from jinja2 import Template

TEMPLATE = "page.html.j2"
WIDTH, HEIGHT = 640, 240
"""Of a picture's view box, which scales with the page."""
LEFT, RIGHT, TOP, BOTTOM = 46, 150, 10, 26
"""Margins: numbers stand on the left and below, names of levels on the right."""
POINTS = 400
"""Of a curve at most: more are closer together than a pixel."""
LOWEST = 1e-3
"""Nats per token below which a loss is drawn at the bottom."""
APART = 13
"""Between two names of levels, so that both can be read."""

Reruns = Mapping[tuple[str, int], str]
Notes = Sequence[tuple[str, Finding]]


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of a picture, with what stands at its end.

    y: of the text, moved off its neighbours.
    """

    name: str
    at: float
    y: float
    own: bool


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A rung's loss against the levels.

    curve: training loss; readings: in eval mode; both in the picture's own units.
    """

    curve: str
    readings: tuple[tuple[float, float], ...]
    levels: tuple[Line, ...]
    ticks_y: tuple[tuple[float, str], ...]
    ticks_x: tuple[tuple[float, str], ...]


def page(
    climbed: Sequence[Climbed],
    *,
    notes: Notes = (),
    reruns: Reruns | None = None,
    comparisons: Sequence[Comparison] = (),
) -> str:
    """The whole page. notes: what subjects pass with. comparisons: with another side.

    reruns: (subject, samples) -> the command that tries a rung again.
    """
    subjects = [
        {
            **_subject(name, climbed, notes, reruns or {}),
            "compared": compared([one for one in comparisons if one.subject == name]),
        }
        for name in dict.fromkeys(outcome.subject for outcome, _ in climbed)
    ]
    broken = sum(bool(subject["broken"]) for subject in subjects)
    return template(Path(__file__).with_name(TEMPLATE)).render(
        subjects=subjects,
        broken=broken,
        worse=len({one.subject for one in comparisons if one.fails}),
        columns=COLUMNS,
        view=(WIDTH, HEIGHT),
        edges=(LEFT, WIDTH - RIGHT, TOP, HEIGHT - BOTTOM),
    )


def template(path: Path) -> Template:
    """A template that may include those beside this module; what it is given is escaped."""
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(
        loader=FileSystemLoader([path.parent, Path(__file__).parent]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(path.name)


def _subject(
    name: str, climbed: Sequence[Climbed], notes: Notes, reruns: Reruns
) -> dict[str, object]:
    """What the template needs of one subject."""
    own = sorted(
        ((outcome, diagnosis) for outcome, diagnosis in climbed if outcome.subject == name),
        key=lambda one: one[0].samples,
    )
    outcomes = [outcome for outcome, _ in own]
    return {
        "name": name,
        "parameters": max(outcome.parameters for outcome in outcomes),
        "where": next((outcome.where for outcome in outcomes if outcome.where), None),
        "rungs": [_rung(outcome) for outcome in outcomes],
        "rows": [summary_row(outcome) for outcome in outcomes],
        "lines": [line.strip() for line in lines_below(outcomes)],
        "pictures": [
            (outcome.samples, outcome.status, picture)
            for outcome in outcomes
            for picture in _pictures(outcome)
        ],
        "broken": [
            _break(outcome, diagnosis, outcomes, reruns)
            for outcome, diagnosis in own
            if outcome.status == "broken"
        ],
        "notes": [
            (label_of(finding), finding_rows(finding))
            for subject, finding in notes
            if subject == name
        ],
    }


def _rung(outcome: Outcome) -> dict[str, object]:
    words = {
        "ok": counted(outcome.steps, "step"),
        "broken": "broken",
        "not tried": why_not_tried(outcome),
    }
    return {"samples": outcome.samples, "status": outcome.status, "word": words[outcome.status]}


def _break(
    outcome: Outcome, diagnosis: Diagnosis | None, outcomes: Sequence[Outcome], reruns: Reruns
) -> dict[str, object]:
    findings = diagnosis.findings if diagnosis else outcome.findings
    blamed: set[str | None] = {finding.module for finding in findings if finding.module}
    return {
        "headline": headline(outcome, diagnosis),
        "samples": outcome.samples,
        "attempts": attempt_rows(outcome.telling) if outcome.attempts else [],
        "findings": [
            (label_of(finding), finding.status, finding_rows(finding)) for finding in findings
        ],
        "modules": [_module(row, is_blamed(row, blamed)) for row in diagnosis.table]
        if diagnosis
        else [],
        "ruled_out": diagnosis.ruled_out if diagnosis else (),
        "trials": diagnosis.trials if diagnosis else (),
        "failure": diagnosis.failure if diagnosis else None,
        "rerun": reruns.get((outcome.subject, outcome.samples)),
    }


def _module(row: Row, blamed: bool) -> dict[str, object]:
    """A box of the network's picture. share: of its output that tells clips apart, in percent."""
    share = (
        None
        if row.between_sample_share is None or not math.isfinite(row.between_sample_share)
        else min(100, max(0, round(100 * row.between_sample_share)))
    )
    return {
        "name": row.module,
        "where": row.where,
        "steps": row.steps,
        "share": share,
        "gradient": row.gradient,
        "blamed": blamed,
    }


def _pictures(outcome: Outcome) -> list[Picture]:
    return [picture(outcome.telling)] if outcome.attempts and outcome.telling.trace.losses else []


def picture(attempt: Attempt) -> Picture:
    """Training loss and readings over the steps, on a logarithmic axis of nats per token."""
    losses, readings = (
        attempt.trace.losses,
        [
            (reading.step, reading.loss)
            for reading in attempt.trace.readings
            if math.isfinite(reading.loss)
        ],
    )
    levels = [
        level
        for level in (attempt.level_match.ladder if attempt.level_match else ())
        if level.loss > LOWEST
    ]
    shown = [
        max(loss, LOWEST)
        for loss in (*losses, *(loss for _, loss in readings), *(level.loss for level in levels))
        if math.isfinite(loss)
    ]
    low, high = (
        math.floor(math.log10(min(shown, default=LOWEST))),
        math.ceil(math.log10(max(shown, default=1.0)) + 1e-9),
    )
    high = max(high, low + 1)

    def y(loss: float) -> float:
        share = (math.log10(max(loss, LOWEST)) - low) / (high - low)
        return round(HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP), 1)

    def x(step: float) -> float:
        return round(LEFT + step / max(len(losses), 1) * (WIDTH - RIGHT - LEFT), 1)

    every = -(-len(losses) // POINTS)
    kept = [
        (step, loss)
        for step, loss in enumerate(losses, 1)
        if math.isfinite(loss) and (step % every == 0 or step == len(losses))
    ]
    named = attempt.level_match.level.name if attempt.level_match else None
    return Picture(
        curve=" ".join(f"{x(step)},{y(loss)}" for step, loss in kept),
        readings=tuple((x(step), y(loss)) for step, loss in readings),
        levels=_apart(
            [
                (f"{level.name} {level.loss:.3g}", y(level.loss), level.name == named)
                for level in levels
            ]
        ),
        ticks_y=tuple((y(10.0**power), f"{10.0**power:g}") for power in range(low, high + 1)),
        ticks_x=tuple((x(step), str(step)) for step in sorted({0, len(losses) // 2, len(losses)})),
    )


def _apart(lines: Sequence[tuple[str, float, bool]]) -> tuple[Line, ...]:
    """Names from the top down, each at least APART below the one before; what runs over the edge is
    moved up again.
    """
    ordered = sorted(lines, key=lambda line: line[1])
    places: list[float] = []
    for _, at, _ in ordered:
        places.append(max(at, places[-1] + APART) if places else max(at, TOP))
    bottom = float(HEIGHT - BOTTOM)
    for i in reversed(range(len(places))):
        places[i] = min(places[i], bottom)
        bottom = places[i] - APART
    return tuple(
        Line(name=name, at=at, y=round(place, 1), own=own)
        for (name, at, own), place in zip(ordered, places, strict=True)
    )
