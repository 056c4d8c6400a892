"""The exchange the other way: a part of the user's loop, as its steps showed it, in our training.

Where two parts of a loop are at fault, putting one of ours into it mends nothing; one of theirs in
ours breaks it, each by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, fields, replace
from statistics import median
from typing import Any

from torch import nn

from pytest_overfit.climb.attempt import OnStep, Run
from pytest_overfit.climb.ladder import Rung
from pytest_overfit.loop.loop import Part
from pytest_overfit.loop.rehearsal import Rehearsal
from pytest_overfit.loop.windows import FEWEST, Window
from pytest_overfit.recipe import Recipe
from pytest_overfit.training import Training

Change = Callable[[Training], None]


@dataclass(frozen=True, kw_only=True)
class TheirRates(Recipe):
    """Our recipe with the course of their rate: `course` of each step in shares of its peak, the
    last for ever.
    """

    course: tuple[float, ...] = (1.0,)

    def lr_factor(self, step: int) -> float:
        """The share of the rate at a step."""
        return self.course[min(step, len(self.course) - 1)]


def changes(theirs: Rehearsal) -> dict[Part, Change]:
    """Parts that the steps of a loop showed, each as a change of our training."""
    found: dict[Part, Change | None] = {
        "scheduler": _schedule(theirs),
        "accumulation": _zeroing(theirs),
        "mode": _mode(theirs),
        "clip": _clip(theirs),
        "optimiser": _optimiser(theirs),
    }
    return {part: change for part, change in found.items() if change is not None}


def holds(rung: Rung, change: Change, on_step: OnStep) -> bool:
    """Whether our training holds a rung with a part of theirs. rung: of ours, without a loop."""
    samples = rung.subject.take(rung.samples)
    training = Training(rung.subject, samples, rung.recipe, seed=rung.seeds[0], device=rung.device)
    change(training)
    with closing(training):
        run = Run(training, rung.criteria, rung.seeds[0], on_step)
        run.train_to_the_end(patient=True)
        return run.held


def _schedule(theirs: Rehearsal) -> Change | None:
    rates = [max(update.rates) for update in theirs.updates]
    if not rates or max(rates) == 0 or len(set(rates)) == 1:
        return None
    course = tuple(rate / max(rates) for rate in rates)

    def change(training: Training) -> None:
        own = {field.name: getattr(training.recipe, field.name) for field in fields(Recipe)}
        training.recipe = TheirRates(**own, course=course)

    return change


def _zeroing(theirs: Rehearsal) -> Change | None:
    orders = [window.order("backward", "zero", "before_step") for window in theirs.windows]
    if sum("z" not in order for order in orders) >= max(FEWEST, len(orders) / 2):
        return _never_zeroed
    return None


def _never_zeroed(training: Training) -> None:
    def nothing(set_to_none: bool = True) -> None:
        """Gradients stay as they are."""

    training.optimizer.zero_grad = nothing  # type: ignore[method-assign]


def _mode(theirs: Rehearsal) -> Change | None:
    passes = [event for window in theirs.windows for event in window.of("backward")]
    if sum(not event.facts["training"] for event in passes) < max(FEWEST, len(passes) / 2):
        return None
    return lambda training: _always_eval(training.network)


def _always_eval(network: nn.Module) -> None:
    evaluate = network.eval
    network.train = lambda mode=True: evaluate()  # type: ignore[method-assign]


def _clip(theirs: Rehearsal) -> Change | None:
    bounds = [bound for window in theirs.windows if (bound := _bound(window)) is not None]
    if len(bounds) < FEWEST:
        return None
    bound = median(bounds)

    def change(training: Training) -> None:
        training.recipe = replace(training.recipe, clip=bound)

    return change


def _bound(window: Window) -> float | None:
    """The norm that a window's clipping left, where it took something."""
    left = [e.facts["clipped"] for e in window.of("clip") if e.facts["clipped"] < e.facts["norm"]]
    return left[-1] if left and math.isfinite(left[-1]) and left[-1] > 0 else None


def _optimiser(theirs: Rehearsal) -> Change | None:
    if not theirs.updates:
        return None
    update = theirs.updates[0]
    optimizer = getattr(update.optimizer, "optimizer", update.optimizer)
    names = {id(parameter): name for name, parameter in theirs.network.named_parameters()}
    groups = [_group(group, names) for group in optimizer.param_groups]
    if not any(group["params"] for group in groups):
        return None

    kind: Any = type(optimizer)

    def change(training: Training) -> None:
        named = dict(training.network.named_parameters())
        built = [{**group, "params": [named[n] for n in group["params"]]} for group in groups]
        training.optimizer = kind(built)
        training.parameters = [parameter for group in built for parameter in group["params"]]

    return change


def _group(group: Mapping[str, Any], names: Mapping[int, str]) -> dict[str, Any]:
    """A group of an optimiser with names for parameters, at the rate that was asked for."""
    rate = float(group.get("max_lr", group.get("initial_lr", group["lr"])))
    own = {name: value for name, value in group.items() if name not in ("params", "initial_lr")}
    held = [names[id(parameter)] for parameter in group["params"] if id(parameter) in names]
    return {**own, "params": held, "lr": rate, "peak_lr": rate}
