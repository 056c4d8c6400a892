"""Network or loop? A rung that the user's loop breaks is climbed with ours; if that holds, parts of
ours are put into theirs, one at a time.

The part whose exchange mends the rung is the guilty one, shown by trial. What the contracts of the
loop found of it says why, and where.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pytest_overfit.climb.attempt import OutOfTime, until
from pytest_overfit.climb.ladder import Outcome, Rung
from pytest_overfit.explain.diagnosis import Diagnosis, diagnose
from pytest_overfit.explain.trials import LEAST_SECONDS, Trial, TrialEnded, Trials
from pytest_overfit.finding import Finding
from pytest_overfit.findings.record import Record
from pytest_overfit.loop.contracts import findings_of_loop
from pytest_overfit.loop.loop import Exchanged, Loop, Part
from pytest_overfit.loop.recorder import Event
from pytest_overfit.loop.training import LoopTraining
from pytest_overfit.recipe import Recipe, default_recipe
from pytest_overfit.training import make_optimizer

WARMUP = 10
"""Steps over which a rate of ours rises."""


LEAST_STEPS, TIMES = 100, 4
"""Steps of an exchange: so many, or so many times those that our training took, so that one that
does not mend leaves time for the next.
"""


class Ours:
    """A part of ours in the place of one of the loop's; what each puts there is in `during` and
    `heard`.
    """

    part: Part

    def __init__(self, training: LoopTraining) -> None:
        self.training, self.network = training, training.network

    def during(self) -> AbstractContextManager[object]:
        return nullcontext()

    def heard(self, event: Event) -> None:
        """Told of everything, before anybody else."""


class OurOptimiser(Ours):
    """Their step is undone, and ours is taken on the same gradients."""

    part: Part = "optimiser"

    def __init__(self, training: LoopTraining) -> None:
        super().__init__(training)
        self.recipe: Recipe = default_recipe(len(training.samples))
        self.optimizer: Optimizer | None = None
        self.steps = 0
        self._before: list[Tensor] = []

    def heard(self, event: Event) -> None:
        if event.kind == "before_step" and event.of is not self.optimizer:
            self._before = [parameter.detach().clone() for parameter in self.network.parameters()]
        elif event.kind == "step" and event.of is not self.optimizer:
            with torch.no_grad():
                for parameter, before in zip(self.network.parameters(), self._before, strict=True):
                    parameter.copy_(before)
            self._step(
                theirs={
                    id(parameter)
                    for group in event.of.param_groups
                    for parameter in group["params"]
                }
            )

    def _step(self, theirs: set[int]) -> None:
        """theirs: what their optimiser holds, and so zeroes; the rest is zeroed here."""
        if (
            self.optimizer is None
        ):  # not before their first step: parts may have been replaced until then
            self.optimizer = make_optimizer(self.network, self.training.subject, self.recipe)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * self.recipe.lr_factor(self.steps)
        self.steps += 1
        _bound(self.network)
        self.optimizer.step()
        for parameter in self.network.parameters():
            if id(parameter) not in theirs:
                parameter.grad = None


def _bound(network: nn.Module, most: float = 1.0) -> None:
    """Bound the norm of all gradients together."""
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    if gradients:
        norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
        for gradient in gradients:
            gradient.mul_((most / (norm + 1e-6)).clamp(max=1.0))


class OurSchedule(Ours):
    """The rate that was asked for, after a short warm-up, whatever their schedule makes of it."""

    part: Part = "scheduler"

    def __init__(self, training: LoopTraining) -> None:
        super().__init__(training)
        self.steps = 0
        self._asked: dict[int, list[float]] = {}
        self._theirs: list[float] = []

    def heard(self, event: Event) -> None:
        if event.kind == "before_step":
            groups = event.of.param_groups
            named = [group.get("max_lr", group.get("initial_lr", group["lr"])) for group in groups]
            asked = self._asked.setdefault(id(event.of), named)
            self._theirs = [group["lr"] for group in groups]
            self.steps += 1
            for group, rate in zip(groups, asked, strict=True):
                group["lr"] = rate * min(1.0, self.steps / WARMUP)
        elif event.kind == "step":
            for group, rate in zip(event.of.param_groups, self._theirs, strict=True):
                group["lr"] = rate


class OurClip(Ours):
    """The gradient's norm is bounded by 1 before each step, and by nothing else; no step is left
    out for its size.
    """

    part: Part = "clip"

    def during(self) -> AbstractContextManager[object]:
        def left_alone(parameters: Any, *_: Any, **__: Any) -> Tensor:
            return torch.tensor(0.0)

        stack = ExitStack()
        for owner in (nn.utils, nn.utils.clip_grad):
            for name in ("clip_grad_norm_", "clip_grad_value_"):
                stack.enter_context(patch.object(owner, name, left_alone))
        return stack

    def heard(self, event: Event) -> None:
        if event.kind == "before_step":
            _bound(self.network)


class OurAccumulation(Ours):
    """Gradients are zeroed after each step, and at no other time."""

    part: Part = "accumulation"

    def during(self) -> AbstractContextManager[object]:
        def nothing(*_: Any, **__: Any) -> None:
            pass

        stack = ExitStack()
        for owner in (Optimizer, nn.Module):
            stack.enter_context(patch.object(owner, "zero_grad", nothing))
        return stack

    def heard(self, event: Event) -> None:
        if event.kind == "step":
            for parameter in self.network.parameters():
                parameter.grad = None


class OurPrecision(Ours):
    """No autocast and no scaling: float32 throughout."""

    part: Part = "precision"

    def during(self) -> AbstractContextManager[object]:
        stack = ExitStack()
        for kind in (torch.autocast, torch.amp.GradScaler):
            stack.enter_context(patch.object(kind, "__init__", _disabled(kind.__init__)))
        return stack


def _disabled(made: Callable[..., None]) -> Callable[..., None]:
    def init(self: Any, *given: Any, **named: Any) -> None:
        made(self, *given, **named)
        self._enabled = False

    return init


class OurMode(Ours):
    """Train mode wherever there are gradients."""

    part: Part = "mode"

    def heard(self, event: Event) -> None:
        if event.kind == "call" and torch.is_grad_enabled():
            self.network.train()


class OurLoss(Ours):
    """At each backward pass of theirs ours is done: the subject's forward and loss on the samples
    of the batch, in train mode.
    """

    part: Part = "loss"

    def __init__(self, training: LoopTraining) -> None:
        super().__init__(training)
        self._factor = 1.0

    def heard(self, event: Event) -> None:
        if event.kind == "scale" and event.facts["enabled"]:
            self._factor = float(event.of.get_scale())

    def during(self) -> AbstractContextManager[object]:
        return patch.object(torch.autograd, "backward", self._backward(torch.autograd.backward))

    def _backward(self, theirs: Callable[..., None]) -> Callable[..., None]:
        def ours(*_: Any, **__: Any) -> None:
            modes = [(module, module.training) for module in self.network.modules()]
            self.network.train()
            with torch.enable_grad(), torch.autocast("cpu", enabled=False):
                theirs(self._factor * self.training.loss_of_drawn())
            for module, training in modes:
                module.training = training

        return ours


PARTS: dict[Part, type[Ours]] = {
    kind.part: kind
    for kind in (
        OurSchedule,
        OurAccumulation,
        OurMode,
        OurClip,
        OurPrecision,
        OurLoss,
        OurOptimiser,
    )
}
"""Smallest first: our optimiser brings its rate and clip, our loss its batches and mode."""
SAYS: dict[Part, str] = {
    "loss": "loss and batches",
    "optimiser": "optimiser and rate",
    "accumulation": "zeroing of gradients",
    "mode": "train mode",
}
"""What of ours is put in, where its name alone does not say."""
PUT_IN: dict[Part, Part] = {"batches": "loss", "state": "loss"}
"""Part that a contract names -> the exchange that replaces it."""


def diagnose_loop(rung: Rung, outcome: Outcome, *, trials: Trials = "auto") -> Diagnosis:
    """Explain a rung that the subject's loop broke: by the network, if our training breaks there
    too, else by the part of the loop.
    """
    found = findings_of_loop(rung.subject, seed=rung.seeds[0])
    ours = replace(
        rung, subject=replace(rung.subject, loop=None), recipe=default_recipe(rung.samples)
    )
    climbed = ours.climb()
    if climbed.status != "ok":
        explained = diagnose(ours, climbed, trials=trials)
        told = NETWORK_BREAKS.finding(
            headline=f"our training breaks at {rung.samples} as well: look at the network first",
            evidence=(),
            status="confirmed",
        )
        return replace(explained, findings=(*explained.findings, told, *found))
    ends = (
        time.monotonic() + max(outcome.seconds, LEAST_SECONDS) if trials == "auto" else float("inf")
    )
    rung = replace(
        rung,
        recipe=replace(
            rung.recipe, budget=min(rung.recipe.budget, max(LEAST_STEPS, TIMES * climbed.steps))
        ),
    )
    tried = (
        tuple(_tried(rung, _order(found), ends, until_one_holds=trials == "auto"))
        if trials != "off"
        else ()
    )
    return Diagnosis(findings=(_verdict(climbed, found, tried), *found), trials=tried)


def _exchanged(part: str) -> Part:
    """The part that is exchanged where a finding names `part`."""
    return PUT_IN.get(part, part)  # type: ignore[call-overload,no-any-return]


def _order(found: Sequence[Finding]) -> list[Part]:
    """Parts to exchange: those that contracts name first."""
    named = [
        part
        for finding in found
        if finding.fails() and finding.part
        for part in (_exchanged(finding.part),)
    ]
    return list(dict.fromkeys([*named, *PARTS]))


def _tried(
    rung: Rung, parts: Sequence[Part], ends: float, *, until_one_holds: bool
) -> Iterator[Trial]:
    for part in parts:
        if time.monotonic() >= ends:
            return
        trial = exchanged(rung, part, ends=ends)
        yield trial
        if trial.held and until_one_holds:
            return


def exchanged(rung: Rung, part: Part, *, ends: float) -> Trial:
    """Climb the rung by the user's loop with one part of ours, until it holds or `ends` (monotonic
    seconds) has come.
    """
    began = time.monotonic()
    assert isinstance(rung.subject.loop, Loop)
    make: Callable[[Any], Exchanged] = PARTS[part]
    mended = replace(
        rung,
        subject=replace(rung.subject, loop=replace(rung.subject.loop, exchange=make)),
        seeds=rung.seeds[:1],
    )
    steps = 0
    remedy = f"our {SAYS.get(part, part)}"

    def trial(held: bool, ended: TrialEnded | None = None, why: str | None = None) -> Trial:
        return Trial(
            finding=LOOP_BREAKS.name,
            remedy=remedy,
            held=held,
            steps=steps,
            seconds=time.monotonic() - began,
            ended=ended,
            why=why,
        )

    try:
        outcome = mended.climb(until(ends))
    except OutOfTime as late:
        steps = late.step
        return trial(False, ended=TrialEnded.OUT_OF_TIME, why="out of time")
    steps = outcome.steps
    failed = outcome.status != "ok" and outcome.attempts and outcome.telling.why
    return trial(outcome.status == "ok", why=failed or None)


def _verdict(ours: Outcome, found: Sequence[Finding], tried: Sequence[Trial]) -> Finding:
    """What the exchange showed, with what a contract says of that part."""
    held = next((trial for trial in tried if trial.held), None)
    by_ours = f"our training holds after {ours.steps} steps, so it is the loop"
    if held is None:
        cause = next((finding for finding in found if finding.fails()), None)
        said = f": {cause.headline}" if cause else ""
        finding = LOOP_BREAKS.finding(
            headline=f"our training of the same network holds after {ours.steps} steps{said}",
            evidence=(by_ours,),
            status="confirmed",
        )
        return replace(finding, part=cause.part if cause else None)
    part = next(part for part in PARTS if held.remedy == f"our {SAYS.get(part, part)}")
    causes = [
        finding
        for finding in found
        if finding.fails() and finding.part and _exchanged(finding.part) == part
    ]
    said = f": {causes[0].headline}" if causes else ""
    headline = f"with {held.remedy} your loop holds after {held.steps} steps{said}"
    failed = [trial.remedy for trial in tried if not trial.held]
    evidence = (by_ours, *((f"with {', '.join(failed)} it does not",) if failed else ()))
    finding = LOOP_BREAKS.finding(
        headline=headline,
        evidence=evidence,
        try_=causes[0].try_ if causes else None,
        status="confirmed",
    )
    return replace(finding, part=causes[0].part if causes else part)


LOOP_BREAKS = Record(
    name="loop_breaks",
    stage="loop",
    means=(
        "Your own training cannot make the network memorise a few samples, and ours can: the fault "
        "is in the loop, not in the network."
    ),
    detected=(
        "The rung is climbed with our training; then parts of ours are put into your loop, one at "
        "a time, until it holds."
    ),
    mend="Look at the part whose exchange mends it, at the line that is named.",
    no_remedy="the exchange of parts is the trial",
    planted=("broken_by_schedule", "broken_by_zeroing"),
)
NETWORK_BREAKS = Record(
    name="network_breaks",
    stage="loop",
    means=(
        "The rung breaks with our own training too, so the network, its samples or its loss are to "
        "be looked at before the loop."
    ),
    detected="The rung that your loop broke is climbed with our training.",
    mend="Mend what is found of the network, then climb with your loop again.",
    no_remedy="what is found of the network has its own",
    planted=("broken_by_network",),
)
