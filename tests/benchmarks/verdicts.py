"""What a network goes through until its verdict is told: contracts, rungs, and an explanation where
one breaks.

`python -m tests.benchmarks.verdicts [FAULT ...]` prints what broken networks take beside a sound
one, in seconds of processor time, of one round each.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from statistics import median

from examination.hosts import HOSTS
from examination.planted import faults_for
from model.subjects import mobilenetv3
from pytest_overfit.climb.ladder import RUNGS, Outcome, Rung, criteria_for
from pytest_overfit.explain.diagnosis import diagnose
from pytest_overfit.findings.examine import examine
from pytest_overfit.host import lent
from pytest_overfit.recipe import Recipe, default_recipe
from pytest_overfit.subject import Subject
from tests.benchmarks.pairs import processor_seconds
from tests.engine.faults import Fault

CLIMBED = (1, 2, 5, 10)
BROKEN = ("ctc-softmax", "train-lr-high", "train-reg", "net-time-attention")
"""Faults of the output, the recipe and a layer, each of which breaks a rung."""


def planted(name: str) -> Fault:
    """The fault of that name for mobilenetv3."""
    return next(fault for fault in faults_for(HOSTS["mobilenetv3"]) if fault.name == name)


def hosting() -> Subject:
    """mobilenetv3 without the variants that it offers to searches: what is planted builds one."""
    return replace(mobilenetv3(), variants={})


def rung_of(subject: Subject, samples: int) -> Rung:
    return Rung(
        subject=subject,
        samples=samples,
        recipe=default_recipe(samples),
        criteria=criteria_for(samples),
    )


def climb(
    subject: Subject, recipe: Callable[[Recipe], Recipe] = lambda recipe: recipe
) -> tuple[Rung, Outcome]:
    """The rungs in turn up to the first that breaks. Returns the last one tried."""
    for samples in CLIMBED:
        rung = rung_of(subject, samples)
        rung = replace(rung, recipe=recipe(rung.recipe))
        outcome = rung.climb()
        if outcome.status != "ok":
            break
    return rung, outcome


def contracts(subject: Subject) -> None:
    examine(subject, subject.offered(max(RUNGS)))


def broken_verdict(fault: Fault, sound: Subject) -> None:
    """All that a broken network goes through: contracts, rungs up to the broken one, explanation.

    Of fault.recipe too.
    """
    subject = fault.plant(sound)
    contracts(subject)
    rung, outcome = climb(subject, fault.recipe)
    assert outcome.status == "broken", f"{fault.name} climbs"
    diagnose(rung, outcome)


def main(names: tuple[str, ...]) -> None:
    sound, ratios = hosting(), []
    with lent(threads=1):
        processor_seconds(lambda: rung_of(sound, 1).climb())  # imports, and clips that are cached
        for name in names:
            fault = planted(name)
            whole = processor_seconds(lambda: (contracts(sound), climb(sound)))
            broken = processor_seconds(lambda fault=fault: broken_verdict(fault, sound))
            ratios.append(broken / whole)
            print(f"{name:24} {broken:6.1f} s, sound {whole:6.1f} s: {ratios[-1]:.2f}", flush=True)
    print(f"{'median':24} {median(ratios):.2f}")


if __name__ == "__main__":
    main(tuple(sys.argv[1:]) or BROKEN)
