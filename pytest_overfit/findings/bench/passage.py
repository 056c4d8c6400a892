"""One passage through a network: what every module was given and gave, in the order the modules finished."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence


@dataclass(frozen=True, kw_only=True, eq=False)
class Call:
    """One call of one module; all are copies, so that in-place layers cannot rewrite them. result: what it returned, with its structure."""

    module: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    result: Any


def tensors(value: Any) -> Iterator[Tensor]:
    """Every floating-point tensor inside nested tuples, lists, mappings and packed sequences."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, PackedSequence):
        yield value.data
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors(item)


def copies(value: Any) -> tuple[Tensor, ...]:
    return tuple(tensor.detach().clone() for tensor in tensors(value))


@contextmanager
def recorded(network: nn.Module) -> Iterator[list[Call]]:
    """Record the calls of all modules below the root while the block runs, without gradients."""
    calls: list[Call] = []
    pending: list[tuple[Tensor, ...]] = []

    def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
        pending.append(copies((args, kwargs)))

    def leave(name: str, result: Any) -> None:
        kept = copy.deepcopy(result)
        calls.append(Call(module=name, inputs=pending.pop(), outputs=tuple(tensors(kept)), result=kept))

    def watch(name: str, module: nn.Module) -> list[Any]:
        return [
            module.register_forward_pre_hook(enter, with_kwargs=True),
            module.register_forward_hook(lambda _, __, result, name=name: leave(name, result)),
        ]

    handles = [handle for name, module in network.named_modules() if name for handle in watch(name, module)]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def replayed(network: nn.Module, call: Call, nth: int) -> Iterator[None]:
    """While the block runs, the `nth` call (from 0) of `call.module` returns what it returned in `call`."""
    seen = 0

    def replace(module: nn.Module, args: Any, result: Any) -> Any:
        nonlocal seen
        seen += 1
        return copy.deepcopy(call.result) if seen == nth + 1 else result

    handle = network.get_submodule(call.module).register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()


def differ(some: tuple[Tensor, ...], others: tuple[Tensor, ...]) -> bool:
    """Whether two passages differ here; tensors of different shape are compared where both have values."""
    return len(some) != len(others) or any(distance(a, b) > 0 for a, b in zip(some, others, strict=True))


def distance(some: Tensor, other: Tensor) -> float:
    """Largest difference over the corner that both tensors have; infinite where they have different ranks or only one is finite."""
    if some.ndim != other.ndim:
        return torch.inf
    corner = tuple(slice(0, min(a, b)) for a, b in zip(some.shape, other.shape, strict=True))
    left, right = some[corner], other[corner]
    if left.numel() == 0:
        return 0.0
    gap = torch.where(left == right, torch.zeros_like(left), (left - right).abs())
    return float(torch.nan_to_num(gap, nan=torch.inf).max())


def time_axis(longer: Tensor, shorter: Tensor) -> int | None:
    """The first axis that grew with the clip; None where none did."""
    if longer.ndim != shorter.ndim:
        return None
    return next((axis for axis, (a, b) in enumerate(zip(longer.shape, shorter.shape, strict=True)) if a != b), None)
