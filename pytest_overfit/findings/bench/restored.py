"""Which module makes a difference between two passages of one clip: what it is given, and what it
gives, are put back to what they are in the other passage, and what is left of it at the output is
weighed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pytest_overfit.network.recorder import Call

MUCH = 1 / 3
"""Share of what a module makes of a difference from which one within it is to blame for that: blocks
that are alike make some each.
"""
Weigh = Callable[[], float]


def maker_of(network: nn.Module, calls: Sequence[Call], weigh: Weigh) -> str | None:
    """The smallest module that makes much of a difference, more than any beside it; None where no module
    below the root does, or there is no difference.

    calls: those of the passage that is right. weigh: runs the other one, and returns how large the
    difference is at its output.
    """
    once = {call.module: call for call in calls if _called_once(call, calls)}
    above, left = "", weigh()
    while left > 0:
        made = {name: _made(network, once[name], weigh) for name in _directly_below(above, once)}
        most = max(made, key=lambda name: made[name], default="")
        if not most or made[most] < MUCH * left:
            break
        above, left = most, made[most]
    return above or None


def _called_once(call: Call, calls: Sequence[Call]) -> bool:
    return sum(other.module == call.module for other in calls) == 1


def _directly_below(above: str, names: Sequence[str] | dict[str, Call]) -> list[str]:
    """The modules that run within another, and within none of those."""
    within = [
        name for name in names if name != above and (not above or name.startswith(f"{above}."))
    ]
    return [name for name in within if not any(name.startswith(f"{other}.") for other in within)]


def _made(network: nn.Module, call: Call, weigh: Weigh) -> float:
    """What a module makes of the difference: what is left of it where it is given the right input,
    less what is left where it gives the right output.
    """
    if not call.inputs or not call.outputs:
        return 0.0
    with _put_back(network.get_submodule(call.module), given=call.inputs[0]):
        behind = weigh()
    with _put_back(network.get_submodule(call.module), gave=call.outputs[0]):
        return behind - weigh()


@contextmanager
def _put_back(
    module: nn.Module, *, given: Tensor | None = None, gave: Tensor | None = None
) -> Iterator[None]:
    """While the block runs, the first tensor that a module is given, or gives, has another's values
    wherever both have some.
    """

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        assert given is not None
        return _with_first(args, given), kwargs

    def after(_: nn.Module, __: Any, result: Any) -> Any:
        assert gave is not None
        return _with_first((result,), gave)[0]

    handle = (
        module.register_forward_hook(after)
        if given is None
        else module.register_forward_pre_hook(before, with_kwargs=True)
    )
    try:
        yield
    finally:
        handle.remove()


def _with_first(values: tuple[Any, ...], right: Tensor) -> tuple[Any, ...]:
    """Values, of which the first tensor of as many axes is put right; a tuple as the first of them is
    looked into.
    """
    for place, value in enumerate(values):
        if isinstance(value, tuple) and type(value) is tuple:
            return (*values[:place], _with_first(value, right), *values[place + 1 :])
        if isinstance(value, Tensor) and value.is_floating_point():
            return (*values[:place], _put_right(value, right), *values[place + 1 :])
    return values


def _put_right(value: Tensor, right: Tensor) -> Tensor:
    if value.ndim != right.ndim:
        return value
    corner = tuple(slice(0, min(a, b)) for a, b in zip(value.shape, right.shape, strict=True))
    mended = value.clone()
    with torch.no_grad():
        mended[corner] = right[corner].to(value)
    return mended
