"""Modules left out of a network that is built, or given something beside or in the place of what they
make: what a remedy does where a module is to blame.

Each function changes the network in place and returns whether it found something to change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

from pytest_overfit.network.network_edits import CannotEdit, NetworkEdit, put_in, resized

SMALLEST_VARIANCE = 1e-12
"""What is added to a variance by a norm that is to see the smallest numbers too."""


class HandedOn(nn.Module):
    """What it is given first, whatever else comes with it; a pair where the module that stood in its
    place gives one, as recurrent layers and attention do.
    """

    def __init__(self, replaced: nn.Module) -> None:
        super().__init__()
        self.gives_pair = isinstance(replaced, nn.RNNBase | nn.MultiheadAttention)

    def forward(self, *given: Any, **named: Any) -> Any:
        first = [*given, *named.values()][0]
        return (first, None) if self.gives_pair else first


def bypass(module: str) -> NetworkEdit:
    """Leave one module out: its input goes on in its place, where shapes allow."""

    def edit(network: nn.Module) -> bool:
        parent, _, child = module.rpartition(".")
        if not module or not hasattr(network.get_submodule(parent), child):
            return False
        replaced = network.get_submodule(module)
        setattr(network.get_submodule(parent), child, HandedOn(replaced))
        return True

    return edit


def bypass_kind(module: str) -> NetworkEdit:
    """Leave one module out, and all of its class; nothing where it is the only one."""

    def edit(network: nn.Module) -> bool:
        kind = type(network.get_submodule(module))
        alike = [name for name, one in network.named_modules() if type(one) is kind and name]
        outermost = [
            name for name in alike if not any(name.startswith(other + ".") for other in alike)
        ]
        for name in outermost if len(outermost) > 1 else ():
            bypass(name)(network)
        return len(outermost) > 1

    return edit


class LinearInstead(nn.Module):
    """A linear layer over the features of what it is given first, in the place of a module whose output
    has another shape; of longer axes every n-th place.

    The module that stood there is asked for its shape alone, so that the steps of each clip are what
    the network says they are. given, gave: the shapes of one call. Raises CannotEdit where they
    differ in their number of axes, or an axis but that of the features grows.
    """

    def __init__(self, replaced: nn.Module, given: Sequence[int], gave: Sequence[int]) -> None:
        super().__init__()
        if len(given) != len(gave) or len(given) < 2:
            raise CannotEdit("what it gives has other axes than what it is given")
        self.axis = feature_axis(replaced, len(given))
        others = [axis for axis in range(len(given)) if axis != self.axis]
        if any(gave[axis] > given[axis] for axis in others):
            raise CannotEdit("it gives more steps than it is given")
        self.strides = {axis: round(given[axis] / gave[axis]) for axis in others}
        self.replaced = replaced
        self.gives_pair = isinstance(replaced, nn.RNNBase | nn.MultiheadAttention)
        self.linear = nn.Linear(given[self.axis], gave[self.axis])

    def forward(self, *given: Any, **named: Any) -> Any:
        first = [*given, *named.values()][0]
        with torch.no_grad():
            asked = self.replaced(*given, **named)
        shape = (asked[0] if isinstance(asked, tuple) else asked).shape
        for axis, stride in self.strides.items():
            places = torch.arange(shape[axis], device=first.device) * stride
            first = first.index_select(axis, places.clamp(max=first.shape[axis] - 1))
        out = self.linear(first.movedim(self.axis, -1)).movedim(-1, self.axis)
        return (out, None) if self.gives_pair else out


def feature_axis(module: nn.Module, axes: int) -> int:
    """The axis of features: the second where the module convolves, else the last."""
    convolves = any(isinstance(inner, _ConvNd) for inner in module.modules())
    return 1 if convolves else axes - 1


def linear_instead(module: str, given: Sequence[int], gave: Sequence[int]) -> NetworkEdit:
    """A linear layer in the place of one module, see LinearInstead."""

    def edit(network: nn.Module) -> bool:
        put_in(network, module, LinearInstead(network.get_submodule(module), given, gave))
        return True

    return edit


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
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, nn.Identity())
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
