"""The summary at the end of a session: a table for each subject, and what stands below it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from rich import box
from rich.table import Table

from pytest_overfit.climb.controls import INFORMATIVE, JUDGED, Control
from pytest_overfit.climb.ladder import Outcome
from pytest_overfit.finding import counted
from pytest_overfit.plugin.wording import (
    WIDTH,
    detour_text,
    number,
    percent,
    rendered,
    seeds_text,
    thousands,
    unread_text,
    why_not_tried,
)

COLUMNS = (
    "samples",
    "verdict",
    "steps",
    "seconds",
    "loss (nats/token)",
    "level",
    "WER",
    "recipe",
)
TEXT_COLUMNS = ("verdict", "level", "recipe")
"""Those that stand on the left."""


def summary(outcomes: Sequence[Outcome], *, width: int = WIDTH) -> str:
    """A table a subject: what each rung came to. Losses in nats per target token."""
    blocks = []
    for subject in dict.fromkeys(outcome.subject for outcome in outcomes):
        own = sorted((o for o in outcomes if o.subject == subject), key=lambda o: o.samples)
        size = max(o.parameters for o in own)
        title = f"{subject}, {thousands(size)} parameters" if size else subject
        table = Table(
            box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="", pad_edge=False
        )
        for column in COLUMNS:
            justify: Literal["left", "right"] = "left" if column in TEXT_COLUMNS else "right"
            table.add_column(column, justify=justify, overflow="fold")
        for outcome in own:
            table.add_row(*summary_row(outcome))
        blocks.append("\n".join([rendered(table, width), *lines_below(own)]))
    return "\n".join(blocks)


def summary_row(outcome: Outcome) -> tuple[str, ...]:
    """The cells of COLUMNS."""
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
    loss, error = (number(reading.loss), percent(reading.token_error_rate)) if reading else ("", "")
    first = next(attempt for attempt in outcome.attempts if attempt.seed == shown.seed)
    recipe = (
        f"{shown.recipe.optimizer}, lr {shown.recipe.lr:g}"
        if outcome.status == "ok"
        else f"{counted(len(outcome.attempts), 'recipe')} tried"
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


def _not_tried(outcome: Outcome) -> str:
    """The same, as short as a column of the table."""
    return (
        why_not_tried(outcome)
        if outcome.available is None
        else f"not climbed: {counted(outcome.available, 'clip')}"
    )


def lines_below(outcomes: Sequence[Outcome]) -> list[str]:
    """What stands below a subject's table: seeds, detours, controls."""
    return [*seeds_lines(outcomes), *detour_lines(outcomes), *_controls_line(outcomes)]


def seeds_lines(outcomes: Sequence[Outcome]) -> list[str]:
    """With which error the rungs' seeds came to their verdicts: rungs of the same count and verdict
    in one line.
    """
    rungs_by_text: dict[str, list[str]] = {}
    for outcome in outcomes:
        if outcome.chance_of_error is not None:
            rungs_by_text.setdefault(seeds_text(outcome), []).append(str(outcome.samples))
    return [f" seeds at {', '.join(rungs)}: {text}" for text, rungs in rungs_by_text.items()]


def detour_lines(outcomes: Sequence[Outcome]) -> list[str]:
    """How rungs were climbed that CTC alone, or the recipe's own rate, does not climb honestly."""
    climbed = [outcome for outcome in outcomes if outcome.status == "ok" and outcome.attempts]
    return [
        f" detour at {outcome.samples}: {text}"
        for outcome in climbed
        for text in (detour_text(outcome.telling.detour), unread_text(outcome))
        if text
    ]


def _controls_line(outcomes: Sequence[Outcome]) -> list[str]:
    """What the highest rung that held loses by altered inputs, in WER."""
    passed = [outcome for outcome in outcomes if outcome.status == "ok" and outcome.samples > 1]
    controls = passed[-1].telling.controls if passed else ()
    if not controls:
        return []
    count = passed[-1].samples
    judged = [control for control in controls if control.name in JUDGED]
    rates = (
        _altered(controls)
        if count <= INFORMATIVE
        else f"{_altered(judged)}; of {INFORMATIVE} clips: {_altered(controls[len(judged) :])}"
    )
    return [f" controls at {count} samples (WER): {rates}\n"]


def _altered(controls: Sequence[Control]) -> str:
    rates = ", ".join(f"{control.name} {percent(control.altered)}" for control in controls)
    return f"as they are {percent(controls[0].as_is)}, {rates}"
