"""Parts of ours in the place of a loop's, while its code runs as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pytest_overfit.loop.loop import Part
from pytest_overfit.loop.recorder import Event
from pytest_overfit.loop.training import LoopTraining
from pytest_overfit.recipe import Recipe, default_recipe
from pytest_overfit.training import make_optimizer

WARMUP = 10
"""Steps over which a rate of ours rises."""


class Ours:
    """A part of ours in the place of one of the loop's; what each puts there is in `during` and
    `on_event`.
    """

    part: Part

    def __init__(self, training: LoopTraining) -> None:
        self.training, self.network = training, training.network

    def during(self) -> AbstractContextManager[object]:
        return nullcontext()

    def on_event(self, event: Event) -> None:
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

    def on_event(self, event: Event) -> None:
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

    def on_event(self, event: Event) -> None:
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
    """The gradient is what backward() left, its norm bounded by 1; no step is left out for its size."""

    part: Part = "clip"

    def __init__(self, training: LoopTraining) -> None:
        super().__init__(training)
        self._grown: list[Tensor | None] = []
        self._scaled = False

    def during(self) -> AbstractContextManager[object]:
        def left_alone(parameters: Any, *_: Any, **__: Any) -> Tensor:
            return torch.tensor(0.0)

        stack = ExitStack()
        for owner in (nn.utils, nn.utils.clip_grad):
            for name in ("clip_grad_norm_", "clip_grad_value_"):
                stack.enter_context(patch.object(owner, name, left_alone))
        return stack

    def on_event(self, event: Event) -> None:
        if event.kind == "scale":
            self._scaled = self._scaled or event.facts["enabled"]
        elif event.kind == "grown":
            gradients = [parameter.grad for parameter in self.network.parameters()]
            self._grown = [None if one is None else one.detach().clone() for one in gradients]
        elif event.kind == "before_step":
            self._put_back()
            _bound(self.network)

    def _put_back(self) -> None:
        """What was done to the gradient since; where a scaler is at work it must be."""
        parameters = list(self.network.parameters())
        if self._scaled or len(parameters) != len(self._grown):
            return
        for parameter, grown in zip(parameters, self._grown, strict=True):
            if grown is not None:
                parameter.grad = grown.clone()


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

    def on_event(self, event: Event) -> None:
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

    def on_event(self, event: Event) -> None:
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

    def on_event(self, event: Event) -> None:
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


class Together(Ours):
    """Several parts of ours at once."""

    def __init__(self, training: LoopTraining, parts: Sequence[Part]) -> None:
        super().__init__(training)
        self.parts = [PARTS[part](training) for part in parts]

    def during(self) -> AbstractContextManager[object]:
        stack = ExitStack()
        for part in self.parts:
            stack.enter_context(part.during())
        return stack

    def on_event(self, event: Event) -> None:
        """Told of everything, each part in turn."""
        for part in self.parts:
            part.on_event(event)
