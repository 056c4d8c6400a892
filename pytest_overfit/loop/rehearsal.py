"""A rehearsal: a few steps of a loop, watched closely. What the contracts of the loop read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pytest_overfit.loop.loop import Loop
from pytest_overfit.loop.matching import Given, match
from pytest_overfit.loop.recorder import Event
from pytest_overfit.loop.training import LoopFailed, LoopTraining
from pytest_overfit.recipe import default_recipe
from pytest_overfit.subject import Sample, Subject, collate
from pytest_overfit.training import NonFiniteLoss

STEPS = 16
"""Optimiser steps of a rehearsal."""
EPOCH = 4
"""Batches of its epochs: what is done once an epoch is seen several times."""
SAMPLES = 16
LETTERS = {"backward": "b", "zero": "z", "clip": "c", "before_step": "s"}
MANY = 10_000
"""Different numbers after which nobody counts on."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Update:
    """One call of an optimiser's step. Tensors by name of the parameter; those that are not the
    network's are counted alone.

    before, after: weights. gradients: as they were stepped on. rates: of the optimiser's groups.
    foreign: parameters of others.
    """

    optimizer: Optimizer
    where: str | None
    before: dict[str, Tensor]
    after: dict[str, Tensor]
    gradients: dict[str, Tensor]
    given: frozenset[str]
    rates: tuple[float, ...]
    foreign: int

    def moved(self, name: str) -> Tensor:
        """By what the step changed a parameter."""
        return self.after[name] - self.before[name]


@dataclass(frozen=True, kw_only=True, eq=False)
class Loss:
    """A call of CTC inside the loop, with what of it can be told.

    given: the clips that reached the network for it, matched with the samples; None where they
    could not be seen.
    own: what a network of the same weights gives for these clips, (steps, batch, vocabulary), where
    they are the samples' own to the last digit.
    half: whether some of it was computed in half precision. passage: counts the passages of the
    network; losses of one are of several heads.
    """

    where: str | None
    log_probs: Tensor
    targets: list[list[int]]
    input_lengths: list[int]
    blank: int
    training: bool
    graded: bool
    given: Given | None
    own: tuple[Tensor, Tensor] | None
    half: bool
    passage: int

    @property
    def clips(self) -> tuple[int, ...]:
        """Which sample each row holds; none where that is not known."""
        return () if self.given is None else self.given.samples

    @property
    def own_steps(self) -> list[int]:
        """The steps that the network says each clip has; none where that is not known."""
        return [] if self.own is None else [int(steps) for steps in self.own[1].tolist()]


@dataclass(kw_only=True, eq=False)
class Window:
    """What a loop did from one of its losses to the next.

    stale: names of the parameters that had a gradient before the first backward pass. weights: at
    that moment.
    """

    events: list[Event] = field(default_factory=list)
    updates: list[Update] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    stale: frozenset[str] | None = None
    weights: dict[str, Tensor] = field(default_factory=dict)
    reported: float = math.nan

    def of(self, *kinds: str) -> list[Event]:
        """The events of these kinds, in their order."""
        return [event for event in self.events if event.kind in kinds]

    def order(self, *kinds: str) -> str:
        """The backward passes (b), zeroings (z), clippings (c) and steps (s) among those kinds, in
        their order.
        """
        return "".join(LETTERS[event.kind] for event in self.of(*(kinds or LETTERS)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Rehearsal:
    """windows: one a loss that the loop gave. rest: what it did after the last. failed: what ended
    it. reached: parameters that our loss reaches. levels: how many different numbers the samples
    have, and the rows that were seen of them.
    """

    subject: Subject
    network: nn.Module
    samples: Sequence[Sample]
    windows: Sequence[Window]
    rest: Window
    failed: LoopFailed | NonFiniteLoss | None
    reached: frozenset[str]
    trainable: frozenset[str]
    levels: tuple[int, int] | None

    @property
    def updates(self) -> list[Update]:
        """Every step of every window."""
        return [update for window in self.windows for update in window.updates]

    @property
    def losses(self) -> list[Loss]:
        """Every loss, in the order in which they were taken."""
        return [loss for window in (*self.windows, self.rest) for loss in window.losses]

    def first(self, kind: str) -> str | None:
        """`file:line` of the first event of a kind."""
        return next(
            (
                event.where
                for window in (*self.windows, self.rest)
                for event in window.of(kind)
                if event.where
            ),
            None,
        )


def rehearse(subject: Subject, *, seed: int = 0) -> Rehearsal:
    """Watch the subject's loop for STEPS steps on short epochs, without dropout.

    Where it takes no step in one, on epochs of its own length.
    """
    assert subject.loop is not None
    short = replace(subject, loop=replace(subject.loop, loader=_short(subject.loop)))
    rehearsal = _rehearse(short, seed)
    if isinstance(rehearsal.failed, LoopFailed) and rehearsal.failed.stepless:
        return _rehearse(subject, seed)
    return rehearsal


def _short(loop: Loop) -> Any:
    """The loader over a dataset of EPOCH batches."""
    from torch.utils.data import DataLoader, RandomSampler, Subset

    loader = loop.loader
    if loader.batch_size is None:
        return loader
    length = min(len(loader.dataset), EPOCH * loader.batch_size)  # type: ignore[arg-type]
    cut = Subset(loader.dataset, range(length))
    return DataLoader(
        cut,
        batch_size=loader.batch_size,
        shuffle=isinstance(loader.sampler, RandomSampler),
        drop_last=loader.drop_last,
        collate_fn=loader.collate_fn,
    )


def _rehearse(subject: Subject, seed: int) -> Rehearsal:
    offered = subject.offered(SAMPLES)
    samples = subject.take(len(offered))
    watcher = _Watcher(subject, samples, seed)
    failed: LoopFailed | NonFiniteLoss | None = None
    try:
        for loss in watcher.training.advance(STEPS):
            watcher.turn(loss)
    except (LoopFailed, NonFiniteLoss) as error:
        failed = error
    finally:
        watcher.training.close()
    network = watcher.training.network
    return Rehearsal(
        subject=subject,
        network=network,
        samples=samples,
        windows=watcher.windows,
        rest=watcher.window,
        failed=failed,
        reached=_reached(subject, samples, seed),
        trainable=frozenset(watcher.trainable),
        levels=watcher.levels(),
    )


class _Watcher:
    """Turns events into windows, and measures at each what can be measured only then."""

    def __init__(self, subject: Subject, samples: Sequence[Sample], seed: int) -> None:
        self.subject, self.samples = subject, samples
        self.windows: list[Window] = []
        self.window = Window()
        self._busy = False
        self._before: dict[int, tuple[dict[str, Tensor], dict[str, Tensor]]] = {}
        self._given: Tensor | None = None
        self._judged = False
        self._passage = 0
        self._autocast: torch.dtype | None = None
        self._seen: set[float] = set()
        self.training = LoopTraining(
            subject, samples, default_recipe(len(samples)), seed=seed, hear=self.hear
        )
        self.trainable = [
            name
            for name, parameter in self.training.network.named_parameters()
            if parameter.requires_grad
        ]
        self._twin = subject.fresh(feature_dim=samples[0].features.shape[1], seed=seed)
        for network in (self.training.network, self._twin):
            _without_dropout(network)

    def turn(self, loss: float) -> None:
        """A loss was given: a window is complete."""
        self.window.reported = loss
        self.windows.append(self.window)
        self.window = Window()

    def levels(self) -> tuple[int, int] | None:
        if not self._seen:
            return None
        before = torch.cat([sample.features.float().flatten() for sample in self.samples])
        return len(before.unique()), len(self._seen)

    def hear(self, event: Event) -> None:
        if self._busy:
            return
        self._busy = True
        try:
            measure = getattr(self, f"_{event.kind}", None)
            if measure is not None:
                measure(event)
            if event.kind not in ("call", "ctc"):  # they hold tensors, and many
                self.window.events.append(event)
        finally:
            self._busy = False

    def _named(self) -> dict[str, nn.Parameter]:
        return dict(self.training.network.named_parameters())

    def _batch(self, _: Event) -> None:
        self._given = None

    def _call(self, event: Event) -> None:
        if self._judged:  # the batch of the loss before: some loaders draw ahead
            self._given, self._judged = None, False
            self._passage += 1
        self._autocast = event.facts["autocast"] or self._autocast
        if self._given is None:
            tensors = [
                one
                for one in event.facts["given"]
                if isinstance(one, Tensor) and one.is_floating_point() and one.ndim > 1
            ]
            if tensors and len(tensors[0]) >= 1:
                self._given = tensors[0].detach()
                if len(self._seen) < MANY:
                    self._seen |= set(self._given.float().unique().tolist()[:MANY])

    def _backward(self, event: Event) -> None:
        event.facts["version"] = sum(
            parameter._version for parameter in self.training.network.parameters()
        )
        if self.window.stale is None:
            named = self._named()
            self.window.stale = frozenset(
                name for name, p in named.items() if p.grad is not None and bool(p.grad.any())
            )
            self.window.weights = _clones(named)

    def _before_step(self, event: Event) -> None:
        named = self._named()
        gradients = {
            name: p.grad.detach().clone() for name, p in named.items() if p.grad is not None
        }
        self._before[id(event.of)] = (_clones(named), gradients)

    def _step(self, event: Event) -> None:
        if id(event.of) not in self._before:
            return
        before, gradients = self._before.pop(id(event.of))
        named = self._named()
        names = {id(parameter): name for name, parameter in named.items()}
        held = [id(parameter) for group in event.of.param_groups for parameter in group["params"]]
        self.window.updates.append(
            Update(
                optimizer=event.of,
                where=event.where,
                before=before,
                after=_clones(named),
                gradients=gradients,
                given=frozenset(names[one] for one in held if one in names),
                rates=tuple(float(group["lr"]) for group in event.of.param_groups),
                foreign=sum(one not in names for one in held),
            )
        )

    def _ctc(self, event: Event) -> None:
        facts = event.facts
        log_probs: Tensor = facts["log_probs"]
        if log_probs.ndim == 2:
            log_probs = log_probs[:, None]
        assert self.subject.loop is not None
        given = (
            None
            if self._given is None
            else match(self.subject.loop.rows(self._given), self.samples)
        )
        if given is not None and len(given.samples) != log_probs.shape[1]:
            given = None
        self.window.losses.append(
            Loss(
                where=event.where,
                log_probs=log_probs.detach().clone(),
                targets=_rows(facts["targets"], facts["target_lengths"]),
                input_lengths=facts["input_lengths"].reshape(-1).tolist(),
                blank=facts["blank"],
                training=facts["training"],
                graded=facts["graded"],
                given=given,
                own=self._own(given),
                half=self._autocast is not None,
                passage=self._passage,
            )
        )
        self._judged, self._autocast = True, None

    def _own(self, given: Given | None) -> tuple[Tensor, Tensor] | None:
        """What the twin gives for the clips, if they are the samples' own and it gives the same
        each time.
        """
        if (
            given is None
            or not given.exact
            or (self.subject.loop is not None and self.subject.loop.outside)
        ):
            return None
        network = self.training.network
        modes = {name: module.training for name, module in network.named_modules()}
        try:
            self._twin.load_state_dict(network.state_dict())
        except RuntimeError:  # the loop changed the network's shape
            return None
        batch = collate([self.samples[index] for index in given.samples])
        kind = self._autocast
        with (
            _as(self._twin, modes),
            torch.no_grad(),
            torch.autocast("cpu", dtype=kind, enabled=kind is not None),
        ):
            first = self.subject.log_probs(self._twin, batch.features, batch.frames)
            self._twin.load_state_dict(network.state_dict())
            again = self.subject.log_probs(self._twin, batch.features, batch.frames)[0]
        if first[0].shape != again.shape or float((first[0] - again).abs().max()) > 1e-4:
            return None
        return first[0].detach(), first[1].detach()


@contextmanager
def _as(network: nn.Module, modes: dict[str, bool]) -> Iterator[None]:
    """In the given modes, on other random numbers than the caller's."""
    for name, module in network.named_modules():
        module.training = modes.get(name, module.training)
    with torch.random.fork_rng(devices=[]):
        yield


def _without_dropout(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        elif isinstance(module, nn.RNNBase):
            module.dropout = 0.0


def _clones(named: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in named.items()}


def _rows(targets: Tensor, lengths: Tensor) -> list[list[int]]:
    """The target of each clip, from rows or from one line of all."""
    counts = lengths.reshape(-1).tolist()
    if targets.ndim == 2:
        return [row[:count] for row, count in zip(targets.tolist(), counts, strict=True)]
    return (
        [part.tolist() for part in targets.split(counts)]
        if sum(counts) == len(targets)
        else [targets.tolist()]
    )


def _reached(subject: Subject, samples: Sequence[Sample], seed: int) -> frozenset[str]:
    """Parameters that our own loss has a gradient for."""
    from pytest_overfit import ctc

    network = subject.fresh(feature_dim=samples[0].features.shape[1], seed=seed).train()
    batch = collate(samples)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        log_probs, steps = subject.log_probs(network, batch.features, batch.frames)
        ctc.nats_per_token(
            log_probs, steps, batch.targets, batch.target_lengths, blank=subject.blank
        ).backward()
    return frozenset(
        name for name, p in network.named_parameters() if p.grad is not None and bool(p.grad.any())
    )
