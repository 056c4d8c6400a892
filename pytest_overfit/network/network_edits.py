"""Changes to a network that is already built: what a remedy does to a fresh network before it is
trained. Those of the rest: `subject_edits`.

Each function changes the network in place and returns whether it found something to change.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.utils.parametrize import is_parametrized

from pytest_overfit.subject import Sample, Subject

NetworkEdit = Callable[[nn.Module], bool]
USUAL_EPS, LARGE_EPS = 1e-5, 1e-2
"""What norms add to a variance, and what is more than any network means to add."""
SATURATING = (nn.Sigmoid, nn.Tanh, nn.Softmax2d)
TORCHS_OWN = ("_parameters", "_buffers", "_modules")
"""Attributes of a module that hold what is registered."""


class CannotEdit(ValueError):
    """The network has nothing that this change applies to."""


def edited(subject: Subject, edit: NetworkEdit) -> Subject:
    """The subject whose fresh networks are changed by `edit`; building one raises CannotEdit where
    there is nothing to change.
    """

    def build(vocab_size: int, feature_dim: int, seed: int, **keywords: Any) -> nn.Module:
        network = subject.build(
            vocab_size=vocab_size, feature_dim=feature_dim, seed=seed, **subject.accepted(keywords)
        )
        with torch.no_grad():
            if not edit(network):
                raise CannotEdit(f"nothing in {subject.name} to change by this remedy")
        return network

    return replace(subject, build=build)


def swap(
    network: nn.Module, make: Callable[[nn.Module], nn.Module | None], below: str = ""
) -> bool:
    """Put `make(module)` in the place of each module below `below` for which it is not None."""
    swapped = False
    for name, module in list(network.named_modules()):
        if name and name.startswith(below) and (new := make(module)) is not None:
            put_in(network, name, new)
            swapped = True
    return swapped


def reset(module: nn.Module) -> bool:
    """Every parameter below `module` as its class initialises it."""
    found = [inner for inner in module.modules() if hasattr(inner, "reset_parameters")]
    for inner in found:
        inner.reset_parameters()  # type: ignore[operator]
        _reset_normed(inner)
    return bool(found)


def _reset_normed(module: nn.Module) -> None:
    """What `reset_parameters` does not reach: a weight that is made of others at each call, as by
    weight_norm, is set through them.
    """
    if is_parametrized(module, "weight"):
        weight = torch.empty_like(module.weight)  # type: ignore[arg-type]
        nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
        module.weight = weight
    elif isinstance(direction := getattr(module, "weight_v", None), nn.Parameter):
        nn.init.kaiming_uniform_(direction, a=math.sqrt(5))
        with torch.no_grad():
            length = module.weight_g
            assert isinstance(length, nn.Parameter)
            axes = [axis for axis, size in enumerate(length.shape) if size == 1]
            length.copy_(torch.linalg.vector_norm(direction, dim=axes, keepdim=True))


def fan_in(network: nn.Module) -> bool:
    """Kaiming initialisation by fan_in, which counts the groups of a convolution, of every linear
    and convolutional weight; zero biases.

    Source: He et al. 2015, arXiv 1502.01852. A transposed convolution sums kernel / stride taps of
    inputs / groups channels.
    """
    found = False
    for module in network.modules():
        if isinstance(module, _ConvTransposeNd):
            taps = math.prod(module.kernel_size) / math.prod(module.stride)
            nn.init.normal_(
                module.weight, std=math.sqrt(2 / max(module.in_channels / module.groups * taps, 1))
            )
        elif isinstance(module, nn.Linear | _ConvNd):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        else:
            continue
        found = True
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    return found


def xavier(network: nn.Module) -> bool:
    """Glorot initialisation of every matrix, the recurrent ones included; zero biases.

    Source: Glorot & Bengio 2010.
    """
    found = False
    for name, parameter in network.named_parameters():
        if parameter.ndim >= 2:
            nn.init.xavier_uniform_(parameter)
            found = True
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
    return found


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of each step, where they stand on axis 1: (batch, channels,
    ...).
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


def layer_norm(network: nn.Module) -> bool:
    """LayerNorm over channels in the place of every batch norm."""
    return swap(
        network,
        lambda module: ChannelNorm(module.num_features) if isinstance(module, _BatchNorm) else None,
    )


def with_usual_eps(network: nn.Module) -> bool:
    """Whatever adds more than LARGE_EPS to a variance adds USUAL_EPS."""
    found = [one for one in network.modules() if _eps(one) > LARGE_EPS]
    for module in found:
        module.eps = USUAL_EPS  # type: ignore[assignment]
    return bool(found)


def _eps(module: nn.Module) -> float:
    eps = getattr(module, "eps", None)
    return eps if isinstance(eps, float) else 0.0


def without_batch_norm(network: nn.Module) -> bool:
    """Nothing in the place of every batch norm."""
    return swap(network, lambda module: nn.Identity() if isinstance(module, _BatchNorm) else None)


def lively_batch_norm(network: nn.Module) -> bool:
    """Running statistics that follow a short run: momentum 0.3, fresh statistics, tracked."""
    found = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    for module in found:
        module.momentum = 0.3
        module.reset_running_stats()
    return bool(found)


def without_dropout(network: nn.Module) -> bool:
    """Every dropout, those inside recurrent layers and attention included, at 0."""
    found = False
    for module in network.modules():
        for attribute in ("p", "dropout"):
            value = getattr(module, attribute, None)
            if (
                isinstance(module, _DropoutNd | nn.RNNBase | nn.MultiheadAttention)
                and isinstance(value, float)
                and value > 0
            ):
                setattr(module, attribute, 0.0)
                found = True
    return found


def unfrozen(network: nn.Module) -> bool:
    """Every parameter requires a gradient."""
    frozen = [parameter for parameter in network.parameters() if not parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    return bool(frozen)


def zero_head_bias(network: nn.Module) -> bool:
    """The last linear layer starts without a preference."""
    heads = [
        module
        for module in network.modules()
        if isinstance(module, nn.Linear) and module.bias is not None
    ]
    if heads:
        nn.init.zeros_(heads[-1].bias)
    return bool(heads)


def other_axes(module: str) -> NetworkEdit:
    """Recurrent layers and attention in one module read time and batch the other way round."""

    def edit(network: nn.Module) -> bool:
        layers = _layers_of_axes(network.get_submodule(module))
        _turn(layers)
        return bool(layers)

    return edit


def other_axes_of_kind(module: str) -> NetworkEdit:
    """All recurrent layers and attention of the network that read the axes as those in one module do
    read time and batch the other way round; nothing where they all lie in it.
    """

    def edit(network: nn.Module) -> bool:
        own = _layers_of_axes(network.get_submodule(module))
        ways = {(type(layer), layer.batch_first) for layer in own}
        layers = [one for one in _layers_of_axes(network) if (type(one), one.batch_first) in ways]
        _turn(layers)
        return len(layers) > len(own)

    return edit


def _layers_of_axes(root: nn.Module) -> list[nn.RNNBase | nn.MultiheadAttention]:
    kinds = (nn.RNNBase, nn.MultiheadAttention)
    return [layer for layer in root.modules() if isinstance(layer, kinds)]


def _turn(layers: Iterable[nn.RNNBase | nn.MultiheadAttention]) -> None:
    for layer in layers:
        layer.batch_first = not layer.batch_first


def registered(network: nn.Module) -> bool:
    """Modules that lie in a plain list or dict, made known to torch, and so to optimisers."""
    found = False
    for module in list(network.modules()):
        for attribute, value in list(vars(module).items()):
            items = value.values() if isinstance(value, dict) else value
            inner = (
                [item for item in items if isinstance(item, nn.Module)]
                if isinstance(value, dict | list | tuple) and attribute not in TORCHS_OWN
                else []
            )
            if inner:
                module.add_module(f"{attribute}_registered", nn.ModuleList(inner))
                found = True
    return found


def repeated_blocks(subject: Subject, network: nn.Module, sample: Sample) -> list[str]:
    """Names of the outermost blocks, children of a list or sequence with parts of their own, that
    put out what has the shape of their input.
    """
    kept: list[str] = []

    def note(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_: nn.Module, inputs: Any, output: Any) -> None:
            if (
                inputs
                and isinstance(inputs[0], Tensor)
                and isinstance(output, Tensor)
                and inputs[0].shape == output.shape
            ):
                kept.append(name)

        return hook

    blocks = [
        name
        for name, module in network.named_modules()
        if name.rpartition(".")[2].isdecimal() and any(module.children())
    ]
    outermost = [
        name for name in blocks if not any(name.startswith(other + ".") for other in blocks)
    ]
    handles = [network.get_submodule(name).register_forward_hook(note(name)) for name in outermost]
    try:
        with torch.no_grad():
            subject.log_probs(network.eval(), sample.features[None], torch.tensor([sample.frames]))
    finally:
        for handle in handles:
            handle.remove()
    return list(dict.fromkeys(kept))


def head_name(network: nn.Module) -> str | None:
    """The last linear layer."""
    return next(
        (
            name
            for name, module in reversed(list(network.named_modules()))
            if isinstance(module, nn.Linear)
        ),
        None,
    )


def open_activations(module: str) -> NetworkEdit:
    """GELU in the place of every sigmoid, tanh and softmax over channels among the module's siblings
    and below them.
    """
    return lambda network: swap(
        network,
        lambda inner: nn.GELU() if isinstance(inner, SATURATING) else None,
        module.rpartition(".")[0],
    )


def reinitialise(module: str) -> NetworkEdit:
    """One module, and all below it, as its classes initialise it."""
    return lambda network: reset(network.get_submodule(module))


def divide_stride(module: str, by: int) -> NetworkEdit:
    """Divide the stride in time of every convolution and pooling in `module` by `by`, down to 1 at
    most.
    """

    def edit(network: nn.Module) -> bool:
        found = False
        for inner in network.get_submodule(module).modules():
            stride = getattr(inner, "stride", None)
            if (
                isinstance(stride, tuple)
                and max(stride) > 1
                and not isinstance(inner, _ConvTransposeNd)
            ):
                inner.stride = tuple(max(each // by, 1) for each in stride)  # type: ignore[assignment]
                found = True
            elif isinstance(stride, int) and stride > 1:
                inner.stride = max(stride // by, 1)  # type: ignore[assignment]
                found = True
        return found

    return edit


def widen(width: int = 64) -> NetworkEdit:
    """Give linear layers and convolutions that squeeze to one or two channels `width` of them, and
    what reads them the same.
    """

    def edit(network: nn.Module) -> bool:
        leaves = [
            (name, module)
            for name, module in network.named_modules()
            if isinstance(module, nn.Linear | nn.Conv1d)
        ]
        for (name, narrow), (reader_name, reader) in pairwise(leaves):
            if _outputs(narrow) <= 2 and _inputs(reader) == _outputs(narrow):
                put_in(network, name, resized(narrow, outputs=width))
                put_in(network, reader_name, resized(reader, inputs=width))
                return True
        return False

    return edit


def _outputs(module: nn.Linear | nn.Conv1d) -> int:
    return module.out_features if isinstance(module, nn.Linear) else module.out_channels


def _inputs(module: nn.Linear | nn.Conv1d) -> int:
    return module.in_features if isinstance(module, nn.Linear) else module.in_channels


def resized(
    module: nn.Linear | nn.Conv1d, *, inputs: int | None = None, outputs: int | None = None
) -> nn.Module:
    """A fresh layer like this one, with other numbers of features in or out."""
    into, out = inputs or _inputs(module), outputs or _outputs(module)
    if isinstance(module, nn.Linear):
        return nn.Linear(into, out, bias=module.bias is not None)
    like: dict[str, Any] = {n: getattr(module, n) for n in ("kernel_size", "stride", "padding")}
    return nn.Conv1d(into, out, **like, bias=module.bias is not None)


def put_in(network: nn.Module, name: str, module: nn.Module) -> None:
    """A module in the place of the one of that name."""
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, module)
