"""Turns what a loop does into windows, and measures at each what can be measured only then."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pytest_overfit.loop.matching import Given, match
from pytest_overfit.loop.recorder import Event
from pytest_overfit.loop.training import LoopTraining
from pytest_overfit.loop.windows import Loss, Update, Window
from pytest_overfit.recipe import default_recipe
from pytest_overfit.subject import Sample, Subject, collate

MANY = 10_000
"""Different numbers after which nobody counts on."""


class Watcher:
    """Turns events into windows, and measures at each what can be measured only then."""

    def __init__(self, subject: Subject, samples: Sequence[Sample], seed: int) -> None:
        self.subject, self.samples = subject, samples
        self.windows: list[Window] = []
        self.window = Window()
        self._busy = False
        self._before: dict[int, tuple[dict[str, Tensor], dict[str, Tensor]]] = {}
        self._kept: dict[str, Tensor] = {}
        self._given: Tensor | None = None
        self._judged = False
        self._passage = self._batches = 0
        self._autocast: torch.dtype | None = None
        self._seen: set[float] = set()
        self._steady: bool | None = None
        self.training = LoopTraining(
            subject, samples, default_recipe(len(samples)), seed=seed, on_event=self.on_event
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
        """How many different numbers the samples have, and the rows that were seen of them."""
        if not self._seen:
            return None
        before = torch.cat([sample.features.float().flatten() for sample in self.samples])
        return len(before.unique()), len(self._seen)

    def on_event(self, event: Event) -> None:
        """Measure at an event, and keep it; what measuring itself causes is not kept."""
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
        self._batches += 1

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
        network = self.training.network
        event.facts["version"] = sum(parameter._version for parameter in network.parameters())
        event.facts["asleep"] = [name for name, module in telling(network) if not module.training]
        event.facts["dropped"] = {
            name: rate
            for name, module in telling(network)
            if module.training and (rate := float(getattr(module, "p", 0.0)))
        }
        if self.window.stale is None:
            named = self._named()
            self.window.stale = frozenset(
                name for name, p in named.items() if p.grad is not None and bool(p.grad.any())
            )
            self.window.weights = _clones(named)

    def _grown(self, _: Event) -> None:
        self._kept = self._gradients()

    def _gradients(self) -> dict[str, Tensor]:
        named = self._named().items()
        return {name: p.grad.detach().clone() for name, p in named if p.grad is not None}

    def _before_step(self, event: Event) -> None:
        self._before[id(event.of)] = (_clones(self._named()), self._gradients())

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
                grown=self._kept,
                given=frozenset(names[one] for one in held if one in names),
                rates=tuple(float(group["lr"]) for group in event.of.param_groups),
                rate_of={
                    names[id(parameter)]: float(group["lr"])
                    for group in event.of.param_groups
                    for parameter in group["params"]
                    if id(parameter) in names
                },
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
            match(self.subject.loop.rows(self._given), self.samples)
            if self._given is not None and facts["graded"]
            else None
        )
        if given is not None and len(given.samples) != log_probs.shape[1]:
            given = None
        readable = given is not None and not self.subject.loop.outside
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
                own=self._own(given) if readable and given and given.exact else None,
                turned=self._own(given) if readable and given and given.shuffled else None,
                half=self._autocast is not None,
                passage=self._passage,
                value=facts["value"].detach().clone(),
                batch=self._batches,
                drawn=len(self.training.drawn),
            )
        )
        self._judged, self._autocast = True, None

    def _own(self, given: Given) -> tuple[Tensor, Tensor] | None:
        """What the twin gives for the clips, if it gave the same twice the first time."""
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
            if self._steady is None:
                self._twin.load_state_dict(network.state_dict())
                again = self.subject.log_probs(self._twin, batch.features, batch.frames)[0]
                same = first[0].shape == again.shape
                self._steady = same and float((first[0] - again).abs().max()) <= 1e-4
        if not self._steady:
            return None
        return first[0].detach(), first[1].detach()


@contextmanager
def _as(network: nn.Module, modes: dict[str, bool]) -> Iterator[None]:
    """In the given modes, on other random numbers than the caller's."""
    for name, module in network.named_modules():
        module.training = modes.get(name, module.training)
    with torch.random.fork_rng(devices=[]):
        yield


def telling(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules that do another thing in train mode."""
    kinds = (nn.modules.dropout._DropoutNd, _BatchNorm)
    for name, module in network.named_modules():
        if isinstance(module, kinds) or (isinstance(module, nn.RNNBase) and module.num_layers > 1):
            yield name, module


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
