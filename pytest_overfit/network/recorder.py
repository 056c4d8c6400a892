"""What modules are given and give while a network runs, and a network left as it was found.

`watched` reports each call as it happens, `recorded` keeps copies of all calls of a passage,
`replayed` puts an earlier answer in a later one's place.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.overrides import TorchFunctionMode

from pytest_overfit.host import seed_generators

Place = tuple[str, int]
"""Dotted name of a module, and which of its calls in one forward pass (0 is the first)."""
Watch = Callable[[Place, nn.Module, object], None]


@dataclass(frozen=True, kw_only=True, eq=False)
class Call:
    """One call of one module; all are copies, so that in-place layers cannot rewrite them.

    result: what it returned, with its structure.
    """

    module: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    result: Any


def tensors(value: Any) -> Iterator[Tensor]:
    """Every floating-point tensor inside nested tuples, lists, mappings, dataclasses and packed
    sequences.
    """
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
    elif is_dataclass(value):
        for field in fields(value):
            yield from tensors(getattr(value, field.name))


def copies(value: Any) -> tuple[Tensor, ...]:
    """Copies of every such tensor, outside the graph."""
    return tuple(tensor.detach().clone() for tensor in tensors(value))


@contextmanager
def watched(network: nn.Module, leave: Watch, enter: Watch | None = None) -> Iterator[None]:
    """Report every call of every module while the context is open: its (name, call), the module,
    its input (enter) or its output (leave).
    """
    calls: dict[str, int] = {}

    def before(name: str) -> Callable[[nn.Module, tuple[object, ...], dict[str, object]], None]:
        def report(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
            calls[name] = calls.get(name, -1) + 1
            if enter:
                enter((name, calls[name]), module, (*args, *kwargs.values()))

        return report

    def after(name: str) -> Callable[[nn.Module, tuple[object, ...], object], None]:
        return lambda module, _, output: leave((name, calls[name]), module, output)

    named = [(name, module) for name, module in network.named_modules() if name]
    handles = [
        module.register_forward_pre_hook(before(name), with_kwargs=True) for name, module in named
    ]
    handles += [module.register_forward_hook(after(name)) for name, module in named]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def recorded(network: nn.Module) -> Iterator[list[Call]]:
    """Record the calls of all modules below the root while the block runs, without gradients, in
    the order in which they end.
    """
    calls: list[Call] = []
    pending: list[tuple[Tensor, ...]] = []

    def enter(_: Place, module: nn.Module, entering: object) -> None:
        pending.append(copies(entering))

    def leave(place: Place, _: nn.Module, leaving: object) -> None:
        kept = copy.deepcopy(leaving)
        calls.append(
            Call(module=place[0], inputs=pending.pop(), outputs=tuple(tensors(kept)), result=kept)
        )

    with watched(network, leave, enter):
        yield calls


@contextmanager
def replayed(network: nn.Module, call: Call, nth: int) -> Iterator[None]:
    """While the block runs, the `nth` call (from 0) of `call.module` returns what it returned in
    `call`.
    """
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


CASTS = {
    Tensor.float: torch.float32,
    Tensor.half: torch.float16,
    Tensor.bfloat16: torch.bfloat16,
}


class Widened(TorchFunctionMode):
    """Within it a cast to a type narrower than `wide`, as to float32 before a log_softmax, is one to
    that.
    """

    def __init__(self, wide: torch.dtype) -> None:
        super().__init__()
        self.wide, self.narrower = wide, set(CASTS.values()) - {wide}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if CASTS.get(func) in self.narrower:
            return args[0].to(self.wide)
        named = {name: self._widened(value) for name, value in (kwargs or {}).items()}
        return func(*map(self._widened, args), **named)

    def _widened(self, value: Any) -> Any:
        return self.wide if isinstance(value, torch.dtype) and value in self.narrower else value


@contextmanager
def in_double() -> Iterator[None]:
    """What a network makes on its way is of double precision too, and stays so where it casts."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with Widened(torch.float64):
            yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def undisturbed(
    network: nn.Module, *, train: bool, seed: int, as_used: bool = False
) -> Iterator[None]:
    """Run in the given mode with seeded randomness; buffers, modes and torch's generators are as
    before afterwards.

    cuDNN is off inside: its recurrent layers cannot go backward in eval mode, and its TF32 looks
    like a leak. So is attention's fast path, whose nested tensors hooks cannot read.

    In eval mode dropout hands on a copy of what it is given, as it does in training: a network that
    writes into it, `x += residual`, has no gradient there else.

    as_used: leave attention its fast path, and dropout alone, whose hooks would close it.
    """
    modes = [(module, module.training) for module in network.modules()]
    buffers = [
        (module, name, buffer.clone())
        for module, _ in modes
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    was_fast = torch.backends.mha.get_fastpath_enabled()
    if any(mode is not train for _, mode in modes):  # to set a mode that is set costs as much
        network.train(train)
    torch.backends.mha.set_fastpath_enabled(as_used and was_fast)
    copying = [
        module.register_forward_hook(_a_copy_of_its_input)
        for module, _ in modes
        if not (train or as_used) and isinstance(module, nn.modules.dropout._DropoutNd)
    ]
    try:
        devices = (
            list({parameter.device for parameter in network.parameters() if parameter.is_cuda})
            if torch.cuda.is_initialized()
            else []
        )
        with torch.random.fork_rng(devices), torch.backends.cudnn.flags(enabled=False):
            seed_generators(seed)
            yield
    finally:
        for handle in copying:
            handle.remove()
        with torch.no_grad():
            for module, name, before in buffers:
                buffer = module._buffers.get(name)
                if buffer is not None and buffer.shape == before.shape:
                    buffer.copy_(before)
        for module, mode in modes:
            if module.training is not mode:
                module.training = mode
        torch.backends.mha.set_fastpath_enabled(was_fast)


def _a_copy_of_its_input(_: nn.Module, given: tuple[Any, ...], output: Any) -> Any:
    return output.clone() if given and output is given[0] and output.requires_grad else output


def differ(some: tuple[Tensor, ...], others: tuple[Tensor, ...]) -> bool:
    """Whether two passages differ here; tensors of different shape are compared where both have
    values.
    """
    return len(some) != len(others) or any(
        distance(a, b) > 0 for a, b in zip(some, others, strict=True)
    )


def shared_corner(some: Tensor, other: Tensor) -> tuple[slice, ...]:
    """Where two tensors of as many axes both have values."""
    return tuple(slice(0, min(a, b)) for a, b in zip(some.shape, other.shape, strict=True))


def distance(some: Tensor, other: Tensor) -> float:
    """Largest difference over the corner that both tensors have; infinite where they have different
    ranks or only one is finite.
    """
    if some.ndim != other.ndim:
        return torch.inf
    corner = shared_corner(some, other)
    left, right = some[corner], other[corner]
    if left.numel() == 0:
        return 0.0
    gap = torch.where(left == right, torch.zeros_like(left), (left - right).abs())
    return float(torch.nan_to_num(gap, nan=torch.inf).max())


def time_axis(longer: Tensor, shorter: Tensor) -> int | None:
    """The first axis that grew with the clip; None where none did."""
    if longer.ndim != shorter.ndim:
        return None
    return next(
        (
            axis
            for axis, (a, b) in enumerate(zip(longer.shape, shorter.shape, strict=True))
            if a != b
        ),
        None,
    )


def first_apart(calls: list[Call], others: list[Call]) -> str | None:
    """The first module that gives something else where it was given the same; where there is none,
    since that is done between the network's own modules, the first that gives something else.
    """
    apart = [
        (call, other)
        for call, other in zip(calls, others, strict=False)
        if call.outputs and call.outputs[0].ndim > 1 and _apart(call.outputs, other.outputs)
    ]
    given_the_same = (call.module for call, other in apart if not _apart(call.inputs, other.inputs))
    return next(given_the_same, apart[0][0].module if apart else None)


def _apart(some: tuple[Tensor, ...], others: tuple[Tensor, ...]) -> bool:
    """Whether the first tensors of two passages differ by more than rounding."""
    if not some or not differ(some[:1], others[:1]):
        return False
    return distance(some[0], others[0]) > 1e-4 * float(some[0].abs().max())
