"""The floor under a verdict: its arithmetic at the rate of large matrix products.

Operations of matrix products, convolutions and LSTMs are counted as they are dispatched, forward
and backward, and the rate is measured in the same process, around what it is held against.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import conv_flop, flop_registry

from tests.benchmarks.pairs import processor_seconds

SIDE, PRODUCTS = 1536, 12
"""Of the square matrices whose products are the floor, and how many are timed at once."""
Places = Mapping[str, tuple[tuple[Any, str], ...]]
"""A phase -> the functions, (owner, name), that are it."""


class Operations(TorchDispatchMode):
    """Multiplications and additions of what runs inside. total: so far.

    Beside torch's own rules: a convolution's backward takes as much for each gradient as forward
    does, where torch's rule forgets the groups; and LSTMs on a CPU count.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, kind = kwargs or {}, func._overloadpacket
        known = kind in flop_registry or kind in OWN_RULES
        if not known and func is not torch.ops.prim.device.default:
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        out = func(*args, **kwargs)
        if kind in OWN_RULES:
            self.total += OWN_RULES[kind](*args)
        elif known:
            self.total += flop_registry[kind](*args, **kwargs, out_val=out)
        return out


def _convolution_backward(
    gradient: Any, x: Any, weight: Any, sizes: Any, stride: Any, padding: Any, dilation: Any,
    transposed: bool, output_padding: Any, groups: int, wanted: Any,
) -> float:  # fmt: skip
    forward = conv_flop(
        x, weight, None, stride, padding, dilation, transposed, output_padding, groups,
        out_val=gradient,
    )  # fmt: skip
    return float(forward * sum(wanted[:2]))


def _lstm(x: Any, weight_ih: Any, weight_hh: Any, *_: Any) -> float:
    steps, clips, _ = x.shape
    return float(2 * steps * clips * (weight_ih.numel() + weight_hh.numel()))


OWN_RULES: dict[Any, Callable[..., float]] = {
    torch.ops.aten.convolution_backward: _convolution_backward,
    torch.ops.aten.mkldnn_rnn_layer: _lstm,
    torch.ops.aten.mkldnn_rnn_layer_backward: lambda *given: 2 * _lstm(*given),
}


def operations_of(action: Callable[[], object]) -> float:
    with Operations() as counted:
        action()
    return counted.total


def sgemm_rate() -> float:
    """Operations a second of processor time that large single-precision products reach now."""
    left, right = torch.randn(SIDE, SIDE), torch.randn(SIDE, SIDE)
    seconds = processor_seconds(lambda: [left @ right for _ in range(PRODUCTS)])
    return 2 * PRODUCTS * SIDE**3 / seconds


def by_phase(
    action: Callable[[], object], places: Places, spent: Callable[[], float], whole: str
) -> dict[str, float]:
    """What `action` spends of what `spent` tells, by phase; `whole` for all of it together.

    What one phase does inside another counts for the outer one.
    """
    found: dict[str, float] = defaultdict(float)
    with ExitStack() as patched:
        under_way: list[str] = []
        for phase, functions in places.items():
            for owner, name in functions:
                patched.enter_context(_noted(owner, name, phase, found, under_way, spent))
        began = spent()
        action()
        found[whole] = spent() - began
    return dict(found)


@contextmanager
def _noted(
    owner: Any,
    name: str,
    phase: str,
    found: dict[str, float],
    under_way: list[str],
    spent: Callable[[], float],
) -> Iterator[None]:
    original = getattr(owner, name)

    @wraps(original)
    def noting(*args: Any, **kwargs: Any) -> Any:
        if under_way:
            return original(*args, **kwargs)
        under_way.append(phase)
        began = spent()
        try:
            return original(*args, **kwargs)
        finally:
            found[phase] += spent() - began
            under_way.pop()

    setattr(owner, name, noting)
    try:
        yield
    finally:
        setattr(owner, name, original)
