"""The ladder: fresh networks trained on 1, 2, 5, 10, 20, 50 samples, each rung judged by the criteria of its scale.

A rung is broken only when its recipe and the recipe's fallback learning rates fail: the verdict is about the network, not about one
learning rate. Nor is it about CTC's own plateau where tokens stand by chance (`levels`): a run that comes down to it is led off by a detour
over one path a clip, and has to hold by the subject's loss all the same. Rungs do not depend on each other, so they can be climbed in any
order and by several processes with the same verdicts.
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Literal

from torch import nn

from pytest_overfit.controls import Control, ignored_inputs, run_controls, train_eval_gap
from pytest_overfit.criteria import BadLadder as BadLadder
from pytest_overfit.criteria import Criterion as Criterion
from pytest_overfit.criteria import Verdict as Verdict
from pytest_overfit.criteria import criteria_for as criteria_for
from pytest_overfit.finding import Finding, accepting
from pytest_overfit.findings.examine import Checked, breaks_rungs, examine, fit
from pytest_overfit.findings.finite import breach_of_training
from pytest_overfit.levels import BY_CHANCE, Level, Standing, ladder_of_levels, level_by_chance, standing, still_descending
from pytest_overfit.loop.running import failed
from pytest_overfit.loop.training import LoopFailed, LoopTraining
from pytest_overfit.misread import Misread, worst
from pytest_overfit.recipe import Recipe
from pytest_overfit.seeds import ALPHA, BETA, SeedTest
from pytest_overfit.subject import Sample, Subject
from pytest_overfit.train import NonFiniteLoss, Trace, Training

RUNGS = (1, 2, 5, 10, 20, 50)
CONTROLLED = 20
"""Clips that controls are run on: more cost time and tell the same."""
STILL = 100
"""Steps over which a loss that has not fallen by 2 % counts as standing still."""
SPELLING = 200
"""Steps of a detour on one path a clip at most; it ends as soon as every clip is spelt."""
BACK = 20
"""Steps by the subject's loss after a detour before anything is judged: a pass is its work, not the path's."""
SPELT = 3.0
"""Times the overtime of a run that spells every clip: what only grows surer needs nothing but time."""
CONSTANT = 1e-5
"""Nats by which log-probabilities may differ from step to step and count as the same."""
HOPE = 4.0
"""Nats a token below which labels are being learned (blanks with uniform labels stand at ln V + g, about 7), so that readings pay."""


def check_rungs(rungs: Sequence[int]) -> tuple[int, ...]:
    """The rungs as given. Raises BadLadder where they are none, not positive, or do not ascend."""
    if not rungs:
        raise BadLadder("a ladder needs at least one rung")
    for rung in rungs:
        if rung < 1:
            raise BadLadder(f"a rung has at least 1 sample, got {rung}")
    for lower, higher in pairwise(rungs):
        if higher <= lower:
            raise BadLadder(f"rungs must ascend: {lower} comes before {higher}")
    return tuple(rungs)


class Ended(StrEnum):
    """What ended an attempt before its budget."""

    STOOD_STILL = "stood still"
    NOT_FINITE = "not finite"
    LOOP_OVER = "loop over"
    LOOP_FAILED = "loop failed"


@dataclass(frozen=True, kw_only=True)
class Detour:
    """How a run was led off a plateau where tokens stand by chance. level: the plateau. step: when. path_steps: taken on one path a clip."""

    level: Level
    step: int
    path_steps: int


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One training on a rung: with which seed and recipe, and how far it came.

    ended: what ended it before its budget, if anything did. why: that in words.
    diverged: its loss or gradient was not finite, because of numbers that had grown too large.
    standing: the level its last loss stands on. detour: over one path a clip, if CTC alone stood. controls: of a pass. findings: what the
    trained network shows: a pass that is not honest, or a network that forgets in eval mode. misread: of a failure with an output, its worst clip.
    """

    seed: int
    recipe: Recipe
    steps: int
    seconds: float
    held: bool
    verdicts: tuple[Verdict, ...]
    trace: Trace
    ended: Ended | None = None
    why: str | None = None
    diverged: bool = False
    standing: Standing | None = None
    detour: Detour | None = None
    controls: tuple[Control, ...] = ()
    findings: tuple[Finding, ...] = ()
    misread: Misread | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a rung.

    findings: why it was not trained: targets that do not fit. error: why it could not be trained. broke_at: the lower rung that broke,
    where this one was not tried. available: how many samples there are, where they are too few to try it. parameters: of the network.
    where: `file:line` of its class. chance_of_error: of the verdict that the seeds came to (`SeedTest.chance_of_error`); None
    where one seed was enough, since what broke it is no matter of luck.
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
        return tuple(min((a for a in self.attempts if a.seed == seed), key=lambda a: _rank(a.held, a.trace)) for seed in seeds)

    @property
    def telling(self) -> Attempt:
        """The deciding attempt that shows the verdict: the last that held where it is ok, the first that failed where it is broken."""
        return next(a for a in (reversed(self.deciding) if self.status == "ok" else self.deciding) if a.held == (self.status == "ok"))

    @property
    def seeds_held(self) -> int:
        return sum(attempt.held for attempt in self.deciding)

    @property
    def steps(self) -> int:
        """Optimiser steps of the slowest deciding attempt."""
        return max((attempt.steps for attempt in self.deciding), default=0)

    @property
    def seconds(self) -> float:
        return sum(attempt.seconds for attempt in self.attempts)


def _rank(held: bool, trace: Trace) -> tuple[bool, float, bool, float]:
    """Smaller is nearer to holding. Of runs with the same errors, one on a plateau stands behind one that falls."""
    if not trace.readings:
        return (not held, math.inf, True, math.inf)
    reading = trace.readings[-1]
    return (not held, reading.token_error_rate, not still_descending(trace.losses), reading.loss)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a climb stands: for the line that people watch."""

    samples: int
    seed: int
    lr: float
    step: int
    budget: int
    loss: float
    token_error_rate: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Rung:
    """A fresh network trained on the subject's first `samples` samples until `criteria` hold or the recipe's budget, with its overtime, ends.

    seeds: tried in turn until `SeedTest(alpha, beta)` comes to a verdict; targets that do not fit need none.
    """

    subject: Subject
    samples: int
    recipe: Recipe
    criteria: tuple[Criterion, ...]
    seeds: tuple[int, ...] = (0,)
    alpha: float = ALPHA
    beta: float = BETA
    device: str = "cpu"
    size: str | None = None

    def climb(self) -> Generator[Progress, None, Outcome]:
        """Yields progress after each optimiser step; returns the outcome. Raises BadSample or BadSubject where it cannot begin."""
        samples = self.subject.take(self.samples)
        outcome = Outcome(subject=self.subject.name, samples=self.samples, status="ok")
        attempts: list[Attempt] = []
        test, held = SeedTest(alpha=self.alpha, beta=self.beta, most=len(self.seeds)), list[bool]()
        for seed in self.seeds:
            first = self._run(samples, self.recipe, seed)
            with closing(first.training):
                network = first.training.network
                outcome = replace(outcome, parameters=sum(p.numel() for p in network.parameters()), where=class_line(network))
                given = steps_given(first.training)
                findings = fit(self.subject, samples, seed=seed, device=self.device, size=self.size)
                if any(finding.fails() for finding in findings):
                    return replace(outcome, status="broken", findings=findings)
                yield from first.train_to_the_end(patient=not self.recipe.fallbacks)
                explained = not first.held and not any(held) and self._no_training_mends(first)
                if self.recipe.fallbacks and not explained:
                    yield from first.leave_chance()
                attempts.append(first.attempt(given))
                if explained or (first.held and not attempts[-1].held and not any(held)):  # another seed would meet it again
                    return replace(outcome, attempts=tuple(attempts), status="broken")
                if self.recipe.fallbacks and not first.held:
                    attempts += yield from self._race(samples, given, seed)
                held.append(any(attempt.held for attempt in attempts if attempt.seed == seed))
                if status := test.verdict(held):
                    return replace(outcome, attempts=tuple(attempts), status=status, chance_of_error=test.chance_of_error(held))
        raise AssertionError("the last seed comes to a verdict")

    def outcome(self) -> Outcome:
        """Climb to the end, unwatched."""
        climb = self.climb()
        while True:
            try:
                next(climb)
            except StopIteration as stop:
                outcome: Outcome = stop.value
                return outcome

    def _race(self, samples: Sequence[Sample], given: Sequence[int], seed: int) -> Generator[Progress, None, list[Attempt]]:
        """Other learning rates by successive halving: all for a quarter of the budget, the better half to half of it, the best to the end.

        Source: Jamieson & Talwalkar 2016, arXiv 1502.07943.
        """
        runs = [self._run(samples, replace(self.recipe, lr=self.recipe.lr * factor), seed) for factor in self.recipe.fallbacks]
        racing = runs
        for share in (4, 2):
            for run in racing:
                yield from run.train(self.recipe.budget // share - run.training.step, patient=True)
                if run.held:
                    return [run.attempt(given) for run in runs if run.began]
            racing = sorted(racing, key=_Run.rank)[: math.ceil(len(racing) / 2)]
        yield from racing[0].train_to_the_end(patient=True)
        yield from racing[0].leave_chance()
        return [run.attempt(given) for run in runs]

    def _no_training_mends(self, run: _Run) -> bool:
        """Whether no other rate or seed is an answer: what broke it is known, or its output cannot leave its level."""
        return bool(run.located) or bool(self.violated) or run.is_stuck()

    @cached_property
    def checked(self) -> tuple[Checked, ...]:
        """What the contracts find in the rung's samples and in a fresh network of its first seed."""
        return examine(self.subject, self.subject.offered(self.samples), seed=self.seeds[0], device=self.device, size=self.size)

    @property
    def violated(self) -> tuple[Finding, ...]:
        """What the contracts find that is reason enough to break."""
        return tuple(finding for one in self.checked for finding in one.findings if breaks_rungs(finding, self.subject))

    def _run(self, samples: Sequence[Sample], recipe: Recipe, seed: int) -> _Run:
        kind = Training if self.subject.loop is None else LoopTraining
        return _Run(kind(self.subject, samples, recipe, seed=seed, device=self.device, size=self.size), self.criteria, seed)


class _Run:
    """An attempt under way."""

    def __init__(self, training: Training, criteria: tuple[Criterion, ...], seed: int) -> None:
        self.training, self.criteria, self.seed = training, criteria, seed
        self.held = False
        self.verdicts: tuple[Verdict, ...] = ()
        self.ended: Ended | None = None
        self.why: str | None = None
        self.detour: Detour | None = None
        self.diverged = False
        self.located: tuple[Finding, ...] = ()
        self.seconds = 0.0
        self._pass = math.ceil(len(training.samples) / training.recipe.batch_of(len(training.samples)) / training.recipe.accumulation)

    @property
    def _since(self) -> int:
        """The step from which on CTC alone trains: losses along one path tell nothing of its course."""
        return self.detour.step + self.detour.path_steps if self.detour else 0

    def train_to_the_end(self, *, patient: bool) -> Generator[Progress, None, None]:
        """Train to the end of the budget, and into overtime while the loss still falls: not yet learned is not cannot learn."""
        training, recipe = self.training, self.training.recipe
        due = recipe.budget + self._since
        yield from self.train(due - training.step, patient=patient)
        while not self.held and self.ended is None and still_descending(training.trace.losses[self._since :]):
            over = recipe.budget * recipe.overtime * (SPELT if training.trace.readings[-1].exact_share == 1 else 1)
            if training.step >= round(due + over):
                break
            yield from self.train(min(math.ceil(recipe.budget / 4), round(due + over) - training.step), patient=True)

    def leave_chance(self) -> Generator[Progress, None, None]:
        """Where this run failed on a plateau of tokens by chance: a detour on one path until every clip is spelt, then on to the end as before."""
        level = None if self.held or self.diverged else self._chance()
        if level is None:
            return
        training, began, self.ended, self.why = self.training, self.training.step, None, None
        training.follow_own_paths()
        while self.ended is None and training.step < began + SPELLING:
            yield from self.train(10, patient=True, judged=False)
            if self.ended is None and training.read().exact_share == 1:
                break
        training.follow_all_paths()
        self.detour = Detour(level=level, step=began, path_steps=training.step - began)
        yield from self.train(BACK, patient=True, judged=False)
        yield from self.train_to_the_end(patient=False)

    def _chance(self) -> Level | None:
        """The level of tokens by chance that the run ended at or below, if it spells all else."""
        readings = self.training.trace.readings
        if not readings or not math.isfinite(readings[-1].loss):
            return None
        level = level_by_chance(self.training.hypotheses(), [sample.target.tolist() for sample in self.training.samples])
        return level if level and readings[-1].loss <= BY_CHANCE * level.loss else None

    def train(self, steps: int, *, patient: bool, judged: bool = True) -> Generator[Progress, None, None]:
        """Train until the criteria hold, if judged, `steps` are taken, the loss is not finite, or, if not patient, it stands still."""
        began, training = time.perf_counter(), self.training
        last = training.step + steps
        try:
            for loss in training.advance(steps if self.ended is None else 0):
                if judged and (self._due() or training.step == last) and self._judge():
                    break
                if not patient and stands_still(training.trace.losses[self._since :], max(STILL, 5 * self._pass)):
                    self.ended, self.why = Ended.STOOD_STILL, f"the loss stood still for {max(STILL, 5 * self._pass)} steps"
                    self._judge()
                    break
                readings = training.trace.readings
                yield Progress(
                    samples=len(training.samples),
                    seed=self.seed,
                    lr=training.recipe.lr,
                    step=training.step,
                    budget=training.recipe.budget,
                    loss=loss,
                    token_error_rate=readings[-1].token_error_rate if readings else math.nan,
                )
            if training.ended and self.ended is None and not self.held:
                self.ended, self.why = Ended.LOOP_OVER, training.ended
                self._judge()
        except NonFiniteLoss as error:
            self.ended, self.why = Ended.NOT_FINITE, str(error)
            self.located = breach_of_training(training.network, training.loss_again, step=training.step, seed=self.seed)
            self.diverged = not self.located
        except LoopFailed as error:
            self.ended, self.why = Ended.LOOP_FAILED, str(error)
            self.located = (failed(error),)
        self.seconds += time.perf_counter() - began

    def _due(self) -> bool:
        """Readings come often once labels are being learned, seldom before: a reading costs a third of a step a clip."""
        readings = self.training.trace.readings
        if not readings:
            return self.training.step >= max(10, 2 * self._pass)
        since = self.training.step - readings[-1].step
        return since >= (max(5, 3 * self._pass) if readings[-1].loss < HOPE else max(15, 5 * self._pass))

    def _judge(self) -> bool:
        reading = self.training.read()
        self.verdicts = tuple(criterion.judge(reading, self.training.trace) for criterion in self.criteria)
        self.held = all(verdict.held for verdict in self.verdicts)
        return self.held

    def _standing(self, given: Sequence[int]) -> Standing | None:
        readings = self.training.trace.readings
        if not readings:
            return None
        targets = [sample.target.tolist() for sample in self.training.samples]
        levels = ladder_of_levels(targets=targets, steps=given, vocabulary=len(self.training.subject.vocabulary))
        by_chance = level_by_chance(self.training.hypotheses(), targets)
        found = standing(readings[-1].loss, levels, self.training.trace.losses, by_chance=by_chance)
        return replace(found, descending=False) if self.ended is Ended.STOOD_STILL else found

    def is_stuck(self) -> bool:
        """Whether the output is the same at every step of each clip, fresh and trained: no rate moves it off the level of constant outputs."""
        training = self.training
        return constant_in_time(training) and constant_in_time(training.afresh())

    def _misread(self) -> Misread | None:
        """The worst clip of a run that failed with an output."""
        training = self.training
        if not training.trace.readings:
            return None
        targets = [sample.target.tolist() for sample in training.samples]
        return worst([sample.name for sample in training.samples], training.hypotheses(), targets, training.subject.vocabulary)

    @property
    def began(self) -> bool:
        return self.training.step > 0 or self.ended is not None

    def rank(self) -> tuple[bool, float, bool, float]:
        return _rank(self.held, self.training.trace)

    def attempt(self, given: Sequence[int]) -> Attempt:
        """The finished attempt. given: steps of each clip. A pass is checked by controls, a failure for a gap between train and eval mode."""
        training = self.training
        shown = training.samples[:CONTROLLED]
        findings = self.located
        controls: tuple[Control, ...] = ()
        if self.held:
            controls = run_controls(training.subject, training.network, shown, seed=self.seed, device=training.device)
            findings = ignored_inputs(controls)
        elif training.trace.readings and self.ended is None:
            findings = train_eval_gap(training.subject, training.network, shown, device=training.device)
        findings = accepting(findings, training.subject.accept)
        return Attempt(
            held=self.held and not any(finding.fails() for finding in findings),
            standing=self._standing(given),
            detour=self.detour,
            controls=controls,
            findings=findings,
            misread=None if self.held else self._misread(),
            seed=self.seed,
            recipe=self.training.recipe,
            steps=self.training.step,
            seconds=self.seconds,
            verdicts=self.verdicts,
            trace=self.training.trace,
            ended=self.ended,
            why=self.why,
            diverged=self.diverged,
        )


def constant_in_time(training: Training) -> bool:
    """Whether every clip's log-probabilities are the same at each of its steps, to within rounding."""
    return all(
        float((clip[:given] - clip[:1]).abs().max()) < CONSTANT
        for _, log_probs, steps in training.outputs()
        for clip, given in zip(log_probs.unbind(1), steps.tolist(), strict=True)
    )


def stands_still(losses: Sequence[float], window: int) -> bool:
    """Whether the median loss of the last `window` steps is within 2 % of that of the window before."""
    if len(losses) < 2 * window:
        return False
    before = median(losses[-2 * window : -window])
    return median(losses[-window:]) > before - 0.02 * abs(before)


def steps_given(training: Training) -> list[int]:
    """The steps that the network declares for each clip of its rung."""
    return [given for _, _, steps in training.outputs() for given in steps.tolist()]


def class_line(network: nn.Module) -> str | None:
    """`file:line` of the network's class, relative to the working directory where it lies below it; None where there is no source."""
    try:
        path = Path(inspect.getfile(type(network)))
        line = inspect.getsourcelines(type(network))[1]
    except (OSError, TypeError):
        return None
    return f"{path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}:{line}"
