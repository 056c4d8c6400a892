"""What became of a rung, attempt by attempt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pytest_overfit.climb.attempt import Attempt, rank_of
from pytest_overfit.finding import Finding


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a rung.

    findings: why it was not trained: targets that do not fit. error: why it could not be trained.
    broke_at: the lower rung that broke, where this one was not tried. available: how many samples
    there are, where they are too few to try it. parameters: of the network.
    where: `file:line` of its class. chance_of_error: of the verdict that the seeds came to
    (`SeedTest.chance_of_error`); None where one seed was enough, since what broke it is no matter
    of luck.
    """

    subject: str
    samples: int
    status: Literal["ok", "broken", "not tried"]
    attempts: tuple[Attempt, ...] = ()
    findings: tuple[Finding, ...] = ()
    error: str | None = None
    broke_at: int | None = None
    available: int | None = None
    parameters: int = 0
    where: str | None = None
    chance_of_error: float | None = None

    @property
    def deciding(self) -> tuple[Attempt, ...]:
        """The attempt that decided each seed: the one that held, else the one that came nearest."""
        seeds = dict.fromkeys(attempt.seed for attempt in self.attempts)
        return tuple(
            min(
                (a for a in self.attempts if a.seed == seed), key=lambda a: rank_of(a.held, a.trace)
            )
            for seed in seeds
        )

    @property
    def telling(self) -> Attempt:
        """The deciding attempt that shows the verdict: the last that held where it is ok, the first
        that failed where it is broken.
        """
        return next(
            a
            for a in (reversed(self.deciding) if self.status == "ok" else self.deciding)
            if a.held == (self.status == "ok")
        )

    @property
    def seeds_held(self) -> int:
        """How many seeds held."""
        return sum(attempt.held for attempt in self.deciding)

    @property
    def steps(self) -> int:
        """Optimiser steps of the slowest deciding attempt."""
        return max((attempt.steps for attempt in self.deciding), default=0)

    @property
    def seconds(self) -> float:
        """Of all attempts together."""
        return sum(attempt.seconds for attempt in self.attempts)
