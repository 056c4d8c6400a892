"""What the tool says of a changed training: the contracts of its loop, those of its network, the
lower rungs, and where one breaks the exchange.

What fails ends the examination: what comes after it would be told of the same fault.
"""

from __future__ import annotations

import tempfile
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from examination.loops.planting import Change, Kind, Lot
from examination.loops.subjects import subject
from pytest_overfit.climb.ladder import Rung, criteria_for
from pytest_overfit.explain.exchange import diagnose_loop
from pytest_overfit.finding import Finding
from pytest_overfit.findings.examine import examine as examine_network
from pytest_overfit.loop.contracts import findings_of_loop
from pytest_overfit.loop.training import recipe_of_loop
from pytest_overfit.recipe import default_recipe
from pytest_overfit.subject import Subject

RUNGS = (1, 5)


@dataclass(frozen=True, kw_only=True)
class Said:
    """A finding as a row keeps it."""

    name: str
    part: str | None
    headline: str
    warning: bool = False


@dataclass(frozen=True, kw_only=True)
class Row:
    """What was said of one change. expected: the parts that may be named; none where it is sound.

    broke_at: the rung that did not hold.
    """

    kind: Kind
    name: str
    lot: Lot
    expected: tuple[str, ...] = ()
    said: tuple[Said, ...] = ()
    broke_at: int | None = None
    seconds: float = 0.0
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def examine(kind: Kind, change: Change) -> Row:
    """One row; what the tool itself raises is one too."""
    began = time.monotonic()
    row: dict[str, Any] = {
        "kind": kind,
        "name": change.name,
        "lot": change.lot,
        "expected": change.parts(),
    }
    with tempfile.TemporaryDirectory() as folder:
        try:
            made = subject(kind, change, Path(folder))
            said = [_said(finding) for finding in findings_of_loop(made)]
            broke_at = None
            if all(one.warning for one in said):
                said = [
                    _said(finding, "network")
                    for one in examine_network(made, made.take(max(RUNGS)))
                    for finding in one.findings
                ] + said
            if all(one.warning for one in said):
                broke_at, explained = climb(made)
                said = explained + said
        except (
            Exception
        ):  # a crash of the tool is the worst of its answers, and the others are still wanted
            return Row(**row, seconds=time.monotonic() - began, error=traceback.format_exc())
    said.sort(key=lambda one: one.warning)
    return Row(**row, said=tuple(said), broke_at=broke_at, seconds=time.monotonic() - began)


def climb(made: Subject) -> tuple[int | None, list[Said]]:
    """The lowest rung that breaks, and what is found to have broken it."""
    assert made.loop is not None
    for samples in RUNGS:
        recipe = recipe_of_loop(default_recipe(samples), made.loop)
        rung = Rung(subject=made, samples=samples, recipe=recipe, criteria=criteria_for(samples))
        outcome = rung.climb()
        if outcome.status == "broken":
            return samples, [
                _said(finding)
                for finding in diagnose_loop(rung, outcome).findings
                if finding.fails()
            ]
    return None, []


def _said(finding: Finding, part: str | None = None) -> Said:
    return Said(
        name=finding.name,
        part=finding.part or part,
        headline=finding.headline,
        warning=finding.severity == "warning",
    )
