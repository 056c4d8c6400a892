"""What GitHub shows of a session: annotations at the guilty line, and the step summary.

Source: docs.github.com, "Workflow commands for GitHub Actions".
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from pytest_overfit.climb.ladder import Outcome
from pytest_overfit.explain.diagnosis import Diagnosis
from pytest_overfit.finding import Finding
from pytest_overfit.plugin.failure import headline
from pytest_overfit.plugin.findings_text import note_line
from pytest_overfit.plugin.store import Climbed
from pytest_overfit.plugin.summary import COLUMNS, detour_lines, summary_row


def annotation(outcome: Outcome, diagnosis: Diagnosis | None = None) -> str:
    """An error annotation, at the network's line where it is known."""
    path, _, line = (outcome.where or "").rpartition(":")
    place = (
        f"file={escaped_property(path)},line={line}," if path and not os.path.isabs(path) else ""
    )
    return (
        f"::error {place}title=overfit "
        f"{escaped_property(outcome.subject)}::{escaped(headline(outcome, diagnosis))}"
    )


def note_annotation(subject: str, finding: Finding) -> str:
    """A warning annotation for what a subject passes with."""
    return f"::warning title=overfit {escaped_property(subject)}::{escaped(note_line(subject, finding))}"


def escaped(text: str) -> str:
    """Text as the data of a workflow command: % and line breaks percent-encoded."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def escaped_property(text: str) -> str:
    """Text as a property of a workflow command: : and , percent-encoded as well."""
    return escaped(text).replace(":", "%3A").replace(",", "%2C")


def markdown(climbed: Sequence[Climbed]) -> str:
    """The summary as a table for the step summary."""
    rows = [
        ("subject", *COLUMNS[:-1]),
        ("---",) * len(COLUMNS),
        *((outcome.subject, *summary_row(outcome)[:-1]) for outcome, _ in climbed),
    ]
    lines = ["### Overfit ladder", "", *("| " + " | ".join(row) + " |" for row in rows)]
    lines += [
        "",
        *(
            f"- {outcome.subject},{line}"
            for outcome, _ in climbed
            for line in detour_lines([outcome])
        ),
    ]
    lines += [
        "",
        *(
            f"- **{headline(outcome, diagnosis)}**"
            for outcome, diagnosis in climbed
            if outcome.status == "broken"
        ),
    ]
    return "\n".join(lines) + "\n"
