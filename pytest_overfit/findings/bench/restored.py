"""Which module makes a difference between two passages of one clip: what it is given, and what it
gives, are put back to what they are in the other passage, and what is left of it at the output is
weighed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pytest_overfit.network.recorder import Call, shared_corner

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
    times = Counter(call.module for call in calls)
    once = {call.module: call for call in calls if times[call.module] == 1}
    above, left = "", weigh()
    while left > 0:
        made = {name: _made(network, once[name], weigh) for name in _directly_below(above, once)}
        most = max(made, key=lambda name: made[name], default="")
        if not most or made[most] < MUCH * left:
            break
        above, left = most, made[most]
    return above or None


def _directly_below(above: str, names: Collection[str]) -> list[str]:
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
    (given, *_), (gave, *_) = call.inputs, call.outputs
    module = network.get_submodule(call.module)
    with module.register_forward_pre_hook(
        lambda _, args, kwargs: (_with_first(args, given), kwargs), with_kwargs=True
    ):
        behind = weigh()
    with module.register_forward_hook(lambda _, __, result: _with_first((result,), gave)[0]):
        return behind - weigh()


def _with_first(values: tuple[Any, ...], right: Tensor) -> tuple[Any, ...]:
    """Values, of which the first tensor has another's wherever both have some; a tuple is looked into."""
    for place, value in enumerate(values):
        if isinstance(value, tuple) and type(value) is tuple:
            return (*values[:place], _with_first(value, right), *values[place + 1 :])
        if isinstance(value, Tensor) and value.is_floating_point():
            return (*values[:place], _put_right(value, right), *values[place + 1 :])
    return values


def _put_right(value: Tensor, right: Tensor) -> Tensor:
    if value.ndim != right.ndim:
        return value
    corner = shared_corner(value, right)
    mended = value.clone()
    with torch.no_grad():
        mended[corner] = right[corner].to(value)
    return mended
