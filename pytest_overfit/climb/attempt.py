"""An attempt at a rung: one training, judged as it goes on, until its criteria hold or something
ends it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from statistics import median

from pytest_overfit.climb.controls import Control, ignored_inputs, run_controls, train_eval_gap
from pytest_overfit.climb.criteria import Criterion, Verdict
from pytest_overfit.climb.misread import Misread, worst
from pytest_overfit.climb.quiet import Quieted
from pytest_overfit.finding import Finding, accepting
from pytest_overfit.findings.finite import breach_of_training
from pytest_overfit.findings.padding import PADDING_LEAK
from pytest_overfit.levels import (
    BY_CHANCE,
    Level,
    LevelMatch,
    ladder_of_levels,
    level_by_chance,
    match_level,
)
from pytest_overfit.loop.running import failed
from pytest_overfit.loop.training import LoopFailed
from pytest_overfit.recipe import Recipe
from pytest_overfit.subject import Sample
from pytest_overfit.training import NonFiniteLoss, Trace, Training
from pytest_overfit.trend import AWAY_STEPS, crawls, ran_away, stands_still, still_descending

CONTROLLED = 20
"""Clips that controls are run on: more cost time and tell the same."""
STILL_STEPS = 100
"""Steps over which a loss that has not fallen by 2 % counts as standing still."""
WILD_STEPS = 25
"""The same of a loss beyond `WILD`: training that works comes down from there in fewer."""
WILD = 2.0
"""Times ln V + 1 nats per token, which is more than blanks with uniform labels cost."""
DETOUR_STEPS = 200
"""Steps of a detour on one path a clip at most; it ends as soon as every clip is spelt."""
LOOKS = (0.15, 0.25, 0.4)
"""Shares of the budget at which contracts are asked why a run does not hold: a sound one often does
before the first.
"""
NEAR = 0.5
"""Token error rate up to which a run is left alone at the first of them, and at the next if it has
fallen since.
"""
TO_THREE_DIGITS = 20
"""Steps whose median loss is compared with that of as many before."""
STEPS_AFTER_DETOUR = 20
"""Steps by the subject's loss after a detour before anything is judged: a pass is its work, not the
path's.
"""
SPELT_OVERTIME = 3.0
"""Times the overtime of a run that spells every clip: what only grows surer needs nothing but time.
"""
CONSTANT = 1e-5
"""Nats by which log-probabilities may differ from step to step and count as the same."""
LABELS_LEARNED_BELOW = 4.0
"""Nats a token below which labels are being learned (blanks with uniform labels stand at ln V + g,
about 7), so that readings pay.
"""


class Ended(StrEnum):
    """What ended an attempt before its budget."""

    STOOD_STILL = "stood still"
    RAN_AWAY = "ran away"
    CRAWLED = "crawled"
    EXPLAINED = "explained"
    NOT_FINITE = "not finite"
    LOOP_OVER = "loop over"
    LOOP_FAILED = "loop failed"


@dataclass(frozen=True, kw_only=True)
class Detour:
    """How a run was led off a plateau where tokens stand by chance. level: the plateau. step: when.

    path_steps: taken on one path a clip.
    """

    level: Level
    step: int
    path_steps: int


@dataclass(frozen=True, kw_only=True)
class SecondClip:
    """What shows that a network reads: the training again with another clip beside a lone one, whose
    pass asked for no look at the input. sample: the other clip. steps: taken until both were read.
    """

    sample: str
    steps: int


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One training on a rung: with which seed and recipe, and how far it came.

    ended: what ended it before its budget, if anything did. why: that in words.
    diverged: its loss or gradient was not finite, because of numbers that had grown too large.
    level_match: the level its last loss stands on. detour: over one path a clip, if CTC alone stood.
    controls: of a pass. second_clip: of a pass of one clip that needed no input, and is honest
    beside another. quieted: of a pass of one clip without the network's own masks and dropout,
    after attempts with them. findings: what the trained network shows: a pass that is not honest, or a
    network that forgets in eval mode. misread: of a failure with an output, its worst clip.
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
    level_match: LevelMatch | None = None
    detour: Detour | None = None
    controls: tuple[Control, ...] = ()
    second_clip: SecondClip | None = None
    quieted: Quieted | None = None
    findings: tuple[Finding, ...] = ()
    misread: Misread | None = None


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a climb stands: for the line that people watch.

    loss: of the last step, in train mode, as the recipe reduces it. token_error_rate, nats: of the
    last reading, NaN before the first; nats are of a target token.
    """

    samples: int
    seed: int
    lr: float
    step: int
    budget: int
    loss: float
    token_error_rate: float
    nats: float = math.nan


OnStep = Callable[[Progress], None]
"""Called after each optimiser step of a climb; what it raises ends the climb."""


def unwatched(progress: Progress) -> None:
    """Nobody looks."""


class OutOfTime(Exception):
    """A climb was given no more time.

    step: optimiser steps that the attempt under way had taken.
    """

    def __init__(self, step: int) -> None:
        self.step = step
        super().__init__(f"out of time at step {step}")


def until(ends: float) -> OnStep:
    """An `on_step` that raises OutOfTime once `ends` (monotonic seconds) has come."""

    def on_step(progress: Progress) -> None:
        if time.monotonic() > ends:
            raise OutOfTime(progress.step)

    return on_step


def rank_of(held: bool, trace: Trace) -> tuple[bool, float, bool, float]:
    """Smaller is nearer to holding.

    Of runs with the same errors, one on a plateau stands behind one that falls. More errors than
    tokens are no worse than as many: who says nothing makes no more.
    """
    if not trace.readings:
        return (not held, math.inf, True, math.inf)
    reading = trace.readings[-1]
    errors = min(reading.token_error_rate, 1.0)
    return (not held, errors, not still_descending(trace.losses), reading.loss)


class Run:
    """An attempt under way. wary: ends that tell of its rate alone, where another one is at hand."""

    def __init__(
        self,
        training: Training,
        criteria: tuple[Criterion, ...],
        seed: int,
        on_step: OnStep,
        wary: Collection[Ended] = (),
    ) -> None:
        self.training, self.criteria, self.seed, self.on_step = training, criteria, seed, on_step
        self.wary = wary
        self.held = False
        self.verdicts: tuple[Verdict, ...] = ()
        self.ended: Ended | None = None
        self.why: str | None = None
        self.detour: Detour | None = None
        self.diverged = False
        self.located: tuple[Finding, ...] = ()
        self.seconds = 0.0
        self._pass = math.ceil(
            len(training.samples)
            / training.recipe.batch_of(len(training.samples))
            / training.recipe.accumulation
        )

    @property
    def _since(self) -> int:
        """The step from which on CTC alone trains: losses along one path tell nothing of its
        course.
        """
        return self.detour.step + self.detour.path_steps if self.detour else 0

    def train_to_the_end(
        self,
        *,
        patient: bool,
        known: Callable[[], str | None] = lambda: None,
        certain: Callable[[], bool] = lambda: False,
    ) -> None:
        """Train to the end of the budget, and into overtime while the loss still falls: not yet
        learned is not cannot learn.

        known: what keeps it from holding whatever it is trained for, in words, if anything is;
        asked at LOOKS of the budget, and ends it there. certain: nothing that comes near holds
        either.
        """
        training, recipe = self.training, self.training.recipe
        due = recipe.budget + self._since
        nearest = math.inf
        for share in LOOKS:
            self.train(round(share * recipe.budget) - training.step, patient=patient, closing=False)
            if self.held or self.ended is not None or self._judge():
                return
            errors = training.trace.readings[-1].token_error_rate
            gets_near = share != LOOKS[-1] and errors <= NEAR and (errors < nearest or errors == 0)
            if (not gets_near or certain()) and (why := known()):
                self.ended, self.why = Ended.EXPLAINED, why
                return
            nearest = errors
            if share > LOOKS[0] and Ended.CRAWLED in self.wary and crawls(training.trace.losses):
                self.ended, self.why = Ended.CRAWLED, "the loss fell too slowly to come far"
                return
        self.train(due - training.step, patient=patient)
        while (
            not self.held
            and self.ended is None
            and still_descending(training.trace.losses[self._since :])
        ):
            over = (
                recipe.budget
                * recipe.overtime
                * (SPELT_OVERTIME if training.trace.readings[-1].exact_share == 1 else 1)
            )
            if training.step >= round(due + over):
                break
            self.train(
                min(math.ceil(recipe.budget / 4), round(due + over) - training.step), patient=True
            )

    def leave_chance(self) -> None:
        """Where this run failed on a plateau of tokens by chance: a detour on one path until every
        clip is spelt, then on to the end as before.
        """
        level = None if self.held or self.diverged else self._chance()
        if level is None:
            return
        training, began, self.ended, self.why = self.training, self.training.step, None, None
        self.wary = ()
        training.follow_own_paths()
        while self.ended is None and training.step < began + DETOUR_STEPS:
            self.train(10, patient=True, judged=False)
            if self.ended is None and training.read().exact_share == 1:
                break
        training.follow_all_paths()
        self.detour = Detour(level=level, step=began, path_steps=training.step - began)
        self.train(STEPS_AFTER_DETOUR, patient=True, judged=False)
        self.train_to_the_end(patient=False)

    def _chance(self) -> Level | None:
        """The level of tokens by chance that the run ended at or below, if it spells all else."""
        readings = self.training.trace.readings
        if not readings or not math.isfinite(readings[-1].loss):
            return None
        level = level_by_chance(self.training.hypotheses(), self.training.targets)
        return level if level and readings[-1].loss <= BY_CHANCE * level.loss else None

    def train(
        self, steps: int, *, patient: bool, judged: bool = True, closing: bool = True
    ) -> None:
        """Train until the criteria hold, if judged, `steps` are taken, the loss is not finite, or
        it stands still: far above what blanks cost, or, if not patient, anywhere.

        closing: the last of the steps is judged too, whether or not a reading is due.
        """
        began, training = time.perf_counter(), self.training
        last = training.step + steps if closing else None
        try:
            for loss in training.advance(steps if self.ended is None else 0):
                if judged and (self._due() or training.step == last) and self._judge():
                    break
                if still := self._still(patient=patient):
                    self.ended, self.why = (
                        Ended.STOOD_STILL,
                        f"the loss stood still for {still} steps",
                    )
                    self._judge()
                    break
                if (
                    Ended.RAN_AWAY in self.wary
                    and training.step >= training.recipe.warmup + AWAY_STEPS
                    and ran_away(training.trace.losses)
                ):
                    self.ended, self.why = (
                        Ended.RAN_AWAY,
                        f"the loss ran away from {training.trace.losses[0]:.3g} to {loss:.3g}",
                    )
                    self._judge()
                    break
                readings = training.trace.readings
                self.on_step(
                    Progress(
                        samples=len(training.samples),
                        seed=self.seed,
                        lr=training.trace.lrs[-1]
                        if training.subject.loop is not None
                        else training.recipe.lr,
                        step=training.step,
                        budget=training.recipe.budget,
                        loss=loss,
                        token_error_rate=readings[-1].token_error_rate if readings else math.nan,
                        nats=readings[-1].loss if readings else math.nan,
                    )
                )
            if training.ended and self.ended is None and not self.held:
                self.ended, self.why = Ended.LOOP_OVER, training.ended
                self._judge()
        except NonFiniteLoss as error:
            self.ended, self.why = Ended.NOT_FINITE, str(error)
            self.located = breach_of_training(
                training.network, training.loss_again, step=training.step, seed=self.seed
            )
            self.diverged = not self.located
        except LoopFailed as error:
            self.ended, self.why = Ended.LOOP_FAILED, str(error)
            self.located = (failed(error),)
        self.seconds += time.perf_counter() - began

    def _still(self, *, patient: bool) -> int:
        """Steps for which its loss has stood still, where that is reason to end; 0 where it is not."""
        losses = self.training.trace.losses[self._since :]
        few, many = (max(steps, 5 * self._pass) for steps in (WILD_STEPS, STILL_STEPS))
        if self._wild(losses[-few:]) and stands_still(losses[self.training.recipe.warmup :], few):
            return few
        return many if not patient and stands_still(losses, many) else 0

    def _wild(self, losses: Sequence[float]) -> bool:
        """Whether losses that are known to be in nats per target token are far above what blanks
        cost, and no schedule lowers the rate.
        """
        subject, recipe = self.training.subject, self.training.recipe
        in_nats = subject.loss is None and subject.loop is None and recipe.reduction == "mean"
        return (
            in_nats
            and not self.training.paths
            and recipe.schedule == "constant"
            and median(losses) > WILD * (math.log(len(subject.vocabulary)) + 1)
        )

    def _due(self) -> bool:
        """Readings come often once labels are being learned, seldom before: a reading costs a third
        of a step a clip.
        """
        readings = self.training.trace.readings
        if not readings:
            return self.training.step >= max(10, 2 * self._pass)
        since = self.training.step - readings[-1].step
        return since >= (
            max(5, 3 * self._pass)
            if readings[-1].loss < LABELS_LEARNED_BELOW
            else max(15, 5 * self._pass)
        )

    def _judge(self) -> bool:
        reading = self.training.read()
        self.verdicts = tuple(
            criterion.judge(reading, self.training.trace) for criterion in self.criteria
        )
        self.held = all(verdict.held for verdict in self.verdicts)
        return self.held

    def _level_match(self, given: Sequence[int]) -> LevelMatch | None:
        readings = self.training.trace.readings
        if not readings:
            return None
        targets = self.training.targets
        levels = ladder_of_levels(
            targets=targets, steps=given, vocabulary=len(self.training.subject.vocabulary)
        )
        by_chance = level_by_chance(self.training.hypotheses(), targets)
        found = match_level(
            readings[-1].loss, levels, self.training.trace.losses, by_chance=by_chance
        )
        return replace(found, descending=False) if self.ended is Ended.STOOD_STILL else found

    def is_stuck(self) -> bool:
        """Whether the output is the same at every step of each clip, fresh and trained: no rate
        moves it off the level of constant outputs.
        """
        training = self.training
        return constant_in_time(training) and constant_in_time(training.afresh())

    def stands(self) -> bool:
        """Whether its loss is to three digits what it was TO_THREE_DIGITS steps before, and not
        every clip is spelt.
        """
        losses = self.training.trace.losses[-2 * TO_THREE_DIGITS :]
        if len(losses) < 2 * TO_THREE_DIGITS or self.training.trace.readings[-1].exact_share == 1:
            return False
        before, last = median(losses[:TO_THREE_DIGITS]), median(losses[TO_THREE_DIGITS:])
        return abs(last - before) < 1e-3 * abs(before)

    def _misread(self) -> Misread | None:
        """The worst clip of a run that failed with an output."""
        training = self.training
        if not training.trace.readings:
            return None
        targets = training.targets
        return worst(
            [sample.name for sample in training.samples],
            training.hypotheses(),
            targets,
            training.subject.vocabulary,
        )

    @property
    def began(self) -> bool:
        """Whether it took a step, or ended before its first."""
        return self.training.step > 0 or self.ended is not None

    def rank(self) -> tuple[bool, float, bool, float]:
        """Its `rank_of`: smaller is nearer to holding."""
        return rank_of(self.held, self.training.trace)

    def _controlled(
        self, shown: Sequence[Sample]
    ) -> tuple[tuple[Control, ...], tuple[Finding, ...]]:
        """A pass under controls. One that hangs on padding may have been stopped too early: it is
        trained for twice as long, and twice as long again, within its budget.
        """
        training, recipe = self.training, self.training.recipe
        while True:
            controls = run_controls(
                training.subject, training.network, shown, seed=self.seed, device=training.device
            )
            findings = ignored_inputs(controls)
            padded = any(finding.name == PADDING_LEAK.name for finding in findings)
            over = self.ended is not None or 2 * training.step > recipe.budget
            if not padded or over:
                return controls, findings
            self.train(training.step, patient=True, judged=False)
            if not self._judge():
                self.train(recipe.budget - training.step, patient=True)
            if not self.held:
                return controls, findings

    def attempt(self, given: Sequence[int]) -> Attempt:
        """The finished attempt. given: steps of each clip.

        A pass is checked by controls, a failure for a gap between train and eval mode.
        """
        training = self.training
        shown = training.samples[:CONTROLLED]
        findings = self.located
        controls: tuple[Control, ...] = ()
        if self.held:
            controls, findings = self._controlled(shown)
        elif training.trace.readings:
            findings = train_eval_gap(
                training.subject, training.network, shown, device=training.device
            )
            if self.ended is not None:  # of a run that was not trained to its end a norm must tell
                findings = tuple(finding for finding in findings if finding.module)
        findings = accepting(findings, training.subject.accept)
        return Attempt(
            held=self.held and not any(finding.fails() for finding in findings),
            level_match=self._level_match(given),
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
    """Whether every clip's log-probabilities are the same at each of its steps, to within
    rounding.
    """
    return all(
        float((clip[:given] - clip[:1]).abs().max()) < CONSTANT
        for _, log_probs, steps in training.outputs()
        for clip, given in zip(log_probs.unbind(1), steps.tolist(), strict=True)
    )


def steps_given(training: Training) -> list[int]:
    """The steps that the network declares for each clip of its rung."""
    return [given for _, _, steps in training.outputs() for given in steps.tolist()]
