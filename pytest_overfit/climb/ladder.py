"""The ladder: fresh networks trained on 1, 2, 5, 10, 20, 50 samples, each rung judged by the
criteria of its scale.

A rung is broken only when its recipe and the recipe's fallback learning rates fail: the verdict is
about the network, not about one learning rate. Nor is it about CTC's own plateau where tokens stand
by chance (`levels`): a run that comes down to it is led off by a detour over one path a clip, and
has to hold by the subject's loss all the same. Rungs do not depend on each other, so they can be
climbed in any order and by several processes with the same verdicts.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import Literal

from torch import nn

from pytest_overfit.climb.attempt import Attempt as Attempt
from pytest_overfit.climb.attempt import Detour as Detour
from pytest_overfit.climb.attempt import Ended as Ended
from pytest_overfit.climb.attempt import OnStep, Run, rank_of, steps_given, unwatched
from pytest_overfit.climb.attempt import Progress as Progress
from pytest_overfit.climb.criteria import BadLadder as BadLadder
from pytest_overfit.climb.criteria import Criterion as Criterion
from pytest_overfit.climb.criteria import Verdict as Verdict
from pytest_overfit.climb.criteria import criteria_for as criteria_for
from pytest_overfit.climb.seeds import ALPHA, BETA, SeedTest
from pytest_overfit.finding import Finding, naming
from pytest_overfit.findings.examine import Checked, breaks_rungs, check_feasible, examine
from pytest_overfit.findings.wiring import INPUT_IGNORED
from pytest_overfit.loop.training import LoopTraining
from pytest_overfit.recipe import Recipe
from pytest_overfit.subject import Sample, Subject
from pytest_overfit.training import Training

RUNGS = (1, 2, 5, 10, 20, 50)


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


@dataclass(frozen=True, kw_only=True, eq=False)
class Rung:
    """A fresh network trained on the subject's first `samples` samples until `criteria` hold or the
    recipe's budget, with its overtime, ends.

    seeds: tried in turn until `SeedTest(alpha, beta)` comes to a verdict; targets that do not fit
    need none. hasty: a run ends before its budget where what keeps it from holding is known.
    examined: what the contracts found of these samples and this network, where they were asked
    before.
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
    hasty: bool = True
    examined: tuple[Checked, ...] | None = None

    def climb(self, on_step: OnStep = unwatched) -> Outcome:
        """Climb to the end. on_step: called after each optimiser step; what it raises ends the
        climb.

        Raises BadSample or BadSubject where it cannot begin.
        """
        samples = self.subject.take(self.samples)
        outcome = Outcome(subject=self.subject.name, samples=self.samples, status="ok")
        attempts: list[Attempt] = []
        hasty = self.hasty and self.subject.loop is None
        test, held = SeedTest(alpha=self.alpha, beta=self.beta, most=len(self.seeds)), list[bool]()
        for seed in self.seeds:
            first = self._run(samples, self.recipe, seed, on_step)
            with closing(first.training):
                network = first.training.network
                outcome = replace(
                    outcome,
                    parameters=sum(p.numel() for p in network.parameters()),
                    where=class_line(network),
                )
                given = steps_given(first.training)
                findings = check_feasible(
                    self.subject, samples, seed=seed, device=self.device, size=self.size
                )
                if any(finding.fails() for finding in findings):
                    return replace(outcome, status="broken", findings=findings)
                first.train_to_the_end(
                    patient=not self.recipe.fallbacks,
                    known=partial(self._known, first, early=True)
                    if hasty and not any(held)
                    else lambda: None,
                )
                explained = (
                    not first.held
                    and not any(held)
                    and (first.ended is Ended.EXPLAINED or self._known(first) is not None)
                )
                if self.recipe.fallbacks and not explained:
                    first.leave_chance()
                attempts.append(first.attempt(given))
                unread = first.held and not attempts[-1].held and not any(held)
                if explained or (unread and not self._went_deaf(first, attempts[-1])):
                    # Another seed would meet it again.
                    return replace(outcome, attempts=tuple(attempts), status="broken")
                if self.recipe.fallbacks and not attempts[-1].held:
                    attempts += self._race(samples, given, seed, on_step)
                held.append(any(attempt.held for attempt in attempts if attempt.seed == seed))
                if unread and not held[-1]:
                    return replace(outcome, attempts=tuple(attempts), status="broken")
                if status := test.verdict(held):
                    return replace(
                        outcome,
                        attempts=tuple(attempts),
                        status=status,
                        chance_of_error=test.chance_of_error(held),
                    )
        raise AssertionError("the last seed comes to a verdict")

    def _race(
        self, samples: Sequence[Sample], given: Sequence[int], seed: int, on_step: OnStep
    ) -> list[Attempt]:
        """Other learning rates by successive halving: all for a quarter of the budget, the better
        half to half of it, the best to the end.

        Source: Jamieson & Talwalkar 2016, arXiv 1502.07943.
        """
        runs = [
            self._run(samples, replace(self.recipe, lr=self.recipe.lr * factor), seed, on_step)
            for factor in self.recipe.fallbacks
        ]
        racing = runs
        for share in (4, 2):
            for run in racing:
                run.train(self.recipe.budget // share - run.training.step, patient=True)
                if run.held:
                    return [run.attempt(given) for run in runs if run.began]
            racing = sorted(racing, key=Run.rank)[: math.ceil(len(racing) / 2)]
        racing[0].train_to_the_end(patient=True)
        racing[0].leave_chance()
        return [run.attempt(given) for run in runs]

    def _known(self, run: Run, *, early: bool = False) -> str | None:
        """Why no other rate or seed is an answer, in words: what breaks it is known, or its output
        cannot leave its level. None where one may be.

        early: its loss still has time, so that it must stand on its level as well.
        """
        if found := dict.fromkeys(finding.name for finding in (*run.located, *self.violated)):
            return f"trained no further, since {naming([*found])} was found"
        stuck = (not early or run.stands()) and run.is_stuck()
        return (
            "the output is the same at every step of a clip, before and after training"
            if stuck
            else None
        )

    def _went_deaf(self, run: Run, attempt: Attempt) -> bool:
        """Whether a pass that other inputs do not undo may be the work of its learning rate: no
        contract finds that a fresh network does not read its input, and there are other rates.
        """
        ignored = any(finding.name == INPUT_IGNORED.name for finding in attempt.findings)
        return bool(self.recipe.fallbacks) and ignored and self._known(run) is None

    @cached_property
    def checked(self) -> tuple[Checked, ...]:
        """What the contracts find in the rung's samples and in a fresh network of its first
        seed.
        """
        if self.examined is not None:
            return self.examined
        return examine(
            self.subject,
            self.subject.offered(self.samples),
            seed=self.seeds[0],
            device=self.device,
            size=self.size,
        )

    @property
    def violated(self) -> tuple[Finding, ...]:
        """What the contracts find that is reason enough to break."""
        return tuple(
            finding
            for one in self.checked
            for finding in one.findings
            if breaks_rungs(finding, self.subject)
        )

    def _run(self, samples: Sequence[Sample], recipe: Recipe, seed: int, on_step: OnStep) -> Run:
        kind = Training if self.subject.loop is None else LoopTraining
        return Run(
            kind(self.subject, samples, recipe, seed=seed, device=self.device, size=self.size),
            self.criteria,
            seed,
            on_step,
        )


def class_line(network: nn.Module) -> str | None:
    """`file:line` of the network's class, relative to the working directory where it lies below it;
    None where there is no source.
    """
    try:
        path = Path(inspect.getfile(type(network)))
        line = inspect.getsourcelines(type(network))[1]
    except (OSError, TypeError):
        return None
    return f"{path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}:{line}"
