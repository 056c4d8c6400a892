"""One trial of a search: a recipe climbs the rungs, and is given up where others did better."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from optuna.exceptions import UpdateFinishedTrialError

from pytest_overfit.climb.attempt import STILL_STEPS, Ended, OnStep, Progress, steps_given
from pytest_overfit.climb.ladder import Outcome, Rung, criteria_for
from pytest_overfit.ctc import steps_needed
from pytest_overfit.levels import Level, ladder_of_levels
from pytest_overfit.recipe import Recipe
from pytest_overfit.search.sampling import TENTHS
from pytest_overfit.search.scores import distance, height, level_at, score_of_broken, score_of_held
from pytest_overfit.search.space import Space, clips_a_step
from pytest_overfit.subject import Subject
from pytest_overfit.training import Training
from pytest_overfit.trend import stands_still

MORE_SEEDS = 2
"""Further seeds with which a trial must hold that would be the best so far: one may be luck."""


class Overtaken(Exception):
    """A trial stands on a level of the loss that others had left by then."""


class _StoodStill(Exception):
    """The loss of a rung no longer falls."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Climb:
    """What every trial of a search has in common. base: recipe of each rung, in ascending order."""

    subject: Subject
    base: Mapping[int, Recipe]
    space: Space
    bounds: Mapping[str, float]
    seed: int = 0
    device: str = "cpu"
    size: str | None = None

    def recipes(self, values: Mapping[str, Any]) -> dict[int, Recipe]:
        """The recipe of each rung with the values of a trial."""
        return {n: self.space.recipe(recipe, values, n) for n, recipe in self.base.items()}


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """How a trial went, with the seed that did worst.

    ended: in words. rungs_held: how many. steps: optimiser steps of all rungs. seeds, seeds_held:
    tried. loss: nats per target token. level: that the loss stands on. seconds: of all seeds.
    """

    score: float
    held: bool
    ended: str
    rungs_held: int
    steps: int
    seconds: float
    token_error_rate: float
    loss: float
    level: str
    seeds: int = 1
    seeds_held: int = 0
    as_given: bool = False

    def to_json(self) -> dict[str, Any]:
        """Its fields, in plain types."""
        return asdict(self)


Report = Callable[[int, float], None]
"""Called with the number and the height of a report; what it raises ends the trial."""


def climb_trial(
    climb: Climb, values: Mapping[str, Any], *, best: float, report: Report, on_step: OnStep
) -> TrialResult:
    """Climb every rung. What would be better than `best` has to hold with further seeds too.

    Raises Overtaken where `report` does. What goes wrong in a network variant is told, not raised.
    """
    result = _climbed_once(climb, values, climb.seed, report, on_step)
    if not result.held or result.score >= best:
        return result
    seeds = [result]
    while len(seeds) <= MORE_SEEDS and seeds[-1].held:
        seeds.append(_climbed_once(climb, values, climb.seed + len(seeds), _no_report, on_step))
    worst = max(seeds, key=lambda one: one.score)
    held = sum(one.held for one in seeds)
    seconds = sum(one.seconds for one in seeds)
    return replace(worst, seeds=len(seeds), seeds_held=held, seconds=seconds)


def _no_report(step: int, value: float) -> None:
    """Further seeds are compared with nobody."""


def _climbed_once(
    climb: Climb, values: Mapping[str, Any], seed: int, report: Report, on_step: OnStep
) -> TrialResult:
    """The rungs with one seed, up to the first that breaks."""
    done: list[_Rung] = []
    for place, (samples, recipe) in enumerate(climb.recipes(values).items()):

        def at_rung(tenth: int, value: float, place: int = place) -> None:
            report(place * TENTHS + tenth, value)

        rung = _Rung.of(climb, samples, recipe, seed)
        rung.climb(at_rung, on_step)
        done.append(rung)
        if not rung.held:
            break
    last = done[-1]
    broken = score_of_broken(len(done) - 1, len(climb.base), last.away)
    return TrialResult(
        score=score_of_held([rung.share for rung in done]) if last.held else broken,
        held=last.held,
        ended=last.ended,
        rungs_held=sum(rung.held for rung in done),
        steps=sum(rung.steps for rung in done),
        seconds=sum(rung.seconds for rung in done),
        token_error_rate=last.token_error_rate,
        loss=last.loss,
        level=level_at(height(last.loss, last.levels)),
        seeds_held=int(last.held),
    )


@dataclass(kw_only=True)
class _Rung:
    """A rung under way, and then how it went. levels: none where no target fits."""

    climb_of: Climb
    samples: int
    recipe: Recipe
    seed: int
    levels: tuple[Level, ...] = ()
    ended: str = ""
    held: bool = False
    steps: int = 0
    seconds: float = 0.0
    token_error_rate: float = math.nan
    loss: float = math.nan

    @classmethod
    def of(cls, climb: Climb, samples: int, recipe: Recipe, seed: int) -> _Rung:
        return cls(climb_of=climb, samples=samples, recipe=recipe, seed=seed)

    @property
    def share(self) -> float:
        """Of its budget, that it took."""
        return min(self.steps / self.recipe.budget, 1.0)

    @property
    def away(self) -> float:
        """How far it is from holding."""
        return distance(self.loss, self.token_error_rate, self.levels)

    def climb(self, report: Report, on_step: OnStep) -> None:
        """Climb it. Raises what `report` and `on_step` raise of ours; other errors are told."""
        began = time.perf_counter()
        try:
            self._judge(self._rung().climb(self._watch(report, on_step)))
        except _StoodStill:
            self.ended = "stood still"
        except (Overtaken, UpdateFinishedTrialError):
            raise
        except Exception as error:  # a variant's own code can fail in any way
            message = (str(error).splitlines() or [""])[0]
            self.ended = f"could not be trained: {type(error).__name__}: {message}"
        self.seconds = time.perf_counter() - began

    def _rung(self) -> Rung:
        climb = self.climb_of
        samples = climb.subject.take(self.samples)
        first = Training(
            climb.subject,
            samples,
            self.recipe,
            seed=self.seed,
            device=climb.device,
            size=climb.size,
        )
        targets = [sample.target.tolist() for sample in samples]
        given, vocabulary = steps_given(first), len(climb.subject.vocabulary)
        if any(has >= steps_needed(target) for target, has in zip(targets, given, strict=True)):
            self.levels = ladder_of_levels(targets=targets, steps=given, vocabulary=vocabulary)
        return Rung(
            subject=climb.subject,
            samples=self.samples,
            recipe=self.recipe,
            criteria=criteria_for(self.samples, climb.bounds),
            seeds=(self.seed,),
            device=climb.device,
            size=climb.size,
        )

    def _watch(self, report: Report, on_step: OnStep) -> OnStep:
        """Follows the climb: its last reading, a report each tenth, and an end where it stands
        still.
        """
        a_pass = math.ceil(self.samples / clips_a_step(self.recipe, self.samples))
        window = max(STILL_STEPS, 5 * a_pass)
        losses: list[float] = []
        reported = 0

        def watch(progress: Progress) -> None:
            nonlocal reported
            self.steps, self.loss = progress.step, progress.nats
            self.token_error_rate = progress.token_error_rate
            on_step(progress)
            losses.append(progress.loss)
            if stands_still(losses, window):
                raise _StoodStill
            tenth = 10 * progress.step // progress.budget
            if tenth > reported and self.levels and math.isfinite(progress.nats):
                reported = tenth
                report(tenth, height(progress.nats, self.levels))

        return watch

    def _judge(self, outcome: Outcome) -> None:
        self.held = outcome.status == "ok"
        if not outcome.attempts:
            self.ended = outcome.findings[0].headline
            return
        last = outcome.telling
        self.steps = last.steps
        if last.trace.readings:
            self.loss = last.trace.readings[-1].loss
            self.token_error_rate = last.trace.readings[-1].token_error_rate
        if last.diverged or last.ended is Ended.NOT_FINITE:
            self.loss = math.nan
        dishonest = last.findings[0].headline if last.findings and not last.held else ""
        self.ended = "held" if self.held else last.why or dishonest or "not within its budget"
