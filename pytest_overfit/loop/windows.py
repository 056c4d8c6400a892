"""What a loop did from one of its losses to the next."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import Tensor
from torch.optim import Optimizer

from pytest_overfit.loop.matching import Given
from pytest_overfit.loop.recorder import Event

FEWEST = 3
"""Windows in which something must happen before it is the loop's habit."""
_LETTERS = {"backward": "b", "zero": "z", "clip": "c", "before_step": "s"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Update:
    """One call of an optimiser's step. Tensors by name of the parameter; those that are not the
    network's are counted alone.

    before, after: weights. gradients: as they were stepped on; grown: as the last backward pass left
    them. rates: of the optimiser's groups; rate_of: of each parameter.
    foreign: parameters of others.
    """

    optimizer: Optimizer
    where: str | None
    before: dict[str, Tensor]
    after: dict[str, Tensor]
    gradients: dict[str, Tensor]
    grown: dict[str, Tensor]
    given: frozenset[str]
    rates: tuple[float, ...]
    rate_of: dict[str, float]
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
    turned: the same where their frames came in another order.
    half: whether some of it was computed in half precision. passage: counts the passages of the
    network; losses of one are of several heads. value: of the loss, as it was reduced.
    batch: counts the batches drawn; drawn: clips in the last of them.
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
    turned: tuple[Tensor, Tensor] | None
    half: bool
    passage: int
    value: Tensor
    batch: int
    drawn: int

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
        return "".join(_LETTERS[event.kind] for event in self.of(*(kinds or _LETTERS)))
