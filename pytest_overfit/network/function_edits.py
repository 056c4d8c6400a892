"""Functions that do otherwise while a network runs: what a remedy makes of calls in a forward pass,
whoever makes them. Networks and subjects are left alone.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import combinations, permutations
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from pytest_overfit.network.network_edits import CannotEdit, NetworkEdit
from pytest_overfit.network.recorder import Widened
from pytest_overfit.network.source import TORCH
from pytest_overfit.subject import Subject

DETACHING = {torch.detach, torch.detach_, Tensor.detach, Tensor.detach_, Tensor.data.__get__}  # type: ignore[attr-defined]
ROUNDING = {
    torch.round,
    torch.floor,
    torch.ceil,
    torch.sign,
    Tensor.round,
    Tensor.floor,
    Tensor.ceil,
    Tensor.sign,
}
DROPPING = {
    F.dropout,
    F.dropout1d,
    F.dropout2d,
    F.dropout3d,
    F.alpha_dropout,
    F.feature_alpha_dropout,
    torch.dropout,
}
ATTENDING = {F.scaled_dot_product_attention: 4, F.multi_head_attention_forward: 10}
"""Attention's functions -> the place of `dropout_p` among their arguments."""
DRAWING = {torch.randn, torch.rand, torch.randn_like, torch.rand_like, torch.normal}
DRAWING_IN_PLACE = {Tensor.normal_, Tensor.uniform_}
FLIPPING = {torch.flip, Tensor.flip, torch.fliplr, torch.flipud}
RESHAPING = {Tensor.view, Tensor.reshape, torch.reshape}
ROOTS = {torch.sqrt, Tensor.sqrt, torch.rsqrt, Tensor.rsqrt}
LOGARITHMS = {torch.log, Tensor.log, torch.log2, Tensor.log2, torch.log10, Tensor.log10}
DIVIDING = {torch.div, Tensor.div, torch.true_divide, Tensor.true_divide, Tensor.__truediv__}
INVERTING = {torch.reciprocal, Tensor.reciprocal, Tensor.__rtruediv__, Tensor.__rdiv__}
EXPONENTIALS = {torch.exp, Tensor.exp, torch.expm1, Tensor.expm1, torch.exp2, Tensor.exp2}
POWERS = {torch.pow, Tensor.pow, Tensor.__pow__}
SOFTMAXES = {
    torch.softmax,
    Tensor.softmax,
    F.softmax,
    torch.log_softmax,
    Tensor.log_softmax,
    F.log_softmax,
}
MASKS = ("attn_mask", "key_padding_mask")
"""Of `F.multi_head_attention_forward`: True, or -inf, bars a place."""
CLIPPING = {
    torch.relu,
    torch.relu_,
    Tensor.relu,
    Tensor.relu_,
    F.relu,
    F.relu6,
    F.hardtanh,
    F.threshold,
    torch.clamp,
    Tensor.clamp,
    Tensor.clamp_,
    torch.clamp_min,
    Tensor.clamp_min,
    torch.clip,
    Tensor.clip,
}
ARCS = {torch.acos, Tensor.acos, torch.arccos, Tensor.arccos, torch.asin, Tensor.asin}
ARCS |= {torch.arcsin, Tensor.arcsin, torch.atanh, Tensor.atanh, torch.arctanh, Tensor.arctanh}
ABOVE = (torch.gt, Tensor.gt, Tensor.__gt__, torch.ge, Tensor.ge, Tensor.__ge__)
BELOW = (torch.lt, Tensor.lt, Tensor.__lt__, torch.le, Tensor.le, Tensor.__le__)
COMPARING = dict.fromkeys(ABOVE, 1) | dict.fromkeys(BELOW, -1)
"""Comparisons -> the way in which their first argument makes them true."""
TINY = 1e-6
LARGEST = 80.0
"""Exponent of the largest exponential that stays: beyond 88 it is infinite in float32."""
MOST_AXES = 5


def within(subject: Subject, mode: Callable[[], TorchFunctionMode]) -> Subject:
    """The subject whose forward pass runs within a mode."""

    def forward(network: nn.Module, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        with mode():
            return subject.forward(network, features, frames)

    return replace(subject, forward=forward)


class Transparent(TorchFunctionMode):
    """Within it `.detach()`, `.data` and `torch.no_grad` let gradients pass: shows what a network
    would learn without them.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in DETACHING:
            return args[0]
        if func is torch._C._set_grad_enabled:
            return None
        return func(*args, **(kwargs or {}))


def undetached(subject: Subject) -> Subject:
    """The subject whose forward pass lets gradients through every `.detach()` while it is
    trained.
    """

    def forward(network: nn.Module, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        if not torch.is_grad_enabled():
            return subject.forward(network, features, frames)
        with Transparent():
            return subject.forward(network, features, frames)

    return replace(subject, forward=forward)


class Undropped(TorchFunctionMode):
    """Within it dropout hands on what it is given, in whatever mode and by whatever name it is
    called, and attention drops no weights. A copy of it, as ever: it may be written into.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in DROPPING:
            return args[0].clone()
        kwargs = kwargs or {}
        if func in ATTENDING:
            place = ATTENDING[func]
            args = tuple(0.0 if index == place else given for index, given in enumerate(args))
            kwargs = {**kwargs, "dropout_p": 0.0} if len(args) <= place else kwargs
        return func(*args, **kwargs)


def undropped(subject: Subject) -> Subject:
    """The subject whose forward pass runs without any dropout, that of functions and of frozen
    train mode included.
    """
    return within(subject, Undropped)


class Noiseless(TorchFunctionMode):
    """Within it torch draws zeros in the place of random numbers; dropout and masks aside."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func in DRAWING:
            return torch.zeros_like(made).requires_grad_(made.requires_grad)
        return made.detach().zero_() if func in DRAWING_IN_PLACE else made


def noiseless(subject: Subject) -> Subject:
    """The subject whose forward pass draws zeros for random numbers, as for a first state."""
    return within(subject, Noiseless)


class Unflipped(TorchFunctionMode):
    """Within it nothing is turned round."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if func in FLIPPING else func(*args, **(kwargs or {}))


def unflipped(subject: Subject) -> Subject:
    """The subject whose forward pass turns nothing round, in time or otherwise."""
    return within(subject, Unflipped)


class Sloped(TorchFunctionMode):
    """Within it a comparison of what has a gradient is 1 or 0 and has the slope of a sigmoid, 1 where it
    turns: a surrogate, as spiking networks are trained with.

    Source: Neftci et al. 2019, Surrogate gradient learning in spiking neural networks.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        sign = COMPARING.get(func) if torch.is_grad_enabled() else None
        if sign is None or not any(isinstance(one, Tensor) and one.requires_grad for one in args):
            return result
        soft = torch.sigmoid(4 * sign * (args[0] - args[1]))
        return result.to(soft) + soft - soft.detach()


def sloped(subject: Subject) -> Subject:
    """The subject whose forward pass lets gradients through its comparisons."""
    return within(subject, Sloped)


class TrueGradients(TorchFunctionMode):
    """Within it no hook is put on a tensor's gradient, and nothing is rounded, whose true gradient
    is zero.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.register_hook:
            return RemovableHandle(OrderedDict())
        if func in ROUNDING:
            return args[0]
        return func(*args, **(kwargs or {}))


def with_true_gradients(subject: Subject) -> Subject:
    """The subject without hooks on the gradients of modules, parameters and what they compute,
    without backward functions of its own, and without rounding.
    """

    def forward(network: nn.Module, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        for module in network.modules():
            module._backward_hooks.clear()
            module._backward_pre_hooks.clear()
        for parameter in network.parameters():
            (parameter._backward_hooks or {}).clear()
        with TrueGradients(), _differentiated_as_it_is():
            return subject.forward(network, features, frames)

    return replace(subject, forward=forward)


class _NoContext:
    """What a `torch.autograd.Function` is given when nothing goes backward through it."""

    needs_input_grad: tuple[bool, ...] = ()
    saved_tensors: tuple[Tensor, ...] = ()

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None


@contextmanager
def _differentiated_as_it_is() -> Iterator[None]:
    """Backward functions of others than torch out of use: autograd follows what they do forward."""
    before = torch.autograd.Function.__dict__["apply"]

    def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
        if cls.__module__.startswith("torch."):
            return before.__get__(None, cls)(*args, **kwargs)
        own_context = cls.setup_context is not torch.autograd.Function.setup_context
        return cls.forward(*(() if own_context else (_NoContext(),)), *args, **kwargs)

    torch.autograd.Function.apply = classmethod(apply)  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        torch.autograd.Function.apply = before  # type: ignore[method-assign]


class KeptOffZero(TorchFunctionMode):
    """Within it roots, logarithms and divisors of exactly zero are those of TINY, and arc sines and
    cosines TINY within 1: they are finite, and so are their gradients.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        exponent = args[1] if func in POWERS and len(args) > 1 else 1
        if func in ROOTS | LOGARITHMS | INVERTING or (
            isinstance(exponent, int | float) and exponent < 1
        ):
            args = (_off_zero(args[0]), *args[1:])
        elif func in ARCS:
            args = (args[0].clamp(TINY - 1, 1 - TINY), *args[1:])
        elif func in DIVIDING and isinstance(args[-1], Tensor):
            args = (*args[:-1], _off_zero(args[-1]))
        return func(*args, **kwargs)


def _off_zero(value: Tensor) -> Tensor:
    return value.masked_fill(value == 0, TINY) if value.is_floating_point() else value


def kept_off_zero(subject: Subject) -> Subject:
    """The subject whose forward pass takes no root, logarithm or quotient of zero, and no arc cosine
    of 1.
    """
    return within(subject, KeptOffZero)


class KeptSmall(TorchFunctionMode):
    """Within it no exponential is of more than LARGEST."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in EXPONENTIALS:
            args = (args[0].clamp(max=LARGEST), *args[1:])
        return func(*args, **(kwargs or {}))


def kept_small(subject: Subject) -> Subject:
    """The subject whose forward pass takes no exponential that is infinite."""
    return within(subject, KeptSmall)


class Unmasked(TorchFunctionMode):
    """Within it nothing is masked where a mask leaves nothing: a softmax of -inf alone is NaN."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in SOFTMAXES and args:
            axis = kwargs.get("dim", args[1] if len(args) > 1 else -1)
            nothing = (args[0] == -torch.inf).all(axis, keepdim=True)
            args = (args[0].masked_fill(nothing, 0.0), *args[1:])
        for name in MASKS if func is F.multi_head_attention_forward else ():
            if isinstance(mask := kwargs.get(name), Tensor):
                bars = True if mask.dtype == torch.bool else -torch.inf
                kwargs[name] = mask.masked_fill((mask == bars).all(-1, keepdim=True), 0)
        return func(*args, **kwargs)


def unmasked_where_whole(subject: Subject) -> Subject:
    """The subject whose forward pass masks no place where it would mask all."""
    return within(subject, Unmasked)


def in_full_precision(subject: Subject) -> Subject:
    """The subject whose forward pass casts nothing to half precision."""
    return within(subject, partial(Widened, torch.float32))


class Unclipped(TorchFunctionMode):
    """Within it rectifiers and clamps hand on what they are given."""

    def begin(self) -> None:
        """Enter it, as a hook before a module runs does."""
        self.__enter__()  # type: ignore[no-untyped-call]

    def end(self) -> None:
        """Leave it, as a hook behind that module does."""
        self.__exit__(None, None, None)  # type: ignore[no-untyped-call]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if func in CLIPPING else func(*args, **(kwargs or {}))


def unclipped(module: str) -> NetworkEdit:
    """One module runs without the rectifiers and clamps of its own and of those below it."""

    def edit(network: nn.Module) -> bool:
        inner, mode = network.get_submodule(module), Unclipped()
        inner.register_forward_pre_hook(lambda *_: mode.begin())
        inner.register_forward_hook(lambda *_: mode.end(), always_call=True)
        return True

    return edit


class Permuting(TorchFunctionMode):
    """Within it a view or reshape that gives axes another order by name alone moves them: (batch,
    time, width) viewed as (batch, width, time) is transposed. Torch's own are left alone.
    """

    def __init__(self) -> None:
        super().__init__()
        self.moved = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in RESHAPING and not sys._getframe(1).f_code.co_filename.startswith(TORCH):
            moved = _moved(args[0], result.shape)
            self.moved = self.moved or moved is not None
            return result if moved is None else moved
        return result


def permuted(subject: Subject) -> Subject:
    """The subject whose network moves axes where it only renames them.

    Running it raises CannotEdit where it renames none.
    """

    def forward(network: nn.Module, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        with Permuting() as permuting:
            result = subject.forward(network, features, frames)
        if not permuting.moved and len(features) > 1:
            raise CannotEdit(f"{subject.name} gives no axis another's name")
        return result

    return replace(subject, forward=forward)


def _moved(tensor: Tensor, shape: Sequence[int]) -> Tensor | None:
    """The tensor in the new shape with its axes in another order, as few of them moved as can be;
    None where the shape keeps their order.
    """
    old = [size for size in tensor.shape if size > 1]
    new = [size for size in shape if size > 1]
    if max(len(old), len(new)) > MOST_AXES or _merges(old, new) or _merges(new, old):
        return None
    plain = tensor.reshape(old)
    for order in _orders(len(old)):
        if _merges([old[axis] for axis in order], new):
            return plain.permute(order).reshape(tuple(shape))
    for order in _orders(len(new)):
        split = [new[axis] for axis in order]
        if _merges(split, old):
            back = sorted(range(len(order)), key=order.__getitem__)
            return plain.reshape(split).permute(back).reshape(tuple(shape))
    return None


def _orders(axes: int) -> list[tuple[int, ...]]:
    """All orders of so many axes, those that change the fewest pairs first."""
    pairs = list(combinations(range(axes), 2))
    return sorted(
        permutations(range(axes)), key=lambda order: sum(order[a] > order[b] for a, b in pairs)
    )


def _merges(fine: Sequence[int], coarse: Sequence[int]) -> bool:
    """Whether neighbours among the fine sizes multiply to the coarse ones, in their order."""
    product, left = 1, list(coarse)
    for size in fine:
        product *= size
        if left and product == left[0]:
            product = 1
            left.pop(0)
    return not left and product == 1
