"""Modules left out of a network that is built, or given something beside or in the place of what they
make: what a remedy does where a module is to blame.

Each function changes the network in place and returns whether it found something to change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

from pytest_overfit.network.network_edits import CannotEdit, NetworkEdit, put_in, resized

SMALLEST_VARIANCE = 1e-12
"""What is added to a variance by a norm that is to see the smallest numbers too."""


class StandIn(nn.Module):
    """Stands in another module's place, and has that one's attributes: networks ask layers for their
    sizes, and recurrent ones to `flatten_parameters`. One that is not torch's own is run for what it
    gives besides, such as the steps of each clip.
    """

    def __init__(self, replaced: nn.Module) -> None:
        super().__init__()
        self.__dict__["replaced"] = replaced  # no submodule: its parameters are left out

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if "replaced" not in self.__dict__:  # as it is copied
                raise
            return getattr(self.__dict__["replaced"], name)

    def forward(self, *given: Any, **named: Any) -> Any:
        first = [*given, *named.values()][0]

        @cache
        def stood() -> Any:
            with torch.no_grad():
                # No submodule: it does not move with this one.
                return self.replaced.to(first.device)(*given, **named)

        def shape() -> Sequence[int]:
            return (stood()[0] if isinstance(stood(), tuple) else stood()).shape  # type: ignore[no-any-return]

        made = self.made(first, shape)
        if isinstance(self.replaced, nn.RNNBase | nn.MultiheadAttention):
            return made, None
        torchs_own = type(self.replaced).__module__.startswith("torch.")
        return made if torchs_own or not isinstance(stood(), tuple) else (made, *stood()[1:])

    def made(self, first: Any, shape: Callable[[], Sequence[int]]) -> Any:
        """What stands in for the output. first: what it is given first. shape: asks the module that stood
        there for that of its output.
        """
        raise NotImplementedError


class HandedOn(StandIn):
    """Hands on what it is given first, whatever else comes with it."""

    def made(self, first: Any, shape: Callable[[], Sequence[int]]) -> Any:
        """As it was given."""
        return first


def bypass(module: str) -> NetworkEdit:
    """Leave one module out: its input goes on in its place, where shapes allow."""

    def edit(network: nn.Module) -> bool:
        parent, _, child = module.rpartition(".")
        if not module or not hasattr(network.get_submodule(parent), child):
            return False
        put_in(network, module, HandedOn(network.get_submodule(module)))
        return True

    return edit


def with_its_like(edit: Callable[[str], NetworkEdit]) -> Callable[[str], NetworkEdit]:
    """An edit of one module made at its like in other blocks as well; nothing where it has none."""

    def at(module: str) -> NetworkEdit:
        def everywhere(network: nn.Module) -> bool:
            names = alike(network, module)
            for name in names:
                edit(name)(network)
            return bool(names)

        return everywhere

    return at


def alike(network: nn.Module, module: str) -> tuple[str, ...]:
    """A module and those of its class that other blocks call by the same name; where none does, those
    beside it; where there are none, all of its class, if that is not a layer of torch's. The outermost
    alone; nothing where it is the only one.
    """
    own, (parent, _, called) = network.get_submodule(module), module.rpartition(".")
    of_class = [name for name, one in network.named_modules() if type(one) is type(own) and name]
    layer = type(own).__module__.startswith("torch.") and any(True for _ in own.parameters())
    groups = (
        [name for name in of_class if name.rpartition(".")[2] == called],
        [name for name in of_class if name.rpartition(".")[0] == parent],
        [] if layer else of_class,
    )
    for names in groups:
        outermost = [
            name for name in names if not any(name.startswith(other + ".") for other in names)
        ]
        if len(outermost) > 1:
            return tuple(outermost)
    return ()


class LinearInstead(StandIn):
    """A linear layer over the features of what it is given first, in the place of a module whose output
    has another shape; of longer axes every n-th place. Numbers that were made vectors, as in a table,
    are features of one.

    The module that stood there is asked for its shape alone, so that the steps of each clip are what
    the network says they are. given, gave: the shapes of one call. Raises CannotEdit where they
    differ in their number of axes, or an axis but that of the features grows.
    """

    def __init__(self, replaced: nn.Module, given: Sequence[int], gave: Sequence[int]) -> None:
        super().__init__(replaced)
        without = [[*gave[:axis], *gave[axis + 1 :]] for axis in range(len(gave))]
        self.added = list(given) in without
        if self.added:
            self.axis = without.index(list(given))
            given = [*given[: self.axis], 1, *given[self.axis :]]
        elif len(given) == len(gave) >= 2:
            self.axis = feature_axis(replaced, len(given))
        else:
            raise CannotEdit("what it gives has other axes than what it is given")
        others = [axis for axis in range(len(given)) if axis != self.axis]
        if any(gave[axis] > given[axis] for axis in others):
            raise CannotEdit("it gives more steps than it is given")
        self.strides = {axis: round(given[axis] / gave[axis]) for axis in others}
        self.linear = nn.Linear(given[self.axis], gave[self.axis])

    def made(self, first: Any, shape: Callable[[], Sequence[int]]) -> Any:
        """The layer's output, at every n-th place of longer axes."""
        first, wanted = first.unsqueeze(self.axis) if self.added else first, shape()
        for axis, stride in self.strides.items():
            places = torch.arange(wanted[axis], device=first.device) * stride
            first = first.index_select(axis, places.clamp(max=first.shape[axis] - 1))
        return self.linear(first.movedim(self.axis, -1)).movedim(-1, self.axis)


class FramedInstead(StandIn):
    """A linear layer over pieces of sound, (batch, samples), in the place of a module that makes frames
    of it, (batch, frames, features) or the last two the other way round. time: the axis of frames.
    """

    def __init__(
        self, replaced: nn.Module, given: Sequence[int], gave: Sequence[int], time: int
    ) -> None:
        super().__init__(replaced)
        self.time, self.piece = time, max(given[1] // gave[time], 1)
        self.linear = nn.Linear(self.piece, gave[3 - time])

    def made(self, first: Any, shape: Callable[[], Sequence[int]]) -> Any:
        """The layer's output for each piece."""
        frames = shape()[self.time]
        padded = F.pad(first, (0, max(frames * self.piece - first.shape[1], 0)))
        pieces = padded[:, : frames * self.piece].unflatten(1, (frames, self.piece))
        return self.linear(pieces).movedim(1, self.time)


def feature_axis(module: nn.Module, axes: int) -> int:
    """The axis of features: the second where the module convolves, else the last."""
    convolves = any(isinstance(inner, _ConvNd) for inner in module.modules())
    return 1 if convolves else axes - 1


@dataclass(frozen=True)
class Shapes:
    """Of one call of a module: what it was given first, what it gave, and what it gave for a shorter
    clip.
    """

    given: tuple[int, ...]
    gave: tuple[int, ...]
    gave_shorter: tuple[int, ...]


def linear_instead(shapes: Mapping[str, Shapes]) -> NetworkEdit:
    """A linear layer in the place of each module, see LinearInstead and FramedInstead."""

    def edit(network: nn.Module) -> bool:
        for name, shape in shapes.items():
            put_in(network, name, _linear(network.get_submodule(name), shape))
        return bool(shapes)

    return edit


def _linear(module: nn.Module, shapes: Shapes) -> StandIn:
    axes = zip(shapes.gave, shapes.gave_shorter, strict=True)
    times = [axis for axis, (long, short) in enumerate(axes) if long != short]
    if (len(shapes.given), len(shapes.gave)) == (2, 3) and times in ([1], [2]):
        return FramedInstead(module, shapes.given, shapes.gave, *times)
    return LinearInstead(module, shapes.given, shapes.gave)


def normed_before(module: str) -> NetworkEdit:
    """What one module is given first, less its mean and over its deviation, over the features."""

    def normed(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        first, *rest = given
        if not isinstance(first, Tensor) or not first.is_floating_point() or first.dim() < 2:
            raise CannotEdit("it is given no features first")
        axis = feature_axis(module, first.dim())
        moved = first.movedim(axis, -1)
        scaled = F.layer_norm(moved, moved.shape[-1:], eps=SMALLEST_VARIANCE)
        return (scaled.movedim(-1, axis), *rest)

    def edit(network: nn.Module) -> bool:
        network.get_submodule(module).register_forward_pre_hook(normed)
        return True

    return edit


def without(modules: Sequence[str]) -> NetworkEdit:
    """Leave these modules out: their input goes on in their place."""

    def edit(network: nn.Module) -> bool:
        for name in modules:
            put_in(network, name, nn.Identity())
        return bool(modules)

    return edit


def with_skips(modules: Sequence[str]) -> NetworkEdit:
    """Each of these modules gives its input as well, added to what it gives."""

    def edit(network: nn.Module) -> bool:
        for name in modules:
            network.get_submodule(name).register_forward_hook(
                lambda _, given, output: given[0] + output
            )
        return bool(modules)

    return edit


def refitted(module: str, reader: str, width: int) -> NetworkEdit:
    """Leave one module out, and let the linear layer that reads it take `width` features."""

    def edit(network: nn.Module) -> bool:
        layer = network.get_submodule(reader)
        assert isinstance(layer, nn.Linear)
        put_in(network, reader, resized(layer, inputs=width))
        return bypass(module)(network)

    return edit
