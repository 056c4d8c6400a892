"""The wiring of a network: which of its parameters and inputs a gradient reaches, and which of them
the output answers to.

A gradient of exactly zero is no proof: a branch that starts at zero has none and will learn. So
what gets none in either mode is tried again with noise on every parameter that is trained, and then
by intervention: it is changed, and the output must answer. What is frozen stays as it is: a gate
that is frozen at zero never opens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node
from torch.overrides import TorchFunctionMode

from pytest_overfit.findings.bench import Bench, gradients, perturbed
from pytest_overfit.host import seed_others
from pytest_overfit.measures import valid_steps
from pytest_overfit.network.recorder import Call, differ, undisturbed

JITTER, UPHEAVAL = 0.1, 3.0
"""Noise on parameters over their rms: to leave a special starting point, and to make any effect
visible.
"""


class _Watched(TorchFunctionMode):
    """Lets a network ask for a gradient of its input, as those with gradient checkpointing do,
    where that input already has one.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func == Tensor.requires_grad.__set__ and not args[0].is_leaf:  # type: ignore[attr-defined]
            return None
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True, kw_only=True, eq=False)
class Flow:
    """Where a gradient from the output arrives.

    features: (batch, frames, dim) bool; nowhere where it could not be watched. alive: names of
    parameters with a gradient that is not all zero. attached: names of those that are part of the
    graph at all.
    """

    features: Tensor
    alive: frozenset[str]
    attached: frozenset[str]
    watched: bool = True
    checkpointed: bool = False

    def __or__(self, other: Flow) -> Flow:
        return Flow(
            features=self.features | other.features,
            alive=self.alive | other.alive,
            attached=self.attached | other.attached,
            watched=self.watched and other.watched,
        )


def flow(bench: Bench, *, train: bool, seed: int | None = None) -> Flow:
    """Backward from a random projection of the valid steps, so that no loss decides what counts.
    seed: of dropout; else the bench's.

    No training asks for a gradient of its input, and code that writes into it in place may lawfully
    refuse one: then none reaches it here.
    """
    dropped = bench.seed if seed is None else seed
    try:
        watched = _flow(bench, train, dropped, bench.batch.features.clone().requires_grad_())
        if not watched.checkpointed:
            return watched
        # A reentrant checkpoint hands no gradient to what it holds where none of its inputs asks
        # for one, as in training.
        plain = _flow(bench, train, dropped, bench.batch.features.clone())
        return replace(plain, features=watched.features)
    except RuntimeError:
        return replace(_flow(bench, train, dropped, bench.batch.features.clone()), watched=False)


def _flow(bench: Bench, train: bool, seed: int, features: Tensor) -> Flow:
    network, subject = bench.network, bench.subject
    seed_others(seed)
    parameters = {
        name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad
    }
    with undisturbed(network, train=train, seed=seed), torch.enable_grad(), _Watched():
        log_probs, steps = subject.log_probs(network, features, bench.batch.frames)
        rows = valid_steps(log_probs.float(), steps.clamp(max=len(log_probs)))
        weights = torch.randn(rows.shape, generator=torch.Generator().manual_seed(bench.seed)).to(
            rows
        )
        total = torch.where(torch.isfinite(rows), rows * weights, 0.0).sum()
        if not total.requires_grad:
            return Flow(
                features=torch.zeros_like(features, dtype=torch.bool),
                alive=frozenset(),
                attached=frozenset(),
            )
        asked = [features] if features.requires_grad else []
        checkpointed = any(
            node.name() == "CheckpointFunctionBackward" for node in nodes_behind(total)
        )
        found = gradients(total, [*asked, *parameters.values()])
    to_features = found[0] if asked else None
    reached = (
        torch.zeros_like(features, dtype=torch.bool) if to_features is None else to_features != 0
    )
    named = dict(zip(parameters, found[len(asked) :], strict=True))
    return Flow(
        checkpointed=checkpointed,
        features=reached,
        alive=frozenset(
            name
            for name, gradient in named.items()
            if gradient is not None and bool((gradient != 0).any())
        ),
        attached=frozenset(name for name, gradient in named.items() if gradient is not None),
    )


def nodes_behind(value: Tensor) -> set[Node]:
    """Every node of the graph that a value was made by."""
    seen, waiting = set[Node](), [value.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [source for source, _ in node.next_functions]
    return seen


@dataclass(frozen=True, kw_only=True, eq=False)
class Wiring:
    """The wiring of a bench's network: what is trained, and what a gradient reaches."""

    bench: Bench

    @staticmethod
    def of(bench: Bench) -> Wiring:
        """The wiring of a bench's network, for `Bench.once`."""
        return Wiring(bench=bench)

    @cached_property
    def trained(self) -> frozenset[str]:
        """Names of parameters that the subject gives to the optimiser."""
        given = {id(parameter) for _, parameter in self.bench.subject.trainable(self.bench.network)}
        return frozenset(
            name
            for name, parameter in self.bench.network.named_parameters()
            if id(parameter) in given
        )

    @cached_property
    def flow(self) -> Flow:
        """Eval and train mode together; where something is left out, with noise on the parameters
        too.
        """
        plain = flow(self.bench, train=False) | flow(self.bench, train=True)
        if (
            self.trained <= plain.alive
            and not self._silent_columns(plain)
            and not self._silent_frames(plain)
        ):
            return plain
        with perturbed(self.bench.network, set(self.trained), scale=JITTER, seed=self.bench.seed):
            return plain | flow(self.bench, train=False) | flow(self.bench, train=True)

    def _silent_columns(self, flow: Flow) -> list[int]:
        return (~flow.features.any(dim=(0, 1))).nonzero()[:, 0].tolist()

    def _silent_frames(self, flow: Flow) -> list[tuple[int, int]]:
        """(clip, frame) inside clips: those at the ends that a stride leaves over are not
        counted.
        """
        silent = []
        reached = flow.features.any(-1)
        for clip, frames in enumerate(self.bench.batch.frames.tolist()):
            spare = -(-frames // max(int(self.bench.outputs[1][clip]), 1))
            silent += [
                (clip, frame) for frame in range(spare, frames - spare) if not reached[clip, frame]
            ]
        return silent

    @cached_property
    def columns(self) -> list[int]:
        """Feature columns that change nothing."""
        silent = self._silent_columns(self.flow)
        mask = torch.zeros_like(self.bench.batch.features, dtype=torch.bool)
        mask[:, :, silent] = True
        return silent if silent and not self._answers(mask) else []

    @cached_property
    def frames(self) -> list[tuple[int, int]]:
        """Inner frames that change nothing."""
        silent = self._silent_frames(self.flow)
        mask = torch.zeros_like(self.bench.batch.features, dtype=torch.bool)
        for clip, frame in silent:
            mask[clip, frame] = True
        return silent if silent and not self._answers(mask) else []

    def _answers(self, mask: Tensor) -> bool:
        """Whether the output answers to other features where the mask is set."""
        return differ(
            (self._output(self.bench.batch.features),), (self._output(self.disturbed(mask)),)
        )

    def disturbed(self, mask: Tensor) -> Tensor:
        """The features of the batch, with noise of their own size where the mask is set.

        mask: (batch, frames, dim) bool.
        """
        features = self.bench.batch.features
        noise = torch.randn(
            features.shape, generator=torch.Generator().manual_seed(self.bench.seed)
        ).to(features)
        return torch.where(mask, features + noise * (1 + features.std()), features)

    def _output(self, features: Tensor) -> Tensor:
        log_probs, steps = self.bench.run(features, self.bench.batch.frames, train=True)
        return valid_steps(log_probs, steps.clamp(max=len(log_probs)))

    @cached_property
    def silent_modules(self) -> list[str]:
        """The largest modules whose trained parameters all get no gradient; "" is the whole
        network.
        """
        silent: list[str] = []
        for name, module in self.bench.network.named_modules():
            own = self.trained & {
                parameter for parameter, _ in module.named_parameters(prefix=name)
            }
            if (
                own
                and not own & self.flow.alive
                and not any(is_below(name, above) for above in silent)
            ):
                silent.append(name)
        return silent

    @cached_property
    def silent_owners(self) -> list[str]:
        """Modules, within none of those, that hold trained parameters themselves, of which all are in the
        graph and none gets a gradient, as weights do that are rounded before they are used.
        """
        return [
            name
            for name, _ in self.bench.network.named_modules()
            if not any(is_below(name, above) for above in self.silent_modules)
            and (own := self.trained & self.below(name, own=True))
            and own <= self.flow.attached
            and not own & self.flow.alive
        ]

    @cached_property
    def unused(self) -> list[str]:
        """Those of them that the output does not answer to, whatever their parameters are."""
        return [module for module in self.silent_modules if not self.moves(module)]

    @cached_property
    def calls(self) -> list[Call]:
        """Every module's call on the longest clip alone, in eval mode."""
        return self.bench.passage(self.bench.clips[0].features)[0]

    def moves(self, module: str, scale: float = UPHEAVAL, *, own: bool = False) -> bool:
        """Whether the output answers to other parameters of a module, with noise of that scale. own: to
        those alone that it holds itself.
        """
        before = self._output(self.bench.batch.features)
        with perturbed(
            self.bench.network,
            self.below(module, own=own) & self.trained,
            scale=scale,
            seed=self.bench.seed,
        ):
            after = self._output(self.bench.batch.features)
        return differ((before,), (after,))

    def below(self, module: str, *, own: bool = False) -> set[str]:
        """Names of the parameters of a module and of what it holds. own: of itself alone."""
        held = self.bench.network.get_submodule(module)
        return {name for name, _ in held.named_parameters(prefix=module, recurse=not own)}


def is_below(name: str, above: str) -> bool:
    """Whether a module is another, or within it."""
    return above == "" or name == above or name.startswith(above + ".")
