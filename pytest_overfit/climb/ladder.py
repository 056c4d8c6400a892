"""The ladder: fresh networks trained on 1, 2, 5, 10, 20, 50 samples, each rung judged by the
criteria of its scale.

A rung is broken only when its recipe and the recipe's fallback learning rates fail: the verdict is
about the network, not about one learning rate. Nor is it about CTC's own plateau where tokens stand
by chance (`levels`): a run that comes down to it is led off by a detour over one path a clip, and
has to hold by the subject's loss all the same. Nor is it about what one clip does not ask for: a
network that memorised it without a look at its input has to read it beside a second one; nor about masks that
hide the same few tokens of one clip again and again: it is climbed once more without them. Rungs do not depend on each other, so they can be
climbed in any order and by several processes with the same verdicts.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Collection, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path

from torch import nn

from pytest_overfit.climb.attempt import Attempt as Attempt
from pytest_overfit.climb.attempt import Detour as Detour
from pytest_overfit.climb.attempt import Ended as Ended
from pytest_overfit.climb.attempt import OnStep, Run, steps_given, unwatched
from pytest_overfit.climb.attempt import Progress as Progress
from pytest_overfit.climb.attempt import SecondClip as SecondClip
from pytest_overfit.climb.criteria import NEAREST
from pytest_overfit.climb.criteria import BadLadder as BadLadder
from pytest_overfit.climb.criteria import Criterion as Criterion
from pytest_overfit.climb.criteria import Verdict as Verdict
from pytest_overfit.climb.criteria import criteria_for as criteria_for
from pytest_overfit.climb.outcome import Outcome as Outcome
from pytest_overfit.climb.quiet import Quieted, nearest_reading
from pytest_overfit.climb.seeds import ALPHA, BETA, SeedTest
from pytest_overfit.finding import Finding, naming
from pytest_overfit.findings.examine import Checked, breaks_rungs, check_feasible, examine
from pytest_overfit.findings.lost_input import INPUT_IGNORED
from pytest_overfit.findings.samples import CONFLICTING_SAMPLES
from pytest_overfit.findings.training import overwhelms
from pytest_overfit.loop.training import LoopTraining
from pytest_overfit.network.noise import MOST, NOTHING, Noise
from pytest_overfit.network.subject_edits import unmasked
from pytest_overfit.recipe import Recipe
from pytest_overfit.subject import BadSample, Sample, Subject
from pytest_overfit.training import Training

RUNGS = (1, 2, 5, 10, 20, 50)
SECOND_AMONG = 10
"""Clips among which a second one with another target is looked for."""


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


@dataclass(frozen=True, kw_only=True, eq=False)
class Rung:
    """A fresh network trained on the subject's first `samples` samples until `criteria` hold or the
    recipe's budget, with its overtime, ends.

    seeds: tried in turn until `SeedTest(alpha, beta)` comes to a verdict; targets that do not fit
    need none. hasty: a run ends before its budget where what keeps it from holding is known.
    raced: whether other rates are tried where the recipe fails. examined: what the contracts found
    of these samples and this network, where they were asked before.
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
    raced: bool = True
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
            first = self._run(samples, self.recipe, seed, on_step, self._sides)
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
                    patient=not self.recipe.fallbacks
                    or not (self.raced or self._overwhelmed(first)),
                    known=partial(self._known, first, early=True)
                    if hasty and not any(held)
                    else lambda: None,
                    certain=lambda: self._cannot_hold,
                )
                explained = (
                    not first.held
                    and not any(held)
                    and (
                        first.ended is Ended.EXPLAINED
                        or self._known(first) is not None
                        or self._penalty_is_why(first, given, on_step)
                    )
                )
                if self.recipe.fallbacks and not explained:
                    first.leave_chance()
                attempts.append(self._judged(first, given, on_step))
                unread = first.held and not attempts[-1].held and not any(held)
                if explained or (unread and not self._went_deaf(first, attempts[-1])):
                    # Another seed would meet it again.
                    return replace(outcome, attempts=tuple(attempts), status="broken")
                if self.recipe.fallbacks and self.raced and not attempts[-1].held:
                    attempts += self._race(first, given, on_step)
                of_seed = [attempt for attempt in attempts if attempt.seed == seed]
                attempts += self._quieted(of_seed, samples, seed, on_step)
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

    @property
    def _sides(self) -> dict[Ended, list[float]]:
        """What a run of the recipe's own rate tells by how it ends: the fallbacks on the other side,
        the farthest first. Nothing where there is none.
        """
        factors = self.recipe.fallbacks
        sides = {
            Ended.RAN_AWAY: sorted(factor for factor in factors if factor < 1),
            Ended.CRAWLED: sorted((factor for factor in factors if factor > 1), reverse=True),
        }
        return {ended: side for ended, side in sides.items() if side}

    def _race(self, first: Run, given: Sequence[int], on_step: OnStep) -> list[Attempt]:
        """Other learning rates: in short those on the side that the recipe's own run told of by
        running away or crawling, the farthest first. Where none of them holds, and one beyond them
        does, the rate is what is wrong; else all are raced.
        """
        if first.ended in self._sides:
            beyond = 0.01 if first.ended is Ended.RAN_AWAY else 100.0
            raced = self._halved(first, self._sides[first.ended], given, on_step, told=True)
            recipe = replace(self.recipe, lr=self.recipe.lr * beyond)
            if any(one.held for one in raced) or self._holds(first, recipe, given, on_step):
                return raced
        return self._halved(first, self.recipe.fallbacks, given, on_step)

    def _holds(self, first: Run, recipe: Recipe, given: Sequence[int], on_step: OnStep) -> bool:
        """Whether another recipe holds with the samples and the seed of a run."""
        run = self._run(first.training.samples, recipe, first.seed, on_step)
        with closing(run.training):
            run.train_to_the_end(patient=False)
            return run.held and self._judged(run, given, on_step).held

    def _halved(
        self,
        first: Run,
        factors: Sequence[float],
        given: Sequence[int],
        on_step: OnStep,
        *,
        told: bool = False,
    ) -> list[Attempt]:
        """Rates by successive halving: all for a quarter of the budget, the better half to half of it,
        the best to the end. Where that passes and is not honest, the next best takes its place. What
        runs away is dropped at once.

        told: in short, they are halved at a tenth of the budget as well, and the best is given no time
        to stand still or to crawl.

        Source: Jamieson & Talwalkar 2016, arXiv 1502.07943.
        """
        runs = [
            self._run(
                first.training.samples,
                replace(self.recipe, lr=self.recipe.lr * factor),
                first.seed,
                on_step,
                (Ended.RAN_AWAY, Ended.CRAWLED) if told else (Ended.RAN_AWAY,),
            )
            for factor in factors
        ]
        judged: dict[Run, Attempt] = {}

        def passed(run: Run) -> bool:
            judged[run] = self._judged(run, given, on_step)
            return judged[run].held

        racing = runs
        for share in (10, 4, 2) if told else (4, 2):
            for run in racing:
                run.train(self.recipe.budget // share - run.training.step, patient=True)
                if run.held and passed(run):
                    return [judged.get(run) or run.attempt(given) for run in runs if run.began]
            racing = sorted((r for r in racing if not r.held and r.ended is None), key=Run.rank)
            racing = racing[: math.ceil(len(racing) / 2)]
        left = sorted((run for run in runs if not (run.held or run in racing)), key=Run.rank)
        for run in (*racing, *left):
            run.train_to_the_end(patient=not told)
            run.leave_chance()
            if not run.held or passed(run):
                break
        return [judged.get(run) or run.attempt(given) for run in runs]

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

    def _penalty_is_why(self, first: Run, given: Sequence[int], on_step: OnStep) -> bool:
        """Whether a run stands still or crawls under a penalty that leaves the data no say, and holds
        without it.
        """
        if first.ended not in (Ended.STOOD_STILL, Ended.CRAWLED) or not self._overwhelmed(first):
            return False
        without = replace(self.recipe, weight_decay=0.0, label_smoothing=0.0)
        return self._holds(first, without, given, on_step)

    def _overwhelmed(self, run: Run) -> bool:
        """Whether a penalty of the recipe outweighs the data by so much that no rate is an answer."""
        penalised = self.recipe.weight_decay or self.recipe.label_smoothing
        return bool(penalised) and overwhelms(self.recipe, run.training.afresh().network)

    @property
    def _cannot_hold(self) -> bool:
        """Whether two of its clips are one, and each must be read as nearest to its own target."""
        names = {criterion.name for criterion in self.criteria}
        conflict = any(finding.name == CONFLICTING_SAMPLES.name for finding in self.violated)
        return conflict and NEAREST in names

    def _went_deaf(self, run: Run, attempt: Attempt) -> bool:
        """Whether a pass that other inputs do not undo may be the work of its learning rate, or of
        a single clip: no contract finds that a fresh network does not read its input.
        """
        ignored = any(finding.name == INPUT_IGNORED.name for finding in attempt.findings)
        return run.held and not attempt.held and ignored and self._known(run) is None

    def _judged(self, run: Run, given: Sequence[int], on_step: OnStep) -> Attempt:
        """The attempt of a run. One clip alone may be memorised without a look at the input: the
        same recipe with a second one beside it tells whether the network reads.
        """
        attempt = run.attempt(given)
        if self.samples > 1 or not self._went_deaf(run, attempt) or not self._reads_fresh:
            return attempt
        pair = self._pair()
        if pair is None:
            return attempt
        both = self._run(pair, attempt.recipe, attempt.seed, on_step)
        with closing(both.training):
            both.train_to_the_end(patient=not self.recipe.fallbacks)
            if self.recipe.fallbacks:
                both.leave_chance()
            if not both.attempt(steps_given(both.training)).held:
                return attempt
            second = SecondClip(sample=pair[1].name, steps=both.training.step)
        kept = tuple(one for one in attempt.findings if one.name != INPUT_IGNORED.name)
        return replace(
            attempt, second_clip=second, findings=kept, held=not any(f.fails() for f in kept)
        )

    def _quieted(
        self, attempts: Sequence[Attempt], samples: Sequence[Sample], seed: int, on_step: OnStep
    ) -> list[Attempt]:
        """One clip that a network reads nearly, and is kept from by its own masks and dropout, is
        climbed once more without them. Nothing where they are not to blame, or it fails too.
        """
        best = nearest_reading(attempts)
        if self.samples > 1 or self.subject.loop or best is None or self.violated:
            return []
        fresh = self._run(samples, self.recipe, seed, on_step).training
        noise = Noise.of(self.subject, fresh.network, samples[0], fresh.device).share
        if not NOTHING < noise <= MOST:
            return []
        without = replace(self, subject=unmasked(self.subject))
        quiet = without._run(samples, self.recipe, seed, on_step)
        with closing(quiet.training):
            given = steps_given(quiet.training)
            quiet.train_to_the_end(patient=not self.recipe.fallbacks)
            attempt = quiet.attempt(given)
        told = Quieted(noise=noise, token_error_rate=best.token_error_rate, nats=best.loss)
        return [replace(attempt, quieted=told)] if attempt.held else []

    @property
    def _reads_fresh(self) -> bool:
        """Whether a contract saw the input reach the output of a fresh network."""
        return any(
            one.skipped is None and INPUT_IGNORED in one.contract.finds for one in self.checked
        )

    def _pair(self) -> list[Sample] | None:
        """The first clip and the next one with another target; None where none is near, or fit."""
        offered = self.subject.offered(SECOND_AMONG)
        other = next(
            (
                place
                for place, sample in enumerate(offered)
                if sample.target.tolist() != offered[0].target.tolist()
            ),
            None,
        )
        if other is None:
            return None
        try:
            taken = self.subject.take(other + 1)
        except BadSample:
            return None
        return [taken[0], taken[other]]

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

    def _run(
        self,
        samples: Sequence[Sample],
        recipe: Recipe,
        seed: int,
        on_step: OnStep,
        wary: Collection[Ended] = (),
    ) -> Run:
        kind = Training if self.subject.loop is None else LoopTraining
        return Run(
            kind(self.subject, samples, recipe, seed=seed, device=self.device, size=self.size),
            self.criteria,
            seed,
            on_step,
            wary,
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
