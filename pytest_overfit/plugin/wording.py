"""Words for one fact: a number, a criterion, a level, how seeds came out."""

from __future__ import annotations

import io
import math

from rich.console import Console
from rich.table import Table

from pytest_overfit.climb.criteria import WER
from pytest_overfit.climb.ladder import Detour, Outcome, Verdict
from pytest_overfit.climb.misread import Misread
from pytest_overfit.finding import counted
from pytest_overfit.findings.lost_input import INPUT_IGNORED
from pytest_overfit.levels import LevelMatch

WIDTH = 120
"""Characters of a line of a table."""


def number(value: float) -> str:
    """A number to three digits."""
    return "not finite" if not math.isfinite(value) else f"{value:.3g}"


def percent(rate: float) -> str:
    """A rate in percent to three digits: "8.57 %"."""
    return f"{number(100 * rate)} %" if math.isfinite(rate) else number(rate)


def thousands(count: int) -> str:
    """ "1.2 M", "13.4 k", "840"."""
    if count >= 1e6:
        return f"{count / 1e6:.1f} M"
    return f"{count / 1e3:.1f} k" if count >= 1e3 else str(count)


def phrase(verdict: Verdict) -> str:
    """ "WER 71 %, must be < 50 %"."""
    if verdict.name == WER:
        return f"{WER} {percent(verdict.value)}, must be {verdict.sign} {percent(verdict.bound)}"
    name = "loss" if verdict.name == "loss not negative" else verdict.name
    unit = " nats/token" if name == "loss" and math.isfinite(verdict.value) else ""
    return f"{name} {number(verdict.value)}{unit}, must be {verdict.sign} {verdict.bound:g}"


def misread_text(misread: Misread) -> str:
    """ "c3 of 10 clips, WER 75.0 % (all: 71.4 %)", and its target and output below each other."""
    first = (
        f"{misread.sample} of {counted(misread.clips, 'clip')}, WER {100 * misread.wer:.1f} % (all: "
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


def detour_text(detour: Detour | None) -> str:
    """Nothing, or "CTC alone stood on `repeats merged` (0.167 nats/token) after 200 steps; then 60
    steps on one path a clip, and CTC again".
    """
    if detour is None:
        return ""
    stood = (
        f"CTC alone stood on `{detour.level.name}` ({number(detour.level.loss)} nats/token) after "
        f"{counted(detour.step, 'step')}"
    )
    return f"{stood}; then {counted(detour.path_steps, 'step')} on one path a clip, and CTC again"


def unread_text(outcome: Outcome) -> str:
    """Nothing, or "trained at lr 0.005 it no longer read its input; at lr 0.0015 it did", or "at 1
    sample it needs no input; with clip-01 beside it, it reads (64 steps)", or that it held without
    its own masks and dropout.
    """
    held = outcome.telling
    if held.quieted:
        return (
            f"held without its own masks and dropout; with them ({held.quieted.noise:.0%} of a fresh "
            f"output) its best reading has WER {100 * held.quieted.token_error_rate:.0f} % and "
            f"{number(held.quieted.nats)} nats/token"
        )
    if held.second_clip:
        steps = counted(held.second_clip.steps, "step")
        return (
            f"at 1 sample it needs no input; with {held.second_clip.sample} beside it, it reads "
            f"({steps})"
        )
    unread = [
        attempt
        for attempt in outcome.attempts
        if attempt.seed == held.seed and attempt.recipe.lr != held.recipe.lr
        if any(finding.name == INPUT_IGNORED.name for finding in attempt.findings)
    ]
    rates = ", ".join(f"{attempt.recipe.lr:g}" for attempt in unread)
    return (
        f"trained at lr {rates} it no longer read its input; at lr {held.recipe.lr:g} it did"
        if unread
        else ""
    )


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


def why_not_tried(outcome: Outcome) -> str:
    """ "not tried: broke at 5", or "not climbed: the corpus has 11 clips"."""
    if outcome.available is not None:
        return f"not climbed: the corpus has {counted(outcome.available, 'clip')}"
    return f"not tried: broke at {outcome.broke_at}"


def labelled(label: str, text: str) -> str:
    """Text with a label before its first line, the others set in."""
    lines = text.splitlines() or [""]
    rows = (f"{label if i == 0 else '':<10} {line}" for i, line in enumerate(lines))
    return "\n".join(row.rstrip() for row in rows)


def rendered(table: Table, width: int) -> str:
    """A table as plain text, at most `width` characters wide."""
    console = Console(file=io.StringIO(), width=width, color_system=None, markup=False, emoji=False)
    console.print(table)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.splitlines())
