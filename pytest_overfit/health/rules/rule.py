"""A rule: a judgement of a run, what it needs to judge by, and whether a run that it convicts
should be stopped.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from pytest_overfit.finding import Finding
from pytest_overfit.findings.record import Record
from pytest_overfit.health.rules.reading import errors
from pytest_overfit.health.run import Run

Need = Callable[[Run], str | None]
"""What a run lacks, in words, or None."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How a record is looked for in a run.

    judge: finds it in a run that has what it `needs`. stops: whether training on with it is a
    waste. slower: the factor of the learning rate that answers it. overfits: whether more dropout
    and weight decay do.
    """

    record: Record
    judge: Callable[[Run], Finding | None]
    needs: tuple[Need, ...] = ()
    stops: bool = True
    slower: float | None = None
    overfits: bool = False

    @property
    def name(self) -> str:
        """Of what it finds."""
        return self.record.name

    def lacks(self, run: Run) -> str | None:
        """What must be known before this rule can judge, in words; None where nothing is
        missing.
        """
        missing = [words for need in self.needs if (words := need(run))]
        return "needs " + " and ".join(missing) if missing else None

    def __call__(self, run: Run) -> Finding | None:
        """The finding, or None where the run is free of it, or lacks what the rule needs."""
        return None if self.lacks(run) else self.judge(run)


def readings(*names: str, least: int = 1, numbers: bool = True) -> Need:
    """So many finite readings of one of these metrics; or of any kind, where `numbers` is false."""

    def lacking(run: Run) -> str | None:
        most = max(
            sum(math.isfinite(value) or not numbers for value in run.curve(name).values)
            for name in names
        )
        if most >= least:
            return None
        return (
            " or ".join(names)
            if not most
            else f"{least} readings of {' or '.join(names)}, it has {most}"
        )

    return lacking


def error_rates(least: int) -> Need:
    """So many readings of what validation is read by: an error rate or a score."""

    def lacking(run: Run) -> str | None:
        count = len(errors(run, "val"))
        if count >= least:
            return None
        return (
            f"{least} readings of an error rate of validation, it has {count}"
            if count
            else "an error rate of validation (val_wer)"
        )

    return lacking


def validation(least: int) -> Need:
    """So many readings of validation, its loss or what it is read by."""
    of_loss, of_errors = readings("val_loss", least=least), error_rates(least)
    return lambda run: of_loss(run) if of_errors(run) else None


def levels(split: str) -> Need:
    """The plateaus that the loss of this split can stand on."""
    return lambda run: (
        None if run.facts.levels.get(split) else f"the loss levels of {split} (run.json)"
    )
