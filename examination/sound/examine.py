"""What the tool says of a sound network: its contracts, its rungs, and what diagnoses would say of
each.
"""

from __future__ import annotations

import time
import traceback
from dataclasses import asdict, dataclass
from typing import Any

from examination.sound.catalogue import Sound
from pytest_overfit.climb.ladder import Rung, criteria_for
from pytest_overfit.explain.diagnosis import examine_rung
from pytest_overfit.finding import Finding
from pytest_overfit.findings.examine import check
from pytest_overfit.recipe import default_recipe

CHECKED = 10
"""Samples that contracts are examined on."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What was said of one network. failures: what would fail a test. warnings: what would be told.

    rungs: how each ended, in words.
    """

    name: str
    aside: bool
    seed: int = 0
    failures: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    rungs: dict[str, str]
    seconds: float
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def examine(sound: Sound, seed: int = 0) -> Row:
    """One row; what the tool itself raises is one too."""
    began, said, rungs = time.monotonic(), list[tuple[str, Finding]](), dict[str, str]()
    broken, error = list[str](), None
    try:
        subject = sound.make()
        said += [
            ("contracts", finding)
            for finding in check(subject, subject.offered(CHECKED), seed=seed)
        ]
        for samples in sound.rungs:
            rung = Rung(
                subject=subject,
                samples=samples,
                recipe=default_recipe(samples),
                criteria=criteria_for(samples),
                seeds=(seed,),
            )
            outcome = rung.climb()
            rungs[str(samples)] = (
                f"{outcome.status} after {outcome.steps} steps, {len(outcome.attempts)} attempts"
            )
            broken += [f"rung {samples} is broken"] if outcome.status != "ok" else []
            said += [
                (f"rung {samples}", finding)
                for attempt in outcome.deciding
                for finding in attempt.findings
            ]
            said += [
                (f"diagnosis of rung {samples}", finding) for finding in examine_rung(rung, outcome)
            ]
    except (
        Exception
    ):  # a crash of the tool is the worst of its answers, and the others are still wanted
        error = traceback.format_exc()
    told = [
        (f"{where}: {finding.name} ({finding.module}): {finding.headline}", finding.fails())
        for where, finding in said
    ]
    return Row(
        name=sound.name,
        aside=sound.aside,
        seed=seed,
        failures=(*broken, *(text for text, fails in told if fails)),
        warnings=tuple(text for text, fails in told if not fails),
        rungs=rungs,
        seconds=time.monotonic() - began,
        error=error,
    )
